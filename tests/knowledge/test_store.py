"""The store: what was written is what is read, whatever happened in between."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import limbeck as lb
from limbeck.data import Arrays, Augmentation, Crop, Flip, Items, Loader
from limbeck.errors import InputError
from limbeck.knowledge import Store, write
from limbeck.teachers import Replay
from tests.knowledge.stored import SMALL, N, Oracle, contents, expected, pictures, samples

# -- reading what was written


@pytest.mark.parametrize(("kind", "dtype"), [("half", torch.float16), ("full", torch.float32)])
def test_round_trip(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    """A row would come back as another's, or with fewer digits than the codec keeps."""
    data = samples()
    store = write(tmp_path, Oracle(), data, taps=["logits", "layer2"], codec=kind, **SMALL)
    order = torch.randperm(N)
    views = torch.zeros(N, dtype=torch.int64)
    found = store.rows(data.ids[order], views, ("logits", "layer2"))
    assert torch.equal(found["logits"], expected(data)[order].to(dtype).float())
    assert found["layer2"].shape == (N, 1, 2, 2)
    assert found["layer2"].dtype == torch.float32
    assert torch.equal(found["layer2"][:, 0, 0, 0].floor().long(), order)
    assert (len(store), store.views, store.fields) == (N, 1, ("logits", "layer2"))
    on_disk = load_file(tmp_path / "00-0000-00000.safetensors")
    assert {tensor.dtype for tensor in on_disk.values()} == {dtype}
    assert store.bytes == sum(f.stat().st_size for f in tmp_path.glob("*.safetensors"))


def test_views(tmp_path: Path) -> None:
    """A student's second crop would be given the answer about the first."""
    data, augment = samples(), Augmentation((Crop(2), Flip()), seed=3)
    store = write(tmp_path, Oracle(), data, views=3, augment=augment, codec="full", **SMALL)
    replay = Replay(tmp_path)
    assert store.views == 3
    for epoch in range(7):
        loader = Loader(data, 5, shuffle=True, seed=99, augment=augment, views=3)
        for batch in loader.epoch(epoch):
            live = Oracle().knowledge(batch, ["logits"])["logits"]
            assert torch.equal(replay.knowledge(batch)["logits"], live)
    mixed = torch.arange(N) % 3
    rows = store.rows(data.ids, mixed, ("logits",))["logits"]
    each = torch.stack([expected(data, view, augment) for view in range(3)])
    assert torch.equal(rows, each[mixed, torch.arange(N)])
    assert torch.equal(store.rows(data.ids, mixed + 3, ("logits",))["logits"], rows)


def test_names_in_any_order(tmp_path: Path) -> None:
    """Rows would be counted where samples are named."""
    ids = torch.tensor([7, -3, 10**12, 500, 0, 41, 12, 13, 9, 8, 100])
    data = samples(len(ids), ids)
    store = write(tmp_path / "a", Oracle(), data, codec="full", **SMALL)
    asked = ids[[2, 2, 0, 10, 1]]
    found = store.rows(asked, torch.zeros(5, dtype=torch.int64), ("logits",))["logits"]
    assert torch.equal(found, expected(data)[[2, 2, 0, 10, 1]])
    turned = write(tmp_path / "b", Oracle(), data.subset(torch.randperm(11)), codec="full", **SMALL)
    assert contents(turned.path) == contents(store.path)


def test_a_data_set_with_random_transforms(tmp_path: Path) -> None:
    """Stored answers would be replayed against new random crops."""

    class Cropped(Dataset):
        def __len__(self) -> int:
            return N

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return torch.roll(pictures()[index], int(torch.randint(4, ())), 2), index % 3

    data = Items.of(Cropped())
    write(tmp_path, Oracle(), data, views=2, codec="full", **SMALL)
    replay = Replay(tmp_path)
    for epoch in range(3):
        for batch in Loader(data, 5, shuffle=True, seed=4, views=2).epoch(epoch):
            live = Oracle().knowledge(batch, ["logits"])["logits"]
            assert torch.equal(replay.knowledge(batch)["logits"], live)


