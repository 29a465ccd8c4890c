"""Stores that are damaged, foreign or about something else are refused, and say why."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import limbeck as lb
from limbeck import Distiller, Teacher
from limbeck.data import Arrays, Augmentation, Crop, Normalize
from limbeck.errors import InputError
from limbeck.knowledge import Store, write
from limbeck.knowledge.folders import stated
from tests.knowledge.stored import SMALL, N, Oracle, pictures, samples

IDS = torch.arange(N) * 3  # with gaps, so that there is a file of them
OUTSIDE = {"bytes": 1, "sha256": ""}
GONE = "00-0000-00001.safetensors"


# -- damage


@pytest.fixture
def store_folder(tmp_path: Path) -> Path:
    write(tmp_path / "store", Oracle(), samples(ids=IDS), views=2, **SMALL)
    return tmp_path / "store"


@pytest.mark.parametrize("name", ["00-0000-00001.safetensors", "00-ids.safetensors"])
@pytest.mark.parametrize("cut", [1, 200])
def test_a_truncated_file(store_folder: Path, name: str, cut: int) -> None:
    """A full disk leaves short files: reading them would fail in the middle of training."""
    file = store_folder / name
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(InputError, match=f"{name} has .* bytes"):
        Store.open(store_folder)


@pytest.mark.parametrize("name", ["00-0001-00002.safetensors", "00-ids.safetensors"])
def test_a_missing_file(store_folder: Path, name: str) -> None:
    """A copy that was cut short would be found out at some later batch."""
    (store_folder / name).unlink()
    with pytest.raises(InputError, match=f"{name} is missing"):
        Store.open(store_folder)


@pytest.mark.parametrize("name", ["00-0001-00000.safetensors", "00-ids.safetensors"])
def test_a_flipped_bit(store_folder: Path, name: str) -> None:
    """Wrong answers, or answers to other samples, would be taught in silence."""
    Store.open(store_folder).verify()
    file = store_folder / name
    content = bytearray(file.read_bytes())
    content[-3] ^= 16
    file.write_bytes(bytes(content))
    with pytest.raises(InputError, match=f"{name} is not what was written"):
        Store.open(store_folder).verify()


def test_a_damaged_header(store_folder: Path) -> None:
    """A traceback from safetensors would not name the store."""
    file = store_folder / "00-0000-00000.safetensors"
    content = bytearray(file.read_bytes())
    content[:8] = b"\xff" * 8
    file.write_bytes(bytes(content))
    store = Store.open(store_folder)
    with pytest.raises(InputError, match=r"00-0000-00000\.safetensors could not be read"):
        store.rows(torch.tensor([0]), torch.tensor([0]), ("logits",))


def edited(folder: Path, **changes: Any) -> None:
    index = json.loads((folder / "index.json").read_text())
    for key, value in changes.items():
        index[key] = value(index[key]) if callable(value) else value
        if index[key] is None:
            del index[key]
    (folder / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"format": "another-1"}, "not of the format"),
        ({"format": None}, "not of the format"),
        ({"format": "limbeck-knowledge-1"}, "but limbeck-knowledge-1.*again with this version"),
        ({"files": None}, "lacks files"),
        ({"fields": None, "views": None}, "lacks fields, views"),
        (
            {"files": lambda s: s | {"../../secret": OUTSIDE}},
            r"outside the store: \.\./\.\./secret",
        ),
        ({"files": lambda s: s | {"/etc/hostname": OUTSIDE}}, "outside the store: /etc/hostname"),
        ({"files": lambda s: s | {"..\\x.safetensors": OUTSIDE}}, "outside the store"),
        ({"files": lambda s: s | {"C:x": OUTSIDE}}, "outside the store"),
        ({"files": lambda s: s | {"..": OUTSIDE}}, r"do not agree about \.\."),
        ({"files": lambda s: s | {"passwords": OUTSIDE}}, "do not agree about passwords"),
        ({"files": lambda s: {k: v for k, v in s.items() if k != GONE}}, f"agree about {GONE}"),
        ({"files": lambda s: dict.fromkeys(s, 3)}, "entry under files without bytes, sha256"),
        ({"views": 3}, "do not agree"),
        ({"views": 10**15}, "do not agree"),
        ({"views": "2"}, "has views '2'"),
        ({"rows_per_shard": 0}, "has rows_per_shard '0'"),
        ({"segments": [{"samples": 100, "data": ""}]}, "do not agree"),
        ({"segments": [{}]}, "entry under segments without samples, data"),
    ],
)
def test_a_foreign_index(store_folder: Path, changes: dict[str, Any], told: str) -> None:
    """An index names files and counts rows: one that is wrong reads others' files or rows."""
    edited(store_folder, **changes)
    with pytest.raises(InputError, match=told):
        Store.open(store_folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"x"'])
def test_an_index_that_is_none(store_folder: Path, text: str) -> None:
    """A half-written or foreign file would end in a TypeError."""
    (store_folder / "index.json").write_text(text)
    with pytest.raises(InputError, match=r"index\.json"):
        Store.open(store_folder)


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("")])
def test_no_store(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """An empty folder would be an empty store."""
    make(tmp_path / "x")
    with pytest.raises(InputError, match="not a knowledge store"):
        Store.open(tmp_path / "x")


@pytest.mark.parametrize("name", [GONE, "00-ids.safetensors"])
def test_a_link_that_leads_out(store_folder: Path, tmp_path: Path, name: str) -> None:
    """A store from a stranger would read any file of the machine that looks right."""
    (store_folder / name).rename(tmp_path / "elsewhere")
    (store_folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=f"{name} is a link that leads out of the store.*cp -rL"):
        Store.open(store_folder)


def test_a_link_to_the_whole_store(store_folder: Path, tmp_path: Path) -> None:
    """Stores on another disk are reached through a link: refusing it would help nobody."""
    (tmp_path / "link").symlink_to(store_folder)
    assert len(Store.open(tmp_path / "link")) == N


@pytest.mark.parametrize(
    "rows",
    [
        {"logits": torch.zeros(8, 3)},
        {"logits": torch.zeros(7, 3).half()},
        {"logits": torch.zeros(8, 4).half()},
        {"other": torch.zeros(8, 3).half()},
    ],
)
def test_a_shard_with_other_tensors(store_folder: Path, rows: dict[str, torch.Tensor]) -> None:
    """Rows of another width would be cut at the wrong bytes, and be plausible numbers."""
    save_file(rows, store_folder / GONE)
    index = json.loads((store_folder / "index.json").read_text())
    index["files"][GONE] = stated(store_folder / GONE)
    edited(store_folder, files=index["files"], digest=None)
    store = Store.open(store_folder)
    with pytest.raises(InputError, match=f"{GONE} holds .* under 'logits'"):
        store.rows(IDS[8:9], torch.tensor([0]), ("logits",))
    with pytest.raises(InputError, match=f"{GONE} holds"):
        store.verify()


def test_a_stored_tensor_of_an_unknown_type(store_folder: Path) -> None:
    """A name from a file would be looked up in PyTorch, whatever it is."""
    part = {"": {"dtype": "load", "shape": [3]}}
    edited(store_folder, fields=lambda f: {"logits": f["logits"] | {"parts": part}})
    with pytest.raises(InputError, match="of type 'load'"):
        Store.open(store_folder).rows(IDS[:1], torch.tensor([0]), ("logits",))


def test_a_flipped_bit_in_the_index(store_folder: Path) -> None:
    """The shards would be whole, and said to be about another data set."""
    edited(store_folder, fingerprints=lambda f: f | {"data": "another"})
    store = Store.open(store_folder)
    with pytest.raises(InputError, match=r"index\.json is not what was written"):
        store.verify()


def test_a_store_made_elsewhere(tmp_path: Path) -> None:
    """Anything that writes safetensors and JSON can make one, without most of the provenance."""
    save_file({"logits": torch.arange(12.0).view(4, 3)}, tmp_path / "00-0000-00000.safetensors")
    part = {"": {"dtype": "float32", "shape": [3]}}
    index = {
        "format": "limbeck-knowledge-2",
        "views": 1,
        "rows_per_shard": 4,
        "fields": {"logits": {"codec": "full", "shape": [3], "parts": part}},
        "fingerprints": {"teacher": "by hand"},
        "segments": [{"samples": 4, "first": 10, "data": "unknown"}],
        "files": {"00-0000-00000.safetensors": stated(tmp_path / "00-0000-00000.safetensors")},
    }
    (tmp_path / "index.json").write_text(json.dumps(index))
    store = Store.open(tmp_path)
    store.verify()
    rows = store.rows(torch.tensor([12, 10]), torch.tensor([0, 5]), ("logits",))["logits"]
    assert rows.tolist() == [[6, 7, 8], [0, 1, 2]]


# -- knowledge about something else


@pytest.mark.parametrize("subject", ["teacher", "data", "augmentation"])
def test_check_names_what_differs(store_folder: Path, subject: str) -> None:
    """A run would learn from answers to other questions."""
    store = Store.open(store_folder)
    same = dict(store.index["fingerprints"])
    assert set(same) == {"teacher", "data", "augmentation"}
    store.check(same)
    changed = same | {subject: "something else"}
    with pytest.raises(InputError, match=rf"with another {subject}.*trust=\[\"{subject}\"\]"):
        store.check(changed)
    store.check(changed, trust=[subject])
    store.check(changed, trust=subject)


def test_a_subject_that_there_is_not(store_folder: Path) -> None:
    """A typing error would trust nothing, or everything."""
    with pytest.raises(InputError, match="did you mean 'augmentation'"):
        Teacher.replay(store_folder, trust=["augmentatoin"])


CHANGED = {
    "weights": (lambda: Teacher(network(1), HALVED), "another teacher's answers"),
    "preprocessing": (lambda: Teacher(network()), "prepared in another way"),
    "weights, preprocessing": (lambda: Teacher(network(1)), "another teacher's answers"),
}
HALVED = Normalize((0.5,) * 3, (0.5,) * 3)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 3))


