"""Letting a language model write, by ``generate`` of ``transformers``.

Letters: B prompts, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data.jagged import IGNORED
from limbeck.data.samples import seeded
from limbeck.errors import InputError
from limbeck.imports import needed

__all__ = ["prompts", "write"]


def prompts(inputs: Any, targets: Tensor, asked: int) -> list[Tensor]:
    """Return what stands before the first target of each row: what a model is asked, (B,) of (T,).

    Args:
        inputs: a mapping with ``input_ids``, (B, T), padded at the end if at all.
        targets: (B, T), the next token at each place, −100 where none is to be predicted.
        asked: how many tokens are the prompt where the first place has a target already.

    Raises:
        InputError: inputs are none of a language model, or several samples share a row.

    >>> found = prompts({"input_ids": torch.tensor([[5, 6, 7]])}, torch.tensor([[-100, 7, 8]]), 0)
    >>> found[0].tolist()
    [5, 6]
    """
    if not isinstance(inputs, dict) or "input_ids" not in inputs or "position_ids" in inputs:
        named = ", ".join(inputs) if isinstance(inputs, dict) else type(inputs).__name__
        raise InputError(
            f"inputs with {named}",
            expected="input_ids, and one sample in each row",
            consequence="Where a prompt ends could not be told.",
            remedy="Leave data.args.pack out.",
        )
    counts = targets != IGNORED
    first = torch.where(counts.any(1), counts.int().argmax(1), 0)
    sizes = torch.where(first == 0, max(1, asked), first + 1).tolist()
    return [row[:size] for row, size in zip(inputs["input_ids"], sizes, strict=True)]


@torch.no_grad()
def write(
    model: nn.Module,
    asked: Sequence[Tensor],
    *,
    length: int,
    end: int,
    padding: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[Tensor]:
    """Return what a language model writes after prompts, (B,) of (T,), the end's token included.

    Args:
        model: of ``transformers``, in eval mode.
        asked: prompts, (B,) of (T,).
        length: of a prompt and what is written, at most.
        end: the token at which a text ends.
        padding: the token that fills up shorter rows.
        temperature: 0 writes the likeliest token each time; others draw from all tokens.
        seed: of the draws.

    Raises:
        InputError: the model cannot write.
    """
    mixin = needed("transformers", "text").GenerationMixin
    if not isinstance(model, mixin):
        raise InputError(
            f"a {type(model).__name__} cannot write",
            expected="a language model of transformers, which has generate()",
            remedy="Build it with huggingface and head: causal_lm.",
        )
    longest = max(map(len, asked))
    rows = [torch.cat([row.new_full((longest - len(row),), padding), row]) for row in asked]
    fill = torch.tensor([longest - len(row) for row in asked], device=rows[0].device)
    mask = torch.arange(longest, device=fill.device) >= fill.unsqueeze(1)
    room = max(1, length - min(map(len, asked)))
    draws = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    with seeded(seed):
        written = model.generate(
            input_ids=torch.stack(rows),
            attention_mask=mask.long(),
            max_new_tokens=room,
            eos_token_id=end,
            pad_token_id=padding,
            use_cache=True,
            **(draws if temperature else {"do_sample": False}),
        )
    found = []
    for row, prompt in zip(written[:, longest:], asked, strict=True):
        ends = (row == end).nonzero()
        until = int(ends[0]) + 1 if len(ends) else len(row)
        found.append(row[: max(1, min(until, length - len(prompt)))])
    return found