@pytest.mark.parametrize("bad", [[N], [-1], [3, 4, 999]])
def test_an_unknown_sample(tmp_path: Path, bad: list[int]) -> None:
    """The nearest sample's answer would be given."""
    store = write(tmp_path, Oracle(), samples(), **SMALL)
    ids = torch.tensor(bad)
    with pytest.raises(InputError, match=f"sample {max(bad, key=abs)} is not in the store"):
        store.rows(ids, torch.zeros_like(ids), ("logits",))


def test_an_unknown_tap(tmp_path: Path) -> None:
    """A KeyError would not say what there is."""
    store = write(tmp_path, Oracle(), samples(), **SMALL)
    with pytest.raises(InputError, match=r"does not hold 'layer2'.*one of logits"):
        store.rows(torch.tensor([1]), torch.tensor([0]), ("logits", "layer2"))


def test_a_teacher_that_is_a_module(tmp_path: Path) -> None:
    """What is replayed must be what the module says, tapped layers included."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
    teacher, data = lb.Teacher(model), samples()
    write(tmp_path, teacher, data, taps=["logits", "1"], codec="full", **SMALL)
    for batch in Loader(data, 6, shuffle=True):
        live = teacher.knowledge(batch, ["logits", "1"])
        replayed = Replay(tmp_path).knowledge(batch, ["logits", "1"])
        for tap in ("logits", "1"):
            assert torch.allclose(live[tap], replayed[tap], atol=1e-6)


class Reading(Dataset):
    def __init__(self, store: Store) -> None:
        self.store = store

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Tensor:
        found = self.store.rows(torch.tensor([index]), torch.tensor([0]), ("logits",))["logits"]
        return found[0]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than there are cores
@pytest.mark.parametrize("opened", ["before", "used before"])
def test_reading_in_workers(tmp_path: Path, opened: str) -> None:
    """A memory map shared by workers would give one the place of another."""
    data = samples()
    store = write(tmp_path, Oracle(), data, codec="full", **SMALL)
    if opened == "used before":
        store.rows(data.ids, torch.zeros_like(data.ids), ("logits",))
    loader = DataLoader(Reading(store), batch_size=6, num_workers=2)
    assert torch.equal(torch.cat(list(loader)), expected(data))


def test_an_unknown_codec(tmp_path: Path) -> None:
    """It would be found out after the teacher has run."""
    with pytest.raises(InputError, match="did you mean 'half'"):
        write(tmp_path, Oracle(fails_at=0), samples(), codec="halff")


# -- interruptions


@pytest.mark.parametrize("at", [0, 1, 2, 5, 8, 11])
def test_resumed_after_a_failure(tmp_path: Path, at: int) -> None:
    """A resumed store would differ from an uninterrupted one, or begin anew."""
    augment = Augmentation((Crop(2),))
    options = {"views": 2, "augment": augment, "taps": ["logits", "layer2"], **SMALL}
    write(tmp_path / "whole", Oracle(), samples(), **options)
    path = tmp_path / "cut"
    with pytest.raises(ConnectionError):
        write(path, Oracle(fails_at=at), samples(), **options)
    with pytest.raises(InputError, match="unfinished"):
        Store.open(path)
    again = Oracle()
    write(path, again, samples(), **options)
    assert contents(path) == contents(tmp_path / "whole")
    assert again.batches == 12 - at // 2 * 2  # whole shards of two batches are kept


_KILLED = """
import os, signal, sys
sys.path[:0] = {path!r}
from tests.knowledge.stored import *
class Killed(Oracle):
    def knowledge(self, batch, taps):
        if self.batches == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().knowledge(batch, taps)
