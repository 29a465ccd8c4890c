"""Choosing precision, memory layout, compilation and threads for the machine at hand."""

from __future__ import annotations

import shutil
import statistics
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from limbeck.errors import InputError, unknown

__all__ = ["Plan", "autocast", "plan"]

_PRECISIONS = {"bf16": "bf16", "fp16": "fp16", "fp32": "no"}
_STEPS_WORTH_COMPILING = 2000
_WORK_WORTH_THREADS = 200_000_000
_WIDE = 128


@dataclass(frozen=True)
class Plan:
    """How a model is run.

    Attributes:
        precision: ``fp32``, ``bf16`` or ``fp16``; with the latter two, autocast.
        channels_last: whether maps lie in memory with their channels together.
        compiled: whether the models go through ``torch.compile``.
        threads: how many a processor uses.
        why: one sentence for each of them.
    """

    precision: str
    channels_last: bool
    compiled: bool
    threads: int
    why: tuple[str, str, str, str]

    @property
    def mixed_precision(self) -> str:
        """The name that Accelerate has for the precision."""
        return _PRECISIONS[self.precision]


def plan(
    model: nn.Module,
    device: torch.device,
    precision: str = "auto",
    channels_last: bool | Literal["auto"] = "auto",
    compiled: bool | Literal["auto"] = "auto",
    threads: int | Literal["auto"] = "auto",
    *,
    steps: int = 0,
    work: int | None = None,
) -> Plan:
    """Decide what was left to ``auto``; what was set is kept.

    Args:
        model: the one that is trained.
        device: where.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        channels_last: ``auto``, or whether.
        compiled: ``auto``, or whether.
        threads: ``auto``, or how many.
        steps: how many steps the run has.
        work: multiply-accumulates in a step, if known.

    >>> plan(nn.Linear(2, 2), torch.device("cpu"), "fp32", compiled=False, threads=1).why
    ('set', 'no convolution', 'set', 'set')
    """
    if precision not in ("auto", *_PRECISIONS):
        raise unknown("precision", precision, ("auto", *_PRECISIONS))
    if precision == "fp16" and device.type == "cpu":
        raise InputError(
            "precision fp16 on a CPU", expected="bf16 or fp32: gradients would underflow"
        )
    chosen, why_precision = (precision, "set") if precision != "auto" else _precision(device, model)
    layout, why_layout = (channels_last, "set") if channels_last != "auto" else _layout(model)
    built, why_built = (compiled, "set") if compiled != "auto" else _compile(device, steps)
    many, why_many = (threads, "set") if threads != "auto" else _threads(device, work)
    return Plan(chosen, layout, built, many, (why_precision, why_layout, why_built, why_many))


def autocast(chosen: Plan, device: torch.device) -> AbstractContextManager[None]:
    """Return the context in which a model runs in the precision chosen."""
    if chosen.precision == "fp32":
        return nullcontext()
    kind = torch.bfloat16 if chosen.precision == "bf16" else torch.float16
    return torch.autocast(device.type, kind)


def _precision(device: torch.device, model: nn.Module) -> tuple[str, str]:
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported():
            return "bf16", "the GPU computes in bfloat16"
        return "fp16", "the GPU computes in float16"
    if device.type == "cpu":
        features = torch.cpu.get_capabilities()
        if features.get("amx_bf16"):
            return "bf16", "the processor has amx_bf16"
        if features.get("avx512_bf16"):
            slower = _slower_in_half(model)
            return ("fp32", slower) if slower else ("bf16", "the processor has avx512_bf16")
    return "fp32", "no fast half precision found"


def _slower_in_half(model: nn.Module) -> str:
    """Return why a processor without AMX computes a model slower in bfloat16; else nothing.

    Its products are twice as fast, but only large ones pay for the conversions around them.
    """
    dense = False
    widths = []
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            if module.groups > 1:
                return "depthwise convolutions are slower in bfloat16 without AMX"
            dense = True
        elif isinstance(module, nn.Linear):
            widths.append(module.in_features)
    if not dense and widths and statistics.median(widths) < _WIDE:
        return f"layers narrower than {_WIDE} are slower in bfloat16 without AMX"
    return ""


def _layout(model: nn.Module) -> tuple[bool, str]:
    if any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return True, "convolutions are faster so"
    return False, "no convolution"


def _compile(device: torch.device, steps: int) -> tuple[bool, str]:
    if steps < _STEPS_WORTH_COMPILING:
        return False, f"fewer than {_STEPS_WORTH_COMPILING} steps would not pay for it"
    if device.type == "cuda":
        return True, "a long run on a GPU"
    if device.type == "cpu" and torch.cpu.get_capabilities().get("amx_bf16"):
        if shutil.which("g++"):
            return True, "a long run on a processor with AMX"
        return False, "no g++ found"
    return False, "no gain was measured on such a processor"


def _threads(device: torch.device, work: int | None) -> tuple[int, str]:
    usual = torch.get_num_threads()
    if device.type == "cpu" and usual > 1 and work is not None and work < _WORK_WORTH_THREADS:
        # Handing out so little costs as much as doing it, and far more on a busy machine.
        return 1, f"a step of {work / 1e6:.0f} million multiply-accumulates is too short to share"
    return usual, "as PyTorch found"
