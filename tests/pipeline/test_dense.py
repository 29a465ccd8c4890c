"""Recipes that answer at many places: pixels and boxes, from scenes to the report."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scenes import write_coco, write_masks

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


def _run(name: str, out: Path, *changes: str, small: bool = True) -> Path:
    return pipeline.run(load(name, [*QUICK, *(SMALL[name] if small else []), *changes]), out)


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


YOLOS = (
    "{build: huggingface, args: {head: object_detection, config: {model_type: yolos, hidden_size: "
    "16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16, image_size: [64, 64],"
    " patch_size: 16, num_detection_tokens: QUERIES}}}"
)
SEGFORMER = (
    "{build: huggingface, args: {head: semantic_segmentation, config: {model_type: segformer, "
    "hidden_sizes: [4, 4, 8, 8], depths: [1, 1, 1, 1], num_attention_heads: [1, 1, 1, 1], "
    "decoder_hidden_size: 8}}}"
)


def test_sets_of_boxes_teach_sets_and_ship_as_a_file(tmp_path: Path) -> None:
    """Without it, detectors of transformers could neither teach, learn, be shown nor leave."""
    pytest.importorskip("transformers")
    models = [
        f"{role}={YOLOS.replace('QUERIES', count)}"
        for role, count in (("teacher", "6"), ("student", "4"))
    ]
    out = _run("detection", tmp_path / "run", MADE, *models, "method=set_detection", "export=onnx",
               small=False)  # fmt: skip
    report = read_json(out / "report.json")
    assert report["models"]["student"]["fidelity"]["kl"] is None  # sets have no places in common
    assert 0 <= report["models"]["student"]["fidelity"]["agreement"] <= 1
    assert report["models"]["student.onnx"]["quality"].keys() == (
        report["models"]["student"]["quality"].keys()
    )
    with torch.no_grad():
        answer = lb.students.load(out / "student")(torch.rand(2, 3, 64, 64))
    assert len(Detection(10, (64, 64)).boxes(answer["logits"])) == 2


@pytest.mark.parametrize("teacher", ["places", "sets"])
def test_boxes_that_a_teacher_finds_are_learnt_by_any_student(teacher: str, tmp_path: Path) -> None:
    """Without it, detectors of unlike kinds could not teach one another."""
    pytest.importorskip("transformers")
    role = {"places": "student", "sets": "teacher"}[teacher]
    changes = [f"{role}={YOLOS.replace('QUERIES', '4')}", "method=none", "knowledge.produce=true",
               "task.sure=0.06", MADE]  # fmt: skip
    dense = [each for each in SMALL["detection"] if not each.startswith(role)]
    out = _run("detection", tmp_path / "run", *changes, *dense, small=False)
    found = read_json(out / "stages" / "labels" / "labels-00000.json")
    assert sorted(found["rows"]) == list(range(16))
    assert all(len(box) == 5 for boxes in found["labels"] for box in boxes)
    assert read_json(out / "report.json")["models"].keys() == {"teacher", "student", "control"}


def test_folders_of_pictures_and_masks_are_learnt_from_segformer(tmp_path: Path) -> None:
    """Without it, people's own masks would have to be written as polygons first."""
    pytest.importorskip("transformers")
    folder = write_masks(tmp_path / "scenes", 16)
    changes = ["data={source: mask_folder, path: " + str(folder) + "}", f"teacher={SEGFORMER}"]
    out = _run("segmentation", tmp_path / "run", *changes, "student.args={channels: [4, 4]}",
               small=False)  # fmt: skip
    assert read_json(out / "details.json")["labels"][:2] == ["background", "0"]
    report = read_json(out / "report.json")
    assert 0 <= report["models"]["teacher"]["quality"]["mean_iou"]["mean"] <= 1


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("detection", ["method=kd"], "the method detection, or matches of 'output"),
        ("detection", ["data.args.targets=masks"], "a mapping with the boxes' classes"),
        ("detection", ["method=set_detection"], r"no \[boxes\] in a mapping with 'logits'"),
        ("segmentation", ["knowledge.produce=true"], "produce texts or labels that others"),
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
