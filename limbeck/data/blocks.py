"""Rows of tokens for language models: blocks of a stream, answers to prompts, packed ones.

The target of a place is the token at the next one; −100 where none is to be predicted.

Letters: N rows, T places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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

__all__ = [
    "TEACHER_INPUTS",
    "TEACHER_TARGETS",
    "answers",
    "answers_again",
    "blocks",
    "blocks_again",
    "counted",
    "packed",
    "rows_of",
]

TEACHER_INPUTS = "teacher_inputs"
"""What a teacher with other tokens reads of the same texts."""
TEACHER_TARGETS = "teacher_targets"
"""What such a teacher is to predict: at each place its next token, −100 where none is wanted."""


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


def blocks_again(
    samples: Arrays, own: LanguageTokenizer, other: LanguageTokenizer, texts: Sequence[str]
) -> Arrays:
    """Return blocks with what a teacher with other tokens reads of the same texts.

    Its rows begin where the student's do, and end with the same character; they differ in length.

    Args:
        samples: that :func:`blocks` made of the texts.
        own: the tokenizer that made them.
        other: the teacher's.
        texts: the same ones.

    Raises:
        InputError: a block is fewer than two of the teacher's tokens.
    """
    spans = list(_spans(own, texts, len(samples)))
    flat = [piece for span in spans for piece in span]
    told = iter(other.model(flat, add_special_tokens=False, verbose=False)["input_ids"])
    rows = []
    for span in spans:
        row = [token for _ in span for token in (*next(told), other.end)]
        rows.append(row[:-1])  # the last piece goes on in the next block
    if min(map(len, rows)) < 2:
        raise InputError(
            f"{own.length} tokens of the student's that are {min(map(len, rows))} of the teacher's",
            expected="two at least, for one to be predicted",
            remedy="Set data.args.length higher.",
        )
    return _with_teacher(samples, [(row[:-1], row[1:]) for row in rows], other)


def answers_again(
    samples: Arrays, other: LanguageTokenizer, rows: Sequence[Sequence[Mapping[str, str]]]
) -> Arrays:
    """Return conversations with what a teacher with other tokens reads of them, uncut.

    Args:
        samples: that :func:`answers` made of the rows.
        other: the teacher's tokenizer.
        rows: the conversations.
    """
    found = []
    for number in samples.ids.tolist():
        tokens, own = other.answered(rows[number])
        pairs = zip(tokens[1:], own[1:], strict=True)
        found.append((tokens[:-1], [token if counts else IGNORED for token, counts in pairs]))
    return _with_teacher(samples, found, other)


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


def counted(
    rows: Sequence[tuple[Tensor, Tensor]], padding: int, likelihoods: Sequence[Tensor] = ()
) -> dict[str, Any]:
    """Return a batch of prompts and what was written after them, without targets.

    Args:
        rows: for each its prompt and what was written, both (T,).
        padding: the token at the end of shorter rows.
        likelihoods: for each, the logarithm of the probability with which each token was drawn, as
            long as what was written; none if that is not known.

    Returns:
        ``inputs``; ``targets``, (B, T), all −100; ``counted``, (B, T), true at each place whose
        next token was written; with likelihoods ``written``, that token, and ``likelihood``, both
        (B, T), with 0 elsewhere.

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
    counts = there & (places >= begins)
    made = {
        "inputs": {"input_ids": ids, "attention_mask": there.long()},
        "targets": torch.full_like(ids, IGNORED),
        "counted": counts,
    }
    if not likelihoods:
        return made
    # In the order of rows and places, these are the ones that were written.
    wrote = torch.zeros_like(ids)
    wrote[counts] = torch.cat([row for _, row in rows])
    likely = torch.zeros(ids.shape, device=ids.device)
    likely[counts] = torch.cat(list(likelihoods))
    return made | {"written": wrote, "likelihood": likely}


def _with_teacher(
    samples: Arrays,
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
    other: LanguageTokenizer,
) -> Arrays:
    """Return samples with the teacher's inputs and targets, a pair of rows for each."""
    origin = other.fingerprint()
    inputs, targets = zip(*rows, strict=True)
    fields = {
        TEACHER_INPUTS: Jagged.of(inputs, padding=other.padding, origin=origin),
        TEACHER_TARGETS: Jagged.of(targets, padding=IGNORED, names=(), origin=origin),
    }
    return replace(samples, fields={**samples.fields, **fields})


def _spans(tokens: LanguageTokenizer, texts: Sequence[str], count: int) -> Iterator[list[str]]:
    """Yield what each block of a stream, and the token after it, reads as.

    A block with the ends of texts within has several pieces, perhaps empty ones.
    """
    found = tokens.model(
        list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )["offset_mapping"]
    # Where each token ends, as (text, character); the end's token is at the next text's beginning.
    ends = [
        place
        for number, offsets in enumerate(found)
        for place in (*((number, end) for _, end in offsets), (number + 1, 0))
    ]
    length = tokens.length
    for block in range(count):
        first = ends[block * length - 1] if block else (0, 0)
        last = ends[(block + 1) * length]
        yield _between(texts, first, last)


def _between(texts: Sequence[str], first: tuple[int, int], last: tuple[int, int]) -> list[str]:
    """Return the text from one (text, character) to another, in pieces where texts end."""
    if first[0] == last[0]:
        return [texts[first[0]][first[1] : last[1]]]
    whole = [texts[number] for number in range(first[0] + 1, last[0])]
    rest = texts[last[0]][: last[1]] if last[0] < len(texts) else ""
    return [texts[first[0]][first[1] :], *whole, rest]


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
