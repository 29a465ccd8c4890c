"""Tables: what is missing or was never seen, means of training rows alone, two sorts of targets."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from limbeck.data import sources
from limbeck.data.columns import Columns
from limbeck.errors import InputError

TRAIN = """age,town,code,label
30,Bern,1,yes
50,Rome,2,no
,Rome,1,yes
40,?,1,no
20,Bern,2,yes
40,Rome,1,
"""
TEST = """age,town,code,label
1000,Oslo,1,no
30,,9,yes
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.csv").write_text(TRAIN)
    (tmp_path / "test.csv").write_text(TEST)
    return tmp_path


def test_numbers_are_scikit_learns_and_of_training_rows_alone(folder: Path) -> None:
    """Means that know the test rows would make every result too good."""
    data = sources.table(folder, categorical=["code"], validation=0.34)
    rows = [line.split(",") for line in TRAIN.splitlines()[1:]]
    kept = [rows[place] for place in data.train.ids.tolist()]
    ages = np.array([[float(row[0] or "nan")] for row in kept])
    known = [None if row[1] == "?" else row[1] for row in kept]
    scaled = np.nan_to_num(StandardScaler().fit_transform(ages))
    found = data.train.column("inputs").numpy()
    np.testing.assert_allclose(found[:, :1], scaled, atol=1e-6)
    words = np.array([[word or "missing", row[2]] for word, row in zip(known, kept, strict=True)])
    names = [feature.name for feature in data.reader.features]
    hot = OneHotEncoder(sparse_output=False).fit(words)
    order = [f"town = {w}" for w in hot.categories_[0]] + [
        f"code = {w}" for w in hot.categories_[1]
    ]
    places = [names.index(name) for name in order]
    np.testing.assert_array_equal(found[:, places], hot.transform(words))
    assert data.labels == ("no", "yes")
    assert data.facts["raw"]["categorical_features"] == [1, 2]


def test_what_is_missing_or_was_never_seen(folder: Path) -> None:
    """An unknown town would be taken for another one, and a gap for a number."""
    data = sources.table(folder, categorical=["code"], validation=0.2)
    names = [feature.name for feature in data.reader.features]
    test = data.test.column("inputs")
    assert not test[0, [names.index(n) for n in names if n.startswith("town")]].any()
    assert not test[1, [names.index(n) for n in names if n.startswith("code")]].any()
    raw = data.test.column("raw")
    assert raw[0, 0] == 1000
    assert math.isnan(raw[0, 1])
    assert math.isnan(raw[1, 2])
    assert data.test.column("targets").tolist() == [0, 1]
    labels = torch.cat([s.column("targets") for s in (data.train, data.validation)])
    assert sorted(labels.tolist()) == [-1, 0, 0, 1, 1, 1]


def test_the_reader_does_with_a_row_what_the_source_did(folder: Path, tmp_path: Path) -> None:
    """What ships would see other numbers than it was trained on."""
    data = sources.table(folder, validation=0.2)
    facts = data.reader.save(tmp_path)
    again = Columns.of(tmp_path, facts)
    assert again.save(tmp_path) == facts
    rows = [{"age": 1000, "town": "Oslo", "code": 1}, {"age": 30, "town": None, "code": 9}]
    assert torch.equal(again(rows), data.test.column("inputs"))
    assert again.answered(torch.ones(1, 2)).tolist() == [[1, 1]]
    with pytest.raises(InputError, match=r"row 0 has no town.*age, code, town|row 0 has no town"):
        again([{"age": 3, "code": 1}])
    with pytest.raises(InputError, match=r"column age: could not convert.*categorical"):
        again([{"age": "old", "town": "Rome", "code": 1}])
    assert data.test.shown(0) == {"kind": "text", "text": "age 1000, town Oslo, code 1"}


def test_numbers_to_be_predicted_are_standardised(folder: Path) -> None:
    """Losses and weights would mean something else for each unit."""
    data = sources.table(folder, amounts="age", drop=["label"], validation=0.2)
    center, scale = (data.facts["targets"][name][0] for name in ("center", "scale"))
    known = data.train.column("targets")[:, 0]
    known = known[~known.isnan()]
    assert float(known.mean()) == pytest.approx(0, abs=1e-6)
    assert float(known.std()) == pytest.approx(1)
    assert float(data.test.column("targets")[0]) * scale + center == pytest.approx(1000)
    assert data.reader.answered(torch.zeros(1, 1)).tolist() == [[pytest.approx(center)]]
    hidden = data.hiding(2)
    assert len(hidden.labelled) == 2
    assert int(hidden.train.column("targets").isnan().sum()) == len(data.train) - 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"target": "income"}, "column 'income' is not known"),
        ({"target": "label", "amounts": "age"}, "expected|Expected: one of them"),
        ({"amounts": "town", "drop": ["label"]}, r"'Bern' in the column town.*data.args.target"),
        ({"drop": ["wage"]}, "column 'wage'"),
    ],
)
def test_wrong_columns_are_told(options: dict[str, object], told: str, folder: Path) -> None:
    """Minutes of training could pass before, or a class be learnt as an amount."""
    with pytest.raises(InputError, match=told):
        sources.table(folder, **options)  # type: ignore[arg-type]


def test_a_file_alone_and_a_column_with_fractions(tmp_path: Path) -> None:
    """A single table would need to be moved, and an amount become thousands of classes."""
    file = tmp_path / "rows.csv"
    file.write_text("x,target\n" + "".join(f"{n},{n % 3}\n" for n in range(30)))
    data = sources.table(file)
    assert (len(data.train), len(data.validation), len(data.test)) == (21, 3, 6)
    assert data.labels == ("0", "1", "2")
    file.write_text("x,target\n1,0.5\n2,1.5\n")
    with pytest.raises(InputError, match=r"fractions.*data.args.amounts"):
        sources.table(file)
    file.write_text("x,y\n1,0.5\n2,1.5\n")
    with pytest.raises(InputError, match="none of the columns x, y is called label or target"):
        sources.table(file)
