"""Killed at any moment, a store goes on to the same bytes."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck.data import Arrays, Augmentation, Crop
from limbeck.files import file_digest, read_json
from limbeck.knowledge import Knowledge, Store, write
from tests.knowledge.stored import Oracle, contents, pictures

COUNT, OPTIONS = 240, {"batch_size": 4, "rows_per_shard": 8, "augment": Augmentation((Crop(2),))}
FIELDS = {"taps": ["logits", "layer2"], "codec": {"logits": "top2", "layer2": "int8"}}
KILLS = 20


class Slow(Oracle):
    """Takes its time, so that most kills fall between or into shards."""

    def knowledge(self, batch: dict[str, Any], taps: Sequence[str]) -> Knowledge:
        time.sleep(0.01)
        return super().knowledge(batch, taps)


def data(count: int = COUNT) -> Arrays:
    ids = torch.arange(count) * 3
    return Arrays.of(ids, inputs=pictures(count), targets=torch.zeros(count))


def writing(path: Path, begun: Any, rank: int, world: int, barrier: Any, more: Any) -> None:
    torch.set_num_threads(1)
    part = {"rank": rank, "world": world, "barrier": barrier.wait}
    begun.release()
    write(path, Slow(), data(), **OPTIONS, **FIELDS, **part, **more)


@pytest.fixture(scope="module")
def forks() -> Any:
    """Children of a process that has imported PyTorch: they start in milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def killed(context: Any, path: Path, world: int, moments: random.Random, more: Any) -> bool:
    """Write with so many processes, kill them all, and say whether they were done before.

    It happens a little after none or one more shard is there, however quick the machine is.
    """
    begun, barrier = context.Semaphore(0), context.Barrier(world)
    writers: list[BaseProcess] = [
        context.Process(target=writing, args=(path, begun, rank, world, barrier, more))
        for rank in range(world)
    ]
    for writer in writers:
        writer.start()
    for _ in writers:
        assert begun.acquire(timeout=60)
    enough = len(notes(path)) + moments.choice((0, 0, 0, 1))
    while len(notes(path)) < enough and any(writer.is_alive() for writer in writers):
        time.sleep(0.001)
    time.sleep(moments.uniform(0, 0.04))
    for writer in writers:
        writer.kill()
    for writer in writers:
        writer.join()
        assert writer.exitcode in (0, -signal.SIGKILL)
    return all(writer.exitcode == 0 for writer in writers)


def notes(path: Path) -> list[Path]:
    return list(path.glob("0?-*-*.json"))


def finished_shards(path: Path) -> set[str]:
    """Return the shards that stand there with their notes, and check that each is whole."""
    found = set()
    for note in notes(path):
        shard = note.with_suffix(".safetensors")
        told = read_json(note)
        assert (shard.stat().st_size, file_digest(shard)) == (told["bytes"], told["sha256"])
        found.add(shard.name)
    return found


@pytest.mark.parametrize("world", [1, 2])
def test_killed_many_times(tmp_path: Path, world: int, forks: Any) -> None:
    """A finished shard would be lost, half a one kept, or rows written twice."""
    path, moments, kept = tmp_path / "cut", random.Random(world), set[str]()
    write(tmp_path / "whole", Oracle(), data(), views=2, **OPTIONS, **FIELDS)
    for _ in range(KILLS):
        assert not killed(forks, path, world, moments, {"views": 2})
        now = finished_shards(path)
        assert now >= kept
        kept = now
    assert 0 < len(kept) < COUNT // 8 * 2
    again = Oracle()
    write(path, again, data(), views=2, **OPTIONS, **FIELDS)
    assert again.batches == (COUNT // 8 * 2 - len(kept)) * 2
    Store.open(path).verify()
    assert contents(path) == contents(tmp_path / "whole")


def test_killed_while_it_grows(tmp_path: Path, forks: Any) -> None:
    """The store as it was would be lost with what was to be added."""
    for name in ("whole", "cut"):
        write(tmp_path / name, Oracle(), data(40), views=2, **OPTIONS, **FIELDS)
    more = {"views": 3, "append": True}
    write(tmp_path / "whole", Oracle(), data(), **more, **OPTIONS, **FIELDS)
    moments = random.Random(3)
    for _ in range(5):
        killed(forks, tmp_path / "cut", 1, moments, more)
        store = Store.open(tmp_path / "cut")
        store.verify()
        assert len(store) == 40
    write(tmp_path / "cut", Oracle(), data(), **more, **OPTIONS, **FIELDS)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
