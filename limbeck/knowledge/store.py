"""The knowledge store: a teacher's knowledge on disk, read by sample id and view.

A store is a folder: ``index.json``, ``ids.safetensors`` (the sample ids in rising order) and shards
``VIEW-NUMBER.safetensors``. Each holds the same number of consecutive samples, but for the last of
a view. Every file is written under another name and then renamed, the index last: a store without
an index is unfinished, and one with an index is whole.

Letters: N samples, V views, B rows asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from limbeck.errors import InputError
from limbeck.files import file_digest, read_json
from limbeck.knowledge import codec as codecs

__all__ = ["FORMAT", "Store", "shard_name"]

FORMAT = "limbeck-knowledge-1"
_KEYS = ("fields", "fingerprints", "rows_per_shard", "samples", "shards", "views")
_RESIDENT_BYTES = 512 * 2**20


def shard_name(view: int, number: int) -> str:
    """Return the file name of a shard.

    >>> shard_name(2, 13)
    '0002-00013.safetensors'
    """
    return f"{view:04d}-{number:05d}.safetensors"


@dataclass
class Store:
    """An open store. Opening reads the index alone; shards are mapped into memory when first used.

    Attributes:
        path: the folder.
        index: what ``index.json`` says: fields, codecs, samples, views, fingerprints, shards.
    """

    path: Path
    index: Mapping[str, Any]
    _ids: Tensor | None = field(default=None, repr=False)
    _resident: dict[str, Tensor] = field(default_factory=dict, repr=False)
    _shards: dict[str, dict[str, Tensor]] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open a finished store.

        Raises:
            InputError: there is none, it is unfinished, of another format, or a file is missing or
                has another size than the index says.
        """
        path = Path(path)
        if not (path / "index.json").is_file():
            unfinished = (path / "writing.json").is_file()
            raise InputError(
                f"{path} is {'an unfinished' if unfinished else 'not a'} knowledge store",
                expected="a folder with index.json",
                remedy="Write it again: the finished shards are kept."
                if unfinished
                else "Write one with limbeck.knowledge.write.",
            )
        try:
            index = read_json(path / "index.json")
        except ValueError as error:
            raise InputError(f"{path / 'index.json'} is not valid JSON: {error}") from error
        if not isinstance(index, dict) or index.get("format") != FORMAT:
            raise InputError(f"{path / 'index.json'} is not of the format {FORMAT}")
        missing = [key for key in _KEYS if key not in index]
        if missing:
            raise InputError(f"{path / 'index.json'} lacks {', '.join(missing)}")
        store = cls(path, index)
        store._check_files()
        return store

    @property
    def fields(self) -> tuple[str, ...]:
        """The taps that it holds."""
        return tuple(self.index["fields"])

    @property
    def views(self) -> int:
        """V: how many augmented views of each sample it holds."""
        return int(self.index["views"])

    def __len__(self) -> int:
        return int(self.index["samples"])

    @property
    def bytes(self) -> int:
        """The size of all its shards."""
        return sum(int(shard["bytes"]) for shard in self.index["shards"].values())

    def rows(self, ids: Tensor, views: Tensor, fields: tuple[str, ...]) -> dict[str, Tensor]:
        """Return the knowledge about samples, in the order asked for.

        Args:
            ids: (B,) int64 sample ids.
            views: (B,) int64; taken modulo V.
            fields: which taps; each comes as (B, ...) float32.

        Raises:
            InputError: an id or a field is not in the store.
        """
        missing = [name for name in fields if name not in self.index["fields"]]
        if missing:
            raise InputError(
                f"the store {self.path} does not hold {missing[0]!r}",
                expected=f"one of {', '.join(self.fields)}",
                remedy="Write it again with that tap.",
            )
        places = self._places(ids)
        views = views % self.views
        return {
            name: codecs.get(self.index["fields"][name]["codec"]).decode(
                {
                    part: self._gather(f"{name}{part}", places, views)
                    for part in self.index["fields"][name]["parts"]
                },
                tuple(self.index["fields"][name]["shape"]),
            )
            for name in fields
        }

    def check(self, expected: Mapping[str, str]) -> None:
        """Refuse to serve knowledge that was made from something else.

        Args:
            expected: by subject (teacher, data, augmentation, ...), the fingerprint it has now.

        Raises:
            InputError: a fingerprint differs.
        """
        kept = self.index["fingerprints"]
        for subject, now in expected.items():
            if kept.get(subject) != now:
                raise InputError(
                    f"the store {self.path} was written with another {subject} "
                    f"({kept.get(subject)}, now {now})",
                    consequence="The student would learn from answers to other questions.",
                    remedy="Write the store again, or give the run another folder.",
                )

    def verify(self) -> None:
        """Read every file and compare its checksum with the index.

        Raises:
            InputError: a file was changed after it was written.
        """
        for name, stated in self._stated().items():
            if file_digest(self.path / name) != stated["sha256"]:
                raise InputError(
                    f"{self.path / name} is not what was written: its checksum differs",
                    remedy="Delete the store and write it again.",
                )

    def _check_files(self) -> None:
        for name, stated in self._stated().items():
            if Path(name).name != name:
                raise InputError(f"{self.path}/index.json names a file outside the store: {name}")
            file = self.path / name
            size = file.stat().st_size if file.is_file() else None
            if size != stated["bytes"]:
                raise InputError(
                    f"{file} has {size} bytes" if size is not None else f"{file} is missing",
                    expected=f"{stated['bytes']} bytes",
                    remedy="Delete the store and write it again.",
                )
        per_view = math.ceil(len(self) / int(self.index["rows_per_shard"]))
        needed = {shard_name(view, n) for view in range(self.views) for n in range(per_view)}
        if needed != self.index["shards"].keys():
            different = sorted(needed ^ self.index["shards"].keys())
            raise InputError(
                f"{self.path}/index.json and its shards do not agree about {different[0]}",
                expected=f"{per_view} shards for each of {self.views} views",
            )

    def _stated(self) -> dict[str, Mapping[str, Any]]:
        """Return what the index says of every file; of the ids only if their writer did."""
        ids = {"ids.safetensors": self.index["ids"]} if "ids" in self.index else {}
        return ids | dict(self.index["shards"])

    def _places(self, ids: Tensor) -> Tensor:
        """Return where samples stand among the N sorted ids."""
        if self._ids is None:
            self._ids = self._tensors("ids.safetensors")["ids"]
        places = torch.searchsorted(self._ids, ids).clamp_(max=len(self._ids) - 1)
        wrong = self._ids[places] != ids
        if wrong.any():
            raise InputError(
                f"sample {int(ids[wrong][0])} is not in the store {self.path}",
                expected=f"ids of the {len(self)} samples that it was written for",
            )
        return places

    def _gather(self, name: str, places: Tensor, views: Tensor) -> Tensor:
        if self.bytes <= _RESIDENT_BYTES:
            return self._whole(name).index_select(0, views * len(self) + places)
        size = int(self.index["rows_per_shard"])
        numbers = views * 100_000 + places // size
        out: Tensor | None = None
        for number in numbers.unique().tolist():
            here = (numbers == number).nonzero().squeeze(1)
            shard = self._shard(shard_name(number // 100_000, number % 100_000))[name]
            part = shard.index_select(0, places[here] % size)
            out = part.new_empty((len(places), *part.shape[1:])) if out is None else out
            out[here] = part
        assert out is not None
        return out

    def _whole(self, name: str) -> Tensor:
        """Return all rows of a part, view after view, read once."""
        if name not in self._resident:
            parts = [self._shard(file)[name] for file in sorted(self.index["shards"])]
            self._resident[name] = torch.cat(parts)
        return self._resident[name]

    def _shard(self, name: str) -> dict[str, Tensor]:
        if name not in self._shards:
            self._shards[name] = self._tensors(name)
        return self._shards[name]

    def _tensors(self, name: str) -> dict[str, Tensor]:
        try:
            with safe_open(self.path / name, framework="pt") as opened:
                return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{self.path / name} could not be read: {error}",
                remedy="Delete the store and write it again.",
            ) from error
