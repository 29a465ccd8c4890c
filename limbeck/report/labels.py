"""Where names stand beside points, so that none covers another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

__all__ = ["Seat", "seats"]

Side = Literal["left", "right"]
Seat = tuple[Side, float]
"""On which side of its point a name stands, and by how many pixels higher than it."""

_HEIGHT, _LETTER, _AWAY = 16.0, 7.3, 8.0  # of a line; of a letter; from a point to its name
_MARK = 6.0  # half of a point
_Box = tuple[float, float, float, float]


def seats(
    spots: Sequence[tuple[float, float]],
    names: Sequence[str],
    wanted: Sequence[Side],
    size: tuple[float, float],
) -> list[Seat]:
    """Return a seat for each name: beside its point if there is room, else as near as there is.

    Where there is none, names cover as little as they can.

    Args:
        spots: the points, in pixels from the lower left.
        names: of the points; a letter counts as 7 pixels.
        wanted: the side on which each stands if there is room.
        size: of the plot, in pixels.

    >>> seats([(50, 50), (52, 52)], ["one", "two"], ["right", "right"], (200, 100))
    [('right', 0), ('left', 0)]
    """
    marks = [(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for x, y in spots]
    taken: list[_Box] = []
    found: list[Seat] = []
    for n, (spot, name, side) in enumerate(zip(spots, names, wanted, strict=True)):
        others = marks[:n] + marks[n + 1 :] + taken
        tries = list(_tries(side, size[1]))
        boxes = [_box(spot, _LETTER * len(name), *each) for each in tries]
        best = min(range(len(tries)), key=lambda k: _covered(boxes[k], others, size))
        taken.append(boxes[best])
        found.append(tries[best])
    return found


def _tries(side: Side, height: float) -> Iterator[Seat]:
    sides: tuple[Side, Side] = ("left", "right") if side == "left" else ("right", "left")
    for step in range(int(height / _HEIGHT)):
        for shift in (step * _HEIGHT, -step * _HEIGHT) if step else (0,):
            for each in sides:
                yield each, shift


def _box(spot: tuple[float, float], width: float, side: Side, shift: float) -> _Box:
    left = spot[0] + _AWAY if side == "right" else spot[0] - _AWAY - width
    middle = spot[1] + shift
    return left, middle - _HEIGHT / 2, left + width, middle + _HEIGHT / 2


def _covered(box: _Box, others: Sequence[_Box], size: tuple[float, float]) -> tuple[float, float]:
    """Return the pixels of a box that lie outside of the plot, and those that lie on others."""
    outside = _shared(box, box) - _shared(box, (0.0, 0.0, *size))
    return round(outside, 3), sum(_shared(box, other) for other in others)


def _shared(one: _Box, other: _Box) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return max(across, 0.0) * max(down, 0.0)
