"""What ways to make a model smaller came to: the best for each budget, and a page."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from limbeck._version import __version__
from limbeck.report.fronts import fronts
from limbeck.report.metrics import is_share, title
from limbeck.report.page import dressed, plotted, prefixed, template
from limbeck.report.summary import spread

__all__ = ["Found", "render", "summarise"]

_ROOM = 1.1  # a file may be larger than its budget by a tenth: channels come in whole numbers


@dataclass(frozen=True)
class Found:
    """One model of the comparison.

    Attributes:
        way: how it was made.
        ratio: the share of the teacher's parameters that was asked for.
        seed: of its training.
        score: by the metric, on the test samples.
        size_bytes: of its file.
        latency_ms: the median for one sample.
        throughput_per_s: in batches.
        energy_j: joules for one sample, in batches; ``None`` if that is not known.
        folder: of its run.
    """

    way: str
    ratio: float
    seed: int
    score: float
    size_bytes: int
    latency_ms: float
    throughput_per_s: float
    energy_j: float | None
    folder: str


def summarise(
    facts: Mapping[str, Any],
    found: Sequence[Found],
    ratios: Sequence[float],
    report: Mapping[str, Any],
) -> dict[str, Any]:
    """Return ``compare.json``.

    Args:
        facts: further entries: ``name``, ``about``, ``seeds`` and ``epochs`` of the recipe.
        found: all models.
        ratios: the budgets, as shares of the size of the teacher's file.
        report: of one of the runs; tells the metric and the machine.
    """
    chosen = report["selection"]
    models = _together(found)
    whole = next(model for model in models if model["way"] == "teacher")["size_bytes"]
    return {
        "limbeck": __version__,
        **facts,
        "selection": chosen,
        "test_samples": report["test_samples"],
        "environment": report["environment"],
        "energy_source": _energy_source(report),
        "models": models,
        "best": [
            _best(models, whole, share, higher=chosen["higher_is_better"]) for share in ratios
        ],
        "found": [asdict(each) for each in found],
    }


def render(summary: Mapping[str, Any]) -> str:
    """Return the page."""
    metric = summary["selection"]["metric"]
    share = is_share(metric)
    scale = 100.0 if share else 1.0
    costs: list[tuple[str, str, Callable[[float], str]]] = [
        ("Size of the file", "size_bytes", partial(prefixed, unit="B")),
        ("Time for one sample", "latency_ms", _milliseconds),
    ]
    known = all(model.get("energy_j") for model in summary["models"])
    if known:
        costs.append(("Energy for one sample", "energy_j", _millijoules))
    return template("comparison.html").render(
        title=f"{summary['name']}: ways to make it smaller",
        version=summary["limbeck"],
        summary=summary,
        metric=title(metric),
        unit="%" if share else "",
        scale=scale,
        told=[told(best, metric) for best in summary["best"]],
        plots=[
            {"heading": heading} | plotted(_drawn(summary, cost, words, scale))
            for heading, cost, words in costs
        ],
        energy=summary.get("energy_source") if known else None,
        **dressed(),
    )


def told(best: Mapping[str, Any], metric: str) -> str:
    """Return in a sentence what is best within a budget, and how sure that is."""
    budget = f"Up to 1/{1 / best['ratio']:.3g} of the teacher's size"
    if best["way"] is None:
        return f"{budget}: none of the files is that small."
    shown = _score(best["mean"], metric)
    first = f"{budget}: {best['way']} ({shown}, {best['size_bytes'] / 1000:,.0f} kB)"
    if best["next"] is None:
        return f"{first}; nothing else is that small."
    lead = _score(abs(best["lead"]["mean"]), metric, points=True)
    if lead == _score(0.0, metric, points=True):
        return f"{first}, no better than {best['next']}."
    how = {
        None: "on one seed, which proves nothing",
        True: "more than the deviation between seeds",
        False: "which is within the noise",
    }[best["clear"]]
    return f"{first}, {lead} ahead of {best['next']}, {how}."


def _drawn(
    summary: Mapping[str, Any], cost: str, words: Callable[[float], str], scale: float
) -> Any:
    """Draw quality over a cost."""
    ways: dict[str, list[tuple[float, list[float]]]] = {}
    for model in summary["models"]:
        scores = [scale * value for value in model["score"]["values"]]
        ways.setdefault(model["way"], []).append((float(model[cost]), scores))
    return fronts(ways, words, higher=summary["selection"]["higher_is_better"])


def _energy_source(report: Mapping[str, Any]) -> str | None:
    """Return how a run's energy was found: ``measured: ...`` or ``estimated: ...``."""
    found = [(model.get("cost") or {}).get("energy_j") for model in report["models"].values()]
    return next((energy["source"] for energy in found if energy), None)


def _milliseconds(value: float) -> str:
    return f"{value:g} ms"


def _millijoules(value: float) -> str:
    return f"{1000 * value:g} mJ"


def _together(found: Sequence[Found]) -> list[dict[str, Any]]:
    """Return models of the same way and ratio as one, with their scores seed by seed."""
    groups: dict[tuple[str, float], list[Found]] = {}
    for each in found:
        groups.setdefault((each.way, each.ratio), []).append(each)
    return [
        {
            "way": way,
            "ratio": ratio,
            "seeds": [each.seed for each in group],
            "score": spread([each.score for each in group]),
            "size_bytes": round(statistics.median(each.size_bytes for each in group)),
            "latency_ms": statistics.median(each.latency_ms for each in group),
            "throughput_per_s": statistics.median(each.throughput_per_s for each in group),
            "energy_j": _median([each.energy_j for each in group]),
            "folders": [each.folder for each in group],
        }
        for (way, ratio), group in groups.items()
    ]


def _median(values: Sequence[float | None]) -> float | None:
    """Return the median, if all values are known."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if len(known) == len(values) else None


def _best(
    models: Sequence[Mapping[str, Any]], whole: int, share: float, *, higher: bool
) -> dict[str, Any]:
    """Return the best model within a budget, the second best way, and whether the lead is clear."""
    sign = 1 if higher else -1
    fits = [model for model in models if model["size_bytes"] <= _ROOM * share * whole]
    order = sorted(fits, key=lambda each: (-sign * each["score"]["mean"], each["size_bytes"]))
    if not order:
        return {"ratio": share, "way": None}
    best, others = order[0], [model for model in order[1:] if model["way"] != order[0]["way"]]
    found = {
        "ratio": share,
        "way": best["way"],
        "mean": best["score"]["mean"],
        "size_bytes": best["size_bytes"],
        "folders": best["folders"],
        "next": others[0]["way"] if others else None,
        "lead": None,
        "clear": None,
    }
    if others:
        pairs = zip(best["score"]["values"], others[0]["score"]["values"], strict=True)
        lead = spread([sign * (one - other) for one, other in pairs])
        found["lead"] = lead
        found["clear"] = None if lead["std"] is None else lead["mean"] > lead["std"]
    return found


def _score(value: float, metric: str, *, points: bool = False) -> str:
    if is_share(metric):
        return f"{100 * value:.2f} {'points' if points else '%'}"
    return f"{value:.4g}"
