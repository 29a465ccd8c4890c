"""Writing a knowledge store: resumable shard by shard, by one process or by many.

Letters: N samples, V views.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from limbeck.data.augment import Augmentation
from limbeck.data.loader import Loader
from limbeck.data.random import key
from limbeck.data.samples import Batch, as_samples
from limbeck.errors import InputError
from limbeck.files import atomically, file_digest, read_json, write_json
from limbeck.knowledge import codec as codecs
from limbeck.knowledge.record import Knowledge
from limbeck.knowledge.store import FORMAT, Store, shard_name

__all__ = ["Source", "write"]

_SEED = 0  # of what a codec draws
_SHARDS = "[0-9]*-[0-9]*.safetensors"


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
    codec: str = "half",
    views: int = 1,
    augment: Augmentation | None = None,
    batch_size: int = 256,
    rows_per_shard: int = 16384,
    progress: Callable[[int, int], None] = lambda done, total: None,
    rank: int = 0,
    world: int = 1,
    barrier: Callable[[], None] = lambda: None,
) -> Store:
    """Write what a teacher knows about a set of samples, and return the open store.

    Interrupted, it goes on at the next call with the first shard that is not there yet, if teacher,
    data, augmentation and options are the same; a finished store of the same kind is returned as it
    is. A shard is the same bytes whether or not the writing was interrupted.

    Args:
        path: the store's folder; made if it does not exist.
        teacher: anything with ``knowledge(batch, taps)`` and ``fingerprint()``.
        samples: tensors (inputs, labels), a data set, or a set made by :mod:`limbeck.data`.
        taps: which places of the teacher to keep.
        codec: ``half`` (float16) or ``full`` (float32).
        views: V, how many augmented views of each sample; 1 without augmentation.
        augment: what a view shows; it must be the one that the student's loader uses.
        batch_size: samples that the teacher sees at once.
        rows_per_shard: samples in a file, rounded up to whole batches.
        progress: called with the samples done and to be done, all views counted.
        rank: this process, from 0 to ``world`` − 1; each writes its own shards.
        world: the number of processes.
        barrier: waits for all processes.

    Raises:
        InputError: the folder holds a store made from something else, or shards without an index;
            two samples have the same id.
    """
    path = Path(path)
    data = as_samples(samples)
    order = data.ids.argsort()
    data, ids = data.subset(order), data.ids[order]
    twice = ids[1:][ids[1:] == ids[:-1]]
    if len(twice):
        raise InputError(f"two samples have the id {int(twice[0])}", expected="an id for each")
    size = math.ceil(rows_per_shard / batch_size) * batch_size
    header = {
        "format": FORMAT,
        "samples": len(data),
        "views": views,
        "rows_per_shard": size,
        "batch_size": batch_size,
        "codec": codec,
        "taps": list(taps),
        "fingerprints": {
            "teacher": teacher.fingerprint(),
            "data": data.fingerprint(),
            "augmentation": augment.fingerprint() if augment else "none",
        },
    }
    if rank == 0:
        _begin(path, header, ids)
    barrier()
    if not (path / "index.json").is_file():
        loader = Loader(data, batch_size, augment=augment, views=views)
        writing = _Writing(path, teacher, loader, tuple(taps), codec, size)
        for shard in range(rank, views * writing.shards, world):
            view, number = divmod(shard, writing.shards)
            writing.shard(view, number)
            done = view * len(data) + min((number + 1) * size, len(data))
            progress(done, views * len(data))
        barrier()
        if rank == 0:
            writing.finish(header)
        barrier()
    return Store.open(path)


def _begin(path: Path, header: dict[str, Any], ids: Tensor) -> None:
    """Make the folder, or check that what stands in it is the same store."""
    path.mkdir(parents=True, exist_ok=True)
    for name in ("index.json", "writing.json"):
        if (path / name).is_file():
            _same(path, read_json(path / name), header)
            return
    stray = sorted(path.glob(_SHARDS))
    if stray:
        raise InputError(
            f"{path} holds {stray[0].name}, but nothing that says what it is of",
            expected="an empty folder, or the same store to go on with",
            consequence="Old and new knowledge would be mixed.",
            remedy="Delete the folder, or give another one.",
        )
    with atomically(path / "ids.safetensors") as draft:
        save_file({"ids": ids.contiguous()}, draft)
    write_json(path / "writing.json", header)


def _same(path: Path, found: dict[str, Any], header: dict[str, Any]) -> None:
    """Refuse to go on with a store that was made from something else."""
    flat = {**header, **header["fingerprints"]}
    there = {**found, **found.get("fingerprints", {})}
    different = [key for key in flat if key != "fingerprints" and there.get(key) != flat[key]]
    if different:
        subject = different[0]
        raise InputError(
            f"{path} holds a store with another {subject} ({there.get(subject)}, now "
            f"{flat[subject]})",
            expected="an empty folder, or the same store to go on with",
            consequence="Old and new knowledge would be mixed.",
            remedy="Delete the folder, or give another one.",
        )


class _Writing:
    """One store while it is written."""

    def __init__(
        self,
        path: Path,
        teacher: Source,
        loader: Loader,
        taps: tuple[str, ...],
        codec: str,
        size: int,
    ) -> None:
        self.path, self.teacher, self.loader = path, teacher, loader
        self.taps, self.codec, self.size = taps, codecs.get(codec), size
        self.shards = math.ceil(len(loader.samples) / size)

    def shard(self, view: int, number: int) -> None:
        """Write one shard, unless it is there."""
        file = self.path / shard_name(view, number)
        if file.is_file():
            return
        per_shard = self.size // self.loader.batch_size
        parts: dict[str, list[Tensor]] = {}
        for batch in _some(self.loader.epoch(view, start=number * per_shard), per_shard):
            known = self.teacher.knowledge(batch, self.taps)
            keys = key(_SEED, batch["id"], batch["view"])
            for tap in self.taps:
                for part, rows in self.codec.encode(known[tap].cpu(), keys).items():
                    parts.setdefault(f"{tap}{part}", []).append(rows)
        with atomically(file) as draft:
            save_file({name: torch.cat(rows) for name, rows in parts.items()}, draft)

    def finish(self, header: dict[str, Any]) -> None:
        """Write the index, which makes the store whole."""
        for draft in self.path.glob(".*.draft"):  # of writers that were killed
            draft.unlink()
        files = sorted(self.path.glob(_SHARDS))
        with safe_open(files[0], framework="pt") as first:
            shapes = {name: first.get_slice(name).get_shape()[1:] for name in first.keys()}  # noqa: SIM118
        fields = {
            tap: {
                "codec": self.codec.name,
                "shape": shapes[tap],
                "parts": {part: shapes[f"{tap}{part}"] for part in self.codec.parts},
            }
            for tap in self.taps
        }
        stated = {
            "ids": _stated(self.path / "ids.safetensors"),
            "shards": {file.name: _stated(file) for file in files},
        }
        write_json(self.path / "index.json", header | {"fields": fields} | stated)
        (self.path / "writing.json").unlink(missing_ok=True)


def _stated(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": file_digest(file)}


def _some(batches: Iterator[Batch], count: int) -> Iterator[Batch]:
    for _, batch in zip(range(count), batches, strict=False):
        yield batch
