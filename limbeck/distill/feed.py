"""Giving the loop its batches, whatever the data came as.

Letters: B samples, W processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol

import torch
from accelerate.data_loader import prepare_data_loader
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader

from limbeck.data.augment import Augmentation
from limbeck.data.loader import Loader, by_length
from limbeck.data.samples import Arrays, as_samples
from limbeck.errors import InputError
from limbeck.tasks.task import Task
from limbeck.teachers.knowing import Knowing
from limbeck.teachers.replay import Replay

__all__ = ["Feed", "at_once", "check_stored", "feed", "inspected", "pieces", "put"]

_ON_DEVICE_BYTES = 4 * 2**30
_MEASURED = 512  # samples of one answer each


class Feed(Protocol):
    """Batches by epoch."""

    @property
    def steps(self) -> int:
        """The number of batches in an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Yield the batches of an epoch, from batch ``start`` on."""


class _Given:
    """A user's own DataLoader: its order is its own affair, its batches are for all processes."""

    def __init__(self, loader: DataLoader[Any], world: int) -> None:
        try:
            self.steps = len(loader)
        except TypeError:
            raise InputError(
                "a DataLoader without a length",
                expected="one over a map-style dataset",
                consequence="The learning-rate schedule needs the number of steps.",
            ) from None
        self.loader = prepare_data_loader(loader, split_batches=True) if world > 1 else loader

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        return islice(iter(self.loader), start, None)


def feed(
    source: Any,
    batch_size: int,
    device: torch.device,
    *,
    rank: int = 0,
    world: int = 1,
    ordered: bool = False,
    **options: Any,
) -> Feed:
    """Return batches of what users give as data.

    Args:
        source: a DataLoader, taken as it is; a :class:`limbeck.data.Loader`; or anything that
            :func:`limbeck.data.as_samples` takes.
        batch_size: of all processes together; a DataLoader keeps its own.
        device: small sets in memory are moved there once.
        rank: this process, which gets its part of every batch.
        world: the number of processes.
        ordered: samples of unequal length come in the order of their lengths, so that little is
            padded; for measuring.
        options: of :class:`limbeck.data.Loader`.
    """
    if isinstance(source, Loader):
        return replace(source, rank=rank, world=world)
    if isinstance(source, DataLoader):
        return _Given(source, world)
    samples = as_samples(source)
    if ordered and isinstance(samples, Arrays):
        samples = samples.subset(by_length(samples))
    if isinstance(samples, Arrays) and device.type != "cpu" and samples.nbytes < _ON_DEVICE_BYTES:
        samples = samples.to(device)
    return Loader(samples, min(batch_size, len(samples)), rank=rank, world=world, **options)


def check_stored(
    teacher: Knowing | None,
    train: Any,
    augment: Augmentation | None,
    *,
    rewritten: bool = False,
) -> None:
    """Refuse a teacher that reads stored answers, if they are about other samples or views.

    Of the batches of a user's own DataLoader, the samples are looked for as they come.

    Raises:
        InputError: what differs, and what would go wrong.
    """
    if isinstance(teacher, Replay) and rewritten:
        raise InputError(
            "a teacher that reads stored answers, for batches that are made anew",
            expected="a teacher that runs beside the student",
            consequence="What it said about other texts would be taken for its answer.",
            remedy="Set knowledge.store to false.",
        )
    if not isinstance(teacher, Replay) or isinstance(train, DataLoader):
        return
    if isinstance(train, Loader):
        teacher.check(train.samples, train.augment)
    else:
        teacher.check(as_samples(train), augment)


def at_once(source: Feed, task: Task, batch_size: int) -> int:
    """Return on how many samples to measure at once: 512, or fewer where each has many answers.

    Args:
        source: of the training samples.
        task: what they mean.
        batch_size: of training, whose answers memory holds.
    """
    if not isinstance(source, Loader) or not isinstance(source.samples, Arrays):
        return _MEASURED
    batch = task.named(next(source.epoch(0)))
    mask = task.mask(batch)
    several = mask is not None and mask.ndim > 1
    if several or float(task.count(batch)) > len(task.targets(batch)):
        return min(_MEASURED, batch_size)
    return _MEASURED


def inspected(source: Feed, task: Task) -> bool:
    """Refuse samples that cannot be meant, if they are all in memory; else say that they are not.

    Raises:
        InputError: a label is out of range, or an input is not a number.
    """
    if not isinstance(source, Loader) or not isinstance(source.samples, Arrays):
        return False
    rows = torch.arange(len(source.samples)).split(8192)
    for batch in source.samples.batches(rows, view=0, seed=0):
        task.check(task.named(batch))
    return True


def put(batch: Any, device: torch.device, *, channels_last: bool = False) -> Any:
    """Move a batch to the device, its maps in the layout that the model has."""

    def move(tensor: Any) -> Any:
        if not isinstance(tensor, Tensor):
            return tensor
        if channels_last and tensor.ndim == 4:
            return tensor.to(device, non_blocking=True, memory_format=torch.channels_last)
        return tensor.to(device, non_blocking=True)

    return tree_map(move, batch)


def pieces(batch: Any, count: int) -> list[Any]:
    """Cut a batch into ``count`` parts of consecutive samples, for gradient accumulation.

    >>> pieces({"inputs": torch.arange(4.)}, 2)
    [{'inputs': tensor([0., 1.])}, {'inputs': tensor([2., 3.])}]
    """
    if count == 1:
        return [batch]

    def part(number: int) -> Any:
        return tree_map(
            lambda t: t.tensor_split(count)[number] if isinstance(t, Tensor) else t, batch
        )

    return [part(number) for number in range(count)]
