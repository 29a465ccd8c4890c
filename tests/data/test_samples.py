"""Sets of samples: whatever form they come in, a sample keeps its name and its contents."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from limbeck.data import Arrays, Items, Loader, Samples, as_samples
from limbeck.data.samples import as_batch, pixels, seeded


class Noisy(Dataset):
    """Yields a sample's number with noise from all three generators."""

    def __init__(self, count: int = 7) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        noise = [float(torch.rand(())), np.random.random(), random.random()]
        return torch.tensor([index, *noise], dtype=torch.float64), index % 3


class Pictured(Dataset):
    """Yields mappings with a Pillow image."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        image = Image.new("RGB", (5, 3), (index, 20, 30))
        return {"image": image, "label": index, "weight": 0.5}


def read(samples: Samples, rows: list[list[int]], view: int = 0, seed: int = 0) -> list[dict]:
    return list(samples.batches([torch.tensor(part) for part in rows], view, seed))


# -- Arrays


def test_arrays_give_the_rows_asked_for() -> None:
    """Labels would belong to other pictures."""
    data = Arrays.of(
        inputs={"a": torch.arange(6.0), "b": torch.arange(12).view(6, 2)},
        targets=torch.arange(6) * 10,
    )
    [first, second] = read(data, [[4, 1], [0]], view=3)
    assert first["inputs"]["a"].tolist() == [4, 1]
    assert first["inputs"]["b"].tolist() == [[8, 9], [2, 3]]
    assert first["targets"].tolist() == [40, 10]
    assert first["id"].tolist() == [4, 1]
    assert first["view"].tolist() == [3, 3]
    assert second["targets"].tolist() == [0]


@pytest.mark.parametrize("rows", [[5, 0, 3], [], [2]])
def test_a_subset_keeps_its_names(rows: list[int]) -> None:
    """Knowledge is found by id: renumbered subsets would get others' answers."""
    data = Arrays.of(torch.arange(6) + 100, inputs=torch.arange(6.0))
    part = data.subset(torch.tensor(rows, dtype=torch.int64))
    assert part.ids.tolist() == [row + 100 for row in rows]
    assert part.column("inputs").tolist() == rows
    again = part.subset(torch.arange(len(rows)).flip(0))
    assert again.ids.tolist() == part.ids.tolist()[::-1]


@pytest.mark.parametrize(
    "fields",
    [
        {"inputs": torch.zeros(3), "targets": torch.zeros(4)},
        {"inputs": {"a": torch.zeros(3), "b": torch.zeros(2)}},
        {"inputs": torch.zeros(3), "targets": [0, 1, 2]},
        {"inputs": torch.zeros(())},
        {},
    ],
)
def test_arrays_of_unequal_length(fields: dict[str, Any]) -> None:
    """The last samples would have no label; reading them would fail much later."""
    with pytest.raises(ValueError, match="equally long"):
        Arrays.of(**fields)


def test_arrays_with_too_few_names() -> None:
    """Samples beyond the last id would never be seen."""
    with pytest.raises(ValueError, match="equally long"):
        Arrays.of(torch.arange(3), inputs=torch.zeros(4))


def test_fingerprint_of_arrays() -> None:
    """Old knowledge would be replayed for changed pictures."""
    base = {"inputs": torch.arange(8.0).view(4, 2), "targets": torch.arange(4)}
    same = Arrays.of(**{name: value.clone() for name, value in base.items()})
    others = [
        Arrays.of(**base | {"inputs": base["inputs"].clone().index_fill_(0, torch.tensor(3), 9)}),
        Arrays.of(**base | {"inputs": base["inputs"].double()}),
        Arrays.of(**base | {"inputs": base["inputs"].view(4, 1, 2)}),
        Arrays.of(**base | {"targets": base["targets"].flip(0)}),
        Arrays.of(torch.arange(4) + 1, **base),
        Arrays.of(inputs={"a": base["inputs"]}, targets=base["targets"]),
    ]
    prints = [data.fingerprint() for data in (Arrays.of(**base), *others)]
    assert len(set(prints)) == len(prints)
    assert same.fingerprint() == prints[0]
    strided = base["inputs"].t().contiguous().t()
    assert Arrays.of(**base | {"inputs": strided}).fingerprint() == prints[0]


# -- Items


