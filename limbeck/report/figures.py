"""The figures of the page: plain data in, in the units that are shown, a plotly figure out.

Colours are those of the light scheme; the page's script exchanges each for its dark counterpart.

Letters: C classes, K bins.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = [
    "DARK",
    "LIGHT",
    "Curve",
    "base_axis",
    "base_figure",
    "classes",
    "confusions",
    "curves",
    "dot_trace",
    "hue",
    "line_trace",
    "log_ticks",
    "mark",
    "plain",
    "reliability",
    "signed",
    "similarity",
    "spaced",
]

_COLOURS = {
    "paper": ("#fffefb", "#15171a"),
    "ink": ("#21201d", "#e9e6e1"),
    "quiet": ("#66625b", "#a8a49d"),
    "rule": ("#e6e2da", "#34373c"),
    "teacher": ("#1d5fa6", "#7db4f0"),
    "student": ("#bd3d08", "#ff9560"),
    "control": ("#6e6a64", "#b4b0aa"),
    "teacher_tint": ("#a9cbef", "#24507f"),
    "student_tint": ("#f7bd9c", "#7d3a14"),
    "control_tint": ("#cfcbc4", "#57544f"),
    "for": ("#fdb268", "#94500f"),
    "against": ("#cbb8ea", "#5b3f8f"),
}
LIGHT = {name: light for name, (light, _) in _COLOURS.items()}
DARK = {name: dark for name, (_, dark) in _COLOURS.items()}
_SYMBOLS = {"teacher": "diamond", "student": "circle", "control": "circle-open"}
_SIZES = {"teacher": 12, "student": 8, "control": 12}  # so that each is seen where all coincide
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_ROUND: Sequence[Sequence[float]] = (
    *([1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7], [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9]),
    *([n / 2 for n in range(2, 20)], [n / 20 for n in range(20, 200)]),
)
_Floats = NDArray[np.float64]
_Part = dict[str, Any]


@dataclass(frozen=True)
class Curve:
    """One model's course: a value for each epoch, and which epoch is to be marked."""

    role: str
    name: str
    values: Sequence[float]
    best: int | None = None


def plain(text: object, longest: int = 60, *, tail: bool = False) -> str:
    """Return a text that plotly shows as it stands, cut to its head or its tail.

    >>> plain("<b>cat</b>"), plain("encoder.layer.11.output", 10, tail=True)
    ('&lt;b&gt;cat&lt;/b&gt;', '….11.output')
    """
    flat = " ".join(str(text).split())
    if len(flat) > longest:
        flat = "…" + flat[-longest:] if tail else flat[:longest] + "…"
    return html.escape(flat, quote=False)


def spaced(places: Sequence[float], gap: float) -> list[float]:
    """Return places at least ``gap`` apart, in the same order, each near where it was.

    >>> spaced([1.0, 1.0, 5.0], 1.0)
    [0.5, 1.5, 5.0]
    """
    order = sorted(range(len(places)), key=lambda n: places[n])
    groups: list[list[float]] = []
    for n in order:
        groups.append([places[n]])
        while len(groups) > 1 and _seats(groups[-1], gap)[0] - _seats(groups[-2], gap)[-1] < gap:
            groups[-2:] = [groups[-2] + groups[-1]]
    seats = [seat for group in groups for seat in _seats(group, gap)]
    return [seat for _, seat in sorted(zip(order, seats, strict=True))]


def log_ticks(low: float, high: float) -> list[float]:
    """Return up to five round numbers between two positive bounds.

    >>> log_ticks(0.8, 120)
    [1.0, 10.0, 100.0]
    """
    ticks: list[float] = []
    for mantissas in _ROUND:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        candidates = [float(f"{m * 10.0**power:.4g}") for power in powers for m in mantissas]
        ticks = [tick for tick in candidates if low <= tick <= high]
        if len(ticks) >= 3:
            break
    return ticks[:: math.ceil(len(ticks) / 5) or 1]


def signed(value: float, decimals: int = 1) -> str:
    """Return a difference with its sign.

    >>> signed(-1.25), signed(0.04)
    ('−1.2', '0.0')
    """
    shown = f"{value:+.{decimals}f}".replace("-", "−")
    return shown if shown.strip("+−0.") else shown[1:]


