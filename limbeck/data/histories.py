"""Histories of items: the reader that turns what people had into what a recommender reads.

Letters: B histories, T items of one, N items there are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

from torch import Tensor

from limbeck.data.asking import Ask
from limbeck.data.jagged import Jagged
from limbeck.errors import InputError, unknown

__all__ = ["Histories", "Told"]

_FILE = "items.json"
_SHOWN = 8  # items of a history that a person is shown


@final
@dataclass(frozen=True)
class Histories:
    """Knows the items there are, and turns lists of them into numbers.

    Attributes:
        items: the N items as the data calls them, in the order of their numbers.
        length: T at most: of a longer history the last items are read.

    >>> read = Histories(("lamp", "mug", "clock"), length=2)
    >>> read([["clock", "lamp", "mug"], ["lamp"]])["input_ids"].tolist()  # 3 is the padding
    [[0, 1], [0, 3]]
    """

    items: tuple[str, ...]
    length: int

    @classmethod
    def read(cls, folder: Path, facts: Mapping[str, Any]) -> Histories:
        """Return the reader that :meth:`save` wrote."""
        items = json.loads((folder / facts["file"]).read_text(encoding="utf-8"))
        return cls(tuple(items), int(facts["length"]))

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the items into a folder, and return what :meth:`read` needs to know."""
        text = json.dumps(self.items, ensure_ascii=False, indent=0)
        (folder / _FILE).write_text(text + "\n", encoding="utf-8")
        return {"kind": "histories", "file": _FILE, "length": self.length}

    def __call__(self, histories: Sequence[Sequence[Any]]) -> dict[str, Tensor]:
        """Return ``input_ids`` and ``attention_mask``, (B, T) int64 each, of lists of items.

        Raises:
            InputError: an item is not among those of the data, or a history is empty.
        """
        if isinstance(histories, str) or any(isinstance(each, str) for each in histories):
            raise InputError("a single history", expected="a list of histories, each a list")
        for number, history in enumerate(histories):
            if not len(history):
                raise InputError(f"history {number} is empty", expected="an item or more in each")
        rows = [[self._number(item) for item in each[-self.length :]] for each in histories]
        return Jagged.of(rows, padding=len(self.items)).dense()

    def asks(self) -> dict[str, Ask]:
        return {"History": Ask("several", self.items)}

    def gathered(self, given: Mapping[str, Any]) -> Any:
        return given["History"]

    def _number(self, item: Any) -> int:
        if str(item) not in self._numbers:
            raise unknown("item", str(item), self.items)
        return self._numbers[str(item)]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {item: number for number, item in enumerate(self.items)}


@final
@dataclass(frozen=True)
class Told:
    """Shows what was had before a sample's item, the latest first.

    Attributes:
        items: the numbers of all items that were had, person after person, each in time order; a
            sample's id is its item's place.
        starts: for each place, where the person's history begins.
        labels: the items' names.
    """

    items: Tensor
    starts: Tensor
    labels: Sequence[str]

    def __call__(self, number: int) -> dict[str, str]:
        """Return how the sample of that id is shown to a person."""
        before = self.items[int(self.starts[number]) : number].flip(0)
        names = [self.labels[item] for item in before[:_SHOWN].tolist()]
        more = f" · and {len(before) - _SHOWN:,} before" if len(before) > _SHOWN else ""
        return {"kind": "text", "text": " · ".join(names) + more}
