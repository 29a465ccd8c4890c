"""A store that stands elsewhere is written, read and checked as one that stands here."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from torch.utils.data import DataLoader

from limbeck import Teacher
from limbeck.data import Loader
from limbeck.errors import InputError
from limbeck.knowledge import Store, write
from limbeck.knowledge.folders import Local, Remote, folder_at
from tests.knowledge.stored import SMALL, N, Oracle, contents, expected, samples
from tests.knowledge.test_store import Reading

IDS = torch.arange(N) * 3  # with gaps, so that there is a file of them
ZEROS = torch.zeros(N, dtype=torch.int64)


class Elsewhere(LocalFileSystem):
    """A file system that counts what is asked of it; its files stand in a folder."""

    protocol = "elsewhere"
    asked: list[tuple[str, str]] = []  # noqa: RUF012
    root = ""

    @classmethod
    def _strip_protocol(cls, path: Any, remove_trailing_slash: bool = False) -> str:
        text = str(path).removeprefix("elsewhere://")
        return text if text.startswith("/") else f"{cls.root}/{text}"

    def get_file(self, rpath: str, lpath: str, **options: Any) -> None:
        self.asked.append(("get", rpath.rpartition("/")[2]))
        super().get_file(rpath, lpath, **options)

    def info(self, path: str, **options: Any) -> Any:
        self.asked.append(("info", Path(path).name))
        return super().info(path, **options)


@pytest.fixture(params=["memory", "elsewhere"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder of its own on a file system of fsspec's."""
    fsspec.register_implementation("elsewhere", Elsewhere, clobber=True)
    Elsewhere.root = str(tmp_path / "far")
    Elsewhere.asked.clear()
    Elsewhere.clear_instance_cache()
    found = f"{request.param}://{uuid.uuid4().hex}/store"
    yield found
    system, root = fsspec.core.url_to_fs(found)
    if system.exists(root):
        system.rm(root, recursive=True)


def there(url: str) -> dict[str, bytes]:
    system, root = fsspec.core.url_to_fs(url)
    return {path.rpartition("/")[2]: system.cat_file(path) for path in system.ls(root, False)}


def test_the_same_files_as_here(url: str, tmp_path: Path) -> None:
    """A store copied from one place to the other would be another one."""
    options = {"views": 2, "cache": tmp_path / "cache", **SMALL}
    store = write(url, Oracle(), samples(ids=IDS), **options)
    write(tmp_path / "here", Oracle(), samples(ids=IDS), **options)
    assert there(url) == contents(tmp_path / "here")
    assert store.path == url
    store.verify()
    rows = store.rows(IDS, ZEROS, ("logits",))["logits"]
    assert torch.equal(rows, expected(samples(ids=IDS)).half().float())


@pytest.mark.parametrize("at", [0, 1, 4, 9])
def test_resumed_elsewhere(url: str, tmp_path: Path, at: int) -> None:
    """What was sent before the interruption would be sent again, or be taken for all."""
    write(tmp_path / "here", Oracle(), samples(), views=2, **SMALL)
    with pytest.raises(ConnectionError):
        write(url, Oracle(fails_at=at), samples(), views=2, **SMALL)
    with pytest.raises(InputError, match="unfinished"):
        Store.open(url)
    again = Oracle()
    write(url, again, samples(), views=2, cache=tmp_path / "cache", **SMALL)
    assert there(url) == contents(tmp_path / "here")
    assert again.batches == 12 - at // 2 * 2


def test_appended_elsewhere(url: str, tmp_path: Path) -> None:
    """Growing a store in a bucket would begin it anew."""
    first, cache = samples().subset(torch.arange(10)), tmp_path / "cache"
    write(url, Oracle(), first, cache=cache, **SMALL)
    teacher = Oracle()
    store = write(url, teacher, samples(), append=True, cache=cache, **SMALL)
    assert (len(store), teacher.batches) == (N, 4)
    rows = store.rows(torch.arange(N), ZEROS, ("logits",))["logits"]
    assert torch.equal(rows, expected(samples()).half().float())


