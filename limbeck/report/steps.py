"""What was made of the student that ships, step by step, beside that student itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["ROLES", "steps"]

ROLES = ("teacher", "student", "control")
"""The models that are trained, over seeds."""


def steps(report: Mapping[str, Any], shipped: int | None) -> list[dict[str, Any]]:
    """Return a row for the student that ships and one for each model made of it.

    Args:
        report: what ``report.json`` holds.
        shipped: the seed of the student that ships, which all others are made of.

    Returns:
        ``name``, ``role``, ``quality`` (``mean`` and ``std`` of the metric that models are compared
        by, or ``None``), ``agreement``, ``cost`` and ``note`` of each; nothing if there are no such
        models.
    """
    models, metric = report["models"], report["selection"]["metric"]
    made = {name: model for name, model in models.items() if model.get("role") not in ROLES}
    if not made:
        return []
    seeds = list(report["seeds"])
    place = seeds.index(shipped) if shipped in seeds else 0
    rows = [("student", models["student"], place)]
    rows += [(name, model, 0) for name, model in made.items()]
    return [
        {
            "name": f"student, seed {seeds[place]}" if name == "student" else name,
            "role": model["role"],
            "quality": _value(model["quality"].get(metric), at),
            "agreement": _at(model["fidelity"].get("values", {}).get("agreement"), at),
            "cost": model["cost"],
            "note": model.get("note") or "",
        }
        for name, model, at in rows
    ]


def _value(found: Mapping[str, Any] | None, at: int) -> dict[str, Any] | None:
    return None if found is None else {"mean": found["values"][at], "std": None}


def _at(values: Any, at: int) -> float | None:
    return values[at] if values else None