def curves(lines: Sequence[Curve], unit: str = "", *, log: bool = False) -> Figure:
    """Draw courses over epochs, a thin line each, roles named at the right."""
    low, high = _window(lines, log=log)
    height = base_axis(range=[low, high], nticks=6)
    if log:
        ticks = log_ticks(10**low, 10**high)
        height |= {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    last = max(len(line.values) for line in lines)
    return base_figure(
        [trace for line in lines for trace in _course(line, unit)],
        height=280,
        margin_r=64,
        xaxis=base_axis("epoch", range=[0, last + 0.5], showgrid=False, nticks=7),
        yaxis=height,
        annotations=_ends(lines, (low, high), log=log),
    )


def classes(names: Sequence[str], scores: Mapping[str, Sequence[float]], base: str) -> Figure:
    """Draw each class's accuracy in percent, a mark for each role, from the top down.

    The student's gain over the role ``base`` stands at the right.
    """
    rows = list(range(len(names)))[::-1]
    pairs = list(zip(rows, scores[base], scores["student"], strict=True))
    ends = [(end, row) for row, low, high in pairs for end in (low, high, None)]
    traces = [line_trace(*zip(*ends, strict=True), color=LIGHT["student_tint"], width=3)]
    shown = [plain(name) for name in names]
    for role, values in scores.items():
        told = f"%{{customdata}}, {role}: %{{x:.1f}} %<extra></extra>"
        traces.append(
            dot_trace(values, rows, mark(role, _SIZES[role]), told) | {"customdata": shown}
        )
    ticks: _Part = {"tickvals": rows, "ticktext": [plain(name, 16) for name in names]}
    gains = [signed(own - other) for _, other, own in pairs]
    return base_figure(
        traces,
        height=64 + 24 * len(names),
        margin_r=14 + 8 * max(map(len, gains)),
        xaxis=base_axis(ticksuffix="%", nticks=5, tickangle=0),
        yaxis=base_axis(range=[-0.7, len(names) - 0.3], showgrid=False, **ticks),
        annotations=[
            _label(gain, LIGHT["ink"], row) for row, gain in zip(rows, gains, strict=True)
        ],
    )


def confusions(names: Sequence[str], points: _Floats) -> Figure:
    """Draw a difference of confusions (C, C), in points: labels down, answers across."""
    most = float(np.nanmax(np.abs(points), initial=0.0)) or 1.0
    texts = [[signed(v, 0) if abs(v) >= 0.5 else "" for v in row] for row in points]
    shades = [[0, LIGHT["teacher_tint"]], [0.5, LIGHT["paper"]], [1, LIGHT["student_tint"]]]
    ticks = [plain(name, 12) for name in names]
    trace = _map(points, texts if len(names) <= 12 else None) | {
        "colorscale": shades,
        "zmin": -most,
        "zmax": most,
        "customdata": [[f"{a} taken for {b}" for b in ticks] for a in ticks],
        "hovertemplate": "%{customdata}: %{z:+.1f} points<extra></extra>",
    }
    return _grid(trace, ticks, ticks, min(40, max(22, 400 // len(names))))


def reliability(role: str, found: _Floats) -> Figure:
    """Draw how often answers are right over how sure they were; larger dots hold more samples.

    Each of the K bins has its mean confidence and share of right answers, in percent, and count.
    """
    sure, right, count = found.T.tolist()
    sizes = [5 + 17 * math.sqrt(each / sum(count)) for each in count]
    told = "%{customdata:,} answers, %{x:.0f}% sure: %{y:.0f}% right<extra></extra>"
    rim = {"color": LIGHT["paper"], "width": 1}
    dots = dot_trace(sure, right, {"color": hue(role), "size": sizes, "line": rim}, told)
    ideal = line_trace([0, 100], [0, 100], color=LIGHT["quiet"], width=1, dash="dot")
    joined = line_trace(sure, right, color=hue(role), width=1)
    axis: _Part = {"range": [0, 103], "tickvals": [0, 25, 50, 75, 100]}
    across = base_axis("how sure, %", showgrid=False, **axis)
    traces = [ideal, joined, dots | {"customdata": count}]
    return base_figure(traces, height=270, xaxis=across, yaxis=base_axis(**axis))


def similarity(found: Mapping[str, Sequence[Any]], role: str) -> Figure:
    """Draw the alignment of layers, 0 to 1: the teacher's down, the other's across."""
    rows, columns = ([plain(n, 20, tail=True) for n in found[side]] for side in ("first", "second"))
    grid = np.asarray(found["cka"], float)
    texts = [[f"{value:.2f}" for value in row] for row in grid]
    trace = _map(grid, texts if len(columns) <= 8 else None) | {
        "colorscale": [[0, LIGHT["paper"]], [1, LIGHT.get(f"{role}_tint", LIGHT["rule"])]],
        "zmin": 0,
        "zmax": 1,
        "customdata": [[f"teacher {row}, {role} {column}" for column in columns] for row in rows],
        "hovertemplate": "%{customdata}: %{z:.2f}<extra></extra>",
    }
    return _grid(trace, columns, rows, max(20, min(44, 440 // len(rows))))


def base_figure(traces: Sequence[_Part], **layout: Any) -> Figure:
    """Return a figure in the page's one style; plotly is imported here and nowhere else."""
    from plotly.graph_objects import Figure

    style = {
        "template": {},
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "font": {"family": _FONT, "size": 13, "color": LIGHT["ink"]},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": False,
        "dragmode": False,
        "hoverlabel": {"bgcolor": LIGHT["paper"], "bordercolor": LIGHT["quiet"]},
    }
    return Figure([{"type": "scatter"} | trace for trace in traces], style).update_layout(**layout)


def base_axis(title: str = "", **own: Any) -> _Part:
    """Return an axis in the page's one style."""
    quiet = {"color": LIGHT["quiet"], "size": 12}
    named = {"title": {"text": title, "font": quiet, "standoff": 6}, "tickfont": quiet}
    fixed = {"gridcolor": LIGHT["rule"], "zeroline": False, "fixedrange": True, "automargin": True}
    return named | fixed | {"ticks": "", "ticklabelstandoff": 4} | own


def _grid(trace: _Part, across: Sequence[str], down: Sequence[str], each: int) -> Figure:
    """Lay out a map. Its cells are numbered: names may be equal or look like numbers."""
    slanted = -45 if max(map(len, across)) > 3 else 0
    columns, rows = list(range(len(across))), list(range(len(down)))
    return base_figure(
        [trace],
        plot_bgcolor=LIGHT["rule"],
        height=(100 if slanted else 50) + each * len(rows),
        xaxis=base_axis(tickvals=columns, ticktext=across, tickangle=slanted, showgrid=False),
        yaxis=base_axis(tickvals=rows, ticktext=down, autorange="reversed", showgrid=False),
    )


def _map(values: _Floats, texts: list[list[str]] | None) -> _Part:
    rows = [[None if math.isnan(value) else value for value in row] for row in values.tolist()]
    found: _Part = {"type": "heatmap", "z": rows, "showscale": False, "xgap": 1, "ygap": 1}
    if texts:
        font = {"size": 12, "color": LIGHT["ink"]}
        found |= {"text": texts, "texttemplate": "%{text}", "textfont": font}
    return found | {"hoverongaps": False}


def _course(line: Curve, unit: str) -> list[_Part]:
    told = f"{plain(line.name)}, epoch %{{x}}: %{{y:.4~g}}{unit}<extra></extra>"
    epochs = range(1, len(line.values) + 1)
    course = line_trace(epochs, line.values, color=hue(line.role), width=1.4)
    course |= {"opacity": 0.8, "hoverinfo": "all", "hovertemplate": told}
    if line.best is None:
        return [course]
    return [
        course,
        dot_trace([line.best + 1], [line.values[line.best]], mark(line.role, 8), told),
    ]


def _window(lines: Sequence[Curve], *, log: bool) -> tuple[float, float]:
    """Return the bounds of the axis, without the outliers that first epochs often are."""
    values = np.concatenate([np.asarray(line.values, float) for line in lines])
    if log:
        low, high = np.log10([values.min(), values.max()])
    else:
        kept = [line.values[-1] for line in lines]
        kept += [line.values[line.best] for line in lines if line.best is not None]
        first, third = np.quantile(values, [0.25, 0.75])
        fences = first - 1.5 * (third - first), third + 1.5 * (third - first)
        low = min(max(values.min(), fences[0]), *kept)
        high = max(min(values.max(), fences[1]), *kept)
    pad = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return float(low - pad), float(high + pad)


def _ends(lines: Sequence[Curve], bounds: tuple[float, float], *, log: bool) -> list[_Part]:
    """Return each role's name at the height where its lines end."""
    gap = 0.075 * (bounds[1] - bounds[0])
    roles = list(dict.fromkeys(line.role for line in lines))
    heights = []
    for role in roles:
        mean = float(np.mean([line.values[-1] for line in lines if line.role == role]))
        heights.append(math.log10(mean) if log else mean)
    seats = np.array(spaced(heights, gap))
    seats -= max(0.0, seats.max() - bounds[1]) + min(0.0, seats.min() - bounds[0])
    named = zip(roles, seats.tolist(), strict=True)
    return [_label(plain(role), hue(role), seat) for role, seat in named]


def line_trace(x: Sequence[Any], y: Sequence[Any], **line: Any) -> _Part:
    """Return a line that says nothing when it is pointed at."""
    return {"x": list(x), "y": list(y), "mode": "lines", "line": line, "hoverinfo": "skip"}


def dot_trace(x: Sequence[float], y: Sequence[float], marker: _Part, told: str) -> _Part:
    """Return points, and what each tells when it is pointed at."""
    shown = {"mode": "markers", "marker": marker, "hovertemplate": told, "cliponaxis": False}
    return {"x": list(x), "y": list(y)} | shown


def _label(text: str, colour: str, height: float) -> _Part:
    """Return a text at the right edge."""
    place = {"xref": "paper", "x": 1, "y": height, "xanchor": "left", "xshift": 6}
    font = {"color": colour, "size": 13}
    return place | {"yanchor": "middle", "text": text, "showarrow": False, "font": font}


def mark(role: str, size: int) -> _Part:
    """Return how a role is marked."""
    symbol, colour = _SYMBOLS.get(role, "square"), hue(role)
    hollow = symbol.endswith("open")
    rim = {"color": colour if hollow else LIGHT["paper"], "width": 1.8 if hollow else 1}
    return {"color": colour, "size": size, "symbol": symbol, "line": rim}


def hue(role: str) -> str:
    """Return a role's colour in the light scheme."""
    return LIGHT.get(role, LIGHT["ink"])


def _seats(group: Sequence[float], gap: float) -> list[float]:
    """Return places ``gap`` apart around the mean of a group."""
    first = sum(group) / len(group) - gap * (len(group) - 1) / 2
    return [first + gap * n for n in range(len(group))]
