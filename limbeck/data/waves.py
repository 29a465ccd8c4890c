"""Recordings: from files of sound to numbers of 16 bits, and back to what a person can hear.

Letters: N recordings, S values of a recording, B recordings in a batch.
"""

from __future__ import annotations

import inspect
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from limbeck.data.asking import Ask
from limbeck.data.jagged import Jagged
from limbeck.data.scripted import Lines
from limbeck.data.shown import Shown, heard
from limbeck.errors import InputError
from limbeck.imports import needed

__all__ = ["Recordings", "Waves", "decoded", "jagged", "levelled", "resampled"]

_NAMES = ("waveform", "mask")
_LARGEST = 32768  # of 16 bits, what stands for 1.0
_SCRIPT = """def heard(file):
    with wave.open(file) as opened:
        if (opened.getframerate(), opened.getsampwidth()) != (RATE, 2):
            sys.exit(f"{file}: expected 16 bits at RATE Hz")
        values = np.frombuffer(opened.readframes(opened.getnframes()), "<i2")
        return values.reshape(-1, opened.getnchannels()).mean(axis=1).astype("int16")


sounds = [heard(file) for file in sys.argv[1:]]
places = np.arange(max(map(len, sounds)))
inputs = {
    "waveform": np.stack([np.pad(one, (0, len(places) - len(one))) for one in sounds]),
    "mask": np.stack([places < len(one) for one in sounds]).astype("int64"),
}"""


def decoded(source: Path | bytes, name: str = "") -> tuple[np.ndarray, int]:
    """Return a recording as one channel of 16-bit numbers, (S,), and its rate in Hz.

    Several channels become their mean. Needs the extra ``limbeck[speech]``.

    Args:
        source: a file that libsndfile reads (WAV, FLAC, OGG, MP3), or its bytes.
        name: of the recording, for messages.

    Raises:
        InputError: it cannot be read, or holds nothing.
    """
    soundfile = needed("soundfile", "speech")
    name = name or (str(source) if isinstance(source, Path) else "a recording")
    try:
        opened = io.BytesIO(source) if isinstance(source, bytes) else source
        values, rate = soundfile.read(opened, dtype="float32", always_2d=True)
    except Exception as error:  # a damaged file can raise anything
        raise InputError(f"{name} could not be read as sound: {error}") from error
    if not len(values):
        raise InputError(f"{name} holds no sound", remedy="Take it out.")
    return _whole(values.mean(axis=1)), int(rate)


