"""Schedules go from where they say to where they say."""

from __future__ import annotations

import math

import pytest

from limbeck.losses.schedules import Schedule, constant, cosine, linear, value_at, warmup


@pytest.mark.parametrize(
    ("schedule", "at", "expected"),
    [
        (constant(0.9), 0.0, 0.9),
        (constant(0.9), 1.0, 0.9),
        (linear(1.0, 0.0), 0.0, 1.0),
        (linear(1.0, 0.0), 0.25, 0.75),
        (linear(8.0, 1.0), 1.0, 1.0),
        (linear(-1.0, 1.0), 0.5, 0.0),
        (cosine(1.0, 0.0), 0.0, 1.0),
        (cosine(1.0, 0.0), 1 / 3, 0.75),
        (cosine(1.0, 0.0), 0.5, 0.5),
        (cosine(2.0, 10.0), 1.0, 10.0),
        (warmup(8.0, fraction=0.5), 0.0, 0.0),
        (warmup(8.0, fraction=0.5), 0.25, 4.0),
        (warmup(8.0, fraction=0.5), 0.5, 8.0),
        (warmup(8.0, fraction=0.5), 0.9, 8.0),
        (warmup(8.0, fraction=1.0), 1.0, 8.0),
        (warmup(8.0), 0.1, 8.0),
    ],
)
def test_values(schedule: Schedule, at: float, expected: float) -> None:
    """A weight would begin where it should end."""
    assert schedule(at) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("schedule", [linear(1.0, 0.0), cosine(1.0, 0.0), warmup(-1.0, 0.3)])
def test_monotonic(schedule: Schedule) -> None:
    """A schedule would swing back on the way."""
    values = [schedule(step / 100) for step in range(101)]
    assert values == sorted(values, reverse=True)


def test_cosine_is_slow_at_both_ends() -> None:
    """Half a cosine and a quarter of one have the same ends."""
    fall = cosine(1.0, 0.0)
    assert (
        1 - fall(0.1)
        == pytest.approx(fall(0.9))
        == pytest.approx((1 - math.cos(0.1 * math.pi)) / 2)
    )


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1])
def test_warmup_refuses_impossible_fractions(fraction: float) -> None:
    """A fraction of 0 divides by zero at the first step, one above 1 never arrives."""
    with pytest.raises(ValueError, match="fraction"):
        warmup(1.0, fraction)


def test_value_at() -> None:
    """A plain weight would be called, or a schedule multiplied."""
    assert value_at(0.3, 0.7) == 0.3
    assert value_at(linear(0.0, 2.0), 0.5) == 1.0
