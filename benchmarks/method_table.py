"""Every classification method under one budget, against the control.

    python benchmarks/method_table.py --recipe digits
    python benchmarks/method_table.py --recipe cifar10 --methods kd dkd at --set data.path=... \
        --set teacher.weights=... --out table.json

One teacher (the recipe's), and for each method and seed one student with the recipe's training; all
methods of a seed begin with the same weights and see the same samples, epoch by epoch the same
views. Methods that add to others (features, relations) stand alone beside the label, with their
default weights. Nothing is tuned per method, and nothing is measured on test samples: printed is
the accuracy on validation samples in percent (best epoch, and last), its gain over the control seed
by seed, the time of a step over the control's, and what a step keeps for its backward pass beyond
the control's. A gain smaller than its spread is no gain.

For methods of logits the teacher's answers to all views are computed once, before they begin; for
the others it runs beside the student. With --out, what is done is kept: the same command goes on
where it was.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from kept import kept_for_backward
from rich.console import Console
from rich.table import Table

import limbeck as lb
from limbeck import methods
from limbeck.data import Data, Loader
from limbeck.distill import autocast, plan
from limbeck.distill.engine import place
from limbeck.methods import about
from limbeck.pipeline import build
from limbeck.recipe import Recipe, load
from limbeck.students import load_weights

# They are for other tasks than one class for each image, or for Transformers; simkd changes the
# student.
ELSEWHERE = {
    "binary", "ctc", "distilbert", "minilm", "pkd", "policy", "seqkd", "simkd", "tinybert", "uld",
}  # fmt: skip
FAMILIES = ("response", "feature", "relation", "contrast", "adaptive")


def main() -> None:
    """Train, print a line for each method as it is done, and the table at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--methods", nargs="*", help="by default all that are for classification")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="change a key of the recipe")
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    options = parser.parse_args()
    recipe = load(options.recipe, options.set)
    names = dict.fromkeys(["none", *(options.methods or classification())])
    kept = Kept(options.out, {"recipe": recipe.model_dump(mode="json"), "seeds": options.seeds})
    if any(name not in kept.found for name in names):
        with tempfile.TemporaryDirectory() as folder:
            setup = Setup(recipe, Path(folder))
            for name in names:
                if name not in kept.found:
                    measured(name, setup, options.seeds, kept)
    show({name: kept.found[name] for name in names if name in kept.found})


class Kept:
    """What was measured, by method, in a file if one is given."""

    def __init__(self, file: Path | None, setting: dict[str, Any]) -> None:
        self.file, self.setting = file, setting
        self.found: dict[str, dict[str, Any]] = {}
        if file is not None and file.is_file():
            before = json.loads(file.read_text(encoding="utf-8"))
            if before["setting"] != setting:
                raise SystemExit(f"{file} was made with another recipe; give another file")
            self.found = before["methods"]

    def add(self, name: str, numbers: dict[str, Any]) -> None:
        """Keep a method's numbers."""
        self.found[name] = numbers
        if self.file is not None:
            whole = {"setting": self.setting, "methods": self.found}
            self.file.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


class Setup:
    """A recipe's data and teacher, the same for all methods."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        self.data = build.data(recipe)
        self.augment = build.augmentation(recipe.data.augment, recipe.data.seed)
        module = trained_teacher(recipe, self.data)
        self.live = lb.Teacher(module, build.preprocess(recipe, recipe.teacher))

    @property
    def views(self) -> int:
        """How many views of a sample the training shows."""
        return self.recipe.train.epochs if self.augment else 1

    @cached_property
    def stored(self) -> lb.Replay:
        """The teacher's logits for all views, computed once."""
        began = time.perf_counter()
        device = place().device
        chosen = plan(self.live.module, device, self.recipe.train.precision)
        self.live.module.to(device)
        self.live.arrange(channels_last=chosen.channels_last, compiled=False)
        with autocast(chosen, device):
            lb.knowledge.write(
                self.folder, self.live, self.data.train, views=self.views, augment=self.augment
            )
        print(f"teacher's answers: {time.perf_counter() - began:.0f} s", flush=True)
        return lb.Teacher.replay(self.folder)

    def teacher(self, method: methods.Method) -> Any:
        """Return the teacher that reads, if logits are all that a method wants of it."""
        taps = {tap for match in method.matches for tap in match.teachers}
        return self.stored if taps == {"logits"} else self.live


