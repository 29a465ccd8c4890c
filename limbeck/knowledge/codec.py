"""How a tensor of knowledge is kept on disk.

A codec turns one field of a batch into tensors to store, row by row, and back.

Letters: B rows.
"""

from __future__ import annotations

from collections.abc import Mapping
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

    @property
    def state(self) -> dict[str, Tensor]:
        """What it learned in :meth:`fitted`, kept once for the whole store."""

    def fitted(self, field: Tensor) -> Codec:
        """Return a codec that has learned what it must from the first rows; else itself."""

    def encode(self, field: Tensor, keys: Tensor) -> dict[str, Tensor]:
        """Turn (B, ...) into the tensors to store, by part.

        Args:
            field: what the teacher said.
            keys: (B,) int64, one for each sample id and view: the only source of random numbers.
        """

    def decode(self, parts: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """Turn stored parts back into (B, ...) float32; ``shape`` is that of a row."""


@dataclass(frozen=True)
class _Dense:
    """Every value, in one floating-point format."""

    name: str
    dtype: torch.dtype
    parts: tuple[str, ...] = ("",)

    @property
    def state(self) -> dict[str, Tensor]:
        return {}

    def fitted(self, field: Tensor) -> Codec:
        return self

    def encode(self, field: Tensor, keys: Tensor) -> dict[str, Tensor]:
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

    def decode(self, parts: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        return parts[""].float()


_CODECS: dict[str, Codec] = {
    "full": _Dense("full", torch.float32),
    "half": _Dense("half", torch.float16),
}


def get(name: str, state: Mapping[str, Tensor] | None = None) -> Codec:
    """Return the codec of that name: ``half`` (float16) or ``full`` (float32).

    Args:
        name: as an index keeps it.
        state: what it had learned, from a store.

    >>> get("half").encode(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))[""].dtype
    torch.float16
    """
    if name not in _CODECS:
        raise unknown("codec", name, _CODECS)
    return _CODECS[name]
