"""Training steps per second: our loop, the same loop by hand, stored teachers, another library.

    python benchmarks/speed.py                                    # random images: speed is the same
    python benchmarks/speed.py --pairs resnet56/resnet20 --rounds 7 --steps 60
    python benchmarks/speed.py --python ENVIRONMENT/bin/python    # that has torchdistill, too

Each loop is a process of its own (``benchmarks/speed_loops.py``), prepared and warmed up before the
first measurement. In each round every loop runs once, one after another, so that the machine's
drift cancels; a ratio is taken within a round. What is timed is the second epoch of a training:
preparation, which is paid once, is left out everywhere. All of them keep freed memory
(``limbeck.distill.keep_freed``): else a process is faster or slower by how its heap happens to lie.

Goals: live and by hand within 2 %; stored and without a teacher within 3 %; extraction and bare
inference within 5 %.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

LOOPS = {
    "by hand": "the same settings in a script",
    "limbeck": "live teacher",
    "limbeck, stored": "the teacher's answers read from a store",
    "limbeck, alone": "no teacher",
    "bare inference": "the teacher alone, by hand",
    "extraction": "the teacher alone, into a store",
    "torchdistill": "its defaults: fp32, images one by one",
    "torchdistill, same settings": "bf16, channels last, ready batches",
}
RATIOS = [
    ("limbeck", "by hand"),
    ("limbeck, stored", "limbeck, alone"),
    ("extraction", "bare inference"),
    ("torchdistill", "limbeck"),
    ("torchdistill, same settings", "limbeck"),
]


class Loop:
    """A process that runs one loop when told to."""

    def __init__(self, python: str, name: str, pair: str, steps: int, batch: int) -> None:
        script = Path(__file__).with_name("speed_loops.py")
        command = [python, str(script), name, pair, str(steps), str(batch)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.told = self._heard()

    def run(self) -> dict[str, Any]:
        """Run it once; return ``seconds`` and ``peak`` (bytes)."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._heard()

    def end(self) -> None:
        """Let the process end."""
        self.process.communicate("end\n")

    def _heard(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        return {"missing": f"ended with status {self.process.wait()}"}


@contextmanager
def loops(options: argparse.Namespace, pair: str) -> Iterator[dict[str, Loop]]:
    """Start and warm up all loops that can run here, one after another."""
    started: dict[str, Loop] = {}
    try:
        for name in options.loops:
            python = options.python if name.startswith("torchdistill") else sys.executable
            loop = Loop(python, name, pair, options.steps, options.batch)
            if "missing" in loop.told:
                print(f"{pair}: {name} left out: {loop.told['missing']}", flush=True)
                continue
            if "missing" in loop.run():
                print(f"{pair}: {name} left out: it failed", flush=True)
                continue
            started[name] = loop
        alike({name: loop.told for name, loop in started.items()})
        yield started
    finally:
        for loop in started.values():
            loop.end()


def alike(told: dict[str, dict[str, Any]]) -> None:
    """Refuse to compare loops that have different numbers of threads or versions of PyTorch."""
    for what in ("threads", "torch"):
        found = {name: settings[what] for name, settings in told.items()}
        if len(set(found.values())) > 1:
            raise SystemExit(f"loops differ in {what}, so their times say nothing: {found}")


def main() -> None:
    """Measure each pair, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", nargs="*", default=["resnet56/resnet20", "resnet32x4/resnet8x4"])
    parser.add_argument("--loops", nargs="*", default=list(LOOPS), choices=list(LOOPS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--python", default=sys.executable, help="for the loops of torchdistill")
    options = parser.parse_args()
    for pair in options.pairs:
        with loops(options, pair) as running:
            rounds = [
                {name: loop.run() for name, loop in running.items()} for _ in range(options.rounds)
            ]
            told = {name: loop.told for name, loop in running.items()}
        show(pair, options, rounds, told)


def show(
    pair: str, options: argparse.Namespace, rounds: list[dict[str, Any]], told: dict[str, Any]
) -> None:
    """Print images a second and peak memory of each loop, and the ratios within rounds."""
    images = options.steps * options.batch
    any_told = next(iter(told.values()))
    title = f"{pair}, batch {options.batch}, {any_told['precision']}, {any_told['threads']} threads"
    table = Table(title=title, title_justify="left")
    for column in ("loop", "what", "samples/s", "peak memory"):
        table.add_column(column, justify="left" if column in ("loop", "what") else "right")
    for name in told:
        rate = statistics.median(images / found[name]["seconds"] for found in rounds)
        peak = max(found[name]["peak"] for found in rounds)
        table.add_row(name, LOOPS[name], f"{rate:,.0f}", f"{peak / 1e6:,.0f} MB")
    console = Console(width=110)
    console.print(table)
    for first, second in RATIOS:
        if first in told and second in told:
            ratios = sorted(f[first]["seconds"] / f[second]["seconds"] for f in rounds)
            print(
                f"time of {first} / {second}: median {statistics.median(ratios):.3f}, from "
                f"{ratios[0]:.3f} to {ratios[-1]:.3f} in {len(rounds)} rounds of {options.steps} "
                "steps"
            )
    stored = told.get("limbeck, stored", {}).get("bytes_per_sample")
    if stored:
        print(f"stored: {stored:.1f} bytes a sample and view")
    print(flush=True)


if __name__ == "__main__":
    main()
