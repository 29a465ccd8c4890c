"""Finding splits in a folder, and columns in a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import InputError, unknown

__all__ = [
    "SPLITS",
    "SUFFIXES",
    "by_split",
    "class_names",
    "class_numbers",
    "column_of",
    "folder_of",
    "folders_in",
    "folders_of_classes",
    "holds_images",
    "holds_integers",
    "holds_texts",
    "joined",
    "texts_in",
    "values_in",
]

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
"""Each split, and the names with which its files may begin."""


SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".json")
"""How the names of tables that can be read end."""


def folder_of(path: str | Path, holding: str) -> Path:
    """Return the folder, if there is one.

    Args:
        path: where it should be.
        holding: what it should hold, for the message.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(
            f"there is no folder {folder}",
            expected=f"a folder with {holding}",
            remedy="Set data.path.",
        )
    return folder


def folders_in(root: Path) -> list[Path]:
    """Return the folders in a folder, hidden ones left out."""
    entries = sorted(root.iterdir())
    return [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def by_split(entries: Sequence[Path], folder: Path, example: str) -> dict[str, list[Path]]:
    """Group files or folders by the split with which their names begin."""
    found: dict[str, list[Path]] = {}
    for split, aliases in SPLITS.items():
        matching = [entry for entry in entries if entry.name.split(".")[0].split("-")[0] in aliases]
        if matching:
            found[split] = matching
    if "train" not in found:
        listed = ", ".join(entry.name for entry in entries[:8]) or "nothing of the kind"
        raise InputError(f"{folder} holds {listed}", expected=f"at least {example}")
    return found


def folders_of_classes(folder: Path, example: str) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Return each split's folder, and the classes: the folders in that of the training samples.

    A folder without folders for splits holds training samples alone.

    Args:
        folder: ``SPLIT/CLASS/...``, or ``CLASS/...``.
        example: what it should hold at least, for the message.
    """
    known = {name for names in SPLITS.values() for name in names}
    roots = [entry for entry in folders_in(folder) if entry.name in known]
    found = by_split(roots, folder, example) if roots else {"train": [folder]}
    splits = {split: first for split, (first, *_) in found.items()}
    return splits, tuple(entry.name for entry in folders_in(splits["train"]))


def class_numbers(found: Sequence[str], classes: Sequence[str], root: Path, called: str) -> Tensor:
    """Return the numbers, (N,) int64, of the classes of N samples in a split's folder.

    Args:
        found: the class of each.
        classes: those of the training samples.
        root: the folder.
        called: what a sample is, in the plural.

    Raises:
        InputError: there is no sample, or one of another class.
    """
    strange = sorted(set(found) - set(classes))
    if strange or not found:
        raise InputError(
            f"{root} holds {len(found)} {called}" + (f" and class {strange[0]}" if strange else ""),
            expected=f"{called} in the training classes: {', '.join(classes[:8]) or 'none found'}",
        )
    return torch.tensor([classes.index(name) for name in found])


def column_of(schema: Any, wanted: str, default: str, fits: Callable[[Any], bool]) -> str:
    """Return the column asked for, or the default one, or the first that fits."""
    if wanted:
        if wanted not in schema.names:
            raise unknown("column", wanted, schema.names)
        return wanted
    fitting = [name for name in schema.names if fits(schema.field(name).type)]
    if not fitting:
        raise InputError(
            f"none of the columns {', '.join(schema.names)} can hold the {default}s",
            remedy=f"Name one: data.args.{default}.",
        )
    return default if default in fitting else fitting[0]


def holds_integers(kind: Any) -> bool:
    """Say whether an Arrow type is one of whole numbers."""
    import pyarrow.types as types

    return bool(types.is_integer(kind))


def holds_images(kind: Any) -> bool:
    """Say whether an Arrow type is one of encoded images: bytes, or a struct with ``bytes``."""
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(field.name == "bytes" for field in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def holds_texts(kind: Any) -> bool:
    """Say whether an Arrow type is one of texts."""
    import pyarrow.types as types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def class_names(metadata: Mapping[bytes, bytes] | None, column: str) -> tuple[str, ...]:
    """Return the class names that Hugging Face keeps in a Parquet file's metadata, if any."""
    features = json.loads((metadata or {}).get(b"huggingface", b"{}"))
    found = features.get("info", {}).get("features", {}).get(column, {})
    return tuple(found.get("names") or found.get("feature", {}).get("names", ()))


def joined(files: Sequence[Path]) -> Any:
    """Return the tables of a split as one.

    Raises:
        InputError: the files are of several kinds, damaged, or have other columns.
    """
    import pyarrow

    named = ", ".join(file.name for file in files)
    if len({file.suffix for file in files}) > 1:
        raise InputError(
            f"the tables {named} are of several kinds",
            expected="one kind",
            consequence="The same texts could be read twice.",
        )
    try:
        return pyarrow.concat_tables([_read(file) for file in files])
    except pyarrow.ArrowException as error:
        raise InputError(f"the tables {named} differ: {error}") from error


def _read(file: Path) -> Any:
    import pyarrow
    from pyarrow import csv, json, parquet

    try:
        if file.suffix == ".parquet":
            return parquet.read_table(file)
        if file.suffix in (".jsonl", ".json"):
            return json.read_json(file)
        lines = csv.ParseOptions(
            delimiter="\t" if file.suffix == ".tsv" else ",", newlines_in_values=True
        )
        return csv.read_csv(file, parse_options=lines)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{file} could not be read as a table: {error}") from error


def values_in(table: Any, column: str, place: str) -> list[Any]:
    """Return a column's values, none of them missing.

    Raises:
        InputError: there is no such column, or one of its values is missing.
    """
    if column not in table.schema.names:
        raise InputError(f"a table of {place} lacks the column {column}")
    values: list[Any] = table[column].to_pylist()
    if None in values:
        raise InputError(f"row {values.index(None)} of {place} has no {column}")
    return values


def texts_in(table: Any, column: str, where: str) -> list[str]:
    """Return a column of texts.

    Raises:
        InputError: there is no such column, or one of its texts is empty.
    """
    if column not in table.schema.names:
        raise InputError(
            f"{where} has no column {column}", expected="the columns of the training samples"
        )
    found: list[str | None] = table[column].to_pylist()
    for row, each in enumerate(found):
        if each is None or not each.strip():
            raise InputError(
                f"row {row} of {where} has an empty text",
                expected="something to read in every row",
                remedy="Take the row out.",
            )
    return [each for each in found if each is not None]
