"""Augmentation of whole batches, as a pure function of (seed, sample id, view).

The same view of a sample is the same picture whenever and wherever it is asked for, so a teacher's
knowledge about it can be computed once and replayed. Images keep their dtype.

That holds for mixtures too (:class:`Mixup`, :class:`CutMix`): with which sample another is mixed,
and how, follows from the seed, the id and the view. Teacher and student are shown the same mixture,
stored answers are about exactly the mixtures that are seen later, and neither the order of the
samples nor the number of processes matters. The sample itself keeps at least half, so that its
label names what is most of the mixture.

Letters: B samples, C channels, H×W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.data.mix import CutMix, Mixup
from limbeck.data.motion import Motion
from limbeck.data.random import key, uniform
from limbeck.data.resize import ResizedCrop
from limbeck.data.samples import Batch, Samples
from limbeck.errors import InputError, unknown
from limbeck.imports import portrait

__all__ = [
    "Augmentation",
    "Crop",
    "CutMix",
    "Cutout",
    "Draw",
    "Flip",
    "Mixing",
    "Mixup",
    "Operation",
    "ResizedCrop",
    "Tracked",
    "operation",
]

_PARTNERS = 2**18  # the stream from which partners are drawn, apart from those of operations


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


@runtime_checkable
class Mixing(Protocol):
    """A step of augmentation that makes one sample of two."""

    def mix(self, own: Tensor, partners: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return the mixtures (B, ...), and (B,) how much of each is the sample's own, ½ to 1."""


@runtime_checkable
class Tracked(Protocol):
    """A step of augmentation that says where pixels go, so that boxes and masks can follow."""

    def motion(self, size: tuple[int, int], draw: Draw) -> Motion:
        """Return where the pixels of pictures of a size (H, W) go, with the same ``draw``."""


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

    def motion(self, size: tuple[int, int], draw: Draw) -> Motion:
        down, across = (draw.integers(2 * self.padding + 1, axis) for axis in (0, 1))
        shift = self.padding - torch.stack([across, down], dim=1).float()
        return Motion(size, torch.ones_like(shift), shift)


@dataclass(frozen=True)
class Flip:
    """Mirror left and right with the given probability."""

    probability: float = 0.5

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        mirrored = (draw.uniform() < self.probability).long()
        rows = torch.arange(len(images), device=images.device) + mirrored * len(images)
        return torch.cat([images, images.flip(-1)]).index_select(0, rows)

    def motion(self, size: tuple[int, int], draw: Draw) -> Motion:
        mirrored = (draw.uniform() < self.probability).float()
        still = torch.zeros_like(mirrored)
        scale = torch.stack([1 - 2 * mirrored, 1 + still], dim=1)
        shift = torch.stack([size[1] * mirrored, still], dim=1)
        return Motion(size, scale, shift)


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

    def motion(self, size: tuple[int, int], draw: Draw) -> Motion:
        return Motion.none(size, draw.keys)

    def _inside(self, length: int, middles: Tensor) -> Tensor:
        """Say which of ``length`` places are in the square of each sample, (B, length)."""
        offset = torch.arange(length, device=middles.device) - middles.view(-1, 1) + self.size // 2
        return (offset >= 0) & (offset < self.size)


