"""The formats in which a network can be written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from limbeck.errors import unknown
from limbeck.export import executorch, huggingface, onnx, program

__all__ = ["Format", "get", "names"]


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        suffix: at the end of a file's (or a folder's) name.
        write: gets the network, its signature, the path, facts for the metadata, and options.
        whole: whether a network must be as its library builds it, so that none can be pruned.
        check: refuses, before anything is trained, a network that cannot be written so, or a
            missing package; gets the network and what happens to its inputs first.
    """

    suffix: str
    write: Callable[..., None]
    whole: bool = False
    check: Callable[[nn.Module, nn.Module | None], None] | None = None


_FORMATS: Mapping[str, Format] = {
    "onnx": Format(".onnx", onnx.write),
    "program": Format(".pt2", program.write),
    "executorch": Format(".pte", executorch.write, check=executorch.check),
    "huggingface": Format("-huggingface", huggingface.write, whole=True, check=huggingface.check),
}


def names() -> tuple[str, ...]:
    """Return the names of the formats."""
    return tuple(_FORMATS)


def get(name: str) -> Format:
    """Return the format of that name."""
    if name not in _FORMATS:
        raise unknown("format", name, _FORMATS)
    return _FORMATS[name]