@pytest.mark.parametrize("workers", [0, 2])
def test_items_are_reproducible(workers: int) -> None:
    """A random transform would show the teacher one crop and the student another."""
    data = Items.of(Noisy(), workers=workers)
    [whole] = read(data, [list(range(7))], view=2, seed=5)
    parts = read(data, [[6, 0], [3]], view=2, seed=5)
    assert torch.equal(parts[0]["inputs"], whole["inputs"][[6, 0]])
    assert torch.equal(parts[1]["inputs"], whole["inputs"][[3]])
    assert parts[0]["id"].tolist() == [6, 0]
    assert parts[0]["targets"].tolist() == [0, 0]
    assert parts[0]["view"].tolist() == [2, 2]
    assert torch.equal(
        whole["inputs"], read(Items.of(Noisy()), [list(range(7))], 2, 5)[0]["inputs"]
    )


@pytest.mark.parametrize(("view", "seed"), [(1, 0), (0, 1), (500, 3)])
def test_items_change_with_view_and_seed(view: int, seed: int) -> None:
    """Every epoch would show the same transform, from all three generators."""
    base, other = (read(Items.of(Noisy()), [[0, 1, 2]], *at)[0] for at in ((0, 0), (view, seed)))
    assert (base["inputs"][:, 1:] != other["inputs"][:, 1:]).all()
    assert len(other["inputs"][:, 1:].unique()) == 9  # nor are samples or generators alike


@pytest.mark.parametrize("workers", [0, 2])
def test_items_leave_the_global_generators_alone(workers: int) -> None:
    """Reading data would disturb dropout; training would depend on the number of workers."""
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    data = Items.of(Noisy(), workers=workers)
    read(data, [[0, 1], [2]])
    data.fingerprint()
    data.column("targets")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


def test_seeded_puts_back_after_an_error() -> None:
    """A corrupt sample would leave the generators in its own state."""
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), seeded(3):
        1 / 0  # noqa: B018
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_items_with_a_part_of_no_rows(workers: int) -> None:
    """The last, short batch leaves some processes without samples."""
    [full, empty] = read(Items.of(Noisy(), workers=workers), [[5], []])
    assert full["inputs"].shape == (1, 4)
    assert empty["inputs"].shape == (0, 4)
    assert empty["inputs"].dtype == full["inputs"].dtype
    assert [len(empty[field]) for field in ("targets", "id", "view")] == [0, 0, 0]


def test_items_of_pictures_in_mappings() -> None:
    """A Hugging Face data set yields Pillow images under its own names."""
    data = Items.of(Pictured(), inputs="image", targets="label")
    [batch] = read(data, [[2, 0]])
    assert batch["inputs"].shape == (2, 3, 3, 5)
    assert batch["inputs"].dtype == torch.uint8
    assert batch["inputs"][0, :, 0, 0].tolist() == [2, 20, 30]
    assert batch["targets"].tolist() == [2, 0]
    assert batch["weight"].tolist() == [0.5, 0.5]


def test_items_subsets_and_columns() -> None:
    """Known labels would be those of the rows, not of the samples."""
    known = {"targets": torch.arange(7) * 10}
    part = Items.of(Noisy(), known=known).subset(torch.tensor([6, 2]))
    assert part.ids.tolist() == [6, 2]
    assert part.column("targets").tolist() == [60, 20]
    assert part.column("inputs")[:, 0].tolist() == [6, 2]
    assert Items.of(Noisy()).subset(torch.tensor([6, 2])).column("targets").tolist() == [0, 2]


def test_fingerprint_of_items() -> None:
    """Another source of the same length would pass for this one."""
    data = Items.of(Noisy(), name="a")
    prints = [
        data.fingerprint(),
        Items.of(Noisy(), name="b").fingerprint(),
        Items.of(Noisy(8), name="a").fingerprint(),
        data.subset(torch.tensor([1, 0, 2, 3, 4, 5, 6])).fingerprint(),
    ]
    assert len(set(prints)) == 4
    assert data.fingerprint() == prints[0]


