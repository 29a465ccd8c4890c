"""How much one model answers like another.

Letters: B samples, T tokens, C classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

__all__ = ["Fidelity"]


class Fidelity(Metric):
    """Agreement with a reference, and divergence from it.

    :meth:`result` gives ``agreement``, the share of samples (or tokens) for which both have the
    same most likely class, and ``kl``, the mean KL(reference ‖ model) in nats at temperature 1
    (Stanton et al. 2021, arXiv:2106.05945, measure fidelity so).

    >>> same = Fidelity()
    >>> same.update(torch.eye(2), torch.eye(2), None)
    >>> same.result()
    {'agreement': 1.0, 'kl': 0.0}
    """

    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, reference: Tensor, mask: Tensor | None) -> None:
        """Count one batch of logits, (B, C) or (B, T, C) with a mask (B, T)."""
        keep = torch.ones(logits.shape[:-1], device=logits.device) if mask is None else mask
        log_q, log_p = F.log_softmax(logits.float(), -1), F.log_softmax(reference.float(), -1)
        divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
        same = logits.argmax(-1) == reference.argmax(-1)
        parts = [keep.sum(), (same * keep).sum(), (divergence * keep).sum()]
        self.sums += torch.stack([part.double() for part in parts])

    def compute(self) -> Tensor:
        """Return the count, the number of agreements and the summed divergence."""
        return self.sums

    def result(self) -> dict[str, float]:
        """Return both measures by name."""
        count, agreements, divergence = self.compute().tolist()
        return {"agreement": agreements / count, "kl": divergence / count}
