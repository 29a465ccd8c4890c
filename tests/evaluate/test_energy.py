"""Energy: what counters say, also when they begin again; what is estimated where there are none."""

from __future__ import annotations

import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from limbeck.evaluate import costs
from limbeck.evaluate.energy import Energy, Rapl, energies, meter

CPU = torch.device("cpu")


def domain(root: Path, name: str, told: str, now: int, most: int = 1_000_000) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    for file, text in (("name", told), ("energy_uj", now), ("max_energy_range_uj", most)):
        (folder / file).write_text(f"{text}\n")
    return folder


def test_counters_are_added_up_also_when_they_begin_again(tmp_path: Path) -> None:
    """Without it, a counter that wraps would give negative joules, or parts would count twice."""
    package = domain(tmp_path, "intel-rapl:0", "package-0", 900_000)
    memory = domain(tmp_path, "intel-rapl:0:1", "dram", 5)
    core = domain(tmp_path, "intel-rapl:0:0", "core", 0)
    whole = domain(tmp_path, "intel-rapl:1", "psys", 0)
    counts = Rapl.found(tmp_path)
    assert counts is not None
    for part in (core, whole):
        (part / "energy_uj").write_text("400000")
    (package / "energy_uj").write_text("990000")
    assert counts.joules() == pytest.approx(0.09)
    (package / "energy_uj").write_text("10000")  # 10,000 µJ to the end, and 10,000 from zero on
    (memory / "energy_uj").write_text("1005")
    assert counts.joules() == pytest.approx(0.09 + 0.02 + 0.001)
    assert counts.joules() == pytest.approx(0.111)


def test_the_best_meter_is_taken_and_says_what_it_is(tmp_path: Path) -> None:
    """Without it, an estimate would pass for a measurement."""
    assert Rapl.found(tmp_path / "none") is None
    told = meter(CPU, powercap=tmp_path)
    assert told is not None
    assert told.source.startswith("estimated: CPU time")
    began = told.joules()
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert told.joules() - began == pytest.approx(0.05 * 4, rel=0.2)
    broken = domain(tmp_path, "intel-rapl:0", "package-0", 1)
    assert "measured: RAPL" in str(getattr(meter(CPU, powercap=tmp_path), "source", ""))
    (broken / "energy_uj").unlink()  # as for users who may not read it
    assert "estimated" in str(getattr(meter(CPU, powercap=tmp_path), "source", ""))


class _Counts:
    """A counter to which each pass adds as many joules as it has samples."""

    source = "measured: by hand"

    def __init__(self) -> None:
        self.total = 7.0

    def joules(self) -> float:
        return self.total


def test_energy_is_that_of_one_sample() -> None:
    """Without it, a batch could pass for a sample, or one model's energy be another's."""
    counts = _Counts()

    def passing(x: torch.Tensor) -> None:
        counts.total += len(x) * 3.0

    models: dict[str, Any] = {"a": passing, "b": passing}
    given = {"a": (torch.zeros(4),), "b": (torch.zeros(2),)}
    found = energies(models, given, {"a": counts, "b": None}, {"a": 4, "b": 2}, seconds=0)
    assert found == {"a": Energy(3.0, "measured: by hand"), "b": None}


def test_costs_tell_the_energy() -> None:
    """Without it, the report would leave it out."""
    spent = costs({"m": nn.Linear(4, 2)}, torch.zeros(8, 4), seconds=0.02)["m"].as_json()
    assert spent["energy_j"]["value"] > 0
    assert spent["energy_j"]["source"].startswith(("measured: ", "estimated: "))


def test_a_gpu_is_read_by_its_own_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, millijoules could pass for joules, or another GPU's counter be read."""
    asked: list[bytes] = []

    class MissingError(Exception):
        pass

    nvml = types.ModuleType("pynvml")
    vars(nvml).update(
        NVMLError=MissingError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: asked.append(uuid) or 3,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: 2500 if handle == 3 else 0,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "pynvml" or None)
    facts = types.SimpleNamespace(uuid="12ab")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: facts)
    found = meter(torch.device("cuda:1"))
    assert found is not None
    assert (found.joules(), found.source, asked) == (
        2.5,
        "measured: NVML, the GPU alone",
        [b"GPU-12ab"],
    )
    vars(nvml)["nvmlInit"] = lambda: (_ for _ in ()).throw(MissingError())
    assert meter(torch.device("cuda:1")) is None
