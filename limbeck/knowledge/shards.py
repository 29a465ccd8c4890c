"""Files of knowledge, mapped into memory, and rows gathered from any number of them.

A row is a run of bytes in a mapped file. Rows are cut out of the maps and joined: that costs the
same however many files they lie in and however long each is, and nothing is read ahead of need.

Letters: B rows asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from limbeck.errors import InputError

__all__ = ["OFFSETS", "Part", "Shard", "Spans", "gather", "mapped", "part_of", "tokens"]

OFFSETS = ":offsets"  # the name of what tells where each jagged row begins; no tap has a colon

_DTYPES = {
    name: getattr(torch, name)
    for name in (
        "bool", "uint8", "int8", "int16", "int32", "int64",
        "float16", "bfloat16", "float32", "float64",
    )
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """What a stored tensor is: the type of its numbers and the shape of a row."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def width(self) -> int:
        """The bytes of a row."""
        return self.dtype.itemsize * int(torch.Size(self.shape).numel())

    def stated(self) -> dict[str, Any]:
        """Return what an index says of it."""
        return {"dtype": str(self.dtype).removeprefix("torch."), "shape": list(self.shape)}


def part_of(told: Mapping[str, Any]) -> Part:
    """Return the part that an index describes.

    >>> part_of({"dtype": "float16", "shape": [10]}).width
    20
    """
    if told["dtype"] not in _DTYPES:
        raise InputError(
            f"a stored tensor of type {told['dtype']!r}", expected=f"one of {', '.join(_DTYPES)}"
        )
    return Part(_DTYPES[told["dtype"]], tuple(int(size) for size in told["shape"]))


@dataclass(frozen=True, eq=False)
class Shard:
    """One file: the bytes of each tensor, and where jagged rows begin, if it has such."""

    parts: Mapping[str, memoryview]
    offsets: memoryview = field(default_factory=lambda: memoryview(b""))


@dataclass(frozen=True, eq=False)
class Spans:
    """Where rows are: the shard of each, its first row or token there, and the last plus one."""

    numbers: Sequence[int]
    first: Tensor
    last: Tensor


def tokens(shards: Mapping[int, Shard], numbers: Sequence[int], places: Tensor) -> Spans:
    """Return where the tokens of jagged rows are, given the rows' shards and places."""
    bounds = [
        shards[number].offsets[place : place + 2].tolist()
        for number, place in zip(numbers, places.tolist(), strict=True)
    ]
    first, last = torch.tensor(bounds, dtype=torch.int64).view(-1, 2).unbind(1)
    return Spans(numbers, first, last)


def gather(shards: Mapping[int, Shard], key: str, spans: Spans, part: Part) -> Tensor:
    """Cut runs of rows out of shards, and join them.

    >>> shard = Shard({"x": memoryview(torch.arange(6, dtype=torch.uint8).numpy())})
    >>> first = torch.tensor([2, 0])
    >>> gather({7: shard}, "x", Spans([7, 7], first, first + 1), Part(torch.uint8, (2,)))
    tensor([[4, 5],
            [0, 1]], dtype=torch.uint8)
    """
    maps = {number: shard.parts[key] for number, shard in shards.items()}
    begin, end = (spans.first * part.width).tolist(), (spans.last * part.width).tolist()
    cut = [maps[n][a:b] for n, a, b in zip(spans.numbers, begin, end, strict=True)]
    joined = bytearray().join(cut)
    if not joined:
        return torch.empty((0, *part.shape), dtype=part.dtype)
    return torch.frombuffer(joined, dtype=part.dtype).view(-1, *part.shape)


def mapped(file: Path, name: str, rows: int, parts: Mapping[str, Part], jagged: set[str]) -> Shard:
    """Map a shard into memory, and check that it holds what the index says.

    Args:
        file: where it is.
        name: what messages call it.
        rows: how many it must have.
        parts: the tensors that it must hold.
        jagged: those of them that have a row per token.

    Raises:
        InputError: it is no safetensors file, or holds something else.
    """
    found = _tensors(file, name)
    offsets = found.get(OFFSETS) if jagged else None
    if jagged and not _rising(offsets, rows):
        raise InputError(f"{name} holds no offsets of {rows} rows", remedy=_AGAIN)
    tokens = 0 if offsets is None else int(offsets[-1])
    for key, part in parts.items():
        expected = (part.dtype, (tokens if key in jagged else rows, *part.shape))
        tensor = found.get(key)
        have = None if tensor is None else (tensor.dtype, tuple(tensor.shape))
        if have != expected:
            shown = "nothing" if have is None else f"{have[1]} {have[0]}"
            raise InputError(
                f"{name} holds {shown} under {key!r}",
                expected=f"{expected[1]} {expected[0]}, as the index says",
                remedy=_AGAIN,
            )
    kept = {key: _bytes(found[key]) for key in parts}
    return Shard(kept) if offsets is None else Shard(kept, offsets.numpy().data)


_AGAIN = "Delete the store and write it again."


def _tensors(file: Path, name: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; their bytes stay on disk until they are read."""
    try:
        with safe_open(file, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{name} could not be read: {error}", remedy=_AGAIN) from error


def _rising(offsets: Tensor | None, rows: int) -> bool:
    """Say whether offsets are those of so many rows."""
    if offsets is None or offsets.dtype not in (torch.int32, torch.int64):
        return False
    if offsets.shape != (rows + 1,) or int(offsets[0]) != 0:
        return False
    return bool((offsets[1:] >= offsets[:-1]).all())


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data
