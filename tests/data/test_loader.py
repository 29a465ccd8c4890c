"""The loader: the same batches whatever the number of processes, wherever one starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from limbeck.data import Arrays, Augmentation, Crop, Flip, Items, Loader
from limbeck.data.loader import as_float


def numbers(count: int) -> Arrays:
    return Arrays.of(inputs=torch.arange(float(count)), targets=torch.arange(count) % 2)


class Range(Dataset):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[float, int]:
        return float(index), index % 2


class Drawn(Range):
    """Items with a random transform inside."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.rand(2), index


def ids(batches: Iterator[Any]) -> list[list[int]]:
    return [batch["id"].tolist() for batch in batches]


def flat(loader: Loader, epoch: int) -> list[int]:
    return [i for batch in ids(loader.epoch(epoch)) for i in batch]


@pytest.mark.parametrize("kind", [Arrays, Items])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_processes_share_out_each_batch(world: int, shuffle: bool, kind: type) -> None:
    """Samples would be seen twice or never, and training depend on the number of machines."""
    data = numbers(29) if kind is Arrays else Items.of(Range(29))
    options = {"batch_size": 12, "shuffle": shuffle, "seed": 3}
    whole = ids(Loader(data, **options).epoch(2))
    parts = [ids(Loader(data, **options, rank=r, world=world).epoch(2)) for r in range(world)]
    assert {len(part) for part in parts} == {len(whole)}  # else some would wait for ever
    for step, batch in enumerate(whole):
        assert [i for part in parts for i in part[step]] == batch
        sizes = [len(part[step]) for part in parts]
        assert max(sizes) - min(sizes) <= (0 if shuffle else 1)


@pytest.mark.parametrize("kind", [Arrays, Items])
def test_fewer_samples_than_processes(kind: type) -> None:
    """The last batch of a validation set can leave a process with nothing."""
    data = numbers(5) if kind is Arrays else Items.of(Range(5))
    parts = [list(Loader(data, 4, rank=r, world=3).epoch(0)) for r in range(3)]
    assert [batch[-1]["id"].tolist() for batch in parts] == [[4], [], []]
    assert all(len(batch[-1]["inputs"]) == len(batch[-1]["id"]) for batch in parts)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("start", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", [Arrays, Items])
def test_resumes_in_the_middle(kind: type, start: int, shuffle: bool) -> None:
    """A resumed run would see some samples twice, or under other transforms."""
    data = numbers(20) if kind is Arrays else Items.of(Drawn(20))
    loader = Loader(data, 6, shuffle=shuffle, seed=1)
    whole, rest = list(loader.epoch(4)), list(loader.epoch(4, start=start))
    assert len(rest) == max(0, len(whole) - start)
    for one, other in zip(whole[start:], rest, strict=True):
        assert all(torch.equal(one[field], other[field]) for field in one)


@pytest.mark.parametrize(
    ("count", "size", "shuffle", "expected"),
    [
        (10, 4, True, [4, 4]),
        (10, 4, False, [4, 4, 2]),
        (8, 4, True, [4, 4]),
        (8, 4, False, [4, 4]),
        (3, 4, True, [3]),
        (3, 4, False, [3]),
        (1, 1, True, [1]),
    ],
)
def test_the_last_batch(count: int, size: int, shuffle: bool, expected: list[int]) -> None:
    """Batch norm would see a batch of one; a validation set would lose samples."""
    loader = Loader(numbers(count), size, shuffle=shuffle)
    assert [len(batch["id"]) for batch in loader.epoch(0)] == expected
    assert loader.steps == len(loader) == len(expected)


def test_a_shuffled_epoch_sees_each_sample_at_most_once() -> None:
    """Sampling with replacement looks like shuffling."""
    seen = flat(Loader(numbers(101), 10, shuffle=True), 0)
    assert len(set(seen)) == len(seen) == 100


def test_dropped_samples_change_with_the_epoch() -> None:
    """The same few samples would never be learnt from."""
    loader = Loader(numbers(11), 10, shuffle=True)
    missed = [set(range(11)) - set(flat(loader, epoch)) for epoch in range(40)]
    assert len(set().union(*missed)) > 5


def test_shuffles_depend_on_seed_and_epoch_alone() -> None:
    """Runs would not repeat, or every epoch would."""

    def order(seed: int, epoch: int) -> tuple[int, ...]:
        loader = Loader(numbers(50), 10, shuffle=True, seed=seed)
        return tuple(flat(loader, epoch))

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len(set(orders)) == 6
    torch.manual_seed(99)
    assert order(0, 1) == orders[1]
    assert order(0, 0) != tuple(range(50))


def test_in_order() -> None:
    """Validation would be shuffled."""
    assert ids(iter(Loader(numbers(7), 3))) == [[0, 1, 2], [3, 4, 5], [6]]
    assert ids(Loader(numbers(4), 2).epoch(5)) == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("views", "expected"), [(0, [0, 1, 2, 3, 4]), (1, [0] * 5), (2, [0, 1, 0, 1, 0])]
)
def test_views_cycle(views: int, expected: list[int]) -> None:
    """A store of two views would be asked for a third."""
    loader = Loader(numbers(4), 4, shuffle=True, views=views)
    seen = [next(loader.epoch(epoch))["view"].unique().tolist() for epoch in range(5)]
    assert seen == [[view] for view in expected]


