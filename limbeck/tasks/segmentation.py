"""Segmentation: one class out of C for each pixel.

Letters: B samples, C classes, H×W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.data.drawn import coloured
from limbeck.data.motion import Motion
from limbeck.data.samples import Batch
from limbeck.data.shown import Shown
from limbeck.data.splits import UNLABELLED
from limbeck.errors import InputError
from limbeck.losses.spec import exactly
from limbeck.tasks.fields import Fields, check_classes, check_finite, label_of, measured, sample
from limbeck.tasks.task import Meter, Quality

__all__ = ["Segmentation"]

_TOLD = 0.005  # of a picture's pixels: smaller parts of an answer are not put into words


@dataclass(frozen=True)
class Segmentation(Fields):
    """One class out of ``classes`` for each pixel: logits (B, C, H, W), targets (B, H, W).

    Logits of another height and width, those of SegFormer for example, are brought to the targets'
    bilinearly before they are measured. The label loss is the cross-entropy, the mean over all
    pixels but those that are ignored; a label of −1 says that the pixel has none yet (as all of a
    picture have with ``data.labelled``), and adds nothing to that mean. What the teacher says
    counts at every pixel.

    Metrics, 0 to 1: ``mean_iou`` (the mean, over the classes that occur in labels or answers, of
    pixels in both over pixels in either, all samples together; Everingham et al. 2010, "The Pascal
    Visual Object Classes Challenge"), ``pixel_accuracy``; and ``loss``.

    Methods that compare classes (``kd`` and its relatives) compare those of each pixel; the methods
    ``segmentation`` and ``cwd_logits`` compare maps.

    Attributes:
        classes: C.
        labels: the classes' names; their numbers if left out.
        input_names: in a mapping, the name of what models are called with; several names make a
            mapping of named arguments.
        target_name: in a mapping, the name of the labels, (B, H, W) whole numbers from 0 to C − 1.
        ignored: the label of pixels that count for nothing, 255 as is usual.

    >>> task = Segmentation(3)
    >>> batch = task.named((torch.zeros(1, 3, 2, 2), torch.tensor([[[0, 1], [2, 255]]])))
    >>> task.label_loss(torch.zeros(1, 3, 2, 2), batch), int(task.count(batch))
    (tensor(1.0986), 3)
    """

    classes: int
    labels: Sequence[str] = ()
    input_names: str | tuple[str, ...] = "inputs"
    target_name: str = "targets"
    ignored: int = 255
    name: str = "segmentation"
    selection: str = "mean_iou"
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        check_classes(self.classes, self.labels)

    def mask(self, batch: Batch) -> None:
        return None

    def count(self, batch: Batch) -> Tensor:
        return (self.targets(batch) != self.ignored).sum()

    def labelled(self, batch: Batch) -> Tensor:
        labels = self.targets(batch)
        return (labels != self.ignored) & (labels != UNLABELLED)

    def over_classes(self, logits: Tensor) -> Tensor:
        return logits.movedim(1, -1)

    def label_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        with exactly(logits.device.type):
            labels = self.targets(batch).long().masked_fill(~self.labelled(batch), self.ignored)
            summed = F.cross_entropy(
                self._sized(logits, batch), labels, ignore_index=self.ignored, reduction="sum"
            )
            return summed / self.count(batch).clamp(min=1)

    def check(self, batch: Batch) -> None:
        labels, inputs = self.targets(batch), self.inputs(batch)
        if labels.ndim != 3 or labels.is_floating_point():
            raise InputError(
                f"targets of type {labels.dtype} and shape {tuple(labels.shape)}",
                expected="(B, H, W) whole numbers: a class for each pixel",
                remedy="Data with boxes are for the task detection; the sources coco and "
                "digit_scenes give masks with data.args.targets=masks.",
            )
        if isinstance(inputs, Tensor) and inputs.shape[2:] != labels.shape[1:]:
            raise InputError(
                f"masks of {labels.shape[1]}×{labels.shape[2]} for pictures of "
                f"{'×'.join(map(str, inputs.shape[2:]))}",
                expected="a class for each pixel",
            )
        wrong = self.labelled(batch) & ((labels < 0) | (labels >= self.classes))
        if wrong.any():
            row, down, across = wrong.nonzero()[0].tolist()
            raise InputError(
                f"{sample(batch, row)} has label {int(labels[row, down, across])} in row {down}, "
                f"column {across}",
                expected=f"0 to {self.classes - 1}: {self.classes} classes; or {self.ignored}, "
                "ignored, or −1, no label",
                consequence="Training would fail or read foreign memory.",
            )
        check_finite(inputs, batch)

    def check_logits(self, logits: Tensor, whose: str) -> None:
        if logits.ndim != 4 or logits.shape[1] != self.classes:
            raise InputError(
                f"the {whose}'s logits have the shape {tuple(logits.shape)}",
                expected=f"(B, {self.classes}, H, W): the data has {self.classes} classes",
                remedy=f"Build the {whose} with {self.classes} classes for each pixel.",
            )

    def meter(self) -> Meter:
        return _Meter(self)

    def moved(self, batch: Batch, motion: Motion) -> Batch:
        """Return the batch with each label where its pixel has gone; new pixels have none."""
        return batch | {"targets": motion.of_maps(self.targets(batch), self.ignored)}

    def alike(self, logits: Tensor, other: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the share of pixels of the same class, and the mean over pixels of KL."""
        one, two = (self._sized(each, batch) for each in (logits, other))
        log_q, log_p = one.log_softmax(1), two.log_softmax(1)
        divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
        return (one.argmax(1) == two.argmax(1)).float().mean((1, 2)), divergence.mean((1, 2))

    def apart(self, logits: Tensor, other: Tensor, batch: Batch) -> Tensor:
        """Return the share of pixels to which the two give other classes."""
        one, two = (self._sized(each, batch).argmax(1) for each in (logits, other))
        return (one != two).float().mean((1, 2))

    def told(self, logits: Tensor, batch: Batch, row: int) -> dict[str, Any]:
        """Return the classes of an answer, and how much of the picture is right."""
        found, wanted = self._sized(logits, batch)[row].argmax(0), self.targets(batch)[row]
        counts = wanted != self.ignored
        right = float((found == wanted)[counts].float().mean()) if counts.any() else 0.0
        return {
            "answer": f"{self._listed(found)}; {right:.1%} of pixels right",
            "right": None,
            "shares": [],
        }

    def wanted(self, batch: Batch, row: int) -> str:
        return self._listed(self.targets(batch)[row])

    def drawn(self, logits: Tensor | None, batch: Batch, row: int) -> Shown:
        labels = self.targets(batch)[row].long()
        found = labels if logits is None else self._sized(logits, batch)[row].argmax(0)
        shown = torch.where(found == self.ignored, -1, found)
        names = [label_of(self.labels, number) for number in range(self.classes)]
        quiet = [name if name != "background" else "" for name in names]
        return coloured(self.inputs(batch)[row], shown, quiet, self._listed(found))

    def _sized(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return logits in float32, for each pixel of the targets."""
        size = self.targets(batch).shape[1:]
        if logits.shape[2:] == size:
            return logits.float()
        return F.interpolate(logits.float(), (*size,), mode="bilinear", align_corners=False)

    def _listed(self, classes: Tensor) -> str:
        """Return the names of the classes (H, W) that have more than a few pixels."""
        here = classes[classes != self.ignored].long()
        shares = torch.bincount(here, minlength=self.classes) / max(1, classes.numel())
        names = [label_of(self.labels, n) for n in (shares > _TOLD).nonzero().flatten().tolist()]
        return ", ".join(name for name in names if name != "background") or "nothing"


class _Meter:
    def __init__(self, task: Segmentation) -> None:
        from limbeck.tasks.pixels import Pixels  # torchmetrics takes a second to import

        self.task = task
        self._pixels = Pixels(task.classes)

    def update(self, logits: Tensor, batch: Batch) -> None:
        self._pixels.to(logits.device)
        sized = self.task._sized(logits, batch)
        self._pixels.update(sized, self.task.targets(batch).long(), self.task.ignored)

    def compute(self) -> Quality:
        with measured():
            counts, loss = self._pixels.compute()
        total = int(counts.sum())
        if not total:
            raise InputError("there were no samples to measure on")
        both, either = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
        there = either > 0
        shares = both.double() / either.clamp(min=1)
        metrics = {
            "mean_iou": float(shares[there].mean()),
            "pixel_accuracy": int(both.sum()) / total,
            "loss": float(loss) / total,
        }
        names = [label_of(self.task.labels, number) for number in range(self.task.classes)]
        by_class = {
            name: float(share)
            for name, share, here in zip(names, shares, there, strict=True)
            if here
        }
        return Quality(metrics, {"iou": by_class})
