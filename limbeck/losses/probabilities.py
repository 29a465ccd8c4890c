"""What losses of logits share: softened probabilities, and sums that stay finite.

Letters: C classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses.spec import comparable

__all__ = ["REMEDY", "divergence", "log_probabilities", "require_positive", "where_positive"]

REMEDY = "Give both models the same number of classes, or compare features instead."


def log_probabilities(
    student: Tensor, teacher: Tensor, temperature: float, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the student's and the teacher's log-softmax (..., C) at ``temperature``."""
    require_positive(temperature)
    student, teacher = comparable(student, teacher, mask, remedy=REMEDY)
    return F.log_softmax(student / temperature, -1), F.log_softmax(teacher / temperature, -1)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(p ‖ q) over the last dimension; where p is 0, q may be 0 too."""
    return where_positive(log_p.exp(), log_p - log_q).sum(-1)


def where_positive(p: Tensor, values: Tensor) -> Tensor:
    """Return p·values, and 0 where p is 0 even if the value there is infinite or NaN."""
    positive = p > 0
    return p * torch.where(positive, values, torch.zeros((), dtype=p.dtype, device=p.device))


def require_positive(temperature: float, name: str = "temperature") -> None:
    """Refuse a temperature of 0 or below."""
    if isinstance(temperature, (int, float)) and temperature <= 0:
        raise InputError(f"{name} is {temperature}", expected="a number above 0")
