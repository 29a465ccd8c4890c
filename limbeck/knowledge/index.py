"""The index of a store: what it holds, where, and what every file must be.

``index.json`` has these keys:

- ``format``: ``limbeck-knowledge-2``.
- ``views``: V, how many augmented views of each sample.
- ``batch_size``, ``rows_per_shard``: how it was written; a shard has that many rows or, as the last
  of a view, fewer.
- ``fields``: by tap, the ``codec``, the ``shape`` of a row as the teacher gave it, whether rows are
  ``jagged`` (then a row of the shape is a token), and the stored ``parts`` with ``dtype`` and
  ``shape``; a part stands in a shard as TAP + PART.
- ``mask``: which field of a batch says what tokens count, if rows are jagged.
- ``fingerprints``: of the teacher, the data and the augmentation.
- ``segments``: one for each time that samples were added: ``samples``; ``first``, the first id, if
  ids follow one another, else null and there is a file of them; ``data``, their fingerprint.
- ``files``: by name, ``bytes`` and ``sha256`` of every other file of the store.
- ``digest``: of all the rest.

Files are named by what they hold: ``SEGMENT-VIEW-NUMBER.safetensors`` a shard, ``SEGMENT-ids`` the
sample ids in rising order, ``codec`` what codecs have learned, as FIELD/NAME.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from limbeck.errors import InputError
from limbeck.files import digest
from limbeck.knowledge.folders import Folder, read_json

__all__ = [
    "FORMAT", "INDEX", "SHARD", "STATE", "WRITING", "ids_name", "index_digest", "read_index",
    "shard_name", "shards_of", "subjects",
]  # fmt: skip

FORMAT = "limbeck-knowledge-2"
INDEX, WRITING, STATE = "index.json", "writing.json", "codec.safetensors"
SHARD = re.compile(r"\d{2,}-\d{4,}-\d{5,}\.safetensors")
_PLAIN = re.compile(r"[^/\\:]*")  # no part of a path on any system
_AGAIN = "Write it again."
_KEYS: dict[str, type] = {
    "fields": dict,
    "files": dict,
    "fingerprints": dict,
    "rows_per_shard": int,
    "segments": list,
    "views": int,
}


def shard_name(segment: int, view: int, number: int) -> str:
    """Return the file name of a shard.

    >>> shard_name(0, 2, 13)
    '00-0002-00013.safetensors'
    """
    return f"{segment:02d}-{view:04d}-{number:05d}.safetensors"


def ids_name(segment: int) -> str:
    """Return the file name of a segment's sample ids."""
    return f"{segment:02d}-ids.safetensors"


def shards_of(index: Mapping[str, Any]) -> Iterator[tuple[int, int, int, int]]:
    """Yield segment, view, number and rows of every shard, in the order in which they are stored.

    >>> goal = {"views": 2, "rows_per_shard": 8, "segments": [{"samples": 11}]}
    >>> list(shards_of(goal))
    [(0, 0, 0, 8), (0, 0, 1, 3), (0, 1, 0, 8), (0, 1, 1, 3)]
    """
    size = int(index["rows_per_shard"])
    for segment, told in enumerate(index["segments"]):
        count = int(told["samples"])
        for view in range(int(index["views"])):
            for number in range(math.ceil(count / size)):
                yield segment, view, number, min(size, count - number * size)


def subjects(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that two stores must have in common to be one, by subject."""
    return {
        **header["fingerprints"],
        "data": ", ".join(segment["data"] for segment in header["segments"]),
        "samples": sum(segment["samples"] for segment in header["segments"]),
        "views": header["views"],
        "taps": list(header["fields"]),
        "codec": {tap: field["codec"] for tap, field in header["fields"].items()},
        "mask": header.get("mask"),
        "batch_size": header["batch_size"],
        "rows_per_shard": header["rows_per_shard"],
        "format": header["format"],
    }


def index_digest(index: Mapping[str, Any]) -> str:
    """Return the digest of an index, which it holds itself."""
    return digest({key: value for key, value in index.items() if key != "digest"})


def read_index(folder: Folder) -> dict[str, Any]:
    """Read the index of a finished store, and check it.

    Raises:
        InputError: there is none, it is unfinished, of another format, or says what cannot be.
    """
    try:
        index = read_json(folder, INDEX)
    except (FileNotFoundError, NotADirectoryError):
        raise _absent(folder) from None
    where = f"{folder.name}/{INDEX}"
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        found = index.get("format") if isinstance(index, dict) else None
        raise InputError(
            f"{where} is not of the format {FORMAT}" + (f", but {found}" if found else ""),
            remedy="Write the knowledge again with this version of Limbeck." if found else "",
        )
    missing = [key for key in _KEYS if key not in index]
    if missing:
        raise InputError(f"{where} lacks {', '.join(missing)}")
    for key, kind in _KEYS.items():
        if not isinstance(index[key], kind) or (kind is int and index[key] < 1):
            raise InputError(f"{where} has {key} {str(index[key])[:40]!r}", remedy=_AGAIN)
    _check_parts(index, where)
    _check_names(index, where)
    return index


def _absent(folder: Folder) -> InputError:
    unfinished = WRITING in folder.names()
    return InputError(
        f"{folder.name} is {'an unfinished' if unfinished else 'not a'} knowledge store",
        expected=f"a folder with {INDEX}",
        remedy="Write it again: the finished shards are kept."
        if unfinished
        else "Write one with limbeck.knowledge.write.",
    )


def _check_parts(index: Mapping[str, Any], where: str) -> None:
    """Refuse an index whose entries lack what reading needs."""
    told = {
        "fields": (index["fields"].values(), ("codec", "shape", "parts")),
        "segments": (index["segments"], ("samples", "data")),
        "files": (index["files"].values(), ("bytes", "sha256")),
    }
    for what, (entries, keys) in told.items():
        for entry in entries:
            if not isinstance(entry, dict) or not all(key in entry for key in keys):
                raise InputError(
                    f"{where} has an entry under {what} without {', '.join(keys)}", remedy=_AGAIN
                )


def _check_names(index: Mapping[str, Any], where: str) -> None:
    """Refuse an index that names other files than the store's own, or not all of them."""
    for name in index["files"]:
        if not _PLAIN.fullmatch(name):
            raise InputError(
                f"{where} names a file outside the store: {name}",
                expected="names of files in the folder itself",
                consequence="Another file than the store's own would be read.",
                remedy="Do not use it, unless you know who made it.",
            )
    size, views = int(index["rows_per_shard"]), int(index["views"])
    counted = sum(views * math.ceil(int(told["samples"]) / size) for told in index["segments"])
    if counted > len(index["files"]):  # Before so many names are made.
        raise InputError(
            f"{where} and its files do not agree: it names {len(index['files'])} files",
            expected=f"{counted} shards for its samples and views",
            remedy=_AGAIN,
        )
    needed = {shard_name(*place) for *place, _ in shards_of(index)}
    for number, segment in enumerate(index["segments"]):
        needed |= {ids_name(number)} if segment.get("first") is None else set()
    different = sorted(needed ^ (index["files"].keys() - {STATE}))
    if different:
        raise InputError(
            f"{where} and its files do not agree about {different[0]}",
            expected=f"{len(needed)} files for its samples and views",
            remedy=_AGAIN,
        )
