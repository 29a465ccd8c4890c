"""ExecuTorch files for phones and small boards, their operators handed to XNNPACK."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck.errors import InputError, first_line
from limbeck.evaluate.runtimes import FACTS, executorch
from limbeck.export.capture import captured, quietly
from limbeck.export.whole import Signature

__all__ = ["BATCH", "write"]

BATCH = 32
"""The largest batch that a file takes: its memory is planned when it is written."""

_ROWS = 17  # of the example: PyTorch's convolutions choose otherwise below 16, and that would hold

_LONGER = 2  # a sequence may be so many times as long as the longest that was seen


def write(whole: nn.Module, signature: Signature, path: Path, facts: Mapping[str, Any]) -> None:
    """Write a network as a ``.pte`` file in float32; its inputs are given by place.

    ExecuTorch plans memory beforehand, so that free axes have a largest size: 32 samples, and twice
    the length of the longest one among those that the signature is from. The file says so under
    ``most``.

    Args:
        whole: the network with its preprocessing, in eval mode on the CPU.
        signature: what it takes.
        path: of the file.
        facts: JSON-like, kept in the file as what its method ``limbeck`` returns.

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
    program = captured(whole, replace(signature, example=rows), most)
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
