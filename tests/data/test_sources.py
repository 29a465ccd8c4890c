"""Sources: what stands on disk arrives as it is, or is refused with its name."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from limbeck.data import Arrays, Data, Items, sources
from limbeck.errors import InputError


def colours(count: int, size: int = 8, mode: str = "RGB") -> list[Image.Image]:
    """Return images whose upper left pixel says which one it is."""
    found = []
    for number in range(count):
        image = Image.new(mode, (size, size), 200 if mode == "L" else (200, 10, 10))
        image.putpixel((0, 0), number if mode == "L" else (number, 5, 6))
        found.append(image)
    return found


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return out.getvalue()


def everyone(data: Data) -> list[tuple[int, int]]:
    """Return (what the picture says it is, label) of all samples of all splits."""
    found = []
    for split in (data.train, data.validation, data.test):
        inputs, targets = split.column("inputs"), split.column("targets")
        found += list(zip(inputs[:, 0, 0, 0].int().tolist(), targets.tolist(), strict=True))
    return sorted(found)


def sizes(data: Data) -> tuple[int, int, int]:
    return len(data.train), len(data.validation), len(data.test)


# -- digits


def test_digits() -> None:
    """The default data would lose samples, share them between splits, or be scaled twice."""
    data = sources.digits()
    assert sizes(data) == (1222, 216, 359)
    parts = (data.train, data.validation, data.test)
    ids = [i for part in parts for i in part.ids.tolist()]
    assert sorted(ids) == list(range(1797))
    assert data.labels == tuple("0123456789")
    assert data.train.column("inputs").shape[1:] == (1, 8, 8)
    assert float(data.train.column("inputs").max()) == 1.0
    from sklearn.datasets import load_digits

    bunch = load_digits()
    row = int(data.test.ids[5])
    assert np.allclose(data.test.column("inputs")[5, 0].numpy() * 16, bunch.images[row])
    assert int(data.test.column("targets")[5]) == bunch.target[row]


def test_digits_seeds_and_fractions() -> None:
    """The seed would move nothing, or the fractions be swapped."""
    assert sources.digits(seed=1).fingerprint() != sources.digits().fingerprint()
    data = sources.digits(validation=0.5, test=0.1)
    assert len(data.test) == pytest.approx(180, abs=5)
    assert len(data.validation) == pytest.approx(809, abs=6)


# -- numpy


def archive(path: Path, compressed: bool = False, **arrays: np.ndarray) -> Path:
    (np.savez_compressed if compressed else np.savez)(path / "data.npz", **arrays)
    return path / "data.npz"


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((40, 8, 8), (1, 8, 8)),
        ((40, 8, 8, 3), (3, 8, 8)),
        ((40, 3, 8, 8), (3, 8, 8)),
        ((40, 8, 9, 1), (1, 8, 9)),
        ((40, 8, 9, 4), (4, 8, 9)),
        ((40, 6), (6,)),
    ],
)
@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64, np.int64])
def test_numpy_shapes(
    tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...], kind: type
) -> None:
    """Channels would be taken for rows; whole numbers would be fed to the model unscaled."""
    values = (np.arange(np.prod(shape)).reshape(shape) % 251).astype(kind)
    data = sources.numpy(archive(tmp_path, x_train=values, y_train=np.arange(40) % 4))
    inputs = data.train.column("inputs")
    assert inputs.shape[1:] == expected
    whole = kind == np.uint8 or (kind == np.int64 and len(shape) > 2)
    assert inputs.dtype == (torch.uint8 if whole else torch.float32)
    one = values[int(data.train.ids[3])]
    first = np.moveaxis(one, -1, 0) if len(shape) == 4 and shape[1:] != expected else one
    assert np.array_equal(inputs[3].numpy().reshape(-1), first.reshape(-1))
    assert data.labels == ("0", "1", "2", "3")


@pytest.mark.parametrize("edge", [-1, 256, 4095])
def test_numpy_refuses_whole_numbers_that_are_no_bytes(tmp_path: Path, edge: int) -> None:
    """Twelve-bit images would train at 4095 times the scale."""
    values = np.zeros((10, 4, 4), np.int32)
    values[7, 2, 2] = edge
    with pytest.raises(InputError, match=f"{min(0, edge)} to {max(0, edge)}"):
        sources.numpy(archive(tmp_path, x_train=values, y_train=np.arange(10) % 2))


def test_numpy_splits(tmp_path: Path) -> None:
    """Given splits would be cut again."""
    part = {
        name: np.full((n, 4), n, np.float32) for name, n in (("train", 30), ("val", 7), ("test", 5))
    }
    labels = {f"y_{name}": np.arange(len(x)) % 2 for name, x in part.items()}
    arrays = {f"x_{name}": x for name, x in part.items()} | labels
    data = sources.numpy(archive(tmp_path, **arrays), labels=("no", "yes"))
    assert sizes(data) == (30, 7, 5)
    assert data.labels == ("no", "yes")
    assert data.name == "data"
    del arrays["x_test"], arrays["y_test"]
    assert sizes(sources.numpy(archive(tmp_path, **arrays), test=0.2)) == (24, 7, 6)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "could not be read"),
        (b"PK\x03\x04 not a zip", "could not be read"),
        (b"hello", "could not be read"),
        (None, "could not be read"),
    ],
)
def test_numpy_of_something_else(tmp_path: Path, content: bytes | None, told: str) -> None:
    """A traceback from inside zipfile would not name the file."""
    file = tmp_path / "data.npz"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=told) as caught:
        sources.numpy(file)
    assert "data.npz" in str(caught.value)


def test_numpy_of_a_single_array(tmp_path: Path) -> None:
    """A .npy file under another name."""
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(InputError, match=r"could not be read as .npz"):
        sources.numpy(tmp_path / "a.npy")


def test_numpy_never_unpickles(tmp_path: Path) -> None:
    """A data file would run code."""
    trap = np.array([Trap()], dtype=object)
    np.savez(tmp_path / "data.npz", x_train=trap, y_train=np.zeros(1))
    with pytest.raises(InputError, match="could not be read"):
        sources.numpy(tmp_path / "data.npz")
    assert not Trap.sprung


class Trap:
    sprung = False

    def __reduce__(self) -> Any:
        return (_spring, ())


def _spring() -> None:
    Trap.sprung = True


@pytest.mark.parametrize("arrays", [{"x": 1}, {"x_train": 1}, {"x_test": 1, "y_test": 1}])
def test_numpy_without_training_arrays(tmp_path: Path, arrays: dict[str, int]) -> None:
    """A KeyError would not say what the file holds."""
    given = {name: np.zeros(4, np.float32) for name in arrays}
    with pytest.raises(InputError, match="x_train and y_train"):
        sources.numpy(archive(tmp_path, **given))


def test_numpy_with_fewer_labels(tmp_path: Path) -> None:
    """The last pictures would be given no label."""
    with pytest.raises(InputError, match="equally long"):
        sources.numpy(archive(tmp_path, x_train=np.zeros((4, 2)), y_train=np.zeros(3)))


def test_damaged_archives(tmp_path: Path) -> None:
    """Damage would surface as whatever zlib or zipfile raises, or pass unseen."""
    values = np.random.default_rng(0).integers(0, 9, (60, 8, 8)).astype(np.uint8)
    whole = archive(tmp_path, compressed=True, x_train=values, y_train=np.arange(60) % 3)
    _damaged(whole, lambda: sources.numpy(whole), 60)


def _damaged(file: Path, read: Any, times: int) -> None:
    """Damage a file in many ways: each must be refused by name, or do no harm."""
    good, chance = file.read_bytes(), random.Random(0)
    refused = 0
    for number in range(times):
        bad = bytearray(good)
        if number % 2:
            bad = bad[: chance.randrange(len(bad))]
        else:
            for _ in range(4):
                bad[chance.randrange(len(bad))] = chance.randrange(256)
        file.write_bytes(bytes(bad))
        try:
            read()
        except InputError:
            refused += 1
    file.write_bytes(good)
    assert refused > times // 4


# -- Parquet


def table(images: list[Any], labels: list[Any], form: str = "struct") -> pa.Table:
    cells = [None if i is None else encoded(i) if isinstance(i, Image.Image) else i for i in images]
    if form == "struct":
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        rows = [
            None if c is None else {"bytes": c, "path": f"{n}.png"} for n, c in enumerate(cells)
        ]
        column = pa.array(rows, kind)
    else:
        column = pa.array(cells, {"binary": pa.binary(), "large": pa.large_binary()}[form])
    return pa.table({"image": column, "label": pa.array(labels, pa.int64())})


def parquet_folder(path: Path, **splits: pa.Table) -> Path:
    path.mkdir(exist_ok=True)
    for name, rows in splits.items():
        pq.write_table(rows, path / f"{name}.parquet")
    return path


@pytest.mark.parametrize("form", ["struct", "binary", "large"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_parquet(tmp_path: Path, form: str, mode: str) -> None:
    """Labels would belong to other pictures; grey pictures would be given colours."""
    labels = [n % 3 for n in range(40)]
    folder = parquet_folder(tmp_path / "set", train=table(colours(40, mode=mode), labels, form))
    data = sources.parquet(folder, validation=0.2, test=0.25)
    assert everyone(data) == [(n, n % 3) for n in range(40)]
    assert data.train.column("inputs").shape[1:] == (1 if mode == "L" else 3, 8, 8)
    assert data.train.column("inputs").dtype == torch.uint8
    assert data.labels == ("0", "1", "2")
    assert data.name == "set"
    assert sizes(data) == (24, 6, 10)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF"])
def test_parquet_keeps_every_pixel(tmp_path: Path, kind: str) -> None:
    """A lossless picture would be changed on the way."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 7, 3)).astype(np.uint8)
    cells = [encoded(Image.fromarray(p), kind) for p in pixels]
    folder = parquet_folder(tmp_path, train=table(cells, [0, 1] * 3, "binary"))
    data = sources.parquet(folder)
    for split in (data.train, data.validation, data.test):
        for row, i in enumerate(split.ids.tolist()):
            assert np.array_equal(split.column("inputs")[row].permute(1, 2, 0).numpy(), pixels[i])


