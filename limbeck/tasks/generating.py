"""Letting a language model write, by ``generate`` of ``transformers``.

Letters: B prompts, T tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.data.jagged import IGNORED
from limbeck.data.samples import seeded
from limbeck.errors import InputError
from limbeck.imports import needed

__all__ = ["draw", "prompts", "write"]


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
    draws = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    how: dict[str, Any] = draws if temperature else {"do_sample": False}
    written = _generated(model, _Asked.of(asked, length, padding), end, padding, seed, **how)
    return [written[row, :size] for row, size in enumerate(_sizes(written, asked, length, end))]


def draw(
    model: nn.Module,
    asked: Sequence[Tensor],
    *,
    length: int,
    end: int,
    padding: int,
    temperature: float = 1.0,
    seed: int = 0,
    teacher: nn.Module | None = None,
    share: float = 0.0,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return what a language model draws after prompts, and how likely each token was.

    A teacher may write along: each token is then drawn from ``share`` of its distribution and the
    rest of the model's (Gu et al. 2023, arXiv:2306.08543, teacher-mixed sampling).

    Args:
        model: of ``transformers``, in eval mode.
        asked: prompts, (B,) of (T,).
        length: of a prompt and what is written, at most.
        end: the token at which a text ends.
        padding: the token that fills up shorter rows.
        temperature: of the model's distribution.
        seed: of the draws.
        teacher: of ``transformers``, with the same tokens.
        share: the teacher's, from 0 to below 1.

    Returns:
        Tokens, (B,) of (T,), the end's included, and as long the logarithms of the probabilities
        with which they were drawn.

    Raises:
        InputError: a model cannot write.
    """
    begins = _Asked.of(asked, length, padding)
    beside = teacher if share else None
    if beside is not None:
        _check_writer(beside)
    drawn = _Mixed(temperature, beside, share, begins.mask)
    draws = {"do_sample": True, "top_k": 0, "top_p": 1.0, "logits_processor": [drawn]}
    written = _generated(model, begins, end, padding, seed, **draws)
    likely = drawn.likelihoods(written)
    sizes = _sizes(written, asked, length, end)
    return (
        [written[row, :size] for row, size in enumerate(sizes)],
        [likely[row, :size] for row, size in enumerate(sizes)],
    )


@dataclass(frozen=True)
class _Asked:
    """Prompts padded at their beginnings.

    Attributes:
        ids: (B, T).
        mask: (B, T), 0 where they are padded.
        room: how many tokens may be written at most.
    """

    ids: Tensor
    mask: Tensor
    room: int

    @classmethod
    def of(cls, asked: Sequence[Tensor], length: int, padding: int) -> _Asked:
        longest = max(map(len, asked))
        rows = [torch.cat([row.new_full((longest - len(row),), padding), row]) for row in asked]
        fill = torch.tensor([longest - len(row) for row in asked], device=rows[0].device)
        mask = torch.arange(longest, device=fill.device) >= fill.unsqueeze(1)
        return cls(torch.stack(rows), mask.long(), max(1, length - min(map(len, asked))))


class _Mixed:
    """Makes the distributions from which tokens are drawn, and remembers what was drawn.

    Args:
        temperature: of the writing model.
        teacher: writes along, or ``None``.
        share: the teacher's.
        mask: of the prompts, (B, T).
    """

    def __init__(
        self, temperature: float, teacher: nn.Module | None, share: float, mask: Tensor
    ) -> None:
        self.temperature, self.teacher, self.share = temperature, teacher, share
        self.mask, self.cache = mask, None
        self.last: Tensor | None = None
        self.found: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the logarithms of the next tokens' probabilities, (B, V)."""
        self._remember(input_ids[:, -1])
        chosen = F.log_softmax(scores.float() / self.temperature, -1)
        if self.teacher is not None:
            theirs = F.log_softmax(self._theirs(input_ids), -1) + math.log(self.share)
            chosen = torch.logaddexp(theirs, chosen + math.log1p(-self.share))
        self.last = chosen
        return chosen

    def likelihoods(self, written: Tensor) -> Tensor:
        """Return the logarithm of the probability of each token, (B, T)."""
        self._remember(written[:, -1])
        return torch.stack(self.found, 1)

    def _remember(self, tokens: Tensor) -> None:
        if self.last is not None:
            self.found.append(self.last.gather(1, tokens.unsqueeze(1)).squeeze(1))

    def _theirs(self, input_ids: Tensor) -> Tensor:
        assert self.teacher is not None
        new = input_ids if self.cache is None else input_ids[:, -1:]
        more = input_ids.shape[1] - self.mask.shape[1]
        self.mask = F.pad(self.mask, (0, more), value=1)
        places = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -new.shape[1] :]
        said = self.teacher(
            input_ids=new,
            attention_mask=self.mask,
            position_ids=places,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache = said.past_key_values
        last: Tensor = said.logits[:, -1].float()
        return last


def _check_writer(model: nn.Module) -> None:
    if not isinstance(model, needed("transformers", "text").GenerationMixin):
        raise InputError(
            f"a {type(model).__name__} cannot write",
            expected="a language model of transformers, which has generate()",
            remedy="Build it with huggingface and head: causal_lm.",
        )


@torch.no_grad()
def _generated(
    model: nn.Module, asked: _Asked, end: int, padding: int, seed: int, **how: Any
) -> Tensor:
    """Return what is written after prompts, (B, T)."""
    _check_writer(model)
    with seeded(seed):
        written: Tensor = model.generate(  # type: ignore[operator]
            input_ids=asked.ids,
            attention_mask=asked.mask,
            max_new_tokens=asked.room,
            eos_token_id=end,
            pad_token_id=padding,
            use_cache=True,
            **how,
        )
    return written[:, asked.ids.shape[1] :]


def _sizes(written: Tensor, asked: Sequence[Tensor], length: int, end: int) -> list[int]:
    """Return how many tokens of each row count: up to the end's, and to the length."""
    sizes = []
    for row, prompt in zip(written, asked, strict=True):
        ends = (row == end).nonzero()
        until = int(ends[0]) + 1 if len(ends) else len(row)
        sizes.append(max(1, min(until, length - len(prompt))))
    return sizes
