"""Finished runs as the rows of one table in Markdown: what each student gained and saved.

    python benchmarks/runs_table.py runs/text runs/speech runs/translation

The gain is over the control with the same seed: the same first weights, the same samples in the
same order. It is in bold where its mean is larger than its standard deviation.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

from limbeck.report.metrics import is_share
from limbeck.report.summary import gain

HEADS = (
    "recipe", "metric", "teacher", "student", "control", "gain", "parameters", "throughput",
    "minutes",
)  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    rows = [row(folder) for folder in parser.parse_args().runs]
    for cells in (HEADS, ["---"] * len(HEADS), *rows):
        print(f"| {' | '.join(cells)} |")


def row(folder: Path) -> list[str]:
    """Return a run's cells."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    models, metric = report["models"], report["selection"]["metric"]
    found = {role: model["quality"][metric] for role, model in models.items()}
    seconds = sum(stage["seconds"] or 0 for stage in report["stages"])
    return [
        f"`{recipe['name']}`, {_count(len(report['seeds']), 'seed')}",
        metric,
        *(_told(found.get(role), metric) for role in ("teacher", "student", "control")),
        _gain(report, metric),
        _ratio(models, "parameters", "÷"),
        _ratio(models, "throughput_per_s", "×"),
        f"{seconds / 60:.0f}",
    ]


def _told(found: dict[str, Any] | None, metric: str) -> str:
    if found is None:
        return ""
    scale, digits, unit = (100, 2, " %") if is_share(metric) else (1, 3, "")
    digits += not unit and abs(found["mean"]) < 0.1
    around = "" if found["std"] is None else f" ± {found['std'] * scale:.{digits}f}"
    return f"{found['mean'] * scale:.{digits}f}{around}{unit}"


def _gain(report: dict[str, Any], metric: str) -> str:
    found = gain(report)
    if found is None:
        return ""
    told = _told(found, metric)
    return f"**{told}**" if found["mean"] > (found["std"] or found["mean"]) else told


def _ratio(models: dict[str, Any], fact: str, sign: str) -> str:
    teacher, student = (models[role]["cost"][fact] for role in ("teacher", "student"))
    if not teacher or not student:
        return ""
    return f"{sign} {teacher / student if sign == '÷' else student / teacher:,.1f}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    main()
