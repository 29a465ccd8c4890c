"""Keeping a few layers as floats, those that lose most as integers: found by measurement."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from limbeck.compress import graphs
from limbeck.compress.tables import tables
from limbeck.errors import InputError

__all__ = ["Mixed", "mixed"]

Make = Callable[[Path, Sequence[str]], object]
Score = Callable[[Path], float]


@dataclass(frozen=True)
class Mixed:
    """Which layers stayed floats, and what that cost.

    Attributes:
        keep: their paths, the most sensitive first.
        score: of the file, with these kept.
        wanted: the score of the float file.
        drops: by how much the score falls if one layer alone is made of integers; empty if none
            had to be kept.
        enough: whether the file is as good as was asked.
    """

    keep: tuple[str, ...]
    score: float
    wanted: float
    drops: Mapping[str, float]
    enough: bool


def mixed(source: Path, target: Path, make: Make, score: Score, *, within: float = 0.005) -> Mixed:
    """Write a file with as few layers kept as floats as a loss of quality allows.

    If the file of integers alone is worse than the float file by more than ``within``, each layer
    is made of integers alone, and the score's fall is its sensitivity. The most sensitive layers
    are then kept, one after another, until the file is good enough.

    Args:
        source: a float ONNX file.
        target: the file to write.
        make: ``make(path, keep)`` writes a file in which layers of these paths are floats.
        score: of a file; higher is better. Of validation data, never of test data.
        within: by how much it may fall.

    Raises:
        InputError: ``within`` is negative.
    """
    if within < 0:
        raise InputError(f"within is {within}", expected="at least 0")
    wanted = score(source)
    make(target, ())
    found, drops = score(target), dict[str, float]()
    if wanted - found <= within:
        return Mixed((), found, wanted, {}, enough=True)
    model = graphs.read(source)
    every = [*graphs.layers(model), *tables(model)]
    with tempfile.TemporaryDirectory() as folder:
        for name in every if len(every) > 1 else ():
            alone = Path(folder) / "alone.onnx"
            make(alone, [other for other in every if not _same(other, name)])
            drops[name] = wanted - score(alone)
    ranked = sorted(drops, key=lambda name: -drops[name])
    for count in range(1, len(ranked)):
        make(target, ranked[:count])
        found = score(target)
        if wanted - found <= within:
            return Mixed(tuple(ranked[:count]), found, wanted, drops, enough=True)
    return Mixed(tuple(ranked[:-1]), found, wanted, drops, enough=False)


def _same(other: str, name: str) -> bool:
    """Say whether keeping ``other`` would keep ``name`` too."""
    return f".{other}." in f".{name}."
