"""Recipes that look and read, from tables to a student that is called with pictures and texts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import visual

import limbeck as lb
from limbeck import pipeline
from limbeck.errors import InputError
from limbeck.files import read_json
from limbeck.recipe import load

QUICK = (
    "data.limit=null", "data.labelled=36", "train.epochs=2", "teacher.train.epochs=1",
    "train.batch_size=8", "teacher.train.batch_size=8", "seeds=[0]", "evaluate.seconds=0.02",
    "evaluate.batch_size=4", "teacher.args={channels: [8, 8], words: 8, width: 8}",
)  # fmt: skip
TINY = "student.args={channels: [4, 4], words: 4, width: 4}"
MADE = (
    "data.labelled=12",
    "data.args.made={caption: 'a {} {}', words: [[red, green, blue], [square, bar]]}",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return visual.write_asked(tmp_path_factory.mktemp("asked"))


def _run(name: str, folder: Path, out: Path, *changes: str) -> Path:
    return pipeline.run(load(name, [f"data.path={folder}", *QUICK, TINY, *changes]), out)


def test_questions_are_answered_about_pictures(folder: Path, tmp_path: Path) -> None:
    """Without it, what ships could not look, or the report not show what was asked."""
    out = _run("multimodal", folder, tmp_path / "run")
    student = lb.students.load(out / "student")
    _, questions = visual.asked(12, 24)
    pairs = [(visual.picture(q["image_id"])[2], q["question"]) for q in questions]
    data = lb.data.sources.visual_questions(folder)
    with torch.no_grad():
        said = [data.labels[number] for number in student(pairs).argmax(1)]
    right = sum(a == q["answer"] for a, q in zip(said, questions, strict=True)) / 36
    measured = read_json(out / "report.json")["models"]["student"]["quality"]["accuracy"]
    assert right == pytest.approx(measured["values"][0])
    page = (out / "report.html").read_text(encoding="utf-8")
    samples = [
        sample for group in read_json(out / "details.json")["examples"]["groups"]
        for sample in group["samples"]
    ]  # fmt: skip
    for sample in samples:
        assert sample["shown"]["caption"] in page
        assert sample["shown"]["src"] in page


def test_a_student_that_never_sees_the_picture(folder: Path, tmp_path: Path) -> None:
    """Without it, a teacher of two modalities could teach no student of one."""
    changes = ("student.args.modalities=[question]", "method=[{name: kd}]", "control=false")
    out = _run("multimodal", folder, tmp_path / "run", *changes)
    student = lb.students.load(out / "student")
    assert student([(None, "what shape is there?")]).shape == (1, 6)
    assert "looking" not in " ".join(dict(student.named_modules()))


def test_two_towers_learn_from_two(folder: Path, tmp_path: Path) -> None:
    """Without it, affinities between towers could be losses that no recipe reaches."""
    out = _run("clip", folder, tmp_path / "run", *MADE)
    history = read_json(out / "stages" / "student-0" / "training.json")["history"]
    assert any("affinity_mimic" in name for name in history[0]["train"])
    encode = lb.students.load(out / "student")
    assert encode([(None, "a red square"), (None, "a blue bar")]).shape == (2, 1, 4)
    found = read_json(out / "report.json")["models"]["student"]["quality"]
    assert found.keys() == {
        "recall_at_1", "image_to_text_at_1", "image_to_text_at_5", "text_to_image_at_1",
        "text_to_image_at_5",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("multimodal", "data.args.question=asked", "column 'asked' is not known"),
        ("multimodal", "data.augment=[flip]", "augmentation of inputs that are a mapping"),
        ("multimodal", "task.name=image_text", r"Expected: \(B, 2, D\)"),
        ("clip", "data.args.made.words=[[purple], [square]]", "no caption can be made"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_trained(
    name: str, change: str, message: str, folder: Path, tmp_path: Path
) -> None:
    """Without it, minutes of training could pass before a mistake is found."""
    more = MADE if name == "clip" else ()
    changes = [f"data.path={folder}", *QUICK, TINY, *more, change]
    running = pipeline.Run(load(name, changes), pipeline.RunFolder(tmp_path), lb.Silent())
    with pytest.raises(InputError, match=message):
        running.check()


@pytest.mark.parametrize("name", ["clip", "multimodal"])
def test_recipes_on_real_pictures_run_at_tiny_scale(
    name: str, data_root: Path, tmp_path: Path
) -> None:
    """Without it, the recipes that need data could break unseen."""
    place = data_root / "multimodal_easy_vqa"
    if not place.is_dir():
        pytest.skip("no multimodal_easy_vqa in the folder of real data")
    out = _run(name, place, tmp_path / "run", "data.limit=64")
    report = read_json(out / "report.json")
    assert report["models"].keys() == {"teacher", "student", "control"}
