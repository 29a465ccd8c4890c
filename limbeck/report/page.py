"""One self-contained HTML page about a run.

The template holds the prose; here are the numbers in it. What a run does not hold is left out, and
so is what this page does not know, since it must not know a modality.

Letters: C classes, K bins, S seeds.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup, escape
from numpy.typing import ArrayLike, NDArray

from limbeck.report import figures, inside
from limbeck.report.counts import (
    bins,
    calibration_error,
    class_accuracies,
    confusion_difference,
    top_pairs,
)
from limbeck.report.figures import Curve
from limbeck.report.metrics import is_share, title
from limbeck.report.scatter import Point, against
from limbeck.report.steps import ROLES, steps
from limbeck.report.summary import gain, spread

__all__ = ["dressed", "plotted", "prefixed", "render", "template"]

_MOST_CLASSES, _MOST_IN_MAP = 30, 20
_Found = Mapping[str, Any]
_Floats = NDArray[np.float64]
_Rows = list[tuple[str, list[tuple[str, str]]]]


def render(report: _Found, details: _Found, recipe: str) -> str:
    """Return the page.

    Args:
        report: what ``report.json`` holds.
        details: what ``details.json`` holds: histories, confusions, reliability, similarity,
            examples, differences, maps, rounding.
        recipe: the resolved recipe, in YAML.
    """
    return template("run.html").render(
        title=details.get("name") or "A run",
        version=report["limbeck"],
        report=report,
        details=details,
        recipe=recipe,
        models=_models(report),
        metric=title(report["selection"]["metric"]),
        gain=gain(report),
        ratios=_ratios(report),
        table=_table(report),
        training=_training(report, details),
        notes=[*_notes(details), *_sources(report)],
        steps=steps(report, details.get("shipped_seed")),
        costs=_costs(report),
        classes=_classes(details),
        calibration=_calibration(details),
        inside=_alike(details),
        examples=_examples(details),
        differences=inside.differences(details),
        maps=_maps(details),
        rounding=inside.rounding(details),
        **dressed(),
    )


def dressed() -> dict[str, Any]:
    """Return what every page needs: colours, style, and the library that draws."""
    from plotly.offline import get_plotlyjs

    return {
        "light": figures.LIGHT,
        "dark": figures.DARK,
        "shades": {light: figures.DARK[name] for name, light in figures.LIGHT.items()},
        "style": Markup(_text("style.css")),
        "plotly": Markup(get_plotlyjs()),
    }


@cache
def template(name: str) -> Template:
    """Return a template; whatever is put into it is escaped, and a missing name is an error."""
    env = Environment(
        loader=FunctionLoader(_text),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    own = (
        *(_amount, _at, _colour_roles, _millijoules, prefixed, _scale, _source_hash),
        *(_spread, _thousands),
    )
    env.filters.update({each.__name__.strip("_"): each for each in own})
    env.filters |= {"signed": figures.signed, "tokens": inside.tokens}
    env.filters["bytes"] = partial(prefixed, unit="B")
    env.tests["between"] = lambda value, low, high: low <= value <= high
    return env.get_template(name)


def _text(name: str) -> str:
    return files("limbeck.report").joinpath(name).read_text(encoding="utf-8")


def _source_hash(script: str) -> str:
    """Return how a content security policy names the one script that may run."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _colour_roles(sentence: str) -> Markup:
    """Return an escaped sentence in which the roles have their colours."""
    marked = r'<b class="role \1">\1</b>'
    return Markup(re.sub(rf"\b({'|'.join(ROLES)})\b", marked, str(escape(sentence))))


def _amount(value: float | None) -> str:
    """Return a number with three significant digits, or that there is none."""
    if value is None:
        return "not measured"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, decimals):,.{max(0, decimals)}f}".replace("-", "−")


def _thousands(value: int | None) -> str:
    return "not measured" if value is None else f"{value:,}"


def _millijoules(energy: Mapping[str, Any] | None) -> str:
    """Return an energy, ``value`` in joules and its ``source``; an estimate has ≈ before it."""
    if not energy:
        return _amount(None)
    mark = "≈ " if energy["source"].startswith("estimated") else ""
    return mark + _amount(1000 * energy["value"])


def prefixed(value: float | None, unit: str = "", shown: Callable[..., str] = _amount) -> str:
    """Return a number with a prefix for its thousands, and its unit."""
    if value is None:
        return "not measured"
    power = min(4, max(0, math.floor(math.log10(max(value, 1)) / 3)))
    return f"{shown(value / 1000**power)} {('', 'k', 'M', 'G', 'T')[power]}{unit}".rstrip()


def _scale(metric: str) -> tuple[float, str]:
    """Return by what a metric is multiplied, and the unit that it then has."""
    return (100.0, "%") if is_share(metric) else (1.0, "")


def _models(report: _Found) -> dict[str, _Found]:
    """Return the models that were trained."""
    return {role: report["models"][role] for role in ROLES if role in report["models"]}


