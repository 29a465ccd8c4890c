"""Where models rank the one item that was wanted, as a metric of torchmetrics.

Letters: B lists, N items, R ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["Ranks"]


class Ranks(Metric):
    """Sums over lists of what a rank is worth, the first rank being 1.

    :meth:`compute` returns (4,): the sum of hits among the first ``most``, of their discounted
    gains 1 / log₂(rank + 1), of reciprocal ranks, and how many lists there were. Among items with
    equal scores the order is open: each gets the mean over all orders (McSherry, Najork 2008,
    "Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied
    Scores"), so that a model that gives every item the same score is as good as chance.

    >>> ranks = Ranks(most=2)
    >>> ranks.update(torch.tensor([[3., 2., 1.]]), torch.tensor([1]))
    >>> ranks.compute()[:3]  # the second of three: a hit, 1 / log₂ 3, 1 / 2
    tensor([1.0000, 0.6309, 0.5000], dtype=torch.float64)
    """

    sums: Tensor

    def __init__(self, most: int = 10) -> None:
        super().__init__()
        self.most = most
        self.add_state("sums", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, wanted: Tensor) -> None:
        """Count one batch: scores (B, N), −∞ for what cannot be chosen; items (B,), −1 for none."""
        here = wanted >= 0
        own = scores.gather(1, wanted.clamp(min=0).unsqueeze(1))
        # Summed as int32, which is several times as fast as int64 on a processor.
        above = (scores > own).sum(dim=1, dtype=torch.int32)
        equal = (scores == own).sum(dim=1, dtype=torch.int32)
        lost = own.squeeze(1) == -torch.inf
        worth = self._worth(scores.shape[1], scores.device)
        means = (worth[:, above + equal] - worth[:, above]) / equal
        means = means.masked_fill(lost, 0.0)
        found = torch.cat((means, torch.ones_like(means[:1])))
        self.sums += (found * here).sum(dim=1)

    def compute(self) -> Tensor:
        """Return the sums over all lists."""
        return self.sums

    def _worth(self, count: int, device: torch.device) -> Tensor:
        """Return what the first 0, 1, ... N ranks are worth together, (3, N + 1)."""
        rank = torch.arange(1, count + 1, dtype=torch.float64, device=device)
        near = (rank <= self.most).double()
        each = torch.stack((near, near / (rank + 1).log2(), 1 / rank))
        return torch.cat((each.new_zeros(3, 1), each.cumsum(dim=1)), dim=1)
