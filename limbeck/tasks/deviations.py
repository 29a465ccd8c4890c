"""How far numbers are from what was wanted, as a metric of torchmetrics.

Letters: B samples, K numbers of an answer.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["Deviations"]


class Deviations(Metric):
    """Root of the mean squared error, mean absolute error, and R², each a mean over K.

    Squares are summed about the mean so far, so that large targets of little variance lose nothing.

    Args:
        numbers: K.

    >>> found = Deviations(1)
    >>> found.update(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [4.0]]))
    >>> [round(value, 4) for value in found.compute().tolist()]
    [1.4142, 1.0, 0.1111]
    """

    count: Tensor
    squared: Tensor
    absolute: Tensor
    mean: Tensor
    spread: Tensor

    def __init__(self, numbers: int) -> None:
        super().__init__()
        zeros = torch.zeros(numbers, dtype=torch.float64)
        self.add_state("count", torch.zeros(1, dtype=torch.float64), dist_reduce_fx="cat")
        for name in ("squared", "absolute", "mean", "spread"):
            self.add_state(name, zeros.clone().unsqueeze(0), dist_reduce_fx="cat")

    def update(self, answers: Tensor, wanted: Tensor) -> None:
        """Count one batch: two (B, K) in the same units."""
        errors = answers - wanted
        self.squared = self.squared + errors.square().sum(dim=0)
        self.absolute = self.absolute + errors.abs().sum(dim=0)
        count, mean = len(wanted), wanted.mean(dim=0)
        spread = (wanted - mean).square().sum(dim=0)
        merged = _merged(
            torch.cat([self.count, self.count.new_tensor([count])]),
            torch.cat([self.mean, mean.unsqueeze(0)]),
            torch.cat([self.spread, spread.unsqueeze(0)]),
        )
        self.count, self.mean, self.spread = (part.unsqueeze(0) for part in merged)

    def compute(self) -> Tensor:
        """Return the three, (3,); NaN before any sample."""
        count, _, spread = _merged(self.count, self.mean, self.spread)
        squared, absolute = self.squared.sum(dim=0), self.absolute.sum(dim=0)
        explained = torch.where(spread > 0, 1 - squared / spread.clamp(min=1e-300), 0.0)
        found = [(squared / count).sqrt(), absolute / count, explained]
        return torch.stack([each.mean() for each in found])


def _merged(counts: Tensor, means: Tensor, spreads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return count, mean (K,) and summed squares about it of several parts together.

    Source: Chan, Golub, LeVeque 1979, "Updating Formulae and a Pairwise Algorithm for Computing
    Sample Variances".
    """
    count = counts.sum()
    mean = (counts.unsqueeze(1) * means).sum(dim=0) / count.clamp(min=1)
    about = counts.unsqueeze(1) * (means - mean).square()
    return count, mean, (spreads + about).sum(dim=0)