def test_parquet_splits_and_shards(tmp_path: Path) -> None:
    """Shards would be read in another order, or validation taken for training."""
    folder = parquet_folder(
        tmp_path,
        **{
            "train-00001-of-00002": table(colours(20)[10:], [1] * 10),
            "train-00000-of-00002": table(colours(10), [0] * 10),
            "validation": table(colours(4), [0, 1] * 2),
            "test": table(colours(3), [0, 1, 0]),
        },
    )
    data = sources.parquet(folder)
    assert sizes(data) == (20, 4, 3)
    first = data.train.column("inputs")[:, 0, 0, 0].tolist()
    assert first == list(range(20))
    assert data.train.column("targets").tolist() == [0] * 10 + [1] * 10


def test_parquet_names_from_hugging_face(tmp_path: Path) -> None:
    """Reports would speak of class 0 and class 1."""
    names = ["cat", "dog", "owl"]
    features = {"label": {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    rows = table(colours(12), [0, 1, 2] * 4)
    rows = rows.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    assert sources.parquet(parquet_folder(tmp_path, train=rows)).labels == ("cat", "dog", "owl")


def test_parquet_columns_by_name(tmp_path: Path) -> None:
    """Of several columns that fit, the wrong one would be taken."""
    rows = table(colours(12), [0, 1, 2] * 4).append_column("fine", pa.array(list(range(12))))
    rows = rows.rename_columns(["picture", "coarse", "fine"])
    folder = parquet_folder(tmp_path, train=rows)
    assert len(sources.parquet(folder).labels) == 3  # the first of whole numbers
    assert len(sources.parquet(folder, label="fine").labels) == 12
    with pytest.raises(InputError, match="did you mean 'coarse'"):
        sources.parquet(folder, label="course")
    with pytest.raises(InputError, match="did you mean 'picture'"):
        sources.parquet(folder, image="pictures")


@pytest.mark.parametrize("missing", ["image", "label"])
def test_parquet_without_a_column(tmp_path: Path, missing: str) -> None:
    """A KeyError would not list the columns there are."""
    rows = table(colours(4), [0, 1] * 2).drop_columns([missing])
    rows = rows.append_column("text", pa.array(["a"] * 4))
    with pytest.raises(InputError, match=f"can hold the {missing}s"):
        sources.parquet(parquet_folder(tmp_path, train=rows))


@pytest.mark.parametrize("form", ["struct", "binary"])
@pytest.mark.parametrize("what", ["image", "label"])
def test_parquet_with_an_empty_cell(tmp_path: Path, what: str, form: str) -> None:
    """A missing label would be an error about NoneType without a row."""
    images, labels = list(colours(6)), [0, 1] * 3
    (images if what == "image" else labels)[4] = None  # type: ignore[call-overload]
    with pytest.raises(InputError, match=f"row 4 of train .* has no {what}"):
        sources.parquet(parquet_folder(tmp_path, train=table(images, labels, form)))


def test_parquet_with_an_image_outside(tmp_path: Path) -> None:
    """A struct with a path alone would be decoded from nothing."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.table(
        {"image": pa.array([{"bytes": None, "path": "a.png"}] * 2, kind), "label": [0, 1]}
    )
    with pytest.raises(InputError, match="has no image"):
        sources.parquet(parquet_folder(tmp_path, train=rows))


def test_truncated_parquet_is_named(tmp_path: Path) -> None:
    """Of two files, the good one would be blamed."""
    folder = parquet_folder(
        tmp_path, **{f"train-{n}": table(colours(6), [0, 1] * 3) for n in (0, 1)}
    )
    file = folder / "train-1.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"train-1\.parquet could not be read"):
        sources.parquet(folder)


def test_parquet_files_that_differ(tmp_path: Path) -> None:
    """A traceback from Arrow would not name the folder."""
    folder = parquet_folder(
        tmp_path,
        **{
            "train-0": table(colours(4), [0, 1] * 2),
            "train-1": table(colours(4), [0, 1] * 2, "binary"),
        },
    )
    with pytest.raises(InputError, match="differ"):
        sources.parquet(folder)


def test_damaged_parquet(tmp_path: Path) -> None:
    """Damage would surface as whatever Arrow or Pillow raises."""
    folder = parquet_folder(tmp_path, train=table(colours(6), [0, 1] * 3))
    _damaged(folder / "train.parquet", lambda: sources.parquet(folder), 60)


@pytest.mark.parametrize("row", [0, 3])
@pytest.mark.parametrize("bad", [b"", b"no picture", "half"])
def test_a_corrupt_image_is_named(tmp_path: Path, bad: bytes | str, row: int) -> None:
    """One bad picture of a million must be found; the first is looked at before the others."""
    images: list[Any] = [encoded(image) for image in colours(6)]
    images[row] = images[row][: len(images[row]) // 2] if bad == "half" else bad
    folder = parquet_folder(tmp_path, train=table(images, [0, 1] * 3, "binary"))
    with pytest.raises(InputError, match=f"image {row} could not be decoded"):
        sources.parquet(folder)


@pytest.mark.parametrize("make", [sources.parquet, sources.image_folder, sources.huggingface])
def test_no_folder(tmp_path: Path, make: Any) -> None:
    """A wrong path would be an empty data set."""
    with pytest.raises(InputError, match="there is no folder"):
        make(tmp_path / "nowhere")


def test_a_folder_without_training_files(tmp_path: Path) -> None:
    """The test file would be trained on."""
    folder = parquet_folder(tmp_path, test=table(colours(4), [0, 1] * 2))
    with pytest.raises(InputError, match=r"at least train\.parquet"):
        sources.parquet(folder)
    with pytest.raises(InputError, match="nothing of the kind"):
        sources.parquet(tmp_path.parent / tmp_path.name / "..")


# -- sizes


def test_pictures_of_several_sizes(tmp_path: Path) -> None:
    """A batch of unequal pictures fails when the first epoch reaches it."""
    images = [*colours(5), *colours(1, size=12)]
    folder = parquet_folder(tmp_path, train=table(images, [0, 1] * 3))
    with pytest.raises(InputError, match=r"images of 8×8 and of 12×12"):
        sources.parquet(folder)
    assert sources.parquet(folder, size=6).train.column("inputs").shape[1:] == (3, 6, 6)


@pytest.mark.parametrize(("width", "height"), [(20, 10), (10, 20), (11, 10), (300, 10), (10, 10)])
def test_resizing_keeps_the_middle(tmp_path: Path, width: int, height: int) -> None:
    """Wide pictures would be squashed, or cut at one end."""
    image = Image.new("RGB", (width, height), (0, 0, 0))
    middle = Image.new("RGB", (2, 2), (255, 255, 255))
    image.paste(middle, (width // 2 - 1, height // 2 - 1))
    folder = parquet_folder(tmp_path, train=table([image] * 4, [0, 1] * 2))
    [first, *_] = sources.parquet(folder, size=10).train.column("inputs").float()
    assert first.shape == (3, 10, 10)
    rows, columns = first[0].sum(1), first[0].sum(0)
    for light in (rows, columns):
        centre = float((light * torch.arange(10)).sum() / light.sum())
        assert centre == pytest.approx(4.5, abs=0.6)


def test_too_large_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set that does not fit would be decoded into memory; read later it must be the same."""
    folder = parquet_folder(tmp_path, train=table(colours(20), [0, 1] * 10))
    inside = sources.parquet(folder)
    monkeypatch.setattr("limbeck.data.sources.encoded._IN_MEMORY_BYTES", 100)
    for workers in (0, 2):
        outside = sources.parquet(folder, workers=workers)
        assert isinstance(outside.train, Items)
        assert isinstance(inside.train, Arrays)
        assert outside.train.ids.tolist() == inside.train.ids.tolist()
        assert everyone(outside) == everyone(inside)
        rows = [torch.tensor([2, 0])]
        [one], [other] = (list(x.train.batches(rows, 0, 0)) for x in (inside, outside))
        assert torch.equal(one["inputs"], other["inputs"])


# -- folders of files


def image_tree(root: Path, names: dict[str, list[int]], suffix: str = "png") -> Path:
    """Write pictures into folders: by folder, the numbers of the pictures."""
    pictures = colours(64)
    for where, numbers in names.items():
        (root / where).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            pictures[number].save(root / where / f"{number:03}.{suffix}")
    return root


def test_image_folder_with_splits(tmp_path: Path) -> None:
    """Classes would be numbered in the order of the file system."""
    root = image_tree(
        tmp_path,
        {
            "train/zebra": [0, 1, 2],
            "train/ant": [3, 4, 5],
            "train/moth/deep": [6],
            "val/ant": [10],
            "test/zebra": [20, 21],
        },
    )
    (root / "train" / "notes.txt").write_text("no image")
    (root / "train" / "ant" / "notes.txt").write_text("no image")
    data = sources.image_folder(root)
    assert data.labels == ("ant", "moth", "zebra")
    zebras, ants, moths = (0, 1, 2, 20, 21), (3, 4, 5, 10), (6,)
    labelled = [(n, label) for label, ns in enumerate((ants, moths, zebras)) for n in ns]
    assert everyone(data) == sorted(labelled)
    assert sizes(data) == (7, 1, 2)


@pytest.mark.parametrize("suffix", ["png", "JPG", "webp", "bmp"])
def test_image_folder_without_splits(tmp_path: Path, suffix: str) -> None:
    """The plainest layout, CLASS/anything.jpg, would not be understood."""
    root = image_tree(
        tmp_path,
        {"a": list(range(20)), "b": list(range(20, 40))},
        suffix,
    )
    data = sources.image_folder(root, validation=0.1, test=0.2)
    assert data.labels == ("a", "b")
    assert sizes(data) == (28, 4, 8)
    assert sorted(label for _, label in everyone(data)) == [0] * 20 + [1] * 20
    if suffix == "png":
        assert everyone(data) == [(n, int(n >= 20)) for n in range(40)]


def test_image_folder_is_stable(tmp_path: Path) -> None:
    """Ids would follow the order in which the file system lists files."""
    first = image_tree(tmp_path / "one", {"a": [3, 1, 2], "b": [5, 4]})
    second = image_tree(tmp_path / "two", {"b": [4, 5], "a": [2, 3, 1]})
    one, two = sources.image_folder(first), sources.image_folder(second)
    assert one.fingerprint() == two.fingerprint()


def test_image_folder_with_a_strange_class(tmp_path: Path) -> None:
    """A class that was never trained would be numbered as another."""
    root = image_tree(tmp_path, {"train/a": [0], "train/b": [1], "test/c": [2]})
    with pytest.raises(InputError, match=r"class c.*training classes: a, b"):
        sources.image_folder(root)


@pytest.mark.parametrize("layout", [{}, {"train": []}, {"train/a": []}, {"a": []}])
def test_image_folder_without_images(tmp_path: Path, layout: dict[str, list[int]]) -> None:
    """An empty data set would divide by zero later."""
    with pytest.raises(InputError, match="holds 0 images"):
        sources.image_folder(image_tree(tmp_path, layout))


def test_image_folder_names_the_corrupt_file(tmp_path: Path) -> None:
    """A traceback from Pillow names a buffer, not a file."""
    root = image_tree(tmp_path, {"a": [0, 1], "b": [2, 3]})
    (root / "b" / "002.png").write_bytes((root / "b" / "002.png").read_bytes()[:40])
    with pytest.raises(InputError, match=r"b/002\.png could not be decoded"):
        sources.image_folder(root)


# -- Hugging Face


def saved(path: Path, splits: dict[str, int], names: list[str] | None = None) -> Path:
    import datasets

    features = datasets.Features(
        {
            "img": datasets.Image(),
            "label": datasets.ClassLabel(names=names or ["x", "y"]),
        }
    )
    made = {
        split: datasets.Dataset.from_dict(
            {"img": colours(count), "label": [n % 2 for n in range(count)]}, features=features
        )
        for split, count in splits.items()
    }
    (datasets.DatasetDict(made) if len(made) > 1 else made["train"]).save_to_disk(str(path))
    return path


@pytest.mark.parametrize(
    ("splits", "expected"),
    [({"train": 20}, (14, 2, 4)), ({"train": 12, "valid": 4, "test": 6}, (12, 4, 6))],
)
def test_hugging_face(
    tmp_path: Path, splits: dict[str, int], expected: tuple[int, int, int]
) -> None:
    """A saved data set would lose its class names or its splits."""
    data = sources.huggingface(saved(tmp_path / "set", splits))
    assert sizes(data) == expected
    assert data.labels == ("x", "y")
    assert all(number % 2 == label for number, label in everyone(data))
    assert data.train.column("inputs").shape[1:] == (3, 8, 8)


def test_hugging_face_columns_and_splits(tmp_path: Path) -> None:
    """A wrong column would be a KeyError; a set without train be trained on its test split."""
    with pytest.raises(InputError, match="did you mean 'label'"):
        sources.huggingface(saved(tmp_path / "a", {"train": 4}), label="lable")
    with pytest.raises(InputError, match="one named train"):
        sources.huggingface(saved(tmp_path / "b", {"test": 4, "other": 4}))


def test_hugging_face_of_something_else(tmp_path: Path) -> None:
    """A traceback from a dozen layers down would not name the folder."""
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(InputError, match="could not be read as a data set"):
        sources.huggingface(tmp_path)


# -- by name, and real


def test_by_name() -> None:
    """A recipe's typing error would end in a KeyError."""
    names = [
        "captions", "clips", "coco", "diabetes", "digit_scenes", "digits", "huggingface",
        "image_folder", "interactions", "language", "mask_folder", "numpy", "panned_stills",
        "parquet", "several_digits", "speech", "table", "text", "translation", "visual_questions",
    ]  # fmt: skip
    assert sources.names() == names
    assert sources.get("parquet") is sources.parquet
    with pytest.raises(InputError, match="did you mean 'digits'"):
        sources.get("digit")


def test_real_parquet(data_root: Path, tmp_path: Path) -> None:
    """What we write for tests could differ from what the world writes."""
    source = data_root / "cifar10"
    if not source.is_dir():
        pytest.skip("no CIFAR-10 in the folder of real data")
    for split in ("train", "test"):
        file = pq.ParquetFile(source / f"{split}.parquet")
        rows = next(file.iter_batches(batch_size=200))
        kept = pa.Table.from_batches([rows]).replace_schema_metadata(file.schema_arrow.metadata)
        pq.write_table(kept, tmp_path / f"{split}.parquet")
    data = sources.parquet(tmp_path)
    assert sizes(data)[2] == 200
    assert sum(sizes(data)[:2]) == 200
    inputs = data.train.column("inputs")
    assert inputs.shape[1:] == (3, 32, 32)
    assert inputs.dtype == torch.uint8
    assert 100 < float(inputs.float().mean()) < 140  # CIFAR-10's mean is 121
    assert set(data.test.column("targets").tolist()) <= set(range(10))


def test_a_limit_decodes_no_more(tmp_path: Path) -> None:
    """Trying a large set out with ``limit`` would decode all of it first."""
    folder = parquet_folder(tmp_path, train=table(colours(30), [0, 1] * 15))
    whole = sources.parquet(folder)
    few = sources.parquet(folder, limit=6)
    assert len(few.train) == 6
    assert few.train.ids.tolist() == whole.limited(6).train.ids.tolist()
    assert torch.equal(few.train.column("inputs"), whole.limited(6).train.column("inputs"))
    read = torch.cat([split.ids for split in (few.train, few.validation, few.test)]).tolist()
    rest = next(n for n in range(1, 30) if n not in read)
    images: list[Image.Image | bytes] = [*colours(30)]
    images[rest] = b"damaged"
    damaged = parquet_folder(tmp_path, train=table(images, [0, 1] * 15))
    assert len(sources.parquet(damaged, limit=6).train) == 6
    with pytest.raises(InputError, match=f"image {rest} could not be decoded"):
        sources.parquet(damaged)


def test_labels_that_are_no_classes_are_refused(tmp_path: Path) -> None:
    """Without it, numbers to be predicted would be cut to whole ones in silence."""
    np.savez(tmp_path / "data.npz", x_train=np.zeros((4, 3)), y_train=np.array([0, 1, 0.5, 2]))
    with pytest.raises(InputError, match=r"the label 0.5.*amounts"):
        sources.numpy(tmp_path / "data.npz")
