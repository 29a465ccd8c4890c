"""A random part of an image, resized: how networks for ImageNet are trained.

Letters: B samples, C channels, H×W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import InputError

if TYPE_CHECKING:
    from limbeck.data.augment import Draw

__all__ = ["ResizedCrop"]

_WIDEST = 4 / 3  # of the part's width to its height; the narrowest is the inverse


@dataclass(frozen=True)
class ResizedCrop:
    """Cut out a part of random area, proportions and place, and resize it to ``size``.

    The area is uniform from ``smallest`` of the image to all of it, the logarithm of width to
    height uniform from log ¾ to log 4/3; a side that would be longer than the image's is cut to it
    (others draw again, up to ten times). Resizing is bilinear without aliasing, as Pillow does it,
    on images of uint8 too.

    Attributes:
        size: height and width of the result.
        smallest: share of the image's area, above 0 and at most 1.

    Source: Szegedy et al. 2015, "Going Deeper with Convolutions", arXiv:1409.4842; 0.08 and ¾ are
    theirs.

    >>> from limbeck.data.augment import Draw, key
    >>> draw = Draw(key(0, torch.arange(2), views=0), stream=0)
    >>> ResizedCrop(24)(torch.ones(2, 3, 32, 40), draw).shape
    torch.Size([2, 3, 24, 24])
    """

    size: int = 224
    smallest: float = 0.08

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < 1 or not 0 < self.smallest <= 1:
            raise InputError(
                f"resized_crop of {self.size!r} pixels from {self.smallest} of the area",
                expected="a whole number of pixels, at least 1, and a share above 0",
            )

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        height, width = images.shape[-2:]
        area = (self.smallest + (1 - self.smallest) * draw.uniform(0)) * height * width
        ratio = ((2 * draw.uniform(1) - 1) * math.log(_WIDEST)).exp()
        rows = (area / ratio).sqrt().round().clamp(1, height)
        columns = (area * ratio).sqrt().round().clamp(1, width)
        top = (draw.uniform(2) * (height - rows + 1)).long()
        left = (draw.uniform(3) * (width - columns + 1)).long()
        boxes = torch.stack([top, left, rows.long(), columns.long()], dim=1).tolist()
        return torch.cat([self._part(i[None], *box) for i, box in zip(images, boxes, strict=True)])

    def _part(self, image: Tensor, top: int, left: int, rows: int, columns: int) -> Tensor:
        part = image[..., top : top + rows, left : left + columns]
        wanted = (self.size, self.size)
        if image.dtype == torch.uint8 and image.device.type != "cpu":
            smooth = F.interpolate(part.float(), wanted, mode="bilinear", antialias=True)
            return smooth.round().to(torch.uint8)
        return F.interpolate(part, wanted, mode="bilinear", antialias=True)
