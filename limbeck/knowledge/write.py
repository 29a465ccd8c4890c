"""Writing a knowledge store: resumable shard by shard, by one process or by many.

Beside each finished shard stands a note with its size and checksum. The notes become part of the
index, which is written last and replaced whole when a store is appended to.

Letters: N samples, V views, B samples of a batch, T tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from limbeck.data.augment import Augmentation
from limbeck.data.loader import Loader, by_length
from limbeck.data.samples import Batch, Samples, as_samples
from limbeck.errors import InputError, unknown
from limbeck.knowledge import codec as codecs
from limbeck.knowledge.folders import Folder, folder_at, stated, write_json
from limbeck.knowledge.goal import Goal, begun, tidy
from limbeck.knowledge.index import FORMAT, INDEX, WRITING, index_digest, shard_name, shards_of
from limbeck.knowledge.provenance import augmentation, fingerprints
from limbeck.knowledge.record import Knowledge
from limbeck.knowledge.rows import Mask, Rows, learned, mask_name
from limbeck.knowledge.shards import OFFSETS
from limbeck.knowledge.store import Store
from limbeck.losses.spec import exactly

__all__ = ["Source", "write"]


class Source(Protocol):
    """What a store can be written from: any teacher."""

    def knowledge(self, batch: Batch, taps: Sequence[str]) -> Knowledge:
        """Return the tapped tensors of a batch."""

    def fingerprint(self) -> str:
        """Return a short text that changes when the answers would."""


def write(
    path: str | Path,
    teacher: Source,
    samples: Any,
    *,
    taps: Sequence[str] = ("logits",),
    codec: str | Mapping[str, str] = "half",
    mask: Mask | None = None,
    views: int = 1,
    augment: Augmentation | None = None,
    append: bool = False,
    batch_size: int = 256,
    rows_per_shard: int = 16384,
    progress: Callable[[int, int], None] = lambda done, total: None,
    rank: int = 0,
    world: int = 1,
    barrier: Callable[[], None] = lambda: None,
    cache: str | Path | None = None,
) -> Store:
    """Write what a teacher knows about a set of samples, and return the open store.

    Interrupted, it goes on at the next call with the first shard that is not there yet, if teacher,
    data, augmentation and options are the same; a finished store of the same kind is returned as it
    is. A shard is the same bytes whether or not the writing was interrupted, and whichever process
    writes it.

    Args:
        path: the store's folder, made if it does not exist; or a URL that fsspec knows, to which
            each shard is sent as it is finished.
        teacher: anything with ``knowledge(batch, taps)`` and ``fingerprint()``.
        samples: tensors (inputs, labels), a data set, or a set made by :mod:`limbeck.data`.
        taps: which places of the teacher to keep.
        codec: for all taps, or by tap (others get ``half``); see :mod:`limbeck.knowledge.codec`.
        mask: of texts padded to one length: which field of a batch (or of its inputs), or a
            function of the batch, is true (B, T) where a token counts. Of what the teacher says
            about each token, (B, T, ...), only those tokens are kept.
        views: V, how many augmented views of each sample; 1 without augmentation.
        augment: what a view shows; it must be the one that the student's loader uses.
        append: add to the finished store in ``path`` the samples that it lacks, and the views; what
            it holds stays as it is. Give all samples, or the new ones alone; for more views, all.
        batch_size: samples that the teacher sees at once.
        rows_per_shard: samples in a file, rounded up to whole batches.
        progress: called with the samples done and to be done, all views counted.
        rank: this process, from 0 to ``world`` − 1; each writes its own shards.
        world: the number of processes.
        barrier: waits for all processes.
        cache: see :meth:`Store.open`.

    Raises:
        InputError: the folder holds a store made from something else, or shards without an index;
            two samples have the same id; the teacher's answers cannot be kept in that way.
    """
    folder, data = folder_at(path, cache), _sorted(as_samples(samples))
    augment = None if augment is None else augment.over(data)
    header = {
        "format": FORMAT,
        "views": views,
        "batch_size": batch_size,
        "rows_per_shard": math.ceil(rows_per_shard / batch_size) * batch_size,
        "fields": {tap: {"codec": name} for tap, name in _codecs(codec, taps).items()},
        "mask": mask_name(mask),
        "fingerprints": {
            **fingerprints(teacher),
            "augmentation": augmentation(data, augment),
        },
    }
    ahead: list[Knowledge] = []
    if rank == 0:
        goal = begun(folder, header, data, append=append)
        if goal is not None and not goal.header.get("learned"):
            loader = Loader(data, batch_size, augment=augment, views=views)
            ahead = learned(folder, goal, teacher, loader, mask)
    barrier()
    there = folder.names()
    if WRITING in there and (append or INDEX not in there):
        goal = Goal.read(folder)
        rows = Rows(folder, goal, teacher, mask)
        writers = {
            number: _Writing(
                folder, number, rows, Loader(part, batch_size, augment=augment, views=views)
            )
            for number, part in goal.data(data)
        }
        if ahead:
            writers[0].ahead = ahead
        done, total = 0, sum(count for *_, count in goal.shards())
        for turn, (segment, view, number, count) in enumerate(goal.shards()):
            done += count
            if turn % world == rank:
                writers[segment].shard(view, number)
                progress(done, total)
        barrier()
        if rank == 0:
            _finish(folder, goal)
        barrier()
    return Store.open(path, cache=cache)


class _Writing:
    """The shards of one segment, while they are written."""

    def __init__(self, folder: Folder, segment: int, rows: Rows, loader: Loader) -> None:
        self.folder, self.segment, self.rows, self.loader = folder, segment, rows, loader
        self.there = folder.names()
        self.ahead: list[Knowledge] = []  # what the teacher has said of the first batches

    def shard(self, view: int, number: int) -> None:
        """Write one shard and the note on it, unless they are there."""
        name = shard_name(self.segment, view, number)
        if {name, _note(name)} <= self.there:
            return
        rows = torch.arange(len(self.loader.samples)).split(self.rows.size)[number]
        # Texts of like length are asked about together, so that little is padded.
        order = by_length(self.loader.samples, rows) if self.rows.mask is None else rows
        moved = not order.equal(rows)
        if moved:
            batches = replace(self.loader, samples=self.loader.samples.subset(order)).epoch(view)
        else:
            per_shard = self.rows.size // self.loader.batch_size
            batches = islice(self.loader.epoch(view, start=number * per_shard), per_shard)
        parts: dict[str, list[Tensor]] = {}
        for turn, batch in enumerate(batches):
            first = view == 0 and number == 0 and not moved and turn < len(self.ahead)
            known = self.ahead[turn] if first else self.rows.ask(batch)
            for part, found in self.rows.encode(batch, known).items():
                parts.setdefault(part, []).append(found)
        counts = parts.pop(OFFSETS, None)
        self.ahead = []
        with exactly("cpu"):
            whole = {part: torch.cat(each) for part, each in parts.items()}
            if moved:
                whole = {part: each[order.argsort()] for part, each in whole.items()}
            if counts is not None:
                whole[OFFSETS] = _offsets(torch.cat(counts))
        with self.folder.writing(name) as draft:
            save_file(whole, draft)
            told = stated(draft)
        write_json(self.folder, _note(name), told)


def _finish(folder: Folder, goal: Goal) -> None:
    """Write the index, which makes the store whole."""
    names = [shard_name(*place) for *place, _ in goal.shards()]
    notes = [_note(name) for name in names]
    told = dict(zip(names, map(json.loads, folder.texts(notes)), strict=True))
    kept = {key: value for key, value in goal.header.items() if key != "learned"}
    order = [shard_name(*place) for *place, _ in shards_of(kept)]
    files = {**kept["files"], **told}
    first = {name: files[name] for name in files if name not in set(order)}
    data = [segment["data"] for segment in kept["segments"]]
    kept["fingerprints"]["data"] = data[0] if len(data) == 1 else index_digest({"data": data})
    index = kept | {"files": first | {name: files[name] for name in order}}
    write_json(folder, INDEX, index | {"digest": index_digest(index)})
    tidy(folder)


def _note(name: str) -> str:
    return name.removesuffix(".safetensors") + ".json"


def _offsets(counts: Tensor) -> Tensor:
    """Return where each jagged row begins, and the last one ends."""
    total = torch.cat((counts.new_zeros(1), counts)).cumsum(0)
    return total.to(torch.int32 if int(total[-1]) < 2**31 else torch.int64)


def _sorted(data: Samples) -> Samples:
    """Return the samples in the order of their ids."""
    order = data.ids.argsort()
    ids = data.ids[order]
    twice = ids[1:][ids[1:] == ids[:-1]]
    if len(twice):
        raise InputError(f"two samples have the id {int(twice[0])}", expected="an id for each")
    return data.subset(order)


def _codecs(codec: str | Mapping[str, str], taps: Sequence[str]) -> dict[str, str]:
    """Return the name of each tap's codec."""
    if isinstance(codec, str):
        return dict.fromkeys(taps, codecs.get(codec).name)
    for tap in codec:
        if tap not in taps:
            raise unknown("tap with a codec:", tap, taps)
    return {tap: codecs.get(codec.get(tap, "half")).name for tap in taps}
