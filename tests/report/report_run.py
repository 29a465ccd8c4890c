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


def looked_into(run: Run, word: str = "one") -> Run:
    """Add groups of differences, two examples and a further one, maps, and rounded layers."""
    run = copy.deepcopy(run)

    def group(key: int, name: str, lost: int) -> dict[str, Any]:
        counts = {"agree": 9 - lost, "teacher_right": 9, "student_right": 9 - lost}
        return {"key": key, "name": name, "samples": 10, "lost": lost, "won": 0, **counts}

    def answer(text: str, weight: float) -> dict[str, Any]:
        rests = {"kind": "pieces", "pieces": [[word, weight], [" more", 0.0]], "text": ""}
        return {"answer": text, "right": text == "one", "shares": [], "rests_on": rests}

    def example(number: int, label: int) -> dict[str, Any]:
        answers = {"teacher": answer("one", 1.0), "student": answer("two", -0.4)}
        told = {"id": number, "apart": 0.5, "wanted": "one", "answers": answers}
        shown = {"kind": "text", "text": f"{word} {number}"}
        return told | {"shown": shown, "in": {"class": label, "move": "0-1"}}

    wrong = {"title": "The teacher is right, the student is not"}
    run["details"] |= {
        "differences": {
            "of": 30,
            "groupings": {"class": [group(0, "one", 2), group(1, word, 1), group(2, "three", 0)]},
            "moves": [
                {"key": "0-1", "teacher": "one", "student": word, "count": 3, "lost": 3, "won": 0}
            ],
        },
        "examples": {
            "differing": 3,
            "of": 30,
            "groups": [
                wrong | {"samples": [example(4, 0), example(5, 0)]},
                {"title": "More", "further": True, "samples": [example(6, 1)]},
            ],
            "traced": {"gap": {"teacher": 0.012, "student": 0.004}, "unseen": ["teacher"]},
        },
        "maps": {
            "ids": [4, 5, 6, 7],
            "labels": [0, 0, 1, 2],
            "disparity": 0.25,
            "teacher": {
                "tap": "fc:input", "share": 0.5, "answers": [0, 0, 1, 2],
                "xy": [[0, 1], [1, 0], [-1, 0], [0, -1]],
            },
            "student": {
                "tap": "fc:input", "share": 0.4, "answers": [1, 1, 1, 2],
                "xy": [[0, 1], [1, 0], [-1, 0], [0, -1]],
            },
        },
        "rounding": {
            f"{word}.onnx": {
                "samples": 64,
                "note": "static, 8 bits",
                "layers": [
                    {"layer": "conv1", "activations": 38.7, "weights": 45.0, "drop": 0.0},
                    {"layer": word, "activations": 21.5, "weights": 44.0, "drop": 0.011},
                    {"layer": "kept", "activations": 30.0, "weights": None, "drop": None},
                ],
            }
        },
    }  # fmt: skip
    return run
