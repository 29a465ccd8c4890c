"""Models that hear: a log-mel front end, blocks, and an answer to the whole or to each frame.

All are called with ``waveform`` and ``mask``, (B, S), and return logits: (B, C) for a recording, or
(B, T, C) for each frame, as CTC wants them. What follows the end of a recording, where ``mask`` is
false, changes no answer.

Letters: B recordings, S values of a waveform, T frames, C classes, D features, M mel bands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.students.zoo._packed import states
from limbeck.students.zoo._parts import Config, number, whole
from limbeck.students.zoo.logmel import LogMel

__all__ = ["Hearing", "audiocnn", "audiogru", "conv_transformer"]


def audiocnn(
    rate: int,
    width: int = 32,
    *,
    depth: int = 4,
    kernel: int = 5,
    mels: int = 40,
    hop: float = 0.01,
    stride: int = 2,
    dropout: float = 0.0,
    hidden_bands: int = 0,
    frames: bool = False,
    classes: int,
) -> Hearing:
    """Return a small causal network of depthwise separable convolutions: it can answer live.

    Args:
        rate: of the waveform, in Hz.
        width: D.
        depth: number of blocks.
        kernel: frames that a block sees, the last ones.
        mels: M.
        hop: from frame to frame of the spectrum, in seconds.
        stride: frames of the spectrum for one of the model: T = ⌈⌈S / (rate·hop)⌉ / ``stride``⌉.
        dropout: share of the features that training hides, after each block.
        hidden_bands: how often training hides a band of frequencies and a stretch of time
            (SpecAugment); 0 hides none.
        frames: whether each frame is answered, for CTC, and not the recording as a whole.
        classes: number of logits.

    Source: after Zhang et al. 2017, "Hello Edge: Keyword Spotting on Microcontrollers" (DS-CNN),
    arXiv:1711.07128, with convolutions over time alone, that do not look ahead.

    >>> model = audiocnn(8000, 8, classes=10)
    >>> model(torch.zeros(2, 4000), torch.ones(2, 4000)).shape
    torch.Size([2, 10])
    """
    args = {"width": width, "depth": depth, "kernel": whole("kernel", kernel), "mels": mels}
    common = _common(rate, hop, stride, dropout, hidden_bands, frames, classes)
    return Hearing("audiocnn", args | common, lambda: _Causal(width, kernel, dropout))


def audiogru(
    rate: int,
    width: int = 48,
    *,
    depth: int = 2,
    bidirectional: bool = False,
    mels: int = 40,
    hop: float = 0.01,
    stride: int = 2,
    dropout: float = 0.0,
    hidden_bands: int = 0,
    frames: bool = False,
    classes: int,
) -> Hearing:
    """Return a recurrent network of gated units, which can answer live unless it is bidirectional.

    Args:
        rate: of the waveform, in Hz.
        width: D, the units of a layer; half of them in each direction if there are two.
        depth: number of layers, each added to what entered it.
        bidirectional: whether it also runs backwards; it then has to wait for the end.
        mels: M.
        hop: from frame to frame of the spectrum, in seconds.
        stride: frames of the spectrum for one of the model: T = ⌈⌈S / (rate·hop)⌉ / ``stride``⌉.
        dropout: share of the features that training hides, after each layer.
        hidden_bands: how often training hides a band of frequencies and a stretch of time
            (SpecAugment); 0 hides none.
        frames: whether each frame is answered, for CTC, and not the recording as a whole.
        classes: number of logits.

    Source: Cho et al. 2014, arXiv:1406.1078, with norms and residual connections.

    >>> model = audiogru(8000, 8, bidirectional=True, frames=True, classes=11)
    >>> model(torch.zeros(2, 4000), torch.ones(2, 4000)).shape
    torch.Size([2, 25, 11])
    """
    if bidirectional and whole("width", width) % 2:
        raise InputError(f"a width of {width} for two directions", expected="an even number")
    args = {"width": width, "depth": depth, "bidirectional": bool(bidirectional), "mels": mels}
    common = _common(rate, hop, stride, dropout, hidden_bands, frames, classes)
    return Hearing("audiogru", args | common, lambda: _Recurrent(width, bidirectional, dropout))


def conv_transformer(
    rate: int,
    width: int = 128,
    *,
    depth: int = 4,
    heads: int = 4,
    kernel: int = 15,
    mels: int = 40,
    hop: float = 0.01,
    stride: int = 2,
    dropout: float = 0.1,
    hidden_bands: int = 2,
    frames: bool = False,
    classes: int,
) -> Hearing:
    """Return convolutions and attention in turn: a teacher, which hears a recording as a whole.

    Args:
        rate: of the waveform, in Hz.
        width: D.
        depth: number of blocks: attention over all frames, a depthwise convolution over time, a
            perceptron four times as wide.
        heads: of the attention; they divide the width.
        kernel: frames that a block's convolution sees, an odd number. Where frames stand is known
            from these alone.
        mels: M.
        hop: from frame to frame of the spectrum, in seconds.
        stride: frames of the spectrum for one of the model: T = ⌈⌈S / (rate·hop)⌉ / ``stride``⌉.
        dropout: share that training hides, after each part of a block.
        hidden_bands: how often training hides a band of frequencies and a stretch of time
            (SpecAugment); 0 hides none.
        frames: whether each frame is answered, for CTC, and not the recording as a whole.
        classes: number of logits.

    Source: after Gulati et al. 2020, "Conformer", arXiv:2005.08100, with one perceptron in a block
    and layer norm in its convolution.

    >>> model = conv_transformer(8000, 16, depth=2, classes=10)
    >>> model(torch.zeros(2, 4000), torch.ones(2, 4000)).shape
    torch.Size([2, 10])
    """
    if whole("width", width) % whole("heads", heads):
        raise InputError(
            f"a width of {width} for {heads} heads", expected="a width that the heads divide"
        )
    if whole("kernel", kernel) % 2 == 0:
        raise InputError(f"a kernel of {kernel} frames", expected="an odd number")
    args = {"width": width, "depth": depth, "heads": heads, "kernel": kernel, "mels": mels}
    common = _common(rate, hop, stride, dropout, hidden_bands, frames, classes)
    return Hearing(
        "conv_transformer", args | common, lambda: _Attending(width, heads, kernel, dropout)
    )


@final
class Hearing(nn.Module):
    """Waveforms (B, S) to logits (B, C), or (B, T, C) if it answers each frame.

    Taps: ``spectrum``, the features of the first convolution (B, T, D); ``stage[i]`` or
    ``blocks.i`` (B, T, D), 0 after the end of a recording; ``penultimate``, what enters the
    classifier, (B, D) or (B, T, D). Made by :func:`audiocnn`, :func:`audiogru` and
    :func:`conv_transformer`.

    Args:
        build: the name by which the zoo builds it.
        args: of that function.
        block: makes a block, called with features (B, T, D) and a mask (B, T).
    """

    def __init__(self, build: str, args: Config, block: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.config: Config = {"build": build, "args": args}
        width, self.frames = whole("width", args["width"]), args["frames"]
        self.features = LogMel(args["rate"], hop=args["hop"], mels=whole("mels", args["mels"]))
        self.hiding = _Hiding(args["hidden_bands"])
        self.spectrum = _Convolution(args["mels"], width, 5, args["stride"])
        self.blocks = nn.ModuleList(block() for _ in range(whole("depth", args["depth"])))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, args["classes"])

    def forward(self, waveform: Tensor, mask: Tensor) -> Tensor:
        """Return logits (B, C), or (B, T, C)."""
        spectrum, keep = self.features(waveform, mask)
        x = F.gelu(self.spectrum(self.hiding(spectrum) * keep.unsqueeze(2)))
        keep = keep[:, :: self.spectrum.stride]
        seen = keep.unsqueeze(2)
        x = x * seen
        for block in self.blocks:
            x = block(x, keep)
        x = self.norm(x) * seen
        if not self.frames:
            x = x.sum(dim=1) / seen.sum(dim=1)
        logits: Tensor = self.classifier(x)
        return logits


@final
class _Hiding(nn.Module):
    """Puts zeros into bands and stretches of features (B, T, M), in training alone.

    Each is up to a fifth of all bands, or of all frames (Park et al. 2019, arXiv:1904.08779).
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return features
        for _ in range(self.count):
            for dim in (1, 2):
                features = features.masked_fill(_stretch(features, dim), 0.0)
        return features


