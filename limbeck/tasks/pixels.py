"""Which classes pixels have and which they are given, as a metric of torchmetrics.

Letters: B samples, C classes, H×W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

__all__ = ["Pixels"]


class Pixels(Metric):
    """Counts pixels by label and answer, (C, C), and adds up their cross-entropy."""

    counts: Tensor
    loss: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(classes, classes).long(), dist_reduce_fx="sum")
        self.add_state("loss", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor, ignored: int) -> None:
        """Count a batch of logits (B, C, H, W) and labels (B, H, W)."""
        classes, counted = len(self.counts), labels != ignored
        losses = F.cross_entropy(logits, labels, ignore_index=ignored, reduction="none")
        self.loss += losses.double().sum()
        pairs = classes * labels[counted] + logits.argmax(1)[counted]
        self.counts += torch.bincount(pairs, minlength=classes**2).view(classes, classes)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return the counts and the loss of all pixels."""
        return self.counts, self.loss
