"""A model of pictures teaches one of clips; a teacher of other classes teaches by its features."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pictures import photographs

import limbeck as lb
from limbeck import pipeline
from limbeck.errors import InputError
from limbeck.files import read_json
from limbeck.recipe import load

QUICK = (
    "train.epochs=1", "train.batch_size=16", "seeds=[0]", "evaluate.seconds=0.02",
    "evaluate.batch_size=4", "data.labelled=24", "data.limit=48", "train.precision=fp32",
)  # fmt: skip


def few(data_root: Path, name: str, folder: Path) -> Path:
    """Write the first rows of a data set of images, so that nothing else has to be read."""
    for split in ("train", "test"):
        file = data_root / name / f"{split}.parquet"
        if not file.is_file():
            pytest.skip(f"no {name} in the folder of real data")
        rows = next(pq.ParquetFile(file).iter_batches(200 if split == "train" else 40))
        pq.write_table(pa.Table.from_batches([rows]), folder / f"{split}.parquet")
    return folder


def test_a_model_of_pictures_teaches_one_of_clips(data_root: Path, tmp_path: Path) -> None:
    """The recipe could break unseen, or its teacher see clips otherwise than it was trained."""
    path = few(data_root, "cifar10", tmp_path)
    weights = data_root / "checkpoints_cifar10_resnet" / "resnet20.safetensors"
    changes = [
        f"data.path={path}", f"teacher.weights={weights}", *QUICK, "data.args.frames=2",
        "method=[{name: kd}, {match: [each, each], loss: kl, temperature: 4}]",
    ]  # fmt: skip
    out = pipeline.run(load("video", changes), tmp_path / "run")
    report = read_json(out / "report.json")
    assert report["models"]["teacher"]["quality"]["accuracy"]["mean"] > 0.7
    record = read_json(out / "stages" / "student-0" / "training.json")
    assert {"kl", "kl each"} <= record["history"][0]["train"].keys()
    student = lb.students.load(out / "student")
    with torch.no_grad():
        assert student(torch.rand(2, 3, 3, 32, 32)).shape == (2, 10)
    assert 'pictures of 32×32"' in (out / "report.html").read_text(encoding="utf-8")


def test_a_teacher_of_other_classes_is_not_measured(data_root: Path, tmp_path: Path) -> None:
    """Its answers would be taken for those of the data's classes, and its quality be a guess."""
    path = few(data_root, "cifar100", tmp_path)
    weights = data_root / "checkpoints_cifar10_resnet" / "resnet56.safetensors"
    changes = [f"data.path={path}", f"teacher.weights={weights}", *QUICK]
    out = pipeline.run(load("transfer", changes), tmp_path / "run")
    report = read_json(out / "report.json")
    teacher = report["models"]["teacher"]
    assert set(teacher["quality"].values()) == {None}
    assert teacher["quality"].keys() == report["models"]["student"]["quality"].keys()
    assert teacher["fidelity"] == {"values": {}} == report["models"]["student"]["fidelity"]
    assert teacher["cost"]["parameters"] == 853_018
    assert "answers something else" in report["verdict"]
    assert "not measured" in (out / "report.html").read_text(encoding="utf-8")
    assert report["models"]["student"]["quality"]["accuracy"]["mean"] is not None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["teacher.answers=true"], r"\(2, 9\).*set teacher.answers to false"),
        (["teacher.answers=true", "method=kd"], r"Build the teacher with 2 classes\.$"),
        (["method=kd"], "teacher.answers is false, and the match kl is with its answers"),
        ([], "is yet to be trained on these labels"),
    ],
)
def test_teachers_of_other_classes_are_told_apart(
    changes: list[str], told: str, tmp_path: Path
) -> None:
    """A student could learn another task's classes in the place of its own."""
    given = [
        f"data.path={photographs(tmp_path / 'pictures')}", "data.source=image_folder",
        "data.args={size: 16}", "data.limit=null", "data.labelled=null", "teacher.build=resnet8",
        "teacher.args={classes: 9}", *changes,
    ]  # fmt: skip
    running = pipeline.Run(
        load("transfer", given), pipeline.RunFolder(tmp_path / "run"), lb.Silent()
    )
    with pytest.raises(InputError, match=told):
        running.check()
