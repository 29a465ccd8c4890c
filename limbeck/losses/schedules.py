"""Numbers that change while training goes on: a weight, a temperature.

A schedule is any callable that takes the progress of training, from 0 at the first step to 1 at the
end, and returns the number to use.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from limbeck.errors import InputError

__all__ = ["Schedule", "constant", "cosine", "linear", "value_at", "warmup"]

Schedule = Callable[[float], float]


def constant(value: float) -> Schedule:
    """Stay at ``value``.

    >>> constant(0.9)(0.5)
    0.9
    """
    return lambda progress: value


def linear(start: float, end: float) -> Schedule:
    """Go from ``start`` to ``end`` in a straight line.

    >>> linear(1.0, 0.0)(0.25)
    0.75
    """
    return lambda progress: start + (end - start) * progress


def cosine(start: float, end: float) -> Schedule:
    """Go from ``start`` to ``end`` along half a cosine: slowly, fast, slowly.

    >>> cosine(1.0, 0.0)(0.5)
    0.5
    """
    return lambda progress: end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def warmup(value: float, fraction: float = 0.1) -> Schedule:
    """Rise from 0 to ``value`` over the first ``fraction`` of training, then stay.

    >>> warmup(8.0, fraction=0.5)(0.25)
    4.0
    """
    if not 0 < fraction <= 1:
        raise InputError(f"warmup's fraction is {fraction}", expected="above 0 and at most 1")
    return lambda progress: value * min(1.0, progress / fraction)


def value_at(value: float | Schedule, progress: float) -> float:
    """Return a plain number as it is and a schedule's number at ``progress``."""
    return value(progress) if callable(value) else value
