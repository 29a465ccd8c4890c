"""A run that prunes and quantizes: its stages, its files, and what is refused beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import limbeck as lb
from limbeck import pipeline
from limbeck.errors import InputError
from limbeck.files import read_json
from limbeck.recipe import load

pytest.importorskip("torch_pruning")
pytest.importorskip("onnxscript")

TINY = str(Path(__file__).with_name("tiny.yaml"))
STEPS = [
    "train.epochs=3",
    "compress=[{prune: {parameters: 0.6, steps: 2, importance: taylor, train: {epochs: 1}}}, "
    "{quantize: {keep: auto, within: 0, calibrate: 32}}, "
    "{quantize: {scheme: aware, bits: 4, ranges: percentile, keep: [classifier], "
    "train: {epochs: 1}}}]",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipeline.run(load(TINY, STEPS), tmp_path_factory.mktemp("compressed") / "run")


def test_every_step_is_a_stage_and_is_measured(finished: Path) -> None:
    """Without it, the report would show the student alone, and not what ships."""
    report = read_json(finished / "report.json")
    names = [stage["name"] for stage in report["stages"]]
    assert names[4:10] == [
        "student-pruned-1", "student-pruned", "student-pruned.onnx", "student-pruned-int8.onnx",
        "student-pruned-aware", "student-pruned-aware.onnx",
    ]  # fmt: skip
    made = {
        name: model for name, model in report["models"].items() if model["role"] == "compressed"
    }
    assert {
        "student-pruned",
        "student-pruned-int8.onnx",
        "student-pruned-aware-int4.onnx",
    } <= made.keys()
    whole = report["models"]["student"]["cost"]["parameters"]
    assert 0.5 * whole < made["student-pruned"]["cost"]["parameters"] <= 0.6 * whole
    assert all(model["quality"]["accuracy"]["mean"] >= 0 for model in made.values())
    assert (finished / "export" / "student-pruned-aware-int4.onnx").is_file()


def test_the_pruned_student_is_loaded_from_its_stage(finished: Path) -> None:
    """Without it, a pruned student could be measured, and not used."""
    student = lb.students.load(finished / "stages" / "student-pruned" / "student")
    test = lb.data.sources.digits().limited(256).test
    with torch.inference_mode():
        right = student(test.column("inputs")).argmax(1) == test.column("targets")
    told = read_json(finished / "report.json")["models"]["student-pruned"]["quality"]["accuracy"]
    assert float(right.float().mean()) == pytest.approx(told["mean"], abs=1e-6)


def test_a_second_run_skips_all_of_it(finished: Path) -> None:
    """Without it, a changed step could be skipped, or an old one done again."""
    pipeline.run(load(TINY, STEPS), finished)
    stages = read_json(finished / "report.json")["stages"]
    assert all(stage["skipped"] for stage in stages)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            "{prune: {paramters: 0.5}}",
            "compress.0.prune.paramters is not a key; did you mean 'param",
        ),
        ("{prune: {steps: 2}}", "give either parameters or macs"),
        ("{prune: {macs: 0.5, importance: taylr}}", "should be 'magnitude'"),
        ("{shave: {}}", "compress.0.shave is not a key"),
        ("{quantize: {scheme: dynamic, bits: 4}}", "dynamic has weights of 8 bits"),
        ("{quantize: {scheme: aware, keep: auto}}", "must be known before"),
        ("{quantize: {scheme: weights, calibrate: 3}}", "calibrate means nothing for weights"),
        ("{quantize: {train: {epochs: 3}}}", "train means nothing for static"),
        ("{quantize: {within: 0.1}}", "within means nothing"),
    ],
)
def test_wrong_keys_are_refused_when_the_recipe_is_read(step: str, message: str) -> None:
    """Without it, a wish could be dropped without a word."""
    with pytest.raises(InputError, match=message):
        load(TINY, [f"compress=[{step}]"])


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("{prune: {parameters: 0.01}}", "for each layer keeps a unit"),
        ("{prune: {parameters: 0.5, keep: [conv7]}}", "did you mean 'conv1'"),
        ("{quantize: {keep: [conv7]}}", "did you mean 'conv1'"),
    ],
)
def test_wrong_steps_are_refused_before_training(tmp_path: Path, step: str, message: str) -> None:
    """Without it, hours of training would come before the message."""
    with pytest.raises(InputError, match=message):
        pipeline.run(load(TINY, [f"compress=[{step}]"]), tmp_path / "run")
    assert not (tmp_path / "run" / "stages").exists()


def test_steps_train_as_the_student_does_unless_they_say_otherwise() -> None:
    """Without it, recovery could run for Limbeck's default of thirty epochs."""
    steps: Any = load(
        TINY, ["compress=[{prune: {macs: 0.5}}, {quantize: {scheme: aware}}]"]
    ).compress
    assert (steps[0].prune.train.epochs, steps[0].prune.train.batch_size) == (2, 32)
    assert steps[1].quantize.train.optimizer == {"name": "adamw", "lr": 5e-4}
