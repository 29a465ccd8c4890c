"""How a tensor of knowledge is kept on disk.

A codec turns one field of a batch into tensors to store, row by row, and back.

Letters: B rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from limbeck.errors import InputError, unknown

__all__ = ["Codec", "get"]


class Codec(Protocol):
    """Keeps one field; every stored tensor has one row per row of the field."""

    @property
    def name(self) -> str:
        """The name that an index keeps, from which :func:`get` makes the codec again."""

    @property
    def parts(self) -> tuple[str, ...]:
        """What is added to a tap's name for each stored tensor; ``""`` for the main one."""

    def encode(self, field: Tensor) -> dict[str, Tensor]:
        """Turn (B, ...) into the tensors to store, by part."""

    def decode(self, parts: dict[str, Tensor]) -> Tensor:
        """Turn stored parts back into (B, ...) float32."""


@dataclass(frozen=True)
class _Dense:
    """Every value, in one floating-point format."""

    name: str
    dtype: torch.dtype
    parts: tuple[str, ...] = ("",)

    def encode(self, field: Tensor) -> dict[str, Tensor]:
        kept = field.to(self.dtype)
        if not torch.isfinite(kept).all():
            largest = float(field.abs().max())
            raise InputError(
                f"the teacher's output has a value of size {largest:.3g}",
                expected=f"finite values within the range of {self.name} precision",
                remedy='Use codec "full".'
                if self.name == "half" and largest < float("inf")
                else "Check the teacher's weights and preprocessing.",
            )
        return {"": kept.contiguous()}

    def decode(self, parts: dict[str, Tensor]) -> Tensor:
        return parts[""].float()


_CODECS: dict[str, Codec] = {
    "full": _Dense("full", torch.float32),
    "half": _Dense("half", torch.float16),
}


def get(name: str) -> Codec:
    """Return the codec of that name: ``half`` (float16) or ``full`` (float32).

    >>> get("half").encode(torch.zeros(2, 3))[""].dtype
    torch.float16
    """
    if name not in _CODECS:
        raise unknown("codec", name, _CODECS)
    return _CODECS[name]
