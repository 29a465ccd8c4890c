"""Quality over a cost: a point for each model, its name beside it.

Plain data in, in the units that are shown, a plotly figure out, as in :mod:`.figures`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.report.figures import (
    LIGHT,
    base_axis,
    base_figure,
    dot_trace,
    hue,
    log_ticks,
    mark,
    plain,
    spaced,
)
from limbeck.report.labels import Seat, seats

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["Point", "against"]

_PLOT = (390.0, 225.0)  # pixels that a narrow column leaves of a plot
_Part = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """What a role's models cost, and how well each seed's does."""

    role: str
    cost: float
    values: Sequence[float]


def against(points: Sequence[Point], told: Callable[[float], str], title: str) -> Figure:
    """Draw quality over a cost, with a bar of one standard deviation and a dot for each seed.

    Points of equal cost stand side by side.
    """
    costs = [math.log10(point.cost) for point in points]
    across = max(costs) - min(costs) or 0.6
    ends = [min(costs) - 0.55 * across, max(costs) + 0.35 * across]
    ticks = log_ticks(10 ** ends[0], 10 ** ends[1])
    shown: _Part = {
        "tickvals": ticks,
        "ticktext": [told(tick) for tick in ticks],
        "showgrid": False,
    }
    seen = [value for point in points for value in _extent(point.values)]
    room = 0.12 * (max(seen) - min(seen)) or 0.01 * abs(seen[0]) or 1
    heights = [min(seen) - room, max(seen) + room]
    places = spaced(costs, 0.03 * (ends[1] - ends[0]))
    means = [float(np.mean(point.values)) for point in points]
    named = seats(
        list(zip(_pixels(places, ends, _PLOT[0]), _pixels(means, heights, _PLOT[1]), strict=True)),
        [_short(point.role) for point in points],
        ["right" if cost in costs[:n] else "left" for n, cost in enumerate(costs)],
        _PLOT,
    )
    whole = zip(points, places, named, strict=True)
    return base_figure(
        [trace for point, place, seat in whole for trace in _scored(point, 10**place, seat)],
        height=290,
        xaxis=base_axis(title, type="log", range=ends, **shown),
        yaxis=base_axis(range=heights, nticks=6),
        annotations=[
            _led(points[n], places[n], means[n], seat) for n, seat in enumerate(named) if seat[1]
        ],
    )


def _scored(point: Point, place: float, seat: Seat) -> list[_Part]:
    """Return a dot for each seed, and the mean with its bar and, if beside it, the role's name."""
    colour, mean = hue(point.role), float(np.mean(point.values))
    dots = dot_trace([place] * len(point.values), point.values, {"color": colour, "size": 6}, "")
    told = f"{plain(point.role)}: %{{y:.4~g}}<extra></extra>"
    bar = {"array": [_deviation(point.values)], "color": colour, "thickness": 1.4, "width": 0}
    whole = dot_trace([place], [mean], mark(point.role, 11), told) | {"error_y": bar}
    if not seat[1]:
        text = {"text": [f" {_short(point.role)} "], "textposition": f"middle {seat[0]}"}
        whole |= text | {"mode": "markers+text", "textfont": {"color": colour}}
    return [dots | {"opacity": 0.35, "hoverinfo": "skip"}, whole]


def _led(point: Point, place: float, mean: float, seat: Seat) -> _Part:
    """Return a role's name above or below its point, and a line from the one to the other."""
    side, higher = seat
    colour, right = hue(point.role), side == "right"
    text = {"text": _short(point.role), "font": {"color": colour, "size": 12}}
    line = {"showarrow": True, "arrowhead": 0, "arrowwidth": 0.8, "arrowcolor": LIGHT["quiet"]}
    away = {"ax": 8 if right else -8, "ay": -higher, "xanchor": "left" if right else "right"}
    return {"x": place, "y": mean} | text | line | away


def _short(role: str) -> str:
    """Return the name that stands in the plot: all files are made of the student."""
    return plain(role.removeprefix("student-"))


def _pixels(values: Sequence[float], ends: Sequence[float], length: float) -> list[float]:
    return [length * (value - ends[0]) / (ends[1] - ends[0]) for value in values]


def _extent(values: Sequence[float]) -> list[float]:
    mean, deviation = float(np.mean(values)), _deviation(values)
    return [*values, mean - deviation, mean + deviation]


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
