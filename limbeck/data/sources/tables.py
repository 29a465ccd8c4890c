"""Finding splits in a folder, and columns in a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.errors import InputError, unknown

__all__ = [
    "SPLITS",
    "by_split",
    "class_names",
    "column_of",
    "folder_of",
    "folders_in",
    "holds_integers",
]

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
"""Each split, and the names with which its files may begin."""


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


def class_names(metadata: Mapping[bytes, bytes] | None, column: str) -> tuple[str, ...]:
    """Return the class names that Hugging Face keeps in a Parquet file's metadata, if any."""
    features = json.loads((metadata or {}).get(b"huggingface", b"{}"))
    found = features.get("info", {}).get("features", {}).get(column, {})
    return tuple(found.get("names", ()))