def resampled(values: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Return a recording (S,) at another rate; what that cannot hold is filtered out.

    >>> len(resampled(np.zeros(16000, np.int16), 16000, 8000))
    8000
    """
    if rate == wanted:
        return values
    found: np.ndarray = needed("soxr", "speech").resample(values, rate, wanted)
    return found


def levelled(values: np.ndarray, rate: int, loudness: float) -> np.ndarray:
    """Return a recording (S,) of 16-bit numbers whose loud parts are as loud as all others'.

    They are measured by the root mean square over 25 ms that a tenth of the recording exceeds.
    Silence stays as it is, and what becomes too large is cut off.

    Args:
        values: (S,).
        rate: in Hz.
        loudness: wanted, in decibels; 0 is the largest number.

    >>> levelled(np.array([100, -100] * 800, np.int16), 8000, -20.0)[:2].tolist()
    [3277, -3277]
    """
    window = max(round(rate / 40), 1)
    power = np.convolve(values.astype(np.float64) ** 2, np.ones(window) / window, "same")
    loud = float(np.sqrt(np.quantile(power, 0.9)))
    gain = 10 ** (loudness / 20) * 32768 / loud if loud else 1.0
    return np.clip(np.rint(values * gain), -32768, 32767).astype(np.int16)


def jagged(recordings: Sequence[np.ndarray], rate: int) -> Jagged:
    """Return recordings as a field of :class:`limbeck.data.Arrays`.

    In a batch it is ``waveform``, (B, S) int16, and ``mask``, (B, S) int64.

    Args:
        recordings: 16-bit numbers, (S,) each.
        rate: of all of them, in Hz.
    """
    lengths = np.fromiter(map(len, recordings), np.int64, len(recordings))
    values = torch.from_numpy(np.concatenate([np.zeros(0, np.int16), *recordings]))
    offsets = torch.from_numpy(np.concatenate([np.zeros(1, np.int64), lengths.cumsum()]))
    return Jagged(values, offsets, 0, _NAMES, f"{rate} Hz", torch.int16)


@final
@dataclass(frozen=True)
class Waves:
    """The reader of models that hear: from recordings to ``waveform`` and ``mask``.

    Attributes:
        rate: at which they hear, in Hz.
        loudness: to which each recording is brought, in decibels, as :func:`levelled` does; by
            default it is heard as loud as it is.

    >>> heard = Waves(8000)([np.zeros(3), np.zeros(2)])
    >>> heard["waveform"].shape, heard["mask"].tolist()
    (torch.Size([2, 3]), [[1, 1, 1], [1, 1, 0]])
    """

    rate: int
    loudness: float | None = None

    def __call__(self, raw: Sequence[Any]) -> dict[str, Tensor]:
        """Return (B, S) int16 and (B, S) int64.

        Args:
            raw: a list of recordings: files (paths, or their bytes), which are brought to the
                rate; or arrays of numbers at that rate, 16-bit or floating from −1 to 1.
        """
        if isinstance(raw, str | bytes | Path):
            raise InputError(f"{type(raw).__name__}", expected="a list of recordings")
        return jagged([self._values(each) for each in raw], self.rate).dense()

    def asks(self) -> dict[str, Ask]:
        return {"Recording": Ask("sound")}

    def gathered(self, given: Mapping[str, Any]) -> Any:
        return given["Recording"]

    def script(self) -> Lines:
        """Return how WAV files of 16 bits at this rate are read without Limbeck."""
        usage, told = "SOUND.wav ...", f"WAV files of 16 bits, at {self.rate} Hz"
        lines = _SCRIPT.replace("RATE", str(self.rate))
        if self.loudness is not None:
            level = f"levelled(heard(file), {self.rate}, {self.loudness!r}) for"
            lines = lines.replace("heard(file) for", level)
            lines = f"{inspect.getsource(levelled)}\n\n{lines}"
        return Lines("import wave", usage, told, lines)

    def _values(self, found: Any) -> np.ndarray:
        values = self._as_they_are(found)
        return values if self.loudness is None else levelled(values, self.rate, self.loudness)

    def _as_they_are(self, found: Any) -> np.ndarray:
        if isinstance(found, str | Path | bytes):
            values, rate = decoded(Path(found) if isinstance(found, str) else found)
            return resampled(values, rate, self.rate)
        values = np.asarray(found)
        if values.ndim != 1 or not len(values) or values.dtype.kind not in "if":
            raise InputError(
                f"a recording of shape {values.shape} and type {values.dtype}",
                expected="one channel of 16-bit numbers, or of floating ones from −1 to 1",
            )
        return values.astype(np.int16) if values.dtype.kind == "i" else _whole(values)

    def save(self, folder: Path) -> dict[str, Any]:
        """Return what :meth:`read` needs to know; no file is needed."""
        level = {} if self.loudness is None else {"loudness": self.loudness}
        return {"kind": "speech", "rate": self.rate, **level}

    @classmethod
    def read(cls, folder: Path, facts: Mapping[str, Any]) -> Waves:
        """Return the reader that :meth:`save` told of."""
        return cls(int(facts["rate"]), facts.get("loudness"))


@final
@dataclass(frozen=True, eq=False)
class Recordings:
    """N recordings; called with a sample's id, it shows that sample.

    Attributes:
        waves: the field, whose rows are numbered as samples are.
        rate: in Hz.
    """

    waves: Jagged
    rate: int

    def __call__(self, number: int) -> Shown:
        """Return how the sample of that id is shown to a person."""
        if not 0 <= number < len(self.waves):
            raise InputError(f"recording {number} of {len(self.waves)}", expected="a sample's id")
        start, end = self.waves.offsets[number : number + 2].tolist()
        return heard(self.waves.values[start:end].numpy(), self.rate)


def _whole(values: np.ndarray) -> np.ndarray:
    """Return floating numbers from −1 to 1 as 16-bit ones."""
    scaled = np.rint(values * float(_LARGEST))
    return np.clip(scaled, -_LARGEST, _LARGEST - 1).astype(np.int16)
