"""Detection: boxes of objects, each with a class, by detectors of two kinds.

Letters: B samples, C classes, L places or queries, M boxes, N bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.data.drawn import boxed
from limbeck.data.motion import Motion
from limbeck.data.samples import Arrays, Batch, Samples
from limbeck.data.shown import Shown
from limbeck.data.sources.placed import placed
from limbeck.errors import InputError
from limbeck.losses.divergences import binary_kl
from limbeck.losses.spec import exactly
from limbeck.tasks.boxes import Places, kept, overlap, overlaps
from limbeck.tasks.fields import Whole, check_finite, label_of, sample
from limbeck.tasks.queries import Queries
from limbeck.tasks.task import Meter

__all__ = ["Boxes", "Detection"]

_GIOU, _EDGES = 2.0, 0.25  # weights of GFL
_LEAST, _MOST, _NMS = 0.05, 100, 0.6  # score, boxes of a picture, IoU above which one goes
_SAME = 0.5  # IoU from which two boxes are one
_SLACK = 0.5  # pixels by which rounding may put an edge outside


@dataclass(frozen=True)
class Boxes:
    """The boxes of one picture.

    Attributes:
        boxes: (M, 4), x1, y1, x2, y2 in pixels.
        classes: (M,) int64.
        scores: (M,) from 0 to 1, the surest first; of labels, 1.
    """

    boxes: Tensor
    classes: Tensor
    scores: Tensor

    def surer(self, least: float) -> Boxes:
        """Return those with a score of at least ``least``."""
        here = self.scores >= least
        return Boxes(self.boxes[here], self.classes[here], self.scores[here])

    def matched(self, other: Boxes) -> int:
        """Return how many find a box of their class in the other that overlaps by half or more.

        Each box of the other is found once at most.
        """
        alike = overlaps(self.boxes, other.boxes) * (self.classes[:, None] == other.classes)
        taken: set[int] = set()
        for row in alike.tolist():
            free = [(shared, n) for n, shared in enumerate(row) if n not in taken]
            if free and max(free)[0] >= _SAME:
                taken.add(max(free)[1])
        return len(taken)


@dataclass(frozen=True)
class Detection(Whole):
    """Boxes of objects in pictures, each of one class out of ``classes``.

    A batch is a mapping with the pictures, boxes and classes. There are two kinds of answers, told
    apart by their last dimension; teacher and student need not be of one kind.

    **Place by place**, as :func:`limbeck.students.zoo.detector` answers: logits (B, L, C + 4·N), at
    each place those of C classes, each a yes or no by itself, then those of the N bins of the
    distance from the place to a box's edge: left, up, right, down, 0 to N − 1 strides. Places are
    the middles of the cells of grids, one for each of the ``strides``, the finest first, row by
    row.

    **A set of boxes**, as DETR and its descendants answer: logits (B, L, C + 4) or (B, L, C + 5),
    at each query those of the classes and a box as shares of the picture; how, and their label
    loss, says :class:`limbeck.tasks.queries.Queries`.

    The label loss of places is that of GFL: the quality focal loss of the classes (β = 2, with the
    IoU of the predicted box as the label), 2 · (1 − generalised IoU) and ¼ of the focal loss of the
    distributions. Which places answer for a box is chosen as in FCOS
    (:class:`limbeck.tasks.boxes.Places`). It is the mean over samples of each sample's sum over its
    places, divided by the number (or for boxes the summed scores) of those that answer for a box.

    Metrics, 0 to 1: ``box_map`` (average precision, the mean over classes and over IoU of 0.5,
    0.55, ..., 0.95), ``box_map_50`` (at IoU 0.5), ``box_recall`` (the mean over classes and those
    IoU of the share of boxes found among 100), as COCO defines them; and ``loss``. They need the
    extra ``limbeck[detection]``.

    A store of this task's answers keeps all of them. Methods that fit: ``detection`` and ``ld`` of
    places, ``set_detection`` of sets, ``fgd``, ``fitnets``. Those that compare logits as one
    distribution over classes are refused. With ``knowledge.produce`` a student learns the boxes
    that the teacher finds in the place of the labels, whatever the kinds of the two.

    Attributes:
        classes: C.
        image: (height, width) of the pictures, in pixels.
        labels: the classes' names; their numbers if left out.
        strides: of the places, in pixels.
        bins: N.
        sure: the score from which a box is an answer: it is shown, and taken for a label.
        input_names: the name of the pictures, (B, 3, H, W).
        target_name: of the boxes, (B, M, 4), x1, y1, x2, y2 in pixels; rows of zeros fill up. A
            picture with NaN among them has no labels (as with ``data.labelled``): it adds nothing
            to the label loss, which stays a mean over B.
        class_name: of the boxes' classes, (B, M) int64; −1 fills up.

    Source: Li et al. 2020, "Generalized Focal Loss", arXiv:2006.04388.

    >>> task = Detection(3, (32, 32))
    >>> batch = {"inputs": torch.zeros(1, 3, 32, 32), "targets": torch.tensor([[[4.0, 4, 20, 30]]]),
    ...          "classes": torch.tensor([[2]])}
    >>> task.places(batch).middles.shape, task.label_loss(torch.zeros(1, 80, 39), batch).shape
    (torch.Size([80, 2]), torch.Size([]))
    """

    classes: int
    image: Sequence[int]
    labels: Sequence[str] = ()
    strides: Sequence[int] = (4, 8)
    bins: int = 9
    sure: float = 0.3
    input_names: str | tuple[str, ...] = "inputs"
    target_name: str = "targets"
    class_name: str = "classes"
    name: str = "detection"
    selection: str = "box_map"
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        if self.classes < 1 or (self.labels and len(self.labels) != self.classes):
            raise InputError(
                f"{self.classes} classes with {len(self.labels)} names",
                expected="at least one class, and a name for each or none",
            )
        if len(self.image) != 2 or self.bins < 2 or list(self.strides) != sorted(set(self.strides)):
            raise InputError(
                f"pictures of {list(self.image)}, {self.bins} bins, strides {list(self.strides)}",
                expected="a height and a width, at least 2 bins, and rising strides",
            )
        if not 0 < self.sure < 1:
            raise InputError(f"sure is {self.sure}", expected="above 0 and below 1")

    def named(self, batch: Any) -> Batch:
        named = super().named(batch)
        if "classes" not in named:
            if self.class_name not in named:
                raise InputError(
                    f"a batch with {', '.join(named)}",
                    expected=f"a mapping with the boxes' classes as {self.class_name!r}",
                    remedy="The sources coco and digit_scenes give them with "
                    "data.args.targets=boxes.",
                )
            named["classes"] = named.pop(self.class_name)
        return named

    def places(self, batch: Batch) -> Places:
        """Return the places at which a detector answers."""
        return Places.of(self.image, self.strides, self.targets(batch).device)

    def label_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return self.label_losses(logits, batch).mean()

    def label_losses(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each sample, (B,) float32."""
        with exactly(logits.device.type):
            return self._losses(logits.float(), batch)

    def boxes(self, logits: Tensor) -> list[Boxes]:
        """Return what a detector found in each picture: at most 100 boxes with a score above 0.05.

        Of boxes of a class that overlap by more than 0.6 the surest stays.
        """
        classes, found = self._read(logits.float())
        scores, order = classes.flatten(1).topk(min(_MOST, classes[0].numel()), dim=1)
        rows, numbers = order // self.classes, order % self.classes
        boxes = found.gather(1, rows[..., None].expand(-1, -1, 4))
        stays = kept(boxes, numbers, _NMS) & (scores >= _LEAST)
        triples = zip(boxes, numbers, scores, stays, strict=True)
        return [Boxes(box[here], n[here], s[here]) for box, n, s, here in triples]

    def truth(self, batch: Batch) -> list[Boxes]:
        """Return the labels of each picture."""
        pairs = zip(self.targets(batch), batch["classes"], strict=True)
        return [
            Boxes(boxes[n >= 0], n[n >= 0], torch.ones_like(n[n >= 0]).float())
            for boxes, n in pairs
        ]

    def over_classes(self, logits: Tensor) -> Tensor:
        raise InputError(
            "a method that compares logits as distributions over classes; a detector's hold the "
            "edges of boxes too",
            expected="the method detection, or matches of 'output[classes]' and 'output[edges]'; "
            "set_detection for detectors that answer with sets",
        )

    def labelled(self, batch: Batch) -> None:
        return None

    def check(self, batch: Batch) -> None:
        boxes, classes, inputs = self.targets(batch), batch["classes"], self.inputs(batch)
        if boxes.ndim != 3 or boxes.shape[2] != 4 or not boxes.is_floating_point():
            raise InputError(
                f"targets of type {boxes.dtype} and shape {tuple(boxes.shape)}",
                expected="(B, M, 4): boxes as x1, y1, x2, y2 in pixels",
            )
        if classes.shape != boxes.shape[:2] or tuple(inputs.shape[2:]) != tuple(self.image):
            raise InputError(
                f"boxes {tuple(boxes.shape)}, classes {tuple(classes.shape)} and pictures "
                f"{tuple(inputs.shape)}",
                expected=f"a class for each box, and pictures of {self.image[0]}×{self.image[1]}",
            )
        edge = boxes.new_tensor([self.image[1], self.image[0]]) + _SLACK
        corners = boxes.unflatten(-1, (2, 2))
        low, high = corners.unbind(2)
        real = classes >= 0
        outside = ((low < -_SLACK) | (high > edge) | (high <= low)).any(-1) & real
        wrong = outside | (classes >= self.classes) | torch.isinf(boxes).any(-1)
        if wrong.any():
            row, place = wrong.nonzero()[0].tolist()
            found = ", ".join(f"{value:g}" for value in boxes[row, place].tolist())
            raise InputError(
                f"{sample(batch, row)} has a box {found} of class {int(classes[row, place])}",
                expected=f"x1 < x2 ≤ {self.image[1]}, y1 < y2 ≤ {self.image[0]}, and class 0 to "
                f"{self.classes - 1}",
                consequence="The loss would have no minimum.",
            )
        check_finite(inputs, batch)

    def check_logits(self, logits: Tensor, whose: str) -> None:
        if self._queries.fit(logits):
            return
        places = len(Places.of(self.image, self.strides, torch.device("cpu")).strides)
        wanted = (places, self.classes + 4 * self.bins)
        if logits.ndim != 3 or tuple(logits.shape[1:]) != wanted:
            raise InputError(
                f"the {whose}'s logits have the shape {tuple(logits.shape)}",
                expected=f"(B, {wanted[0]}, {wanted[1]}): the places of strides "
                f"{list(self.strides)}, {self.classes} classes and 4 · {self.bins} bins; or "
                f"(B, L, {self.classes + 4}) or (B, L, {self.classes + 5}), a set of boxes",
                remedy=f"Build the {whose} with these classes, strides and bins, or change "
                "task.strides and task.bins.",
            )

    def meter(self) -> Meter:
        from limbeck.tasks.precision import BoxMeter  # torchmetrics takes a second to import

        return BoxMeter(self)

    def moved(self, batch: Batch, motion: Motion) -> Batch:
        """Return the batch with boxes where the pixels have gone, cut at the picture's edges."""
        before = self.targets(batch)
        boxes, there = motion.of_boxes(before)
        boxes = torch.where(
            torch.isnan(before), before, boxes
        )  # a picture without labels stays one
        return batch | {"targets": boxes, "classes": batch["classes"].masked_fill(~there, -1)}

    def alike(self, logits: Tensor, other: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return to what share both find the same boxes, and how far their classes are apart.

        The first is twice the number of boxes that both find (of one class, with an IoU of at least
        0.5), over the number of boxes of both, of those that are ``sure``. The second is
        the sum over places and classes of KL(other ‖ logits), each class a yes or no; NaN if one of
        the two answers with a set, which has no places.
        """
        pairs = zip(self.boxes(logits), self.boxes(other), strict=True)
        same = [_agreement(one.surer(self.sure), two.surer(self.sure)) for one, two in pairs]
        agreement = torch.tensor(same, device=logits.device)
        if self._queries.fit(logits) or self._queries.fit(other):
            return agreement, torch.full_like(agreement, torch.nan)
        divergence = binary_kl(self._parts(logits)[0], self._parts(other)[0], reduction="none")
        return agreement, divergence.sum(1)

    def apart(self, logits: Tensor, other: Tensor, batch: Batch) -> Tensor:
        """Return to what share the two find other boxes."""
        return 1 - self.alike(logits, other, batch)[0]

    def told(self, logits: Tensor, batch: Batch, row: int) -> dict[str, Any]:
        """Return the classes of the boxes that are sure; right if all match."""
        found = self.boxes(logits[row : row + 1])[0].surer(self.sure)
        wanted = self.truth(batch)[row]
        count = found.matched(wanted)
        return {
            "answer": self._listed(found),
            "right": count == len(found.classes) == len(wanted.classes),
            "shares": [],
        }

    def wanted(self, batch: Batch, row: int) -> str:
        return self._listed(self.truth(batch)[row])

    def drawn(self, logits: Tensor | None, batch: Batch, row: int) -> Shown:
        found = self.truth(batch)[row]
        if logits is not None:
            found = self.boxes(logits[row : row + 1])[0].surer(self.sure)
        names = [
            label_of(self.labels, number) + ("" if logits is None else f" {score:.0%}")
            for number, score in zip(found.classes.tolist(), found.scores.tolist(), strict=True)
        ]
        picture = self.inputs(batch)[row]
        return boxed(picture, found.boxes.cpu(), found.classes.tolist(), names, self._listed(found))

    @cached_property
    def _queries(self) -> Queries:
        return Queries(self.classes, self.image)

    def _read(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores of classes, (B, L, C), and boxes in the picture, (B, L, 4), in pixels."""
        if self._queries.fit(logits):
            return self._queries.scores(logits), self._limited(self._queries.boxes(logits))
        classes, edges = self._parts(logits)
        places = Places.of(self.image, self.strides, logits.device)
        return classes.sigmoid(), self._limited(places.boxes(_expected(edges)))

    def _parts(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of classes, (B, L, C), and of edges, (B, L, 4, N)."""
        edges = logits[..., self.classes :].unflatten(-1, (4, self.bins))
        return logits[..., : self.classes], edges

    def _limited(self, boxes: Tensor) -> Tensor:
        """Return boxes cut at the picture's edges."""
        down, across = self.image
        edge = boxes.new_tensor([across, down, across, down])
        return torch.minimum(boxes.clamp(min=0), edge)

    def _losses(self, logits: Tensor, batch: Batch) -> Tensor:
        known = ~torch.isnan(self.targets(batch)).flatten(1).any(1)
        boxes, numbers = self.targets(batch).float().nan_to_num(0.0), batch["classes"]
        if self._queries.fit(logits):
            return known * self._queries.losses(logits, boxes, numbers)
        places = self.places(batch)
        classes, edges = self._parts(logits)
        answers, which = places.assigned(boxes)
        wanted = boxes.gather(1, which[..., None].expand(-1, -1, 4))
        number = numbers.gather(1, which).clamp(min=0)
        shared, general = overlap(places.boxes(_expected(edges)), wanted)
        quality = torch.zeros_like(classes)
        quality.scatter_(2, number[..., None], (shared.detach() * answers)[..., None])
        focal = _quality_focal(classes, quality).sum((1, 2)) / answers.sum(1).clamp(min=1)
        weight = classes.detach().sigmoid().amax(2) * answers
        distances = places.distances(wanted).clamp(min=0, max=self.bins - 1 - 1e-3)
        parts = _GIOU * (1 - general) + _EDGES * _distribution_focal(edges, distances)
        return known * (focal + (weight * parts).sum(1) / weight.sum(1).clamp(min=1e-6))

    def as_labels(self, logits: Tensor, batch: Batch) -> list[list[list[float]]]:
        """Return the sure boxes of each picture: x1, y1, x2, y2 in pixels, and the class."""
        found = [each.surer(self.sure) for each in self.boxes(logits)]
        rows = [torch.cat([each.boxes, each.classes[:, None]], dim=1) for each in found]
        return [row.tolist() for row in rows]

    def relabelled(self, samples: Samples, labels: Sequence[Any]) -> Samples:
        if not isinstance(samples, Arrays):
            raise InputError(
                f"samples of type {type(samples).__name__}", expected="pictures in memory"
            )
        named = {self.target_name: "targets", self.class_name: "classes"}
        made = placed(samples.ids, samples.column("inputs"), labels, kind="boxes").fields
        fields = {name: made[named.get(name, name)] for name in samples.fields if name in named}
        return replace(samples, fields={**samples.fields, **fields})

    def _listed(self, found: Boxes) -> str:
        return ", ".join(label_of(self.labels, n) for n in found.classes.tolist()) or "nothing"


def _expected(edges: Tensor) -> Tensor:
    """Return the mean distance of each edge, (B, L, 4), in strides."""
    bins = torch.arange(edges.shape[-1], device=edges.device, dtype=edges.dtype)
    return edges.softmax(-1) @ bins


def _quality_focal(classes: Tensor, quality: Tensor) -> Tensor:
    """Return |y − σ|² · cross-entropy with the quality y as the label, (B, L, C)."""
    losses = F.binary_cross_entropy_with_logits(classes, quality, reduction="none")
    return losses * (quality - classes.sigmoid()).square()


def _distribution_focal(edges: Tensor, distances: Tensor) -> Tensor:
    """Return the cross-entropy with the two bins nearest to each distance, mean of four, (B, L)."""
    low = distances.floor()
    share = (distances - low)[..., None]
    log_p = edges.log_softmax(-1)
    below, above = (log_p.gather(-1, (low + more).long()[..., None]) for more in (0, 1))
    return -((1 - share) * below + share * above).squeeze(-1).mean(-1)


def _agreement(one: Boxes, other: Boxes) -> float:
    count = len(one.classes) + len(other.classes)
    return 2 * one.matched(other) / count if count else 1.0