def _at(found: Any, *path: str) -> Any:
    """Return what lies at a path, or ``None``."""
    for step in path:
        found = found.get(step) if isinstance(found, Mapping) else None
    return found


def _ratios(report: _Found) -> dict[str, float | None]:
    """Return the teacher's figures divided by the student's, as far as both are known."""
    paths = {
        "quality": ("quality", report["selection"]["metric"], "mean"),
        "parameters": ("cost", "parameters"),
        "size": ("cost", "size_bytes"),
        "latency": ("cost", "latency_ms", "p50"),
        "throughput": ("cost", "throughput_per_s"),
    }
    found = {}
    for name, path in paths.items():
        one, other = (_at(report["models"].get(role), *path) for role in ("teacher", "student"))
        found[name] = one / other if one and other else None
    return found


def _spread(found: _Found, metric: str, most: float | None = None) -> tuple[str, str]:
    """Return a mean and its deviation, with the decimals that the row's largest mean calls for."""
    (scale, unit), mean, deviation = _scale(metric), found["mean"], found.get("std")
    decimals = 2 if unit else min(6, max(0, 2 - math.floor(math.log10(most or abs(mean) or 1))))
    shown = f"{scale * mean:,.{decimals}f}".replace("-", "−")
    return shown, "" if deviation is None else f" ± {scale * deviation:,.{decimals}f}"


def _table(report: _Found) -> dict[str, _Rows]:
    """Return the table's rows in groups; the template adds the costs."""
    models, metric = _models(report).values(), report["selection"]["metric"]
    quality = _measures([{metric: None} | model["quality"] for model in models])
    last = _measures([{metric: _at(model, "last_quality", metric)} for model in models], "—")
    quality[1:1] = [("… with the last epoch’s weights", cells) for _, cells in last]
    likeness = [
        {n: spread(v) for n, v in (_at(model, "fidelity", "values") or {}).items()}
        if model.get("role") != "teacher"
        else {}
        for model in models
    ]
    return {
        "Quality on the test samples": quality,
        "Likeness to the teacher": _measures(likeness, "—"),
    }


def _measures(found: Sequence[_Found], absent: str = "not measured") -> _Rows:
    """Return a row for each metric that some model has."""
    rows: _Rows = []
    for name in dict.fromkeys(name for measures in found for name in measures):
        spreads = [measures.get(name) for measures in found]
        most = max((abs(each["mean"]) for each in spreads if each), default=0.0)
        cells = [_spread(each, name, most) if each else (absent, "") for each in spreads]
        if any(spreads):
            rows.append((title(name) + (", %" if _scale(name)[1] else ""), cells))
    return rows


def _notes(details: _Found) -> list[str]:
    """Return what the metrics mean, as far as they say so themselves."""
    seeds = [found for role in ROLES for found in (details.get("measured") or {}).get(role) or []]
    return list(dict.fromkeys(note for found in seeds for note in found.get("notes") or []))


def _sources(report: _Found) -> list[str]:
    """Return how energies were found."""
    found = [_at(model, "cost", "energy_j", "source") for model in report["models"].values()]
    return [f"Energy {source}." for source in dict.fromkeys(filter(None, found))]


def plotted(figure: Any) -> dict[str, Any]:
    """Return what the page's script draws."""
    return {"spec": json.loads(figure.to_json()), "height": figure.layout.height}


def _training(report: _Found, details: _Found) -> dict[str, Any]:
    """Return both courses over epochs, and what the best epochs reached."""
    metric = report["selection"].get("epochs_by", report["selection"]["metric"])
    scale, unit = _scale(metric)
    learners = [learner for learner in details.get("training", []) if learner.get("history")]
    scores = [curve for x in learners if (curve := _curve(x, "validation", metric, scale))]
    losses = [curve for x in learners if (curve := _curve(x, "train", "loss", 1.0))]
    best: dict[str, list[float]] = {}
    for curve in scores:
        if curve.best is not None:
            best.setdefault(curve.role, []).append(curve.values[curve.best])
    log = all(value > 0 for curve in losses for value in curve.values)
    return {
        "score": plotted(figures.curves(scores, unit)) if scores else None,
        "loss": plotted(figures.curves(losses, log=log)) if losses else None,
        "metric": title(metric),
        "unit": unit,
        "log": log,
        "best": {role: _amount(statistics.fmean(v)) + unit for role, v in best.items()},
        "added": list(dict.fromkeys(term for x in learners for term in _added(x))),
    }


def _added(learner: _Found) -> list[str]:
    """Return the parts of a student's loss that come from the teacher."""
    terms = _at(learner["history"][-1], "train") or {}
    return [t for t in terms if t not in ("loss", "label")] if learner["role"] == "student" else []


