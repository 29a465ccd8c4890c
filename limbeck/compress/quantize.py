"""ONNX files with weights of 8 or 4 bits, through ONNX Runtime.

A number x is kept as a small integer q = clip(round(x/s) + z), and stands for s·(q − z). Weights
have a scale s for each output channel, embeddings for each row, both z = 0; activations have one
for each tensor. Embeddings have 8 bits in all files.

Letters: B samples.
"""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from limbeck.compress import graphs
from limbeck.compress.calibrate import checked
from limbeck.compress.tables import rounded, tables
from limbeck.errors import InputError, unknown
from limbeck.files import atomically
from limbeck.imports import needed

__all__ = ["RANGES", "Range", "Ranges", "dynamic", "static", "weights_only"]

Range = Literal["minmax", "entropy", "percentile"]
RANGES = ("minmax", "entropy", "percentile")
Ranges = Mapping[str, tuple[float, float]]
"""The smallest and the largest number that goes into a layer, by its path."""

_BETWEEN = ("Add", "Relu", "Clip", "Concat", "AveragePool", "GlobalAveragePool")
_AS_THEY_ARE = ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze")


def static(
    source: str | Path,
    target: str | Path,
    samples: Iterable[Mapping[str, NDArray[Any]]],
    *,
    bits: Literal[8, 4] = 8,
    ranges: Range = "minmax",
    keep: Sequence[str] = (),
    learnt: Ranges | None = None,
) -> Path:
    """Write a file whose weights and activations are integers; their ranges come from samples.

    For convolutional networks: weights take a quarter of the space, and processors with
    instructions for 8 bits compute convolutions up to twice as fast. Additions and pools between
    convolutions are computed with integers too; matrix products of two activations, norms and
    softmax are not.

    ==============  ==================================================================
    ranges          of an activation
    ==============  ==================================================================
    ``minmax``      all that the samples showed
    ``percentile``  all but the most extreme thousandth of a percent
    ``entropy``     the one that loses least of the distribution (Kullback–Leibler)
    ==============  ==================================================================

    Args:
        source: a float ONNX file.
        target: the file to write.
        samples: batches, an array (B, ...) for each input by name; validation data, never test.
        bits: of the weights; activations have 8. With 4 the file is smaller, not faster: ONNX
            Runtime computes with floats then.
        ranges: how ranges are found.
        keep: paths of modules that stay as they are.
        learnt: ranges that training found (see :class:`limbeck.compress.FakeQuantization`), which
            go before those of the samples.

    Raises:
        InputError: a file that is no ONNX model; samples that do not fit its inputs; an unknown
            layer; nothing to quantize.

    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", arXiv:1712.05877; Migacz 2017, "8-bit inference with
    TensorRT" (entropy).
    """
    if ranges not in RANGES:
        raise unknown("way to find ranges:", ranges, RANGES)
    quantization = needed("onnxruntime.quantization", "onnx")
    model = graphs.read(source)
    found, kept = _parted(model, keep, source)
    reader = _Reader(checked(model, samples))
    convolves = any("Conv" in node.op_type for node in found.values())
    kinds = graphs.LAYERS + (_BETWEEN if convolves else ())
    signed = quantization.QuantType.QInt8 if bits == 8 else quantization.QuantType.QInt4
    return _written(
        Path(target),
        lambda draft: quantization.quantize_static(
            model,
            draft,
            reader,
            op_types_to_quantize=list(kinds),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=signed,
            nodes_to_exclude=[node.name for node in kept.values()],
            calibrate_method=getattr(
                quantization.CalibrationMethod,
                {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}[ranges],
            ),
            extra_options={
                "WeightSymmetric": True,
                "MatMulConstBOnly": True,
                # What comes next rounds its inputs itself, and nothing comes after logits.
                "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
                "TensorQuantOverrides": _overrides(model, found, learnt or {})
                | (_four_bits(model, found, kept) if bits == 4 else {}),
            },
        ),
    )


def dynamic(source: str | Path, target: str | Path, *, keep: Sequence[str] = ()) -> Path:
    """Write a file with weights of 8 bits, where the range of activations is found as it runs.

    For Transformers and recurrent networks, whose time goes into large matrix products: no samples
    are needed, and ranges fit each input. In convolutional networks looking for ranges costs more
    than it saves: use :func:`static`.

    Args:
        source: a float ONNX file.
        target: the file to write.
        keep: paths of modules that stay as they are.

    Raises:
        InputError: a file that is no ONNX model; an unknown layer; nothing to quantize.
    """
    quantization = needed("onnxruntime.quantization", "onnx")
    model = graphs.read(source)
    _, kept = _parted(model, keep, source)
    return _written(
        Path(target),
        lambda draft: quantization.quantize_dynamic(
            model,
            draft,
            op_types_to_quantize=["MatMul", "Gemm", "LSTM"],
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            # ONNX Runtime turns each Gemm into a MatMul first, under another name.
            nodes_to_exclude=[
                n for node in kept.values() for n in (node.name, f"{node.name}_MatMul")
            ],
            extra_options={"MatMulConstBOnly": True},
        ),
    )


