"""What rounding changed, layer by layer: a file of integers beside the float file it is made of.

The signal-to-quantization-noise ratio of numbers x that became y, in decibels: 20 dB means that the
error is a tenth of the signal, 40 dB a hundredth.

$$10 \\log_{10} \\frac{\\sum x^2}{\\sum (x - y)^2}$$

Letters: B samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.compress import graphs
from limbeck.imports import needed
from limbeck.teachers.onnx import Graph

__all__ = ["Noise", "noise"]

_MOST = 120.0  # dB; what is not rounded at all differs by less than that
_ROUNDED = "_DequantizeLinear_Output"
_CUTS = ("Relu", "Clip")  # which ONNX Runtime lets the rounding do


@dataclass(frozen=True)
class Noise:
    """What rounding changed in one layer.

    Attributes:
        layer: its path.
        activations: the ratio of what comes out of it, in dB, at most 120; errors of the layers
            before are in it. ``None`` if the file has no such tensor.
        weights: that of its weight alone; ``None`` if the weight is not kept as integers.
    """

    layer: str
    activations: float | None
    weights: float | None


def noise(
    source: str | Path, made: str | Path, samples: Iterable[Mapping[str, NDArray[Any]]]
) -> list[Noise]:
    """Return what rounding changed in each layer, in the order in which layers are computed.

    Where a layer's output goes through a ReLU, what comes out of that is compared.

    Args:
        source: the float ONNX file.
        made: the file of integers made of it.
        samples: batches, an array (B, ...) for each input by name; validation data, never test.

    Raises:
        InputError: one of the files is no ONNX model.

    The numbers are those of ``onnxruntime.quantization.qdq_loss_debug`` (``xmodel_err`` and the
    error of weights), for files without ``QuantizeLinear`` operators too.
    """
    model, rounded = graphs.read(source), graphs.read(made)
    there = {name for node in rounded.graph.node for name in node.output}
    found = graphs.layers(model)
    pairs = {name: pair for name, node in found.items() if (pair := _pair(model, node, there))}
    sums = {name: np.zeros(2) for name in pairs}
    files = Graph(Path(source)), Graph(Path(made))
    for batch in samples:
        ones, others = (
            file.ask(dict(batch), tuple(pair[side] for pair in pairs.values()))
            for side, file in enumerate(files)
        )
        for name, (one, other) in pairs.items():
            sums[name] += _powers(ones[one], others[other])
    weights = _weights(model), _weights(rounded)
    products = (node for node in rounded.graph.node if node.op_type == "MatMulInteger")
    turned = {name for node in products for name in node.input}
    return [
        Noise(
            name,
            _decibels(*sums[name]) if name in sums and sums[name][0] else None,
            _of_weight(node, *weights, product=f"{node.input[1]}_quantized" in turned),
        )
        for name, node in found.items()
    ]


def _pair(model: Any, node: Any, there: set[str]) -> tuple[str, str] | None:
    """Return the tensors that a layer's outputs are in both files, the rounded one in the second.

    Without its cut a layer's output is not in a file whose rounding does the cutting.
    """
    tensor = node.output[0]
    users = [other for other in model.graph.node if tensor in other.input]
    if len(users) == 1 and users[0].op_type in _CUTS:
        tensor = users[0].output[0]
    return next(((tensor, t) for t in (tensor + _ROUNDED, tensor) if t in there), None)


def _of_weight(
    node: Any,
    plain: Mapping[str, NDArray[Any]],
    rounded: Mapping[str, NDArray[Any]],
    *,
    product: bool,
) -> float | None:
    """Return the ratio for a layer's weight, which may have become one of a matrix product."""
    name = node.input[1]
    whole, scale = rounded.get(f"{name}_quantized"), rounded.get(f"{name}_scale")
    weight, facts = plain[name], {fact.name: fact.i for fact in node.attribute}
    if whole is None or scale is None:
        rows = weight if facts.get("transB") else weight.T
        blocks = _from_blocks(name, rounded)
        return None if blocks is None else _decibels(*_powers(rows, blocks[:, : rows.shape[1]]))
    if product and facts.get("transB"):
        weight = weight.T
    first = node.op_type == "Conv" or (facts.get("transB") and not product)
    axis = 1 if node.op_type == "ConvTranspose" else 0 if first else weight.ndim - 1
    shape = [-1 if place == axis else 1 for place in range(weight.ndim)]
    zero = rounded.get(f"{name}_zero_point", np.zeros(1))
    steps, zeros = (np.asarray(t, np.float64).reshape(shape) for t in (scale, zero))
    return _decibels(*_powers(weight, (whole.astype(np.float64) - zeros) * steps))


def _from_blocks(name: str, rounded: Mapping[str, NDArray[Any]]) -> NDArray[np.float64] | None:
    """Return a matrix (N, K or more) that is kept in blocks along K, each with its own scale."""
    bits = next((n for n in (4, 8) if f"{name}_Q{n}" in rounded), None)
    if bits is None:
        return None
    packed, scales = rounded[f"{name}_Q{bits}"], rounded[f"{name}_scales"]  # (N, blocks, bytes)
    if bits == 4:  # two in a byte, the lower half first
        packed = np.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:2], -1)
    steps = scales.reshape(*packed.shape[:2], 1).astype(np.float64)
    values: NDArray[np.float64] = (packed.astype(np.float64) - 2 ** (bits - 1)) * steps
    return values.reshape(len(packed), -1)


def _weights(model: Any) -> dict[str, NDArray[Any]]:
    numbers = needed("onnx.numpy_helper", "onnx")
    return {found.name: numbers.to_array(found) for found in model.graph.initializer}


def _powers(signal: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Return the power of a signal, and that of its difference from another."""
    one = np.asarray(signal, np.float64)
    return np.array([np.square(one).sum(), np.square(one - other).sum()])


def _decibels(power: float, error: float) -> float:
    ratio = power / max(error, power * 10 ** (-_MOST / 10), np.finfo(float).tiny)
    return 10 * math.log10(max(ratio, np.finfo(float).tiny))
