"""Recordings are read, brought to one rate, held as they are, and shown to people."""

from __future__ import annotations

import base64
import io
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from sounds import hum, wav

from limbeck.data import readers
from limbeck.data.shown import heard
from limbeck.data.waves import Recordings, Waves, decoded, jagged, levelled, resampled
from limbeck.errors import InputError


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Without it, sounds could lose a bit, swap bytes, or be twice as loud from two channels."""
    values = hum(1, 0, 0)
    values[:2] = -32768, 32767
    for channels in (1, 2):
        found, rate = decoded(wav(values, 16000, channels))
        assert rate == 16000
        assert (found == values).all()
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a.flac", values, 8000)
    assert (decoded(tmp_path / "a.flac")[0] == values).all()
    soundfile.write(tmp_path / "b.wav", np.array([0.0, 0.5, -2.0]), 8000, subtype="FLOAT")
    assert decoded(tmp_path / "b.wav")[0].tolist() == [0, 16384, -32768]


def test_another_rate_keeps_the_pitch() -> None:
    """Without it, a model would hear other words at another rate."""
    times = np.arange(16000) / 16000
    sung = (8000 * np.sin(2 * np.pi * 440 * times)).astype(np.int16)
    found = resampled(sung, 16000, 8000)
    assert np.abs(np.fft.rfft(found)).argmax() == 440
    assert found.dtype == np.int16


def test_voices_become_equally_loud() -> None:
    """Without it, a voice that is far from its microphone would be another kind of sound."""
    near = np.concatenate([hum(1, 0, 0), np.zeros(900, np.int16)])
    far = (near / 30).astype(np.int16)
    found = [levelled(values, 8000, -20.0).astype(float) for values in (near, far)]
    for values in found:
        padded = np.pad(values, 100)
        loud = [np.sqrt(np.mean(padded[n : n + 200] ** 2)) for n in range(len(values))]
        assert sorted(loud)[int(0.9 * len(loud))] == pytest.approx(3276.8, rel=0.02)
    np.testing.assert_allclose(*found, atol=300)
    assert not levelled(np.zeros(50, np.int16), 8000, -20.0).any()
    assert levelled(near, 8000, 0.0).max() == 32767


def test_the_reader_takes_files_and_numbers(tmp_path: Path) -> None:
    """Without it, a student that ships could hear something else than it was trained on."""
    values = hum(0, 1, 2)
    (tmp_path / "a.wav").write_bytes(wav(values))
    told = Waves(8000).save(tmp_path)
    reader = readers.load(tmp_path, told)
    raw = [str(tmp_path / "a.wav"), wav(values), values, values / 32768]
    found = reader(raw)
    assert found["waveform"].dtype == torch.int16
    assert (found["waveform"] == torch.from_numpy(values)).all()
    assert found["mask"].all()
    louder = readers.load(tmp_path, Waves(8000, -20.0).save(tmp_path))
    assert (louder(raw)["waveform"].numpy() == levelled(values, 8000, -20.0)).all()
    short = reader([values, values[:5]])
    assert short["mask"].sum(1).tolist() == [len(values), 5]
    assert not short["waveform"][1, 5:].any()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("a.wav", "expected: a list of recordings"),
        ([b"no sound"], "could not be read as sound"),
        ([np.zeros((2, 3))], r"shape \(2, 3\)"),
        ([wav(np.zeros(0, np.int16))], "holds no sound"),
    ],
)
def test_what_is_no_recording_is_refused(raw: object, message: str) -> None:
    """Without it, noise, or one letter of a path at a time, would be listened to."""
    with pytest.raises(InputError, match=f"(?i){message}"):
        Waves(8000)(raw)  # type: ignore[arg-type]


def test_a_person_can_hear_and_see_it() -> None:
    """Without it, a report could play another sample, or at another speed."""
    values = [hum(0, 0, 0), hum(1, 0, 0)]
    shown = Recordings(jagged(values, 8000), 8000)(1)
    kind, _, encoded = shown["src"].partition(",")
    assert (shown["kind"], kind) == ("audio", "data:audio/wav;base64")
    with wave.open(io.BytesIO(base64.b64decode(encoded))) as opened:
        assert opened.getframerate() == 8000
        played = np.frombuffer(opened.readframes(-1), "<i2")
    assert (played == values[1]).all()
    assert shown["text"] == f"{len(values[1]) / 8000:.2f} s of sound"
    drawn = base64.b64decode(
        heard(np.array([0, 100, -100], np.int16), 8000)["picture"].split(",")[1]
    )
    assert b"M1.5 0.0V" in drawn
    assert b"M2.5 48.0V" in drawn