@pytest.mark.parametrize("change", CHANGED)
def test_what_of_a_teacher_differs(tmp_path: Path, change: str) -> None:
    """Other preprocessing is quickly mended; told as another teacher, it is sought for long."""
    write(tmp_path, Teacher(network(), HALVED), samples(), **SMALL)
    replay = Teacher.replay(tmp_path)
    replay.check(samples(), None, Teacher(network(), HALVED))
    make, consequence = CHANGED[change]
    told = "with another " + ".*and another ".join(change.split(", ")) + f".*{consequence}"
    with pytest.raises(InputError, match=told) as refused:
        replay.check(samples(), None, make())
    assert "another teacher (" not in str(refused.value)
    with pytest.raises(InputError, match="with another"):
        write(tmp_path, make(), samples(), **SMALL)
    Teacher.replay(tmp_path, trust=change.split(", ")).check(samples(), None, make())


def test_a_student_of_other_samples(tmp_path: Path) -> None:
    """Two sets number their samples from 0: one would be taught the other's answers."""
    write(tmp_path, Oracle(), samples(), **SMALL)
    other = Arrays.of(inputs=1 - pictures(), targets=torch.arange(N) % 3)

    def train(data: Arrays, **options: Any) -> None:
        replay = Teacher.replay(tmp_path, **options)
        learner = Distiller(
            replay, network(2), task=lb.tasks.Classification(3), method=lb.methods.kd()
        )
        lb.fit(learner, data, epochs=1, batch_size=8, listener=lb.Silent())

    train(samples())
    train(samples().subset(torch.arange(0, N, 2)))  # some of them: only their ids can be checked
    with pytest.raises(InputError, match=r"another data.*other samples.*trust=\[\"data\"\]"):
        train(other)
    train(other, trust=("data",))
    with pytest.raises(InputError, match=f"sample {N} is not in the store"):
        train(samples(N + 2))


