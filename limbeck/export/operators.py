"""Operators of Limbeck's own, and what they are in ONNX.

Letters: B samples, T tokens, D features, H units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.export import ExportedProgram

from limbeck.errors import InputError
from limbeck.students.zoo._packed import packed_lstm

__all__ = ["refuse_own", "translations"]

_OPSET = 18


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return what PyTorch's exporter is told of operators that it does not know."""
    return {packed_lstm._opoverload: _lstm}


def refuse_own(program: ExportedProgram, name: str) -> None:
    """Refuse a network with such operators, for formats whose runtimes lack them.

    Args:
        program: that was captured.
        name: of the file.

    Raises:
        InputError: it has one.
    """
    for node in program.graph.nodes:
        if getattr(node.target, "namespace", "") == "limbeck":
            raise InputError(
                f"{name}: the network has the operator {node.target}, an LSTM over texts of "
                "unequal length, which only ONNX has",
                remedy="Export as onnx instead, or train another student: textcnn, say.",
            )


def _lstm(words: Any, lengths: Any, weights: Sequence[Any]) -> Any:
    """Return ``limbeck::packed_lstm`` as ONNX's LSTM, which knows lengths by itself.

    Its gates stand in another order (i, o, f, c in the place of i, f, c, o), its biases side by
    side, and its answer is (T, 2, B, H).
    """
    from onnxscript import values

    op = values.Opset("", _OPSET)

    first, order = op.Constant(value_ints=[0]), op.Constant(value_ints=[0, 3, 1, 2])
    size = weights[1].shape[1]

    def turned(weight: Any) -> Any:
        rest = [int(each) for each in weight.shape[1:]]
        gates = op.Reshape(weight, op.Constant(value_ints=[4, size, *rest]))
        return op.Reshape(op.Gather(gates, order), op.Constant(value_ints=[4 * size, *rest]))

    ways = [[turned(each) for each in weights[at : at + 4]] for at in (0, 4)]
    given, kept = (op.Concat(*(op.Unsqueeze(w[n], first) for w in ways), axis=0) for n in (0, 1))
    biases = op.Concat(*(op.Unsqueeze(op.Concat(w[2], w[3], axis=0), first) for w in ways), axis=0)
    found, _, _ = op.LSTM(
        op.Transpose(words, perm=[1, 0, 2]),
        given,
        kept,
        biases,
        op.Cast(lengths, to=6),
        hidden_size=size,
        direction="bidirectional",
    )
    side = op.Transpose(found, perm=[2, 0, 1, 3])
    return op.Reshape(side, op.Constant(value_ints=[0, 0, -1]))
