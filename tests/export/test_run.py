"""A run that exports: what stands in its folder, and what one can do with that elsewhere."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from texts import sentences, write_jsonl

import limbeck as lb
from limbeck import pipeline
from limbeck.commands.bench import compare
from limbeck.errors import InputError
from limbeck.files import read_json
from limbeck.recipe import Recipe, load, parse

MODEL = {"build": "textcnn", "args": {"width": 8, "channels": 4, "dropout": 0.0}}
TOKENS = {"tokenizer": "words", "length": 24, "vocab": 300}
TRAIN = {"epochs": 4, "batch_size": 16, "optimizer": {"name": "adamw", "lr": 0.05}}
ALONE = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "limbeck"):
            raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Without())
import runpy
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert "torch" not in sys.modules
"""


def recipe(texts: Path, **more: object) -> Recipe:
    raw = {
        "name": "sentences", "seeds": [0], "teacher": MODEL, "student": MODEL, "train": TRAIN,
        "data": {"source": "text", "path": str(texts), "args": TOKENS},
        "evaluate": {"seconds": 0.02, "batch_size": 8}, "export": ["onnx"],
    }  # fmt: skip
    return parse(raw | more)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tokenizers")
    root = tmp_path_factory.mktemp("texts")
    for name, count in (("train", 48), ("dev", 16), ("test", 24)):
        write_jsonl(root, f"{name}.jsonl", sentences(count))
    return root


@pytest.fixture(scope="module")
def finished(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipeline.run(recipe(texts), tmp_path_factory.mktemp("export") / "run")


def test_the_file_runs_without_limbeck_and_torch(finished: Path) -> None:
    """Without it, the script that ships could need what a device does not have."""
    told = [text for text, _ in sentences(6)]
    words = [sys.executable, "-c", ALONE, str(finished / "export" / "run.py"), *told]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    with torch.no_grad():
        shares = lb.students.load(finished / "student")(told).softmax(1)
    expected = [f"{int(row.argmax())} {float(row.max()):.1%}" for row in shares]
    assert done.stdout.splitlines() == expected


def test_the_report_and_the_card_measure_the_file(finished: Path) -> None:
    """Without it, a file could ship of which nobody knows whether it answers as the student."""
    models = read_json(finished / "report.json")["models"]
    found, student = models["student.onnx"], models["student"]
    assert found["role"] == "exported"
    assert found["quality"]["accuracy"] == student["quality"]["accuracy"]
    assert found["fidelity"]["agreement"] == student["fidelity"]["agreement"]
    file = finished / "export" / "student.onnx"
    assert found["cost"]["size_bytes"] == file.stat().st_size
    assert found["cost"]["runtime"].startswith("ONNX Runtime")
    assert {part.name for part in file.parent.iterdir()} == {
        "README.md", "run.py", "student.onnx", "tokenizer.json",
    }  # fmt: skip
    card = (file.parent / "README.md").read_text(encoding="utf-8")
    accuracy = f"{found['quality']['accuracy']['mean']:.4f}"
    assert f"| student.onnx | {accuracy}" in card
    assert "(to be filled in)" in card
    assert "student.onnx" in (finished / "report.html").read_text(encoding="utf-8")


def test_a_file_beyond_the_tolerance_is_not_kept(texts: Path, finished: Path) -> None:
    """Without it, a file that answers otherwise would ship under the student's name."""
    before = (finished / "export" / "student.onnx").read_bytes()
    strict = recipe(texts, export={"onnx": {"tolerance": 0}})
    with pytest.raises(InputError, match=r"student\.onnx answers otherwise than its network"):
        pipeline.run(strict, finished, until="export")
    assert (finished / "export" / "student.onnx").read_bytes() == before
    assert not list((finished / "stages" / ".student.onnx").rglob("*.onnx"))
    again = pipeline.run(recipe(texts), finished)
    assert read_json(again / "report.json")["models"]["student.onnx"]


def test_a_finished_run_is_exported_without_training(finished: Path) -> None:
    """Without it, another format would cost another training."""
    stages = finished / "stages"
    trained = (stages / "student-0" / "best.safetensors").stat().st_mtime_ns
    pipeline.run(load(str(finished), ["export=[program]"]), finished, until="export")
    assert (finished / "export" / "student.pt2").is_file()
    assert (stages / "student-0" / "best.safetensors").stat().st_mtime_ns == trained
    pipeline.run(load(str(finished), ["export=[onnx]"]), finished, until="export")


def test_bench_compares_runs_and_files(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without it, a run's models and a file of unknown origin could not stand in one table."""
    options = {"batch": 4, "threads": None, "seconds": 0.01}
    file = finished / "export" / "student.onnx"
    compare([finished, file], json=tmp_path / "b.json", **options)
    found = read_json(tmp_path / "b.json")
    assert list(found) == ["teacher", "student", "student.onnx", str(file)]
    assert found["student"]["inputs"] == "validation samples"
    assert (found[str(file)]["inputs"], found[str(file)]["batch"]) == ("random", 4)
    for one in found.values():
        assert 0 < one["latency_ms"]["p50"] <= one["latency_ms"]["p95"]
        assert 0 < one["zipped_bytes"] < one["size_bytes"]
    told = " ".join(capsys.readouterr().out.split())
    assert "On random inputs" in told
    assert "mJ: millijoules for one sample in such a batch, " in told
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"bad\.onnx is not an ONNX model"):
        compare([tmp_path / "bad.onnx"], json=None, **options)


@pytest.mark.parametrize(
    ("place", "figures", "message"),
    [
        ("nowhere", None, "there is no .*nowhere. Expected: a run's folder, or a file"),
        ("", None, r"a folder, and not that of a run. .* In it: .*m\.onnx"),
        ("m.onnx", "nowhere/b.json", r"there is no folder .*nowhere for b\.json"),
    ],
)
def test_bench_says_what_it_cannot_use(
    tmp_path: Path, place: str, figures: str | None, message: str
) -> None:
    """Without it, a slip in a path would be called an unknown kind of file, or cost the timing."""
    (tmp_path / "m.onnx").write_bytes(b"nonsense")
    json = None if figures is None else tmp_path / figures
    with pytest.raises(InputError, match=message):
        compare([tmp_path / place], json=json, batch=4, threads=None, seconds=0.01)


def test_no_number_of_a_table_is_cut_off(finished: Path) -> None:
    """Without it, 80 columns would show 0.8 mJ for 0.863."""
    console = Console(width=30, file=io.StringIO(), highlight=False)
    compare([finished], batch=4, threads=None, seconds=0.01, json=None, console=console)
    assert isinstance(console.file, io.StringIO)
    row = next(line for line in console.file.getvalue().splitlines() if "teacher" in line)
    assert len(row.split()) >= 11, "a column is missing"
    assert "…" not in row
