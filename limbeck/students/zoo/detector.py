"""A detector without anchors: at each place of a grid the classes, and a distribution of each edge.

Letters: B samples, C channels or classes, H×W pixels, L places, N bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.students.zoo._parts import Config, conv, whole, wholes

__all__ = ["Detector", "detector"]

_RARE = 0.01  # the share of objects among places that the head begins with


def detector(
    channels: Sequence[int] = (16, 32, 64),
    neck: int = 32,
    strides: Sequence[int] = (4, 8),
    bins: int = 9,
    channels_in: int = 3,
    classes: int = 10,
) -> Detector:
    """Return a one-stage detector: a backbone, a pyramid, and one head for all its levels.

    Args:
        channels: of each level of the backbone, each of which halves the picture.
        neck: channels of the pyramid and of the head.
        strides: pixels between places, for each level of the pyramid: 2 to the power of a level's
            number. As the task's ``strides``.
        bins: N, over which the distance to an edge is predicted, 0 to N − 1 strides. As the task's
            ``bins``.
        channels_in: of the picture.
        classes: C.

    Raises:
        InputError: the backbone has no level of a stride.

    Source: after Li et al. 2020, "Generalized Focal Loss", arXiv:2006.04388, with places chosen as
    in FCOS (Tian et al. 2019, arXiv:1904.01355).

    >>> model = detector((4, 8, 8), 8, classes=3)
    >>> {name: (*part.shape,) for name, part in model(torch.zeros(1, 3, 64, 64)).items()}
    {'logits': (1, 320, 39), 'classes': (1, 320, 3), 'edges': (1, 1280, 9)}
    """
    return Detector(channels, neck, strides, bins, channels_in, classes)


@final
class Detector(nn.Module):
    """Images (B, C, H, W) of any size to answers at L places.

    Returns ``logits`` (B, L, C + 4·N), as the task ``detection`` wants them: at each place, the
    finest level first, row by row, C logits of classes, then the logits of the N bins of the
    distance to each edge: left, up, right, down. The two parts stand beside it: ``classes`` (B, L,
    C), and ``edges`` (B, 4·L, N), a row for each edge.

    Taps: ``backbone.0`` ..., ``neck.0`` ... (the finest level first), ``output[classes]``,
    ``output[edges]``. Arguments: see :func:`detector`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        neck: int,
        strides: Sequence[int],
        bins: int,
        channels_in: int,
        classes: int,
    ) -> None:
        super().__init__()
        widths = wholes("channels", channels)
        args: dict[str, Any] = {
            "channels": widths,
            "neck": whole("neck", neck),
            "strides": wholes("strides", strides),
            "bins": whole("bins", bins, least=2),
            "channels_in": whole("channels_in", channels_in),
            "classes": whole("classes", classes),
        }
        self.config: Config = {"build": "detector", "args": args}
        self.bins, self.classes = bins, classes
        self.levels = _levels(widths, args["strides"])
        before = [channels_in, *widths[:-1]]
        self.backbone = nn.ModuleList(_level(a, b) for a, b in zip(before, widths, strict=True))
        self.lateral = nn.ModuleList(nn.Conv2d(widths[n], neck, 1) for n in self.levels)
        self.neck = nn.ModuleList(nn.Conv2d(neck, neck, 3, padding=1) for _ in self.levels)
        self.tower = nn.Sequential(*_layer(neck, neck), *_layer(neck, neck))
        self.to_classes = nn.Conv2d(neck, classes, 3, padding=1)
        self.to_edges = nn.Conv2d(neck, 4 * bins, 3, padding=1)
        nn.init.constant_(self.to_classes.bias, -math.log((1 - _RARE) / _RARE))  # type: ignore[arg-type]

    def forward(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Return the answers at all places."""
        seen, x = [], images_BCHW
        for level in self.backbone:
            x = level(x)
            seen.append(x)
        found = [lateral(seen[n]) for lateral, n in zip(self.lateral, self.levels, strict=True)]
        for fine in range(len(found) - 2, -1, -1):
            found[fine] = found[fine] + F.interpolate(found[fine + 1], found[fine].shape[2:])
        answers = [
            self._answer(smooth(maps)) for smooth, maps in zip(self.neck, found, strict=True)
        ]
        logits_BLD = torch.cat(answers, dim=1)
        return {
            "logits": logits_BLD,
            "classes": logits_BLD[..., : self.classes],
            "edges": logits_BLD[..., self.classes :].unflatten(-1, (4, self.bins)).flatten(1, 2),
        }

    def _answer(self, maps: Tensor) -> Tensor:
        """Return the answers at a level's places, row by row."""
        shared = self.tower(maps)
        both = torch.cat([self.to_classes(shared), self.to_edges(shared)], dim=1)
        return both.flatten(2).transpose(1, 2)


def _levels(channels: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Return which levels of the backbone have these strides."""
    known = [2 << level for level in range(len(channels))]
    if list(strides) != sorted(set(strides) & set(known)):
        raise InputError(
            f"strides {list(strides)} of a backbone of {len(channels)} levels",
            expected=f"some of {known}, the smallest first",
            remedy="Name another stride, or a channel number for each further level.",
        )
    return [known.index(stride) for stride in strides]


def _level(before: int, after: int) -> nn.Sequential:
    """Return two convolutions, the first of which halves the maps."""
    layers: list[nn.Module] = []
    for channels, stride in ((before, 2), (after, 1)):
        layers += [conv(channels, after, stride=stride), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)


def _layer(before: int, after: int) -> list[nn.Module]:
    """Return a convolution of the head; levels share it, so it has no statistics of batches."""
    groups = math.gcd(8, after)
    return [conv(before, after), nn.GroupNorm(groups, after), nn.ReLU()]
