"""A network for segmentation: down to coarse maps, and up again beside what was seen on the way.

Letters: B samples, C channels or classes, H×W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.students.zoo._parts import Config, conv, whole, wholes

__all__ = ["Segmenter", "segmenter"]


def segmenter(
    channels: Sequence[int] = (16, 32, 64), channels_in: int = 3, classes: int = 11
) -> Segmenter:
    """Return a U-Net whose levels all have a say in the classes.

    Maps are halved from level to level and brought back to the picture's size, beside what was seen
    on the way down. Each level answers, and the answers are added up: few channels are enough at
    the finest level, which only has to sharpen what coarser ones know.

    Args:
        channels: of each level, the finest first, which works at half the picture's resolution.
        channels_in: of the picture.
        classes: number of logits for each pixel.

    Source: after Ronneberger, Fischer, Brox 2015, "U-Net", arXiv:1505.04597, with batch norms,
    padded convolutions and sums instead of concatenations; answers of several levels as in Long,
    Shelhamer, Darrell 2015, "Fully Convolutional Networks", arXiv:1411.4038.

    >>> import torch
    >>> segmenter((4, 8), classes=3)(torch.zeros(1, 3, 32, 24)).shape
    torch.Size([1, 3, 32, 24])
    """
    return Segmenter(channels, channels_in, classes)


@final
class Segmenter(nn.Module):
    """Images (B, C, H, W) of any size to logits (B, C, H, W).

    Taps: ``down.0`` ... are the levels on the way down, ``up.0`` ... those on the way up, the
    coarsest but one first; ``classifiers.0`` ... the answers of the levels, the coarsest first.
    Arguments: see :func:`segmenter`.
    """

    def __init__(self, channels: Sequence[int], channels_in: int, classes: int) -> None:
        super().__init__()
        widths = wholes("channels", channels)
        args: dict[str, Any] = {
            "channels": widths,
            "channels_in": whole("channels_in", channels_in),
            "classes": whole("classes", classes, least=2),
        }
        self.config: Config = {"build": "segmenter", "args": args}
        before = [args["channels_in"], *widths[:-1]]
        self.down = nn.ModuleList(_level(a, b, 2) for a, b in zip(before, widths, strict=True))
        pairs = zip(widths[:0:-1], widths[-2::-1], strict=True)
        self.across = nn.ModuleList(conv(coarse, fine, 1) for coarse, fine in pairs)
        self.up = nn.ModuleList(_level(fine, fine, 1) for fine in widths[-2::-1])
        self.classifiers = nn.ModuleList(nn.Conv2d(each, classes, 1) for each in widths[::-1])

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return logits (B, C, H, W)."""
        seen, x = [], images_BCHW
        for level in self.down:
            x = level(x)
            seen.append(x)
        first, *finer = self.classifiers
        logits = first(x)
        levels = zip(self.across, self.up, finer, seen[-2::-1], strict=True)
        for across, up, classify, fine in levels:
            x = up(fine + _grown(across(x), fine))
            logits = classify(x) + _grown(logits, fine)
        return _grown(logits, images_BCHW)


def _level(before: int, after: int, stride: int) -> nn.Sequential:
    """Return two convolutions, the first of which may halve the maps."""
    layers: list[nn.Module] = []
    for channels, step in ((before, stride), (after, 1)):
        layers += [conv(channels, after, stride=step), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)


def _grown(maps: Tensor, like: Tensor) -> Tensor:
    """Bring maps to the height and width of others, bilinearly."""
    return F.interpolate(maps, like.shape[2:], mode="bilinear", align_corners=False)
