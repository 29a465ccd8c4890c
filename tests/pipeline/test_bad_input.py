"""Wrong input: one clear message, exit status 2, no traceback, nothing lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import limbeck as lb
from limbeck.pipeline import run
from limbeck.recipe import load

TINY = str(Path(__file__).with_name("tiny.yaml"))
OWN = """
import numpy as np
import torch

def wrong_labels():
    x = np.zeros((40, 1, 8, 8), np.float32)
    labels = [str(number) for number in range(10)]
    return {"train": (x, np.full(40, 12)), "test": (x, np.zeros(40, int)), "labels": labels}

def raises():
    raise RuntimeError("the disk with the data is gone")

def not_a_module():
    return {"a": 1}

def five_classes():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5))

def explodes(student, teacher):
    return student.sum() * float("nan")
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "digitz"], "recipe 'digitz' is not known; did you mean 'digits'?"),
        (["run", "none.yaml"], "none.yaml could not be read"),
        (["run", TINY, "--set", "trian.epochs=1"], "did you mean 'train'?"),
        (["run", TINY, "--set", "train.epochs=lots"], "train.epochs is 'lots'"),
        (["run", TINY, "--set", "train.epochs"], "--set train.epochs"),
        (["run", TINY, "--set", "train.optimizer={name: sdg, lr: 0.1}"], "did you mean 'sgd'"),
        (["run", TINY, "--set", "train.optimizer={name: sgd, lr: -1}"], "learning rate of -1"),
        (["run", TINY, "--set", "train.schedule={name: one_cicle}"], "did you mean 'one_cycle'?"),
        (["run", TINY, "--set", "method.name=kdd"], "method 'kdd' is not known; did you mean 'kd'"),
        (["run", TINY, "--set", "method.temprature=2"], "did you mean 'temperature'?"),
        (["run", TINY, "--set", "method.temperature=-2"], "temperature is -2"),
        (["run", TINY, "--set", "method.alpha=2"], "alpha is 2"),
        (["run", TINY, "--set", "method={match: [fc9, fc1], loss: hint}"], "did you mean 'fc1'?"),
        (["run", TINY, "--set", "method={match: [fc1, fc1], loss: hnt}"], "did you mean 'hint'?"),
        (["run", TINY, "--set", "student.build=cnm"], "did you mean 'cnn'"),
        (["run", TINY, "--set", "student.args={chanels: [4]}"], "chanels"),
        (["run", TINY, "--set", "student.args.classes=7"], "student's logits"),
        (["run", TINY, "--set", "teacher.args.classes=7"], "teacher's logits"),
        (["run", TINY, "--set", "teacher.weights=nowhere.safetensors"], "there is no file nowhere"),
        (["run", TINY, "--set", "teacher.weights=junk.safetensors"], "could not be read"),
        (["run", TINY, "--set", "data.source=digit"], "did you mean 'digits'?"),
        (["run", TINY, "--set", "data={source: parquet, path: nowhere}"], "no folder nowhere"),
        (["run", TINY, "--set", "data={source: parquet}"], "--set data.path="),
        (["run", "segmentation", "--set", "data.source=mask_folder"],
         "'mask_folder' needs path, and has no option targets."),
        (["run", "segmentation", "--set", "data.source=mask_folder", "--set", "data.path=nowhere"],
         "no file or folder nowhere"),
        (["run", TINY, "--set", "data.augment=[flop]"], "did you mean 'flip'?"),
        (["run", TINY, "--set", "data={build: 'own:wrong_labels'}"], "has label 12"),
        (["run", TINY, "--set", "data={build: 'own:raises'}"], "the disk with the data is gone"),
        (["run", TINY, "--set", "data={build: 'own:rases'}"], "did you mean 'raises'?"),
        (["run", TINY, "--set", "data={build: 'onw:raises'}"], "No module named 'onw'"),
        (["run", TINY, "--set", "student={build: 'own:not_a_module'}"], "returned a dict"),
        (["run", TINY, "--set", "student={build: 'own:five_classes'}"], "data has 10 classes"),
        (
            ["run", TINY, "--set", "method={match: [logits, logits], loss: 'own:explodes'}"],
            "NaN or infinite",
        ),
        (["run", TINY, "--resume"], "no run in runs/tiny to resume"),
        (["evaluate", "nowhere"], "not the folder of a run"),
        (["report", "nowhere"], "not the folder of a run"),
        (["methods", "kdd"], "did you mean 'kd' or"),
        (["init", "junk"], "exists already"),
        (["run", TINY, "--out", "junk.yaml"], "junk.yaml"),
        (["run", "junk.yaml"], "not valid YAML"),
    ],
)  # fmt: skip
def test_wrong_input_gets_one_message_and_status_2(
    words: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without it, a typing error would end in a traceback, or in a run of something else."""
    from limbeck import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("sys.argv", ["limbeck", *words])
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "junk.safetensors").write_bytes(b"\x00" * 100)
    (tmp_path / "junk.yaml").write_text("a: [1,\nb: }")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr()
    assert ended.value.code == 2, told.err
    assert expected in told.err
    assert "Traceback" not in told.err + told.out
    assert len([line for line in told.err.splitlines() if line.startswith("limbeck: ")]) == 1


def test_results_of_another_recipe_are_not_overwritten(tmp_path: Path) -> None:
    """Without it, trying another temperature would destroy yesterday's student."""
    folder = run(load(TINY, ["teacher.train.epochs=1"]), tmp_path / "run", until="teacher")
    before = (folder / "stages" / "teacher" / "best.safetensors").read_bytes()
    with pytest.raises(lb.InputError, match=r"method.0.temperature: None → 2.*--reuse"):
        run(load(TINY, ["teacher.train.epochs=1", "method.temperature=2"]), folder)
    assert (folder / "stages" / "teacher" / "best.safetensors").read_bytes() == before
    run(load(TINY, ["teacher.train.epochs=2"]), folder, replace=True, until="teacher")
    assert (folder / "stages" / "teacher" / "best.safetensors").read_bytes() != before


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    """Without it, ``--out`` with a typing error could fill a home folder."""
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(lb.InputError, match="not empty and holds no run"):
        run(load(TINY), tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_with_a_recipes_name_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, who keeps data in a folder ``digits`` could not run the first command."""
    from limbeck import cli

    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    quick = ["--set", "data.limit=64", "--set", "teacher.train.epochs=1"]
    monkeypatch.setattr("sys.argv", ["limbeck", "teach", "digits", *quick])
    cli.main()
    assert (tmp_path / "runs" / "digits" / "stages" / "teacher").is_dir()


def test_a_student_larger_than_its_teacher_is_a_warning(tmp_path: Path) -> None:
    """Without it, swapped teacher and student would pass unseen."""
    changed = load(TINY, ["student.args.channels=[64]", "train.epochs=1", "teacher.train.epochs=1"])
    with pytest.warns(UserWarning, match="larger than its teacher"):
        run(changed, tmp_path / "run", until="teacher")


def test_a_full_disk_ends_with_a_message_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without it, a full disk could leave half a file in the place of a whole one."""
    from limbeck import cli
    from limbeck.distill import state

    folder = tmp_path / "run"
    run(load(TINY), folder, until="teacher")
    original = torch.save

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(state.torch, "save", full)
    monkeypatch.setattr("sys.argv", ["limbeck", "run", TINY, "--out", str(folder)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert "No space left on device" in told
    assert "nothing that was finished is lost" in told
    monkeypatch.setattr(state.torch, "save", original)
    run(load(TINY), folder)
    assert (folder / "report.html").is_file()


def test_our_own_faults_end_with_status_1_and_are_called_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without it, our bugs would look like the user's mistakes."""
    from limbeck import cli

    monkeypatch.setattr("sys.argv", ["limbeck", "recipes"])
    monkeypatch.setattr("limbeck.recipe.bundled", lambda: 1 / 0)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr().err
    assert ended.value.code == 1
    assert "ZeroDivisionError" in told
    assert "fault of Limbeck's" in told


def test_nan_in_the_data_is_found_before_training(tmp_path: Path) -> None:
    """Without it, one broken sample would cost a training."""
    images = np.zeros((60, 1, 8, 8), np.float32)
    images[7] = np.nan
    np.savez(tmp_path / "d.npz", x_train=images, y_train=np.arange(60) % 10)
    changed = load(TINY, [f"data={{source: numpy, path: '{tmp_path / 'd.npz'}'}}"])
    with pytest.raises(lb.InputError, match="sample 7 holds NaN"):
        run(changed, tmp_path / "run")