class Texts(Dataset):
    """Yields a field that is no tensor."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return {"inputs": float(index), "targets": index, "text": self.text}


def test_items_with_texts() -> None:
    """A field that no model sees would stop the set from being used at all."""
    data = Items.of(Texts("a"))
    assert read(data, [[1, 2]])[0]["text"] == ["a", "a"]
    assert data.fingerprint() == Items.of(Texts("a")).fingerprint()
    assert data.fingerprint() != Items.of(Texts("b")).fingerprint()


@pytest.mark.parametrize("data", [Arrays.of(targets=torch.zeros(3)), Items.of(Texts("a"))])
def test_an_unknown_column(data: Samples) -> None:
    """A KeyError would not say what there is."""
    with pytest.raises(ValueError, match="'target' is not known; did you mean 'targets'"):
        data.column("target")


def test_items_without_a_length() -> None:
    """A stream has no stable ids."""

    class Stream(Dataset):
        def __getitem__(self, index: int) -> int:
            return index

    with pytest.raises(ValueError, match="without a length"):
        Items.of(Stream())


# -- any form


X, Y = torch.arange(8.0).view(4, 2), torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    "source",
    [
        (X, Y),
        (X.numpy(), Y.numpy()),
        {"inputs": X, "targets": Y},
        {"inputs": X.numpy(), "targets": Y.numpy()},
        TensorDataset(X, Y),
        [(x, y) for x, y in zip(X, Y, strict=True)],
        Arrays.of(inputs=X, targets=Y),
    ],
    ids=lambda source: type(source).__name__,
)
def test_any_form(source: Any) -> None:
    """A form that users have would be refused, or read wrongly."""
    if isinstance(source, list):
        found: list[Any] = source

        class Listed(Dataset):
            def __len__(self) -> int:
                return len(found)

            def __getitem__(self, index: int) -> Any:
                return found[index]

        source = Listed()
    data = as_samples(source)
    assert isinstance(data, Samples)
    [batch] = read(data, [[3, 0]])
    assert torch.equal(batch["inputs"], X[[3, 0]])
    assert batch["targets"].tolist() == [1, 0]
    assert batch["id"].tolist() == [3, 0]
    assert as_samples(data) is data


@pytest.mark.parametrize(
    "source",
    [
        (X, Y, torch.tensor([30, 10, 20, 0])),
        (X.numpy(), Y.numpy(), np.array([30, 10, 20, 0], dtype=np.int32)),
        {"inputs": X, "targets": Y, "id": torch.tensor([30, 10, 20, 0])},
    ],
)
def test_given_names_are_kept(source: Any) -> None:
    """A store would be asked for other samples' answers."""
    data = as_samples(source)
    assert data.ids.tolist() == [30, 10, 20, 0]
    assert data.ids.dtype == torch.int64
    assert read(data, [[2]])[0]["id"].tolist() == [20]


@pytest.mark.parametrize("source", [3, "path", X, iter([X]), (X,), (X, Y, Y, Y), {"inputs": X}])
def test_what_is_no_data(source: Any) -> None:
    """The error would come from deep inside the loader."""
    with pytest.raises(ValueError, match=r"data of type|batch of type|field of the batch"):
        as_samples(source)


@pytest.mark.parametrize(
    ("found", "options", "expected"),
    [
        ((1, 2), {}, {"inputs": 1, "targets": 2}),
        ([1, 2], {}, {"inputs": 1, "targets": 2}),
        ((1, 2, 3), {}, {"inputs": 1, "targets": 2, "id": 3}),
        ({"inputs": 1, "targets": 2, "w": 3}, {}, {"inputs": 1, "targets": 2, "w": 3}),
        (
            {"a": 1, "b": 2, "y": 3, "id": 4},
            {"inputs": ("a", "b"), "targets": "y"},
            {"inputs": {"a": 1, "b": 2}, "targets": 3, "id": 4},
        ),
        (
            {"x": 1, "y": 2, "inputs": 3},
            {"inputs": "x", "targets": "y"},
            {"inputs": 1, "targets": 2},
        ),
    ],
)
def test_as_batch(found: Any, options: dict[str, Any], expected: dict[str, Any]) -> None:
    """A field would be lost, or take another's place."""
    batch = as_batch(found, **options)
    assert {name: batch[name] for name in expected} == expected


def test_as_batch_names_what_is_missing() -> None:
    """A KeyError would not say what there is."""
    with pytest.raises(ValueError, match=r"'label' is not known; did you mean 'labels'"):
        as_batch({"image": 1, "labels": 2}, "image", "label")


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 3), ("P", 3), ("1", 3), ("CMYK", 3)]
)
def test_pixels(mode: str, channels: int) -> None:
    """Palettes would be read as colours, rows as columns."""
    image = Image.new(mode, (4, 2))
    found = pixels(image)
    assert found.shape == (channels, 2, 4)
    assert found.dtype == torch.uint8
    colours = Image.new("RGB", (2, 1))
    colours.putpixel((1, 0), (10, 20, 30))
    assert pixels(colours)[:, 0, 1].tolist() == [10, 20, 30]


def test_labels_of_eight_bits_stay_labels() -> None:
    """Images travel as uint8 and become 0 to 1; labels that are uint8 must not."""
    data = as_samples((np.zeros((4, 2), np.uint8) + 255, np.array([0, 1, 2, 3], np.uint8)))
    [batch] = Loader(data, 4)
    assert batch["targets"].tolist() == [0, 1, 2, 3]
    assert batch["inputs"].unique().tolist() == [1.0]