def weights_only(
    source: str | Path, target: str | Path, *, bits: Literal[8, 4] = 4, keep: Sequence[str] = ()
) -> Path:
    """Write a file in which the weights of matrix products are integers, in blocks of 32.

    For large Transformers, whose time goes into reading weights: activations stay floats, so that
    little is lost. Convolutions stay as they are.

    Args:
        source: a float ONNX file.
        target: the file to write.
        bits: of the weights; each block of 32 has a scale.
        keep: paths of modules that stay as they are.

    Raises:
        InputError: a file that is no ONNX model; an unknown layer; no matrix product in it.
    """
    many = needed("onnxruntime.quantization.matmul_nbits_quantizer", "onnx")
    model = _products(graphs.read(source))
    found, kept = _parted(model, keep, source)
    if not any(node.op_type == "MatMul" for node in found.values()):
        raise InputError(
            f"{source} has no matrix product with a weight",
            expected="a Transformer or another network of linear layers",
            remedy="Use the scheme static.",
        )

    def write(draft: Path) -> None:
        needed("onnx", "onnx").save(model, str(draft))
        excluded = [node.name for node in kept.values()]
        work = many.MatMulNBitsQuantizer(
            model, bits=bits, block_size=32, is_symmetric=True, nodes_to_exclude=excluded
        )
        work.process()
        work.model.save_model_to_file(str(draft))

    return _written(Path(target), write)


def _parted(model: Any, keep: Sequence[str], source: str | Path) -> tuple[dict[str, Any], ...]:
    """Round a file's tables, and return its layers, and those of them that stay as they are."""
    found, embeddings = graphs.layers(model), tables(model)
    kept = graphs.named(found | embeddings, keep)
    if not (found | embeddings).keys() - kept.keys():
        raise InputError(
            f"{Path(source).name} has no layer to quantize"
            + (f" beside {', '.join(kept)}" if kept else ""),
            expected=f"operators with weights: {', '.join(graphs.LAYERS)}, or embeddings",
        )
    rounded(model, keep=kept.keys() & embeddings.keys())
    return found, {name: node for name, node in kept.items() if name in found}


def _overrides(model: Any, found: Mapping[str, Any], learnt: Ranges) -> dict[str, Any]:
    """Return the ranges that training found, by the tensors that go into layers.

    Where the numbers only change places on the way, the tensors before have that range too.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    wanted: dict[str, Any] = {}
    for name, (low, high) in learnt.items():
        for node in graphs.named(found, [name]).values():
            tensor = node.input[0]
            while tensor:
                fact = np.array(low, np.float32), np.array(high, np.float32)
                wanted[tensor] = [{"rmin": fact[0], "rmax": fact[1]}]
                before = makers.get(tensor)
                same = before is not None and before.op_type in _AS_THEY_ARE
                tensor = before.input[0] if before is not None and same else ""
    return wanted


def _four_bits(
    model: Any, found: Mapping[str, Any], kept: Mapping[str, Any]
) -> dict[str, list[dict[str, Any]]]:
    """Return the scales of weights of 4 bits: from −7 to 7, without the −8 that has no opposite.

    Left to itself, ONNX Runtime would put the largest weight half-way between two integers.
    """
    numbers = needed("onnx.numpy_helper", "onnx")
    weights = {found.name: found for found in model.graph.initializer}
    scales: dict[str, list[dict[str, Any]]] = {}
    for name in found.keys() - kept.keys():
        node = found[name]
        turned = {a.name: a.i for a in node.attribute}.get("transB", 0)
        axis = 0 if node.op_type == "Conv" or turned else 1
        weight = numbers.to_array(weights[node.input[1]])
        most = np.abs(np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)).max(1)
        scale = np.maximum(most / np.float32(7), np.finfo(np.float32).tiny)
        zero = np.zeros((), np.int8)
        scales[node.input[1]] = [{"scale": s, "zero_point": zero, "axis": axis} for s in scale]
    return scales


def _products(model: Any) -> Any:
    """Write ``Gemm`` with a transposed weight as a product and a sum, in place."""
    onnx = needed("onnx", "onnx")
    weights = {found.name: found for found in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        facts = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        plain = facts.get("alpha", 1.0) == facts.get("beta", 1.0) == 1.0 and not facts.get("transA")
        if node.op_type != "Gemm" or node.input[1] not in weights or not plain:
            nodes.append(node)
            continue
        weight = weights[node.input[1]]
        turned = weight.name
        if facts.get("transB"):
            values = onnx.numpy_helper.to_array(weight)
            turned = f"{weight.name.removesuffix('.weight')}.weight"
            weight.CopyFrom(onnx.numpy_helper.from_array(values.T.copy(), turned))
        product = node.output[0] if len(node.input) < 3 else f"{node.output[0]}_product"
        make = onnx.helper.make_node
        nodes.append(make("MatMul", [node.input[0], turned], [product], name=node.name))
        if len(node.input) > 2:
            inputs = [product, node.input[2]]
            nodes.append(make("Add", inputs, [node.output[0]], name=f"{node.name}_bias"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _written(target: Path, write: Any) -> Path:
    """Let a file be written beside its place, tidy it, and put it there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomically(target) as draft, tempfile.TemporaryDirectory() as folder, _quiet():
        made = Path(folder) / "made.onnx"
        write(made)
        graphs.tidy(made)
        draft.write_bytes(made.read_bytes())
    return target


@dataclass
class _Reader:
    """Hands samples to ONNX Runtime, one batch after another."""

    batches: Iterator[dict[str, NDArray[Any]]]

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self.batches, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what the quantizer says of preparations that were done before it."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
