"""ExecuTorch files for phones and small boards, their operators handed to XNNPACK."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from limbeck.errors import InputError, first_line
from limbeck.evaluate.runtimes import FACTS, executorch
from limbeck.export.capture import captured, quietly
from limbeck.export.operators import refuse_own
from limbeck.export.whole import Signature, by_name
from limbeck.imports import needed

__all__ = ["BATCH", "check", "write"]

BATCH = 32
"""The largest batch that a file takes: its memory is planned when it is written."""

_ROWS = 17  # of the example: PyTorch's convolutions choose otherwise below 16, and that would hold

_LONGER = 2  # a sequence may be so many times as long as the longest that was seen


def check(model: nn.Module, first: nn.Module | None) -> None:
    """Refuse to begin without the package: its import takes long, so it is only looked for."""
    if importlib.util.find_spec("executorch") is None:
        needed("executorch", "executorch")


def write(
    whole: nn.Module,
    signature: Signature,
    path: Path,
    facts: Mapping[str, Any],
    *,
    calibrate: Sequence[Any] = (),
) -> None:
    """Write a network as a ``.pte`` file, in float32 or in integers; its inputs are given by place.

    ExecuTorch plans memory beforehand, so that free axes have a largest size: 32 samples, and twice
    the length of the longest one among those that the signature is from. The file says so under
    ``most``.

    Args:
        whole: the network with its preprocessing, in eval mode on the CPU.
        signature: what it takes.
        path: of the file.
        facts: JSON-like, kept in the file as what its method ``limbeck`` returns.
        calibrate: batches of samples, as the network takes them. With them the layers that XNNPACK
            knows compute with integers of 8 bits, whose ranges are those of the samples: weights
            with a scale for each output channel, activations with one for each tensor.

    Raises:
        InputError: ``executorch`` is not installed, PyTorch cannot follow the network, or
            ExecuTorch has no form of an operator in it.
    """
    exir = executorch("exir")
    xnnpack = executorch("backends.xnnpack.partition.xnnpack_partitioner")
    most = {"batch": BATCH}
    for tensor, axes in zip(signature.example, signature.free, strict=True):
        for axis, name in axes.items():
            most.setdefault(name, _LONGER * tensor.shape[axis])
    rows = tuple(torch.cat([part] * _ROWS)[:_ROWS] for part in signature.example)
    takes = replace(signature, example=rows)
    program = captured(whole, takes, most)
    refuse_own(program, path.name)
    if calibrate:
        rounded = _rounded(program, takes, calibrate)
        program = captured(rounded, replace(takes, named=False), most)
    told = json.dumps({**facts, "most": most})
    try:
        with quietly(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="executorch")
            lowered = exir.to_edge_transform_and_lower(
                program,
                partitioner=[xnnpack.XnnpackPartitioner()],
                constant_methods={FACTS: told},
            )
            path.write_bytes(lowered.to_executorch().buffer)
    except Exception as error:  # whatever its passes raise
        raise InputError(
            f"{path.name}: ExecuTorch cannot take the network: {first_line(error)}",
            remedy="Export it as onnx or program instead.",
        ) from error


def _rounded(program: ExportedProgram, signature: Signature, calibrate: Sequence[Any]) -> nn.Module:
    """Return a program whose layers round, by the ranges that samples show."""
    kinds = executorch("backends.xnnpack.quantizer.xnnpack_quantizer")
    with quietly(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its passes use parts of PyTorch that PyTorch deprecates
        steps = needed("torchao.quantization.pt2e.quantize_pt2e", "executorch")
        scheme = kinds.get_symmetric_quantization_config(is_per_channel=True)
        watched = steps.prepare_pt2e(program.module(), kinds.XNNPACKQuantizer().set_global(scheme))
        with torch.no_grad():
            for batch in calibrate:
                given = by_name(batch)
                watched(*(_enough(given[name]) for name in signature.names))
        found: nn.Module = steps.convert_pt2e(watched)
    return _Plain(found)


def _enough(rows: Tensor) -> Tensor:
    """Return samples in a number that the program takes, the last of a set more than once."""
    if len(rows) >= _ROWS:
        return rows[:BATCH]
    return torch.cat([rows] * _ROWS)[:_ROWS]


@final
class _Plain(nn.Module):
    """A program as a module that takes inputs by place, whatever mode it is put into."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, *inputs: Tensor) -> Tensor:
        found: Tensor = self.program(*inputs)
        return found

    def train(self, mode: bool = True) -> _Plain:
        return self
