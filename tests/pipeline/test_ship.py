"""What stands between training and shipping: cuts, files that are checked, stages taken over."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torchmetrics import metric

import limbeck as lb
from limbeck import export
from limbeck.data import Arrays
from limbeck.data.jagged import Jagged
from limbeck.errors import InputError
from limbeck.export import Signature, Whole
from limbeck.pipeline import cut, quantize, ship
from limbeck.pipeline.folder import Finished, RunFolder
from limbeck.pipeline.measure import measure
from limbeck.pipeline.run import Run
from limbeck.progress import Silent
from limbeck.recipe import CutPart, load
from limbeck.students import Blueprint


def _run(validation: Arrays) -> Any:
    """As much of a run as these functions look at."""
    return SimpleNamespace(
        data=SimpleNamespace(validation=validation),
        task=lb.tasks.Classification(2),
        here=SimpleNamespace(rank=0),
        folder=SimpleNamespace(barrier=lambda: None),
    )


def _texts(lengths: list[int]) -> Arrays:
    words = Jagged.of([[1] * n for n in lengths], padding=0)
    return Arrays.of(inputs=words, targets=torch.zeros(len(lengths), dtype=torch.int64))


def tied() -> nn.Module:
    """Return a model in which one weight has two names, as language models have it."""
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    return model


def test_lengths_that_come_late_are_seen() -> None:
    """Without it, all texts would be cut to one length if the first ones happen to have it."""
    takes = ship.signature(_run(_texts([4] * 70 + [3, 9] + [4] * 70)))
    assert takes.example[0].shape == (2, 9)
    assert takes.free[0] == {0: "batch", 1: "length"}


def test_samples_are_of_all_classes() -> None:
    """Without it, ranges would be those of one class, where a folder is sorted by class."""
    targets = torch.arange(1000) // 500
    run = _run(Arrays.of(inputs=torch.zeros(1000, 2), targets=targets))
    found = [batch["targets"] for batch in ship.validation(run, 100, 32)]
    assert [len(part) for part in found] == [32, 32, 32, 4]
    assert 35 <= int(torch.cat(found).sum()) <= 65


def test_what_teachers_say_is_measured_anew() -> None:
    """Without it, ``teacher.answers`` could be changed, and the report would stay as it was."""
    facts = []
    for answers in (True, False):
        run = _run(Arrays.of(targets=torch.zeros(1)))
        run.recipe = load("digits", [] if answers else ["teacher.answers=false"])
        run.data.fingerprint = lambda: ""
        run.stage = lambda name, made_from, work: made_from
        facts.append(measure(run, []))
    assert facts[0] != facts[1]


def test_what_a_trained_student_learns_later_counts(tmp_path: Path) -> None:
    """Without it, a network pruned with one method would be taken for one pruned with another."""
    weights = tmp_path / "model.safetensors"
    weights.touch()
    student = f"student={{build: cnn, args: {{channels: [4]}}, weights: {weights}, trained: true}}"
    changes = [student, "control=false", "seeds=[0]", "compress=[{prune: {parameters: 0.5}}]"]
    facts = []
    for more in (["method={name: kd}"], ["method={name: dkd}"]):
        run = Run(load("digits", [*changes, *more]), RunFolder(tmp_path), Silent())
        run.stage = lambda name, made_from, work: made_from  # type: ignore[method-assign]
        facts.append(run.student(0, Finished("teacher", tmp_path, "t", 0.0, False), None))
    assert facts[0] != facts[1]


def test_a_cut_network_may_have_a_weight_under_two_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, a language model would end its run, its teacher trained, in a traceback."""
    plan = Blueprint(f"{__name__}:tied", {})
    monkeypatch.setattr(cut, "smaller", lambda run, network, *rest: (network, plan))
    whole = tied()
    left = cut.cut(_run(_texts([1])), tmp_path, lambda: whole, plan, CutPart(parameters=0.5), 0.5)
    assert torch.equal(left[2].weight, whole[0].weight)
    assert left[2].weight is left[0].weight


def test_a_file_is_judged_by_one_process_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, ``keep: auto`` would wait for ever for processes that judge nothing."""
    monkeypatch.setattr(metric, "jit_distributed_available", lambda: pytest.fail("waits"))
    samples = Arrays.of(inputs=torch.eye(2), targets=torch.tensor([0, 1]))
    model = nn.Linear(2, 2)
    nn.init.eye_(model.weight)
    takes = Signature.of([torch.ones(1, 2)])
    export.get("onnx").write(Whole(None, model).eval(), takes, tmp_path / "m.onnx", {})
    assert quantize._score(_run(samples), tmp_path / "m.onnx") == 1.0


def test_a_folder_that_was_moved_already_is_replaced(tmp_path: Path) -> None:
    """Without it, a stage that was stopped at its very end could never be finished."""
    for text in ("first", "second"):
        with ship.unchecked(tmp_path) as draft:
            (draft / "student-huggingface").mkdir()
            (draft / "student-huggingface" / "config.json").write_text(text)
    assert (tmp_path / "student-huggingface" / "config.json").read_text() == "second"


def test_a_stage_that_was_taken_over_by_half_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, a copy that was stopped would pass for a finished stage, files missing."""
    one, other = (RunFolder(tmp_path / name) for name in ("one", "other"))
    for run in (one, other):
        (run.path / "stages").mkdir(parents=True)
    one.stage("teacher", {}, lambda path: None)

    def stopped(source: Path, target: Path) -> None:
        shutil.copyfile(source / "stage.json", target.mkdir() or target / "stage.json")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("limbeck.pipeline.folder.shutil.copytree", stopped)
        with pytest.raises(KeyboardInterrupt):
            other.reuse(one.path)
    other.closed = True
    with pytest.raises(InputError, match="its stage teacher is not done"):
        other.stage("teacher", {}, lambda path: None)
    other.reuse(one.path)
    assert other.stage("teacher", {}, lambda path: None).skipped
