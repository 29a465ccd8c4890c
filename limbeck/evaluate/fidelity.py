"""How much one model answers like another.

Letters: B samples, T tokens, C classes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

__all__ = ["Fidelity", "alike"]


class Fidelity(Metric):
    """Agreement with a reference, and divergence from it.

    :meth:`result` gives ``agreement``, the share of samples (or tokens) for which both have the
    same most likely class, and ``kl``, the mean KL(reference ‖ model) in nats at temperature 1
    (Stanton et al. 2021, arXiv:2106.05945, measure fidelity so); ``None`` where a divergence of two
    answers is NaN, which says that they have none.

    >>> same = Fidelity()
    >>> same.update(*alike(torch.eye(2), torch.eye(2)))
    >>> same.result()
    {'agreement': 1.0, 'kl': 0.0}
    """

    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, same: Tensor, divergence: Tensor, mask: Tensor | None = None) -> None:
        """Count one batch: what :func:`alike` says about it, and which tokens count, (B, T)."""
        keep = torch.ones_like(divergence) if mask is None else mask
        parts = [keep.sum(), (same * keep).sum(), (divergence * keep).sum()]
        self.sums += torch.stack([part.double() for part in parts])

    def compute(self) -> Tensor:
        """Return the count, the number of agreements and the summed divergence."""
        return self.sums

    def result(self) -> dict[str, Any]:
        """Return both measures by name."""
        count, agreements, divergence = self.compute().tolist()
        known = not math.isnan(divergence)
        return {"agreement": agreements / count, "kl": divergence / count if known else None}


def alike(logits: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Return whether the same class is the likeliest, and KL(reference ‖ logits) in nats.

    Args:
        logits: (B, C) or (B, T, C).
        reference: logits of the same shape.

    Returns:
        Two tensors (B,) or (B, T).
    """
    log_q, log_p = F.log_softmax(logits.float(), -1), F.log_softmax(reference.float(), -1)
    divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    return logits.argmax(-1) == reference.argmax(-1), divergence
