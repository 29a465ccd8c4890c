"""The lines that read raw samples on a device read them as Limbeck does."""

from __future__ import annotations

import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from texts import sentences

from limbeck import export
from limbeck.data.scripted import Lines
from limbeck.data.tokens import Tokenizer
from limbeck.data.waves import Waves
from limbeck.tasks import Classification


def inputs(found: Lines, here: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "argv", ["run.py", *words])
    names: dict[str, Any] = {"np": np, "sys": sys, "here": here}
    exec(f"{found.imports}\n{found.lines}", names)
    return names["inputs"]


def test_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, a device could cut or pad texts otherwise than the student learnt them."""
    pytest.importorskip("tokenizers")
    told = [text for text, _ in sentences(5)] + ["a " * 30]
    reader = Tokenizer.train(told * 2, "words", length=9)
    reader.save(tmp_path)
    found = inputs(reader.script(), tmp_path, told, monkeypatch)
    for name, tensor in reader(told).items():
        assert found[name].dtype == np.int64
        assert np.array_equal(found[name], tensor.numpy())


def test_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, a device could hear at another loudness, or take padding for silence."""
    pytest.importorskip("soundfile")
    draws, files = np.random.default_rng(0), []
    for number, channels in enumerate((1, 2)):
        files.append(str(tmp_path / f"{number}.wav"))
        with wave.open(files[-1], "wb") as sound:
            sound.setnchannels(channels)
            sound.setsampwidth(2)
            sound.setframerate(8000)
            values = draws.integers(-30000, 30000, (400 + 100 * number) * channels)
            sound.writeframes(values.astype("<i2").tobytes())
    reader = Waves(8000)
    found = inputs(reader.script(), tmp_path, files, monkeypatch)
    expected = reader(files)
    assert np.array_equal(found["mask"], expected["mask"].numpy())
    apart = found["waveform"].astype(int) - expected["waveform"].numpy().astype(int)
    assert found["waveform"].dtype == np.int16
    assert np.abs(apart).max() <= 1  # a mean of two channels is rounded otherwise
    louder = Waves(8000, -40.0)
    found, expected = inputs(louder.script(), tmp_path, files, monkeypatch), louder(files)
    apart = found["waveform"].astype(int) - expected["waveform"].numpy().astype(int)
    assert np.abs(apart).max() <= 1
    with pytest.raises(SystemExit, match="expected 16 bits at 16000 Hz"):
        inputs(Waves(16000).script(), tmp_path, files, monkeypatch)


def test_the_script_is_python_whatever_it_reads() -> None:
    """Without it, a student of several inputs could ship with a script that does not parse."""
    one = {"x": {"dtype": "float32", "shape": ["batch", 3]}}
    two = one | {"y": {"dtype": "int64", "shape": ["batch"]}}
    for takes in (one, two):
        for reader in (None, Waves(8000)):
            for task in (None, Classification(2)):
                text = export.script("m.onnx", {"inputs": takes}, reader, task)
                compile(text, "run.py", "exec")
                assert "torch" not in text
                assert "import limbeck" not in text
