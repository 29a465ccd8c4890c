"""Where pixels go when a picture is augmented, so that boxes and masks go with them.

Letters: B samples, H×W pixels, N boxes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Motion"]

_KEPT = 0.25  # of a box's area: with less of it in the picture, it is taken for gone


@dataclass(frozen=True)
class Motion:
    """An edge at x comes to lie at scale · x + shift, in each sample's own way, across and down.

    Attributes:
        size: (H, W) of the pictures before and after.
        scale: (B, 2), across and down; −1 where a picture is mirrored.
        shift: (B, 2), in pixels.

    >>> mirrored = Motion((4, 8), torch.tensor([[-1.0, 1.0]]), torch.tensor([[8.0, 0.0]]))
    >>> boxes, there = mirrored.of_boxes(torch.tensor([[[1.0, 0.0, 3.0, 2.0]]]))
    >>> boxes.tolist(), there.tolist()
    ([[[5.0, 0.0, 7.0, 2.0]]], [[True]])
    """

    size: tuple[int, int]
    scale: Tensor
    shift: Tensor

    @classmethod
    def none(cls, size: tuple[int, int], like: Tensor) -> Motion:
        """Return that of an operation which leaves all pixels where they are.

        Args:
            size: of the pictures.
            like: anything of length B, on their device.
        """
        scale = torch.ones(len(like), 2, device=like.device)
        return cls(size, scale, torch.zeros_like(scale))

    def of_maps(self, maps: Tensor, fill: int) -> Tensor:
        """Return maps with a value for each pixel, moved; ``fill`` where nothing came from.

        Args:
            maps: (B, H, W).
            fill: for places outside the picture that was.
        """
        rows, row_there = self._origins(1)
        columns, column_there = self._origins(0)
        samples = torch.arange(len(maps), device=maps.device).view(-1, 1, 1)
        found = maps[samples, rows[:, :, None], columns[:, None, :]]
        return torch.where(row_there[:, :, None] & column_there[:, None, :], found, fill)

    def of_boxes(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes moved and cut at the picture's edges, and which of them are still there.

        Args:
            boxes: (B, N, 4), x1, y1, x2, y2 in pixels; those with x2 ≤ x1 are padding.

        Returns:
            (B, N, 4), zeros where a box is gone or was padding, and (B, N): whether a quarter of it
            at least is in the picture.
        """
        corners = boxes.unflatten(-1, (2, 2))
        placed = corners * self.scale[:, None, None] + self.shift[:, None, None]
        low, high = placed.amin(2), placed.amax(2)
        edge = boxes.new_tensor([self.size[1], self.size[0]])
        low_in, high_in = (torch.minimum(each.clamp(min=0), edge) for each in (low, high))
        real = boxes[..., 2] > boxes[..., 0]
        inside = (high_in - low_in).prod(-1)
        there = real & (inside > 0) & (inside >= _KEPT * (high - low).prod(-1))
        moved = torch.cat([low_in, high_in], dim=-1)
        return moved.masked_fill(~there[..., None], 0.0), there

    def _origins(self, axis: int) -> tuple[Tensor, Tensor]:
        """Return where the pixels of an axis come from, (B, length), and whether it is inside."""
        length = self.size[1 - axis]
        middles = torch.arange(length, device=self.scale.device) + 0.5
        origin = (middles - self.shift[:, axis, None]) / self.scale[:, axis, None]
        inside = (origin >= 0) & (origin < length)
        return origin.floor().long().clamp(0, length - 1), inside
