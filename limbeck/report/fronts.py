"""Plots of quality over a cost, for several ways to make a model smaller."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.report.figures import (
    LIGHT,
    base_axis,
    base_figure,
    dot_trace,
    line_trace,
    log_ticks,
    plain,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["best_at_each_cost", "fronts"]

_LOOKS = {
    "teacher": ("ink", "diamond"),
    "distil": ("student", "circle"),
    "prune": ("quiet", "triangle-up"),
    "prune, then distil": ("teacher", "square"),
    "train alone": ("quiet", "x-thin"),
}
_ROUNDED = "quantize"
Spot = tuple[float, Sequence[float]]


def fronts(
    ways: Mapping[str, Sequence[Spot]], told: Callable[[float], str], *, higher: bool
) -> Figure:
    """Draw a line for each way, and in grey the best that there is at each cost.

    A way and the same with integers have one colour, the latter is hollow and dashed.

    Args:
        ways: for each, costs and the scores of all seeds at that cost.
        told: puts a cost into words.
        higher: whether higher scores are better.
    """
    spots = [spot for way in ways.values() for spot in way]
    costs = [math.log10(cost) for cost, _ in spots]
    across = max(costs) - min(costs) or 0.6
    ends = [min(costs) - 0.45 * across, max(costs) + 0.3 * across]
    ticks = log_ticks(10 ** ends[0], 10 ** ends[1])
    steps = best_at_each_cost([(c, float(np.mean(v))) for c, v in spots], higher=higher)
    stair = line_trace(*zip(*steps, strict=True), color=LIGHT["rule"], width=6)
    traces = [stair | {"line": {**stair["line"], "shape": "hv"}}]
    for way, found in ways.items():
        base = "teacher" if way == _ROUNDED else way.removesuffix(f", {_ROUNDED}")
        colour, symbol = _LOOKS.get(base, ("ink", "circle"))
        traces += _way(way, sorted(found), LIGHT[colour], symbol, hollow=way != base)
    seen = [value for _, values in spots for value in values]
    room = 0.08 * (max(seen) - min(seen)) or 0.01 * abs(seen[0]) or 1
    shown: dict[str, Any] = {
        "tickvals": ticks,
        "ticktext": [told(t) for t in ticks],
        "showgrid": False,
    }
    return base_figure(
        traces,
        height=420,
        xaxis=base_axis(type="log", range=ends, **shown),
        yaxis=base_axis(range=[min(seen) - room, max(seen) + room], nticks=7),
    )


def best_at_each_cost(
    spots: Sequence[tuple[float, float]], *, higher: bool
) -> list[tuple[float, float]]:
    """Return the spots that no other beats at the same cost or less, from the cheapest on.

    >>> best_at_each_cost([(1, 0.5), (2, 0.4), (3, 0.9)], higher=True)
    [(1, 0.5), (3, 0.9)]
    """
    sign = 1 if higher else -1
    found: list[tuple[float, float]] = []
    for cost, score in sorted(spots, key=lambda spot: (spot[0], -sign * spot[1])):
        if not found or sign * score > sign * found[-1][1]:
            found.append((cost, score))
    return found


def _way(
    way: str, spots: Sequence[Spot], colour: str, symbol: str, *, hollow: bool
) -> list[dict[str, Any]]:
    costs = [cost for cost, _ in spots]
    means = [float(np.mean(values)) for _, values in spots]
    every = [(cost, value) for cost, values in spots for value in values]
    marker = {
        "color": LIGHT["paper"] if hollow else colour,
        "size": 10,
        "symbol": symbol,
        "line": {"color": colour, "width": 1.8},
    }
    places, scores = zip(*every, strict=True)
    faint = dot_trace(places, scores, {"color": colour, "size": 5}, "")
    blanks, words = [""] * (len(spots) - 1), f"  {plain(way)}  "
    named = {
        "mode": "markers+text",
        "text": [words, *blanks] if hollow else [*blanks, words],
        "textposition": "middle left" if hollow else "middle right",
        "textfont": {"color": colour},
    }
    line = line_trace(costs, means, color=colour, width=1.4, dash="dash" if hollow else "solid")
    whole = dot_trace(costs, means, marker, f"{plain(way)}: %{{y:.4~g}}<extra></extra>")
    return [line, faint | {"opacity": 0.35, "hoverinfo": "skip"}, whole | named]
