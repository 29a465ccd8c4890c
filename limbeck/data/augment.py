"""Augmentation of whole batches, as a pure function of (seed, sample id, view).

The same view of a sample is the same picture whenever and wherever it is asked for, so a teacher's
knowledge about it can be computed once and replayed. Images keep their dtype.

Letters: B samples, C channels, H×W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.data.random import key, uniform
from limbeck.data.samples import Batch
from limbeck.errors import InputError, unknown
from limbeck.imports import portrait

__all__ = ["Augmentation", "Crop", "Cutout", "Draw", "Flip", "Operation", "operation"]


@dataclass(frozen=True)
class Draw:
    """Gives each sample of a batch its own random numbers.

    Attributes:
        keys: (B,) int64, one per (seed, sample id, view), from :func:`limbeck.data.random.key`.
        stream: tells the operations of one augmentation apart.

    >>> draw = Draw(key(0, torch.tensor([5]), views=0), stream=0)
    >>> bool(0 <= draw.uniform()[0] < 1)
    True
    """

    keys: Tensor
    stream: int

    def uniform(self, index: int = 0) -> Tensor:
        """Return (B,) numbers in [0, 1); ``index`` (0 to 15) tells one operation's draws apart."""
        return uniform(self.keys, self.stream * 16 + index)

    def integers(self, below: int, index: int = 0) -> Tensor:
        """Return (B,) whole numbers from 0 to ``below`` − 1."""
        return (self.uniform(index) * below).long()


class Operation(Protocol):
    """One step of an augmentation."""

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        """Return changed images (B, C, H, W), using no other randomness than ``draw``."""


@dataclass(frozen=True)
class Crop:
    """Pad by ``padding`` zeros on each side and cut the original size at a random place.

    >>> draw = Draw(key(0, torch.arange(2), views=0), stream=0)
    >>> Crop(4)(torch.ones(2, 3, 32, 32), draw).shape
    torch.Size([2, 3, 32, 32])
    """

    padding: int = 4

    def __post_init__(self) -> None:
        _whole("crop", self.padding)

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        height, width = images.shape[-2:]
        padded = F.pad(images, [self.padding] * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        places = 2 * self.padding + 1
        rows = torch.arange(len(images), device=images.device)
        return windows[rows, :, draw.integers(places, 0), draw.integers(places, 1)]


@dataclass(frozen=True)
class Flip:
    """Mirror left and right with the given probability."""

    probability: float = 0.5

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        mirrored = (draw.uniform() < self.probability).long()
        rows = torch.arange(len(images), device=images.device) + mirrored * len(images)
        return torch.cat([images, images.flip(-1)]).index_select(0, rows)


@dataclass(frozen=True)
class Cutout:
    """Put zeros into a square of ``size`` pixels at a random place (DeVries 2017, 1708.04552)."""

    size: int = 8

    def __post_init__(self) -> None:
        _whole("cutout", self.size)

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        rows, columns = (
            self._inside(length, draw.integers(length, axis))
            for axis, length in enumerate(images.shape[-2:])
        )
        hole = rows.unsqueeze(-1) & columns.unsqueeze(-2)
        return images.masked_fill(hole.unsqueeze(1), 0)

    def _inside(self, length: int, middles: Tensor) -> Tensor:
        """Say which of ``length`` places are in the square of each sample, (B, length)."""
        offset = torch.arange(length, device=middles.device) - middles.view(-1, 1) + self.size // 2
        return (offset >= 0) & (offset < self.size)


@dataclass(frozen=True)
class Augmentation:
    """Operations applied one after another to a field of a batch.

    Attributes:
        operations: applied in this order.
        seed: with the sample's id and view it determines every random number.
        field: the batch's field that they change.

    >>> augment = Augmentation((Crop(2), Flip()), seed=0)
    >>> batch = {"inputs": torch.arange(64.).view(1, 1, 8, 8), "id": torch.tensor([3]),
    ...          "view": torch.tensor([1])}
    >>> bool((augment(batch)["inputs"] == augment(batch)["inputs"]).all())
    True
    """

    operations: Sequence[Operation] = ()
    seed: int = 0
    field: str = "inputs"

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with its field augmented."""
        images, keys = batch[self.field], key(self.seed, batch["id"], batch["view"])
        for stream, change in enumerate(self.operations):
            images = change(images, Draw(keys, stream))
        return batch | {self.field: images}

    def fingerprint(self) -> str:
        """Return a text that says exactly what it does."""
        return f"{[portrait(step) for step in self.operations]} seed={self.seed} field={self.field}"


def _whole(name: str, pixels: int) -> None:
    if not isinstance(pixels, int) or pixels < 1:
        raise InputError(f"{name} is {pixels!r}", expected="a whole number of pixels, at least 1")


_OPERATIONS: dict[str, Callable[..., Operation]] = {"crop": Crop, "cutout": Cutout, "flip": Flip}


def operation(name: str, *options: float) -> Operation:
    """Return the operation of that name, as recipes write it: ``{crop: 4}``, ``flip``.

    >>> operation("crop", 4)
    Crop(padding=4)
    """
    if name not in _OPERATIONS:
        raise unknown("augmentation", name, _OPERATIONS)
    try:
        return _OPERATIONS[name](*options)
    except TypeError as error:
        raise InputError(
            f"augmentation {name} got {options}", expected="at most one number"
        ) from error
