"""How well pictures find their captions, and captions their pictures, as a metric of torchmetrics.

Letters: B samples in a batch, N samples, C different captions, D features, Q that ask at once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

__all__ = ["PairRecall"]

_ASKING = 1024  # rows of similarities at once
_RANKS = (1, 5)


class PairRecall(Metric):
    """Pictures ask the different captions of a set, and these ask all pictures, by cosine.

    :meth:`compute` returns (2, 3), for pictures and for captions: how many had a right answer as
    the nearest, how many among the five nearest, and how many asked. A wrong answer that is as near
    as the right one stands before it. A sample with the label −1 is left out.
    """

    embeddings: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("embeddings", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, embeddings: Tensor, labels: Tensor) -> None:
        """Keep one batch: embeddings of pictures and texts (B, 2, D), and labels (B,)."""
        keep = labels >= 0
        self.embeddings.append(F.normalize(embeddings.float(), dim=2)[keep])
        self.labels.append(labels[keep])

    def compute(self) -> Tensor:
        """Return the counts over all samples."""
        if not self.labels:
            return torch.zeros(2, 3, dtype=torch.float64)
        both, labels = dim_zero_cat(self.embeddings), dim_zero_cat(self.labels)
        if not len(labels):
            return torch.zeros(2, 3, dtype=torch.float64, device=both.device)
        captions, which = labels.unique(return_inverse=True)
        # Equal captions have equal embeddings: any of them stands for all.
        texts = both.new_empty(len(captions), both.shape[2]).index_copy_(0, which, both[:, 1])
        images = both[:, 0]
        return torch.stack(
            [_found(images, labels, texts, captions), _found(texts, captions, images, labels)]
        )


def _found(asking: Tensor, wanted: Tensor, asked: Tensor, labels: Tensor) -> Tensor:
    """Return the counts (3,) of rows that ask for a label among rows that have one each."""
    counts = torch.zeros(3, dtype=torch.float64, device=asking.device)
    for part, label in zip(asking.split(_ASKING), wanted.split(_ASKING), strict=True):
        near = part @ asked.T
        right = label.unsqueeze(1) == labels
        best = near.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
        before = ((near >= best) & ~right).sum(dim=1)
        hits = [(before < rank).sum() for rank in _RANKS]
        counts += torch.stack([*hits, torch.full_like(hits[0], len(part))])
    return counts
