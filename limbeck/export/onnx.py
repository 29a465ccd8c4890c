"""ONNX files, through PyTorch's exporter."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck._version import __version__
from limbeck.errors import InputError
from limbeck.evaluate.runtimes import FACTS
from limbeck.export.capture import captured, quietly
from limbeck.export.operators import translations
from limbeck.export.whole import Signature
from limbeck.imports import needed

__all__ = ["OPSET", "write"]

OPSET = 18
"""The version of ONNX's operators, if none is said: the exporter's own."""

_OPERATOR = re.compile(r"OpOverload\(op='([^']+)'")


def write(
    whole: nn.Module,
    signature: Signature,
    path: Path,
    facts: Mapping[str, Any],
    *,
    opset: int | None = None,
) -> None:
    """Write a network as an ONNX file; inputs keep their names, the output is called ``logits``.

    Args:
        whole: the network with its preprocessing, in eval mode on the CPU.
        signature: what it takes.
        path: of the file; weights beyond 2 GB are put beside it.
        facts: JSON-like, kept in the file's metadata under ``limbeck``.
        opset: the version of ONNX's operators; 18 if none is said.

    Raises:
        InputError: PyTorch cannot follow the network, ONNX has no form of an operator in it, or the
            network cannot be written in that opset.
    """
    needed("onnxscript", "onnx")
    version = opset or OPSET
    program = captured(whole, signature)
    try:
        with quietly():
            found = torch.onnx.export(
                program,
                dynamo=True,
                dynamic_shapes=(tuple(dict(axes) for axes in signature.free),),
                input_names=list(signature.names),
                output_names=["logits"],
                opset_version=version,
                verbose=False,
                custom_translation_table=translations(),
            )
    except Exception as error:  # the exporter raises whatever its parts raise
        raise _refusal(error, path.name, version) from error
    assert found is not None
    # Where its converters fail, the exporter keeps its own opset, and only logs that.
    if (got := found.model.opset_imports.get("")) != version:
        raise InputError(
            f"{path.name}: the network cannot be written in opset {version}",
            expected=f"an opset to which PyTorch's exporter can convert; it came to {got}",
            remedy=f"Leave opset out, or take {OPSET} or one near it.",
        )
    found.model.producer_name, found.model.producer_version = "limbeck", __version__
    found.model.metadata_props[FACTS] = json.dumps(facts, ensure_ascii=False)
    _forget(found.model)
    found.save(path)


def _forget(model: Any) -> None:
    """Drop what the exporter notes about single nodes: places in the code of this machine."""
    for part in (model.graph, *model.functions.values()):
        part.metadata_props.clear()
        for node in part.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def _refusal(error: BaseException, name: str, version: int) -> InputError:
    """Say which operator stood in the way, or what the exporter said last."""
    texts = list(_chain(error))
    operators = [found for text in texts for found in _OPERATOR.findall(text)]
    if operators:
        return InputError(
            f"{name}: ONNX has no form of the operator {operators[0]}, which the network uses",
            expected=f"operators that PyTorch's exporter knows in opset {version}",
            remedy="Export as program or executorch instead, try another opset, or write that part "
            "of the network with other operators.",
        )
    first = texts[-1].strip().splitlines()[0] if texts[-1].strip() else type(error).__name__
    return InputError(
        f"{name} could not be written as ONNX: {first}",
        remedy="Try another opset, or export as program or executorch.",
    )


def _chain(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__
