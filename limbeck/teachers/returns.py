"""What another framework's model answers, turned into logits.

Letters: B samples, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from limbeck.errors import InputError, unknown

__all__ = ["Kind", "Returns"]

Kind = Literal["logits", "probabilities", "values"]

_SUM = 0.01  # by how much a row of probabilities, perhaps in half precision, may miss 1


@dataclass(frozen=True)
class Returns:
    """What a model answers, and how it becomes logits.

    - ``logits``: (B, C), taken as they are. A single column, (B,) or (B, 1), is the log-odds z of
      class 1 of two, and becomes (0, z).
    - ``probabilities``: (B, C), become log max(p, ``clip``). A single column is the probability of
      class 1 of two. Logits are defined up to a constant: at temperature 1 the softmax gives back
      exactly the probabilities, except where they were below ``clip``.
    - ``values``: any shape, taken as they are: for regression, ratings and the like.

    A forest is often sure: p = 0. At temperature T a clipped probability c weighs c^(1/T): 1e-7 is
    0.018 of the largest class at T = 4, and 0.0003 at T = 2.

    Attributes:
        kind: ``logits``, ``probabilities`` or ``values``.
        clip: the smallest probability, above 0 and below 1.

    Raises:
        InputError: the answer is not what it is said to be.

    >>> Returns("probabilities")(torch.tensor([[0.25, 0.75]])).softmax(dim=1)
    tensor([[0.2500, 0.7500]])
    >>> Returns("logits")(torch.tensor([2.0]))
    tensor([[0., 2.]])
    """

    kind: Kind = "logits"
    clip: float = 1e-7

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise unknown("returns", str(self.kind), get_args(Kind))
        if not 0 < self.clip < 1:
            raise InputError(f"clip is {self.clip}", expected="a number above 0 and below 1")

    def __call__(self, answer: Tensor) -> Tensor:
        """Return the logits of a model's answer."""
        if self.kind == "values":
            return answer
        column = answer.unsqueeze(1) if answer.ndim == 1 else answer
        if column.shape[-1] == 1:
            odds = column if self.kind == "logits" else self._log_odds(column)
            return torch.cat([torch.zeros_like(odds), odds], dim=-1)
        if self.kind == "logits":
            _refuse_probabilities(column)
            return column
        _check(column)
        return column.clamp(min=self.clip).log()

    def _log_odds(self, column: Tensor) -> Tensor:
        _check(torch.cat([1 - column, column], dim=-1))
        clipped = column.double().clamp(self.clip, 1 - self.clip)
        return torch.logit(clipped).to(column.dtype)


def _are_probabilities(rows: Tensor) -> bool:
    within = bool((rows >= -_SUM).all()) and bool((rows <= 1 + _SUM).all())
    return within and bool(((rows.sum(-1) - 1).abs() <= _SUM).all())


def _check(rows: Tensor) -> None:
    if not _are_probabilities(rows):
        low, high = float(rows.min()), float(rows.max())
        raise InputError(
            f"the teacher's probabilities lie from {low:.3g} to {high:.3g}, and its first row adds "
            f"up to {float(rows[0].sum()):.3g}",
            expected="numbers from 0 to 1 that add up to 1 for each sample",
            remedy="If they are logits: returns='logits'.",
        )


def _refuse_probabilities(rows: Tensor) -> None:
    """Refuse logits that every sample's row shows to be probabilities."""
    if len(rows) and _are_probabilities(rows):
        raise InputError(
            "the teacher's logits lie from 0 to 1 and add up to 1 for each sample",
            expected="logits",
            consequence="Probabilities taken for logits are nearly the same for all classes: the "
            "student would learn next to nothing from them.",
            remedy="Say what they are: returns='probabilities'.",
        )
