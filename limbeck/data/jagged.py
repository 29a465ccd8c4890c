"""Rows of unequal length, held in one tensor without padding: tokens, bytes, frames, boxes.

Letters: N samples, B samples in a batch, T the most that a sample of the batch has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from limbeck.errors import InputError

__all__ = ["IGNORED", "Jagged", "Texts"]

IGNORED = -100
"""The target of a place that counts for nothing, as in PyTorch and in ``transformers``."""


@dataclass(frozen=True, eq=False)
class Jagged:
    """N rows of unequal length: their values one after another, and where each begins.

    As a field of :class:`limbeck.data.Arrays` it stays compact until a batch is made. Then it
    becomes a mapping of two tensors (B, T): the values, padded at the end to the longest of the
    batch, and a mask that is 1 where a value counts. Where a value is a row of numbers itself, a
    box say, the padded values are (B, T, ...).

    Attributes:
        values: (total,) whole numbers, or (total, ...).
        offsets: (N + 1,) int64; row i is ``values[offsets[i]:offsets[i + 1]]``.
        padding: what stands after the end of a shorter row.
        names: what the values and the mask are called in a batch; by default as the models of
            Hugging Face call them. With no names a batch has the padded values alone, as the
            targets of tokens are, padded with −100.
        origin: of what made the values, a tokenizer's digest for example; for fingerprints.
        dtype: of the padded values.

    >>> words = Jagged.of([[7, 8, 9], [5]], padding=0)
    >>> words.dense()["input_ids"].tolist(), words.dense()["attention_mask"].tolist()
    ([[7, 8, 9], [5, 0, 0]], [[1, 1, 1], [1, 0, 0]])
    >>> Jagged.of([[8, 9, 2], [2]], padding=-100, names=()).in_batch().tolist()
    [[8, 9, 2], [2, -100, -100]]
    """

    values: Tensor
    offsets: Tensor
    padding: int = 0
    names: tuple[str, str] | tuple[()] = ("input_ids", "attention_mask")
    origin: str = ""
    dtype: torch.dtype = torch.int64

    @classmethod
    def of(
        cls,
        rows: Sequence[Sequence[int]],
        *,
        padding: int = 0,
        names: tuple[str, str] | tuple[()] = ("input_ids", "attention_mask"),
        origin: str = "",
    ) -> Jagged:
        """Make it from lists of whole numbers."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        joined = [np.asarray(row, np.int32) for row in rows]
        values = torch.from_numpy(np.concatenate([np.zeros(0, np.int32), *joined]))
        return cls(values, _offsets(lengths), padding, names, origin)

    def __len__(self) -> int:
        return len(self.offsets) - 1

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
        return self.values.nbytes + self.offsets.nbytes

    @property
    def lengths(self) -> Tensor:
        """(N,) int64, how many values each row has."""
        return self.offsets.diff()

    def index_select(self, dim: int, rows: Tensor) -> Jagged:
        """Return the rows at ``rows``, in that order."""
        starts, lengths = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        offsets = torch.cat((lengths.new_zeros(1), lengths.cumsum(0)))
        # Each value's place in the new tensor, moved to where its row begins in the old one.
        moved = torch.repeat_interleave(starts - offsets[:-1], lengths)
        values = self.values[torch.arange(len(moved), device=moved.device) + moved]
        return replace(self, values=values, offsets=offsets)

    def hidden(self, rows: Tensor) -> Jagged:
        """Return the same with NaN, no label, in the place of all numbers of some rows, (N,) bool.

        Raises:
            InputError: they are whole numbers, tokens say.
        """
        if not self.values.is_floating_point():
            raise InputError(
                "labels that are sequences of whole numbers are to be hidden",
                expected="one label for each sample, maps, boxes, or numbers",
                remedy="Leave data.labelled out.",
            )
        values = self.values.clone()
        values[rows.repeat_interleave(self.lengths)] = float("nan")
        return replace(self, values=values)

    @property
    def known(self) -> Tensor:
        """(N,) bool, which rows have no NaN."""
        lost = torch.isnan(self.values).view(len(self.values), -1).any(dim=1)
        rows = torch.arange(len(self), device=self.device).repeat_interleave(self.lengths)
        return torch.ones(len(self), dtype=torch.bool, device=self.device).index_fill(
            0, rows[lost], False
        )

    def to(self, device: torch.device | str) -> Jagged:
        """Return the same on another device."""
        return replace(self, values=self.values.to(device), offsets=self.offsets.to(device))

    def dense(self) -> dict[str, Tensor]:
        """Return the padded values and the mask, (N, T), the latter int64; T is at least 1."""
        padded, mask = self._padded()
        return dict(zip(self.names, (padded, mask.long()), strict=True))

    def in_batch(self) -> dict[str, Tensor] | Tensor:
        """Return what a batch has of it: :meth:`dense`, or without names the padded values."""
        return self.dense() if self.names else self._padded()[0]

    def _padded(self) -> tuple[Tensor, Tensor]:
        longest = max(1, int(self.lengths.max())) if len(self) else 1
        steps = torch.arange(longest, device=self.device)
        mask = steps < self.lengths.unsqueeze(1)
        shape = (*mask.shape, *self.values.shape[1:])
        padded = torch.full(shape, self.padding, dtype=self.dtype, device=self.device)
        padded[mask] = self.values.to(self.dtype)
        return padded, mask

    def fingerprint(self) -> str:
        """Return a hash of the contents, the padding and the origin."""
        digest = hashlib.sha256(f"{self.padding} {self.names} {self.origin}".encode())
        for tensor in (self.values, self.offsets):
            digest.update(f"{tensor.dtype}".encode())
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Texts:
    """N texts in one tensor of bytes; called with a sample's id, it shows that sample.

    >>> texts = Texts.of(["a fine film", "电影"])
    >>> texts(1)
    {'kind': 'text', 'text': '电影'}
    """

    bytes: Jagged

    @classmethod
    def of(cls, texts: Sequence[str]) -> Texts:
        """Make it from texts."""
        encoded = [text.encode() for text in texts]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        values = torch.from_numpy(np.frombuffer(b"".join(encoded), np.uint8).copy())
        return cls(Jagged(values, _offsets(lengths)))

    def __call__(self, number: int) -> dict[str, str]:
        """Return how the sample of that id is shown to a person."""
        if not 0 <= number < len(self.bytes):
            raise InputError(f"text {number} of {len(self.bytes)}", expected="the id of a sample")
        start, end = self.bytes.offsets[number : number + 2].tolist()
        return {"kind": "text", "text": self.bytes.values[start:end].numpy().tobytes().decode()}


def _offsets(lengths: np.ndarray) -> Tensor:
    return torch.from_numpy(np.concatenate([np.zeros(1, np.int64), lengths.cumsum()]))