def _curve(learner: _Found, part: str, name: str, scale: float) -> Curve | None:
    values = [_at(entry, part, name) for entry in learner["history"]]
    if None in values:
        return None
    role, seed = learner["role"], learner.get("seed", -1)
    best = learner.get("best_epoch") if part == "validation" else None
    told = role if seed < 0 else f"{role}, seed {seed}"
    return Curve(role, told, [scale * value for value in values], best)


def _costs(report: _Found) -> dict[str, Any]:
    """Return quality over size and over latency, as far as two models have them."""
    metric = report["selection"]["metric"]
    scale, _ = _scale(metric)
    kinds: Sequence[tuple[str, Callable[[float], str], tuple[str, ...]]] = (
        ("size of the weights", lambda size: prefixed(size, "B", "{:g}".format), ("size_bytes",)),
        ("median latency, ms", "{:g}".format, ("latency_ms", "p50")),
    )
    plots = {}
    for heading, told, path in kinds:
        points = [
            Point(name, cost, [scale * value for value in values])
            for name, model in (_models(report) | report["models"]).items()
            if (cost := _at(model, "cost", *path))
            and (values := _at(model, "quality", metric, "values"))
        ]
        if len(points) > 1:
            plots[heading] = plotted(against(points, told, heading))
    return plots


def _classes(details: _Found) -> dict[str, Any] | None:
    """Return what changed for single classes, and between which the models err."""
    tables = {role: found for role in ROLES if (found := _measured(details, role, "confusion"))}
    if "student" not in tables or len(tables) < 2:
        return None
    base = "control" if "control" in tables else "teacher"
    names = list(details.get("labels") or range(len(tables["student"][0])))
    rates = {role: 100 * class_accuracies(found) for role, found in tables.items()}
    gains = rates["student"] - rates[base]
    told = [n for n in range(len(names)) if not any(math.isnan(rate[n]) for rate in rates.values())]
    if not told:
        return None
    most = sorted(told, key=lambda n: -abs(gains[n]))[:_MOST_CLASSES]
    shown = sorted(most, key=lambda n: -gains[n])
    columns = {role: [float(rate[n]) for n in shown] for role, rate in rates.items()}
    return {
        "plot": plotted(figures.classes([names[n] for n in shown], columns, base)),
        "base": base,
        "roles": list(tables),
        "shown": len(shown),
        "all": len(names),
        "changes": [(names[n], float(gains[n])) for n in shown],
        "sample": 100 / float(np.median([sum(row) for row in tables["student"][0] if sum(row)])),
        "confusions": _confusions(names, tables) if "teacher" in tables else None,
    }


def _confusions(names: Sequence[Any], tables: Mapping[str, ArrayLike]) -> dict[str, Any]:
    points = 100 * confusion_difference(tables["student"], tables["teacher"])
    pairs = [(names[a], names[b], float(points[a, b])) for a, b in top_pairs(points, 10)]
    small = len(names) <= _MOST_IN_MAP
    return {"pairs": pairs, "plot": plotted(figures.confusions(names, points)) if small else None}


def _calibration(details: _Found) -> list[dict[str, Any]]:
    """Return each role's reliability, its calibration error and how much too sure it is."""
    found = []
    for role in ROLES:
        if tables := _measured(details, role, "reliability"):
            points = bins(tables) * [100, 100, 1]
            found.append(
                {
                    "role": role,
                    "plot": plotted(figures.reliability(role, points)),
                    "error": _spread(spread([calibration_error(t) for t in tables]), "ece"),
                    "excess": float(np.average(points[:, 0] - points[:, 1], weights=points[:, 2])),
                }
            )
    return found


def _alike(details: _Found) -> list[dict[str, Any]]:
    """Return how alike the layers of each role and the teacher are."""
    found = []
    for role, alike in (details.get("similarity") or {}).items():
        closest = np.asarray(alike["cka"], float).max(axis=1)
        found.append(
            {
                "role": role,
                "plot": plotted(figures.similarity(alike, role)),
                "mean": float(closest.mean()),
                "least": (alike["first"][int(closest.argmin())], float(closest.min())),
            }
        )
    return found


def _examples(details: _Found) -> dict[str, Any] | None:
    """Return the samples on which teacher and student differ, and the roles that answered."""
    found = details.get("examples")
    if not found or not found["groups"]:
        return None
    answered = found["groups"][0]["samples"][0]["answers"]
    return {**found, "roles": [role for role in ROLES if role in answered]}


def _maps(details: _Found) -> dict[str, Any] | None:
    """Return both maps of the test samples, as the page's script draws them."""
    found = inside.maps(details)
    if found is None:
        return None
    return found | {"figures": {role: plotted(fig) for role, fig in found["figures"].items()}}


def _measured(details: _Found, role: str, kind: str) -> list[Any]:
    """Return what was measured of a role, by seed."""
    seeds = (details.get("measured") or {}).get(role) or []
    return [entry[kind] for entry in seeds if entry.get(kind)]
