"""Recordings become samples, and no speaker is in two splits."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from sounds import DIGITS, PEOPLE, hum, wav, write_table

from limbeck.data.samples import Arrays
from limbeck.data.sources import speech
from limbeck.errors import InputError

TAKES = {
    (digit, person, take): hum(digit, person, take).tobytes()
    for digit in range(3)
    for person in range(4)
    for take in range(4)
}
HELD = {"validation": ["bob"], "test": ["cyd", "dee"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 48 recordings by four people."""
    return write_table(tmp_path_factory.mktemp("speech"))


def _sounds(samples: object, row: int) -> np.ndarray:
    assert isinstance(samples, Arrays)
    field = samples.fields["inputs"]
    return field.values[field.offsets[row] : field.offsets[row + 1]].numpy()


def test_speakers_are_held_out(folder: Path) -> None:
    """Without it, a model would be measured on voices that it was trained on."""
    data = speech(folder, held_out=HELD)
    assert data.labels == tuple(sorted(DIGITS))
    for split, people in (("train", [0]), ("validation", [1]), ("test", [2, 3])):
        samples = getattr(data, split)
        wanted = {hum(d, p, t).tobytes() for d in range(3) for p in people for t in range(4)}
        assert {_sounds(samples, row).tobytes() for row in range(len(samples))} == wanted
    batch = next(data.train.batches([torch.arange(4)], 0, 0))
    assert batch["inputs"]["waveform"].dtype == torch.int16
    assert [data.labels[n] for n in batch["targets"]] == [DIGITS[0]] * 4
    assert data.facts["inputs"] == {"rate": 8000}
    assert data.test.shown(0)["kind"] == "audio"


@pytest.mark.parametrize("held", [True, False])
def test_speakers_are_held_out_by_chance(held: bool, folder: Path) -> None:
    """Without it, cuts by chance would mix voices, or differ from run to run."""
    data, again = (speech(folder, held_out=held, validation=0.25, test=0.5) for _ in range(2))
    sizes = [len(each) for each in (data.train, data.validation, data.test)]
    assert sizes == [12, 12, 24]
    assert data.fingerprint() == again.fingerprint()


def test_splits_of_tables_are_kept(tmp_path: Path) -> None:
    """Without it, a published split would be mixed up."""
    for name, takes in (("train.parquet", 2), ("dev.parquet", 1), ("test.parquet", 1)):
        write_table(tmp_path, name, takes)
    data = speech(tmp_path)
    assert [len(each) for each in (data.train, data.validation, data.test)] == [24, 12, 12]


def test_sequences_are_recordings_of_one_speaker(folder: Path) -> None:
    """Without it, targets could tell another order, or two people share a sentence."""
    data = speech(folder, held_out=HELD, joined=[2, 3], passes=2, pause=0.0)
    assert data.labels == ("<blank>", *sorted(DIGITS))
    assert 8 <= len(data.train) <= 12
    numbers = {name: number for number, name in enumerate(data.labels)}
    batch = next(data.test.batches([torch.arange(len(data.test))], 0, 0))
    people = set()
    for row, symbols in enumerate(batch["targets"].tolist()):
        rest, said = _sounds(data.test, row).tobytes(), []
        while rest:
            digit, person, take = next(each for each in TAKES if rest.startswith(TAKES[each]))
            rest = rest[len(TAKES[digit, person, take]) :]
            said.append((numbers[DIGITS[digit]], person))
        assert [symbol for symbol, _ in said] == [each for each in symbols if each != -100]
        assert 2 <= len(said) <= 3
        assert len({person for _, person in said}) == 1
        people |= {person for _, person in said}
    assert people == {2, 3}
    other = speech(folder, held_out=HELD, joined=[2, 3], passes=2, pause=0.0, seed=1)
    assert other.test.fingerprint() != data.test.fingerprint()


def test_recordings_and_sequences_are_brought_to_one_loudness(folder: Path) -> None:
    """Without it, samples and what ships could be heard at different loudness."""
    for options in ({}, {"joined": [2, 3], "pause": 0.0}):
        plain = speech(folder, held_out=HELD, **options)  # type: ignore[arg-type]
        data = speech(folder, held_out=HELD, loudness=-30.0, **options)  # type: ignore[arg-type]
        heard = [_sounds(plain.test, row) for row in range(len(plain.test))]
        assert data.reader is not None
        wanted = data.reader(heard)["waveform"].numpy()
        for row, values in enumerate(heard):
            assert (_sounds(data.test, row) == wanted[row, : len(values)]).all()
            assert (_sounds(data.test, row) != values).any()


def test_transcripts_become_characters(folder: Path) -> None:
    """Without it, only data with labels could be recognised."""
    data = speech(folder, held_out=HELD, text="said", rate=4000)
    letters = sorted(set("".join(DIGITS)))
    assert data.labels == ("<blank>", *letters)
    assert data.facts == {"inputs": {"rate": 4000}, "targets": {"separator": ""}}
    targets = next(data.train.batches([torch.tensor([0])], 0, 0))["targets"]
    assert [data.labels[n] for n in targets[0]] == list("one")
    assert len(_sounds(data.train, 0)) == pytest.approx(len(hum(0, 0, 0)) / 2, abs=1)


@pytest.mark.parametrize("listed", [True, False])
def test_folders_of_files(listed: bool, tmp_path: Path) -> None:
    """Without it, everybody's own recordings would have to be put into tables first."""
    rows = [(split, digit, take) for split in ("train", "test") for digit in (0, 1)
            for take in range(6)]  # fmt: skip
    for split, digit, take in rows:
        file = tmp_path / split / DIGITS[digit] / f"{take}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(wav(hum(digit, 0, take)))
    if listed:
        with (tmp_path / "metadata.csv").open("w", newline="") as opened:
            written = csv.writer(opened)
            written.writerow(["file_name", "label"])
            written.writerows([f"{s}/{DIGITS[d]}/{t}.wav", DIGITS[d]] for s, d, t in rows)
    data = speech(tmp_path, validation=0.25)
    assert data.labels == ("one", "two")
    assert [len(each) for each in (data.train, data.validation, data.test)] == [8, 4, 12]
    assert sorted(data.validation.column("targets").tolist()) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out": {"test": ["eve"]}}, "'eve' is to be held out.*ada, bob, cyd, dee"),
        ({"held_out": {"dev": ["ada"]}}, "expected: validation and test"),
        ({"held_out": {"test": ["ada"], "validation": ["ada"]}}, "'ada' is held out twice"),
        ({"held_out": {"test": list(PEOPLE)}}, "no recording is left to train on"),
        ({"label": "digit"}, "column 'digit' is not known"),
        ({"loudness": 20.0}, "a loudness of 20 dB"),
        ({"joined": [3, 2]}, r"sequences of \[3, 2\]"),
        ({"joined": [2, 3], "text": "said"}, "one of them"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str, folder: Path) -> None:
    """Without it, a misspelt name would be trained on instead of being held out."""
    with pytest.raises(InputError, match=f"(?is){message}"):
        speech(folder, **options)  # type: ignore[arg-type]


def test_speakers_must_be_known_to_be_held_out(tmp_path: Path) -> None:
    """Without it, recordings would be cut by chance where voices were to be."""
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.wav").write_bytes(wav(hum(0, 0, 0)))
    with pytest.raises(InputError, match="does not say who speaks"):
        speech(tmp_path, held_out=True)
    with pytest.raises(InputError, match="holds no recordings"):
        speech(tmp_path / "one")
