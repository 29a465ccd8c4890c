"""What the page shows of the insides: groups of differences, maps, rounding layer by layer.

Letters: N samples, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from limbeck.report.figures import LIGHT, base_axis, base_figure, dot_trace, plain

__all__ = ["differences", "maps", "rounding", "scattered"]

_Found = Mapping[str, Any]
_HEADINGS = {"class": "By class", "confidence": "By how sure the teacher is", "length": "By length"}
_COLUMNS = {"class": "Class", "confidence": "Teacher’s confidence", "length": "Length"}
_MOST_ROWS, _MOST_IN_GRID, _MOST_PAIRS = 20, 12, 15
_OTHERS = "other classes"
# Of like lightness, so that they are seen on white and on black; symbols help who sees no colours.
_COLOURS = (
    "#4a8ad4", "#e8833a", "#35a06c", "#d9544f", "#a277d0",
    "#b08a1e", "#2ba3a3", "#d66ba8", "#7f9a2f", "#a3704c",
)  # fmt: skip
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross")
_MARKS = ("●", "◆", "■", "▲", "✚")


def differences(details: _Found) -> dict[str, Any] | None:
    """Return the groups of samples on which teacher and student differ, as tables show them.

    Only groups of which an example is on the page can be chosen: they have ``shown`` above 0.
    """
    found = details.get("differences")
    if not found:
        return None
    shown = Counter(token for entry in _entries(details) for token in tokens(entry))
    tables = []
    for kind, groups in found["groupings"].items():
        cut = False
        rows = [group | {"shown": shown[f"{kind}-{group['key']}"]} for group in groups]
        if kind == "class":
            changed = [row for row in rows if row["lost"] or row["won"] or row["shown"]]
            order = sorted(changed, key=lambda row: (-row["lost"], -row["won"]))
            rows, cut = order[:_MOST_ROWS], len(order) > _MOST_ROWS
        most = max((max(row["lost"], row["won"]) for row in rows), default=0)
        told = {"kind": kind, "heading": _HEADINGS[kind], "column": _COLUMNS[kind], "cut": cut}
        tables.append(told | {"rows": rows, "most": most, "all": len(groups)})
    moves = [move | {"shown": shown[f"move-{move['key']}"]} for move in found["moves"]]
    return {
        "of": found["of"],
        "lost": sum(group["lost"] for group in found["groupings"]["class"]),
        "won": sum(group["won"] for group in found["groupings"]["class"]),
        "tables": [table for table in tables if table["rows"]],
        "grid": _grid(moves),
        "moves": moves[:_MOST_PAIRS],
    }


def tokens(entry: _Found) -> list[str]:
    """Return by what names the page finds an example: of its groups, and its own.

    >>> tokens({"id": 7, "in": {"class": 3, "move": "3-8"}})
    ['class-3', 'move-3-8', 'id-7']
    """
    groups = (entry.get("in") or {}).items()
    return [*(f"{kind}-{key}" for kind, key in groups), f"id-{entry['id']}"]


def maps(details: _Found) -> dict[str, Any] | None:
    """Return both maps of the samples, and what their colours mean."""
    found = details.get("maps")
    if not found:
        return None
    names = list(details.get("labels") or range(max(found["labels"]) + 1))
    said = [found[role]["answers"] for role in ("teacher", "student")]
    differ = [n for n, (one, other) in enumerate(zip(*said, strict=True)) if one != other]
    kept = _coloured(found["labels"], differ)
    marks = [
        {"name": str(names[number]), "mark": _MARKS[place % 5], "colour": _COLOURS[place]}
        for place, number in enumerate(kept)
    ]
    if set(found["labels"]) - set(kept):
        marks.append({"name": _OTHERS, "mark": "●", "colour": "var(--control_tint)"})
    figures = {role: scattered(found, role, names, kept, differ) for role in ("teacher", "student")}
    return {
        "figures": figures,
        "marks": marks,
        "count": len(found["labels"]),
        "differ": len(differ),
        "taps": {role: found[role]["tap"].removesuffix(":input") for role in figures},
        "shares": {role: found[role]["share"] for role in figures},
        "disparity": found["disparity"],
    }


def scattered(
    found: _Found, role: str, names: Sequence[Any], kept: Sequence[int], differ: Sequence[int]
) -> Any:
    """Draw one model's map: a point for each sample, with a rim if it gets two answers.

    Args:
        found: ``ids``, ``labels``, and of both roles ``xy`` and ``answers``.
        role: whose map it is.
        names: of the classes.
        kept: classes with a colour of their own; the others share one.
        differ: rows of the samples with a rim.
    """
    points, labels = np.asarray(found[role]["xy"], float), np.asarray(found["labels"])
    told = "%{customdata[0]}; teacher: %{customdata[1]}, student: %{customdata[2]}<extra></extra>"
    words = [plain(names[n], 24) for n in range(len(names))]
    facts = [
        [words[label], words[one], words[other], number]
        for label, one, other, number in zip(
            labels.tolist(), found["teacher"]["answers"], found["student"]["answers"],
            found["ids"], strict=True,
        )
    ]  # fmt: skip
    parts = [(~np.isin(labels, kept), LIGHT["control_tint"], "circle")]
    parts += [
        (labels == number, _COLOURS[place], _SYMBOLS[place % len(_SYMBOLS)])
        for place, number in enumerate(kept)
    ]
    apart = np.isin(np.arange(len(labels)), list(differ))
    traces = []
    for differs in (False, True):  # those with a rim last, so that they are seen
        rim = {"color": LIGHT["ink"], "width": 1.3 if differs else 0}
        for inside, colour, symbol in parts:
            rows = np.flatnonzero(inside & (apart == differs)).tolist()
            if rows:
                marker: dict[str, Any] = {
                    "color": colour,
                    "symbol": symbol,
                    "size": 8 if differs else 6,
                }
                marker |= {"line": rim, "opacity": 0.9 if differs else 0.75}
                across, up = points[rows].T.tolist()
                trace = dot_trace(across, up, marker, told)
                traces.append(trace | {"customdata": [facts[row] for row in rows]})
    most = 1.06 * max(np.abs(found[each]["xy"]).max() for each in ("teacher", "student"))
    bare: dict[str, Any] = {"range": [-most, most], "showticklabels": False, "showgrid": False}
    return base_figure(
        traces,
        height=400,
        xaxis=base_axis(**bare, constrain="domain"),
        yaxis=base_axis(**bare, scaleanchor="x", constrain="domain"),
    )


def rounding(details: _Found) -> list[dict[str, Any]]:
    """Return, for each file of integers, what rounding changed in its layers."""
    found = []
    for name, file in (details.get("rounding") or {}).items():
        layers = file["layers"]
        told = [layer["activations"] for layer in layers if layer["activations"] is not None]
        if told:
            least = min(
                (layer for layer in layers if layer["activations"] is not None),
                key=lambda layer: layer["activations"],
            )
            drops = any(layer["drop"] is not None for layer in layers)
            most = max(60.0, *told)
            found.append(
                {"name": name, **file, "least": least, "most": min(most, 80.0), "drops": drops}
            )
    return found


def _entries(details: _Found) -> Iterable[_Found]:
    groups = (details.get("examples") or {}).get("groups") or []
    return (entry for group in groups for entry in group["samples"])


def _grid(moves: Sequence[_Found]) -> dict[str, Any] | None:
    """Return a table of the teacher's answers by the student's, if there are few enough."""
    order = sorted({(int(part), move[side]) for move in moves for side, part in _sides(move)})
    if not 2 < len(order) <= _MOST_IN_GRID:
        return None
    cells = {move["key"]: move for move in moves}
    return {
        "names": [name for _, name in order],
        "rows": [
            (name, [cells.get(f"{one}-{other}") for other, _ in order]) for one, name in order
        ],
        "most": max(move["count"] for move in moves),
    }


def _sides(move: _Found) -> list[tuple[str, str]]:
    return list(zip(("teacher", "student"), move["key"].split("-"), strict=True))


def _coloured(labels: Sequence[int], differ: Sequence[int]) -> list[int]:
    """Return which classes get a colour of their own: those with the most differences."""
    counts, size = Counter(labels[row] for row in differ), len(_COLOURS)
    order = sorted(set(labels), key=lambda number: (-counts[number], number))
    return sorted(order if len(order) <= size else order[: size - 1])
