"""Recipes of tables: trees teach networks and soft trees, classes and numbers, to what ships."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

import limbeck as lb
from limbeck import pipeline
from limbeck.errors import InputError
from limbeck.files import read_json
from limbeck.recipe import load

QUICK = (
    "train.epochs=2", "train.batch_size=32", "seeds=[0]", "evaluate.seconds=0.02",
    "evaluate.batch_size=8", "data.labelled=60",
)  # fmt: skip


@pytest.fixture(scope="module")
def census(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first rows of Adult."""
    folder = tmp_path_factory.mktemp("census")
    for split in ("train", "test"):
        file = data_root / "tabular_adult" / f"{split}.parquet"
        if not file.is_file():
            pytest.skip("no tabular_adult in the folder of real data")
        pq.write_table(pq.read_table(file).slice(0, 240), folder / f"{split}.parquet")
    return folder


def _run(name: str, folder: Path, out: Path, *changes: str) -> Path:
    return pipeline.run(load(name, [f"data.path={folder}", *QUICK, *changes]), out)


def test_trees_teach_a_tree_that_ships_with_its_columns(census: Path, tmp_path: Path) -> None:
    """What ships could not read a row, its rules name no column, or trees not know categories."""
    out = _run("tabular-tree", census, tmp_path / "run", "control=false")
    student = lb.students.load(out / "student")
    rows = pyarrow.parquet.read_table(census / "test.parquet").to_pylist()
    with torch.no_grad():
        answers = student(rows).argmax(1)
    right = (answers == torch.tensor([row["label"] for row in rows])).float().mean()
    report = read_json(out / "report.json")
    assert float(right) == pytest.approx(report["models"]["student"]["quality"]["accuracy"]["mean"])
    assert report["models"]["teacher"]["quality"]["accuracy"]["mean"] > 0.7
    told = student.model.rules(student.preprocess.features, ("poor", "rich"))
    assert len(told.splitlines()) == 15
    assert "age" in told or "education" in told or "marital" in told
    plan = read_json(out / "details.json")["plans"]["teacher"]["args"]
    assert plan["categorical_features"] == list(range(6, 14))
    assert "workclass " in (out / "report.html").read_text(encoding="utf-8")


def test_a_network_learns_from_trees(census: Path, tmp_path: Path) -> None:
    """The recipe that the tutorial begins with could break unseen."""
    report = read_json(_run("tabular", census, tmp_path / "run") / "report.json")
    assert report["models"].keys() == {"teacher", "student", "control"}


def test_numbers_are_learnt_and_come_back_in_their_units(census: Path, tmp_path: Path) -> None:
    """A student would ship that answers in standard deviations."""
    out = _run("regression", census, tmp_path / "run")
    report = read_json(out / "report.json")
    student, metric = report["models"]["student"], report["selection"]["metric"]
    assert metric == "r2"
    assert student["quality"].keys() == {"rmse", "mae", "r2"}
    rows = pyarrow.parquet.read_table(census / "test.parquet").to_pylist()
    with torch.no_grad():
        answers = lb.students.load(out / "student")(rows)[:, 0]
    errors = answers - torch.tensor([float(row["hours_per_week"]) for row in rows])
    assert float(errors.square().mean().sqrt()) == pytest.approx(
        student["quality"]["rmse"]["mean"], rel=1e-4
    )
    assert report["models"]["teacher"]["fidelity"]["agreement"] == 1
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "R²" in page
    assert 'id="examples"' in page


def test_numbers_without_a_folder(tmp_path: Path) -> None:
    """What the tutorial shows for those who have no data at hand could break."""
    changes = ["data={source: diabetes, labelled: 80}", "teacher.args={max_iter: 20}"]
    out = pipeline.run(load("regression", [*QUICK[:-1], *changes]), tmp_path / "run")
    student = lb.students.load(out / "student")
    patient = {"age": 59, "sex": "2", "bmi": 32.1, "bp": 101, "s1": 157, "s2": 93.2, "s3": 38,
               "s4": 4, "s5": 4.86, "s6": 87}  # fmt: skip
    assert 25 < float(student([patient]).detach()) < 346


@pytest.mark.parametrize(
    ("recipe", "changes", "told"),
    [
        ("regression", ["method=kd"], r"match kl compares classes.*Set method to logit_mse"),
        ("regression", ["task.name=classification"], "at least 2 classes"),
        ("tabular", ["task.name=regression"], r"targets of type torch.int64.*data.args.amounts"),
        ("tabular", ["teacher.inputs=rwa"], "field of the samples: 'rwa'"),
        ("tabular", ["teacher.args.max_leaves=3"], "max_leaves"),
    ],
)
def test_wrong_recipes_are_refused_before_training(
    recipe: str, changes: list[str], told: str, tmp_path: Path
) -> None:
    """A number would be learnt as a class, or the other way round."""
    table = pa.table({
        "age": [float(n) for n in range(80)],
        "hours_per_week": [float(n % 7) for n in range(80)],
        "label": [n % 2 for n in range(80)],
        "income": ["yes" if n % 2 else "no" for n in range(80)],
    })  # fmt: skip
    pyarrow.csv.write_csv(table, tmp_path / "train.csv")
    given = [f"data.path={tmp_path}", *QUICK, "data.labelled=40", *changes]
    with pytest.raises(InputError, match=told):
        pipeline.Run(load(recipe, given), pipeline.RunFolder(tmp_path / "run"), lb.Silent()).check()
