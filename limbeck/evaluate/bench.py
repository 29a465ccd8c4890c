"""Finished models side by side: size and speed, each in its own runtime, timed in turn.

Letters: B samples in a batch.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from limbeck.data.samples import cut
from limbeck.errors import InputError
from limbeck.evaluate.cost import Timing, peak_memory, spending, timings
from limbeck.evaluate.energy import Energy
from limbeck.evaluate.runtimes import Network, Runner
from limbeck.students.build import tensors

__all__ = ["Contender", "bench", "invented"]

_LENGTH = 32  # of axes of which nothing is known, a text's say


@dataclass(frozen=True)
class Contender:
    """A model to be compared.

    Attributes:
        runner: the model.
        inputs: a task's inputs, B samples.
        source: of the inputs: ``random`` or ``validation samples``.
        file: where it is on the disk, if it is a file or a folder.
    """

    runner: Runner
    inputs: Any
    source: str
    file: Path | None = None


def bench(contenders: Mapping[str, Contender], *, seconds: float = 2.0) -> dict[str, Any]:
    """Time models in turn, so that drift of the machine cancels; with one sample and with B.

    Args:
        contenders: by name.
        seconds: about how long to time each, for one sample and again for B.

    Returns:
        For each, JSON-like: ``runtime``, ``threads``, ``inputs``, ``parameters``, ``size_bytes``,
        ``zipped_bytes`` (deflated), ``latency_ms`` of one sample and ``batch_ms`` of B (``p50`` and
        ``p95``), ``batch``, ``throughput_per_s``, ``peak_memory_bytes`` for such a batch, and
        ``energy_j`` for one sample in it (``value`` and ``source``, measured or estimated). What is
        not known, or cannot be measured in a runtime, is ``None``.
    """
    with torch.inference_mode():
        given = {
            name: [(one.runner.prepared(some),) for some in (cut(one.inputs, slice(1)), one.inputs)]
            for name, one in contenders.items()
        }
    calls = {name: one.runner.run for name, one in contenders.items()}
    single, many = (
        timings(calls, None, own={name: sizes[n] for name, sizes in given.items()}, seconds=seconds)
        for n in (0, 1)
    )
    spent = spending(
        {name: one.runner for name, one in contenders.items()},
        {name: sizes[1][0] for name, sizes in given.items()},
        seconds=seconds,
    )
    return {
        name: _told(one, given[name][1][0], single[name], many[name], spent[name])
        for name, one in contenders.items()
    }


def invented(runner: Runner, batch: int) -> Any:
    """Return random inputs for a file, of the types, shapes and ranges that it tells of.

    Axes that are free besides the first get 32 places.

    Args:
        runner: of the file.
        batch: B.

    Raises:
        InputError: the file does not say what it takes.
    """
    takes = runner.facts.get("inputs")
    if not takes:
        raise InputError(
            f"the file for {runner.runtime} does not say what it takes",
            expected="an ONNX file, or one that Limbeck exported",
        )
    draws = torch.Generator().manual_seed(0)
    found = {name: _drawn(one, batch, draws) for name, one in takes.items()}
    return found if len(found) > 1 else next(iter(found.values()))


def _drawn(takes: Mapping[str, Any], batch: int, draws: torch.Generator) -> Tensor:
    shape = [batch, *(_LENGTH if isinstance(n, str) else n for n in takes["shape"][1:])]
    low, high = takes.get("seen", (0, 1))
    kind: torch.dtype = getattr(torch, takes["dtype"])
    if kind.is_floating_point:
        values: Tensor = torch.rand(shape, generator=draws, dtype=kind) * (high - low) + low
        return values
    return torch.randint(int(low), int(high) + 1, shape, generator=draws).to(kind)


def _told(
    one: Contender, inputs: Any, single: Timing, many: Timing, spent: Energy | None
) -> dict[str, Any]:
    size, runner = one.runner.size(), one.runner
    return {
        "runtime": runner.runtime,
        "threads": runner.threads,
        "inputs": one.source,
        "parameters": size.parameters,
        "size_bytes": size.bytes,
        "zipped_bytes": _zipped(one),
        "latency_ms": {"p50": single.p50_ms, "p95": single.p95_ms},
        "batch_ms": {"p50": many.p50_ms, "p95": many.p95_ms},
        "batch": many.batch_size,
        "throughput_per_s": many.throughput_per_s,
        "peak_memory_bytes": peak_memory(runner.model, inputs)
        if isinstance(runner, Network)
        else None,
        "energy_j": None if spent is None else spent.as_json(),
    }


def _zipped(one: Contender) -> int | None:
    """Return the bytes of a model's file, or weights, deflated."""
    if isinstance(one.runner, Network):
        return len(zlib.compress(save(tensors(one.runner.model))))
    if one.file is None:
        return None
    files = sorted(one.file.rglob("*")) if one.file.is_dir() else [one.file]
    return sum(len(zlib.compress(file.read_bytes())) for file in files if file.is_file())
