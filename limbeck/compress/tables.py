"""Embeddings of 8 bits in ONNX files: the bulk of what a small reader of texts weighs.

Letters: V rows of a table, D features.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from limbeck.imports import needed

__all__ = ["rounded", "tables"]


def tables(model: Any) -> dict[str, list[Any]]:
    """Return the nodes that look rows up in each table of floats, by the path of its module.

    A table is a matrix (V, D) that nothing else reads: where it is the classifier's too, it stays
    as it is.
    """
    onnx = needed("onnx", "onnx")
    floats = {
        found.name
        for found in model.graph.initializer
        if found.data_type == onnx.TensorProto.FLOAT and len(found.dims) == 2
    }
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in floats.intersection(node.input):
            readers.setdefault(name, []).append(node)
    answers = {found.name for found in model.graph.output}
    return {
        name.removesuffix(".weight"): nodes
        for name, nodes in readers.items()
        if name not in answers and all(_looks_up(node, name) for node in nodes)
    }


def rounded(model: Any, keep: Collection[str] = ()) -> Any:
    """Turn tables of floats into integers of 8 bits with a scale for each row, in place.

    A row w of D features is kept as q = round(w/s) with s = max|w|/127, and stands for s·q: no
    feature is off by more than s/2. What was one number of 4 bytes is one of 1, and 4/D more.

    Args:
        model: an ONNX model.
        keep: paths of tables that stay as they are.
    """
    onnx = needed("onnx", "onnx")
    make, numbers = onnx.helper.make_node, onnx.numpy_helper
    weights = {found.name: found for found in model.graph.initializer}
    chosen = {
        node.input[0]: path
        for path, nodes in tables(model).items()
        for node in nodes
        if path not in keep
    }
    nodes = []
    for node in model.graph.node:
        table = node.input[0] if node.input else ""
        if table not in chosen or node.op_type != "Gather":
            nodes.append(node)
            continue
        out, rows = node.output[0], node.input[1]
        # Other names than the quantizer gives to what it makes of the rows.
        integers, scale = _names(table)
        parts = [*_names(out), f"{out}_row_floats"]
        nodes += [
            make("Gather", [integers, rows], [parts[0]], name=f"{node.name}_integers"),
            make("Gather", [scale, rows], [parts[1]], name=f"{node.name}_scale"),
            make("Cast", [parts[0]], [parts[2]], name=f"{node.name}_cast", to=1),
            make("Mul", [parts[2], parts[1]], [out], name=f"{node.name}_scaled"),
        ]
    for table in chosen:
        weight = numbers.to_array(weights[table])
        most = np.abs(weight).max(axis=1, keepdims=True)
        scale = np.maximum(most / np.float32(127), np.finfo(np.float32).tiny)
        rounded_rows = np.rint(weight / scale).astype(np.int8)
        model.graph.initializer.remove(weights[table])
        for name, found in zip(_names(table), (rounded_rows, scale), strict=True):
            model.graph.initializer.append(numbers.from_array(found, name))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _names(of: str) -> tuple[str, str]:
    return f"{of}_row_integers", f"{of}_row_scale"


def _looks_up(node: Any, table: str) -> bool:
    """Say whether a node takes rows of a table, and nothing else."""
    axes = [attribute.i for attribute in node.attribute if attribute.name == "axis"]
    first = node.op_type == "Gather" and axes in ([], [0])
    return first and node.input[0] == table and table not in node.input[1:]
