"""The knowledge store: a teacher's knowledge on disk, read by sample id and view.

A store is a folder: ``index.json`` (see :mod:`limbeck.knowledge.index`) and safetensors files.
Every file is written under another name and then renamed, the index last: a store without an index
is unfinished, and one with an index is whole. It may stand on another machine, wherever fsspec
reaches; files are then fetched as they are needed.

Letters: N samples, V views, B rows asked for, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._pytree import tree_map

from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.knowledge import codec as codecs
from limbeck.knowledge.folders import Folder, Local, folder_at
from limbeck.knowledge.ids import Ids, ids_of
from limbeck.knowledge.index import (
    INDEX,
    STATE,
    index_digest,
    read_index,
    shard_name,
    shards_of,
)  # fmt: skip
from limbeck.knowledge.provenance import UNKNOWN, different, refuse, trusted
from limbeck.knowledge.shards import Part, Shard, Spans, gather, mapped, part_of, tokens

__all__ = ["Store"]


@dataclass(frozen=True)
class _Field:
    """What reading a field takes."""

    codec: codecs.Codec
    shape: tuple[int, ...]
    jagged: bool
    parts: Mapping[str, Part]


@dataclass
class Store:
    """An open store. Opening reads the index alone; shards are mapped into memory when first used.

    It can be sent to other processes, used or not; each maps the files anew, and the memory that
    holds them is shared. Any number of readers may open the same store.

    Attributes:
        folder: where its files are.
        index: what ``index.json`` says: fields, codecs, views, fingerprints, segments, files.
    """

    folder: Folder
    index: Mapping[str, Any]
    _maps: dict[int, Shard] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, path: str | Path, *, cache: str | Path | None = None) -> Store:
        """Open a finished store.

        Args:
            path: its folder, or a URL that fsspec knows: ``s3://bucket/store``.
            cache: where files from elsewhere are kept; by default ``limbeck/knowledge`` in the
                user's cache folder. A file is fetched whole, checked against the index's size and
                checksum, and kept under its checksum.

        Raises:
            InputError: there is none, it is unfinished, of another format, or a file is missing or
                has another size than the index says (elsewhere, that is found when it is fetched).
        """
        folder = folder_at(path, cache)
        store = cls(folder, read_index(folder))
        folder.check(store.index["files"])
        return store

    @property
    def path(self) -> Path | str:
        """The folder, or the URL."""
        return self.folder.path if isinstance(self.folder, Local) else self.folder.name

    @property
    def fields(self) -> tuple[str, ...]:
        """The taps that it holds."""
        return tuple(self.index["fields"])

    @property
    def views(self) -> int:
        """V: how many augmented views of each sample it holds."""
        return int(self.index["views"])

    def __len__(self) -> int:
        return sum(int(segment["samples"]) for segment in self.index["segments"])

    @property
    def bytes(self) -> int:
        """The size of all its files, but for the index."""
        return sum(int(told["bytes"]) for told in self.index["files"].values())

    @property
    def size(self) -> int:
        """Its size in bytes, the index included."""
        index, *_ = self.folder.texts([INDEX])
        return self.bytes + len(index)

    @cached_property
    def ids(self) -> tuple[Ids, ...]:
        """The sample ids of each segment."""
        segments = enumerate(self.index["segments"])
        return tuple(ids_of(self.folder, self.index, number, told) for number, told in segments)

    def rows(
        self, ids: Tensor, views: Tensor, fields: tuple[str, ...], mask: Tensor | None = None
    ) -> dict[str, Any]:
        """Return the knowledge about samples, in the order asked for.

        Args:
            ids: (B,) int64 sample ids.
            views: (B,) int64; taken modulo V.
            fields: which taps; each comes as (B, ...) float32, or as
                :class:`limbeck.losses.SparseLogits` if its codec keeps a part of the classes.
            mask: (B, T) true where a token counts: where the rows of jagged fields are put, with
                zeros elsewhere. Without it they stand at the left, T that of the longest.

        Raises:
            InputError: an id or a field is not in the store, or a mask counts other tokens.
        """
        missing = [name for name in fields if name not in self.index["fields"]]
        if missing:
            raise InputError(
                f"the store {self.path} does not hold {missing[0]!r}",
                expected=f"one of {', '.join(self.fields)}",
                remedy="Write it again with that tap.",
            )
        files, places = self._places(ids, views)
        numbers = files.tolist()
        shards = {number: self.shard(number) for number in set(numbers)}
        plain = Spans(numbers, places, places + 1)
        jagged = plain
        if self.jagged(fields):
            jagged = tokens(shards, numbers, places)
            mask = self._fitting(ids, jagged.last - jagged.first, mask)
        found: dict[str, Any] = {}
        for name in fields:
            kept = self._fields[name]
            spans = jagged if kept.jagged else plain
            parts = {
                suffix: gather(shards, f"{name}{suffix}", spans, part)
                for suffix, part in kept.parts.items()
            }
            value = kept.codec.decode(parts, kept.shape)
            found[name] = _spread(value, mask) if kept.jagged and mask is not None else value
        return found

    def check(self, expected: Mapping[str, Any], trust: Iterable[str] = ()) -> None:
        """Refuse to serve knowledge that was made from something else.

        Args:
            expected: by subject (teacher, weights, preprocessing, data, augmentation, ...), the
                fingerprint that it has now.
            trust: subjects that may differ.

        Raises:
            InputError: a fingerprint differs; it says which, what would go wrong in silence, and
                what to do.
        """
        allowed = trusted(trust)
        kept = self.index["fingerprints"]
        subjects = [s for s in different(kept, expected) if s not in allowed]
        if subjects:
            self._refuse(subjects, kept, expected)

    def check_samples(self, samples: Samples) -> None:
        """Refuse samples that the store is not about.

        Their contents are compared with what the store was written for where all samples of a
        writing are given; of some of them, only the ids can be.

        Raises:
            InputError: a sample is not in the store, or has changed.
        """
        ids = samples.ids.cpu()
        found = torch.zeros_like(ids, dtype=torch.bool)
        for known, told in zip(self.ids, self.index["segments"], strict=True):
            places, here = known.places(ids)
            found |= here
            if int(here.sum()) != known.count or told["data"] == UNKNOWN:
                continue
            rows = here.nonzero().squeeze(1)
            now = samples.subset(rows[places[rows].argsort()]).fingerprint()
            if now != told["data"]:
                self._refuse(["data"], {"data": told["data"]}, {"data": now})
        if not bool(found.all()):
            raise self._unknown(int(ids[~found][0]))

    def jagged(self, fields: Iterable[str]) -> bool:
        """Say whether one of the fields has a row for each token."""
        return any(self._fields[name].jagged for name in fields if name in self._fields)

    def verify(self) -> None:
        """Read every file and compare its checksum with the index.

        Raises:
            InputError: a file was changed after it was written.
        """
        told = {name: str(stated["sha256"]) for name, stated in self.index["files"].items()}
        for name, sha256 in told.items():
            if self.folder.digest(name) != sha256:
                raise InputError(
                    f"{self.folder.name}/{name} is not what was written: its checksum differs",
                    remedy="Delete the store and write it again.",
                )
        if self.index.get("digest", index_digest(self.index)) != index_digest(self.index):
            raise InputError(
                f"{self.folder.name}/{INDEX} is not what was written: its checksum differs",
                remedy="Delete the store and write it again.",
            )
        if isinstance(self.folder, Local):  # Elsewhere it would be fetched again.
            for number in range(len(self._shards)):
                self._map(number)

    def parts(self, name: str) -> dict[str, Part]:
        """Return the stored tensors of a field, by what is added to its name."""
        return dict(self._fields[name].parts)

    def state(self, name: str) -> dict[str, Tensor]:
        """Return what the codec of a field has learned."""
        prefix = f"{name}/"
        return {k.removeprefix(prefix): t for k, t in self._states.items() if k.startswith(prefix)}

    def _refuse(
        self, subjects: list[str], kept: Mapping[str, Any], now: Mapping[str, Any]
    ) -> NoReturn:
        names = ", ".join(f'"{subject}"' for subject in subjects)
        remedy = "Write the store again, into another folder; or, if you know that it makes no "
        remedy += f"difference, read it with Teacher.replay(path, trust=[{names}])."
        raise refuse(f"the store {self.path}", subjects, kept, now, remedy)

    def _unknown(self, sample: int) -> InputError:
        return InputError(
            f"sample {sample} is not in the store {self.path}",
            expected=f"ids of the {len(self)} samples that it was written for",
            remedy="Write the store for all samples, or add them: append=True.",
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "index": self.index, "_maps": {}}

    @cached_property
    def _states(self) -> dict[str, Tensor]:
        told = self.index["files"].get(STATE)
        return load_file(self.folder.file(STATE, told)) if told else {}

    @cached_property
    def _fields(self) -> dict[str, _Field]:
        return {
            name: _Field(
                codecs.get(told["codec"], self.state(name)),
                tuple(told["shape"]),
                bool(told.get("jagged")),
                {part: part_of(shape) for part, shape in told["parts"].items()},
            )
            for name, told in self.index["fields"].items()
        }

    @cached_property
    def _shards(self) -> list[tuple[str, int]]:
        """The name and the rows of every shard, in the order in which they are counted."""
        return [(shard_name(*place), rows) for *place, rows in shards_of(self.index)]

    @cached_property
    def _strides(self) -> list[tuple[int, int]]:
        """For each segment, the number of its first shard, and how many each view has."""
        size, first, found = int(self.index["rows_per_shard"]), 0, []
        for segment in self.index["segments"]:
            per_view = -(-int(segment["samples"]) // size)
            found.append((first, per_view))
            first += self.views * per_view
        return found

    def _places(self, ids: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
        """Return for each sample and view the number of its shard, and the row there."""
        size, views = int(self.index["rows_per_shard"]), views % self.views
        files = torch.full_like(ids, -1)
        rows = torch.zeros_like(ids)
        for (first, per_view), known in zip(self._strides, self.ids, strict=True):
            places, here = known.places(ids)
            shard = first + views * per_view + places // size
            if len(self._strides) == 1 and bool(here.all()):
                return shard, places % size
            files, rows = torch.where(here, shard, files), torch.where(here, places % size, rows)
        if bool((files < 0).any()):
            raise self._unknown(int(ids[files < 0][0]))
        return files, rows

    def shard(self, number: int) -> Shard:
        """Return a shard, mapped into memory, by its place in the order of storing."""
        found = self._maps.get(number)
        if found is None:
            found = self._maps[number] = self._map(number)
        return found

    def _map(self, number: int) -> Shard:
        name, rows = self._shards[number]
        parts: dict[str, Part] = {}
        jagged: set[str] = set()
        for tap, kept in self._fields.items():
            parts |= {f"{tap}{part}": shape for part, shape in kept.parts.items()}
            jagged |= {f"{tap}{part}" for part in kept.parts} if kept.jagged else set()
        file = self.folder.file(name, self.index["files"][name])
        return mapped(file, f"{self.folder.name}/{name}", rows, parts, jagged)

    def _fitting(self, ids: Tensor, kept: Tensor, mask: Tensor | None) -> Tensor:
        """Return where tokens stand, (B, T); refuse a mask that counts others than were kept."""
        if mask is None:
            return torch.arange(max(kept.tolist(), default=0)) < kept.unsqueeze(1)
        asked = mask.bool().cpu()
        if asked.ndim != 2 or len(asked) != len(kept):
            raise InputError(
                f"a mask {tuple(mask.shape)} for {len(kept)} samples", expected="(samples, tokens)"
            )
        wrong = (asked.sum(1) != kept).nonzero()
        if len(wrong):
            row = int(wrong[0])
            raise InputError(
                f"sample {int(ids[row])} has {int(asked[row].sum())} tokens that count, and "
                f"{int(kept[row])} in the store {self.path}",
                consequence="Answers would be given to other tokens than those they are about.",
                remedy="Cut and mask the texts as they were when the store was written.",
            )
        return asked


def _spread(value: Any, mask: Tensor) -> Any:
    """Put tokens where a mask is true, and zeros elsewhere, in each tensor of a value."""

    def put(tokens: Tensor) -> Tensor:
        out = tokens.new_zeros((*mask.shape, *tokens.shape[1:]))
        out[mask] = tokens
        return out

    return tree_map(put, value)
