"""How long kl, dkd and dist take: ours, torchdistill's, and what mdistiller computes.

    python benchmarks/loss_speed.py
    python benchmarks/loss_speed.py --shapes 128x1000 --rounds 30

Values and the student's gradient, in one process, the three in turn; first it is checked that
they compute the same. A ratio is taken within a round, so that the machine's drift cancels; printed
are its median and quartiles, above 1 where ours is faster. torchdistill's column needs an
environment in which it can be imported; it has no dkd. mdistiller's way is written here, from its
formulas: softmax and then its logarithm, masks of ones and zeros for the label's class, −1000 to
rule it out; its dist is that of DIST's authors. One thread is measured in the processor's time, so
that what else runs on the machine counts little; several, or a GPU, by the clock.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from foreign_torchvision import declare_operators
from rich.console import Console
from rich.table import Table
from torch import Tensor

from limbeck import losses

LOSSES = ("kl", "dkd", "dist")
SHAPES = ("64x100", "128x1000", "4096x32000")
OURS, THEIRS, WAY = "limbeck", "torchdistill", "as mdistiller computes it"
T = 4.0
Run = Callable[[Tensor, Tensor, Tensor], Tensor]


def contestants(name: str) -> dict[str, Run]:
    """Return what computes the loss, by whose it is."""
    ours: dict[str, Run] = {
        "kl": lambda s, t, y: losses.kl(s, t, temperature=T),
        "dkd": lambda s, t, y: losses.dkd(s, t, targets=y, temperature=T),
        "dist": lambda s, t, y: losses.dist(s, t, temperature=T),
    }
    way: dict[str, Run] = {
        "kl": usual_kl,
        "dkd": lambda s, t, y: usual_dkd(s, t, y, 1.0, 8.0),
        "dist": lambda s, t, y: usual_dist(s, t),
    }
    found = {OURS: ours[name], WAY: way[name]}
    theirs = torchdistills()
    if name in theirs:
        found[THEIRS] = theirs[name]
    return found


def usual_kl(student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
    """Return T² times the divergence, summed over classes."""
    log_q, p = F.log_softmax(student / T, dim=1), F.softmax(teacher / T, dim=1)
    return F.kl_div(log_q, p, reduction="none").sum(1).mean() * T**2


def usual_dkd(
    student: Tensor, teacher: Tensor, targets: Tensor, alpha: float, beta: float
) -> Tensor:
    """Return the two parts of DKD, by masks."""
    index = targets.reshape(-1).unsqueeze(1)
    label = torch.zeros_like(student).scatter_(1, index, 1).bool()
    others = torch.ones_like(student).scatter_(1, index, 0).bool()
    pairs = []
    for logits in (student, teacher):
        shares = F.softmax(logits / T, dim=1)
        halves = [(shares * mask).sum(1, keepdim=True) for mask in (label, others)]
        pairs.append(torch.cat(halves, dim=1))
    size = len(student)
    target = F.kl_div(pairs[0].log(), pairs[1], reduction="sum") * T**2 / size
    log_q = F.log_softmax(student / T - 1000.0 * label, dim=1)
    p = F.softmax(teacher / T - 1000.0 * label, dim=1)
    rest = F.kl_div(log_q, p, reduction="sum") * T**2 / size
    return alpha * target + beta * rest


def usual_dist(student: Tensor, teacher: Tensor) -> Tensor:
    """Return one minus the correlations, along classes and along samples."""
    q, p = ((x / T).softmax(dim=1) for x in (student, teacher))
    return T**2 * (_apart(q, p) + _apart(q.transpose(0, 1), p.transpose(0, 1)))


def _apart(q: Tensor, p: Tensor) -> Tensor:
    q, p = (x - x.mean(1).unsqueeze(1) for x in (q, p))
    return 1 - ((q * p).sum(1) / (q.norm(dim=1) * p.norm(dim=1) + 1e-8)).mean()


@functools.cache
def torchdistills() -> dict[str, Run]:
    """Return torchdistill's losses; none where it cannot be imported."""
    if importlib.util.find_spec("torchdistill") is None:
        return {}
    declare_operators()  # it imports torchvision, of which nothing is used here
    from torchdistill.losses.mid_level import DISTLoss, KDLoss

    taps = ("logits", "output", "logits", "output")
    kd, dist = KDLoss(*taps, temperature=T, alpha=0.0), DISTLoss(*taps, tau=T)

    def said(logits: Tensor) -> dict[str, dict[str, Tensor]]:
        return {"logits": {"output": logits}}

    return {
        "kl": lambda s, t, y: T**2 * kd(said(s), said(t)),  # without a label it leaves T² out
        "dist": lambda s, t, y: dist(said(s), said(t)),
    }


def measured(runs: dict[str, Run], shape: str, rounds: int, device: str) -> dict[str, list[float]]:
    """Return the seconds of each call, by whose it is, after a check that all agree."""
    size, classes = map(int, shape.split("x"))
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        torch.randn(size, classes, generator=generator).mul_(3).to(device) for _ in range(2)
    )
    targets = torch.randint(classes, (size,), generator=generator).to(device)
    student.requires_grad_(True)
    alone = device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    repeats = max(1, 200_000 // (size * classes))

    def call(run: Run) -> float:
        _settled()
        began = clock()
        for _ in range(repeats):
            student.grad = None
            run(student, teacher, targets).backward()
        _settled()
        return (clock() - began) / repeats

    expected: dict[str, Any] = {}
    for whose, run in runs.items():
        value = run(student, teacher, targets).detach()
        expected.setdefault("value", value)
        torch.testing.assert_close(value, expected["value"], rtol=1e-3, atol=1e-6, msg=whose)
    spent: dict[str, list[float]] = {whose: [] for whose in runs}
    for number in range(rounds + 1):
        for whose, run in runs.items():
            seconds = call(run)
            if number:  # the first is not counted
                spent[whose].append(seconds)
    return spent


def _settled() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    """Print a row for each loss and shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="*", default=SHAPES)
    parser.add_argument("--losses", nargs="*", default=LOSSES, choices=LOSSES)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    table = Table(title=f"{device}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}")
    for title in ("loss", "shape", f"{OURS}, ms", THEIRS, WAY):
        table.add_column(title, justify="left" if title in ("loss", "shape") else "right")
    for shape in options.shapes:
        for name in options.losses:
            spent = measured(contestants(name), shape, options.rounds, device)
            cells = [_ratio(spent.get(whose), spent[OURS]) for whose in (THEIRS, WAY)]
            table.add_row(name, shape, f"{1000 * statistics.median(spent[OURS]):.3g}", *cells)
    Console(width=100).print(table)
    if not torchdistills():
        print("torchdistill cannot be imported here: its column is empty")


def _ratio(theirs: list[float] | None, ours: list[float]) -> str:
    if theirs is None:
        return "–"
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return f"×{middle:.2f} ({low:.2f}–{high:.2f})"


if __name__ == "__main__":
    main()
