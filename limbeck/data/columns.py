"""Rows of a table as numbers: what a network reads, and what trees read.

Letters: N rows, D numbers of a row for a network, F columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.data.asking import Ask
from limbeck.errors import InputError

__all__ = ["Columns", "Feature"]

_MISSING = "missing"


@dataclass(frozen=True)
class Feature:
    """One of the numbers that a network reads.

    Attributes:
        name: of the column; with ``= category`` for one of its categories.
        center: what was subtracted, in the column's unit.
        scale: by what it was divided, in the column's unit; 0 for a yes or no.
    """

    name: str
    center: float = 0.0
    scale: float = 0.0


@dataclass(frozen=True)
class Columns:
    """How the columns of a table become numbers.

    A network reads all D of them standardised: a column of numbers less its mean, over its
    standard deviation, and a 0 where it is missing; behind them, for each column of numbers that
    has gaps, whether there is one; behind those, for each category of each other column, whether it
    is this one. A category that was never seen is none of them.

    Trees read the F columns as they are: numbers, then categories by their place in the list;
    NaN for what is missing or was never seen.

    Attributes:
        means: of the columns of numbers, by name.
        scales: their standard deviations, above 0.
        gaps: those columns of numbers that have gaps.
        categories: of each other column; ``missing`` among them if it has gaps.
        unknown: what else means that a value is missing: ``?``, an empty text.
        center: what is to be added to a model's answers, once multiplied by ``scale``, if they
            stand for numbers in units of their own; a number for each, or none.
        scale: see ``center``.

    >>> columns = Columns.fitted({"age": [30, 50, None], "town": ["Bern", "Rome", "?"]})
    >>> columns([{"age": 50, "town": "Rome"}, {"age": None, "town": "Oslo"}])
    tensor([[1., 0., 0., 1., 0.],
            [0., 1., 0., 0., 0.]])
    """

    means: Mapping[str, float]
    scales: Mapping[str, float]
    gaps: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]
    unknown: tuple[str, ...] = ("", "?")
    center: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @classmethod
    def fitted(
        cls,
        rows: Mapping[str, Sequence[Any]],
        *,
        categorical: Sequence[str] = (),
        unknown: Sequence[str] = ("", "?"),
    ) -> Columns:
        """Learn means, deviations and categories from rows.

        Args:
            rows: by column, N values each: numbers, texts, or ``None``.
            categorical: columns of whole numbers that are names, not amounts.
            unknown: what else means that a value is missing.
        """
        means, scales, gaps, categories = {}, {}, [], {}
        for name, values in rows.items():
            if name in categorical or any(isinstance(value, str) for value in values):
                words = [_word(value, unknown) for value in values]
                found = sorted({word for word in words if word is not None})
                categories[name] = (*found, *([_MISSING] if None in words else []))
                continue
            column = _numbers(values, name)
            there = column[~np.isnan(column)]
            if not len(there):
                raise InputError(
                    f"the column {name} is empty", remedy="Leave it out: data.args.drop."
                )
            means[name] = float(there.mean())
            scales[name] = float(there.std()) or 1.0
            gaps += [name] if len(there) < len(column) else []
        return cls(means, scales, (*gaps,), categories, (*unknown,))

    @property
    def features(self) -> list[Feature]:
        """The D numbers that a network reads, in their order."""
        amounts = [Feature(name, self.means[name], self.scales[name]) for name in self.means]
        absent = [Feature(f"{name} = {_MISSING}") for name in self.gaps]
        words = [Feature(f"{n} = {word}") for n, found in self.categories.items() for word in found]
        return [*amounts, *absent, *words]

    @property
    def categorical(self) -> list[int]:
        """Which of the F columns that trees read are categories."""
        return list(range(len(self.means), len(self.means) + len(self.categories)))

    def __call__(self, raw: Sequence[Mapping[str, Any]]) -> Tensor:
        """Return what a network reads of rows, (N, D): a mapping of columns to values for each.

        Raises:
            InputError: a row lacks a column, or has a text where a number is wanted.
        """
        for number, row in enumerate(raw):
            if absent := [name for name in self._names if name not in row]:
                raise InputError(
                    f"row {number} has no {absent[0]}",
                    expected=f"the columns {', '.join(self._names)}; None where one is not known",
                )
        return self.read({name: [row[name] for row in raw] for name in self._names})

    def asks(self) -> dict[str, Ask]:
        amounts = {name: Ask("number", value=round(mean, 2)) for name, mean in self.means.items()}
        return amounts | {name: Ask("one", known) for name, known in self.categories.items()}

    def gathered(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        return {n: None if v == _MISSING else v for n, v in given.items()}

    def read(self, rows: Mapping[str, Sequence[Any]]) -> Tensor:
        """Return what a network reads, (N, D) float32, of N values for each column."""
        parts = [(self._amounts(rows, n) - self.means[n]) / self.scales[n] for n in self.means]
        parts += [np.isnan(self._amounts(rows, name)).astype(float) for name in self.gaps]
        for name, known in self.categories.items():
            places = self._places(rows, name)
            parts += [(places == place).astype(float) for place in range(len(known))]
        return torch.from_numpy(np.nan_to_num(np.stack(parts, axis=1)).astype(np.float32))

    def for_trees(self, raw: Sequence[Mapping[str, Any]]) -> Tensor:
        """Return what trees read of rows, (N, F): a mapping of columns to values for each."""
        return self.raw({name: [row[name] for row in raw] for name in self._names})

    def raw(self, rows: Mapping[str, Sequence[Any]]) -> Tensor:
        """Return what trees read, (N, F) float32 with NaN, of N values for each column."""
        parts = [self._amounts(rows, name) for name in self.means]
        for name, known in self.categories.items():
            places = self._places(rows, name)
            absent = known.index(_MISSING) if _MISSING in known else -1
            parts.append(np.where((places < 0) | (places == absent), np.nan, places))
        return torch.from_numpy(np.stack(parts, axis=1).astype(np.float32))

    def answered(self, answers: Tensor) -> Tensor:
        """Return a model's answers in units of their own: (B, K) times ``scale`` plus ``center``.

        Logits of classes stay as they are.
        """
        if not self.scale:
            return answers
        return answers * answers.new_tensor(self.scale) + answers.new_tensor(self.center)

    def save(self, folder: Path) -> dict[str, Any]:
        """Return all of it; no file is needed."""
        return {"kind": "table", **asdict(self)}

    @classmethod
    def of(cls, folder: Path, facts: Mapping[str, Any]) -> Columns:
        """Return what :meth:`save` told."""
        kept: dict[str, Any] = {name: value for name, value in facts.items() if name != "kind"}
        words = {name: tuple(found) for name, found in kept.pop("categories").items()}
        same: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()}
        return cls(**same, categories=words)

    @property
    def _names(self) -> list[str]:
        return [*self.means, *self.categories]

    def _amounts(self, rows: Mapping[str, Sequence[Any]], name: str) -> np.ndarray:
        return _numbers([None if v in self.unknown else v for v in rows[name]], name)

    def _places(self, rows: Mapping[str, Sequence[Any]], name: str) -> np.ndarray:
        """Return which category each value is, (N,); −1 for one that was never seen."""
        place = {word: number for number, word in enumerate(self.categories[name])}
        words = (_word(value, self.unknown) for value in rows[name])
        return np.array([place.get(_MISSING if word is None else word, -1) for word in words])


def _word(value: Any, unknown: Sequence[str]) -> str | None:
    if value is None or (isinstance(value, float) and value != value):
        return None
    text = str(value).strip()
    return None if text in unknown else text


def _numbers(values: Sequence[Any], name: str) -> np.ndarray:
    try:
        return np.array([np.nan if value is None else float(value) for value in values])
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the column {name}: {error}",
            expected="numbers, or None",
            remedy="If they are names of categories: data.args.categorical.",
        ) from error
