"""What a store is to become: planned by the first process, noted in ``writing.json``, read by all.

A store that is appended to keeps its index until the new one is written: it can be read meanwhile.

Letters: N samples.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.knowledge.folders import Folder, read_json, stated, write_json
from limbeck.knowledge.ids import ids_of, smallest
from limbeck.knowledge.index import (
    INDEX,
    SHARD,
    WRITING,
    ids_name,
    read_index,
    shard_name,
    shards_of,
    subjects,
)  # fmt: skip
from limbeck.knowledge.provenance import different, refuse

__all__ = ["Goal", "begun", "tidy"]

_OTHER_FOLDER = "Delete the folder, or give another one."
_DRAFT = re.compile(r"\..+\.draft|\.tmp\w{6}")  # the latter are of safetensors itself
_GROWS = ("samples", "views", "data")


@dataclass(frozen=True)
class Goal:
    """The store as it will be.

    Attributes:
        folder: where it is.
        header: its index but for what is not known yet; ``files`` are those that are there.
    """

    folder: Folder
    header: dict[str, Any]

    @classmethod
    def read(cls, folder: Folder) -> Goal:
        """Return what ``writing.json`` says."""
        return cls(folder, read_json(folder, WRITING))

    def shards(self) -> list[tuple[int, int, int, int]]:
        """Return segment, view, number and rows of each shard that the index does not have yet."""
        kept = self.header["files"]
        return [told for told in shards_of(self.header) if shard_name(*told[:3]) not in kept]

    def data(self, data: Samples) -> Iterator[tuple[int, Samples]]:
        """Yield each segment that has shards to be written, and its samples.

        Args:
            data: all samples given, in the order of their ids.
        """
        for number in sorted({segment for segment, *_ in self.shards()}):
            told = self.header["segments"][number]
            ids = ids_of(self.folder, self.header, number, told).all()
            yield number, data.subset(torch.searchsorted(data.ids, ids))


def begun(folder: Folder, header: dict[str, Any], data: Samples, *, append: bool) -> Goal | None:
    """Plan the store, or find it planned before; ``None`` if all is there.

    Args:
        folder: where it stands, or will.
        header: what the index will say, but for samples and files.
        data: the samples, in the order of their ids.
        append: whether a finished store may grow.

    Raises:
        InputError: what stands there is another store, or does not say what it is.
    """
    there = folder.names()
    found = read_index(folder) if INDEX in there else None
    fresh = header | {"segments": [_segment(data)], "files": {}}
    planned = Goal.read(folder) if WRITING in there else None
    if planned is not None and found is not None and _finished(found, planned.header):
        tidy(folder)  # whose writer was killed just after it had written the index
        planned = None
    if found is not None and not append:
        _same(folder, found, fresh)
        return None
    goal = fresh if found is None else _grown(folder, found, fresh, data)
    if planned is not None:
        _same(folder, planned.header, goal)
        return planned
    if goal is found:
        return None
    if found is None:
        _no_strays(folder, there)
    return _noted(folder, goal, data)


def tidy(folder: Folder) -> None:
    """Delete what a finished store does not need: notes, drafts of killed writers, the plan."""
    names = sorted(folder.names())
    notes = [name for name in names if SHARD.fullmatch(name.replace(".json", ".safetensors"))]
    folder.remove([name for name in notes if name.endswith(".json")])
    folder.remove([name for name in names if _DRAFT.fullmatch(name)])
    folder.remove([WRITING] if WRITING in names else [])


def _segment(data: Samples) -> dict[str, Any]:
    return {
        "samples": len(data),
        "first": smallest(data.ids)[0],
        "data": data.fingerprint(),
    }


def _noted(folder: Folder, header: dict[str, Any], data: Samples) -> Goal:
    """Write the ids of new samples, and the plan."""
    number = len(header["segments"]) - 1
    told, name = header["segments"][number], ids_name(number)
    if told["first"] is None and name not in header["files"]:
        new = data.ids[~_known(folder, header, number, data.ids)]
        with folder.writing(name) as draft:
            save_file({"ids": smallest(new)[1].contiguous()}, draft)
            header = header | {"files": {**header["files"], name: stated(draft)}}
    write_json(folder, WRITING, header)
    return Goal(folder, header)


def _known(folder: Folder, header: Mapping[str, Any], segments: int, ids: Tensor) -> Tensor:
    """Say which ids (N,) are in the first segments."""
    known = torch.zeros(len(ids), dtype=torch.bool)
    for number, told in enumerate(header["segments"][:segments]):
        known |= ids_of(folder, header, number, told).places(ids)[1]
    return known


def _grown(
    folder: Folder, found: dict[str, Any], fresh: dict[str, Any], data: Samples
) -> dict[str, Any]:
    """Return the index of a store with what it lacks of the samples and views, ``files`` as is."""
    _same(folder, found, fresh, but=_GROWS)
    if fresh["views"] < found["views"]:
        raise InputError(
            f"{fresh['views']} views to append to the store {folder.name}, which has "
            f"{found['views']} of each sample",
            expected=f"views={found['views']}, or more",
        )
    for number, told in enumerate(found["segments"]):
        here = ids_of(folder, found, number, told).places(data.ids)[1]
        _unchanged(folder, told, data.subset(here.nonzero().squeeze(1)) if here.any() else None)
        if fresh["views"] > found["views"] and not here.any():
            raise InputError(
                f"{fresh['views']} views of other samples than those that the store {folder.name} "
                f"has {found['views']} views of",
                expected="all its samples, to add views to them",
                remedy="Give all samples, old and new.",
            )
    new = data.subset((~_known(folder, found, len(found["segments"]), data.ids)).nonzero()[:, 0])
    more = [_segment(new)] if len(new) else []
    if not more and fresh["views"] == found["views"]:
        return found
    prints = {key: value for key, value in found["fingerprints"].items() if key != "data"}
    kept = {key: value for key, value in found.items() if key != "digest"}
    return kept | {
        "views": fresh["views"],
        "segments": [*found["segments"], *more],
        "fingerprints": prints,
        "learned": True,
    }


def _unchanged(folder: Folder, told: Mapping[str, Any], given: Samples | None) -> None:
    """Refuse samples under ids that the store has, unless they are the ones that it is about."""
    if given is None:
        return
    if len(given) == told["samples"] and given.fingerprint() == told["data"]:
        return
    some = "other samples" if len(given) == told["samples"] else f"{len(given)} samples"
    raise InputError(
        f"{some} under ids (such as {int(given.ids[0])}) that the store {folder.name} has already, "
        f"for {told['samples']} samples",
        expected="all samples that it was written for, unchanged, or none of them",
        consequence="Answers would be given to other samples than those they are about.",
        remedy="Give new samples ids of their own: (inputs, targets, ids).",
    )


def _finished(found: Mapping[str, Any], planned: Mapping[str, Any]) -> bool:
    """Say whether an index has all that was planned."""
    same = found["segments"] == planned["segments"] and found["views"] == planned["views"]
    return bool(same)


def _same(
    folder: Folder, found: Mapping[str, Any], goal: Mapping[str, Any], but: tuple[str, ...] = ()
) -> None:
    """Refuse to go on with a store that was made from something else."""
    kept, now = subjects(found), subjects(goal)
    names = [subject for subject in different(kept, now) if subject not in but]
    if names:
        more = set(names) <= set(_GROWS)
        raise refuse(
            f"what {folder.name} holds",
            names,
            kept,
            now,
            "To add samples or views to it: append=True. " + _OTHER_FOLDER
            if more
            else _OTHER_FOLDER,
        )


def _no_strays(folder: Folder, there: set[str]) -> None:
    stray = sorted(name for name in there if SHARD.fullmatch(name))
    if stray:
        raise InputError(
            f"{folder.name} holds {stray[0]}, but nothing that says what it is of",
            expected="an empty folder, or the same store to go on with",
            consequence="Old and new knowledge would be mixed.",
            remedy=_OTHER_FOLDER,
        )
