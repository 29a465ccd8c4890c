"""Energy for each sample: measured where a counter can be read, estimated elsewhere, and so told.

Counters are RAPL's of a processor, under ``/sys/class/powercap``, and NVML's of a GPU. They count
all that runs there, not one process alone. The estimate is the processor time of this process times
the power of one busy thread. Its constant is that of ``codecarbon`` (github.com/mlco2/codecarbon,
``DEFAULT_POWER_PER_CORE``), a share of a processor's thermal design power. That package itself is
not used: it brings sixteen others, and would read the same counters.

Letters: B samples in a batch.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, final

import torch

from limbeck.imports import needed
from limbeck.knowledge.model import call

__all__ = ["POWERCAP", "WATTS_PER_THREAD", "Energy", "Meter", "Rapl", "energies", "meter"]

POWERCAP = Path("/sys/class/powercap")
"""Where Linux shows the counters of processors from Intel and AMD; often to the root user alone."""

WATTS_PER_THREAD = 4.0
"""Watts of a busy thread, where nothing is measured."""

_ROUNDS = 3  # in which all models take turns
_COUNTED = ("package", "dram")  # the domain psys holds these, core and uncore lie within package


@dataclass(frozen=True)
class Energy:
    """What one sample costs.

    Attributes:
        value: joules for one sample.
        source: begins with ``measured:`` or ``estimated:`` and says by what.
    """

    value: float
    source: str

    def as_json(self) -> dict[str, Any]:
        """Return it as a report keeps it."""
        return asdict(self)


class Meter(Protocol):
    """Counts joules.

    Attributes:
        source: what counts, as :class:`Energy` says it.
    """

    @property
    def source(self) -> str: ...

    def joules(self) -> float:
        """Return the joules that were spent since some moment; only differences mean anything."""


@final
class Rapl:
    """The counters of the processors' packages and their memory; they begin again at zero at times.

    Args:
        domains: folders with ``energy_uj`` and ``max_energy_range_uj``, in microjoules.

    Raises:
        OSError: a counter cannot be read.
    """

    def __init__(self, domains: list[Path]) -> None:
        self.source = "measured: RAPL, all that ran on the processor"
        self._ranges = {each: _number(each / "max_energy_range_uj") for each in domains}
        self._last = {each: _number(each / "energy_uj") for each in domains}
        self._sum = 0

    @classmethod
    def found(cls, powercap: Path = POWERCAP) -> Rapl | None:
        """Return the counters of this machine; ``None`` if there are none, or none for this user.

        Args:
            powercap: where they are.
        """
        domains = [
            each
            for each in sorted(powercap.glob("intel-rapl:*"))
            if _text(each / "name").startswith(_COUNTED)
        ]
        try:
            return cls(domains) if domains else None
        except (OSError, ValueError):
            return None

    def joules(self) -> float:
        """Return what they counted since this object was made."""
        for domain, before in self._last.items():
            now = _number(domain / "energy_uj")
            self._sum += now - before if now >= before else now + self._ranges[domain] - before
            self._last[domain] = now
        return self._sum / 1e6


@final
class _Nvml:
    """The counter of an NVIDIA GPU."""

    def __init__(self, nvml: Any, device: torch.device) -> None:
        nvml.nvmlInit()
        which = torch.cuda.get_device_properties(device).uuid
        self._nvml, self._handle = nvml, nvml.nvmlDeviceGetHandleByUUID(f"GPU-{which}".encode())
        self.source = "measured: NVML, the GPU alone"
        self.joules()

    def joules(self) -> float:
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000


@final
class _ProcessorTime:
    """No counter: the processor time of all threads of this process, at a fixed power."""

    source = (
        f"estimated: CPU time × {WATTS_PER_THREAD:g} W for each thread, a share of thermal design "
        "power"
    )

    def joules(self) -> float:
        return time.process_time() * WATTS_PER_THREAD


def meter(device: torch.device, *, powercap: Path = POWERCAP) -> Meter | None:
    """Return what counts the energy of a device, the best that there is.

    Args:
        device: on which a model computes.
        powercap: where counters of processors are.

    Returns:
        For a processor RAPL's counters, or the estimate. For a GPU its own counter, which needs the
        extra ``limbeck[energy]``; ``None`` if that cannot be read: nothing tells what a GPU takes.
    """
    if device.type == "cpu":
        return Rapl.found(powercap) or _ProcessorTime()
    if device.type != "cuda" or importlib.util.find_spec("pynvml") is None:
        return None
    nvml = needed("pynvml", "energy")
    try:
        return _Nvml(nvml, device)
    except nvml.NVMLError:  # no driver, or a GPU without a counter
        return None


@torch.inference_mode()
def energies(
    models: Mapping[str, Callable[..., Any]],
    inputs: Mapping[str, Any],
    meters: Mapping[str, Meter | None],
    samples: Mapping[str, int],
    *,
    seconds: float,
) -> dict[str, Energy | None]:
    """Return the energy for one sample of each model, in batches, in turn and warm.

    Args:
        models: by name, in eval mode.
        inputs: what each is called with.
        meters: for each; ``None`` where nothing is known.
        samples: B, of each.
        seconds: about how long to go on for each model; at least for one pass.
    """
    spent = dict.fromkeys(models, 0.0)
    passes, slow = dict.fromkeys(models, 0), set[str]()
    for _ in range(_ROUNDS):
        for name, model in models.items():
            counts = meters[name]
            if counts is None or name in slow:
                continue
            call(model, inputs[name])
            before, began = _settled(counts), time.perf_counter()
            while True:
                call(model, inputs[name])
                passes[name] += 1
                if time.perf_counter() - began >= seconds / _ROUNDS:
                    break
            spent[name] += _settled(counts) - before
            if time.perf_counter() - began > seconds:
                slow.add(name)
    found = dict[str, Energy | None]()
    for name, counts in meters.items():
        each = passes[name] * samples[name]
        found[name] = None if counts is None else Energy(spent[name] / each, counts.source)
    return found


def _settled(counts: Meter) -> float:
    """Return a meter's joules when all that was asked of a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return counts.joules()


def _number(file: Path) -> int:
    return int(file.read_text())


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
