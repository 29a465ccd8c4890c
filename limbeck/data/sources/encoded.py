"""Encoded images: files, or bytes in a table, and the way from there to memory.

Letters: N samples, C channels, H×W pixels.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from limbeck.data.samples import Arrays, Items, Samples
from limbeck.errors import InputError

__all__ = ["Encoded", "encoded", "in_memory", "opened", "resized"]

_IN_MEMORY_BYTES = 2 * 2**30
_BLOCK = 512


@dataclass(frozen=True)
class Encoded(Dataset[tuple[Tensor, Any]]):
    """Images as files or as bytes, decoded when asked for.

    Attributes:
        images: N paths, or N encoded images.
        labels: (N,) int64, or (N, C) for several of each.
        size: H = W after resizing the shorter side and cutting the middle; 0 keeps the image.
        mode: Pillow's: ``L`` (C = 1) or ``RGB`` (C = 3).
        name: where they are from, for messages.
    """

    images: Sequence[Path | bytes]
    labels: Tensor
    size: int
    mode: str
    name: str

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        pixels = np.ascontiguousarray(self.decode(index).transpose(2, 0, 1))
        label = self.labels[index]
        return torch.from_numpy(pixels), label if label.ndim else int(label)

    def decode(self, index: int) -> np.ndarray:
        """Return image ``index`` as (H, W, C) uint8."""
        image = opened(self.images[index], index).convert(self.mode)
        array = np.array(resized(image, self.size) if self.size else image)
        return array.reshape(*array.shape[:2], -1)


def encoded(
    images: Sequence[Path | bytes], labels: Tensor, size: int, workers: int, name: str
) -> Items:
    """Return samples that are decoded when they are read.

    Args:
        images: N paths, or N encoded images; the first decides between grey and colour for all.
        labels: (N,) int64, or (N, C) for several of each.
        size: resize to this height and width; 0 keeps the size.
        workers: processes that decode, if the images do not fit in memory.
        name: where they are from.
    """
    if not images:
        raise InputError(f"{name} holds no images")
    mode = "L" if opened(images[0], 0).mode == "L" else "RGB"
    dataset = Encoded(images, labels, size, mode, name)
    return Items.of(dataset, workers=workers, name=name, known={"targets": labels})


def in_memory(samples: Samples) -> Samples:
    """Decode encoded images now, if they fit into 2 GiB; return anything else as it is.

    Raises:
        InputError: an image is damaged, or they differ in size.
    """
    if not isinstance(samples, Items) or not isinstance(samples.dataset, Encoded):
        return samples
    dataset, rows = samples.dataset, samples.ids.tolist()
    first = dataset.decode(rows[0])
    if len(rows) * first.size > _IN_MEMORY_BYTES:
        return samples
    decoded = np.empty((len(rows), *first.shape), np.uint8)

    def fill(start: int) -> None:
        for place, index in enumerate(rows[start : start + _BLOCK], start):
            image = dataset.decode(index)
            if image.shape != first.shape:
                sizes = " and of ".join(f"{a.shape[0]}×{a.shape[1]}" for a in (first, image))
                raise InputError(
                    f"{dataset.name} holds images of {sizes}",
                    expected="one size",
                    remedy="Set data.args.size, to which all are resized.",
                )
            decoded[place] = image

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        list(pool.map(fill, range(0, len(rows), _BLOCK)))
    pixels = torch.from_numpy(np.ascontiguousarray(decoded.transpose(0, 3, 1, 2)))
    return Arrays({"inputs": pixels, "targets": dataset.labels[samples.ids]}, samples.ids)


def opened(found: Path | bytes, index: int) -> Image.Image:
    """Return a decoded image.

    Args:
        found: a file, or its bytes.
        index: of the image, for the message if it is damaged.
    """
    try:
        with Image.open(io.BytesIO(found) if isinstance(found, bytes) else found) as opened:
            opened.load()
            return opened
    except Exception as error:  # A damaged image can raise anything.
        name = f"image {index}" if isinstance(found, bytes) else str(found)
        raise InputError(f"{name} could not be decoded: {error}") from error


def resized(image: Image.Image, size: int) -> Image.Image:
    """Resize the shorter side to ``size`` and cut the middle square."""
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return resized.crop((left, top, left + size, top + size))