def test_a_student_of_other_views(tmp_path: Path) -> None:
    """Its crops would not be those that the teacher saw, from the first epoch on."""
    augment = Augmentation((Crop(2),), seed=1)
    write(tmp_path, Oracle(), samples(), augment=augment, views=2, **SMALL)
    replay = Teacher.replay(tmp_path)
    replay.check(samples(), augment)
    for other in (None, Augmentation((Crop(1),), seed=1), Augmentation((Crop(2),), seed=2)):
        with pytest.raises(InputError, match=r"with another augmentation.*another crop"):
            replay.check(samples(), other)


# -- opening


def test_opening_reads_no_shard(store_folder: Path) -> None:
    """Opening a store of a terabyte would read a terabyte."""
    store = Store.open(store_folder)
    assert not store._maps


def test_ids_of_another_store(store_folder: Path) -> None:
    """Ids of the right size but other names are noticed by their checksum."""
    kept = load_file(store_folder / "00-ids.safetensors")["ids"]
    save_file({"ids": kept + 1}, store_folder / "00-ids.safetensors")
    with pytest.raises(InputError, match=r"00-ids\.safetensors"):
        Store.open(store_folder).verify()


def test_opening_many_shards_is_quick(tmp_path: Path) -> None:
    """A store of a hundred million samples would take longer to open than an epoch."""
    write(tmp_path, Oracle(), samples(1), **SMALL)
    index = json.loads((tmp_path / "index.json").read_text())
    [(name, told)] = index["files"].items()
    count = 2000
    for number in range(1, count):
        (tmp_path / name.replace("00000", f"{number:05d}")).hardlink_to(tmp_path / name)
    index["files"] = {name.replace("00000", f"{n:05d}"): told for n in range(count)}
    index["segments"][0]["samples"] = count * 8
    (tmp_path / "index.json").write_text(json.dumps(index))
    began = time.perf_counter()
    assert len(Store.open(tmp_path)) == count * 8
    assert time.perf_counter() - began < 0.5  # it takes some 20 ms
