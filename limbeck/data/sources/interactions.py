"""What people had, item after item: purchases, views, listens, in a table.

Letters: N items there are, M interactions in all, S samples of a split, T items of a history.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.data.histories import Histories, Told
from limbeck.data.jagged import Jagged
from limbeck.data.random import key
from limbeck.data.samples import Arrays
from limbeck.data.sources.tables import SUFFIXES, joined
from limbeck.data.splits import Data
from limbeck.errors import InputError, unknown

__all__ = ["interactions"]

_Whole = NDArray[np.int64]
_FEWEST = 3  # interactions: one to read, one for validation, one for the test


def interactions(
    path: str | Path,
    *,
    table: str = "interactions",
    user: str = "user_id",
    item: str = "item_id",
    time: str = "",
    name: str = "",
    catalogue: str = "",
    core: int = 1,
    length: int = 50,
    seed: int = 0,
    limit: int | None = None,
) -> Data:
    """What each person had, in the order of time: from some items the next one is to be told.

    A row is an interaction: who, what and when. Or it is a person, and the items' column holds
    lists in the order of time. A sample is an item with the items before it: ``input_ids`` and
    ``attention_mask``, (B, T) int64, padded at the end with the number N, and as target the item's
    number, 0 to N − 1. Split by leaving one out (Kang, McAuley 2018, arXiv:1808.09781): the last
    item of each person is a test sample, the one before it a validation sample, all others but the
    first are training samples. Who has two items has a training sample alone; who has one has none.
    Validation and test samples have ``seen`` too, the numbers of all items before.

    What happened at one time, on one bill for example, has no order: it gets one by chance, which
    depends on the seed and the row. An order that a table happens to have, by article say, would be
    something to learn that no shop can use.

    Args:
        path: the folder, or the table itself.
        table: the file in the folder, with or without what its name ends with.
        user: the persons' column.
        item: the items' column: numbers or texts, or lists of them.
        time: the column of numbers or dates by which rows are ordered; without, rows are in order.
        name: the column of the items' names, for people to read; by default what the data calls
            items.
        catalogue: the file in the folder where that column is, beside the items' own, a row for
            each item; by default the table.
        core: leave out items and persons with fewer interactions, until there are none.
        length: T at most: of longer histories the last items are read.
        seed: of the order at one time.
        limit: at most so many training samples, and half as many of the others.

    Raises:
        InputError: no such folder, table or column; a damaged file; a row without a person, an item
            or a time; nobody with three interactions; an item that the catalogue lacks.
    """
    place = Path(path)
    file = _file(place, table) if not place.is_file() else place
    found = joined([file])
    persons, items, rows = _columns(found, file, user, item)
    times = _times(found, time, file)[rows] if time else np.zeros(len(rows), np.int64)
    _, numbers = np.unique(persons, return_inverse=True)
    order = np.lexsort((_chance(len(rows), seed) if time else rows, times, numbers))
    kept = order[_core(numbers[order], items[order], core)]
    known, codes = np.unique(items[kept], return_inverse=True)
    history = _History.of(numbers[kept], codes)
    if not len(history.at("test")):
        raise InputError(
            f"nobody in {file} has {_FEWEST} interactions"
            + (f" when items and persons with fewer than {core} are left out" if core > 1 else ""),
            expected="one to read, one for validation and one for the test",
            remedy="Is data.args.user the column of persons? Lower data.args.core."
            if core > 1
            else "Is data.args.user the column of persons?",
        )
    keys = tuple(map(str, known.tolist()))
    labels = _names(place, found, file, keys, item, name, catalogue) if name else keys
    called = place.name if place.is_dir() else place.stem
    whole = history.data(Histories(keys, length), labels, called)
    return whole if limit is None else whole.limited(limit)


def _file(folder: Path, table: str) -> Path:
    """Return the table of that name in a folder."""
    if not folder.is_dir():
        raise InputError(
            f"there is no folder or file {folder}",
            expected="a table of interactions, or a folder that holds it",
            remedy="Set data.path.",
        )
    tables = [file for file in sorted(folder.iterdir()) if file.suffix in SUFFIXES]
    for file in tables:
        if table in (file.name, file.stem):
            return file
    raise unknown(
        f"table of {folder}:", table, [file.stem for file in tables], remedy="Set data.args.table."
    )


def _column(table: Any, name: str, option: str, file: Path) -> Any:
    """Return a column without gaps."""
    if name not in table.schema.names:
        raise unknown(
            f"column of {file.name}:", name, table.schema.names, remedy=f"Set data.args.{option}."
        )
    column = table[name].combine_chunks()
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise InputError(
            f"row {row} of {file} has no {name}, nor have {column.null_count - 1:,} others",
            expected="one in every row",
            remedy="Take those rows out.",
        )
    return column


def _columns(
    table: Any, file: Path, user: str, item: str
) -> tuple[NDArray[Any], NDArray[Any], _Whole]:
    """Return person, item and number of each interaction's row; of lists, row by row."""
    import pyarrow.types as types

    persons = _column(table, user, "user", file)
    items = _column(table, item, "item", file)
    rows = np.arange(len(persons))
    if types.is_list(items.type) or types.is_large_list(items.type):
        rows = np.repeat(rows, items.value_lengths().to_numpy(zero_copy_only=False))
        items = items.flatten()
    kind = items.type
    if not (types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)):
        raise InputError(
            f"the column {item} of {file.name} holds {kind}",
            expected="whole numbers or texts, or lists of them",
            remedy="Set data.args.item.",
        )
    whose = persons.to_numpy(zero_copy_only=False)[rows]
    return whose, items.to_numpy(zero_copy_only=False), rows


