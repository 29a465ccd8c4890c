"""A small real run for the tests of its page, and ways to make it worse."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from limbeck.report import render

HOSTILE = "</script><script>window.broken = 1</script>"
IMAGE = "<img src=x onerror='window.broken = 2'>"
Run = dict[str, Any]


def load() -> Run:
    """Return a run on digits, cut down to ten epochs and five digits."""
    found: Run = json.loads(Path(__file__).with_name("run.json").read_text(encoding="utf-8"))
    return found


def made(run: Run) -> str:
    """Return its page."""
    return render(run["report"], run["details"], run["recipe"])


def hostile(run: Run) -> Run:
    """Put markup wherever a run's own words can stand."""
    run = copy.deepcopy(run)
    report, details = run["report"], run["details"]
    details["labels"] = [HOSTILE, IMAGE, "<b>bold</b>", "%{y} $x^2$", *details["labels"][4:]]
    details |= {"name": HOSTILE, "about": IMAGE, "method": HOSTILE, "matches": [HOSTILE]}
    details |= {"adapters": {HOSTILE: IMAGE}, "plans": {HOSTILE: {"build": IMAGE, "args": {}}}}
    details["data"]["name"] = HOSTILE
    for found in details["similarity"].values():
        found["first"][0] = found["second"][1] = HOSTILE
    for entry in details["training"][1]["history"]:
        entry["train"][HOSTILE] = 1.0
    report["environment"] |= {"processor": HOSTILE, IMAGE: HOSTILE}
    report["stages"][0]["name"] = HOSTILE
    report["verdict"] += HOSTILE
    for model in report["models"].values():
        model["quality"][HOSTILE] = model["quality"]["loss"]
    run["recipe"] += f"</code></pre>{HOSTILE}"
    return run


def drop(run: Run, kind: str) -> None:
    for seeds in run["details"]["measured"].values():
        for entry in seeds:
            del entry[kind]


def drop_control(run: Run) -> None:
    del run["report"]["models"]["control"]
    del run["details"]["measured"]["control"]
    del run["details"]["similarity"]["control"]
    training = run["details"]["training"]
    run["details"]["training"] = [entry for entry in training if entry["role"] != "control"]


def only_first_seed(run: Run) -> None:
    run["report"]["seeds"] = [0]
    for model in run["report"]["models"].values():
        for part in ("quality", "last_quality"):
            for found in model[part].values():
                found |= {"mean": found["values"][0], "std": None, "values": found["values"][:1]}
        values = model["fidelity"]["values"]
        model["fidelity"]["values"] = {name: found[:1] for name, found in values.items()}
    measured = run["details"]["measured"]
    run["details"]["measured"] = {role: seeds[:1] for role, seeds in measured.items()}


def forget_costs(run: Run) -> None:
    for model in run["report"]["models"].values():
        kept = {"parameters", "throughput_batch"}
        model["cost"] = {k: v if k in kept else None for k, v in model["cost"].items()}