def test_views_repeat_the_same_pictures() -> None:
    """With two views, epoch 3 must show what epoch 1 showed, in another order."""
    images = torch.randint(0, 255, (8, 3, 10, 10), dtype=torch.uint8)
    augment = Augmentation((Crop(2), Flip()), seed=1)
    data = Arrays.of(inputs=images, targets=torch.arange(8))
    loader = Loader(data, 8, shuffle=True, augment=augment, views=2)

    def epoch(number: int) -> torch.Tensor:
        [batch] = loader.epoch(number)
        return batch["inputs"][batch["id"].argsort()]

    assert torch.equal(epoch(1), epoch(3))
    assert not torch.equal(epoch(0), epoch(1))


def test_the_order_does_not_change_the_pictures() -> None:
    """A store is written in order and read while shuffling with a run's own seed."""
    images = torch.randint(0, 255, (9, 1, 6, 6), dtype=torch.uint8)
    data, augment = Arrays.of(inputs=images, targets=torch.arange(9)), Augmentation((Crop(2),), 7)
    [plain] = Loader(data, 9, augment=augment, views=1).epoch(0)
    for batch in Loader(data, 4, shuffle=True, seed=123, augment=augment, views=1).epoch(5):
        assert torch.equal(batch["inputs"], plain["inputs"][batch["id"]])


@pytest.mark.parametrize("augment", [None, Augmentation(seed=7)])
def test_transforms_inside_the_data_set_do_not_follow_the_seed_of_the_order(
    augment: Augmentation | None,
) -> None:
    """The student would see other crops than those for which the store holds answers."""
    data = Items.of(Drawn(6))
    [written] = Loader(data, 6, augment=augment, views=1).epoch(0)
    [read] = Loader(data, 6, shuffle=True, seed=42, augment=augment, views=1).epoch(3)
    assert torch.equal(read["inputs"], written["inputs"][read["id"]])
    [fresh] = Loader(data, 6, shuffle=True, seed=42, augment=augment).epoch(3)
    assert not torch.equal(fresh["inputs"], written["inputs"][fresh["id"]])


def test_pictures_arrive_as_floats() -> None:
    """Models would be fed 0 to 255."""
    images = torch.tensor([[0, 255], [51, 102]], dtype=torch.uint8)
    data = Arrays.of(inputs={"image": images, "depth": images.float()}, targets=torch.arange(2))
    [batch] = Loader(data, 2)
    assert torch.allclose(batch["inputs"]["image"], images / 255)
    assert torch.equal(batch["inputs"]["depth"], images.float())
    assert images.dtype == torch.uint8


def test_as_float_leaves_labels_and_whole_numbers() -> None:
    """Class 3 would become 3/255."""
    batch = {"inputs": torch.tensor([2]), "targets": torch.tensor([3], dtype=torch.uint8), "n": 1}
    found = as_float(batch)
    assert found["targets"].tolist() == [3]
    assert found["inputs"].dtype == torch.int64
    assert found["n"] == 1


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (0, {"batch_size": 2}),
        (4, {"batch_size": 0}),
        (4, {"batch_size": -1}),
        (10, {"batch_size": 5, "shuffle": True, "world": 2}),
        (3, {"batch_size": 8, "shuffle": True, "world": 2}),
    ],
)
def test_refused_at_once(count: int, options: dict[str, Any]) -> None:
    """Processes would get parts of unequal size and their mean would not be the batch's."""
    with pytest.raises(ValueError, match="batches of"):
        Loader(numbers(count), **options)


def test_processes_augment_alike() -> None:
    """The picture of a sample would depend on the process that reads it."""
    images = torch.randint(0, 255, (8, 3, 8, 8), dtype=torch.uint8)
    data, augment = Arrays.of(inputs=images, targets=torch.arange(8)), Augmentation((Crop(2),))
    options: dict[str, Any] = {"batch_size": 4, "shuffle": True, "augment": augment}
    for step, whole in enumerate(Loader(data, **options).epoch(1)):
        parts = [list(Loader(data, **options, rank=r, world=2).epoch(1))[step] for r in range(2)]
        assert torch.equal(torch.cat([part["inputs"] for part in parts]), whole["inputs"])