write({folder!r}, Killed(), samples(), views=2, **SMALL)
"""


def test_resumed_after_a_kill(tmp_path: Path) -> None:
    """A killed process cleans up nothing: half a shard would be taken for a whole one."""
    write(tmp_path / "whole", Oracle(), samples(), views=2, **SMALL)
    path = tmp_path / "cut"
    code = _KILLED.format(path=sys.path, folder=str(path))
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    (path / ".00-0000-00002.safetensors.12345.draft").write_bytes(b"half a shard")
    before = set(contents(path))
    assert "index.json" not in before
    again = Oracle()
    write(path, again, samples(), views=2, **SMALL)
    assert contents(path) == contents(tmp_path / "whole")
    assert again.batches < 12


def test_a_finished_store_is_left_alone(tmp_path: Path) -> None:
    """The teacher would run again for nothing."""
    write(tmp_path, Oracle(), samples(), **SMALL)
    before = contents(tmp_path)
    store = write(tmp_path, Oracle(fails_at=0), samples(), **SMALL)
    assert contents(tmp_path) == before
    assert len(store) == N


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "teacher": ({"teacher": Oracle("another")}, "teacher"),
    "data": ({"data": Arrays.of(inputs=pictures() + 1, targets=torch.arange(N) % 3)}, "data"),
    "augmentation": ({"augment": Augmentation((Crop(1),), seed=1)}, "augmentation"),
    "its seed": ({"augment": Augmentation((Crop(2),), seed=5)}, "augmentation"),
    "codec": ({"codec": "full"}, "codec"),
    "taps": ({"taps": ["layer2"]}, "taps"),
    "views": ({"views": 3}, "views"),
    "samples": ({"data": samples(N - 1)}, "samples"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("finished", [True, False])
def test_another_store_in_the_same_folder(tmp_path: Path, change: str, finished: bool) -> None:
    """Old and new knowledge would be mixed in one store."""
    plain = {"augment": Augmentation((Crop(2),), seed=1), "views": 2, **SMALL}
    if finished:
        write(tmp_path, Oracle(), samples(), **plain)
    else:
        with pytest.raises(ConnectionError):
            write(tmp_path, Oracle(fails_at=3), samples(), **plain)
    before = contents(tmp_path)
    changed, told = CHANGES[change]
    options = plain | {k: v for k, v in changed.items() if k not in ("teacher", "data")}
    with pytest.raises(InputError, match=f"with another .*{told}"):
        write(tmp_path, changed.get("teacher", Oracle()), changed.get("data", samples()), **options)
    assert contents(tmp_path) == before


def test_shards_without_an_index(tmp_path: Path) -> None:
    """A store whose index was deleted would be taken for one that is to be finished."""
    write(tmp_path, Oracle("old"), samples(), **SMALL)
    (tmp_path / "index.json").unlink()
    with pytest.raises(InputError, match="nothing that says what it is of"):
        write(tmp_path, Oracle("new"), samples(), **SMALL)


def test_names_given_twice(tmp_path: Path) -> None:
    """Of two samples with one name, one would be given the other's answer."""
    with pytest.raises(InputError, match="two samples have the id 5"):
        write(tmp_path, Oracle(), samples(3, torch.tensor([5, 1, 5])), **SMALL)


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("size", [4, 8, 100])
def test_progress(tmp_path: Path, views: int, size: int) -> None:
    """A bar would run past its end, or backwards."""
    seen: list[tuple[int, int]] = []
    note: Callable[[int, int], None] = lambda done, total: seen.append((done, total))  # noqa: E731
    options = {"batch_size": 4, "rows_per_shard": size, "views": views}
    write(tmp_path, Oracle(), samples(), progress=note, **options)
    done = [d for d, _ in seen]
    assert {total for _, total in seen} == {N * views}
    assert done == sorted(set(done))
    assert done[-1] == N * views
    assert [d for d in done if d % N == 0] == [N * (v + 1) for v in range(views)]


# -- several writers


@pytest.mark.parametrize("world", [2, 3, 8])
def test_several_writers(tmp_path: Path, world: int) -> None:
    """Each writer's batches would be cut differently, so that rounding differs."""
    options = {"views": 2, "augment": Augmentation((Crop(2),)), **SMALL}
    write(tmp_path / "one", Oracle(), samples(), **options)
    barrier, errors = threading.Barrier(world), []

    def writer(rank: int) -> None:
        try:
            part = {"rank": rank, "world": world, "barrier": barrier.wait}
            store = write(tmp_path / "many", Oracle(), samples(), **part, **options)
            assert len(store) == N
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=writer, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not errors
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


@pytest.mark.parametrize("kind", ["half", "int8", "top1"])
def test_a_teacher_may_run_in_half_precision(kind: str, tmp_path: Path) -> None:
    """Autocast reached what joins and encodes the rows: it failed, or rounded them twice."""
    data = samples()
    with torch.autocast("cpu", torch.bfloat16):
        inside = write(tmp_path / "a", Oracle(), data, codec=kind, **SMALL)
    outside = write(tmp_path / "b", Oracle(), data, codec=kind, **SMALL)
    assert contents(inside.path) == contents(outside.path)
