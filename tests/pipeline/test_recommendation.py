"""Recipes that recommend: from a table of purchases to a student that is called with articles."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from purchases import ITEMS, bought, write_shop

import limbeck as lb
from limbeck import cli, pipeline
from limbeck.files import read_json
from limbeck.recipe import load

QUICK = (
    "train.epochs=1", "teacher.train.epochs=1", "train.batch_size=32",
    "teacher.train.batch_size=32", "teacher.args.width=12", "seeds=[0]",
    "evaluate.seconds=0.02", "evaluate.batch_size=8", "data.limit=64",
)  # fmt: skip
OWN = ("data.args.table=interactions", "student.args={width: 4, dropout: 0.0}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("shop"))


def _run(name: str, folder: Path, out: Path, *changes: str) -> Path:
    return pipeline.run(load(name, [f"data.path={folder}", *QUICK, *changes]), out)


def test_the_student_ships_and_the_report_shows_customers(folder: Path, tmp_path: Path) -> None:
    """Without it, what ships could not be asked about a customer, nor a page show the usual one."""
    out = _run("shop", folder, tmp_path / "run", *OWN, "method=rd", "data.limit=80")
    student = lb.students.load(shutil.copytree(out / "student", tmp_path / "student"))
    with torch.no_grad():
        scores = student([[100 + n for n in bought(p)[:-1]] for p in range(40)])
    assert scores.shape == (40, ITEMS)
    for person in range(40):
        scores[person, bought(person)[:-1]] = -torch.inf
    wanted = torch.tensor([bought(person)[-1] for person in range(40)])
    hits = (scores.topk(10).indices == wanted.unsqueeze(1)).any(1).double().mean()
    report = read_json(out / "report.json")
    found = report["models"]["student"]["quality"]
    assert found["hit_rate_at_10"]["values"] == [pytest.approx(float(hits))]
    assert found.keys() == {"hit_rate_at_10", "ndcg_at_10", "mrr", "loss"}
    examples = read_json(out / "details.json")["examples"]
    group = examples["groups"][0]
    assert (group["title"], len(group["samples"])) == ("Chosen by chance", 5)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Came next" in page
    for entry in group["samples"]:
        assert entry["shown"]["text"] in page
        assert len(entry["answers"]["student"]["shares"]) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([], "there is no folder or file nowhere"),
        (["data.path=DATA", "data.args={user: customer}"], "Set data.args.user"),
        (["data.path=DATA", "data.args.table=interaction"], "did you mean 'interactions'?"),
        (
            ["data.path=DATA", "data.args.table=interactions", "student.args.classes=2"],
            "Expected: (B, 30): the data has 30 classes",
        ),
    ],
)
def test_wrong_input_gets_one_message_and_status_2(
    changes: list[str],
    message: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without it, a wrong column would end in a traceback."""
    stated = [change.replace("DATA", str(folder)) for change in ("data.path=nowhere", *changes)]
    words = [word for change in stated for word in ("--set", change)]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["limbeck", "run", "shop", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert message in told
    assert "Traceback" not in told


def test_an_attentive_student_learns_from_a_factorisation(folder: Path, tmp_path: Path) -> None:
    """Without it, a change to the usual student could not be tried on a small table."""
    changes = ["data.args.table=interactions", "student.build=sasrec", "student.args.width=4",
               "student.args.depth=1"]  # fmt: skip
    out = _run("shop", folder, tmp_path / "run", *changes)
    assert read_json(out / "report.json")["models"].keys() == {"teacher", "student", "control"}
    student = lb.students.load(out / "student")
    with torch.no_grad():
        assert student([[100, 107], [103]]).shape == (2, ITEMS)


@pytest.mark.parametrize(
    ("name", "place", "student"),
    [
        ("recommendation", "rec_amazon_toys_5core", "gru4rec"),
        ("shop", "rec_online_retail", "sasrec"),
    ],
)
def test_recipes_on_real_data_run_at_tiny_scale(
    name: str, place: str, student: str, data_root: Path, tmp_path: Path
) -> None:
    """Without it, the recipes that need data could break unseen."""
    if not (data_root / place).is_dir():
        pytest.skip(f"no {place} in the folder of real data")
    changes = [f"student.build={student}", "student.args={width: 4}"]
    out = _run(name, data_root / place, tmp_path / "run", *changes)
    report = read_json(out / "report.json")
    assert report["models"].keys() == {"teacher", "student", "control"}
    assert report["test_samples"] == 32
