"""The front end of models that hear: from a waveform to the logarithms of its mel spectrum.

It is a module without parameters, so that a model which begins with it ships with it.

Letters: B samples, S values of a waveform, T frames, M mel bands, F frequencies.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.losses.spec import exactly
from limbeck.students.zoo._parts import number, whole

__all__ = ["LogMel", "mel_filters"]

_FLOOR = 1e-6  # of the power: a little below the rounding of 16 bits
_MIDDLE, _SPREAD = -4.0, 4.0  # brings usual logarithms to about −2 to 2


def mel_filters(rate: int, size: int, mels: int, low: float, high: float) -> Tensor:
    r"""Return triangles that are equally wide and equally far apart on the mel scale, (F, M).

    $$m(f) = 2595 \log_{10}(1 + f / 700)$$

    Args:
        rate: of the waveform, in Hz.
        size: of the Fourier transform; F = ``size`` / 2 + 1.
        mels: M.
        low: where the first triangle begins, in Hz.
        high: where the last one ends, in Hz.

    Raises:
        InputError: the range is empty or reaches beyond half the rate, or a triangle falls between
            two frequencies.

    Source: O'Shaughnessy 1987, as in HTK; heights are 1.

    >>> mel_filters(8000, 256, 40, 20, 4000).shape
    torch.Size([129, 40])
    """
    if not 0 <= low < high <= rate / 2:
        raise InputError(
            f"mel bands from {low:g} to {high:g} Hz at {rate:,} values a second",
            expected=f"a range within 0 to {rate / 2:g} Hz",
        )
    least, most = (2595 * math.log10(1 + frequency / 700) for frequency in (low, high))
    marks = 700 * (10 ** (torch.linspace(least, most, mels + 2, dtype=torch.float64) / 2595) - 1)
    places = torch.linspace(0, rate / 2, size // 2 + 1, dtype=torch.float64).unsqueeze(1)
    rising = (places - marks[:-2]) / (marks[1:-1] - marks[:-2])
    falling = (marks[2:] - places) / (marks[2:] - marks[1:-1])
    filters = torch.minimum(rising, falling).clamp_(min=0)
    if bool((filters.sum(0) == 0).any()):
        raise InputError(
            f"{mels} mel bands of a Fourier transform of {size} values",
            expected="bands that hold a frequency each",
            remedy="Fewer bands (mels), or a longer window.",
        )
    return filters.float()


@final
class LogMel(nn.Module):
    """Waveforms (B, S) to log-mel features (B, T, M), without looking ahead.

    Frame t is the Hann window that ends with value (t + 1)·hop − 1; before the beginning and after
    the end there is silence. So T = ⌈S / hop⌉, features do not depend on how far a waveform was
    padded, and they can be computed while someone speaks.

    Args:
        rate: of the waveform, in Hz.
        window: in seconds.
        hop: from frame to frame, in seconds.
        mels: M.
        low: the lowest frequency that counts, in Hz.

    >>> LogMel(8000)(torch.zeros(1, 8000), torch.ones(1, 8000))[0].shape
    torch.Size([1, 100, 40])
    """

    filters: Tensor
    window: Tensor

    def __init__(
        self,
        rate: int,
        *,
        window: float = 0.025,
        hop: float = 0.01,
        mels: int = 40,
        low: float = 20.0,
    ) -> None:
        super().__init__()
        self.hop = round(whole("rate", rate) * number("hop", hop))
        length = round(rate * number("window", window))
        if not 1 <= self.hop <= length:
            raise InputError(
                f"a hop of {hop:g} s and a window of {window:g} s at {rate:,} values a second",
                expected="a hop of at least one value, and a window that is not shorter",
            )
        self.size = 2 ** math.ceil(math.log2(length))
        filters = mel_filters(rate, self.size, whole("mels", mels), low, rate / 2)
        self.register_buffer("filters", filters, persistent=False)
        shape = torch.hann_window(length, periodic=True)
        self.register_buffer("window", shape, persistent=False)

    def forward(self, waveform: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, T, M) and which frames hold a part of the waveform, (B, T) bool.

        Args:
            waveform: (B, S), 16-bit whole numbers, or floating from −1 to 1.
            mask: (B, S), true where a value counts; the rest is padding at the end.
        """
        with exactly(waveform.device.type):
            scale = 1.0 if waveform.is_floating_point() else 1 / 32768
            heard = waveform.float() * scale * mask
            before, after = len(self.window) - self.hop, -waveform.shape[1] % self.hop
            padded = nn.functional.pad(heard, (before, after))
            frames = padded.unfold(1, len(self.window), self.hop) * self.window
            spectrum = torch.view_as_real(torch.fft.rfft(frames, self.size))
            power = spectrum.square().sum(-1) @ self.filters
            features = ((power + _FLOOR).log() - _MIDDLE) / _SPREAD
        return features, mask[:, :: self.hop].bool()

    def as_picture(self, values: Tensor) -> Tensor:
        """Return values for frames and bands, (B, T, M), as (B, M, T) with low bands below."""
        return values.transpose(1, 2).flip(1)
