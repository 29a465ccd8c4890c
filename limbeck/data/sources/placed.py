"""Pictures with boxes, or with a class for each pixel, as samples.

Letters: N pictures, C channels, H×W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from limbeck.data.jagged import Jagged
from limbeck.data.samples import Arrays
from limbeck.errors import InputError

__all__ = [
    "BACKGROUND",
    "IGNORED_PIXEL",
    "Kind",
    "Place",
    "check_kind",
    "check_memory",
    "fitted",
    "placed",
]

BACKGROUND = "background"
IGNORED_PIXEL = 255  # the class of a pixel that counts for nothing, as is usual
_MOST_BYTES = 4 * 2**30
Kind = Literal["boxes", "masks"]
Place = Sequence[float]
"""A box: x1, y1, x2, y2 in pixels, and the number of its class."""


def placed(
    ids: Tensor, pictures: Tensor, labels: Sequence[Sequence[Place]] | Tensor, *, kind: Kind
) -> Arrays:
    """Return samples for the task ``detection`` or ``segmentation``.

    Args:
        ids: (N,) of the samples.
        pictures: (N, C, H, W) uint8.
        labels: for ``boxes`` those of each picture, perhaps none, each with its class; for
            ``masks`` (N, H, W) uint8, 255 where a pixel counts for nothing.
        kind: which of the two.

    Raises:
        InputError: the kind is unknown.

    >>> one = placed(torch.arange(1), torch.zeros(1, 3, 8, 8), [[(1, 2, 5, 6, 3)]], kind="boxes")
    >>> batch = next(one.batches([torch.arange(1)], 0, 0))
    >>> batch["targets"].tolist(), batch["classes"].tolist()
    ([[[1.0, 2.0, 5.0, 6.0]]], [[3]])
    """
    check_kind(kind)
    if isinstance(labels, Tensor):
        return Arrays.of(ids, inputs=pictures, targets=labels)
    counts = torch.tensor([len(each) for each in labels], dtype=torch.int64)
    offsets = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
    rows = np.array([place for each in labels for place in each], np.float32).reshape(-1, 5)
    joined = torch.from_numpy(rows)
    boxes = Jagged(joined[:, :4].contiguous(), offsets, names=(), dtype=torch.float32)
    classes = Jagged(joined[:, 4].long(), offsets, padding=-1, names=())
    return Arrays.of(ids, inputs=pictures, targets=boxes, classes=classes)


def check_kind(kind: str) -> None:
    """Refuse anything but ``boxes`` and ``masks``."""
    if kind not in ("boxes", "masks"):
        raise InputError(
            f"data.args.targets is {kind!r}",
            expected="boxes, for the task detection, or masks, for segmentation",
        )


def check_memory(count: int, shape: tuple[int, int]) -> None:
    """Refuse more pictures of a height and width than 4 GiB hold."""
    if count * 3 * shape[0] * shape[1] > _MOST_BYTES:
        raise InputError(
            f"{count:,} pictures of {shape[0]}×{shape[1]}",
            expected=f"what {_MOST_BYTES // 2**30} GiB of memory hold",
            remedy="Set data.limit, or data.args.size to fewer pixels.",
        )


def fitted(
    picture: Image.Image, shape: tuple[int, int], how: Image.Resampling, *, fill: int = 0
) -> Image.Image:
    """Return a picture as large as fits into a height and width, filled up right and below."""
    scale = min(shape[0] / picture.height, shape[1] / picture.width)
    inner = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    canvas = Image.new(picture.mode, (shape[1], shape[0]), fill)
    canvas.paste(picture.resize(inner, how), (0, 0))
    return canvas
