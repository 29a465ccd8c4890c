"""How well neighbours share labels, as a metric of torchmetrics.

Letters: N samples, D features, Q samples that ask, R others with the same label.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

__all__ = ["Retrieval"]

_ASKING = 1024  # samples that ask at once: memory is that of so many rows of N similarities


class Retrieval(Metric):
    """Each sample asks all others for the nearest by cosine; neighbours should have its label.

    :meth:`compute` returns (3,): the samples whose nearest has their label, the sum of their
    average precisions among the R nearest, and how many asked (those whose label another one has).
    """

    embeddings: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("embeddings", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, embeddings: Tensor, labels: Tensor) -> None:
        """Keep one batch: embeddings (B, D) and labels (B,), −1 for none."""
        self.embeddings.append(F.normalize(embeddings.float(), dim=1))
        self.labels.append(labels)

    def compute(self) -> Tensor:
        """Return the sums over all samples."""
        unit, labels = dim_zero_cat(self.embeddings), dim_zero_cat(self.labels)
        sums = torch.zeros(3, dtype=torch.float64, device=unit.device)
        for rows in torch.arange(len(labels), device=unit.device).split(_ASKING):
            sums += _asked(unit, labels, rows)
        return sums


def _asked(unit: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
    """Return the three sums for the samples at ``rows``, (Q,)."""
    here = torch.arange(len(rows), device=rows.device)
    same = labels[rows].unsqueeze(1) == labels
    same[here, rows] = False
    same &= (labels[rows] >= 0).unsqueeze(1)
    wanted = same.sum(dim=1)
    most = max(1, int(wanted.max()))
    near = unit[rows] @ unit.T
    near[here, rows] = -torch.inf
    hits = same.gather(1, near.topk(min(most, len(labels)), dim=1).indices).double()
    place = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    precision = hits.cumsum(dim=1) / place
    among = place <= wanted.unsqueeze(1)
    average = (precision * hits * among).sum(dim=1) / wanted.clamp(min=1)
    asks = wanted > 0
    return torch.stack([(hits[:, 0] * asks).sum(), (average * asks).sum(), asks.sum().double()])