def test_fetched_shard_by_shard(tmp_path: Path, url: str) -> None:
    """Opening a store of a terabyte would fetch it; each epoch would fetch it again."""
    cache = tmp_path / "cache"
    write(url, Oracle(), samples(ids=IDS), cache=tmp_path / "another", **SMALL)
    Elsewhere.asked.clear()
    store = Store.open(url, cache=cache)
    assert not [what for what in Elsewhere.asked if what[1].startswith("0")]
    for _ in range(3):
        store.rows(IDS[8:12], ZEROS[:4], ("logits",))
    counts = url.startswith("elsewhere")
    if counts:
        fetched = [name for what, name in Elsewhere.asked if what == "get"]
        assert sorted(fetched) == ["00-0000-00001.safetensors", "00-ids.safetensors"]
    assert len(list(cache.iterdir())) == 2
    replay = Teacher.replay(url, cache=cache)
    for epoch in range(2):
        for batch in Loader(samples(ids=IDS), 5, shuffle=True).epoch(epoch):
            replay.knowledge(batch)
    assert not counts or [what for what, _ in Elsewhere.asked].count("get") == 4
    kept = sorted(file.stat().st_size for file in cache.iterdir())
    assert kept == sorted(told["bytes"] for told in store.index["files"].values())


@pytest.mark.parametrize("harm", ["cut", "flipped", "gone"])
def test_damage_elsewhere(url: str, tmp_path: Path, harm: str) -> None:
    """Half a download would be mapped as if it were whole, and stay in the cache."""
    write(url, Oracle(), samples(), cache=tmp_path / "cache", **SMALL)
    system, root = fsspec.core.url_to_fs(url)
    name = "00-0000-00001.safetensors"
    content = bytearray(system.cat_file(f"{root}/{name}"))
    content[-1] ^= 1
    if harm == "gone":
        system.rm(f"{root}/{name}")
    else:
        system.pipe_file(f"{root}/{name}", bytes(content[:-9] if harm == "cut" else content))
    store = Store.open(url, cache=tmp_path / "other")
    store.rows(torch.tensor([3]), ZEROS[:1], ("logits",))
    told = f"{name} is missing" if harm == "gone" else f"{name} is not what was written"
    with pytest.raises(InputError, match=told):
        store.rows(torch.tensor([8]), ZEROS[:1], ("logits",))
    with pytest.raises(InputError, match=told):
        store.verify()
    assert len(list((tmp_path / "other").iterdir())) == 1  # the whole one


def test_a_cache_that_was_cut_short(tmp_path: Path, url: str) -> None:
    """A full disk, or a user who tidies up, would break every later run."""
    cache = tmp_path / "cache"
    store = write(url, Oracle(), samples(), cache=cache, **SMALL)
    store.rows(torch.arange(N), ZEROS, ("logits",))
    for file in cache.iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    rows = Store.open(url, cache=cache).rows(torch.arange(N), ZEROS, ("logits",))["logits"]
    assert torch.equal(rows, expected(samples()).half().float())


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than there are cores
def test_readers_elsewhere(url: str, tmp_path: Path) -> None:
    """Workers that fetch the same shard at once would write into one another's file."""
    store = write(url, Oracle(), samples(), cache=tmp_path / "cache", codec="full", **SMALL)
    loader = DataLoader(Reading(store), batch_size=6, num_workers=2)
    assert torch.equal(torch.cat(list(loader)), expected(samples()))


def test_a_changed_store_is_not_read_from_the_cache(tmp_path: Path, url: str) -> None:
    """A store that was written anew under the old name would be mixed with the old one."""
    cache = tmp_path / "cache"
    old = write(url, Oracle(), samples(), cache=cache, **SMALL)
    before = old.rows(torch.arange(N), ZEROS, ("logits",))["logits"]
    system, root = fsspec.core.url_to_fs(url)
    system.rm(root, recursive=True)
    write(url, Oracle(), samples(ids=torch.arange(N) + 8), cache=cache, **SMALL)
    again = Store.open(url, cache=cache)
    after = again.rows(torch.arange(N) + 8, ZEROS, ("logits",))["logits"]
    assert torch.equal(after, before + 1)


@pytest.mark.parametrize(
    ("path", "local"),
    [
        ("file:///tmp/x/store", "/tmp/x/store"),
        ("/tmp/x/store", "/tmp/x/store"),
        ("x/store", "x/store"),
        (Path("x/store"), "x/store"),
    ],
)
def test_local_paths(path: str | Path, local: str) -> None:
    """A file of this machine would be copied into the cache."""
    assert folder_at(path) == Local(Path(local))


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files would pile up where nobody looks for them."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert folder_at("memory://x/") == Remote("memory://x", Path("/somewhere/limbeck/knowledge"))
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert folder_at("memory://x").cache == Path("/home/me/.cache/limbeck/knowledge")


def test_kinds_of_urls_that_there_are_not() -> None:
    """A ValueError from fsspec would not say what to do."""
    with pytest.raises(InputError, match="nope://x cannot be used: Protocol not known"):
        Store.open("nope://x")
    with pytest.raises(InputError, match="memory://nothing is not a knowledge store"):
        Store.open("memory://nothing")
