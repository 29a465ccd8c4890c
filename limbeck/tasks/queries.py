"""Detectors that answer with a set of boxes: what they say, and their loss against labels.

Letters: B samples, Q queries, C classes, M boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.losses.detectors import paired
from limbeck.losses.matching import cheapest, corners, overlap

__all__ = ["Queries"]

_DISTANCE, _SHARED = 5.0, 2.0  # weights of DETR, of costs and losses
_NOTHING = 0.1  # of a query that is to see nothing, in DETR's softmax
_SINGLE = 2.0  # of the classes, where each is a yes or no (Deformable DETR)
_ALPHA, _EPS = 0.25, 1e-8  # of the focal loss


@dataclass(frozen=True)
class Queries:
    """Answers (B, Q, K + 4): K numbers for the classes, then a box as shares of the picture.

    K is C, each class a yes or no, or C + 1, a softmax whose last class is no object. A box is
    given by its middle, width and height.

    Attributes:
        classes: C.
        image: (height, width) of the pictures, in pixels.
    """

    classes: int
    image: Sequence[int]

    def fit(self, logits: Tensor) -> bool:
        """Say whether answers are of this kind, by their last dimension."""
        return logits.ndim == 3 and logits.shape[2] - self.classes in (4, 5)

    def scores(self, logits: Tensor) -> Tensor:
        """Return the probability of each class, (B, Q, C)."""
        found = logits[..., :-4]
        return found.sigmoid() if self._single(logits) else found.softmax(-1)[..., :-1]

    def boxes(self, logits: Tensor) -> Tensor:
        """Return the boxes, (B, Q, 4), x1, y1, x2, y2 in pixels."""
        return corners(logits[..., -4:]) * self._size(logits)

    def losses(self, logits: Tensor, boxes: Tensor, numbers: Tensor) -> Tensor:
        """Return the loss of each sample against its labels, (B,).

        Each box is told to the query to which that costs least, all others see nothing. The loss of
        a sample is 5 · L1 + 2 · (1 − generalised IoU), both divided by the number of its boxes, and
        the cross-entropy of its queries, of which those that see nothing weigh a tenth; or, where
        classes are a yes or no each, twice the focal loss divided by the number of its boxes.
        Decoder layers before the last are not taught.

        Args:
            logits: (B, Q, K + 4), float32.
            boxes: (B, M, 4), x1, y1, x2, y2 in pixels.
            numbers: (B, M) the boxes' classes, −1 where there is none.

        Sources: Carion et al. 2020, "End-to-End Object Detection with Transformers",
        arXiv:2005.12872; Zhu et al. 2021, "Deformable DETR", arXiv:2010.04159.
        """
        wanted = _middles(boxes / self._size(logits))
        which = self._told(logits.detach(), wanted, numbers)
        told, which = which >= 0, which.clamp(min=0)
        box, number = paired(wanted, which), numbers.gather(1, which).clamp(min=0)
        count = (numbers >= 0).sum(1).clamp(min=1)
        found = logits[..., -4:]
        away = _DISTANCE * (found - box).abs().sum(-1)
        away = away + _SHARED * (1 - overlap(corners(found), corners(box))[1])
        return (
            self._of_classes(logits[..., :-4], told, number, count) + (told * away).sum(1) / count
        )

    def _single(self, logits: Tensor) -> bool:
        return logits.shape[2] == self.classes + 4

    def _size(self, like: Tensor) -> Tensor:
        down, across = self.image
        return like.new_tensor([across, down, across, down])

    @torch.no_grad()
    def _told(self, logits: Tensor, wanted: Tensor, numbers: Tensor) -> Tensor:
        """Return which box each query is told, (B, Q) int64; −1 is none."""
        boxes, labels = logits[..., -4:], numbers.clamp(min=0)
        apart = torch.cdist(boxes, wanted, p=1)
        alike = overlap(corners(boxes)[:, :, None], corners(wanted)[:, None])[1]
        classes = self._costs(logits).gather(2, labels[:, None].expand(-1, logits.shape[1], -1))
        costs = classes + _DISTANCE * apart - _SHARED * alike
        told = torch.full(logits.shape[:2], -1, dtype=torch.int64, device=logits.device)
        for row, number in enumerate(numbers):
            there = (number >= 0).nonzero().squeeze(1)
            queries, boxes_of = cheapest(costs[row][:, there])
            told[row, queries] = there[boxes_of]
        return told

    def _costs(self, logits: Tensor) -> Tensor:
        """Return what it costs a query to be told a class, (B, Q, C)."""
        p = self.scores(logits)
        if not self._single(logits):
            return -p
        yes = _ALPHA * (1 - p).square() * -(p + _EPS).log()
        no = (1 - _ALPHA) * p.square() * -(1 - p + _EPS).log()
        return _SINGLE * (yes - no)

    def _of_classes(self, scores: Tensor, told: Tensor, number: Tensor, count: Tensor) -> Tensor:
        """Return the loss of the classes, (B,), for logits (B, Q, K)."""
        if scores.shape[2] > self.classes:
            labels = torch.where(told, number, self.classes)
            losses = F.cross_entropy(scores.transpose(1, 2), labels, reduction="none")
            weights = torch.where(told, 1.0, _NOTHING)
            return (weights * losses).sum(1) / weights.sum(1)
        right = F.one_hot(number, self.classes) * told[..., None]
        losses = F.binary_cross_entropy_with_logits(scores, right.float(), reduction="none")
        p = scores.sigmoid()
        off = torch.where(right > 0, 1 - p, p)
        weights = torch.where(right > 0, _ALPHA, 1 - _ALPHA)
        return _SINGLE * (weights * off.square() * losses).sum((1, 2)) / count


def _middles(boxes: Tensor) -> Tensor:
    """Return boxes x1, y1, x2, y2 as middle, width and height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)
