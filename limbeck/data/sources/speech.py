"""Recordings of speech: with a label each, with a transcript each, or joined to sequences.

Letters: N samples, S values of a waveform, L symbols of a transcript.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.data.jagged import Jagged
from limbeck.data.samples import Arrays
from limbeck.data.sources.recordings import Found, found_in
from limbeck.data.splits import Data, carve
from limbeck.data.waves import Recordings, Waves, decoded, jagged, levelled, resampled
from limbeck.errors import InputError

__all__ = ["BLANK", "speech"]

BLANK = "<blank>"
"""The name of class 0 where answers are sequences: nothing new is heard."""

_PADDING = -100  # of targets, as in TokenPrediction


def speech(
    path: str | Path,
    *,
    audio: str = "",
    label: str = "",
    text: str = "",
    speaker: str = "",
    rate: int = 0,
    loudness: float | None = None,
    held_out: bool | Mapping[str, Sequence[str]] = False,
    joined: Sequence[int] = (),
    passes: int = 1,
    pause: float = 0.1,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    limit: int | None = None,
) -> Data:
    """Recordings from Parquet tables or folders, decoded and resampled when they are loaded.

    The folder holds ``train.parquet`` and so on, with a column of encoded sound (bytes, or a struct
    with ``bytes``, as Hugging Face data sets keep it); or ``metadata.csv``, whose column
    ``file_name`` names files; or ``train/LABEL/anything.wav``. Inputs are ``waveform``, (B, S)
    int16, and ``mask``, (B, S), padded to the longest of each batch. Needs the extra
    ``limbeck[speech]``.

    Targets are labels; or, with ``text``, the characters of transcripts, which the task ``ctc``
    recognises; or, with ``joined``, **synthetic sequences**: whole recordings of one speaker, one
    after another, whose labels are to be recognised in order. Nobody spoke these in one breath.

    Args:
        path: the folder.
        audio: the recordings' column; by default ``audio`` or the one that holds bytes.
        label: the labels' column, whole numbers or names; by default ``label``.
        text: the transcripts' column, instead of labels.
        speaker: the speakers' column; by default ``speaker``, if there is one.
        rate: to which all are brought, in Hz; 0 takes that of the first.
        loudness: to which each recording is brought (each sequence, if they are joined), in
            decibels, as :func:`limbeck.data.waves.levelled` does; what ships does it too. By
            default recordings stay as loud as they are.
        held_out: the speakers of each split, ``{validation: [A], test: [B, C]}``; others are
            trained on. Splits of the tables do not count then. ``true`` chooses the speakers of
            both splits by chance, in the fractions given. Otherwise the splits are those of the
            tables, and missing ones are cut off: by speakers, where these are known.
        joined: the least and the most recordings of a synthetic sequence; by default none is made.
        passes: how often each training recording is used in sequences, each time among others.
        pause: the most silence between two recordings of a sequence, in seconds.
        validation: fraction of the speakers (of the recordings, where speakers are not known).
        test: likewise.
        seed: of the cuts, and of the sequences.
        limit: at most so many training samples, and half as many of the others.

    Raises:
        InputError: no such folder, a missing column, a damaged file, speakers that are not there, a
            loudness above 0.
    """
    if loudness is not None and not -90 <= loudness <= 0:
        raise InputError(
            f"a loudness of {loudness:g} dB",
            expected="from -90 to 0, which is the largest number; -20 suits speech",
        )
    found = found_in(path, audio=audio, label=label, text=text, speaker=speaker)
    splits = _Cut(found, validation, test, seed).splits(held_out)
    waves, heard_at = _decoded(found, rate)
    if joined:
        plan = _Plan.of(joined, passes, pause, seed)
        data = _sequences(found, splits, waves, heard_at, loudness, plan)
    else:
        data = _singles(found, splits, _level(waves, heard_at, loudness), heard_at)
    facts: dict[str, Mapping[str, Any]] = {"inputs": {"rate": heard_at}, **data.facts}
    data = replace(data, name=Path(path).name, facts=facts, reader=Waves(heard_at, loudness))
    return data if limit is None else data.limited(limit)


@dataclass(frozen=True)
class _Cut:
    """How recordings are divided."""

    found: Found
    validation: float
    test: float
    seed: int

    def splits(self, held_out: bool | Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
        """Return the rows of each split."""
        if held_out is False:
            rows = _grouped(self.found.splits)
        else:
            named = {} if held_out is True else {k: list(v) for k, v in held_out.items()}
            rows = self._by_name(named)
        if not len(rows["train"]):
            raise InputError("no recording is left to train on", expected="speakers for it, too")
        for split in ("test", "validation"):
            if split not in rows:
                rows["train"], rows[split] = self._cut(rows["train"], getattr(self, split))
        return rows

    def _by_name(self, named: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
        speakers = self.found.speakers
        if speakers is None:
            raise InputError(
                f"speakers are to be held out, and {self.found.where} does not say who speaks",
                expected="a column of speakers",
                remedy="Name it, data.args.speaker, or leave data.args.held_out out.",
            )
        for split in named:
            if split not in ("test", "validation"):
                raise InputError(f"held_out has {split}", expected="validation and test")
        taken: dict[str, str] = {}
        for split, name in ((split, name) for split, names in named.items() for name in names):
            if name not in speakers:
                raise InputError(
                    f"{name!r} is to be held out, and speaks in no recording",
                    expected=f"one of {', '.join(sorted(set(speakers))[:12])}",
                    remedy="Change data.args.held_out; true chooses speakers by chance.",
                )
            if taken.setdefault(name, split) != split:
                raise InputError(f"{name!r} is held out twice", expected="a speaker in one split")
        rows = _grouped([taken.get(name, "train") for name in speakers])
        return {split: rows.get(split, torch.zeros(0).long()) for split in ("train", *named)}

    def _cut(self, rows: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
        """Cut speakers off, or recordings if their speakers are not known."""
        speakers = self.found.speakers
        if speakers is None:
            labels = torch.tensor(self.found.labels or [0] * len(self.found.sounds))
            stays, off = carve(Arrays.of(rows, targets=labels[rows]), fraction, seed=self.seed)
            return stays.ids, off.ids
        here = [speakers[row] for row in rows.tolist()]
        names = sorted(set(here))
        if len(names) < 2:
            raise InputError(
                f"{names[0]} is the only speaker to train on and to hold out",
                expected="two speakers or more",
                remedy="Bring a validation and a test split.",
            )
        people = Arrays.of(targets=torch.zeros(len(names)))
        gone = {names[n] for n in carve(people, fraction, seed=self.seed)[1].ids.tolist()}
        leaves = torch.tensor([name in gone for name in here])
        return rows[~leaves], rows[leaves]


def _grouped(names: Sequence[str]) -> dict[str, Tensor]:
    """Return the rows at which each name stands."""
    return {
        name: torch.tensor([row for row, other in enumerate(names) if other == name])
        for name in dict.fromkeys(names)
    }


def _decoded(found: Found, rate: int) -> tuple[list[np.ndarray], int]:
    """Return the recordings at one rate, and that rate."""
    wanted, waves = rate, []
    for row, sound in enumerate(found.sounds):
        name = str(sound) if isinstance(sound, Path) else f"recording {row} in {found.where}"
        values, own = decoded(sound, name)
        wanted = wanted or own
        waves.append(resampled(values, own, wanted))
    return waves, wanted


def _level(waves: Sequence[np.ndarray], rate: int, loudness: float | None) -> Sequence[np.ndarray]:
    """Return recordings, at one loudness if one is wanted."""
    return waves if loudness is None else [levelled(each, rate, loudness) for each in waves]


def _singles(
    found: Found, splits: Mapping[str, Tensor], waves: Sequence[np.ndarray], rate: int
) -> Data:
    """Return each recording as a sample, with its label or the characters of its transcript."""
    facts: dict[str, Mapping[str, Any]] = {}
    names = found.names
    targets: Any
    if found.texts is None:
        targets = torch.tensor(found.labels)
    else:
        letters = sorted({c for row in splits["train"].tolist() for c in found.texts[row]})
        names, facts = (BLANK, *letters), {"targets": {"separator": ""}}
        targets = Jagged.of(
            [_numbers(each, letters, f"row {row}") for row, each in enumerate(found.texts)],
            padding=_PADDING,
            names=(),
        )
    field = jagged(waves, rate)
    whole = replace(Arrays.of(inputs=field, targets=targets), show=Recordings(field, rate))
    parts = {split: whole.subset(rows) for split, rows in splits.items()}
    return Data(parts["train"], parts["validation"], parts["test"], names, facts=facts)


def _numbers(text: str, letters: Sequence[str], where: str) -> list[int]:
    strange = next((each for each in text if each not in letters), None)
    if strange is not None:
        raise InputError(
            f"{where} has the character {strange!r}",
            expected="characters that the training transcripts have",
            consequence="No model could learn to write it.",
            remedy="Normalise the transcripts: one case, no rare marks.",
        )
    return [1 + letters.index(each) for each in text]


@dataclass(frozen=True)
class _Plan:
    """How synthetic sequences are made.

    Attributes:
        least: recordings of a sequence.
        most: likewise.
        passes: how often a training recording is used.
        pause: the most silence between two recordings, in seconds.
        seed: of all of it.
    """

    least: int
    most: int
    passes: int
    pause: float
    seed: int

    @classmethod
    def of(cls, joined: Sequence[int], passes: int, pause: float, seed: int) -> _Plan:
        """Check what a recipe says."""
        if len(joined) != 2 or not 1 <= joined[0] <= joined[1] or passes < 1 or pause < 0:
            raise InputError(
                f"sequences of {list(joined)} recordings, in {passes} passes, {pause:g} s apart",
                expected="the least and the most, such as [2, 5], at least one pass, no less than "
                "0 s",
            )
        return cls(joined[0], joined[1], passes, pause, seed)

    def groups(self, rows: Tensor, speakers: Sequence[str], passes: int) -> list[list[int]]:
        """Return which recordings make each sequence; all of one are of one speaker."""
        chance = np.random.default_rng([self.seed, len(rows), passes])
        groups: list[list[int]] = []
        for _ in range(passes):
            for name in dict.fromkeys(speakers[row] for row in rows.tolist()):
                own = [row for row in rows.tolist() if speakers[row] == name]
                left = chance.permutation(own).tolist()
                while len(left) >= self.least:
                    size = int(chance.integers(self.least, self.most + 1))
                    groups.append(left[:size])
                    left = left[size:]
        return groups


def _sequences(
    found: Found,
    splits: Mapping[str, Tensor],
    waves: Sequence[np.ndarray],
    rate: int,
    loudness: float | None,
    plan: _Plan,
) -> Data:
    """Return synthetic sequences of each split's recordings."""
    if found.labels is None:
        raise InputError(
            "data.args.joined with data.args.text",
            expected="one of them",
            remedy="Leave joined out: the transcripts are recognised as they are.",
        )
    speakers = found.speakers or ["somebody"] * len(waves)
    parts: dict[str, Arrays] = {}
    for split, rows in splits.items():
        groups = plan.groups(rows, speakers, plan.passes if split == "train" else 1)
        if not groups:
            raise InputError(
                f"{len(rows)} recordings for {split}, of which sequences are to be made",
                expected=f"{plan.least} of one speaker, at least",
            )
        chance = np.random.default_rng([plan.seed, len(groups)])
        said = [_one(group, waves, round(plan.pause * rate), chance) for group in groups]
        field = jagged(_level(said, rate, loudness), rate)
        symbols = [[1 + found.labels[row] for row in group] for group in groups]
        targets = Jagged.of(symbols, padding=_PADDING, names=())
        samples = Arrays.of(inputs=field, targets=targets)
        parts[split] = replace(samples, show=Recordings(field, rate))
    return Data(parts["train"], parts["validation"], parts["test"], (BLANK, *found.names))


def _one(
    group: Sequence[int], waves: Sequence[np.ndarray], pause: int, chance: np.random.Generator
) -> np.ndarray:
    """Return recordings one after another, with silence of any length up to a pause between."""
    pieces: list[np.ndarray] = []
    for row in group:
        pieces += [waves[row], np.zeros(int(chance.integers(0, pause + 1)), np.int16)]
    return np.concatenate(pieces[:-1])
