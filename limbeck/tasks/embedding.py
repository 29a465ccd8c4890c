"""Embeddings: a vector for each sample, near those of similar samples.

Letters: B samples, N samples in a set, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.data.samples import Batch
from limbeck.errors import InputError
from limbeck.losses.geometry import unit
from limbeck.losses.spec import exactly
from limbeck.tasks.fields import Whole, mask_in
from limbeck.tasks.task import Meter, Quality

__all__ = ["Embedding"]


@dataclass(frozen=True)
class Embedding(Whole):
    """A vector (B, D) for each sample; samples with the same label are to be each other's nearest.

    Only angles count: vectors are compared by their cosine. Labels (B,) int64 may be intents,
    persons, products; −1 says that there is none. They measure, and train a model that has no
    teacher; a student of embeddings needs none.

    Metrics, each sample of a set asking all others: ``precision_at_1``, the share whose nearest has
    the same label, and ``map_at_r`` (Musgrave et al. 2020, "A Metric Learning Reality Check",
    arXiv:2003.08505), the mean average precision among the R nearest, where R is how many others
    have the label. A sample whose label no other has counts for nothing.

    The label loss is supervised contrastive (Khosla et al. 2020, arXiv:2004.11362, outside the
    logarithm): a mean over B, 0 for a sample without another of its label. It compares the samples
    that go through the model at once, so it is another one when batches are accumulated in parts.

    Attributes:
        temperature: of the label loss.
        input_names: in a mapping, the name of what models are called with.
        target_name: in a mapping, the name of the labels.
        mask_name: in inputs that are a mapping, what says which tokens are no padding, (B, T).

    >>> task = Embedding()
    >>> batch = task.named((torch.zeros(4, 2), torch.tensor([0, 0, 1, 1])))
    >>> meter = task.meter()
    >>> meter.update(torch.tensor([[1., 0], [1, 0.1], [0, 1], [0.1, 1]]), batch)
    >>> meter.compute().metrics
    {'precision_at_1': 1.0, 'map_at_r': 1.0}
    """

    temperature: float = 0.1
    input_names: str | tuple[str, ...] = "inputs"
    target_name: str = "targets"
    mask_name: str = "attention_mask"
    name: str = "embedding"
    selection: str = "precision_at_1"
    higher_is_better: bool = True

    def tokens(self, batch: Batch) -> Tensor | None:
        found = mask_in(self.inputs(batch), self.mask_name)
        return None if found is None else found.bool()

    def label_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        with exactly(logits.device.type):
            alike = _cosines(logits) / self.temperature
            itself = torch.eye(len(alike), dtype=torch.bool, device=alike.device)
            log_shares = F.log_softmax(alike.masked_fill(itself, -torch.inf), dim=1)
            same = _same(self.targets(batch), self.targets(batch)) & ~itself
            near = log_shares.masked_fill(~same, 0.0).sum(dim=1)
            return -(near / same.sum(dim=1).clamp(min=1)).mean()

    def check(self, batch: Batch) -> None:
        labels = self.targets(batch)
        if labels.dtype != torch.int64 or labels.ndim != 1 or bool((labels < -1).any()):
            raise InputError(
                f"labels of type {labels.dtype}, shape {tuple(labels.shape)}, from {labels.min()}",
                expected="one int64 label per sample, from 0 on; or −1, no label",
            )

    def check_logits(self, logits: Tensor, whose: str) -> None:
        if logits.ndim != 2 or logits.shape[1] < 2:
            raise InputError(
                f"the {whose} gives {tuple(logits.shape)}",
                expected="(B, D): a vector for each sample",
                remedy=f"Build the {whose} so that it ends in an embedding.",
            )

    def meter(self) -> Meter:
        return _Meter(self)

    def alike(self, logits: Tensor, other: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return whether both find the same nearest sample in the batch, and |Δ cosine| to all."""
        mine, theirs = _cosines(logits), _cosines(other)
        itself = torch.eye(len(mine), dtype=torch.bool, device=mine.device)
        nearest = [c.masked_fill(itself, -torch.inf).argmax(dim=1) for c in (mine, theirs)]
        return nearest[0] == nearest[1], (mine - theirs).abs().mean(dim=1)


class _Meter:
    def __init__(self, task: Embedding) -> None:
        from limbeck.tasks.retrieval import Retrieval  # torchmetrics takes a second to import

        self.task, self._found = task, Retrieval()

    def update(self, logits: Tensor, batch: Batch) -> None:
        if logits.device != self._found.device:
            self._found.to(logits.device)
        self._found.update(logits, self.task.targets(batch))

    def compute(self) -> Quality:
        first, mean, asked = self._found.compute().tolist()
        if asked == 0:
            raise InputError(
                "no two samples had the same label", expected="samples to measure neighbours on"
            )
        return Quality({"precision_at_1": first / asked, "map_at_r": mean / asked})


def _cosines(embeddings: Tensor) -> Tensor:
    directions = unit(embeddings.float())
    return directions @ directions.T


def _same(labels: Tensor, others: Tensor) -> Tensor:
    return (labels.unsqueeze(1) == others) & (labels >= 0).unsqueeze(1)
