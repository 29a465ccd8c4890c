"""Killed at any moment, a run goes on to the same bits."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from limbeck.files import file_digest, read_json
from limbeck.pipeline import run
from limbeck.recipe import load

TINY = str(Path(__file__).with_name("tiny.yaml"))


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    return run(load(TINY), tmp_path_factory.mktemp("straight") / "run")


def _weights(folder: Path) -> dict[str, str]:
    """Return the hashes of all trained weights and of the store of a run."""
    files = sorted(folder.glob("stages/*/*.safetensors")) + sorted(folder.glob("stages/*/store/*"))
    return {str(file.relative_to(folder)): file_digest(file) for file in files}


def _until(condition, process: subprocess.Popen, seconds: float = 120.0) -> None:
    """Wait for a condition while a process runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < end, "the run did not come so far"
        time.sleep(0.002)


_SLOW = textwrap.dedent(
    """
    import sys
    import time
    from limbeck import cli
    from limbeck.distill import loop
    import limbeck.knowledge.write

    write = sys.modules["limbeck.knowledge.write"]
    step, shard = loop._Loop._step, write._Writing.shard

    def slow_step(self, batch):
        time.sleep(0.02)
        step(self, batch)

    def slow_shard(self, view, number):
        time.sleep(0.05)
        shard(self, view, number)

    loop._Loop._step, write._Writing.shard = slow_step, slow_shard
    cli.main()
    """
)


def _stop_at(folder: Path, condition, how: signal.Signals) -> tuple[int, str]:
    """Start the command in a process of its own, and send it a signal when the condition holds.

    The process waits a little at every step, so that there is time to stop it in the middle.
    """
    command = [sys.executable, "-c", _SLOW, "run", TINY, "--out", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        _until(condition, process)
    except BaseException:
        process.kill()
        raise
    process.send_signal(how)
    _, told = process.communicate(timeout=120)
    return process.returncode, told


def _epochs(folder: Path, stage: str) -> int:
    log = folder / "log.jsonl"
    text = log.read_text() if log.exists() else ""
    return sum(f'"stage": "{stage}"' in line and '"epoch"' in line for line in text.splitlines())


@pytest.mark.parametrize("stage", ["teacher", "knowledge", "student-0", "control-0"])
def test_a_killed_run_resumes_to_the_same_bits(stage: str, straight: Path, tmp_path: Path) -> None:
    """Without it, a power cut could silently change the student."""
    folder = tmp_path / "run"
    if stage == "knowledge":
        half = lambda: len(list(folder.glob("stages/.knowledge/store/0*"))) >= 3  # noqa: E731
        _stop_at(folder, half, signal.SIGKILL)
        assert not (folder / "stages" / "knowledge").exists()
    else:
        _stop_at(folder, lambda: _epochs(folder, stage) >= 3, signal.SIGKILL)
        assert (folder / "stages" / f".{stage}" / "checkpoint.pt").is_file()
    run(load(str(folder)), folder, resume=True)
    assert _weights(folder) == _weights(straight)
    ours, theirs = (load_file(f / "student" / "model.safetensors") for f in (folder, straight))
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_a_second_run_skips_what_is_done(straight: Path) -> None:
    """Without it, looking at a report again could cost hours of training."""
    before = _weights(straight)
    began = time.monotonic()
    run(load(TINY), straight)
    stages = read_json(straight / "report.json")["stages"]
    assert [stage["name"] for stage in stages] == [
        "teacher", "knowledge", "student-0", "control-0", "evaluate",
    ]  # fmt: skip
    assert all(stage["skipped"] for stage in stages)
    assert _weights(straight) == before
    assert time.monotonic() - began < 20


def test_ctrl_c_ends_with_130_and_can_be_resumed(straight: Path, tmp_path: Path) -> None:
    """Without it, an impatient user would lose an evening's training."""
    folder = tmp_path / "run"
    code, told = _stop_at(
        folder, lambda: (folder / "stages/.teacher/checkpoint.pt").exists(), signal.SIGINT
    )
    assert code == 130, told
    assert "goes on where it stopped" in told
    assert "Traceback" not in told
    run(load(TINY), folder)
    assert _weights(folder) == _weights(straight)


def test_stages_of_another_recipe_are_reused_where_they_are_the_same(
    straight: Path, tmp_path: Path
) -> None:
    """Without it, every change of a temperature would train the teacher again."""
    changed = load(TINY, ["method.temperature=2"])
    folder = run(changed, tmp_path / "other", reuse=straight)
    stages = read_json(folder / "report.json")["stages"]
    assert {stage["name"]: stage["skipped"] for stage in stages} == {
        "teacher": True, "knowledge": True, "student-0": False, "control-0": True,
        "evaluate": False,
    }  # fmt: skip
