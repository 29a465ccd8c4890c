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
        free = [k for k, box in enumerate(boxes) if _clear(box, others, size)]
        best = free[0] if free else 0
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


def _clear(box: _Box, others: Sequence[_Box], size: tuple[float, float]) -> bool:
    inside = box[0] >= 0 and box[2] <= size[0] and box[1] >= 0 and box[3] <= size[1]
    return inside and not any(
        box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
        for other in others
    )
