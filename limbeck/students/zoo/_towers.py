"""Towers: a small network that looks and one that reads, for models that do both.

Letters: B samples, T tokens, C channels, D features, H×W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.errors import InputError, unknown
from limbeck.students.zoo._packed import states
from limbeck.students.zoo._parts import Config, conv, whole

__all__ = ["Looking", "Reading", "text_config", "wanted"]

_READERS = ("bag", "gru")


@final
class Looking(nn.Module):
    """Pictures (B, 3, H, W) from 0 to 1 to features (B, C): convolutions of stride 2, then a max.

    Args:
        channels: of each convolution; each halves height and width.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        before = 3
        for after in channels:
            layers = conv(before, after, stride=2), nn.BatchNorm2d(after), nn.ReLU()
            stages.append(nn.Sequential(*layers))
            before = after
        self.stages = nn.Sequential(*stages)
        self.features = before

    def forward(self, image: Tensor) -> Tensor:
        """Return features (B, C): of each channel its largest value."""
        maps: Tensor = self.stages(2 * image - 1)
        return maps.amax(dim=(2, 3))


@final
class Reading(nn.Module):
    """Tokens (B, T) to features (B, D).

    Args:
        vocab: how many tokens there are.
        words: D, of an embedding and of what comes out.
        reader: ``bag``, the mean of the embeddings; ``gru``, the last state of a recurrent network.
        padding: the token that fills shorter texts.
    """

    def __init__(self, vocab: int, words: int, reader: str, padding: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, words, padding_idx=padding)
        self.gru = nn.GRU(words, words, batch_first=True) if reader == "gru" else None
        self.features = words

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return features (B, D)."""
        lengths = attention_mask.sum(dim=1, keepdim=True).clamp(min=1)
        words = self.embedding(input_ids) * attention_mask.unsqueeze(2)
        if self.gru is None:
            mean: Tensor = words.sum(dim=1) / lengths
            return mean
        found = states(self.gru, words)  # what stands after a text's end changes nothing before it
        last: Tensor = found[torch.arange(found.shape[0], device=found.device), lengths[:, 0] - 1]
        return last


def text_config(vocab: int, words: int, reader: str, padding: int) -> Config:
    """Return the arguments of :class:`Reading`, checked."""
    if reader not in _READERS:
        raise unknown("reader", reader, _READERS)
    return {
        "vocab": whole("vocab", vocab, least=whole("padding", padding, least=0) + 1),
        "words": whole("words", words),
        "reader": reader,
        "padding": padding,
    }


def wanted(given: Tensor | None, what: str) -> Any:
    """Return an input, which a model cannot do without."""
    if given is None:
        raise InputError(f"the model got no {what}", expected=f"a {what} for each sample")
    return given
