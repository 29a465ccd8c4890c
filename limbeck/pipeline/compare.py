"""Ways to make a model smaller, tried on the same data with equal training, and put side by side.

Each way is a run of its own, in a folder of its own, that can be resumed and looked at. All sizes
and times are those of ONNX files in one runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.errors import InputError
from limbeck.files import atomically, read_json, write_json
from limbeck.pipeline.folder import RunFolder
from limbeck.pipeline.origins import Trained
from limbeck.pipeline.run import Run
from limbeck.progress import Console, Silent
from limbeck.recipe import Recipe, parse
from limbeck.report.comparison import Found, render, summarise
from limbeck.students import shrink

__all__ = ["compare", "ratio", "width_for"]

_HALVINGS = 14
_NAMES = {
    "distil": "distil",
    "prune": "prune",
    "prune-distil": "prune, then distil",
    "quantize": "quantize",
}


@dataclass(frozen=True)
class _Try:
    """One run of the comparison.

    Attributes:
        way: a key of the names above.
        ratio: the fraction of the teacher's parameters; 1 for the teacher's own network.
        seed: of its training.
        changes: to the recipe.
    """

    way: str
    ratio: Fraction
    seed: int
    changes: Mapping[str, Any]

    @property
    def folder(self) -> str:
        size = "" if self.ratio == 1 else f"-1-{float(1 / self.ratio):g}"
        return f"{self.way}{size}-seed-{self.seed}"


def ratio(text: str) -> Fraction:
    """Return a fraction of the teacher's size from a text.

    Raises:
        InputError: it is no fraction between 0 and 1.

    >>> ratio("1/10"), ratio("0.5")
    (Fraction(1, 10), Fraction(1, 2))
    """
    try:
        found = Fraction(text.strip())
    except (ValueError, ZeroDivisionError):
        found = Fraction(0)
    if not 0 < found < 1:
        raise InputError(f"the ratio {text!r}", expected="a fraction between 0 and 1, such as 1/10")
    return found


def compare(
    recipe: Recipe,
    ratios: Sequence[Fraction],
    out: Path,
    *,
    console: Console | None = None,
) -> Path:
    """Try ways to make a recipe's teacher smaller, and return the folder with what they came to.

    For each ratio and seed: a network of the teacher's family with that share of its parameters
    learns from the teacher (and, as a control, alone); the teacher loses channels down to that
    share, and recovers alone or with the teacher's whole self as its teacher. All of them get the
    epochs of the recipe's student, are written as ONNX, and again with integers of 8 bits.

    Args:
        recipe: its teacher is a network that it builds; its student's architecture is not used.
        ratios: shares of the teacher's parameters, above 0 and below 1.
        out: gets a run's folder for each try, ``compare.json`` and ``compare.html``.
        console: is told how it goes.

    Raises:
        InputError: the teacher is no network, its family cannot be made smaller, or a ratio is too
            small for it.
    """
    from limbeck.pipeline import run

    told = console or Silent()
    teacher = _teacher(recipe)
    widths = {share: width_for(teacher, float(share)) for share in ratios}
    run(recipe, out / "teacher", until="teacher", console=told)
    weights = out / "teacher" / "stages" / "teacher" / "best.safetensors"
    taught = recipe.teacher.model_dump(mode="json") | {"weights": str(weights.resolve())}
    known = _changed(recipe, {"teacher": taught, "compress": [], "export": {}})
    base = out / "knowledge"
    run(known, base, until="knowledge", console=told)
    found = []
    for each in _tries(known, widths):
        told.note(each.folder)
        variant = _changed(known, each.changes)
        folder = run(variant, out / each.folder, reuse=base, console=told)
        found += _points(each, read_json(folder / "report.json"))
    report = read_json(folder / "report.json")
    facts = {
        "name": recipe.name,
        "about": recipe.about,
        "seeds": list(recipe.seeds),
        "epochs": recipe.train.epochs,
    }
    summary = summarise(facts, found, [float(share) for share in ratios], report)
    write_json(out / "compare.json", summary)
    with atomically(out / "compare.html") as draft:
        draft.write_text(render(summary), encoding="utf-8")
    return out


def width_for(model: nn.Module, share: float) -> float:
    """Return the fraction of its channels with which a model has about that share of its weights.

    Raises:
        InputError: even the narrowest network of its family is larger.
    """
    whole = _size(model)
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _size(shrink(model, width=middle)) > share * whole:
            high = middle
        else:
            low = middle
    if low == 0.0:
        least = _size(shrink(model, width=high)) / whole
        raise InputError(
            f"no {type(model).__name__} has {share:.3g} of the teacher's parameters",
            expected=f"a ratio of {least:.2g} or more",
        )
    return low


def _teacher(recipe: Recipe) -> nn.Module:
    """Return the teacher's network, untrained."""
    running = Run(recipe, RunFolder(Path()), Silent())
    known = running.origin
    if not isinstance(known, Trained):
        raise InputError(
            "the teacher is no network that the recipe builds",
            expected="teacher.build: a model of the zoo, or a function of your own",
            consequence="It can be neither pruned nor made smaller.",
        )
    return known.plan.model()


def _tries(recipe: Recipe, widths: Mapping[Fraction, float]) -> list[_Try]:
    """Return all runs, those of one seed together."""
    own = recipe.student.model_dump(
        mode="json", exclude={"build", "args", "weights", "trained", "shrink", "prune"}
    )
    whole = {
        "student": {
            "shrink": {"depth": 1.0, "width": 1.0},
            "weights": str(recipe.teacher.weights),
            "normalize": recipe.teacher.model_dump(mode="json")["normalize"],
            "trained": True,
        },
        "control": False,
    }
    alone: dict[str, Any] = {"method": [], "label_weight": None}
    found = []
    for seed in recipe.seeds:
        every = {"seeds": [seed], "export": ["onnx"], "compress": [{"quantize": {}}]}
        found.append(_Try("quantize", Fraction(1), seed, every | whole))
        for share, width in widths.items():
            narrow = {"student": own | {"shrink": {"depth": 1.0, "width": width}}, "control": True}
            found.append(_Try("distil", share, seed, every | narrow))
            cut = {"student": {"prune": {"parameters": float(share)}}, "control": False}
            found.append(_Try("prune", share, seed, every | cut | alone))
            found.append(_Try("prune-distil", share, seed, every | cut))
    return found


def _changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    return parse(recipe.model_dump(mode="json") | dict(changes))


def _points(each: _Try, report: Mapping[str, Any]) -> list[Found]:
    """Return what one run adds to the comparison."""
    metric = report["selection"]["metric"]
    models, name = report["models"], _NAMES[each.way]
    found = []

    def add(way: str, scored: str, costs: str) -> None:
        if scored in models and costs in models:
            cost = models[costs]["cost"]
            score = float(models[scored]["quality"][metric]["values"][0])
            latency, many = cost["latency_ms"]["p50"], cost["throughput_per_s"]
            energy = cost["energy_j"] and cost["energy_j"]["value"]
            made = (way, float(each.ratio), each.seed, score, cost["size_bytes"], latency, many)
            found.append(Found(*made, energy, each.folder))

    whole = each.way == "quantize"
    add("teacher" if whole else name, "student.onnx", "student.onnx")
    add(name if whole else f"{name}, quantize", "student-int8.onnx", "student-int8.onnx")
    if each.way == "distil":
        add("train alone", "control", "student.onnx")
    return found


def _size(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())
