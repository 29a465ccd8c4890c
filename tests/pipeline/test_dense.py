"""Recipes that answer at many places: pixels and boxes, from scenes to the report."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scenes import write_coco

import limbeck as lb
from limbeck import pipeline
from limbeck.errors import InputError
from limbeck.files import read_json
from limbeck.recipe import load
from limbeck.tasks import Detection

pytest.importorskip("faster_coco_eval")
QUICK = (
    "train.epochs=1", "teacher.train.epochs=1", "train.batch_size=8", "seeds=[0]",
    "evaluate.seconds=0.02", "evaluate.batch_size=4", "train.precision=fp32",
)  # fmt: skip
MADE = "data.args.scenes=16"
SMALL = {
    "detection": ["teacher.args={channels: [6, 8, 8], neck: 8}",
                  "student.args={channels: [4, 4, 4], neck: 4}"],
    "segmentation": ["teacher.args={channels: [6, 8]}", "student.args={channels: [4, 4]}",
                     "data.labelled=8"],
}  # fmt: skip


def _run(name: str, out: Path, *changes: str) -> Path:
    return pipeline.run(load(name, [*QUICK, *SMALL[name], *changes]), out)


@pytest.mark.parametrize("name", ["detection", "segmentation"])
def test_the_report_draws_what_each_model_says(name: str, tmp_path: Path) -> None:
    """Without it, nobody could judge where teacher and student differ."""
    out = _run(name, tmp_path / "run", MADE)
    report = read_json(out / "report.json")
    assert (
        report["selection"]["metric"] == {"detection": "box_map", "segmentation": "mean_iou"}[name]
    )
    assert read_json(out / "details.json")["data"]["name"].startswith("scenes composed of digits")
    found = read_json(out / "details.json")["examples"]
    page = (out / "report.html").read_text(encoding="utf-8")
    shown = [entry for group in found["groups"] for entry in group["samples"]]
    for entry in shown:
        assert entry["drawn"]["src"] in page
        assert entry["answers"].keys() == {"teacher", "student", "control"}
        assert all(answer["drawn"]["src"] in page for answer in entry["answers"].values())
    assert shown or not found["differing"]
    student, pictures = lb.students.load(out / "student"), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        answer = student(pictures)
    if name == "detection":
        assert len(Detection(10, (64, 64)).boxes(answer["logits"])) == 2
    else:
        assert answer.shape == (2, 11, 64, 64)


@pytest.mark.parametrize("name", ["detection", "segmentation"])
def test_recipes_run_on_files_of_coco(name: str, tmp_path: Path) -> None:
    """Without it, people's own pictures could not be learnt from."""
    path = write_coco(tmp_path / "scenes", 16)
    stored = [
        "data.labelled=null",
        "data.augment=[flip, {crop: 2}]",
        "knowledge.store=true",
        "knowledge.views=1",
    ]
    out = _run(name, tmp_path / "run", "data.source=coco", f"data.path={path}", *stored)
    assert read_json(out / "details.json")["labels"][-1] == "9"
    assert (out / "stages" / "knowledge" / "store").is_dir()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("detection", ["method=kd"], "the method detection, or matches of 'output"),
        ("detection", ["data.args.targets=masks"], "a mapping with the boxes' classes"),
        ("detection", ["task.bins=5"], r"\(B, 320, 30\)"),
        ("segmentation", ["data.args.targets=boxes"], "whole numbers: a class for each pixel"),
        ("segmentation", ["data.augment=[{mixup: 0.2}]"], "Mixup.*for labels that have a place"),
        ("segmentation", ["teacher.augment=[{resized_crop: 64}]"], "ResizedCrop.*have a place"),
        (
            "segmentation",
            ["knowledge.codec=top2", "knowledge.store=true"],
            r"the codec top2.*\(2, 11, 64, 64\)",
        ),
    ],
)
def test_wrong_recipes_are_refused_before_training(
    name: str, changes: list[str], message: str, tmp_path: Path
) -> None:
    """Without it, minutes of training could pass before a wrong key is found."""
    recipe = load(name, [*QUICK, *SMALL[name], MADE, *changes])
    running = pipeline.Run(recipe, pipeline.RunFolder(tmp_path / "run"), lb.Silent())
    with pytest.raises(InputError, match=f"(?s){message}"):
        running.check()
