"""Labels in tables: one for each sample, or several.

Letters: N samples, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from limbeck.data.sources.tables import class_names, column_of, holds_integers, values_in
from limbeck.errors import InputError

__all__ = ["labels_of", "names_in", "numbered"]


def labels_of(
    tables: Mapping[str, Any], label: str | Sequence[str], place: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the targets of each split, and the classes' names if they are known.

    Args:
        tables: by split, an Arrow table; ``train`` is there.
        label: a column of whole numbers, (N,) targets; a column of lists, of the numbers or the
            names of the classes that are true of a sample; or several columns of 0 and 1 (or true
            and false), one for each class. By default ``label`` or the first of whole numbers.
        place: where the tables are from, for messages.

    Returns:
        For one label for each sample (N,) int64; for several (N, C) float32 of zeros and ones, the
        classes in the order of their numbers, or of the columns, or of the alphabet.

    Raises:
        InputError: a column is missing or holds something else, a value is missing, a class occurs
            that the training samples lack.
    """
    schema = tables["train"].schema
    if not isinstance(label, str):
        columns = [column_of(schema, name, "label", _holds_truth) for name in label]
        found = {s: _from_columns(t, columns, f"{s} in {place}") for s, t in tables.items()}
        return found, (*columns,)
    column = column_of(schema, label, "label", holds_integers)
    names = class_names(schema.metadata, column)
    if _is_list(schema.field(column).type):
        return _from_lists(tables, column, names, place)
    if not holds_integers(schema.field(column).type):
        raise InputError(
            f"the column {column} of {place} holds {schema.field(column).type}",
            expected="whole numbers, or lists of classes, or several columns of 0 and 1",
        )
    given = {s: values_in(table, column, f"{s} in {place}") for s, table in tables.items()}
    return {s: torch.tensor(rows, dtype=torch.int64) for s, rows in given.items()}, names


def names_in(table: Any, column: str) -> tuple[str, ...]:
    """Return the classes' names if the labels are names, in their order; none for numbers."""
    if holds_integers(table.schema.field(column).type):
        return ()
    return tuple(sorted(set(table[column].to_pylist()) - {None}))


def numbered(table: Any, column: str, names: Sequence[str], where: str) -> Tensor:
    """Return one label for each sample, (N,) int64, of a column of numbers or of names.

    Args:
        table: an Arrow table.
        column: of whole numbers, or of the classes' names.
        names: of the classes, in the order of their numbers; of the training samples.
        where: the table is, for messages.

    Raises:
        InputError: the column is missing, a label is missing, or a name is none of the classes'.
    """
    if column not in table.schema.names:
        raise InputError(
            f"{where} has no column {column}", expected="the columns of the training samples"
        )
    found = table[column].to_pylist()
    if None in found:
        raise InputError(f"row {found.index(None)} of {where} has no label")
    if not holds_integers(table.schema.field(column).type):
        numbers = {name: number for number, name in enumerate(names)}
        strange = next((each for each in found if each not in numbers), None)
        if strange is not None:
            raise InputError(
                f"row {found.index(strange)} of {where} has the label {strange!r}",
                expected=f"a class of the training samples: {', '.join(names[:8])}",
            )
        found = [numbers[each] for each in found]
    return torch.tensor(found, dtype=torch.int64)


def _from_columns(table: Any, columns: Sequence[str], place: str) -> Tensor:
    found = torch.tensor([values_in(table, name, place) for name in columns], dtype=torch.float32)
    strange = ((found != 0) & (found != 1)).nonzero()
    if len(strange):
        column, row = strange[0].tolist()
        raise InputError(
            f"row {row} of {place} has {float(found[column, row]):g} in the column "
            f"{columns[column]}",
            expected="0 or 1, or true or false",
        )
    return found.T.contiguous()


def _from_lists(
    tables: Mapping[str, Any], column: str, names: tuple[str, ...], place: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return (N, C) of lists of numbers or of names."""
    given = {s: values_in(table, column, f"{s} in {place}") for s, table in tables.items()}
    known = {each for row in given["train"] for each in row}
    words = any(isinstance(each, str) for each in known)
    if words:
        names = tuple(sorted(known))
    count = len(names) or 1 + max(known, default=0)
    numbers = {name: number for number, name in enumerate(names if words else range(count))}
    found = {}
    for split, rows in given.items():
        found[split] = torch.zeros(len(rows), count)
        for row, classes in enumerate(rows):
            strange = [each for each in classes if each not in numbers]
            if strange:
                raise InputError(
                    f"row {row} of {split} in {place} has the class {strange[0]!r}",
                    expected=f"one of the training samples': {', '.join(map(str, numbers))}",
                )
            found[split][row, [numbers[each] for each in classes]] = 1
    return found, names


def _holds_truth(kind: Any) -> bool:
    import pyarrow.types as types

    return holds_integers(kind) or bool(types.is_boolean(kind))


def _is_list(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))
