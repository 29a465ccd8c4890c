"""Memory and time of the fused output layer against the loss on all logits.

    python benchmarks/large_vocab.py
    python benchmarks/large_vocab.py --vocabularies 151936 --losses kl --width 1024 --rounds 3

From hidden states to the gradients of hidden states, weight and bias: one step, in float32, of
tokens that all count. Each step is taken in a process of its own, plain and fused in turn. Memory
is by how much the process's peak grew over the step, as the kernel counts it (``ru_maxrss``), so it
holds the gradients too, which are as large on both sides and shown beside it. Time is the
processor's, the system's share included, so that other processes disturb it little. Printed are
medians over the rounds and the ratios; nan where the system ended the process for want of memory:
``jensen_shannon`` needs 9 GB at 1024 tokens and 151,936 words, and twice that at 2048.

``kl+label`` has the label's cross-entropy beside it; ``kl top64`` has 64 classes of the teacher's
answer in place of hidden states and a head.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from limbeck import losses

LOSSES = [
    "kl", "reverse_kl", "jensen_shannon", "skewed_kl", "skewed_reverse_kl", "kl+label", "kl top64",
]  # fmt: skip
MB = 2**20


def main() -> None:
    """Measure every loss at every size, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabularies", nargs="*", type=int, default=[32_000, 151_936])
    parser.add_argument("--losses", nargs="*", default=LOSSES)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--width", type=int, default=512, help="features, of both models")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(measured(*options.step, options)))
        return
    table = Table(
        "V", "loss", "plain MB", "fused MB", "gradients MB", "memory", "plain s", "fused s", "time",
        title=f"{options.tokens} tokens, width {options.width}, {options.threads} thread(s), "
        f"float32, PyTorch {torch.__version__}, medians of {options.rounds}",
    )  # fmt: skip
    for size in options.vocabularies:
        for name in options.losses:
            table.add_row(f"{size:,}", name, *compared(name, size, options))
    Console(width=110).print(table)


def compared(name: str, size: int, options: argparse.Namespace) -> list[str]:
    """Return a row of the table."""
    rounds = [[child(way, name, size, options) for way in ("plain", "fused")]
              for _ in range(options.rounds)]  # fmt: skip
    plain, fused = (
        [statistics.median(pair[side][i] for pair in rounds) for i in (0, 1)] for side in (0, 1)
    )
    ratio = statistics.median(own[1] / other[1] for other, own in rounds)
    gradients = 4 * (size * (options.width + 1) + options.tokens * options.width) / MB
    return [
        f"{plain[0]:.0f}", f"{fused[0]:.0f}", f"{gradients:.0f}", f"1/{plain[0] / fused[0]:.1f}",
        f"{plain[1]:.2f}", f"{fused[1]:.2f}", f"×{ratio:.2f}",
    ]  # fmt: skip


def child(way: str, name: str, size: int, options: argparse.Namespace) -> list[float]:
    """Measure a step in a process of its own."""
    words = [sys.executable, __file__, "--step", way, name, "--vocabularies", str(size)]
    for option in ("tokens", "width", "threads"):
        words += [f"--{option}", str(getattr(options, option))]
    found = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    if found.returncode and found.returncode != -signal.SIGKILL:
        sys.exit(found.returncode)
    values: list[float] = json.loads(found.stdout or "[NaN, NaN]")
    print(f"{size:,} {name} {way}: {values[0]:.0f} MB, {values[1]:.2f} s", file=sys.stderr)
    return values


def measured(way: str, name: str, options: argparse.Namespace) -> list[float]:
    """Return by how many MB a step raises the peak, and the processor's seconds."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    made = plain if way == "plain" else fused
    made(name, 4, 64, 8)()  # what libraries keep once they have run
    step = made(name, options.tokens, options.vocabularies[0], options.width)
    before, start = peak(), time.process_time()
    step()
    return [(peak() - before) / MB, time.process_time() - start]


def peak() -> int:
    """Return the most bytes that this process has held."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def student(tokens: int, size: int, width: int) -> tuple[Tensor, nn.Linear]:
    """Return hidden states and an output layer."""
    return torch.randn(tokens, width, requires_grad=True), nn.Linear(width, size)


def teacher(part: str, tokens: int, size: int, width: int) -> tuple[Any, ...]:
    """Return hidden states and an output layer, or a part of the answer alone."""
    if part:
        return (answer(tokens, size),)
    return torch.randn(tokens, width), nn.Linear(width, size)


def answer(tokens: int, size: int) -> losses.SparseLogits:
    """Return a teacher's 64 likeliest classes, nine tenths of the mass."""
    indices = torch.randint(size // 64, (tokens, 64)) + torch.arange(64) * (size // 64)
    log_p = (0.9 * torch.rand(tokens, 64).softmax(-1)).log()
    return losses.SparseLogits(indices, log_p, size, rest=torch.full((tokens,), 0.1).log())


def plain(name: str, tokens: int, size: int, width: int) -> Callable[[], None]:
    """Return a step with the logits of all tokens."""
    loss, _, part = name.partition(" ")
    loss, _, label = loss.partition("+")
    hidden, head = student(tokens, size, width)
    known, *known_head = teacher(part, tokens, size, width)
    labels = torch.randint(size, (tokens,))

    def step() -> None:
        with torch.no_grad():
            theirs = known_head[0](known) if known_head else known
        own = head(hidden)
        value = losses.get(loss)(own, theirs)
        (value + F.cross_entropy(own, labels) if label else value).backward()

    return step


def fused(name: str, tokens: int, size: int, width: int) -> Callable[[], None]:
    """Return the same step in chunks."""
    loss, _, part = name.partition(" ")
    loss, _, label = loss.partition("+")
    hidden, head = student(tokens, size, width)
    known = teacher(part, tokens, size, width)
    labels = torch.randint(size, (tokens,))
    options = {"targets": labels, "label_weight": 1.0} if label else {}

    def step() -> None:
        losses.fused_linear(losses.get(loss), hidden, head, *known, **options).backward()

    return step


if __name__ == "__main__":
    main()
