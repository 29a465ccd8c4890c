"""Batches in order, or shuffled by (seed, epoch): the same for any number of processes.

Letters: N samples, B samples in a batch, W processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from limbeck.data.augment import Augmentation
from limbeck.data.random import permutation
from limbeck.data.samples import Arrays, Batch, Samples
from limbeck.errors import InputError

__all__ = ["Loader", "as_float", "by_length"]

_ALIKE = 32  # batches among which samples are put together by length


@dataclass(frozen=True)
class Loader:
    """Yields the batches of an epoch.

    ``batch_size`` is that of all processes together: each of W processes gets its part of every
    batch, so the result of training does not depend on W. A shuffled epoch drops the last,
    incomplete batch; one in order keeps it. Where samples differ in length, those of a shuffled
    batch are about as long as one another, so that little is padded: chance decides which 32
    batches' samples are sorted by length and cut into batches, and in which order these come.

    Attributes:
        samples: what it reads.
        batch_size: B, at least 1 and at most N (a larger one is cut to N when shuffling).
        shuffle: a new order for each (seed, epoch), or the order of the set.
        seed: of the order; the augmentation has its own.
        augment: applied to every batch; ``None`` changes nothing. Random transforms inside a data
            set (:class:`limbeck.data.Items`) follow its seed, or 0 without one, so that a knowledge
            store and every loader show the same views. If it mixes samples, partners come from all
            of ``samples``, unless it has a pool; then each is read twice as often.
        views: epoch e shows view e mod ``views``; 0 means that each epoch is a view of its own.
        rank: this process, from 0 to W − 1.
        world: W.

    >>> from limbeck.data import Arrays
    >>> data = Arrays.of(inputs=torch.arange(5.))
    >>> [batch["inputs"].tolist() for batch in Loader(data, batch_size=2).epoch(0)]
    [[0.0, 1.0], [2.0, 3.0], [4.0]]
    >>> Loader(data, batch_size=2, shuffle=True).steps
    2
    """

    samples: Samples
    batch_size: int
    shuffle: bool = False
    seed: int = 0
    augment: Augmentation | None = None
    views: int = 0
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1 or len(self.samples) == 0:
            raise InputError(
                f"{len(self.samples)} samples in batches of {self.batch_size}",
                expected="at least one sample and batches of at least one",
            )
        if self.shuffle and min(self.batch_size, len(self.samples)) % self.world:
            raise InputError(
                f"batches of {min(self.batch_size, len(self.samples))} samples for {self.world} "
                "processes",
                expected="a batch size that the number of processes divides",
                remedy="batch_size counts the samples of all processes together.",
            )

    @property
    def steps(self) -> int:
        """The number of batches in an epoch."""
        full, rest = divmod(len(self.samples), self.batch_size)
        return max(1, full) if self.shuffle else full + bool(rest)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield this process's part of each batch, from batch ``start`` on."""
        whole = self._batches(epoch)[start:]
        parts = [rows.tensor_split(self.world)[self.rank] for rows in whole]
        view = epoch % self.views if self.views else epoch
        augment = self.augment.over(self.samples) if self.augment else None
        found = self.samples.batches(parts, view, augment.seed if augment else 0)
        if augment is None:
            yield from map(as_float, found)
        elif augment.mixes:
            for batch, partner in zip(found, self._partners(augment, parts, view), strict=True):
                yield as_float(augment(batch, partner))
        else:
            yield from (as_float(augment(batch)) for batch in found)

    def _partners(self, augment: Augmentation, parts: list[Tensor], view: int) -> Iterator[Batch]:
        """Return, for each part, the samples that its samples are mixed with."""
        assert augment.pool is not None
        ids = self.samples.ids
        rows = [augment.partners(ids[part.to(ids.device)], view) for part in parts]
        return augment.pool.batches(rows, view, augment.seed)

    def _batches(self, epoch: int) -> list[Tensor]:
        """Return the rows of each batch of an epoch."""
        count = len(self.samples)
        if not self.shuffle:
            return list(torch.arange(count).split(self.batch_size))
        order = permutation(count, self.seed, epoch)[: self.steps * self.batch_size]
        if not isinstance(self.samples, Arrays) or self.samples.lengths is None:
            return list(order.split(self.batch_size))
        alike = [by_length(self.samples, rows) for rows in order.split(_ALIKE * self.batch_size)]
        batches = torch.cat(alike).split(self.batch_size)
        return [batches[place] for place in permutation(len(batches), self.seed + 1, epoch)]

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)

    def __len__(self) -> int:
        return self.steps


def by_length(samples: Samples, rows: Tensor | None = None) -> Tensor:
    """Return rows in the order of their lengths, so that little is padded; all rows by default.

    Samples without lengths keep their order.
    """
    chosen = torch.arange(len(samples)) if rows is None else rows
    lengths = samples.lengths if isinstance(samples, Arrays) else None
    if lengths is None:
        return chosen
    return chosen[lengths.to(chosen.device)[chosen].argsort(stable=True)]


def as_float(batch: Batch) -> Batch:
    """Return the batch with uint8 fields as float32 from 0 to 1; labels stay as they are.

    >>> as_float({"inputs": torch.tensor([255], dtype=torch.uint8)})["inputs"]
    tensor([1.])
    """
    return {
        name: value if name == "targets" else tree_map(_as_float, value)
        for name, value in batch.items()
    }


def _as_float(value: Any) -> Any:
    is_image = isinstance(value, Tensor) and value.dtype == torch.uint8
    return value.float().div_(255) if is_image else value
