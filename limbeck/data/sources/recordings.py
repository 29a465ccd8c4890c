"""Finding recordings with what is known of them: in Parquet tables, or in folders of files.

Letters: N recordings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.data.sources.tables import (
    SPLITS,
    by_split,
    class_names,
    column_of,
    folder_of,
    folders_in,
    holds_integers,
)
from limbeck.errors import InputError, unknown

__all__ = ["Found", "found_in"]

_SUFFIXES = {".aif", ".aiff", ".flac", ".mp3", ".ogg", ".opus", ".wav"}
_METADATA = "metadata.csv"


@dataclass(frozen=True)
class Found:
    """N recordings, and what is known of each.

    Attributes:
        sounds: files, or their bytes.
        splits: ``train``, ``validation`` or ``test``.
        labels: whole numbers; ``None`` if recordings have no label.
        texts: what is said; ``None`` if that is not known.
        speakers: who speaks; ``None`` if that is not known.
        names: the classes', or none.
        where: for messages.
    """

    sounds: Sequence[Path | bytes]
    splits: Sequence[str]
    labels: Sequence[int] | None
    texts: Sequence[str] | None
    speakers: Sequence[str] | None
    names: tuple[str, ...]
    where: str


def found_in(
    path: str | Path, *, audio: str = "", label: str = "", text: str = "", speaker: str = ""
) -> Found:
    """Return the recordings of a folder.

    Args:
        path: the folder.
        audio: the recordings' column; by default ``audio`` or the one that holds bytes.
        label: the labels' column; by default ``label``.
        text: the transcripts' column, if they are wanted; labels are not needed then.
        speaker: the speakers' column; by default ``speaker``, if there is one.

    Raises:
        InputError: no such folder, no recordings, a missing column or value, a damaged table.
    """
    folder = folder_of(path, "recordings")
    tables = sorted(folder.glob("*.parquet"))
    if tables:
        table, sounds, splits = _tables(tables, folder, audio)
    elif (folder / _METADATA).is_file():
        table, sounds, splits = _listed(folder)
    else:
        return _sorted_by_class(folder)
    columns = table.schema.names
    for wanted in filter(None, (label, text, speaker)):
        if wanted not in columns:
            raise unknown("column", wanted, columns)
    labels, names = (None, ()) if text else _labels(table, label or "label", str(folder))
    who = speaker or ("speaker" if "speaker" in columns else "")
    return Found(
        sounds,
        splits,
        labels,
        _texts(table, text, str(folder)) if text else None,
        _texts(table, who, str(folder)) if who else None,
        names,
        str(folder),
    )


def _tables(
    files: Sequence[Path], folder: Path, audio: str
) -> tuple[Any, list[Path | bytes], list[str]]:
    import pyarrow
    import pyarrow.parquet as pq

    tables, splits = [], []
    for split, parts in by_split(files, folder, "train.parquet").items():
        for part in parts:
            try:
                tables.append(pq.read_table(part))
            except (OSError, pyarrow.ArrowException) as error:
                raise InputError(f"{part} could not be read as Parquet: {error}") from error
            splits += [split] * len(tables[-1])
    try:
        table = pyarrow.concat_tables(tables)
    except pyarrow.ArrowException as error:
        raise InputError(f"the tables in {folder} differ: {error}") from error
    column = column_of(table.schema, audio, "audio", _holds_sound)
    rows = table[column].to_pylist()
    return table, [_sound(row, place, folder) for place, row in enumerate(rows)], splits


def _sound(row: Any, place: int, folder: Path) -> Path | bytes:
    """Return what a cell of a table holds: bytes, or the path of a file."""
    kept = row if isinstance(row, dict) else {"bytes": row}
    if kept.get("bytes"):
        return bytes(kept["bytes"])
    if kept.get("path"):
        return folder / str(kept["path"])
    raise InputError(f"row {place} in {folder} has no recording")


def _holds_sound(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(kind.field(place).name == "bytes" for place in range(kind.num_fields))
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _listed(folder: Path) -> tuple[Any, list[Path | bytes], list[str]]:
    """Read ``metadata.csv``, whose column ``file_name`` has paths within the folder."""
    import pyarrow
    from pyarrow import csv

    file = folder / _METADATA
    try:
        table = csv.read_csv(file)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{file} could not be read as a table: {error}") from error
    if "file_name" not in table.schema.names:
        raise InputError(
            f"{file} has the columns {', '.join(table.schema.names)}",
            expected="file_name, with paths within the folder",
        )
    names = [str(name) for name in table["file_name"].to_pylist()]
    missing = next((name for name in names if not (folder / name).is_file()), None)
    if missing is not None:
        raise InputError(f"{file} names {missing}, which is not in {folder}")
    return table, [folder / name for name in names], [_split_of(name) for name in names]


def _split_of(name: str) -> str:
    """Return the split that the first folder of a path names; ``train`` if it names none."""
    first = next(part for part in Path(name).parts if part != "..")
    return next((split for split, aliases in SPLITS.items() if first in aliases), "train")


def _sorted_by_class(folder: Path) -> Found:
    """Read ``SPLIT/LABEL/anything.wav``, or ``LABEL/anything.wav``."""
    aliases = {alias for names in SPLITS.values() for alias in names}
    inside = folders_in(folder)
    splits = [each for each in inside if each.name in aliases]
    roots = (
        {"train": [folder]} if not splits else by_split(splits, folder, "train/LABEL/anything.wav")
    )
    labelled = [
        (split, kind.name, file)
        for split, places in roots.items()
        for place in places
        for kind in folders_in(place)
        for file in sorted(kind.iterdir())
        if file.suffix.lower() in _SUFFIXES
    ]
    if not labelled:
        raise InputError(
            f"{folder} holds no recordings",
            expected=f"train.parquet, {_METADATA}, or train/LABEL/anything.wav",
        )
    names = tuple(sorted({name for _, name, _ in labelled}))
    return Found(
        [file for *_, file in labelled],
        [split for split, *_ in labelled],
        [names.index(name) for _, name, _ in labelled],
        None,
        None,
        names,
        str(folder),
    )


def _labels(table: Any, column: str, where: str) -> tuple[list[int], tuple[str, ...]]:
    if column not in table.schema.names:
        raise InputError(
            f"{where} has the columns {', '.join(table.schema.names)}",
            expected="a column of labels, or of transcripts",
            remedy="Name it: data.args.label, or data.args.text.",
        )
    given = table[column].to_pylist()
    _complete(given, column, where)
    if holds_integers(table.schema.field(column).type):
        if min(given) < 0:
            raise InputError(
                f"row {given.index(min(given))} in {where} has the label {min(given)}",
                expected="0 or more",
            )
        names = class_names(table.schema.metadata, column)
        return given, names or tuple(map(str, range(max(given) + 1)))
    names = tuple(sorted(set(map(str, given))))
    numbers = {name: number for number, name in enumerate(names)}
    return [numbers[str(each)] for each in given], names


def _texts(table: Any, column: str, where: str) -> list[str]:
    given = table[column].to_pylist()
    _complete(given, column, where)
    return [str(each) for each in given]


def _complete(given: Sequence[Any], column: str, where: str) -> None:
    if None in given or "" in given:
        row = next(place for place, each in enumerate(given) if each in (None, ""))
        raise InputError(f"row {row} in {where} has no {column}", remedy="Take the row out.")
