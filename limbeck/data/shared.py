"""Samples that share what they hold: several questions about one picture, say.

Letters: N samples, M values, B samples in a batch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["Packed", "Shared"]


@runtime_checkable
class Packed(Protocol):
    """A field that is compact in memory, and becomes tensors in a batch."""

    def in_batch(self) -> Tensor | dict[str, Tensor]:
        """Return what a batch has of it: (N, ...), or such tensors by name."""

    def fingerprint(self) -> str:
        """Return a short text that changes when the contents change."""


@dataclass(frozen=True, eq=False)
class Shared:
    """N rows, each one of M values, which memory holds once.

    As a field of :class:`limbeck.data.Arrays` it stays compact until a batch is made: then it is a
    tensor (B, ...).

    Attributes:
        values: (M, ...).
        rows: (N,) int64, the value of each sample, from 0 to M − 1.

    >>> pictures = Shared(torch.tensor([[1, 2], [3, 4]]), torch.tensor([0, 0, 1]))
    >>> pictures.shape, pictures.in_batch().tolist()
    (torch.Size([3]), [[1, 2], [1, 2], [3, 4]])
    """

    values: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> torch.Size:
        """(N,), as far as tensors have one."""
        return torch.Size([len(self)])

    @property
    def device(self) -> torch.device:
        """Where the values are."""
        return self.values.device

    @property
    def nbytes(self) -> int:
        """The size in memory."""
        return self.values.nbytes + self.rows.nbytes

    def index_select(self, dim: int, rows: Tensor) -> Shared:
        """Return the rows at ``rows``, in that order; the values stay as they are."""
        return replace(self, rows=self.rows[rows])

    def to(self, device: torch.device | str) -> Shared:
        """Return the same on another device."""
        return replace(self, values=self.values.to(device), rows=self.rows.to(device))

    def in_batch(self) -> Tensor:
        """Return what a batch has of it, (N, ...)."""
        return self.values[self.rows]

    def fingerprint(self) -> str:
        """Return a hash of the contents."""
        digest = hashlib.sha256()
        for tensor in (self.values, self.rows):
            digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]
