"""Following a network once, into a program of operators: what every format is made from."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from limbeck.errors import InputError, first_line
from limbeck.export.whole import Signature

__all__ = ["captured", "quietly"]

_WHERE = re.compile(r'following call raised this error:\s+File "([^"]+)", line (\d+), in (\w+)')


def captured(
    whole: nn.Module, signature: Signature, most: dict[str, int] | None = None
) -> ExportedProgram:
    """Return the program that a network runs, whatever the sizes of its free axes.

    Args:
        whole: the network with its preprocessing, in eval mode on the CPU.
        signature: what it takes.
        most: the largest size of free axes, by name, for runtimes that plan their memory.

    Raises:
        InputError: PyTorch cannot follow the network: it looks at values to decide what to do, say,
            or an axis that must be free is not.
    """
    free = tuple(
        {axis: Dim.DYNAMIC(max=(most or {}).get(name)) for axis, name in axes.items()}
        for axes in signature.free
    )
    try:
        with quietly():
            return torch.export.export(
                signature.by_place(whole), signature.example, dynamic_shapes=(free,), strict=False
            )
    except Exception as error:  # whatever code of the network's meets symbols in place of numbers
        raise InputError(
            f"PyTorch cannot follow {_name(whole)}: {_told(error)}",
            expected="a network whose operators do not depend on the values that go through it",
            remedy="Export a student of another kind, or change its forward(); "
            "https://docs.pytorch.org/docs/stable/export.html says what can be followed.",
        ) from error


@contextmanager
def quietly() -> Iterator[None]:
    """Keep to itself what PyTorch's exporters say about themselves."""
    names = ("torch.onnx", "torch.fx", "torch.export", "onnxscript")
    logs = [logging.getLogger(name) for name in names]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        # What cannot be followed is printed too, as a graph; its line of code is in the error.
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            # The exporters use parts of PyTorch that PyTorch deprecates.
            warnings.filterwarnings("ignore", message=r".*LeafSpec", category=FutureWarning)
            # Two inputs whose axes always have the same size share one name.
            warnings.filterwarnings("ignore", message=r"# The axis name", category=UserWarning)
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def _name(whole: nn.Module) -> str:
    return type(getattr(whole, "model", whole)).__name__


def _told(error: Exception) -> str:
    """Return the first line of what PyTorch says, and the line of code that it means."""
    where = _WHERE.search(str(error))
    first = first_line(error)
    return f"{first} ({where[1]}, line {where[2]})" if where else first
