"""Recipes that hear, from tables to a student that is called with recordings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sounds import PEOPLE, hum, wav, write_table

import limbeck as lb
from limbeck import pipeline
from limbeck.errors import InputError
from limbeck.files import read_json
from limbeck.pipeline.extract import counting
from limbeck.recipe import load

pytest.importorskip("soundfile")
QUICK = (
    "train.batch_size=8", "train.epochs=1", "teacher.train.epochs=1", "seeds=[0]",
    "teacher.args.width=24", "student.args.width=8", "evaluate.seconds=0.02",
    "evaluate.batch_size=8",
)  # fmt: skip
HELD = f"data.args.held_out={{validation: [{PEOPLE[1]}], test: [{PEOPLE[2]}]}}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of recordings by four people."""
    return write_table(tmp_path_factory.mktemp("speech"))


def _run(name: str, folder: Path, out: Path, *changes: str) -> Path:
    few = ["data.labelled=8"] if name == "speech" else []
    return pipeline.run(load(name, [f"data.path={folder}", *QUICK, *few, *changes]), out)


@pytest.fixture(scope="module")
def sequences(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe ``speech-ctc`` on a few sequences."""
    return _run("speech-ctc", folder, tmp_path_factory.mktemp("ctc") / "run", HELD)


def test_the_student_hears_files(folder: Path, tmp_path: Path) -> None:
    """Without it, what ships would need the data's source to be asked anything."""
    method = "method=[{name: kd}, {name: rkd}]"  # relations of what enters the classifier
    out = _run("speech", folder, tmp_path / "run", HELD, method)
    student = lb.students.load(out / "student")
    values = hum(0, 2, 0)
    with torch.no_grad():
        answers = student([wav(values), values])
    assert answers.shape == (2, 3)
    torch.testing.assert_close(answers[0], answers[1])
    assert read_json(out / "details.json")["data"]["test"] == 12


def test_frames_are_replayed_as_they_were(sequences: Path, tmp_path: Path) -> None:
    """Without it, stored answers of short sequences would stand in the place of other frames."""
    recipe = load(str(sequences))
    run = pipeline.Run(recipe, pipeline.RunFolder(sequences), lb.Silent())
    batch = next(run.data.train.batches([torch.arange(4)], 0, 0))
    mask = run.task.mask(batch)
    store = lb.Teacher.replay(sequences / "stages/knowledge/store", mask=counting(run))
    stored = store.knowledge(batch).logits
    from safetensors.torch import load_file

    weights = load_file(sequences / "stages/teacher/best.safetensors")
    live = run.origin.load(weights, {}).knowledge(batch).logits
    assert stored.shape == live.shape
    assert (stored - live)[mask].abs().max() < 0.01 * live.abs().max()
    assert not mask.all()


def test_the_report_plays_what_was_said(sequences: Path) -> None:
    """Without it, nobody could judge where teacher and student differ."""
    report = read_json(sequences / "report.json")
    assert report["selection"] == {"metric": "word_error_rate", "higher_is_better": False}
    found = read_json(sequences / "details.json")["examples"]
    page = (sequences / "report.html").read_text(encoding="utf-8")
    assert "media-src data:" in page
    for group in found["groups"]:
        for entry in group["samples"]:
            assert entry["answers"].keys() == {"teacher", "student", "control"}
            assert f'<audio controls preload="metadata" src="{entry["shown"]["src"]}"' in page
            assert entry["shown"]["picture"] in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["student.args.stride=2"], "set task.frame"),
        (["student.args.stride=2", "method=ctc", "label_weight=0"], "as many tokens .or frames."),
        (["student.args.frames=false"], "frames: true"),
        (["data.args.joined=[]"], "has label|classification"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_trained(
    changes: list[str], message: str, folder: Path, tmp_path: Path
) -> None:
    """Without it, minutes could pass before it is found that frames are not the same."""
    recipe = load("speech-ctc", [f"data.path={folder}", *QUICK, HELD, *changes])
    with pytest.raises(InputError, match=f"(?s){message}"):
        pipeline.Run(recipe, pipeline.RunFolder(tmp_path / "run"), lb.Silent()).check()


@pytest.mark.parametrize("name", ["speech", "speech-ctc"])
def test_recipes_on_real_speech_run_at_tiny_scale(
    name: str, data_root: Path, tmp_path: Path
) -> None:
    """Without it, the recipes that need data could break unseen."""
    if not (data_root / "speech_fsdd").is_dir():
        pytest.skip("no speech_fsdd in the folder of real data")
    out = _run(name, data_root / "speech_fsdd", tmp_path / "run", "data.limit=32")
    report = read_json(out / "report.json")
    assert report["models"].keys() == {"teacher", "student", "control"}
    wanted = {"speech": "accuracy", "speech-ctc": "word_error_rate"}[name]
    assert wanted in report["models"]["student"]["quality"]
