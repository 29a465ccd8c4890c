"""What each method adds to a training step of ResNet-20, teacher's answers given.

    python benchmarks/loss_cost.py
    python benchmarks/loss_cost.py --methods dkd dist kd --rounds 30

The student is a ResNet-20 on 32×32 images in batches of 128, the teacher's tensors are computed
once and replayed from memory: what is timed is the student's step with the method's loss, forward
and backward, against the step with the label alone, the two in turn. Printed are the medians of the
ratios; ×1.05 is five percent more than the control's step. On a GPU the device is waited for.

The memory is what autograd keeps for the backward pass beyond what it keeps for the control: the
bytes of all distinct storages that it saves. It does not depend on the machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from kept import kept_for_backward
from rich.console import Console
from rich.table import Table

import limbeck as lb
from limbeck import methods
from limbeck.methods import about
from limbeck.students import zoo

# They are for other tasks, for Transformers, or change the student.
ELSEWHERE = {
    "affinity", "binary", "ctc", "cwd_logits", "distilbert", "fgd", "ld", "listwise", "margin_mse",
    "minilm", "pkd", "policy", "rd", "rrd", "segmentation", "seqkd", "simkd", "tinybert", "uld",
}  # fmt: skip
BATCH, CLASSES = 128, 100


class Remembered:
    """A teacher that answers one batch again and again, at no cost."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.teacher = lb.Teacher(module)
        self.known: dict[tuple[int, tuple[str, ...]], lb.Knowledge] = {}

    def knowledge(self, batch: Any, taps: Any) -> lb.Knowledge:
        """Return what was said of a batch of this size before."""
        key = (len(batch["inputs"]), tuple(taps))
        if key not in self.known:
            self.known[key] = self.teacher.knowledge(batch, taps)
        return self.known[key]

    def fingerprint(self) -> str:
        """Return that of the teacher."""
        return self.teacher.fingerprint()


def main() -> None:
    """Print a row for each method, the dearest first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="*")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = options.methods or [n for n in methods.names() if n not in ELSEWHERE | {"none"}]
    torch.manual_seed(0)
    teacher = zoo.build("resnet56", classes=CLASSES).to(device)
    batch = {
        "inputs": torch.randn(BATCH, 3, 32, 32, device=device),
        "targets": torch.randint(CLASSES, (BATCH,), device=device),
        "id": torch.arange(BATCH, device=device),
    }
    control = Step("none", teacher, batch)
    kept = kept_for_backward(control.distiller, batch)
    rows = []
    for name in names:
        try:
            step = Step(name, teacher, batch)
            step(), control()
        except lb.InputError as error:
            print(f"{name}: left out: {error}")
            continue
        pairs = [(step(), control()) for _ in range(options.rounds)]
        ratio = statistics.median(own / alone for own, alone in pairs)
        spent = 1000 * statistics.median(own for own, _ in pairs)
        rows.append((ratio, name, spent, (kept_for_backward(step.distiller, batch) - kept) / 2**20))
    table = Table(title=f"ResNet-20, batch {BATCH}, {device}, {torch.get_num_threads()} threads")
    for title in ("method", "family", "declared cost"):
        table.add_column(title)
    for title in ("ms a step", "over the control", "MiB kept"):
        table.add_column(title, justify="right")
    for ratio, name, spent, memory in sorted(rows, reverse=True):
        info = about(name)
        numbers = f"{spent:.0f}", f"×{ratio:.3f}", f"{memory:+.1f}"
        table.add_row(name, info.family, info.cost, *numbers)
    Console(width=100).print(table)


class Step:
    """One training step of a fresh student."""

    def __init__(self, name: str, teacher: torch.nn.Module, batch: dict[str, Any]) -> None:
        torch.manual_seed(0)
        student = zoo.build("resnet20", classes=CLASSES).to(batch["inputs"].device)
        given = {
            "crd": {"n_data": 50_000},
            "prototype": {"n_classes": CLASSES},
            "semckd": {"batch_size": BATCH},
        }
        self.batch = batch
        self.distiller = lb.Distiller(
            Remembered(teacher),
            student,
            task=lb.tasks.Classification(CLASSES),
            method=methods.get(name)(**given.get(name, {})),
        ).prepare(batch)
        self.distiller.train()
        self.optimizer = torch.optim.SGD(self.distiller.parameters(), lr=0.01, momentum=0.9)

    def __call__(self) -> float:
        """Return the seconds of a step."""
        _settled()
        began = time.perf_counter()
        loss = self.distiller(self.batch).loss
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        _settled()
        return time.perf_counter() - began


def _settled() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
