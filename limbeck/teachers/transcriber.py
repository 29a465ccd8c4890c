"""Whisper and wav2vec 2.0 as teachers: transcripts for recordings that have none.

Such a teacher answers in a vocabulary and in frames of its own, so that its logits cannot be
compared with those of a small student. Its transcripts can be learnt from: they are written into a
table that the source ``speech`` reads, those that a known transcript contradicts left out.

Letters: N recordings, S values of a recording.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from limbeck.data.waves import decoded, resampled
from limbeck.errors import InputError, explained
from limbeck.files import atomically
from limbeck.imports import needed

__all__ = ["Heard", "Transcriber", "judged", "normalised", "write_transcripts"]

_WHOLE = 32768.0  # of 16 bits, what stands for 1.0


@final
class Transcriber:
    """A speech recogniser of ``transformers``, from a folder: nothing is downloaded.

    Whisper and others that write token after token are asked by ``generate``; wav2vec 2.0, HuBERT
    and others trained with CTC by their best path. Needs the extras ``limbeck[speech,text]``.

    Args:
        model: called by its ``generate``, or with its inputs.
        processor: makes inputs of recordings, and texts of tokens.
        options: of ``generate``: ``language``, ``num_beams``, ...
    """

    def __init__(self, model: Any, processor: Any, **options: Any) -> None:
        self.model, self.processor, self.options = model.eval(), processor, options
        self.rate = int(processor.feature_extractor.sampling_rate)

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> Transcriber:
        """Return the recogniser in a folder that ``save_pretrained`` wrote, model and processor.

        Raises:
            InputError: there is none, or it cannot be read.
        """
        if not (Path(path) / "config.json").is_file():
            raise InputError(
                f"there is no config.json in {path}",
                expected="the folder of a speech recogniser, as save_pretrained() writes it",
            )
        transformers = needed("transformers", "text", "modeling_utils")
        here = {"local_files_only": True}
        with explained(
            f"no speech recogniser could be read from {path}",
            expected="a folder with the weights of one, its processor and its tokenizer",
        ):
            config = transformers.AutoConfig.from_pretrained(str(path), **here)
            kind = (
                transformers.AutoModelForSpeechSeq2Seq
                if config.is_encoder_decoder
                else transformers.AutoModelForCTC
            )
            model = kind.from_pretrained(str(path), **here)
            processor = transformers.AutoProcessor.from_pretrained(str(path), **here)
        return cls(model, processor, **options)

    def __call__(self, recordings: Sequence[Path | bytes], batch_size: int = 8) -> list[str]:
        """Return what is said in N recordings.

        Args:
            recordings: files, or their bytes; they are brought to the model's rate.
            batch_size: recordings that the model hears at once.
        """
        texts: list[str] = []
        for start in range(0, len(recordings), batch_size):
            waves = [self._wave(each) for each in recordings[start : start + batch_size]]
            texts += self._said(waves)
        return texts

    def _wave(self, recording: Path | bytes) -> np.ndarray:
        values, rate = decoded(recording)
        return resampled(values, rate, self.rate) / np.float32(_WHOLE)

    @torch.inference_mode()
    def _said(self, waves: Sequence[np.ndarray]) -> list[str]:
        seeks = self.model.config.is_encoder_decoder
        # Whisper pads to its own length; others to the longest recording.
        more = {} if seeks else {"padding": True}
        inputs = self.processor(
            list(waves), sampling_rate=self.rate, return_tensors="pt", **more
        ).to(self.model.device)
        if seeks:
            tokens = self.model.generate(**inputs, **self.options)
        else:
            tokens = self.model(**inputs).logits.argmax(-1)
        found: list[str] = self.processor.batch_decode(tokens, skip_special_tokens=True)
        return [text.strip() for text in found]


@dataclass(frozen=True)
class Heard:
    """What a teacher heard in a recording.

    Attributes:
        text: normalised.
        error: the word error rate against a transcript that was known; ``None`` if none was.
        kept: whether a student should learn from it: it is not empty, and the error is small.
    """

    text: str
    error: float | None
    kept: bool


def normalised(text: str) -> str:
    """Return a text in small letters, without marks, its words one space apart.

    >>> normalised("  Twenty-one,  he said: “Don't!” ")
    "twenty one he said don't"
    """
    plain = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    words = re.sub(r"[^\w\s']|_", " ", plain)
    return " ".join(word.strip("'") for word in words.split() if word.strip("'"))


def judged(
    texts: Sequence[str], references: Sequence[str | None] = (), *, most: float = 0.1
) -> list[Heard]:
    """Decide which of N transcripts are to be learnt from.

    A transcript is left out if it is empty, or if its word error rate against what is known to be
    said is above ``most``; both are normalised first. Without a reference it is kept.

    Args:
        texts: what a teacher heard.
        references: what is said; ``None`` where that is not known, or none at all.
        most: the largest word error rate, a fraction.

    Raises:
        InputError: there are more or fewer references than texts.

    Source: Gandhi, von Platen, Rush 2023, "Distil-Whisper", arXiv:2311.00430, section 4, where
    ``most`` is 0.1.

    >>> [heard.kept for heard in judged(["One two.", "one four"], ["one two", "one two"])]
    [True, False]
    """
    from torchmetrics.functional.text import word_error_rate  # takes a second to import

    known = list(references) or [None] * len(texts)
    if len(known) != len(texts):
        raise InputError(
            f"{len(known)} references for {len(texts)} transcripts",
            expected="one for each, None where it is not known, or none at all",
        )
    found = []
    for text, reference in zip(map(normalised, texts), known, strict=True):
        wanted = normalised(reference) if reference else ""
        error = float(word_error_rate([text], [wanted])) if wanted else None
        found.append(Heard(text, error, bool(text) and (error is None or error <= most)))
    return found


def write_transcripts(
    folder: str | Path,
    transcriber: Transcriber,
    *,
    references: str = "",
    most: float = 0.1,
    batch_size: int = 8,
) -> list[Heard]:
    """Transcribe the recordings that ``metadata.csv`` of a folder names, and write what was heard.

    Beside it, ``transcripts/metadata.csv`` gets the columns of the original and ``text``, one row
    for each recording whose transcript :func:`judged` keeps, with paths to the files where they
    are. ``data: {source: speech, path: FOLDER/transcripts, args: {text: text}}`` then trains a
    student on them.

    Args:
        folder: with ``metadata.csv``, whose column ``file_name`` has paths within the folder.
        transcriber: the teacher.
        references: the column with what is known to be said, empty where it is not.
        most: the largest word error rate against it.
        batch_size: recordings that the teacher hears at once.

    Returns:
        What was heard in each, also in those that were left out.

    Raises:
        InputError: a file or column is missing, or no transcript is left.
    """
    root = Path(folder)
    rows = list(_rows(root / "metadata.csv"))
    for column in ("file_name", *filter(None, [references])):
        if not rows or column not in rows[0]:
            raise InputError(
                f"{root / 'metadata.csv'} has no column {column}",
                expected="a row for each recording, with " + column,
            )
    texts = transcriber([root / row["file_name"] for row in rows], batch_size)
    known = [row[references] or None for row in rows] if references else []
    heard = judged(texts, known, most=most)
    kept = [
        row | {"file_name": f"../{row['file_name']}", "text": said.text}
        for row, said in zip(rows, heard, strict=True)
        if said.kept
    ]
    if not kept:
        raise InputError(
            f"none of {len(rows)} transcripts is left",
            expected="some that are not empty, with few errors",
            remedy="Raise most, or take another teacher.",
        )
    (root / "transcripts").mkdir(exist_ok=True)
    with (
        atomically(root / "transcripts" / "metadata.csv") as draft,
        draft.open("w", encoding="utf-8", newline="") as opened,
    ):
        written = csv.DictWriter(opened, list(kept[0]))
        written.writeheader()
        written.writerows(kept)
    return heard


def _rows(file: Path) -> Iterator[dict[str, str]]:
    if not file.is_file():
        raise InputError(f"there is no file {file}", expected="a table with file_name")
    with file.open(encoding="utf-8", newline="") as opened:
        yield from csv.DictReader(opened)
