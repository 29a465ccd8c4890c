"""A store from a table that never was one: sample ids, and lists of numbers that a teacher said.

Any tool that writes Parquet can bring a teacher's answers here.

Letters: N samples, V views, R rows of the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from limbeck.data.samples import Batch
from limbeck.errors import InputError
from limbeck.knowledge.provenance import UNKNOWN
from limbeck.knowledge.record import Knowledge
from limbeck.knowledge.write import write

__all__ = ["write_columns"]


@dataclass(frozen=True)
class _Table:
    name: str
    rows: pa.Table


class _Columns:
    """The rows of a table as samples; each brings along what the teacher said about it."""

    def __init__(self, ids: Tensor, rows_NV: Tensor, columns: Mapping[str, Tensor]) -> None:
        self.ids, self.rows, self.columns = ids, rows_NV, columns

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, rows: Tensor) -> _Columns:
        return _Columns(self.ids[rows], self.rows[rows], self.columns)

    def batches(self, rows: Sequence[Tensor], view: int, seed: int) -> Iterator[Batch]:
        for part in rows:
            chosen = self.rows[part, view % self.rows.shape[1]]
            said = {name: column[chosen] for name, column in self.columns.items()}
            yield {**said, "id": self.ids[part], "view": torch.full_like(part, view)}

    def column(self, field: str) -> Any:
        return self.columns[field][self.rows[:, 0]]

    def fingerprint(self) -> str:
        return UNKNOWN


@dataclass(frozen=True)
class _Said:
    """A teacher whose answers came with the samples."""

    mark: str

    def knowledge(self, batch: Batch, taps: Sequence[str]) -> Knowledge:
        return Knowledge({tap: batch[tap] for tap in taps}, batch["id"])

    def fingerprint(self) -> str:
        return self.mark


def write_columns(
    rows: pa.Table, target: str | Path, name: str, fingerprint: str, codec: str | Mapping[str, str]
) -> None:
    """Write a store from a table that has ``id``, lists of numbers and perhaps ``view``.

    Args:
        rows: the table.
        target: where the store is to stand.
        name: what messages call the table.
        fingerprint: what the store is to say of the teacher.
        codec: how columns are kept.

    Raises:
        InputError: a column is missing, or a sample or a view.
    """
    table = _Table(name, rows)
    names = table.rows.column_names
    if "id" not in names or not pa.types.is_integer(table.rows.schema.field("id").type):
        raise InputError(
            f"{table.name} has the columns {', '.join(names)}",
            expected="'id', whole numbers that name the samples, and columns of lists of numbers "
            "such as 'logits'",
        )
    taps = [n for n in names if _is_list(table.rows.schema.field(n).type)]
    if not taps:
        raise InputError(
            f"{table.name} has no column of lists of numbers among {', '.join(names)}",
            expected="one for each field of knowledge, such as 'logits'",
        )
    columns = {tap: _matrix(table, tap) for tap in taps}
    ids = torch.from_numpy(table.rows.column("id").to_numpy().astype("int64"))
    views = torch.zeros_like(ids)
    if "view" in names:
        views = torch.from_numpy(table.rows.column("view").to_numpy().astype("int64"))
    unique, rows_NV = _grid(table, ids, views)
    samples = _Columns(unique, rows_NV, columns)
    count = rows_NV.shape[1]
    write(target, _Said(fingerprint), samples, taps=taps, codec=codec, views=count)


def _is_list(kind: pa.DataType) -> bool:
    of_lists = (pa.types.is_fixed_size_list, pa.types.is_list, pa.types.is_large_list)
    if not any(is_one(kind) for is_one in of_lists):
        return False
    inner = kind.value_type
    return bool(pa.types.is_floating(inner) or pa.types.is_integer(inner))


def _matrix(table: _Table, name: str) -> Tensor:
    """Return a column of equally long lists as (R, length)."""
    column = table.rows.column(name).combine_chunks()
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if column.null_count or len(lengths) != 1 or column.flatten().null_count:
        raise InputError(
            f"the column {name!r} of {table.name} has lists of lengths {sorted(map(str, lengths))}",
            expected="equally long lists without gaps",
        )
    values = column.flatten().to_numpy(zero_copy_only=False).copy()
    return torch.from_numpy(values).view(len(column), -1)


def _grid(table: _Table, ids: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sorted ids (N,), and which row (N, V) holds each sample and view."""
    unique, place = ids.unique(return_inverse=True)
    count = int(views.max()) + 1 if len(views) else 0
    rows = torch.full((len(unique), max(count, 1)), -1)
    right = len(ids) == rows.numel() and bool((views >= 0).all())
    if right:
        rows[place, views] = torch.arange(len(ids))
    if not right or bool((rows < 0).any()):
        raise InputError(
            f"{table.name} has {len(ids)} rows about {len(unique)} samples in {count} views",
            expected="one row for each sample and view, views counted from 0",
        )
    return unique, rows
