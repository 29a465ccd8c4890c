"""Several processes give what one gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from limbeck.files import read_json
from limbeck.pipeline import run
from limbeck.recipe import load

TINY = str(Path(__file__).with_name("tiny.yaml"))


def test_two_processes_with_the_same_global_batch_equal_one(tmp_path: Path) -> None:
    """Without it, a second process could change the batch, the sums or the gradient's scale."""
    changes = ["train.accumulate=2", "train.checkpoint_seconds=30"]
    alone = run(load(TINY, changes), tmp_path / "alone")
    together = tmp_path / "together"
    finished = subprocess.run(
        [
            sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2",
            "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
            "--main_process_port", "0", "-m", "limbeck", "run", TINY, "--out", str(together),
            *(word for change in [*changes, "export=[onnx]"] for word in ("--set", change)),
        ],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert finished.stdout.count("✓ teacher") == 1
    assert finished.stdout.count("✓ student.onnx") == 1
    assert (together / "export" / "student.onnx").is_file()
    for stage in ("teacher", "student-0", "control-0"):
        ours, theirs = (
            load_file(folder / "stages" / stage / "last.safetensors")
            for folder in (alone, together)
        )
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, theirs[name], rtol=2e-3, atol=2e-4, msg=name)
    one, two = (
        read_json(folder / "stages" / "student-0" / "training.json")["history"]
        for folder in (alone, together)
    )
    for first, second in zip(one, two, strict=True):
        assert abs(first["train"]["loss"] - second["train"]["loss"]) < 1e-4
        assert abs(first["validation"]["loss"] - second["validation"]["loss"]) < 1e-4
