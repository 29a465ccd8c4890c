"""The sample ids of one segment of a store: a run of numbers, or a sorted file of them.

Letters: N ids in a segment, B asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from limbeck.errors import InputError
from limbeck.knowledge.folders import Folder
from limbeck.knowledge.index import ids_name

__all__ = ["Ids", "ids_of", "smallest"]


@dataclass(frozen=True, eq=False)
class Ids:
    """Rising ids: ``first``, ``first`` + 1, ... without a table, or those of ``table``."""

    count: int
    first: int = 0
    table: Tensor | None = None

    def places(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return where each of (B,) ids stands, and whether it is there at all.

        >>> Ids(3, first=5).places(torch.tensor([7, 8]))
        (tensor([2, 0]), tensor([ True, False]))
        """
        if self.table is None:
            places = ids - self.first
            here = (places >= 0) & (places < self.count)
            return torch.where(here, places, 0), here
        limits = torch.iinfo(self.table.dtype)
        asked = ids.clamp(limits.min, limits.max).to(self.table.dtype)
        places = torch.searchsorted(self.table, asked).clamp_(max=self.count - 1)
        return places, self.table[places].to(ids.dtype) == ids

    def all(self) -> Tensor:
        """Return all of them, (N,) int64."""
        if self.table is None:
            return torch.arange(self.first, self.first + self.count)
        return self.table.long()


def smallest(ids: Tensor) -> tuple[int | None, Tensor]:
    """Return the first of consecutive ids, else ``None`` and the ids in as few bytes as will do.

    >>> smallest(torch.tensor([5, 6, 7]))[0], smallest(torch.tensor([5, 7]))[1].dtype
    (5, torch.int8)
    """
    if len(ids) == int(ids[-1]) - int(ids[0]) + 1:
        return int(ids[0]), ids
    for dtype in (torch.int8, torch.int16, torch.int32):
        limits = torch.iinfo(dtype)
        if limits.min <= int(ids[0]) and int(ids[-1]) <= limits.max:
            return None, ids.to(dtype)
    return None, ids


def ids_of(folder: Folder, index: Mapping[str, Any], number: int, told: Mapping[str, Any]) -> Ids:
    """Return the ids of a segment; a file of them is mapped into memory, not read.

    Raises:
        InputError: the file is not what the index says.
    """
    count, first = int(told["samples"]), told.get("first")
    if first is not None:
        return Ids(count, int(first))
    name = ids_name(number)
    try:
        with safe_open(folder.file(name, index["files"][name]), framework="pt") as opened:
            table = opened.get_tensor("ids")
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{folder.name}/{name} could not be read: {error}",
            remedy="Delete the store and write it again.",
        ) from error
    if table.shape != (count,) or table.dtype.is_floating_point:
        raise InputError(
            f"{folder.name}/{name} holds ids {tuple(table.shape)} {table.dtype}",
            expected=f"({count},) integers",
        )
    return Ids(count, 0, table)
