"""What losses of logits share: softened probabilities, and sums that stay finite.

Letters: C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses.spec import comparable

__all__ = [
    "REMEDY",
    "divergence",
    "kept_rows",
    "log_probabilities",
    "require_positive",
    "where_positive",
]

REMEDY = "Give both models the same number of classes, or compare features instead."


def log_probabilities(
    student: Tensor, teacher: Tensor, temperature: float, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the student's and the teacher's log-softmax (..., C) at ``temperature``."""
    require_positive(temperature)
    student, teacher = comparable(student, teacher, mask, remedy=REMEDY)
    return (student / temperature).log_softmax(-1), (teacher / temperature).log_softmax(-1)


def kept_rows(mask: Tensor | None, logits: Tensor) -> Tensor | None:
    """Return which rows (N,), samples or tokens, a mask keeps."""
    if mask is not None and mask.shape != logits.shape[:-1]:
        raise InputError(
            f"a mask of shape {tuple(mask.shape)} came with logits of shape {tuple(logits.shape)}",
            expected="one mask entry per sample or token",
        )
    return None if mask is None else mask.bool().flatten()


def divergence(log_p: Tensor, log_q: Tensor, factor: float | Tensor = 1.0) -> Tensor:
    """Return factor·KL(p ‖ q) over the last dimension; where p is 0, q may be 0 too."""
    if log_p.requires_grad or isinstance(factor, Tensor):
        return factor * where_positive(log_p.exp(), log_p - log_q).sum(-1)
    # Without a gradient of p it is quicker to make all differences finite: p is 0 where it matters.
    # The gradient of q is p in any case, and does not see the change.
    least = -torch.finfo(log_p.dtype).max / 4
    difference = log_q - log_p.clamp_min(least)
    difference.detach().clamp_min_(least)
    return (log_p.exp().mul_(-factor) * difference).sum(-1)


def where_positive(p: Tensor, values: Tensor) -> Tensor:
    """Return p·values, and 0 where p is 0 even if the value there is infinite or NaN."""
    positive = p > 0
    return p * torch.where(positive, values, torch.zeros((), dtype=p.dtype, device=p.device))


def require_positive(temperature: float, name: str = "temperature") -> None:
    """Refuse a temperature of 0 or below."""
    if isinstance(temperature, (int, float)) and temperature <= 0:
        raise InputError(f"{name} is {temperature}", expected="a number above 0")
