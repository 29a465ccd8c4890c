"""Single pictures: from files to what models that look are called with.

Letters: B pictures, C channels, H×W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from PIL import Image
from torch import Tensor

from limbeck.data.asking import Ask

__all__ = ["Pictures"]


@final
@dataclass(frozen=True)
class Pictures:
    """Brings pictures to a size: the reader of models that are called with pictures alone.

    Attributes:
        shape: (C, H, W); C is 1 for grey ones or 3.

    >>> red = Image.new("RGB", (20, 10), (255, 0, 0))
    >>> Pictures((3, 8, 8))([red]).shape, Pictures((1, 8, 4))([red]).shape
    (torch.Size([1, 3, 8, 8]), torch.Size([1, 1, 8, 4]))
    """

    shape: tuple[int, int, int]

    def __call__(self, raw: Sequence[Any]) -> Tensor:
        """Return (B, C, H, W) float32 from 0 to 1.

        To make it square, the shorter side of a picture is resized and the middle cut out.

        Args:
            raw: files, their bytes, or Pillow images.

        Raises:
            InputError: one cannot be read as a picture.
        """
        return torch.stack([self._pixels(each, number) for number, each in enumerate(raw)])

    def asks(self) -> dict[str, Ask]:
        return {"Picture": Ask("picture")}

    def gathered(self, given: Mapping[str, Any]) -> Any:
        return given["Picture"]

    def _pixels(self, picture: Any, number: int) -> Tensor:
        from limbeck.data.samples import pixels
        from limbeck.data.sources.encoded import opened, resized

        if not isinstance(picture, Image.Image):
            picture = opened(Path(picture) if isinstance(picture, str) else picture, number)
        channels, height, width = self.shape
        image = picture.convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            square = height == width
            image = resized(image, height) if square else image.resize((width, height))
        return pixels(image).float() / 255
