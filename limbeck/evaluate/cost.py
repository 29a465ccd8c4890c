"""What a model costs: size, arithmetic, time and memory.

Letters: B samples in a batch.
"""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from limbeck.data.samples import cut
from limbeck.evaluate.energy import Energy, energies, meter
from limbeck.evaluate.runtimes import Network, Runner, device_of, size_bytes
from limbeck.knowledge.model import call, macs

__all__ = ["Cost", "Timing", "costs", "peak_memory", "size_bytes", "spending", "timings"]


@dataclass(frozen=True)
class Timing:
    """How long one forward pass takes, over many repetitions.

    Attributes:
        batch_size: B.
        p50_ms: the median, in milliseconds.
        p95_ms: the 95th percentile, in milliseconds.
        repeats: how many passes were timed.
    """

    batch_size: int
    p50_ms: float
    p95_ms: float
    repeats: int

    @property
    def throughput_per_s(self) -> float:
        """Samples per second, by the median."""
        return self.batch_size / self.p50_ms * 1000


@dataclass(frozen=True)
class Cost:
    """What a model costs on the machine at hand; PyTorch's in float32 and without compilation.

    Attributes:
        parameters: how many numbers were trained; ``None``, as elsewhere, if that is not known.
        size_bytes: of its weights as safetensors, or of its file.
        macs: multiply-accumulates for one sample, as far as the counter knows the operations; of
            PyTorch's models.
        macs_coverage: the share of the weights that belong to counted operations, 0 to 1.
        latency_ms: median and 95th percentile for one sample, in milliseconds.
        throughput_per_s: samples per second in batches of ``throughput_batch``.
        throughput_batch: B for that.
        peak_memory_bytes: weights, input and the most intermediate results alive at once, for that
            batch; on a GPU what its allocator reports; of PyTorch's models.
        energy_j: joules for one sample, in such batches: ``value``, and ``source``, which begins
            with ``measured:`` or ``estimated:``; ``None`` if nothing is known.
        threads: how many the processor used.
        device: where it was measured.
        runtime: what ran it, with its version.
    """

    parameters: int | None
    size_bytes: int | None
    macs: int | None
    macs_coverage: float | None
    latency_ms: Mapping[str, float]
    throughput_per_s: float
    throughput_batch: int
    peak_memory_bytes: int | None
    energy_j: Mapping[str, Any] | None
    threads: int | None
    device: str
    runtime: str

    def as_json(self) -> dict[str, Any]:
        """Return it as a report keeps it."""
        return asdict(self)


def costs(
    models: Mapping[str, nn.Module | Runner],
    inputs: Any,
    *,
    own: Mapping[str, Any] | None = None,
    seconds: float = 3.0,
) -> dict[str, Cost]:
    """Measure several models on the same inputs, in turn, so that drift of the machine cancels.

    Args:
        models: by name; modules are left in eval mode, others run in their own runtime.
        inputs: what a model is called with, B samples; the latency is that of the first alone.
        own: other inputs, by model, for those that are called with something else.
        seconds: about how long to time for each model and batch size; a quarter of that is added
            for energy.

    >>> found = costs({"a": nn.Linear(4, 2)}, torch.zeros(8, 4), seconds=0.01)["a"]
    >>> found.parameters, found.macs, found.macs_coverage
    (10, 8, 1.0)
    """
    runners = {
        name: Network(model) if isinstance(model, nn.Module) else model
        for name, model in models.items()
    }
    with torch.inference_mode():
        given = {name: (own or {}).get(name, inputs) for name in runners}
        whole = {name: (runner.prepared(given[name]),) for name, runner in runners.items()}
        ones = {
            name: (runner.prepared(cut(given[name], slice(1))),) for name, runner in runners.items()
        }
    calls = {name: runner.run for name, runner in runners.items()}
    single = timings(calls, None, own=ones, seconds=seconds)
    many = timings(calls, None, own=whole, seconds=seconds)
    spent = spending(runners, {name: inputs[0] for name, inputs in whole.items()}, seconds=seconds)
    return {
        name: _cost(runner, whole[name][0], ones[name][0], single[name], many[name], spent[name])
        for name, runner in runners.items()
    }


