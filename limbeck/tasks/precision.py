"""Average precision of boxes, as COCO defines it, over batches and processes.

Letters: B samples, M boxes.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torchmetrics import Metric

from limbeck.data.samples import Batch
from limbeck.errors import InputError
from limbeck.imports import needed
from limbeck.tasks.fields import measured
from limbeck.tasks.task import Quality

__all__ = ["BoxMeter"]

_NAMES = {"box_map": 0, "box_map_50": 1, "box_recall": 8}  # and where COCO's summary has them


class _Finding(Protocol):
    """A task whose answers and labels are boxes."""

    def boxes(self, logits: Tensor) -> Any: ...

    def truth(self, batch: Batch) -> Any: ...

    def label_losses(self, logits: Tensor, batch: Batch) -> Tensor: ...


class BoxMeter:
    """Collects what was found and what was there, and compares them at the end.

    Samples of a batch without ``id`` are numbered as they come, which is right in one process only.
    """

    def __init__(self, task: _Finding) -> None:
        self.task = task
        self._rows = _Rows()

    def update(self, logits: Tensor, batch: Batch) -> None:
        self._rows.to(logits.device)
        count = len(logits)
        seen = sum(map(len, self._rows.pictures))
        numbers = batch.get("id", torch.arange(seen, seen + count, device=logits.device))
        found = _joined(numbers, self.task.boxes(logits), logits.device)
        there = _joined(numbers, self.task.truth(batch), logits.device)
        self._rows.update(numbers, found, there, self.task.label_losses(logits, batch))

    def compute(self) -> Quality:
        with measured():
            pictures, found, there, losses = self._rows.compute()
        if not len(pictures) or not len(there):
            raise InputError(
                f"{len(pictures)} pictures with {len(there)} boxes to measure on",
                expected="at least one of each",
            )
        return Quality(_summary(pictures, found, there) | {"loss": float(losses.mean())})


def _joined(numbers: Tensor, found: Any, device: torch.device) -> Tensor:
    """Return the boxes of a batch as rows: picture, class, score, x, y, width, height."""
    rows = [
        torch.cat(
            [
                number.expand(len(each.classes), 1).double(),
                each.classes[:, None].double(),
                each.scores[:, None].double(),
                each.boxes[:, :2].double(),
                (each.boxes[:, 2:] - each.boxes[:, :2]).double(),
            ],
            dim=1,
        )
        for number, each in zip(numbers, found, strict=True)
    ]
    return torch.cat(rows) if rows else torch.zeros(0, 7, dtype=torch.float64, device=device)


def _summary(pictures: Tensor, found: Tensor, there: Tensor) -> dict[str, float]:
    library = needed("faster_coco_eval", "detection")
    classes = sorted({int(row[1]) for rows in (found, there) for row in rows.tolist()})
    truth = library.COCO(
        {
            "images": [{"id": int(number)} for number in pictures.unique()],
            "categories": [{"id": number, "name": str(number)} for number in classes],
            "annotations": [
                entry | {"id": number, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0}
                for number, entry in enumerate(map(_entry, there.tolist()), 1)
            ],
        }
    )
    if not len(found):
        return dict.fromkeys(_NAMES, 0.0)
    answers = truth.loadRes([_entry(row) | {"score": row[2]} for row in found.tolist()])
    judged = library.COCOeval_faster(truth, answers, "bbox")
    judged.run()
    return {name: float(judged.stats[place]) for name, place in _NAMES.items()}


def _entry(row: list[float]) -> dict[str, Any]:
    return {"image_id": int(row[0]), "category_id": int(row[1]), "bbox": row[3:]}


class _Rows(Metric):
    """The rows of all batches, gathered from all processes."""

    pictures: list[Tensor]
    found: list[Tensor]
    there: list[Tensor]
    losses: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("pictures", "found", "there", "losses"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, pictures: Tensor, found: Tensor, there: Tensor, losses: Tensor) -> None:
        """Keep the rows of one batch."""
        self.pictures.append(pictures)
        self.found.append(found)
        self.there.append(there)
        self.losses.append(losses)

    def compute(self) -> tuple[Tensor, ...]:
        """Return all rows."""
        kinds = (self.pictures, self.found, self.there, self.losses)
        return tuple(_all(rows) for rows in kinds)


def _all(rows: Any) -> Tensor:
    """Return rows as one tensor; after gathering they are one already."""
    if isinstance(rows, Tensor):
        return rows
    return torch.cat(rows) if rows else torch.zeros(0, 7)
