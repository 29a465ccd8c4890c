"""What a run came to, as ``report.json`` keeps it, and in a sentence."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from limbeck._version import __version__
from limbeck.report.metrics import is_share

__all__ = ["environment", "gain", "spread", "summarise", "verdict"]

_CHANGED = ("improved it by", "made it worse by")
_ROLES = ("teacher", "student", "control")
_SMALL = 0.1  # below it a fourth decimal is shown
_NAMES = {"bleu": "BLEU", "exact_match": "exact match", "r2": "R²", "ndcg_at_10": "NDCG@10"}


def summarise(
    results: Mapping[str, Any],
    *,
    task: str,
    seeds: Sequence[int],
    selection: str,
    higher_is_better: bool,
    stages: Sequence[Mapping[str, Any]],
    machine: Mapping[str, Any],
    epochs_by: str | None = None,
) -> dict[str, Any]:
    """Return ``report.json``.

    Figures that were not measured are ``None``: all metrics of a teacher that answers something
    else, for example.

    Args:
        results: what the evaluation stage wrote.
        task: the task's name.
        seeds: of the students.
        selection: the metric that the verdict speaks of, and that chose the best epoch.
        higher_is_better: whether more of it is better.
        stages: ``name``, ``seconds`` and ``skipped`` of each.
        machine: where it ran, from :func:`environment`.
        epochs_by: the metric that chose the best epoch, if it was another one.
    """
    names = [role for role in _ROLES if role in results["models"]]
    models = {name: _model(name, results) for name in dict.fromkeys([*names, *results["models"]])}
    report: dict[str, Any] = {
        "limbeck": __version__,
        "task": task,
        "seeds": list(seeds),
        "selection": {"metric": selection, "higher_is_better": higher_is_better}
        | ({} if epochs_by is None else {"epochs_by": epochs_by}),
        "test_samples": results["samples"],
        "environment": dict(machine),
        "models": models,
        "stages": [dict(stage) for stage in stages],
    }
    return report | {"verdict": verdict(report)}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean, the sample standard deviation (``None`` for one value) and the values.

    >>> spread([1.0, 3.0])
    {'mean': 2.0, 'std': 1.4142135623730951, 'values': [1.0, 3.0]}
    """
    return {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "values": list(values),
    }


def gain(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return by how much students are better than the controls of their seeds, as :func:`spread`.

    It is ``None`` if there are no controls.
    """
    models, chosen = report["models"], report["selection"]
    if "control" not in models:
        return None
    values = [models[r]["quality"][chosen["metric"]]["values"] for r in ("student", "control")]
    sign = 1 if chosen["higher_is_better"] else -1
    return spread([sign * (one - other) for one, other in zip(*values, strict=True)])


def verdict(report: Mapping[str, Any]) -> str:
    """Return in a few sentences what the student keeps, what it costs, and what the teacher gave.

    A gain over the control counts as clear if the mean of the differences, seed by seed, is more
    than their standard deviation.
    """
    models, metric = report["models"], report["selection"]["metric"]
    teacher, student = models["teacher"], models["student"]
    own, measured = student["quality"][metric]["mean"], teacher["quality"][metric]
    theirs = "" if measured is None else f", its teacher {_value(metric, measured['mean'])}"
    told = [
        f"The student reaches {_shown(metric, own)}{theirs}"
        f"{_costs(student['cost'], teacher['cost'])}."
    ]
    if measured is None:
        told.append("Its teacher answers something else, so that was not measured.")
    if (found := gain(report)) is not None:
        told.append(_against_control(found, models["control"], report["selection"]))
    return " ".join(told)


def environment(threads: int, device: str, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the numbers depend on besides the recipe."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "limbeck": __version__,
        "system": platform.platform(terse=True),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "device": device,
        "precision": plan.get("precision"),
        "channels_last": plan.get("channels_last"),
        "compiled": plan.get("compiled"),
    }


def _model(name: str, results: Mapping[str, Any]) -> dict[str, Any]:
    found = results["models"][name]
    cost = dict(results["cost"]["student" if name == "control" else name])
    entry = {
        "role": found.get("role", name),
        "quality": _by_metric(found["quality"] or _unknown(results)),
        "fidelity": _fidelity(found["fidelity"]),
        "cost": cost,
    }
    if found.get("note"):
        entry["note"] = found["note"]
    if found.get("last_quality"):
        entry["last_quality"] = _by_metric(found["last_quality"])
    return entry


def _unknown(results: Mapping[str, Any]) -> list[dict[str, None]]:
    """Return the student's metrics without values, of a model that answers something else."""
    return [dict.fromkeys(results["models"]["student"]["quality"][0])]


def _by_metric(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        name: None if found[0][name] is None else spread([entry[name] for entry in found])
        for name in found[0]
    }


def _fidelity(found: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return the means under the measures' names, and all values beside them."""
    measures = _by_metric(found) if found and found[0] else {}
    known = {name: measure for name, measure in measures.items() if measure is not None}
    means: dict[str, Any] = {name: measure["mean"] for name, measure in known.items()}
    values = {name: measure["values"] for name, measure in known.items()}
    return dict.fromkeys(measures) | means | {"values": values}


def _against_control(
    found: Mapping[str, Any], control: Mapping[str, Any], selection: Mapping[str, Any]
) -> str:
    """Say what the teacher added, as :func:`gain` found it."""
    metric, mean, seeds = selection["metric"], found["mean"], len(found["values"])
    among = f"over {seeds} seeds"
    reached = _shown(metric, control["quality"][metric]["mean"])
    alone = f"Without a teacher the same network reaches {reached}"
    if seeds == 1:
        return (
            f"{alone}: a difference of {_points(metric, mean)} on one seed, which proves nothing."
        )
    if abs(mean) > found["std"]:
        adds = is_share(metric) and selection["higher_is_better"]
        better, worse = ("added", "took away") if adds else _CHANGED
        verb = better if mean > 0 else worse
        return f"{alone}: the teacher {verb} {_points(metric, abs(mean))} {among}."
    return f"{alone}: a difference of {_points(metric, mean)} {among}, which is within the noise."


def _costs(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> str:
    """Say how much smaller and faster the student is, as far as that was measured."""
    told = []
    if student["parameters"] and teacher["parameters"]:
        ratio = teacher["parameters"] / student["parameters"]
        told.append(
            f"{_times(ratio)} fewer parameters"
            if ratio >= 1
            else f"{_times(1 / ratio)} more parameters"
        )
    if student["throughput_per_s"] and teacher["throughput_per_s"]:
        speed = student["throughput_per_s"] / teacher["throughput_per_s"]
        told.append(f"{_times(speed)} the throughput")
    return f", with {' and '.join(told)}" if told else ""


def _shown(metric: str, value: float) -> str:
    shown = _value(metric, value)
    named = _NAMES.get(metric, metric.replace("_", " "))
    if metric.endswith(("accuracy", "match")):
        return f"{shown} {named}"
    return f"{'an' if named.startswith(('NDCG', 'R²', *'aeio')) else 'a'} {named} of {shown}"


def _value(metric: str, value: float) -> str:
    return f"{value:.1%}" if is_share(metric) else f"{value:.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    return 4 if abs(value) < _SMALL else 3


def _points(metric: str, value: float) -> str:
    shown = f"{value * 100:.2f} points" if is_share(metric) else f"{value:.{_decimals(value)}f}"
    return shown.replace("-", "−")


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times" if ratio < 10 else f"{ratio:.0f} times"


def _processor() -> str:
    """Return the processor's name where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as told:
            for line in told:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
