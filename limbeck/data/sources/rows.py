"""Tables: columns of numbers and of categories, one of which is to be predicted.

Letters: N samples, D numbers of a row for a network, F columns, K columns to be predicted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.data.columns import Columns
from limbeck.data.jagged import Texts
from limbeck.data.samples import Arrays, Samples
from limbeck.data.shown import Show
from limbeck.data.sources.split import complete
from limbeck.data.sources.tables import SUFFIXES, by_split, class_names, folder_of, joined
from limbeck.data.splits import UNLABELLED, Data
from limbeck.errors import InputError, unknown

__all__ = ["diabetes", "table"]

_UNKNOWN = ("", "?")
_Rows = dict[str, list[Any]]


def table(
    path: str | Path,
    *,
    target: str = "",
    amounts: str | Sequence[str] = (),
    drop: Sequence[str] = (),
    categorical: Sequence[str] = (),
    unknown: Sequence[str] = _UNKNOWN,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    limit: int | None = None,
) -> Data:
    """Rows of a table: Parquet, CSV, TSV or JSON lines.

    A folder's files begin with their split: ``train.parquet``, ``test.csv``; a single file is cut.

    Each sample has two fields, learnt from the training rows alone (see
    :class:`limbeck.data.columns.Columns`): ``inputs`` (N, D), standardised numbers and a yes or no
    for each category, for networks; ``raw`` (N, F), the columns as they are, with categories as
    whole numbers and NaN for what is missing, for trees: ``teacher: {inputs: raw}``.

    Args:
        path: the folder, or a file.
        target: the classes' column, of whole numbers or texts; by default ``label`` or ``target``.
            A training row without one has no label.
        amounts: in place of ``target``: the column, or columns, of numbers to be predicted (task
            ``regression``). They are standardised too; the task puts them back into their units.
        drop: columns that are not to be read: another one that tells the answer, say.
        categorical: columns of whole numbers that are names, not amounts; columns of texts are
            names anyway.
        unknown: what means that a value is missing, besides an empty cell.
        validation: fraction of the training rows, if there is no validation file.
        test: fraction of the training rows, if there is no test file.
        seed: of the cuts.
        limit: at most so many training rows, and half as many of the others.

    Raises:
        InputError: no such folder or file, a missing column, a damaged file, a class that the
            training rows lack.
    """
    place = Path(path)
    if place.is_file():
        files = {"train": [place]}
    else:
        folder = folder_of(path, "tables")
        inside = [file for file in sorted(folder.iterdir()) if file.suffix in SUFFIXES]
        files = by_split(inside, folder, "train.parquet")
    tables = {split: joined(parts) for split, parts in files.items()}
    schema = tables["train"].schema
    goals = [amounts] if isinstance(amounts, str) else list(amounts)
    if target and goals:
        raise InputError(
            f"target {target} and amounts {', '.join(goals)}",
            expected="one of them: classes, or numbers",
        )
    goals = goals or [target or _default(schema.names)]
    for name in (*goals, *drop, *categorical):
        if name not in schema.names:
            raise _unknown_column(name, schema.names)
    read = [name for name in schema.names if name not in (*goals, *drop)]
    found = {split: _columns(each, [*read, *goals], split) for split, each in tables.items()}
    if amounts:
        labels: tuple[str, ...] = (*goals,)
        targets = {split: _amounts(rows, goals, unknown) for split, rows in found.items()}
    else:
        named = class_names(schema.metadata, goals[0])
        targets, labels = _classes(found, goals[0], named, unknown)
    cuts: dict[str, Any] = {"validation": validation, "test": test, "seed": seed, "limit": limit}
    chosen = {split: {name: rows[name] for name in read} for split, rows in found.items()}
    return _made(chosen, targets, labels, place.stem, categorical, unknown, cuts)


def diabetes(
    *, validation: float = 0.15, test: float = 0.3, seed: int = 0, limit: int | None = None
) -> Data:
    """How a diabetes goes on within a year, 442 real patients, bundled with scikit-learn.

    Ten columns of numbers (age, body mass index, blood pressure, six of the blood) and one of
    categories (sex); the number to be predicted, ``progression``, goes from 25 to 346 (task
    ``regression``). The fields are those of :func:`table`.

    Args:
        validation: fraction of what is not test data.
        test: fraction of all.
        seed: of both cuts.
        limit: at most so many training samples, and half as many of the others.

    Source: Efron, Hastie, Johnstone, Tibshirani 2004, "Least Angle Regression".

    >>> len(diabetes().test)
    133
    """
    from sklearn.datasets import load_diabetes

    known = load_diabetes(scaled=False)
    rows = {name: known.data[:, n].tolist() for n, name in enumerate(known.feature_names)}
    rows["sex"] = [f"{value:g}" for value in rows["sex"]]
    targets = torch.from_numpy(known.target.astype(np.float32)).unsqueeze(1)
    cuts: dict[str, Any] = {"validation": validation, "test": test, "seed": seed, "limit": limit}
    goals = ("progression",)
    return _made({"train": rows}, {"train": targets}, goals, "diabetes", (), _UNKNOWN, cuts)


def _made(
    rows: Mapping[str, _Rows],
    targets: Mapping[str, Tensor],
    labels: tuple[str, ...],
    name: str,
    categorical: Sequence[str],
    unknown: Sequence[str],
    cuts: Mapping[str, Any],
) -> Data:
    """Return the data: cut first, so that means and categories are those of training rows alone."""
    bare = {s: replace(Arrays.of(targets=targets[s]), show=_show(rows[s])) for s in rows}
    data = complete(bare, labels, name, **cuts)
    parts: dict[str, Samples] = {"train": data.train, "validation": data.validation}
    parts["test"] = data.test
    here = {s: _at(rows.get(s, rows["train"]), samples) for s, samples in parts.items()}
    columns = Columns.fitted(here["train"], categorical=categorical, unknown=unknown)
    facts: dict[str, dict[str, Any]] = {
        "raw": {"categorical_features": columns.categorical or None}
    }
    known = data.train.column("targets")
    if known.is_floating_point():
        with_label = known[~known.isnan().any(dim=1)]
        center, scale = with_label.mean(dim=0), with_label.std(dim=0)
        scale[~(scale > 0)] = 1.0
        columns = replace(columns, center=(*center.tolist(),), scale=(*scale.tolist(),))
        facts["targets"] = {"center": columns.center, "scale": columns.scale}

    def whole(split: str) -> Arrays:
        bare = parts[split]
        assert isinstance(bare, Arrays)
        goals = bare.fields["targets"]
        if columns.scale:
            goals = (goals - center) / scale
        read = {"inputs": columns.read(here[split]), "raw": columns.raw(here[split])}
        return replace(bare, fields={**read, "targets": goals})

    splits: dict[str, Any] = {split: whole(split) for split in parts}
    readers: dict[str, Any] = {"reader": columns, "other_readers": {"raw": columns.for_trees}}
    return replace(data, **splits, facts=facts, **readers)


def _default(names: Sequence[str]) -> str:
    for name in ("label", "target"):
        if name in names:
            return name
    raise InputError(
        f"none of the columns {', '.join(names)} is called label or target",
        remedy="Name the one to be predicted: data.args.target for classes, data.args.amounts for "
        "numbers.",
    )


def _unknown_column(name: str, names: Sequence[str]) -> InputError:
    return unknown("column", name, names)


def _columns(table: Any, names: Sequence[str], split: str) -> _Rows:
    for name in names:
        if name not in table.schema.names:
            raise InputError(
                f"the {split} rows have no column {name}",
                expected="the columns of the training rows",
            )
    return {name: table[name].to_pylist() for name in names}


def _at(rows: _Rows, samples: Samples) -> _Rows:
    """Return the values of samples, whose ids are the rows of the table that they came from."""
    places = samples.ids.tolist()
    return {name: [values[place] for place in places] for name, values in rows.items()}


def _show(rows: _Rows) -> Show:
    names = list(rows)
    told = zip(*rows.values(), strict=True)
    return Texts.of(
        [", ".join(f"{n} {_told(v)}" for n, v in zip(names, row, strict=True)) for row in told]
    )


def _told(value: Any) -> str:
    if value is None:
        return "?"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _amounts(rows: _Rows, goals: Sequence[str], unknown: Sequence[str]) -> Tensor:
    """Return targets (N, K) in their own units; NaN where there is none."""
    found = np.empty((len(rows[goals[0]]), len(goals)), np.float32)
    for place, name in enumerate(goals):
        for row, value in enumerate(rows[name]):
            try:
                found[row, place] = np.nan if value is None or value in unknown else float(value)
            except (TypeError, ValueError):
                raise InputError(
                    f"row {row} has {value!r} in the column {name}",
                    expected="a number",
                    remedy="For classes name the column in data.args.target, and take the task "
                    "classification.",
                ) from None
    return torch.from_numpy(found)


def _classes(
    found: Mapping[str, _Rows], goal: str, names: tuple[str, ...], unknown: Sequence[str]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return targets (N,), −1 where there is none, and the classes' names, if numbers have some."""
    given = {split: rows[goal] for split, rows in found.items()}
    there = [value for value in given["train"] if value is not None and value not in unknown]
    if any(isinstance(value, float) for value in there):
        raise InputError(
            f"the column {goal} holds numbers with fractions",
            expected="whole numbers or texts: classes",
            remedy="For numbers name it in data.args.amounts in place of target, and take the task "
            "regression.",
        )
    if not names and not all(isinstance(value, int) for value in there):
        names = (*sorted({str(value) for value in there}),)
    numbers = {name: number for number, name in enumerate(names)}
    targets = {}
    for split, values in given.items():
        labels = []
        for row, value in enumerate(values):
            if value is None or value in unknown:
                labels.append(UNLABELLED)
            elif isinstance(value, int):
                labels.append(int(value))
            elif str(value) in numbers:
                labels.append(numbers[str(value)])
            else:
                raise InputError(
                    f"row {row} of {split} has the label {value!r}",
                    expected=f"a class of the training rows: {', '.join(names[:8])}",
                )
        targets[split] = torch.tensor(labels, dtype=torch.int64)
    return targets, names
