"""Every example runs, as a reader would run it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from limbeck.testing import check_task

EXAMPLES = Path(__file__).parents[1] / "examples"
FLOW = [
    "1_teacher.py", "2_knowledge.py", "3_student.py", "4_evaluate.py", "5_compress.py",
    "6_export.py",
]  # fmt: skip
OTHERS = ["own_loop.py", "with_lightning.py", "with_transformers.py"]
TABLES = ["forest_teaches_mlp.py"]
ON_REAL_DATA = ["with_server.py"]
NEEDS = {"with_lightning.py": "lightning", "with_transformers.py": "transformers"}


def _run(words: list[str], folder: Path) -> str:
    finished = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=300,
        check=False, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


def test_all_examples_are_listed_here() -> None:
    """Without it, a new example could rot unseen."""
    assert sorted(file.name for file in EXAMPLES.glob("*.py")) == sorted(
        FLOW + OTHERS + TABLES + ON_REAL_DATA
    )


def test_the_flow_from_teacher_to_evaluation_runs(tmp_path: Path) -> None:
    """Without it, the examples that the README leads through could break one another."""
    pytest.importorskip("torch_pruning")
    told = [_run([str(EXAMPLES / name)], tmp_path) for name in FLOW]
    assert "logits, pool2" in told[1]
    assert [line.split()[0] for line in told[3].splitlines()] == ["teacher", "student", "control"]
    assert [line.split()[0] for line in told[4].splitlines()] == ["student", "pruned", "int8"]
    assert told[5].startswith("parity: logits within")


@pytest.mark.parametrize("name", OTHERS)
def test_distillers_work_in_other_loops(name: str, tmp_path: Path) -> None:
    """Without it, one could only train with Limbeck's own loop."""
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], exc_type=ImportError)
    assert "loss" in _run([str(EXAMPLES / name)], tmp_path) or name == "with_lightning.py"


@pytest.mark.parametrize("name", TABLES)
def test_trees_teach_a_network(name: str, tmp_path: Path) -> None:
    """Without it, a teacher and a student with fields of their own could be mixed up."""
    told = _run([str(EXAMPLES / name)], tmp_path).splitlines()
    shown = {line.split("accuracy")[0].strip(): float(line.split()[-1][:-1]) for line in told}
    assert shown.keys() == {
        "trees",
        *(f"{r} {n}" for r in ("student", "control") for n in range(3)),
    }
    assert shown["trees"] == 100
    assert min(shown.values()) > 80


def test_a_model_behind_a_server_teaches(tmp_path: Path, data_root: Path) -> None:
    """Without it, asking, keeping, storing and replaying could each work, and not together."""
    pytest.importorskip("httpx2", exc_type=ImportError)
    told = _run([str(EXAMPLES / "with_server.py"), str(data_root / "text_sst2")], tmp_path)
    shares = [float(share) for share in re.findall(r"accuracy (\d+\.\d)%", told)]
    teacher, student, control = shares
    assert teacher > student > control + 3
    assert "after:  3,998 requests, 85,816 tokens in, 3,998 out, cost 0.0153" in told


def test_a_recipe_with_own_data_models_and_loss_runs(tmp_path: Path) -> None:
    """Without it, ``package.module:attribute`` could fail outside Limbeck's own folder."""
    folder = EXAMPLES / "own_code"
    words = ["-m", "limbeck", "run", "recipe.yaml", "--out", str(tmp_path / "own")]
    told = _run([*words, "--set", "train.epochs=2", "--set", "seeds=[0]"], folder)
    assert "student-0" in told
    assert (tmp_path / "own" / "report.html").is_file()


def test_a_recipe_with_a_task_of_its_own_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, a modality that Limbeck does not have could need a change in Limbeck."""
    folder = EXAMPLES / "own_code"
    words = ["-m", "limbeck", "run", "grades.yaml", "--out", str(tmp_path / "run")]
    few = ["train.epochs=2", "seeds=[0]", "evaluate.seconds=0.02"]
    told = _run([*words, *(word for change in few for word in ("--set", change))], folder)
    assert "distance" in told
    assert "patients" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    from mypackage.grades import Grades

    check_task(Grades(4), (torch.randn(8, 10), torch.randint(4, (8,))), torch.randn(8, 3))
