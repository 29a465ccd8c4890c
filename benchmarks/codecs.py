"""What each codec keeps, in how many bytes, and what that does to the student.

    python benchmarks/codecs.py
    python benchmarks/codecs.py --data CIFAR10 --weights FOLDER   # with real answers and features

The first table is about answers over many classes with the long tail that words have (a power law
of the rank, with noise; made up). A student that knows only how likely a class is in general, one
logit for each, learns from them: ``learnt`` is its divergence from the mean of all answers, in
nats, beyond what it has learnt from all logits. ``renormalised`` has the top-64's classes with
their mass made one, as if there were no others.

With the Parquet files of CIFAR-10 and the weights resnet56.safetensors and resnet20.safetensors of
github.com/akamaster/pytorch_resnet_cifar10, ResNet-56 teaches ResNet-20 on test images: answers at
temperature 4, and the features of ``layer3``.

``a row`` is the error of a single answer's gradient, the mean length of the difference over the
mean length: noise and bias. ``all rows`` is that of the gradients' mean over all rows, as the bias
of the student's last layer gets it: noise cancels there, a bias does not. Bytes are those of the
stored tensors, without a store's index.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from limbeck.data import Loader, Normalize, sources
from limbeck.data.preprocess import IMAGENET
from limbeck.data.random import key
from limbeck.errors import InputError
from limbeck.knowledge import codec
from limbeck.losses import SparseLogits, kl
from limbeck.students import zoo
from limbeck.students.build import load_weights

WORDS = ("half", "top16", "top64", "renormalised", "sample16", "sample64")
ANSWERS = ("half", "top2@4", "top4@4", "sample4@4", "sample16@4")
FEATURES = ("half", "int8", "pca32", "pca16", "pca8")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=4000)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args()
    console = Console(width=100)
    title = f"{options.rows} made-up answers over {options.classes:,} classes, temperature 1"
    console.print(learning(title, words(options.rows, options.classes)))
    if options.data and options.weights:
        student, teacher, maps = pictures(options.data, options.weights, options.rows)
        title = f"ResNet-56 on {len(teacher)} test images of CIFAR-10, 10 classes, temperature 4"
        console.print(answers(title, ANSWERS, student, teacher, 4.0))
        console.print(features(f"its layer3, {tuple(maps.shape[1:])}", maps))


def words(rows: int, classes: int) -> Tensor:
    """Return logits: common classes are likely everywhere, with much noise."""
    generator = torch.Generator().manual_seed(0)
    common = -torch.arange(1, classes + 1).log()
    return common + 1.5 * torch.randn(rows, classes, generator=generator)


def learning(title: str, teacher: Tensor) -> Table:
    """Return a row for each codec of answers over many classes."""
    table = shaped(title, "codec", "bytes a row", "rows/s in", "a row", "learnt, nats")
    student = torch.zeros_like(teacher[:500])
    exact = slope(student, teacher[:500], 1.0)
    mean = teacher.softmax(-1).mean(0).log()
    least = float(kl(learnt(teacher, len(mean)), mean))
    for name in WORDS:
        known, size, rate = kept("top64" if name == "renormalised" else name, teacher)
        if name == "renormalised":
            known = alone(known)
        off = slope(student, known[:500], 1.0) - exact
        row = float(off.norm(dim=-1).mean() / exact.norm(dim=-1).mean())
        beyond = float(kl(learnt(known, len(mean)), mean)) - least
        table.add_row(name, f"{size:,}", f"{rate:,.0f}", f"{row:.1%}", f"{max(beyond, 0):.4f}")
    return table


def alone(known: SparseLogits) -> Any:
    """Return the classes that are kept as if there were no others, all logits in full."""
    log_p = known.log_p - known.log_p.logsumexp(-1, keepdim=True)
    return torch.full(known.shape, -torch.inf).scatter(-1, known.indices, log_p)


def learnt(known: Any, classes: int, steps: int = 600, batch: int = 250) -> Tensor:
    """Return the logits (C,) that learn from all answers at once."""
    logits = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1, betas=(0.9, 0.99))
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        start = step * batch % len(known)
        rows = known[start : start + batch]
        optimizer.zero_grad()
        kl(logits.expand(len(rows), -1), rows).backward()
        optimizer.step()
        falling.step()
    return logits.detach()


@torch.no_grad()
def pictures(data: Path, weights: Path, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits of ResNet-20 and ResNet-56 on test images, and the latter's last maps."""
    test = sources.get("parquet")(path=data).test
    if test is None:
        raise InputError(f"{data} has no test images")
    batches = Loader(test.subset(torch.arange(rows)), 250, shuffle=False).epoch(0)
    images = [Normalize(*IMAGENET)(batch["inputs"]) for batch in batches]
    models = {}
    for name in ("resnet20", "resnet56"):
        models[name] = zoo.build(name, classes=10, shortcut="A").eval()
        load_weights(models[name], weights / f"{name}.safetensors")
    maps: list[Tensor] = []
    models["resnet56"].layer3.register_forward_hook(lambda module, args, out: maps.append(out))
    logits = {n: torch.cat([m(part) for part in images]) for n, m in models.items()}
    return logits["resnet20"], logits["resnet56"], torch.cat(maps)


def answers(
    title: str, names: tuple[str, ...], student: Tensor, teacher: Tensor, temperature: float
) -> Table:
    """Return a row for each codec of logits."""
    table = shaped(title, "codec", "bytes a row", "rows/s in", "a row", "all rows")
    exact = slope(student, teacher, temperature)
    for name in names:
        known, size, rate = kept(name, teacher)
        off = slope(student, known, temperature) - exact
        row = float(off.norm(dim=-1).mean() / exact.norm(dim=-1).mean())
        together = float(off.mean(0).norm() / exact.mean(0).norm())
        table.add_row(name, f"{size:,}", f"{rate:,.0f}", f"{row:.2%}", f"{together:.2%}")
    return table


def features(title: str, maps: Tensor) -> Table:
    """Return a row for each codec of features."""
    table = shaped(title, "codec", "bytes a row", "rows/s in", "relative error")
    for name in FEATURES:
        known, size, rate = kept(name, maps)
        off = float((known - maps).norm() / maps.norm())
        table.add_row(name, f"{size:,}", f"{rate:,.0f}", f"{off:.2%}")
    return table


def kept(name: str, field: Tensor) -> tuple[Any, int, float]:
    """Return a field as it comes back, the bytes of a row, and rows encoded in a second."""
    found, keys = codec.get(name).fitted(field[:256]), key(0, torch.arange(len(field)), 0)
    found.encode(field[:256], keys[:256])
    began = time.perf_counter()
    parts = found.encode(field, keys)
    seconds = time.perf_counter() - began
    size = sum(part[0].numel() * part.element_size() for part in parts.values())
    return found.decode(parts, tuple(field.shape[1:])), size, len(field) / seconds


def slope(student: Tensor, teacher: Any, temperature: float) -> Tensor:
    """Return the gradient of each row's KL for the student's logits."""
    leaf = student.clone().requires_grad_(True)
    kl(leaf, teacher, temperature=temperature, reduction="sum").backward()
    assert leaf.grad is not None
    return leaf.grad


def shaped(title: str, first: str, *others: str) -> Table:
    table = Table(title=title)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


if __name__ == "__main__":
    main()