def _times(table: Any, time: str, file: Path) -> NDArray[Any]:
    """Return the times of rows, as numbers that can be ordered."""
    import pyarrow.types as types

    column = _column(table, time, "time", file)
    kind = column.type
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_temporal(kind)):
        raise InputError(
            f"the column {time} of {file.name} holds {kind}",
            expected="numbers or dates, which have an order",
            remedy="Set data.args.time.",
        )
    found: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return found


def _chance(count: int, seed: int) -> _Whole:
    """Return a number for each row by which to order what has no order."""
    found: _Whole = key(seed, torch.arange(count), 0).numpy()
    return found


def _core(persons: _Whole, items: NDArray[Any], least: int) -> _Whole:
    """Return the places that stay when the rare are left out, again and again (a k-core)."""
    _, codes = np.unique(items, return_inverse=True)
    stay: _Whole = np.arange(len(persons))
    while len(stay):
        often = [np.bincount(each[stay])[each[stay]] >= least for each in (persons, codes)]
        if bool((often[0] & often[1]).all()):
            break
        stay = stay[often[0] & often[1]]
    return stay


def _names(
    folder: Path, table: Any, file: Path, keys: tuple[str, ...], item: str, name: str, where: str
) -> tuple[str, ...]:
    """Return the items' names, in the order of their numbers; the first one that a row has."""
    if where:
        file = _file(folder if folder.is_dir() else folder.parent, where)
        table = joined([file])
    whose = map(str, _column(table, item, "item", file).to_pylist())
    told = map(str, _column(table, name, "name", file).to_pylist())
    found: dict[str, str] = {}
    for which, text in zip(whose, told, strict=True):
        found.setdefault(which, text.strip())
    missing = [which for which in keys if which not in found]
    if missing:
        raise InputError(
            f"{file} has no row for item {missing[0]}, nor for {len(missing) - 1:,} others",
            expected="a row for each item",
            remedy="Complete it, or leave data.args.catalogue out.",
        )
    return tuple(found[which] for which in keys)


@dataclass(frozen=True)
class _History:
    """All interactions, person after person, each in the order of time.

    Attributes:
        items: (M,) the items' numbers.
        starts: (M,) where the history of each one's person begins.
        ends: (M,) where it ends.
    """

    items: _Whole
    starts: _Whole
    ends: _Whole

    @classmethod
    def of(cls, persons: _Whole, items: _Whole) -> _History:
        """Find where each person's begin and end; ``persons`` is in order."""
        places = np.arange(len(persons))
        first = np.searchsorted(persons, persons, side="left") if len(persons) else places
        last = np.searchsorted(persons, persons, side="right") if len(persons) else places
        return cls(items.astype(np.int64), first, last)

    def at(self, split: str) -> _Whole:
        """Return the places of the items that are a split's targets, (S,)."""
        places = np.arange(len(self.items))
        enough = self.ends - self.starts >= _FEWEST
        left = np.where(enough, self.ends - places, 3)  # 1 of the last item
        chosen = {"test": left == 1, "validation": left == 2, "train": left > 2}[split]
        found: _Whole = places[chosen & (places > self.starts)]
        return found

    def data(self, reader: Histories, labels: tuple[str, ...], name: str) -> Data:
        """Return the three splits."""
        told = Told(torch.from_numpy(self.items), torch.from_numpy(self.starts), labels)

        def split(which: str) -> Arrays:
            at = self.at(which)
            fields: dict[str, Any] = {
                "inputs": self._before(at, reader.length),
                "targets": torch.from_numpy(self.items[at]),
            }
            if which != "train":
                fields["seen"] = self._before(at, len(self.items), names=())
            return Arrays(fields, torch.from_numpy(at), told)

        return Data(
            split("train"),
            split("validation"),
            split("test"),
            labels,
            name,
            {"inputs": {"positions": reader.length}},
            reader,
        )

    def _before(self, at: _Whole, length: int, **options: Any) -> Jagged:
        """Return the items before those at some places, the last ``length`` of each."""
        begin = np.maximum(self.starts[at], at - length)
        counts = at - begin
        offsets = np.concatenate([np.zeros(1, np.int64), counts.cumsum()])
        moved = np.repeat(begin - offsets[:-1], counts)
        values = self.items[np.arange(len(moved)) + moved].astype(np.int32)
        padding = int(self.items.max()) + 1
        return Jagged(_tensor(values), _tensor(offsets), padding, **options)


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(array)
