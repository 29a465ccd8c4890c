"""Every classification method under one budget, against the control.

    python benchmarks/method_table.py --recipe digits
    python benchmarks/method_table.py --recipe cifar10 --methods kd dkd at --set data.path=... \
        --set teacher.weights=...

One teacher (the recipe's), and for each method and seed one student with the recipe's training; all
methods of a seed begin with the same weights and see the same samples. Methods that add to others
(features, relations) stand alone beside the label, with their default weights. Nothing is tuned per
method, and nothing is measured on test samples: printed is the accuracy on validation samples in
percent (best epoch, and last), its gain over the control seed by seed, and the time of a step over
the control's. A gain smaller than its spread is no gain.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import limbeck as lb
from limbeck import methods
from limbeck.data import Data
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
    data = build.data(recipe.data)
    teacher = trained_teacher(recipe, data)
    names = ["none", *(options.methods or classification())]
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(names):
        try:
            runs = [trained(name, seed, teacher, recipe, data) for seed in range(options.seeds)]
        except lb.InputError as error:
            print(f"{name}: left out: {error}", flush=True)
            continue
        found[name] = {key: [run[key] for run in runs] for key in runs[0]}
        print(f"{name}: {[round(value, 2) for value in found[name]['best']]}", flush=True)
    show(found)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


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


def trained(
    name: str, seed: int, module: torch.nn.Module, recipe: Recipe, data: Data
) -> dict[str, float]:
    """Return the validation accuracy in percent, best and last, and the seconds of a step."""
    torch.manual_seed(seed)
    student = build.blueprint(recipe.student, recipe.teacher, data).model()
    given = {
        "crd": {"n_data": known_ids(data)},
        "prototype": {"n_classes": len(data.labels)},
        "semckd": {"batch_size": recipe.train.batch_size},
    }
    method = methods.get(name)(**given.get(name, {}))
    distiller = lb.Distiller(
        lb.Teacher(module, build.preprocess(recipe, recipe.teacher)),
        student,
        task=build.task(recipe, data),
        method=method,
        preprocess=build.preprocess(recipe, recipe.student),
    )
    began = time.perf_counter()
    fitted = lb.fit(
        distiller,
        data.train,
        validation=data.validation,
        augment=build.augmentation(recipe.data.augment, recipe.data.seed),
        seed=seed,
        **build.training(recipe.train),
    )
    spent = (time.perf_counter() - began) / fitted.history[-1]["steps"]
    best, last = fitted.history[fitted.best_epoch], fitted.history[-1]
    best, last = (100 * epoch["validation"]["accuracy"] for epoch in (best, last))
    return {"best": best, "last": last, "seconds": spent}


def known_ids(data: Data) -> int:
    """Return how many entries a memory needs that is addressed by sample id."""
    return int(data.train.ids.max()) + 1


def show(found: dict[str, dict[str, Any]]) -> None:
    """Print the table, the largest gain first."""
    control = {key: torch.tensor(values) for key, values in found["none"].items()}
    table = Table(title=f"{len(found['none']['best'])} seeds, accuracy % on validation")
    for title in ("method", "family", "best", "last", "gain (best)", "time of a step"):
        table.add_column(title, justify="left" if title in ("method", "family") else "right")
    rows = []
    for name, numbers in found.items():
        values = {key: torch.tensor(value) for key, value in numbers.items()}
        gain = values["best"] - control["best"]
        cells = [spread(values["best"]), spread(values["last"]), spread(gain, "+")]
        ratio = float(values["seconds"].median() / control["seconds"].median())
        rows.append((float(gain.mean()), (name, about(name).family, *cells, f"×{ratio:.2f}")))
    for _, row in sorted(rows, reverse=True):
        table.add_row(*row)
    Console(width=110).print(table)


def spread(values: torch.Tensor, sign: str = "") -> str:
    """Return mean ± standard deviation."""
    around = f" ± {values.std():.2f}" if len(values) > 1 else ""
    return f"{values.mean():{sign}.2f}{around}"


if __name__ == "__main__":
    main()
