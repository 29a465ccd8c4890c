"""Making the splits that a source does not have."""

from __future__ import annotations

from collections.abc import Mapping

from limbeck.data.samples import Samples
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
) -> Data:
    """Return data with all three splits: those found, the others cut from the training samples.

    Sample ids are those of the set that a split came from; classes without names get their numbers.
    """
    train, splits = found["train"], dict(found)
    for split, fraction in (("test", test), ("validation", validation)):
        if split not in found:
            train, splits[split] = carve(train, fraction, seed=seed)
    if not labels:
        parts = (train, splits["validation"], splits["test"])
        classes = 1 + max(int(part.column("targets").max()) for part in parts)
        labels = tuple(str(number) for number in range(classes))
    return Data(train, splits["validation"], splits["test"], labels, name)
