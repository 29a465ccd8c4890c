"""Metrics that torchmetrics lacks, as torchmetrics.

Letters: B samples, C classes, K bins.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

__all__ = ["BinaryCrossEntropy", "CrossEntropy", "Reliability"]


class _Mean(Metric):
    """The mean over samples of a loss."""

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count one batch."""
        self.total += self.summed(logits, labels)
        self.count += len(labels)

    def compute(self) -> Tensor:
        """Return the mean so far."""
        return self.total / self.count

    def summed(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of the samples' losses."""
        raise NotImplementedError


class BinaryCrossEntropy(_Mean):
    """Mean over samples of the summed binary cross-entropies of logits (B, C), in nats.

    Labels are (B, C) of zeros and ones.
    """

    def summed(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="sum")


class CrossEntropy(_Mean):
    """Mean cross-entropy of logits (B, C) with labels (B,), in nats."""

    def summed(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="sum")


class Reliability(Metric):
    """Confidence against accuracy, in equal bins of confidence.

    :meth:`compute` returns (K, 3): in each bin the number of samples, the sum of their confidences
    and the number that were right.
    """

    sums: Tensor

    def __init__(self, bins: int = 15) -> None:
        super().__init__()
        self.bins = bins
        self.add_state("sums", torch.zeros(bins, 3, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count one batch."""
        confidence, answer = logits.softmax(dim=1).max(dim=1)
        place = (confidence * self.bins).ceil().long().clamp_(1, self.bins) - 1
        rows = torch.stack([torch.ones_like(confidence), confidence, answer == labels], dim=1)
        self.sums.index_add_(0, place, rows.double())

    def compute(self) -> Tensor:
        """Return the sums so far."""
        return self.sums
