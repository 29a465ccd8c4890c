"""Scenes composed of scikit-learn's digits and photographs, for detection and segmentation.

Letters: N scenes, S×S pixels of a scene, H×W of a photograph, M digits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.data.random import key, uniform
from limbeck.data.samples import Samples
from limbeck.data.sources.arrays import digits
from limbeck.data.sources.placed import BACKGROUND, Kind, placed
from limbeck.data.splits import Data
from limbeck.errors import InputError

__all__ = ["digit_scenes"]

_MOST, _TRIES = 5, 6  # digits in a scene, and places that are tried for each
_REGIONS = ((0.0, 0.6), (0.6, 0.75), (0.75, 1.0))  # of a photograph's width, for each split
_DIMMED = 0.5  # so that digits, which are bright, stand out from any place of a photograph
_INK = 0.4  # from which opacity on a pixel belongs to a digit
_DRAWS = 8  # random numbers for each try


def digit_scenes(
    *,
    targets: Kind = "boxes",
    scenes: int = 1500,
    size: int = 64,
    seed: int = 0,
    limit: int | None = None,
) -> Data:
    """Scenes composed of handwritten digits on photographs, with boxes and masks known exactly.

    One to five of scikit-learn's digits, enlarged and tinted, are pasted at random places that do
    not overlap, onto a dimmed crop of one of scikit-learn's two photographs. Nobody took these
    pictures: they say how methods compare, not how well a detector does in a street. Training,
    validation and test scenes share neither a digit nor a region of a photograph.

    Args:
        targets: ``boxes``, for the task ``detection``, in ten classes; ``masks``, for
            ``segmentation``, with the background as a class before the ten.
        scenes: N of training; a fifth as many for validation, a third for testing.
        size: S, at least 40.
        seed: of the composition.
        limit: at most so many training samples, and half as many of the others.

    Raises:
        InputError: there are no scenes, or they are too small for a digit.

    Sources: digits as :func:`limbeck.data.sources.digits`; the photographs china.jpg, by
    danielbuechele, and flower.jpg, by vultilion, of ``sklearn.datasets.load_sample_images`` (both
    CC BY 2.0).

    >>> data = digit_scenes(scenes=15)
    >>> data.train.column("inputs").shape, len(data.labels)
    (torch.Size([15, 3, 64, 64]), 10)
    """
    if scenes < 1 or size < 40 or size > 90:
        raise InputError(
            f"{scenes} scenes of {size}×{size} pixels",
            expected="at least one, of 40 to 90 pixels on a side",
        )
    single = digits()
    counts = (scenes, max(1, scenes // 5), max(1, scenes // 3))
    splits = (single.train, single.validation, single.test)
    first = np.cumsum([0, *counts])
    found = [
        _composed(split, torch.arange(count) + int(start), part, targets, size, seed)
        for part, (split, count, start) in enumerate(zip(splits, counts, first[:3], strict=True))
    ]
    labels = single.labels if targets == "boxes" else (BACKGROUND, *single.labels)
    facts = {"targets": {"image": (size, size)}}
    name = "scenes composed of digits on photographs"
    data = Data(found[0], found[1], found[2], labels=labels, name=name, facts=facts)
    return data if limit is None else data.limited(limit)


def _composed(
    drawn: Samples, ids: Tensor, part: int, targets: Kind, size: int, seed: int
) -> Samples:
    """Compose the scenes of one split."""
    images, labels = drawn.column("inputs")[:, 0], drawn.column("targets")
    photographs = _photographs(*_REGIONS[part])
    streams = torch.arange(4 + _MOST * _TRIES * _DRAWS)
    chances = uniform(key(seed, ids, part)[:, None], streams).numpy()
    scenes = [_scene(row, images, labels, photographs, size) for row in chances]
    pictures = torch.stack([picture for picture, _, _ in scenes])
    masks = torch.stack([mask for _, mask, _ in scenes])
    boxes = [found for _, _, found in scenes]
    return placed(ids, pictures, masks if targets == "masks" else boxes, kind=targets)


def _photographs(start: float, stop: float) -> list[Tensor]:
    """Return a vertical strip of each photograph, (3, H, W) from 0 to 1."""
    from sklearn.datasets import load_sample_images

    found = []
    for pixels in load_sample_images().images:
        width = pixels.shape[1]
        strip = np.ascontiguousarray(pixels[:, int(start * width) : int(stop * width)])
        found.append(torch.from_numpy(strip).permute(2, 0, 1).float() / 255)
    return found


def _scene(
    chances: np.ndarray, images: Tensor, labels: Tensor, photographs: Sequence[Tensor], size: int
) -> tuple[Tensor, Tensor, list[tuple[float, ...]]]:
    """Return a picture (3, S, S) uint8, its classes (S, S) uint8, and boxes with their classes."""
    general, tries = chances[:4], chances[4:].reshape(_MOST, _TRIES, _DRAWS)
    photograph = photographs[int(general[0] * len(photographs))]
    top, left = (
        int(chance * (length - size + 1))
        for chance, length in zip(general[1:3], photograph.shape[1:], strict=True)
    )
    picture = photograph[:, top : top + size, left : left + size] * _DIMMED
    mask = torch.zeros(size, size, dtype=torch.uint8)
    boxes: list[tuple[float, ...]] = []
    for number in range(1 + int(general[3] * _MOST)):
        for draw in tries[number]:
            row = int(draw[0] * len(images))
            pasted = _paste(picture, mask, images[row], int(labels[row]), draw, boxes)
            if pasted is not None:
                boxes.append(pasted)
                break
    return (picture * 255).round().to(torch.uint8), mask, boxes


def _paste(
    picture: Tensor,
    mask: Tensor,
    image: Tensor,
    label: int,
    draw: np.ndarray,
    boxes: Sequence[tuple[float, ...]],
) -> tuple[float, ...] | None:
    """Paste a digit, unless it would touch another; return x1, y1, x2, y2 and its class."""
    size = len(mask)
    side = int(size * (0.25 + 0.2 * draw[1]))
    y, x = (int(chance * (size - side + 1)) for chance in draw[2:4])
    opacity = F.interpolate(image[None, None], (side, side), mode="bilinear", align_corners=False)
    opacity = opacity[0, 0]
    ink = opacity > _INK
    rows, columns = ink.any(1).nonzero().flatten(), ink.any(0).nonzero().flatten()
    box = (x + int(columns[0]), y + int(rows[0]), x + int(columns[-1]) + 1, y + int(rows[-1]) + 1)
    if any(_touch(box, other) for other in boxes):
        return None
    place = (slice(y, y + side), slice(x, x + side))
    under = picture[:, place[0], place[1]]
    tint = torch.from_numpy(0.5 + 0.5 * draw[4:7]).float().view(3, 1, 1)
    weight = opacity.clamp(max=1.0)
    picture[:, place[0], place[1]] = (1 - weight) * under + weight * tint
    mask[place][ink] = label + 1
    return (*map(float, box), float(label))


def _touch(box: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two boxes overlap."""
    return all(box[axis] < other[axis + 2] and other[axis] < box[axis + 2] for axis in (0, 1))
