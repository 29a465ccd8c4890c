"""Rows of tokens for language models: blocks of a stream, answers to prompts, packed ones.

The target of a place is the token at the next one; −100 where none is to be predicted.

Letters: N rows, T places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from limbeck.data.jagged import IGNORED, Jagged
from limbeck.data.language_tokenizer import LanguageTokenizer
from limbeck.data.samples import Arrays
from limbeck.data.shown import Shown
from limbeck.errors import InputError

__all__ = ["answers", "blocks", "counted", "packed", "rows_of"]


def blocks(tokens: LanguageTokenizer, texts: Sequence[str], asked: int) -> Arrays:
    """Return texts as blocks of one stream of tokens; what does not fill the last is left out.

    Args:
        tokens: its ``length`` is T.
        texts: one after another, each with the end's token.
        asked: how many tokens of a block a person is shown, as the beginning to go on from.

    Raises:
        InputError: the texts do not fill one block.
    """
    stream, length = tokens.stream(texts), tokens.length
    count = (len(stream) - 1) // length
    if not 0 < asked < length:
        raise InputError(
            f"{asked} tokens of a block of {length} as the prompt", expected="some, and not all"
        )
    if count < 1:
        raise InputError(
            f"texts of {len(stream)} tokens",
            expected=f"more than {length}, for one block at least",
            remedy="Give more text, or set data.args.length lower.",
        )
    inputs = stream[: count * length].view(count, length)
    targets = stream[1 : count * length + 1].view(count, length)
    made = Arrays.of(inputs={"input_ids": inputs}, targets=targets)
    return replace(made, show=_Beginnings(tokens, inputs[:, :asked]))


def answers(tokens: LanguageTokenizer, rows: Sequence[Sequence[Mapping[str, str]]]) -> Arrays:
    """Return conversations as rows of unequal length, whose targets are what assistants say.

    Longer ones are cut at their end; those of which no target is left are left out.

    Raises:
        InputError: none has a target within ``tokens.length``.
    """
    found = [tokens.answered(row) for row in rows]
    return rows_of(tokens, found, list(range(len(found))))


def rows_of(
    tokens: LanguageTokenizer,
    found: Sequence[tuple[Sequence[int], Sequence[bool]]],
    ids: Sequence[int],
) -> Arrays:
    """Return tokens as rows of unequal length.

    Args:
        tokens: the tokenizer that made them.
        found: for each row its tokens, and which of them are to be predicted.
        ids: of the rows.

    Raises:
        InputError: no row has a target within ``tokens.length``.
    """
    inputs, targets, kept = [], [], []
    for number, (row, own) in zip(ids, found, strict=True):
        pairs = zip(row[1 : tokens.length + 1], own[1 : tokens.length + 1], strict=True)
        wanted = [token if counts else IGNORED for token, counts in pairs]
        if any(token != IGNORED for token in wanted):
            inputs.append(row[: len(wanted)])
            targets.append(wanted)
            kept.append(number)
    if not kept:
        raise InputError(
            f"no answer begins within the first {tokens.length} tokens of its row",
            expected="room for a prompt and at least the beginning of its answer",
            remedy="Set data.args.length higher.",
        )
    origin = tokens.fingerprint()
    made = Arrays.of(
        torch.tensor(kept),
        inputs=Jagged.of(inputs, padding=tokens.padding, origin=origin),
        targets=Jagged.of(targets, padding=IGNORED, names=(), origin=origin),
    )
    return replace(made, show=_Prompts(tokens, made.fields["inputs"], made.fields["targets"], kept))


def packed(samples: Arrays, tokens: LanguageTokenizer) -> Arrays:
    """Return rows of unequal length in rows of T places, several in each, in their order.

    Positions begin anew with each sample, by which models of ``transformers`` know that it does not
    see those before it.
    """
    length = tokens.length
    inputs, targets = samples.fields["inputs"], samples.fields["targets"]
    bins: list[list[int]] = [[]]
    room = length
    for row, size in enumerate(inputs.lengths.tolist()):
        if size > room:
            bins.append([])
            room = length
        bins[-1].append(row)
        room -= size
    ids = torch.full((len(bins), length), tokens.padding)
    wanted = torch.full((len(bins), length), IGNORED)
    places = torch.zeros(len(bins), length, dtype=torch.int64)
    for number, rows in enumerate(bins):
        begin = 0
        for row in rows:
            own, theirs = _row(inputs, row), _row(targets, row)
            part = slice(begin, begin + len(own))
            ids[number, part], wanted[number, part] = own, theirs
            places[number, part] = torch.arange(len(own))
            begin += len(own)
        places[number, begin:] = torch.arange(length - begin)
    made = Arrays.of(inputs={"input_ids": ids, "position_ids": places}, targets=wanted)
    return replace(made, show=_Beginnings(tokens, ids))


def counted(rows: Sequence[tuple[Tensor, Tensor]], padding: int) -> dict[str, Any]:
    """Return a batch of prompts and what was written after them, without targets.

    Args:
        rows: for each its prompt and what was written, both (T,).
        padding: the token at the end of shorter rows.

    Returns:
        ``inputs``; ``targets``, (B, T), all −100; ``counted``, (B, T), true at each place whose
        next token was written.

    >>> found = counted([(torch.tensor([5, 6]), torch.tensor([7, 8]))], 0)
    >>> found["inputs"]["input_ids"].tolist(), found["counted"].tolist()
    ([[5, 6, 7]], [[False, True, True]])
    """
    whole = [torch.cat(pair)[:-1] for pair in rows]
    ids = pad_sequence(whole, batch_first=True, padding_value=padding)
    places = torch.arange(ids.shape[1], device=ids.device)
    sizes = ids.new_tensor([len(row) for row in whole]).unsqueeze(1)
    begins = ids.new_tensor([len(prompt) - 1 for prompt, _ in rows]).unsqueeze(1)
    there = places < sizes
    return {
        "inputs": {"input_ids": ids, "attention_mask": there.long()},
        "targets": torch.full_like(ids, IGNORED),
        "counted": there & (places >= begins),
    }


@dataclass(frozen=True, eq=False)
class _Beginnings:
    """Shows the beginning of a block."""

    tokens: LanguageTokenizer
    rows: Tensor

    def __call__(self, number: int) -> Shown:
        return {"kind": "text", "text": self.tokens.decode(self.rows[number])}


@dataclass(frozen=True, eq=False)
class _Prompts:
    """Shows what stands before the first target of a row."""

    tokens: LanguageTokenizer
    inputs: Jagged
    targets: Jagged
    ids: Sequence[int]

    def __call__(self, number: int) -> Shown:
        row = self.ids.index(number)
        first = int((_row(self.targets, row) != IGNORED).nonzero()[0])
        return {"kind": "text", "text": self.tokens.decode(_row(self.inputs, row)[: first + 1])}


def _row(rows: Jagged, number: int) -> Any:
    return rows.values[rows.offsets[number] : rows.offsets[number + 1]].long()
