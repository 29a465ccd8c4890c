"""The taps that methods have by default, and lists of them in pairs."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.errors import InputError
from limbeck.losses.schedules import Schedule

__all__ = ["STAGES", "afterwards", "first", "paired"]

STAGES = ("stage[-3]", "stage[-2]", "stage[-1]")


def paired(name: str, student: Sequence[str], teacher: Sequence[str]) -> list[tuple[str, str]]:
    """Return a method's taps in pairs; refuse single names and lists of unequal length."""
    one = isinstance(student, str) or isinstance(teacher, str)
    if one or not student or len(student) != len(teacher):
        raise InputError(
            f"{name} got the student's taps {student!r} and the teacher's {teacher!r}",
            expected="two lists of taps, equally long",
        )
    return list(zip(student, teacher, strict=True))


def first(weight: float, alone: float) -> float | Schedule:
    """Return a weight for the first part of training, or for all of it."""
    if not 0 <= alone < 1:
        raise InputError(f"alone is {alone}", expected="a part of training, from 0 to below 1")
    return (lambda progress: weight if progress < alone else 0.0) if alone else weight


def afterwards(alone: float) -> Schedule | None:
    """Return the label's weight where the first part of training goes without it."""
    return (lambda progress: float(progress >= alone)) if alone else None
