"""Making the splits that a source does not have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from limbeck.data.samples import Samples
from limbeck.data.sources.encoded import in_memory
from limbeck.data.splits import Data, carve

__all__ = ["complete"]


def complete(
    found: Mapping[str, Samples],
    labels: tuple[str, ...],
    name: str,
    *,
    validation: float,
    test: float,
    seed: int,
    limit: int | None = None,
) -> Data:
    """Return data with all three splits: those found, the others cut from the training samples.

    Sample ids are those of the set that a split came from; classes without names get their numbers.
    Encoded images that stay after ``limit`` are decoded here, if memory holds them.

    Args:
        found: the splits that are there, ``train`` at least.
        labels: the classes' names, or none.
        name: for messages and reports.
        validation: fraction of the training samples, if there is no such split.
        test: fraction of the training samples, if there is no such split.
        seed: of the cuts.
        limit: at most so many training samples, and half as many of the others.
    """
    train, splits = found["train"], dict(found)
    for split, fraction in (("test", test), ("validation", validation)):
        if split not in found:
            train, splits[split] = carve(train, fraction, seed=seed)
    if not labels:
        parts = (train, splits["validation"], splits["test"])
        columns = [part.column("targets") for part in parts]
        several = columns[0].ndim == 2
        classes = columns[0].shape[1] if several else 1 + max(int(c.max()) for c in columns)
        labels = tuple(str(number) for number in range(classes))
    whole = Data(train, splits["validation"], splits["test"], labels, name)
    data = whole if limit is None else whole.limited(limit)
    return replace(
        data,
        train=in_memory(data.train),
        validation=in_memory(data.validation),
        test=in_memory(data.test),
    )
