"""Operators of Limbeck's own, and what they are in ONNX.

Letters: B samples, T steps, D features, H units, W directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.export import ExportedProgram

from limbeck.errors import InputError
from limbeck.students.zoo._packed import packed_rnn

__all__ = ["refuse_own", "translations"]

_OPSET = 18


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return what PyTorch's exporter is told of operators that it does not know."""
    return {packed_rnn._opoverload: _recurrent}


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
                f"{name}: the network has the operator {node.target}, a recurrent layer over "
                "sequences of unequal length, which only ONNX has",
                remedy="Export as onnx instead, or train a student without such a layer.",
            )


def _recurrent(x: Any, lengths: Any, weights: Sequence[Any]) -> Any:
    """Return ``limbeck::packed_rnn`` as ONNX's LSTM or GRU, which know lengths by themselves.

    Their gates stand in another order (i, o, f, c in the place of i, f, c, o; z, r, n in that of
    r, z, n), their biases side by side, and their answer is (T, W, B, H).
    """
    from onnxscript import values

    op = values.Opset("", _OPSET)
    size = weights[1].shape[1]
    gates = weights[1].shape[0] // size
    first = op.Constant(value_ints=[0])
    order = op.Constant(value_ints=[0, 3, 1, 2] if gates == 4 else [1, 0, 2])

    def turned(weight: Any) -> Any:
        rest = [int(each) for each in weight.shape[1:]]
        apart = op.Reshape(weight, op.Constant(value_ints=[gates, size, *rest]))
        return op.Reshape(op.Gather(apart, order), op.Constant(value_ints=[gates * size, *rest]))

    ways = [[turned(each) for each in weights[at : at + 4]] for at in range(0, len(weights), 4)]
    given, kept = (op.Concat(*(op.Unsqueeze(w[n], first) for w in ways), axis=0) for n in (0, 1))
    biases = op.Concat(*(op.Unsqueeze(op.Concat(w[2], w[3], axis=0), first) for w in ways), axis=0)
    told = None if lengths is None else op.Cast(lengths, to=6)
    takes = (op.Transpose(x, perm=[1, 0, 2]), given, kept, biases, told)
    options = {"hidden_size": size, "direction": "bidirectional" if len(ways) == 2 else "forward"}
    if gates == 4:
        found, *_ = op.LSTM(*takes, **options)
    else:
        found, *_ = op.GRU(*takes, **options, linear_before_reset=1)
    side = op.Transpose(found, perm=[2, 0, 1, 3])
    return op.Reshape(side, op.Constant(value_ints=[0, 0, -1]))
