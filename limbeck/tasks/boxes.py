"""Boxes: their overlaps, which of several to keep, which places of a detector answer for which.

Letters: B samples, N and M boxes, L places, K strides. Boxes are x1, y1, x2, y2 in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.losses.matching import overlap, overlaps

__all__ = ["Places", "kept", "overlap", "overlaps"]

_RADIUS = 1.5  # strides from a box's middle within which places answer for it (FCOS)
_REACH = 8.0  # strides: the longest side of boxes for which a level answers (FCOS)


def kept(boxes: Tensor, classes: Tensor, most: float) -> Tensor:
    """Return which boxes stay when of those of a class that overlap the surest is kept.

    Args:
        boxes: (B, N, 4), the surest first.
        classes: (B, N).
        most: IoU above which the less sure box goes.

    Returns:
        (B, N), true where a box stays.

    >>> boxes = torch.tensor([[[0.0, 0, 4, 4], [0.0, 0, 4, 5], [0.0, 0, 4, 4]]])
    >>> kept(boxes, torch.tensor([[1, 1, 2]]), 0.5).tolist()
    [[True, False, True]]
    """
    rivals = (overlaps(boxes, boxes) > most) & (classes[:, :, None] == classes[:, None, :])
    stays = torch.ones(classes.shape, dtype=torch.bool, device=boxes.device)
    for place in range(boxes.shape[1] - 1):
        beaten = rivals[:, place, place + 1 :] & stays[:, place, None]
        stays[:, place + 1 :] &= ~beaten
    return stays


@dataclass(frozen=True)
class Places:
    """The places at which a detector answers: the middles of the cells of each level's grid.

    Attributes:
        middles: (L, 2), across and down, in pixels.
        strides: (L,), the side of the cells, in pixels.
    """

    middles: Tensor
    strides: Tensor

    @classmethod
    def of(cls, size: Sequence[int], strides: Sequence[int], device: torch.device) -> Places:
        """Return those of pictures of height and width ``size``, the finest level first.

        >>> Places.of((8, 16), (4, 8), torch.device("cpu")).middles[:3].tolist()
        [[2.0, 2.0], [6.0, 2.0], [10.0, 2.0]]
        """
        middles, sides = [], []
        for stride in strides:
            down, across = (
                (torch.arange(-(-length // stride), device=device) + 0.5) * stride
                for length in size
            )
            grid = torch.cartesian_prod(down, across).flip(1)
            middles.append(grid)
            sides.append(torch.full((len(grid),), float(stride), device=device))
        return cls(torch.cat(middles), torch.cat(sides))

    def boxes(self, distances: Tensor) -> Tensor:
        """Return boxes (B, L, 4) of distances in strides: left, up, right, down of the middles."""
        steps = distances * self.strides[:, None]
        return torch.cat([self.middles - steps[..., :2], self.middles + steps[..., 2:]], dim=-1)

    def distances(self, boxes: Tensor) -> Tensor:
        """Return how far the edges of boxes (B, L, 4) are from the middles, in strides."""
        apart = torch.cat([self.middles - boxes[..., :2], boxes[..., 2:] - self.middles], dim=-1)
        return apart / self.strides[:, None]

    def assigned(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return for which box each place answers.

        A box belongs to the finest level whose cells, eight in a row, are as long as it, or to the
        coarsest. Those places of its level answer for it that lie in it and at most one and a half
        strides from its middle, across and down; that in whose cell its middle is, in any case. Of
        several boxes a place answers for the smallest.

        Args:
            boxes: (B, N, 4) with N of at least 1; those with x2 ≤ x1 are padding.

        Returns:
            Whether a place answers for a box, (B, L), and which, (B, L).

        Source: after Tian et al. 2019, "FCOS", arXiv:1904.01355, with the size of a box in the
        place of the distances to its edges.
        """
        sides = boxes[..., 2:] - boxes[..., :2]
        centres, area = (boxes[..., 2:] + boxes[..., :2]) / 2, sides.prod(-1)
        known = self.strides.unique()
        wanted = torch.searchsorted(_REACH * known, sides.amax(-1)).clamp(max=len(known) - 1)
        level = known[wanted][:, None] == self.strides[:, None]
        off = (self.middles[:, None] - centres[:, None]).abs().amax(-1) / self.strides[:, None]
        low, high = (
            self.middles[:, None] - boxes[:, None, :, :2],
            boxes[:, None, :, 2:] - self.middles[:, None],
        )
        inside = torch.minimum(low, high).amin(-1) > 0
        answers = level & ((inside & (off < _RADIUS)) | (off <= 0.5))
        answers &= (sides.amin(-1) > 0)[:, None]
        size, which = torch.where(answers, area[:, None], torch.inf).min(-1)
        return size < torch.inf, which
