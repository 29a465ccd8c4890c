"""Stores become tables and tables become stores, without a bit of difference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from limbeck.data import Arrays, Augmentation, Crop, Loader
from limbeck.errors import InputError
from limbeck.knowledge import Store, write
from limbeck.knowledge.convert import convert
from limbeck.losses import SparseLogits
from limbeck.teachers import Replay
from tests.knowledge.stored import SMALL, N, Oracle, contents, expected, samples
from tests.knowledge.test_store_jagged import Reader, texts


def plain(path: Path) -> None:
    write(path, Oracle(), samples(), **SMALL)


def mixed(path: Path) -> None:
    """Views, gaps between ids, two writings, three codecs."""
    options: dict[str, Any] = {"augment": Augmentation((Crop(2),)), "views": 2, **SMALL}
    options |= {"taps": ["logits", "layer2"], "codec": {"logits": "top2@4", "layer2": "int8"}}
    data = samples(ids=torch.arange(N) * 300)
    write(path, Oracle(), data.subset(torch.arange(9)), **options)
    write(path, Oracle(), data, append=True, **options)


def jagged(path: Path) -> None:
    """Rows of unequal length, and a codec that has learned something."""
    write(path, Reader(), texts(), mask="seen", codec="pca8", batch_size=4, rows_per_shard=8)


@pytest.mark.parametrize("make", [plain, mixed, jagged])
@pytest.mark.parametrize("through", ["rows.parquet", "dataset"])
def test_there_and_back(tmp_path: Path, make: Any, through: str) -> None:
    """Knowledge that went through a table would be a little different, or lose its origin."""
    make(tmp_path / "store")
    convert(tmp_path / "store", tmp_path / through)
    convert(tmp_path / through, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "store")
    Store.open(tmp_path / "again").verify()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["store", through, "again"])


@pytest.mark.parametrize("through", ["rows.parquet", "dataset"])
def test_what_others_read(tmp_path: Path, through: str) -> None:
    """The table would be of use to Limbeck alone."""
    mixed(tmp_path / "store")
    convert(tmp_path / "store", tmp_path / through)
    if through == "dataset":
        found = datasets.load_from_disk(str(tmp_path / through)).with_format("numpy")[:]
    else:
        table = pq.read_table(tmp_path / through)
        found = {name: table.column(name).to_pylist() for name in table.column_names}
    assert set(found) == {
        "id", "view", "logits", "logits:indices", "logits:rest", "layer2", "layer2:scale",
    }  # fmt: skip
    rows = Store.open(tmp_path / "store").rows(
        torch.as_tensor(np.asarray(found["id"])),
        torch.as_tensor(np.asarray(found["view"])),
        ("logits",),
    )["logits"]
    assert isinstance(rows, SparseLogits)
    assert np.array_equal(np.asarray(found["logits:indices"]), rows.indices.numpy())
    assert np.array_equal(np.asarray(found["logits"], np.float32), rows.log_p.numpy())


def test_a_changed_table_is_not_the_store(tmp_path: Path) -> None:
    """Edited numbers would be said to be the teacher's."""
    plain(tmp_path / "store")
    convert(tmp_path / "store", tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    pq.write_table(table.slice(1), tmp_path / "fewer.parquet")
    ids = table.column("id").to_pylist()
    swapped = table.set_column(0, table.schema.field("id"), pa.array(ids[::-1]))
    pq.write_table(swapped, tmp_path / "swapped.parquet")
    for name in ("fewer.parquet", "swapped.parquet"):
        with pytest.raises(InputError, match="not those that were written from a store"):
            convert(tmp_path / name, tmp_path / "again")
        assert not (tmp_path / "again").exists()
    pq.write_table(swapped.replace_schema_metadata(None), tmp_path / "mine.parquet")
    convert(tmp_path / "mine.parquet", tmp_path / "again")
    rows = [
        Store.open(tmp_path / name).rows(ids, torch.zeros_like(ids), ("logits",))["logits"]
        for name, ids in (("store", torch.arange(N)), ("again", torch.arange(N).flip(0)))
    ]
    assert torch.equal(*rows)


@pytest.mark.parametrize("kind", ["list", "fixed", "large"])
@pytest.mark.parametrize("codec", ["full", "top2"])
def test_a_table_from_elsewhere(tmp_path: Path, kind: str, codec: str) -> None:
    """Teachers in other languages could not be used."""
    order = np.random.default_rng(0).permutation(N)
    rows = expected(samples())[order].tolist()
    listed = {
        "list": pa.list_(pa.float32()),
        "fixed": pa.list_(pa.float32(), 3),
        "large": pa.large_list(pa.float64()),
    }
    table = pa.table({"id": order, "logits": pa.array(rows, listed[kind]), "note": ["x"] * N})
    pq.write_table(table, tmp_path / "theirs.parquet")
    convert(tmp_path / "theirs.parquet", tmp_path / "store", codec=codec)
    replay = Replay(tmp_path / "store")
    replay.check(samples())
    for batch in Loader(samples(), 5, shuffle=True).epoch(3):
        known = replay.knowledge(batch).logits
        live = Oracle().knowledge(batch, ["logits"])["logits"]
        if codec == "full":
            assert torch.equal(known, live)
        else:
            assert torch.allclose(known.log_p, live.log_softmax(-1).topk(2)[0], atol=2e-3)


def test_views_from_elsewhere(tmp_path: Path) -> None:
    """The second view's answers would be given to the first."""
    ids, views = np.repeat(np.arange(4), 3), np.tile([2, 0, 1], 4)
    said = np.stack((ids, views), 1).astype(np.float32)
    table = pa.table({"id": ids * 7, "view": views, "logits": said.tolist()})
    pq.write_table(table, tmp_path / "theirs.parquet")
    convert(tmp_path / "theirs.parquet", tmp_path / "store")
    store = Store.open(tmp_path / "store")
    rows = store.rows(torch.tensor([21, 0]), torch.tensor([1, 2]), ("logits",))["logits"]
    assert rows.tolist() == [[3, 1], [0, 2]]
    data = Arrays.of(torch.arange(4) * 7, inputs=torch.zeros(4), targets=torch.zeros(4))
    [batch] = Loader(data, 4).epoch(3)
    with pytest.raises(InputError, match=r"view 3 .*views=3"):
        Replay(tmp_path / "store").knowledge(batch)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no id": ({"logits": [[1.0]]}, "columns logits. Expected: 'id'"),
    "no lists": ({"id": [1], "logits": [1.0]}, "no column of lists of numbers among id, logits"),
    "unequal": ({"id": [1, 2], "logits": [[1.0], [1.0, 2.0]]}, r"lengths \['1', '2'\]"),
    "twice": ({"id": [1, 1], "logits": [[1.0], [2.0]]}, "2 rows about 1 samples in 1 views"),
    "a gap": (
        {"id": [1, 1, 2], "view": [0, 1, 0], "logits": [[1.0]] * 3},
        "3 rows about 2 samples in 2 views",
    ),
    "missing": ({"id": [1, 2], "logits": [[1.0], None]}, "without gaps"),
}


@pytest.mark.parametrize("what", BAD)
def test_tables_that_cannot_be_meant(tmp_path: Path, what: str) -> None:
    """A mistake in a table would be found out in training, or never."""
    columns, told = BAD[what]
    pq.write_table(pa.table(columns), tmp_path / "theirs.parquet")
    with pytest.raises(InputError, match=told):
        convert(tmp_path / "theirs.parquet", tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    """A typing error would destroy knowledge that took days."""
    plain(tmp_path / "store")
    (tmp_path / "x.parquet").write_text("precious")
    for target in (tmp_path / "x.parquet", tmp_path / "store"):
        with pytest.raises(InputError, match="exists already"):
            convert(tmp_path / "store", target)
    with pytest.raises(InputError, match="could not be read"):
        convert(tmp_path / "x.parquet", tmp_path / "y")
    with pytest.raises(InputError, match="not a knowledge store"):
        convert(tmp_path / "nothing", tmp_path / "y.parquet")
    with pytest.raises(InputError, match=r"nothing\.parquet could not be read"):
        convert(tmp_path / "nothing.parquet", tmp_path / "y")
