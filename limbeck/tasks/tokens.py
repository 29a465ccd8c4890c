"""What is counted of predicted tokens, as a metric of torchmetrics.

Letters: B sequences, T places, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from limbeck.data.jagged import IGNORED

__all__ = ["Tokens"]

_AT_ONCE = 4096  # places whose logits are widened to float32 at a time


class Tokens(Metric):
    """Sums over places that count: cross-entropy in nats, right answers, and how many there are.

    >>> sums = Tokens()
    >>> sums.update(torch.zeros(1, 2, 4), torch.tensor([[0, -100]]))
    >>> sums.compute().tolist()[1:]
    [1.0, 1.0]
    """

    sums: Tensor

    def __init__(self, ignored: int = IGNORED) -> None:
        super().__init__()
        self.ignored = ignored
        self.add_state("sums", torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count one batch: logits (B, T, V), targets (B, T)."""
        parts = logits.flatten(0, 1).split(_AT_ONCE), targets.flatten().split(_AT_ONCE)
        for some, wanted in zip(*parts, strict=True):
            keep = wanted != self.ignored
            losses = F.cross_entropy(
                some.float(), wanted, ignore_index=self.ignored, reduction="none"
            )
            found = [losses.double().sum(), ((some.argmax(-1) == wanted) & keep).sum(), keep.sum()]
            self.sums += torch.stack([each.double() for each in found])

    def compute(self) -> Tensor:
        """Return the three sums."""
        return self.sums