@dataclass(frozen=True)
class Augmentation:
    """Operations applied one after another to a field of a batch, then perhaps a mixture of two.

    Attributes:
        operations: applied in this order; those that mix (:class:`Mixing`) stand at the end. Of
            several that mix, each sample gets one, drawn evenly.
        seed: with the sample's id and view it determines every random number.
        field: the batch's field that they change.
        pool: from which samples partners are taken; see :meth:`over`.
        follow: what moves the labels of a batch as pixels move, for tasks whose labels have a place
            in the picture (:class:`limbeck.tasks.task.Placed`); :func:`limbeck.fit` sets it.

    Raises:
        InputError: an operation that mixes stands before one that does not; labels are to follow
            one that does not say where pixels go.

    >>> augment = Augmentation((Crop(2), Flip()), seed=0)
    >>> batch = {"inputs": torch.arange(64.).view(1, 1, 8, 8), "id": torch.tensor([3]),
    ...          "view": torch.tensor([1])}
    >>> bool((augment(batch)["inputs"] == augment(batch)["inputs"]).all())
    True
    """

    operations: Sequence[Operation | Mixing] = ()
    seed: int = 0
    field: str = "inputs"
    pool: Samples | None = None
    follow: Callable[[Batch, Motion], Batch] | None = None

    def __post_init__(self) -> None:
        lost = [step for step in self.operations if not isinstance(step, Tracked)]
        if self.follow is not None and lost:
            raise InputError(
                f"the augmentation {portrait(lost[0])} for labels that have a place in the picture",
                expected="operations with a method motion(size, draw), as flip, crop and cutout "
                "have",
                consequence="Boxes and masks would stay where the pixels no longer are.",
                remedy="Leave it out of data.augment and teacher.augment.",
            )
        if any(isinstance(step, Mixing) for step in self.operations[: len(self._changes)]):
            raise InputError(
                f"an operation stands after one that mixes: {list(map(portrait, self.operations))}",
                expected="mixup and cutmix at the end",
                remedy="Put them last: both samples are changed first, then mixed.",
            )

    @property
    def mixes(self) -> bool:
        """Whether samples are mixed with others."""
        return len(self._changes) < len(self.operations)

    def over(self, samples: Samples) -> Augmentation:
        """Return the same, partners taken from ``samples``; itself if none are needed or known.

        :func:`limbeck.fit`, :func:`limbeck.knowledge.write` and :class:`limbeck.data.Loader` call
        it with the samples that they get.
        """
        if not self.mixes or self.pool is not None:
            return self
        return replace(self, pool=samples)

    def followed(self, follow: Callable[[Batch, Motion], Batch]) -> Augmentation:
        """Return the same, with labels that move as pixels do."""
        return replace(self, follow=follow)

    def partners(self, ids: Tensor, view: int) -> Tensor:
        """Return which rows of the pool the samples of these ids are mixed with, (B,)."""
        drawn = uniform(key(self.seed, ids, view), _PARTNERS)
        return self._pool_order.to(ids.device)[(drawn * len(self._pool_order)).long()]

    def __call__(self, batch: Batch, partner: Batch | None = None) -> Batch:
        """Return the batch with its field augmented.

        Args:
            batch: with ``id`` and ``view``.
            partner: if samples are mixed, the batch of :meth:`partners`. The batch then also gets
                ``share``, (B,) float32, how much of each mixture is the sample's own, and
                ``partner``, (B, ...), the partner's targets, if there are targets.
        """
        images, keys = self._changed(batch)
        if self.follow is not None:
            size = (int(images.shape[-2]), int(images.shape[-1]))
            for stream, step in enumerate(self.operations):
                assert isinstance(step, Tracked)
                batch = self.follow(batch, step.motion(size, Draw(keys, stream)))
        if not self.mixes:
            return batch | {self.field: images}
        if partner is None:
            raise InputError(
                "a batch is to be mixed, but there is no other",
                expected="an augmentation without mixup and cutmix here, or a Loader's batches",
            )
        theirs, _ = self._changed(partner)
        mixed, share = self._mixed(images, theirs, keys)
        labels = {"partner": partner["targets"]} if "targets" in partner else {}
        return batch | {self.field: mixed, "share": share} | labels

    def fingerprint(self) -> str:
        """Return a text that says exactly what it does."""
        told = f"{[portrait(step) for step in self.operations]} seed={self.seed} field={self.field}"
        if self.pool is None:
            return told
        ids = self.pool.ids.sort().values.cpu().numpy().tobytes()
        return f"{told} partners={hashlib.sha256(ids).hexdigest()[:16]}"

    @property
    def _changes(self) -> Sequence[Operation | Mixing]:
        """The operations but for those at the end that mix."""
        count = len(self.operations)
        while count and isinstance(self.operations[count - 1], Mixing):
            count -= 1
        return self.operations[:count]

    @cached_property
    def _pool_order(self) -> Tensor:
        """The rows of the pool by rising ids: the same partner in whichever order samples come."""
        assert self.pool is not None
        return self.pool.ids.argsort()

    def _changed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the field after all operations that do not mix, and the samples' keys."""
        images, keys = batch[self.field], key(self.seed, batch["id"], batch["view"])
        if not isinstance(images, Tensor):
            raise InputError(
                f"augmentation of inputs that are a mapping of {', '.join(map(str, images))}",
                expected="pictures alone, (B, C, H, W)",
                consequence="What is changed in a picture may change what is said about it.",
                remedy="Leave data.augment out.",
            )
        for stream, change in enumerate(self._changes):
            assert not isinstance(change, Mixing)
            images = change(images, Draw(keys, stream))
        return images, keys

    def _mixed(self, own: Tensor, theirs: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return each sample mixed by one of the operations that mix, and its share."""
        first = len(self._changes)
        steps = [step for step in self.operations[first:] if isinstance(step, Mixing)]
        chosen = Draw(keys, _PARTNERS // 16).integers(len(steps), 1)
        mixed, share = steps[0].mix(own, theirs, Draw(keys, first))
        for number, step in enumerate(steps[1:], start=1):
            other, other_share = step.mix(own, theirs, Draw(keys, first + number))
            here = chosen == number
            mixed = torch.where(here.view(-1, *[1] * (own.ndim - 1)), other, mixed)
            share = torch.where(here, other_share, share)
        return mixed, share


def _whole(name: str, pixels: int) -> None:
    if not isinstance(pixels, int) or pixels < 1:
        raise InputError(f"{name} is {pixels!r}", expected="a whole number of pixels, at least 1")


_OPERATIONS: dict[str, Callable[..., Operation | Mixing]] = {
    "crop": Crop,
    "cutmix": CutMix,
    "cutout": Cutout,
    "flip": Flip,
    "mixup": Mixup,
    "resized_crop": ResizedCrop,
}


def operation(name: str, *options: float) -> Operation | Mixing:
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