def measured(name: str, setup: Setup, seeds: int, kept: Kept) -> None:
    """Train a method's students and keep their numbers."""
    try:
        runs = [trained(name, seed, setup) for seed in range(seeds)]
    except lb.InputError as error:
        print(f"{name}: left out: {error}", flush=True)
        return
    kept.add(name, {key: [run[key] for run in runs] for key in runs[0]})
    print(f"{name}: {[round(value, 2) for value in kept.found[name]['best']]}", flush=True)


def classification() -> list[str]:
    """Return the names of the methods for one class per image."""
    told = methods.catalogue()
    return [n for n in told if told[n]["family"] in FAMILIES and n not in ELSEWHERE | {"none"}]


def trained_teacher(recipe: Recipe, data: Data) -> torch.nn.Module:
    """Return the recipe's teacher, trained or loaded."""
    torch.manual_seed(0)
    part = recipe.teacher
    module = build.blueprint(part, part, data).model()
    if part.weights is not None:
        load_weights(module, part.weights)
        return module
    steps = recipe.data.augment if part.augment is None else part.augment
    fitted = lb.fit(
        lb.Distiller(
            None, module, task=build.task(recipe, data), preprocess=build.preprocess(recipe, part)
        ),
        data.train,
        validation=data.validation,
        augment=build.augmentation(steps, recipe.data.seed),
        **build.training(part.train),
    )
    score = fitted.history[fitted.best_epoch]["validation"]["accuracy"]
    print(f"teacher: {100 * score:.2f}", flush=True)
    return module


def trained(name: str, seed: int, setup: Setup) -> dict[str, float]:
    """Train one student.

    Returns:
        The validation accuracy in percent, best and last, the seconds of a step, and the megabytes
        that it keeps for the backward pass.
    """
    recipe, data = setup.recipe, setup.data
    torch.manual_seed(seed)
    student = build.blueprint(recipe.student, recipe.teacher, data).model()
    given = {
        "crd": {"n_data": known_ids(data)},
        "prototype": {"n_classes": len(data.labels)},
        "semckd": {"batch_size": recipe.train.batch_size},
    }
    method = methods.get(name)(**given.get(name, {}))
    distiller = lb.Distiller(
        setup.teacher(method),
        student,
        task=build.task(recipe, data),
        method=method,
        preprocess=build.preprocess(recipe, recipe.student),
    )
    loader = Loader(
        data.train,
        min(recipe.train.batch_size, len(data.train)),
        shuffle=True,
        seed=seed,
        augment=setup.augment,
        views=setup.views,
    )
    began = time.perf_counter()
    fitted = lb.fit(
        distiller, loader, validation=data.validation, seed=seed, **build.training(recipe.train)
    )
    spent = (time.perf_counter() - began) / fitted.history[-1]["steps"]
    best, last = fitted.history[fitted.best_epoch], fitted.history[-1]
    best, last = (100 * epoch["validation"]["accuracy"] for epoch in (best, last))
    distiller.train()
    memory = kept_for_backward(distiller, next(loader.epoch(0))) / 1e6
    return {"best": best, "last": last, "seconds": spent, "memory": memory}


def known_ids(data: Data) -> int:
    """Return how many entries a memory needs that is addressed by sample id."""
    return int(data.train.ids.max()) + 1


def show(found: dict[str, dict[str, Any]]) -> None:
    """Print the table, the largest gain first."""
    control = {key: torch.tensor(values) for key, values in found["none"].items()}
    table = Table(title=f"{len(found['none']['best'])} seeds, accuracy % on validation")
    for title in ("method", "family", "best", "last", "gain (best)", "time of a step", "memory"):
        table.add_column(title, justify="left" if title in ("method", "family") else "right")
    rows = []
    for name, numbers in found.items():
        values = {key: torch.tensor(value) for key, value in numbers.items()}
        gain = values["best"] - control["best"]
        cells = [spread(values["best"]), spread(values["last"]), spread(gain, "+")]
        ratio = float(values["seconds"].median() / control["seconds"].median())
        more = float(values["memory"].median() - control["memory"].median())
        cells += [f"×{ratio:.2f}", f"+{more:.1f} MB"]
        rows.append((float(gain.mean()), (name, about(name).family, *cells)))
    for _, row in sorted(rows, reverse=True):
        table.add_row(*row)
    Console(width=110).print(table)


def spread(values: torch.Tensor, sign: str = "") -> str:
    """Return mean ± standard deviation."""
    around = f" ± {values.std():.2f}" if len(values) > 1 else ""
    return f"{values.mean():{sign}.2f}{around}"


if __name__ == "__main__":
    main()
