"""Reading ONNX files, and finding the layers of a network in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from limbeck.errors import InputError, explained, unknown
from limbeck.imports import needed

__all__ = ["LAYERS", "layers", "named", "read", "tidy"]

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that have a weight, and do nearly all of the work."""


def read(path: str | Path) -> Any:
    """Return the model in an ONNX file.

    Raises:
        InputError: the file is missing or damaged, or ``onnx`` is not installed.
    """
    onnx = needed("onnx", "onnx")
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}", expected="an ONNX model")
    with explained(f"{path} is not an ONNX model"):
        onnx.checker.check_model(str(path))
        model = onnx.load(str(path))
    del model.graph.value_info[:]  # shapes in between, which are found anew from what it becomes
    return model


def layers(model: Any) -> dict[str, Any]:
    """Return the nodes that have a weight, by the path of the module that they came from.

    A module's path is read from the name of its weight, or of its bias where an exporter turned
    the weight over; what has neither goes by the node's name.
    """
    weights = {found.name for found in model.graph.initializer}
    biases: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type == "Add":
            biases |= dict(zip(node.input, reversed(node.input), strict=True))
    times = Counter(biases.values())  # equal ones may be stored once, and then tell nothing
    found: dict[str, Any] = {}
    for node in model.graph.node:
        if node.op_type in LAYERS and len(node.input) > 1 and node.input[1] in weights:
            weight, bias = node.input[1], biases.get(node.output[0], "")
            name = str(node.name)
            if weight.endswith(".weight"):
                name = weight.removesuffix(".weight")
            elif bias.endswith(".bias") and bias in weights and times[bias] == 1:
                name = bias.removesuffix(".bias")
            found[node.name if name in found else name] = node
    return found


def named(found: Mapping[str, Any], wanted: Iterable[str]) -> dict[str, Any]:
    """Return the layers that modules' paths mean, whole or as they end: ``layer1`` takes all in it.

    Raises:
        InputError: one means no layer.

    >>> sorted(named({"model.stem": 1, "model.block.0.conv": 2}, ["block", "stem"]))
    ['model.block.0.conv', 'model.stem']
    """
    taken: dict[str, Any] = {}
    for name in wanted:
        here = {path: node for path, node in found.items() if f".{name}." in f".{path}."}
        if not here:
            raise unknown("layer to keep:", name, found)
        taken |= here
    return taken


def tidy(path: Path) -> None:
    """Take out of a file what only its making needed: notes on nodes, shapes in between.

    What is said of the model as a whole stays. Of a small network the notes are a fifth of the
    file.
    """
    onnx = needed("onnx", "onnx")
    model = onnx.load(str(path))
    graph = model.graph
    for part in [*graph.node, *graph.initializer, *graph.input, *graph.output]:
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.value_info[:]
    del graph.metadata_props[:]
    told = {entry.key: entry.value for entry in model.metadata_props if entry.key != "onnx.infer"}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, told)
    onnx.save(model, str(path))
