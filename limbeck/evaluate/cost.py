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

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from limbeck.knowledge.model import call, macs
from limbeck.students.build import tensors

__all__ = ["Cost", "Timing", "costs", "peak_memory", "size_bytes", "timings"]


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
    """What a model costs on the machine at hand, in float32 and without compilation.

    Attributes:
        parameters: how many numbers were trained.
        size_bytes: the size of its weights as safetensors.
        macs: multiply-accumulates for one sample, as far as the counter knows the operations.
        macs_coverage: the share of the weights that belong to counted operations, 0 to 1.
        latency_ms: median and 95th percentile for one sample, in milliseconds.
        throughput_per_s: samples per second in batches of ``throughput_batch``.
        throughput_batch: B for that.
        peak_memory_bytes: weights, input and the most intermediate results alive at once, for that
            batch; on a GPU what its allocator reports.
        energy_j: joules per sample, with the source of the number; not measured here.
        threads: how many the processor used.
        device: where it was measured.
    """

    parameters: int
    size_bytes: int
    macs: int | None
    macs_coverage: float | None
    latency_ms: Mapping[str, float]
    throughput_per_s: float
    throughput_batch: int
    peak_memory_bytes: int
    energy_j: None
    threads: int
    device: str

    def as_json(self) -> dict[str, Any]:
        """Return it as a report keeps it."""
        return asdict(self)


def costs(
    models: Mapping[str, nn.Module],
    inputs: Any,
    *,
    own: Mapping[str, Any] | None = None,
    seconds: float = 3.0,
) -> dict[str, Cost]:
    """Measure several models on the same inputs, in turn, so that drift of the machine cancels.

    Args:
        models: by name; left in eval mode.
        inputs: what a model is called with, B samples; the latency is that of the first alone.
        own: other inputs, by model, for those that are called with something else.
        seconds: about how long to time for each model and batch size.

    >>> found = costs({"a": nn.Linear(4, 2)}, torch.zeros(8, 4), seconds=0.01)["a"]
    >>> found.parameters, found.macs, found.macs_coverage
    (10, 8, 1.0)
    """
    for model in models.values():
        model.eval()
    whole = {name: (own or {}).get(name, inputs) for name in models}
    ones = {name: tree_map(lambda tensor: tensor[:1], given) for name, given in whole.items()}
    single = timings(models, inputs, own=ones, seconds=seconds)
    many = timings(models, inputs, own=whole, seconds=seconds)
    return {
        name: _cost(model, whole[name], ones[name], single[name], many[name])
        for name, model in models.items()
    }


@torch.inference_mode()
def timings(
    models: Mapping[str, Callable[..., Any]],
    inputs: Any,
    *,
    own: Mapping[str, Any] | None = None,
    seconds: float,
) -> dict[str, Timing]:
    """Time one forward pass of each model, warm and in turn.

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


def size_bytes(model: nn.Module) -> int:
    """Return the size of a model's weights as a safetensors file."""
    return len(save(tensors(model)))


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


def _cost(model: nn.Module, inputs: Any, one: Any, single: Timing, many: Timing) -> Cost:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    counted, coverage = macs(model, one)
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        size_bytes=size_bytes(model),
        macs=counted,
        macs_coverage=coverage,
        latency_ms={"p50": single.p50_ms, "p95": single.p95_ms},
        throughput_per_s=many.throughput_per_s,
        throughput_batch=many.batch_size,
        peak_memory_bytes=peak_memory(model, inputs),
        energy_j=None,
        threads=torch.get_num_threads(),
        device=str(device),
    )


def _count(inputs: Any) -> int:
    return len(next(leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)))


def _timed(model: Callable[..., Any], inputs: Any) -> float:
    began = time.perf_counter()
    call(model, inputs)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began
