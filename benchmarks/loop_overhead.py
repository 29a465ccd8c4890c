"""Our loop against the same loop written by hand: time per step in turn, and accuracy in full.

    python benchmarks/loop_overhead.py --data ../shared/data/cifar10 \
        --teacher ../shared/data/checkpoints_cifar10_resnet/resnet56.safetensors

trains ResNet-8 on CIFAR-10 for a few short rounds, alternating between the two loops so that drift
of the machine cancels, with a live ResNet-56 teacher and without one, and prints the ratio of the
times. ``--full`` trains all four for 15 epochs instead and prints accuracies on the test images
too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limbeck as lb
from limbeck.data import (
    CIFAR10,
    IMAGENET,
    Arrays,
    Augmentation,
    Crop,
    Data,
    Flip,
    Normalize,
    sources,
)
from limbeck.distill import optim, plan
from limbeck.students import load_weights, zoo

BATCH, RATE = 128, 0.2


def by_hand(
    student: nn.Module, teacher: nn.Module | None, images: Tensor, labels: Tensor, epochs: int
) -> None:
    """Train as one would in a script: the same recipe, no Limbeck."""
    chosen = plan(student, torch.device("cpu"))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in CIFAR10)
    teacher_mean, teacher_std = (torch.tensor(values).view(1, 3, 1, 1) for values in IMAGENET)
    layout = torch.channels_last if chosen.channels_last else torch.contiguous_format
    half = chosen.precision == "bf16"
    for model in filter(None, (student, teacher)):
        model.to(memory_format=layout)
    optimizer = torch.optim.SGD(
        student.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    steps = len(images) // BATCH
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        RATE,
        total_steps=epochs * steps,
        pct_start=0.3,
        div_factor=25,
        final_div_factor=1e4,
    )
    student.train()
    for _ in range(epochs):
        order = torch.randperm(len(images))
        for step in range(steps):
            rows = order[step * BATCH : (step + 1) * BATCH]
            x, y = augmented(images.index_select(0, rows)), labels.index_select(0, rows)
            x = x.float().div_(255).to(memory_format=layout)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                logits = student((x - mean) / std)
                loss = F.cross_entropy(logits.float(), y)
                if teacher is not None:
                    with torch.inference_mode():
                        said = teacher((x - teacher_mean) / teacher_std)
                    log_q = F.log_softmax(logits.float() / 4, dim=1)
                    log_p = F.log_softmax(said.clone().float() / 4, dim=1)
                    far = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * 16
                    loss = 0.1 * loss + 0.9 * far
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()


def augmented(images: Tensor) -> Tensor:
    """Crop with a padding of 4 and flip, for a whole batch of uint8 images at once."""
    count = len(images)
    windows = F.pad(images, [4] * 4).unfold(2, 32, 1).unfold(3, 32, 1)
    images = windows[torch.arange(count), :, torch.randint(9, (count,)), torch.randint(9, (count,))]
    rows = torch.arange(count) + torch.randint(2, (count,)) * count
    return torch.cat([images, images.flip(-1)]).index_select(0, rows)


def with_limbeck(student: nn.Module, teacher: nn.Module | None, data: Arrays, epochs: int) -> None:
    """Train with :func:`limbeck.fit`."""
    distiller = lb.Distiller(
        lb.Teacher(teacher, Normalize(*IMAGENET)) if teacher else None,
        student,
        task=lb.tasks.Classification(10),
        method=lb.methods.kd(temperature=4, alpha=0.9) if teacher else None,
        preprocess=Normalize(*CIFAR10),
    )
    lb.fit(
        distiller,
        data,
        epochs=epochs,
        batch_size=BATCH,
        augment=Augmentation((Crop(4), Flip())),
        optimizer=optim.optimizer("sgd", lr=RATE, momentum=0.9, weight_decay=5e-4, nesterov=True),
        listener=lb.Silent(),
    )


def accuracy(student: nn.Module, data: Data) -> float:
    """Return the share of test images that the student gets right."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in CIFAR10)
    test = data.test
    images, labels = test.column("inputs"), test.column("targets")
    student.eval()
    with torch.inference_mode():
        right = [
            (student((x.float() / 255 - mean) / std).argmax(1) == y).sum()
            for x, y in zip(images.split(500), labels.split(500), strict=True)
        ]
    return float(torch.stack(right).sum()) / len(labels)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--full", action="store_true", help="15 epochs each, with accuracies")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    data = sources.parquet(options.data, validation=0.1)
    teacher = zoo.build("resnet56", shortcut="A")
    load_weights(teacher, options.teacher)
    teacher.eval().requires_grad_(False)
    epochs = 15 if options.full else 1
    rounds = 1 if options.full else options.rounds
    most = len(data.train) if options.full else options.steps * BATCH
    train = data.train.subset(torch.arange(most))
    images, labels = train.column("inputs"), train.column("targets")
    print(plan(teacher, torch.device("cpu")), f"threads {torch.get_num_threads()}")
    for name, guide in (("control", None), ("live teacher", teacher)):
        times: dict[str, list[float]] = {"by hand": [], "limbeck": []}
        for number in range(rounds + (not options.full)):
            for which, spent in times.items():
                torch.manual_seed(number)
                student = zoo.build("resnet8")
                began = time.perf_counter()
                if which == "by hand":
                    by_hand(student, guide, images, labels, epochs)
                else:
                    with_limbeck(student, guide, train, epochs)
                spent.append(time.perf_counter() - began)
                if options.full:
                    print(f"{name:<13} {which:<8} {accuracy(student, data):.4f} {spent[-1]:.0f} s")
        if not options.full:
            times = {which: spent[1:] for which, spent in times.items()}
        pairs = zip(times["limbeck"], times["by hand"], strict=True)
        ratios = sorted(ours / theirs for ours, theirs in pairs)
        per_step = statistics.median(times["limbeck"]) / (epochs * (most // BATCH)) * 1000
        print(
            f"{name:<13} time limbeck / by hand: median {statistics.median(ratios):.3f}, "
            f"from {ratios[0]:.3f} to {ratios[-1]:.3f}; {per_step:.1f} ms a step"
        )


if __name__ == "__main__":
    main()
