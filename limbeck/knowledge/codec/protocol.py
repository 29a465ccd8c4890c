"""What a store asks of a codec, and the checks that codecs share.

Letters: B rows, C classes or channels.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses.sparse import SparseLogits

__all__ = ["Codec", "Field", "finite", "whole"]

Field = Tensor | SparseLogits


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

    def fitted(self, field: Field) -> Codec:
        """Return a codec that has learned what it must from the first rows; else itself."""

    def encode(self, field: Field, keys: Tensor) -> dict[str, Tensor]:
        """Turn (B, ...) into the tensors to store, by part, on the field's device.

        Args:
            field: what the teacher said; a teacher who never gives more than a part of its answer
                (a server, for example) gives :class:`limbeck.losses.SparseLogits`.
            keys: (B,) int64, one for each sample id and view: the only source of random numbers.
        """

    def decode(self, parts: dict[str, Tensor], shape: tuple[int, ...]) -> Field:
        """Turn stored parts back into (B, ...) float32; ``shape`` is that of a row.

        For (B, T, ...) with T that differs from batch to batch, it is that of a token.
        """


def whole(field: Field, name: str, least: int = 1) -> Tensor:
    """Return a field that must be a tensor of ``least`` dimensions or more.

    Raises:
        InputError: it is a part of an answer, or has fewer dimensions.
    """
    if isinstance(field, SparseLogits):
        raise InputError(
            f"the codec {name} got {field}",
            expected="all of the teacher's answer",
            remedy=f'Use codec "{field.codec}".',
        )
    if field.ndim < least:
        raise InputError(
            f"the codec {name} got a field of shape {tuple(field.shape)}",
            expected="rows of vectors or maps, (B, ..., C)",
            remedy='Use codec "half" for this field.',
        )
    return field


def finite(kept: Tensor, field: Tensor, name: str) -> Tensor:
    """Return what is kept.

    Raises:
        InputError: a value is not finite, in the field or once it is kept.
    """
    if not torch.isfinite(kept).all():
        largest = float(field.abs().max())
        raise InputError(
            f"the teacher's output has a value of size {largest:.3g}",
            expected=f"finite values within the range of {name} precision",
            remedy='Use codec "full".'
            if name != "full" and largest < float("inf")
            else "Check the teacher's weights and preprocessing.",
        )
    return kept.contiguous()
