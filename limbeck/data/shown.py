"""How a sample is shown to a person: a text, a picture, a sound, or numbers.

What is shown is a mapping of texts that JSON can keep: ``{"kind": "text", "text": ...}``;
``{"kind": "picture", "src": "data:image/png;base64,...", "text": ...}``, where the text stands in
for the picture, and perhaps ``"caption"``, a text that belongs to the sample too; or
``{"kind": "audio", "src": "data:audio/wav;base64,...", "picture": ..., "text": ...}``, with a
picture of the waveform.
"""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["Show", "Showing", "Shown", "data_uri", "heard", "is_picture", "portrayed", "shown"]

Shown = dict[str, str]
Show = Callable[[int], Shown]
_MOST_NUMBERS, _MOST_PIXELS = 12, 512 * 512
_WIDE, _HIGH = 240, 48  # of the picture of a waveform, in pixels


@runtime_checkable
class Showing(Protocol):
    """A set of samples that can show one to a person.

    Attributes:
        ids: (N,) int64.
    """

    @property
    def ids(self) -> Tensor: ...

    def shown(self, row: int) -> Shown:
        """Return how the sample at a row is shown."""


def shown(samples: Any, number: int) -> Shown:
    """Return how the sample with an id is shown: by its id alone, if the set shows none."""
    if not isinstance(samples, Showing):
        return {"kind": "text", "text": f"sample {number}"}
    return samples.shown(int((samples.ids == number).nonzero()[0]))


def portrayed(inputs: Any) -> Shown:
    """Return how the inputs of one sample are shown, if nothing better is known of them.

    Args:
        inputs: (C, H, W) with one or three channels, uint8 or from 0 to 1, is a picture, and
            (F, C, H, W) a strip of several; other tensors are shown by their first numbers, and
            mappings by their fields.

    >>> portrayed(torch.tensor([0.5, 2.0]))
    {'kind': 'text', 'text': '0.5, 2'}
    >>> portrayed(torch.zeros(3, 4, 6))["text"]
    'a picture of 6×4'
    """
    if isinstance(inputs, Mapping):
        parts = [f"{name}: {portrayed(value).get('text')}" for name, value in inputs.items()]
        return {"kind": "text", "text": "; ".join(parts)}
    if not isinstance(inputs, Tensor):
        return {"kind": "text", "text": str(inputs)[:400]}
    if is_picture(inputs):
        height, width = inputs.shape[1:]
        told = f"a picture of {width}×{height}"
        return {"kind": "picture", "src": _data_uri(inputs), "text": told}
    if inputs.ndim == 4 and is_picture(strip := torch.cat([*inputs], dim=2)):
        told = f"{len(inputs)} pictures of {inputs.shape[3]}×{inputs.shape[2]}"
        return {"kind": "picture", "src": _data_uri(strip), "text": told}
    numbers = inputs.flatten()[:_MOST_NUMBERS].tolist()
    more = ", …" if inputs.numel() > _MOST_NUMBERS else ""
    return {"kind": "text", "text": ", ".join(f"{number:.4g}" for number in numbers) + more}


def heard(values: np.ndarray, rate: int) -> Shown:
    """Return how a recording is shown: as sound, within a URI, and as a picture of its waveform.

    Args:
        values: (S,) 16-bit numbers.
        rate: in Hz.

    >>> heard(np.zeros(4000, np.int16), 8000)["text"]
    '0.50 s of sound'
    """
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(rate)
        written.writeframes(values.astype("<i2").tobytes())
    return {
        "kind": "audio",
        "src": f"data:audio/wav;base64,{base64.b64encode(file.getvalue()).decode()}",
        "picture": _waveform(values),
        "text": f"{len(values) / rate:.2f} s of sound",
    }


def _waveform(values: np.ndarray) -> str:
    """Return a picture of a waveform as an SVG within a URI: a line from least to most, by pixel.

    It fills the height, for recordings differ in loudness.
    """
    parts = [part for part in np.array_split(values.astype(float), _WIDE) if len(part)]
    middle = _HIGH / 2
    scale = middle / max(1.0, float(np.abs(values).max(initial=0)))
    lines = "".join(
        f"M{place}.5 {middle - scale * part.max():.1f}V{middle - scale * part.min() + 0.5:.1f}"
        for place, part in enumerate(parts)
    )
    drawn = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {len(parts)} {_HIGH}" '
        f'width="{_WIDE}" height="{_HIGH}"><path d="{lines}" stroke="#8a8f98"/></svg>'
    )
    return f"data:image/svg+xml;base64,{base64.b64encode(drawn.encode()).decode()}"


def is_picture(inputs: Tensor) -> bool:
    """Return whether the inputs of one sample can be shown as a picture, as they are."""
    if inputs.ndim != 3 or inputs.shape[0] not in (1, 3) or not inputs.numel():
        return False
    if inputs[0].numel() > _MOST_PIXELS:
        return False
    whole = inputs.dtype == torch.uint8
    return whole or (
        inputs.is_floating_point() and float(inputs.min()) >= 0 and float(inputs.max()) <= 1
    )


def data_uri(image: Image.Image) -> str:
    """Return a picture as a PNG within a URI."""
    file = io.BytesIO()
    image.save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _data_uri(pixels: Tensor) -> str:
    """Return pixels (C, H, W) as a PNG within a URI."""
    whole = pixels if pixels.dtype == torch.uint8 else (pixels.float() * 255).round().byte()
    array = whole.cpu().permute(1, 2, 0).contiguous().numpy()
    return data_uri(Image.fromarray(array[..., 0] if array.shape[2] == 1 else array))