def spending(
    runners: Mapping[str, Runner], inputs: Mapping[str, Any], *, seconds: float
) -> dict[str, Energy | None]:
    """Return the energy for one sample of each model, measured or estimated, in turn.

    Args:
        runners: by name.
        inputs: of each, prepared, B samples.
        seconds: for which each was timed; energy takes a quarter of that.
    """
    places = {name: device_of(runner) for name, runner in runners.items()}
    known = {place: meter(place) for place in set(places.values()) if place is not None}
    return energies(
        {name: runner.run for name, runner in runners.items()},
        {name: (given,) for name, given in inputs.items()},
        {name: None if place is None else known[place] for name, place in places.items()},
        {name: _count(given) for name, given in inputs.items()},
        seconds=seconds / 4,
    )


@torch.inference_mode()
def timings(
    models: Mapping[str, Callable[..., Any]],
    inputs: Any,
    *,
    own: Mapping[str, Any] | None = None,
    seconds: float,
) -> dict[str, Timing]:
    """Time one forward pass of each model, warm and in turn.

    Each timed pass follows one of the same model that is not, so that none finds the processor's
    caches as another model left them.

    Args:
        models: by name, in eval mode.
        inputs: what each is called with.
        own: other inputs, by model, for those that are called with something else.
        seconds: about how long to go on for each model; at least 5 passes and at most 200.
    """
    given = {name: (own or {}).get(name, inputs) for name in models}
    spent: dict[str, list[float]] = {name: [] for name in models}
    for name, model in models.items():
        for _ in range(3):
            call(model, given[name])
    began = time.perf_counter()
    enough = seconds * len(models)
    while len(next(iter(spent.values()))) < 200:
        for name, model in models.items():
            call(model, given[name])
            spent[name].append(_timed(model, given[name]))
        if time.perf_counter() - began > enough and len(next(iter(spent.values()))) >= 5:
            break
    return {
        name: Timing(
            _count(given[name]),
            statistics.median(times) * 1000,
            sorted(times)[min(len(times) - 1, round(0.95 * len(times)))] * 1000,
            len(times),
        )
        for name, times in spent.items()
    }


@torch.inference_mode()
def peak_memory(model: nn.Module, inputs: Any) -> int:
    """Return the bytes of the weights, the inputs and the most intermediate results alive at once.

    On a processor every tensor that an operation returns is followed until it is freed; scratch
    memory inside a kernel is not seen.
    """
    weights = [*model.parameters(), *model.buffers()]
    kept = sum(t.nbytes for t in [*weights, *tree_leaves(inputs)])
    device = weights[0].device if weights else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        call(model, inputs)
        most: int = torch.cuda.max_memory_allocated(device)
        return most
    with _Live() as live:
        call(model, inputs)
    return int(kept + live.peak)


class _Live(TorchDispatchMode):
    """Adds up the storage of all tensors made inside that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_leaves(args) if isinstance(t, Tensor)}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known | given:
                    self.known.add(storage._cdata)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return made

    def _freed(self, which: int, size: int) -> None:
        self.known.discard(which)
        self.now -= size


def _cost(
    runner: Runner, inputs: Any, one: Any, single: Timing, many: Timing, spent: Energy | None
) -> Cost:
    size, device = runner.size(), "cpu"
    counted = coverage = peak = None
    if isinstance(runner, Network):
        device = str(device_of(runner))
        counted, coverage = macs(runner.model, one)
        peak = peak_memory(runner.model, inputs)
    return Cost(
        parameters=size.parameters,
        size_bytes=size.bytes,
        macs=counted,
        macs_coverage=coverage,
        latency_ms={"p50": single.p50_ms, "p95": single.p95_ms},
        throughput_per_s=many.throughput_per_s,
        throughput_batch=many.batch_size,
        peak_memory_bytes=peak,
        energy_j=None if spent is None else spent.as_json(),
        threads=runner.threads,
        device=device,
        runtime=runner.runtime,
    )


def _count(inputs: Any) -> int:
    return len(next(leaf for leaf in tree_leaves(inputs) if isinstance(leaf, (Tensor, np.ndarray))))


def _timed(model: Callable[..., Any], inputs: Any) -> float:
    _settle()
    began = time.perf_counter()
    call(model, inputs)
    _settle()
    return time.perf_counter() - began


def _settle() -> None:
    """Wait until all that was asked of a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
