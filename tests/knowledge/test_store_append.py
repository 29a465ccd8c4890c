"""A finished store grows: by samples, by views, interrupted or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck.data import Arrays, Augmentation, Crop, Loader
from limbeck.errors import InputError
from limbeck.knowledge import Store, write
from limbeck.teachers import Replay
from tests.knowledge.stored import SMALL, N, Oracle, contents, expected, pictures, samples

AUGMENT = Augmentation((Crop(2),), seed=1)


def part(*rows: int) -> Arrays:
    return samples().subset(torch.arange(*rows))


def assert_whole(path: Path, data: Arrays, views: int = 1, **options: Any) -> None:
    store = Store.open(path)
    store.verify()
    assert (len(store), store.views) == (len(data), views)
    replay = Replay(path)
    for view in range(views):
        for batch in Loader(data, 5, shuffle=True, views=views, **options).epoch(view):
            live = Oracle().knowledge(batch, ["logits"])["logits"].half().float()
            assert torch.equal(replay.knowledge(batch)["logits"], live)


@pytest.mark.parametrize("given", ["all samples", "the new ones"])
def test_more_samples(tmp_path: Path, given: str) -> None:
    """The teacher would be asked again about what it has said, or old rows would be lost."""
    write(tmp_path, Oracle(), part(0, 13), views=2, augment=AUGMENT, **SMALL)
    old = contents(tmp_path)
    data = samples() if given == "all samples" else part(13, N)
    teacher = Oracle()
    write(tmp_path, teacher, data, views=2, augment=AUGMENT, append=True, **SMALL)
    assert teacher.batches == 2 * 3  # 10 samples in batches of 4, in two views
    now = contents(tmp_path)
    assert all(now[name] == old[name] for name in old if name != "index.json")
    assert_whole(tmp_path, samples(), 2, augment=AUGMENT)


def test_ids_between_the_old_ones(tmp_path: Path) -> None:
    """New ids would be looked for only behind the old ones."""
    write(tmp_path, Oracle(), samples().subset(torch.arange(0, N, 3)), **SMALL)
    write(tmp_path, Oracle(), samples(), append=True, **SMALL)
    assert_whole(tmp_path, samples())
    with pytest.raises(InputError, match=f"sample {N} is not in the store"):
        Store.open(tmp_path).rows(torch.tensor([1, N]), torch.tensor([0, 0]), ("logits",))


def test_many_times(tmp_path: Path) -> None:
    """Only the first two writings would be found."""
    for end in (4, 9, 10, 17, N):
        write(tmp_path, Oracle(), part(0, end), append=True, **SMALL)
        assert_whole(tmp_path, part(0, end))
    assert len(Store.open(tmp_path).index["segments"]) == 5


def test_more_views(tmp_path: Path) -> None:
    """More epochs need more views: all would be written again."""
    options = {"augment": AUGMENT, **SMALL}
    write(tmp_path / "a", Oracle(), part(0, 13), views=2, **options)
    write(tmp_path / "a", Oracle(), samples(), views=2, append=True, **options)
    teacher = Oracle()
    write(tmp_path / "a", teacher, samples(), views=5, append=True, **options)
    assert teacher.batches == 3 * (4 + 3)
    assert_whole(tmp_path / "a", samples(), 5, augment=AUGMENT)
    write(tmp_path / "b", Oracle(), samples(), views=2, **options)
    write(tmp_path / "b", Oracle(), samples(), views=5, append=True, **options)
    write(tmp_path / "c", Oracle(), samples(), views=5, **options)
    assert contents(tmp_path / "b") == contents(tmp_path / "c")


def test_more_of_both(tmp_path: Path) -> None:
    """New samples would have fewer views than old ones, or the other way round."""
    write(tmp_path, Oracle(), part(0, 13), views=1, augment=AUGMENT, **SMALL)
    write(tmp_path, Oracle(), samples(), views=3, augment=AUGMENT, append=True, **SMALL)
    assert_whole(tmp_path, samples(), 3, augment=AUGMENT)


def test_nothing_new(tmp_path: Path) -> None:
    """A script that is run again would write the store again."""
    write(tmp_path, Oracle(), samples(), append=True, **SMALL)
    before = contents(tmp_path)
    write(tmp_path, Oracle(fails_at=0), samples(), append=True, **SMALL)
    write(tmp_path, Oracle(fails_at=0), samples(), **SMALL)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("at", range(0, 9, 2))
def test_interrupted(tmp_path: Path, at: int) -> None:
    """The old knowledge would be lost with the new."""
    options = {"augment": AUGMENT, **SMALL}
    for name in ("whole", "cut"):
        write(tmp_path / name, Oracle(), part(0, 13), views=1, **options)
    write(tmp_path / "whole", Oracle(), samples(), views=2, append=True, **options)
    more = {"views": 2, "append": True, **options}
    with pytest.raises(ConnectionError):
        write(tmp_path / "cut", Oracle(fails_at=at), samples(), **more)
    assert_whole(tmp_path / "cut", part(0, 13), 1, augment=AUGMENT)  # as it was
    again = write(tmp_path / "cut", Oracle(fails_at=0), part(0, 13), views=1, **options)
    assert len(again) == 13
    with pytest.raises(InputError, match=r"with another .*samples"):
        write(tmp_path / "cut", Oracle(), part(0, 20), views=2, append=True, **options)
    write(tmp_path / "cut", Oracle(), samples(), views=2, append=True, **options)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "others under the same ids": (
        {"data": Arrays.of(inputs=1 - pictures(), targets=torch.arange(N) % 3)},
        "other samples under ids .* another|other samples under ids .*ids of their own",
    ),
    "some of the old": ({"data": part(5, N)}, "8 samples under ids .* for 13 samples"),
    "fewer views": ({"views": 1}, "1 views to append .* has 2 of each"),
    "more views without the old": (
        {"views": 3, "data": part(13, N)},
        "all its samples, to add views",
    ),
    "teacher": ({"teacher": Oracle("another")}, "with another teacher"),
    "codec": ({"codec": "full"}, "with another codec"),
    "taps": ({"taps": ["layer2"]}, "with another taps"),
    "augmentation": ({"augment": None}, "with another augmentation"),
}


@pytest.mark.parametrize("change", REFUSED)
def test_what_does_not_belong(tmp_path: Path, change: str) -> None:
    """Knowledge of two kinds would be mixed in one store."""
    write(tmp_path, Oracle(), part(0, 13), views=2, augment=AUGMENT, **SMALL)
    before = contents(tmp_path)
    changed, told = REFUSED[change]
    options = {"views": 2, "augment": AUGMENT, **SMALL, **changed}
    teacher, data = options.pop("teacher", Oracle()), options.pop("data", samples())
    with pytest.raises(InputError, match=told):
        write(tmp_path, teacher, data, append=True, **options)
    assert contents(tmp_path) == before


def test_growing_is_offered(tmp_path: Path) -> None:
    """A user with more data would delete the store and begin anew."""
    write(tmp_path, Oracle(), part(0, 13), **SMALL)
    with pytest.raises(InputError, match="add samples or views to it: append=True"):
        write(tmp_path, Oracle(), samples(), **SMALL)


def test_ids_take_few_bytes(tmp_path: Path) -> None:
    """Eight bytes of a name for each sample would be a tenth of the store."""
    for name, ids, files, width in (
        ("run", torch.arange(N) + 10**12, 0, 0),
        ("byte", torch.arange(N) * 2, 1, 1),
        ("short", torch.arange(N) * 100, 1, 2),
        ("int", torch.arange(N) * 10**5, 1, 4),
        ("long", torch.arange(N) * 10**10, 1, 8),
    ):
        data = samples(ids=ids)
        store = write(tmp_path / name, Oracle(), data, codec="full", **SMALL)
        found = list((tmp_path / name).glob("*-ids.safetensors"))
        assert len(found) == files
        if files:
            assert store.ids[0].table.dtype.itemsize == width
        rows = store.rows(ids.flip(0), torch.zeros(N, dtype=torch.int64), ("logits",))["logits"]
        assert torch.equal(rows, expected(data).flip(0))
        far = torch.tensor([int(ids[0]) + 2**8, int(ids[0]) + 2**16, -(2**40), 2**62])
        for one in far.tolist():
            with pytest.raises(InputError, match=f"sample {one} is not"):
                store.rows(torch.tensor([one]), torch.tensor([0]), ("logits",))
