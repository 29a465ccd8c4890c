"""A recipe whose student answers through its teacher's classifier."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import limbeck as lb
from limbeck import pipeline
from limbeck.files import read_json
from limbeck.losses.heads import FrozenClassifier
from limbeck.recipe import load

TINY = str(Path(__file__).with_name("tiny.yaml"))
CHANGES = [
    "teacher={build: resnet, args: {depth: 8, widths: [8, 8, 8, 16]}, train: {epochs: 3}}",
    "student={build: resnet, args: {depth: 8, widths: [4, 4, 8, 8]}, reuse_classifier: true}",
    "data.limit=128",
    "knowledge.store=false",
    "train.epochs=2",
    "method=simkd",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipeline.run(load(TINY, CHANGES), tmp_path_factory.mktemp("simkd") / "run")


def test_the_student_that_ships_ends_in_the_teachers_classifier(finished: Path) -> None:
    """An untrained projector, or a classifier that is not the teacher's, would be measured."""
    facts = read_json(finished / "student" / "student.json")
    student = lb.students.load(finished / "student")
    [head] = [part for part in student.modules() if isinstance(part, FrozenClassifier)]
    run = next(folder for folder in (finished / "stages").iterdir() if "teacher" in folder.name)
    weights = lb.students.read_weights(run / "best.safetensors")
    assert torch.equal(head.weight, weights[f"{facts['reuse']['teacher_head']}.weight"])
    test = lb.data.sources.digits().limited(128).test
    with torch.inference_mode():
        right = student(test.column("inputs")).argmax(1) == test.column("targets")
    report = read_json(finished / "report.json")["models"]
    assert float(right.float().mean()) == pytest.approx(
        report["student"]["quality"]["accuracy"]["values"][0], abs=1e-6
    )
    assert report["student"]["cost"] is not None


def test_its_control_learns_a_classifier_of_its_own(finished: Path) -> None:
    """A control with an empty or a random frozen classifier would make any method look good."""
    stages = {folder.name: folder for folder in (finished / "stages").iterdir()}
    control, student = (
        lb.students.read_weights(folder / "best.safetensors")
        for role in ("control", "student")
        for name, folder in stages.items()
        if name.startswith(role)
    )
    assert control.keys() == student.keys()
    head = read_json(finished / "student" / "student.json")["reuse"]["head"]
    name = f"student.{head}.weight"
    assert torch.isfinite(control[name]).all()
    assert not torch.equal(control[name], student[name])


def test_a_student_with_its_own_classifier_is_refused() -> None:
    """Its answers would stay random, after hours of training."""
    changes = [*CHANGES, "student={build: resnet8}"]
    with pytest.raises(lb.InputError, match=r"in a recipe: student: \{reuse_classifier: true\}"):
        pipeline.run(load(TINY, changes), Path("never"))