def _stretch(features: Tensor, dim: int) -> Tensor:
    """Say which places along a dimension one random stretch of each sample covers."""
    count, length = len(features), features.shape[dim]
    size, start = torch.rand(2, count, 1, device=features.device) * length
    places = torch.arange(length, device=features.device)
    first = start * (1 - size / (5 * length))
    covered: Tensor = (places >= first) & (places < first + size / 5)
    return covered.unsqueeze(3 - dim)


@final
class _Convolution(nn.Module):
    """A convolution over the last frames of features (B, T, D), which does not look ahead."""

    def __init__(
        self, width_in: int, width: int, kernel: int, stride: int = 1, *, apart: bool = False
    ) -> None:
        super().__init__()
        self.stride, self.before = stride, kernel - 1
        groups = width if apart else 1
        self.conv = nn.Conv1d(width_in, width, kernel, stride=stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.conv(F.pad(x.transpose(1, 2), (self.before, 0)))
        return changed.transpose(1, 2)


@final
class _Causal(nn.Module):
    """A depthwise convolution over the last frames and a perceptron, added to what came in."""

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.depthwise = _Convolution(width, width, kernel, apart=True)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        seen = keep.unsqueeze(2)
        y = self.depthwise(self.norm(x) * seen)
        y = self.fc2(F.gelu(self.fc1(y)))
        changed: Tensor = (x + self.dropout(y)) * seen
        return changed


@final
class _Recurrent(nn.Module):
    """A layer of gated recurrent units, added to what came in."""

    def __init__(self, width: int, bidirectional: bool, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        units = width // 2 if bidirectional else width
        self.gru = nn.GRU(width, units, batch_first=True, bidirectional=bidirectional)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        # The way back, if there is one, must begin where the recording ends.
        lengths = keep.sum(dim=1) if self.gru.bidirectional else None
        y = states(self.gru, self.norm(x), lengths)
        changed: Tensor = (x + self.dropout(y)) * keep.unsqueeze(2)
        return changed


@final
class _Attending(nn.Module):
    """Attention, a depthwise convolution and a perceptron, each added to what came in."""

    def __init__(self, width: int, heads: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.gate = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm4, self.pointwise = nn.LayerNorm(width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        seen = keep.unsqueeze(2)
        y = self.norm1(x)
        q, k, v = (
            part(y).unflatten(2, (-1, self.head_dim)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=keep[:, None, None, :])
        x = x + self.dropout(self.out(y.transpose(1, 2).flatten(2)))
        y = F.glu(self.gate(self.norm2(x)), dim=2) * seen
        y = self.depthwise(y.transpose(1, 2)).transpose(1, 2)
        x = x + self.dropout(self.pointwise(F.silu(self.norm4(y))))
        y = self.fc2(F.silu(self.fc1(self.norm3(x))))
        changed: Tensor = (x + self.dropout(y)) * seen
        return changed


def _common(
    rate: int,
    hop: float,
    stride: int,
    dropout: float,
    hidden_bands: int,
    frames: bool,
    classes: int,
) -> dict[str, Any]:
    """Return the arguments that all of them have, checked."""
    return {
        "rate": whole("rate", rate),
        "hop": number("hop", hop),
        "stride": whole("stride", stride),
        "dropout": number("dropout", dropout, zero=True, below=1),
        "hidden_bands": whole("hidden_bands", hidden_bands, least=0),
        "frames": bool(frames),
        "classes": whole("classes", classes),
    }
