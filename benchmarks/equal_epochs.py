"""The accuracy after equal epochs, with Limbeck's loop and with torchdistill's.

    python benchmarks/equal_epochs.py --data cifar10 --weights resnet20.safetensors

A pretrained CIFAR-10 ResNet-20 teaches a ResNet-8 (Hinton's loss, T = 4, 0.9 of the weight) on the
first so many training images, from the same first weights for each seed, with the same optimizer
and the same one-cycle schedule; torchdistill as its configurations have it, in fp32 with images one
by one. Nothing is selected: the last weights are measured on all test images. It needs an
environment with torchdistill and torchvision beside Limbeck.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from speed_loops import ALPHA, TEMPERATURE, Pair, now, placed, torchdistill_box
from torch import nn

import limbeck as lb
from limbeck.data import CIFAR10, Normalize, sources
from limbeck.distill import keep_freed, optim
from limbeck.students import load_weights, zoo

PEAK, BATCH = 0.2, 128
Train = Callable[[nn.Module, int], nn.Module]


def main() -> None:
    """Train each student with each library, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="the folder of CIFAR-10's parquet files")
    parser.add_argument("--weights", required=True, type=Path, help="of the ResNet-20")
    parser.add_argument("--images", type=int, default=40 * BATCH, help="whole batches")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    keep_freed()
    pair, test = _pair(given.data, given.weights, given.images)
    loops: dict[str, Train] = {
        "limbeck": _with_limbeck(pair, given.epochs),
        "torchdistill": _with_torchdistill(pair, given.epochs),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
    for seed in range(given.seeds):
        for name, train in loops.items():
            torch.manual_seed(seed)
            student = pair.build()
            began = now()
            trained = train(student, seed)
            seconds = now() - began
            found[name].append((_accuracy(trained, *test), seconds))
            print(f"seed {seed} {name}: {found[name][-1][0]:.2f} %, {seconds:.0f} s", flush=True)
    _print(found, _accuracy(pair.teacher, *test))


def _pair(folder: str, weights: Path, images: int) -> tuple[Pair, tuple[torch.Tensor, ...]]:
    data = sources.get("parquet")(folder, limit=images)
    whole = sources.get("parquet")(folder)
    teacher = zoo.build("resnet20", classes=10, shortcut="A")
    load_weights(teacher, weights)
    taught = _Shifted(teacher)
    inputs, labels = (data.train.column(name) for name in ("inputs", "targets"))
    pair = placed(taught, lambda: zoo.build("resnet8", classes=10), inputs, labels, BATCH)
    return pair, tuple(whole.test.column(name) for name in ("inputs", "targets"))


class _Shifted(nn.Module):
    """The teacher, which was trained with ImageNet's mean and deviation, for CIFAR-10's."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        (mean, std), (own_mean, own_std) = CIFAR10, lb.data.IMAGENET
        ratio = torch.tensor(std) / torch.tensor(own_std)
        shift = (torch.tensor(mean) - torch.tensor(own_mean)) / torch.tensor(own_std)
        self.register_buffer("ratio", ratio.view(3, 1, 1))
        self.register_buffer("shift", shift.view(3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(x * self.ratio + self.shift)
        return logits


def _with_limbeck(pair: Pair, epochs: int) -> Train:
    def train(student: nn.Module, seed: int) -> nn.Module:
        distiller = lb.Distiller(
            lb.Teacher(pair.teacher, pair.preprocess),
            student,
            task=lb.tasks.Classification(10),
            method=lb.methods.kd(temperature=TEMPERATURE, alpha=ALPHA),
            preprocess=pair.preprocess,
        )
        lb.fit(
            distiller,
            (pair.inputs, pair.labels),
            epochs=epochs,
            batch_size=pair.batch,
            augment=pair.augment,
            seed=seed,
            optimizer=optim.optimizer("sgd", lr=PEAK, momentum=0.9, weight_decay=5e-4),
            schedule=optim.schedule("one_cycle"),
            listener=lb.Silent(),
        )
        return distiller.student

    return train


def _with_torchdistill(pair: Pair, epochs: int) -> Train:
    steps = len(pair.labels) // pair.batch * epochs
    kwargs = {"max_lr": PEAK, "total_steps": steps, "cycle_momentum": False}
    schedule = {"key": "OneCycleLR", "kwargs": kwargs, "scheduling_step": 1}
    start = torchdistill_box(pair, epochs=epochs, same=False, schedule=schedule)

    def train(student: nn.Module, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        start(student, lambda epoch: None)
        return student

    return train


@torch.inference_mode()
def _accuracy(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the percentage that a model gets right, in fp32."""
    model.eval()
    first = Normalize(*CIFAR10)
    right = sum(
        int((model(first(x.float() / 255)).argmax(dim=1) == y).sum())
        for x, y in zip(inputs.split(500), labels.split(500), strict=True)
    )
    return 100 * right / len(labels)


def _print(found: dict[str, list[tuple[float, float]]], teacher: float) -> None:
    table = Table("loop", "accuracy %", "seconds", box=None)
    for name, runs in found.items():
        scores, seconds = zip(*runs, strict=True)
        around = f" ± {statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
        table.add_row(
            name, f"{statistics.mean(scores):.2f}{around}", f"{statistics.mean(seconds):.0f}"
        )
    Console().print(f"teacher {teacher:.2f} %", table)


if __name__ == "__main__":
    main()
