"""Recommendation: of all items there are, the one that a person takes next.

Letters: B persons, T items of a history, N items there are, S items seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor

from limbeck.data.samples import Batch, cut
from limbeck.errors import InputError
from limbeck.tasks.around import Around
from limbeck.tasks.classification import Classification
from limbeck.tasks.fields import label_of, mask_in, measured, sample
from limbeck.tasks.task import Meter, Quality

__all__ = ["Recommendation"]

_MOST = 10  # how many items of a list count
_TOLD = 5  # how many of them a person is shown


@final
@dataclass(frozen=True)
class Recommendation(Around):
    """The next item of each history, among all N (sequential recommendation).

    A batch has ``inputs``, a mapping of ``input_ids`` and ``attention_mask``, (B, T) int64, in the
    order of time, N where a history is shorter than others; and ``targets``, the items that came
    next, (B,) int64 from 0 to N − 1, or −1 for a sample without one. A field ``seen``, (B, S), has
    all items before it, N as padding, if those are more than the model reads. Logits are scores
    (B, N); the label loss is the cross-entropy over all items, a mean over B.

    Metrics, by the rank of the right item among **all** others (no drawn ones):
    ``hit_rate_at_10``, the share of persons whose next item is among the first ten; ``ndcg_at_10``,
    the mean of 1 / log₂(rank + 1), which counts as 0 after the tenth; ``mrr``, the mean of
    1 / rank; ``loss``, the cross-entropy in nats. How alike two models are is the share of their
    first ten items that they have in common.

    Attributes:
        classes: N.
        labels: the items' names; their numbers if left out.
        exclude_seen: whether items that a person has had are left out of the list, as is usual
            where nobody takes an item twice. Where people do, and may be reminded, say false: an
            item that is taken again counts as missed otherwise.

    >>> task = Recommendation(3)
    >>> batch = task.named(({"input_ids": torch.tensor([[2]]), "attention_mask": torch.ones(1, 1)},
    ...                     torch.tensor([1])))
    >>> meter = task.meter()
    >>> meter.update(torch.tensor([[1.0, 2.0, 3.0]]), batch)
    >>> meter.compute().metrics["mrr"]  # item 2, which scores highest, was seen
    1.0
    """

    classes: int
    labels: Sequence[str] = ()
    exclude_seen: bool = True
    name: str = "recommendation"
    selection: str = "ndcg_at_10"

    @property
    def headings(self) -> tuple[str, str]:
        return "Had before, the latest first", "Came next"

    def inner(self) -> Classification:
        """Return the task that says everything about labels."""
        return self._plain

    def tokens(self, batch: Batch) -> Tensor | None:
        return self._plain.tokens(batch)

    def label_losses(self, logits: Tensor, batch: Batch) -> Tensor:
        return self._plain.label_losses(logits, batch)

    def check(self, batch: Batch) -> None:
        self._plain.check(batch)
        inputs = self.inputs(batch)
        ids, mask = mask_in(inputs, "input_ids"), mask_in(inputs, "attention_mask")
        if ids is None or mask is None:
            raise InputError(
                "inputs without input_ids or attention_mask",
                expected="histories of items, (B, T) int64 each",
            )
        wrong = (ids < 0) | (ids > self.classes) | ((ids == self.classes) & mask.bool())
        if wrong.any():
            row, place = wrong.nonzero()[0].tolist()
            raise InputError(
                f"{sample(batch, row)} has item {int(ids[row, place])} in its history",
                expected=f"0 to {self.classes - 1}: {self.classes} items",
                consequence="Foreign memory would be read.",
            )
        empty = mask.sum(dim=1) == 0
        if empty.any():
            row = int(empty.nonzero()[0])
            raise InputError(f"{sample(batch, row)} has no history", expected="an item or more")

    def meter(self) -> Meter:
        return _Meter(self)

    def apart(self, logits: Tensor, other: Tensor, batch: Batch) -> Tensor:
        """Return the share of the first ten items that only one of two lists has, (B,)."""
        return 1 - self._common(logits, other, batch)

    def alike(self, logits: Tensor, other: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the share of the first ten items in common, and KL(other ‖ logits) in nats."""
        log_q, log_p = logits.float().log_softmax(1), other.float().log_softmax(1)
        divergence = (log_p.exp() * (log_p - log_q)).sum(dim=1)
        return self._common(logits, other, batch), divergence

    def told(self, logits: Tensor, batch: Batch, row: int) -> dict[str, Any]:
        only = slice(row, row + 1)
        scores = self.eligible(logits[only], cut(batch, only))[0]
        shares, items = scores.softmax(0).topk(min(_TOLD, self.classes))
        names = [label_of(self.labels, item) for item in items.tolist()]
        own = scores[self.targets(batch)[row]]
        place = 1 + int((scores > own).sum())
        return {
            "answer": names[0],
            "right": place <= _MOST and bool(own > -torch.inf),
            "note": f"right one at {place:,}",
            "shares": [list(pair) for pair in zip(names, shares.tolist(), strict=True)],
        }

    def wanted(self, batch: Batch, row: int) -> str:
        return label_of(self.labels, int(self.targets(batch)[row]))

    def eligible(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return scores (B, N) float32, −∞ for items that are left out of the list."""
        scores = logits.float()
        if not self.exclude_seen:
            return scores
        seen = batch["seen"] if "seen" in batch else self.inputs(batch)["input_ids"]
        seen = torch.where(seen == self.classes, seen[:, :1], seen)  # padding repeats the first
        return scores.scatter(1, seen, -torch.inf)

    def _common(self, logits: Tensor, other: Tensor, batch: Batch) -> Tensor:
        most = min(_MOST, self.classes)
        one, two = (self.eligible(each, batch).topk(most).indices for each in (logits, other))
        return (one.unsqueeze(2) == two.unsqueeze(1)).any(dim=2).float().mean(dim=1)

    @cached_property
    def _plain(self) -> Classification:
        return Classification(self.classes, self.labels)


class _Meter:
    def __init__(self, task: Recommendation) -> None:
        from limbeck.tasks.calibration import CrossEntropy  # torchmetrics takes a second to import
        from limbeck.tasks.ranks import Ranks

        self.task, self._ranks, self._loss = task, Ranks(_MOST), CrossEntropy()

    def update(self, logits: Tensor, batch: Batch) -> None:
        if logits.device != self._ranks.device:
            self._ranks.to(logits.device)
            self._loss.to(logits.device)
        targets = self.task.targets(batch)
        self._ranks.update(self.task.eligible(logits, batch), targets)
        self._loss.update(logits.float(), targets)

    def compute(self) -> Quality:
        with measured():
            hits, gains, reciprocals, count = self._ranks.compute().tolist()
            loss = float(self._loss.compute())
        if count == 0:
            raise InputError("there were no histories to measure on")
        means = {"hit_rate_at_10": hits / count, "ndcg_at_10": gains / count}
        return Quality({**means, "mrr": reciprocals / count, "loss": loss})
