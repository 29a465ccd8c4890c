"""ShuffleNet V1 and V2 for small images: cheap convolutions whose channels are then shuffled.

Letters: B samples, C channels or classes, H×W positions, G groups of channels.

Source: Zhang, Zhou, Lin, Sun 2017, "ShuffleNet: An Extremely Efficient Convolutional Neural Network
for Mobile Devices", arXiv:1707.01083; Ma, Zhang, Zheng, Sun 2018, "ShuffleNet V2: Practical
Guidelines for Efficient CNN Architecture Design", arXiv:1807.11164; both in the form of the
CIFAR-100 distillation benchmark (Tian et al. 2020, arXiv:1910.10699; code:
github.com/HobbitLong/RepDistiller). There the stem is a 1×1 convolution that keeps the resolution,
without max-pooling, and a unit of V1 has a ReLU after its depthwise convolution too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.students.zoo._parts import Config, conv, whole, wholes

__all__ = ["STEM", "ShuffleNetV1", "ShuffleNetV2", "shufflenet_v1", "shufflenet_v2"]

STEM = 24
"""Channels of the stem, in both versions and at every width."""


def shufflenet_v1(
    widths: Sequence[int] = (240, 480, 960),
    blocks: Sequence[int] = (4, 8, 4),
    groups: int = 3,
    classes: int = 10,
    channels_in: int = 3,
) -> ShuffleNetV1:
    """Return a ShuffleNet V1; by default the benchmark's, with three groups.

    Args:
        widths: channels of the three stages: multiples of 4·groups, growing, the first above the
            24 of the stem.
        blocks: units in each stage; the first halves the resolution.
        groups: groups of the 1×1 convolutions: 1, 2, 3 or 6. The very first unit begins ungrouped.
        classes: number of logits.
        channels_in: channels of the image.

    Raises:
        InputError: the widths cannot be divided so.

    Source: Zhang et al. 2017, arXiv:1707.01083; PyTorch's initialisation, as in RepDistiller.

    >>> sum(p.numel() for p in shufflenet_v1(classes=100).parameters())
    949258
    """
    return ShuffleNetV1(widths, blocks, groups, classes, channels_in)


def shufflenet_v2(
    widths: Sequence[int] = (116, 232, 464),
    blocks: Sequence[int] = (4, 8, 4),
    head: int = 1024,
    classes: int = 10,
    channels_in: int = 3,
) -> ShuffleNetV2:
    """Return a ShuffleNet V2; by default the benchmark's, of the paper's size 1×.

    Args:
        widths: channels of the three stages, even; (48, 96, 192) is the paper's size 0.5×.
        blocks: units in each stage; the first halves the resolution.
        head: channels of the last convolution.
        classes: number of logits.
        channels_in: channels of the image.

    Raises:
        InputError: a width is odd.

    Source: Ma et al. 2018, arXiv:1807.11164; PyTorch's initialisation, as in RepDistiller.

    >>> sum(p.numel() for p in shufflenet_v2(classes=100).parameters())
    1355528
    """
    return ShuffleNetV2(widths, blocks, head, classes, channels_in)


@final
class ShuffleNetV1(nn.Module):
    """Images (B, C, H, W) to logits (B, C); at 32×32 the stages are 16, 8 and 4 wide.

    Taps: ``layer2`` is a stage's output, ``layer2.0`` a unit's, after its ReLU. Arguments: see
    :func:`shufflenet_v1`.
    """

    def __init__(
        self,
        widths: Sequence[int],
        blocks: Sequence[int],
        groups: int,
        classes: int,
        channels_in: int,
    ) -> None:
        super().__init__()
        self.config = _config_v1(widths, blocks, groups, classes, channels_in)
        (first, second, third), counts = (
            self.config["args"]["widths"],
            self.config["args"]["blocks"],
        )
        self.conv1 = conv(channels_in, STEM, 1)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.relu1 = nn.ReLU()
        self.layer1 = _stage_v1(STEM, first, counts[0], groups, entry=1)
        self.layer2 = _stage_v1(first, second, counts[1], groups, entry=groups)
        self.layer3 = _stage_v1(second, third, counts[2], groups, entry=groups)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(third, classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return logits (B, C)."""
        x = self.relu1(self.bn1(self.conv1(images_BCHW)))
        x = self.avgpool(self.layer3(self.layer2(self.layer1(x))))
        logits_BC: Tensor = self.linear(x.flatten(1))
        return logits_BC


@final
class ShuffleNetV2(nn.Module):
    """Images (B, C, H, W) to logits (B, C); at 32×32 the stages are 16, 8 and 4 wide.

    Taps: ``layer2`` is a stage's output, ``layer2.0`` a unit's, shuffled. Arguments: see
    :func:`shufflenet_v2`.
    """

    def __init__(
        self,
        widths: Sequence[int],
        blocks: Sequence[int],
        head: int,
        classes: int,
        channels_in: int,
    ) -> None:
        super().__init__()
        self.config = _config_v2(widths, blocks, head, classes, channels_in)
        (first, second, third), counts = (
            self.config["args"]["widths"],
            self.config["args"]["blocks"],
        )
        self.conv1 = conv(channels_in, STEM, 1)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.relu1 = nn.ReLU()
        self.layer1 = _stage_v2(STEM, first, counts[0])
        self.layer2 = _stage_v2(first, second, counts[1])
        self.layer3 = _stage_v2(second, third, counts[2])
        self.conv2 = conv(third, head, 1)
        self.bn2 = nn.BatchNorm2d(head)
        self.relu2 = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(head, classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return logits (B, C)."""
        x = self.relu1(self.bn1(self.conv1(images_BCHW)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.avgpool(self.relu2(self.bn2(self.conv2(x))))
        logits_BC: Tensor = self.linear(x.flatten(1))
        return logits_BC


@final
class _UnitV1(nn.Module):
    """Grouped 1×1, shuffle, depthwise 3×3, grouped 1×1; then add the input, or append it halved."""

    def __init__(
        self, channels_in: int, channels: int, groups: int, entry: int, stride: int
    ) -> None:
        super().__init__()
        added = channels - channels_in if stride == 2 else channels
        inside = added // 4
        self.conv1 = conv(channels_in, inside, 1, groups=entry)
        self.bn1 = nn.BatchNorm2d(inside)
        self.relu1 = nn.ReLU()
        self.conv2 = conv(inside, inside, stride=stride, groups=inside)
        self.bn2 = nn.BatchNorm2d(inside)
        self.relu2 = nn.ReLU()
        self.conv3 = conv(inside, added, 1, groups=groups)
        self.bn3 = nn.BatchNorm2d(added)
        self.relu3 = nn.ReLU()
        self.halves = stride == 2
        self.shortcut = nn.AvgPool2d(3, stride=2, padding=1) if self.halves else nn.Identity()
        self.entry = entry

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x = _shuffle(self.relu1(self.bn1(self.conv1(x_BCHW))), self.entry)
        x = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(x)))))
        short = self.shortcut(x_BCHW)
        out_BCHW: Tensor = self.relu3(torch.cat([x, short], 1) if self.halves else x + short)
        return out_BCHW


@final
class _UnitV2(nn.Module):
    """Half of the channels pass; the other half is convolved; both are shuffled together."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = _inner_branch(channels // 2, channels // 2, stride=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        passed, convolved = x_BCHW.chunk(2, 1)
        return _shuffle(torch.cat([passed, self.branch(convolved)], 1), 2)


@final
class _DownV2(nn.Module):
    """Both branches see all channels and halve the resolution."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.left = nn.Sequential(
            OrderedDict(
                conv1=conv(channels_in, channels_in, stride=2, groups=channels_in),
                bn1=nn.BatchNorm2d(channels_in),
                conv2=conv(channels_in, half, 1),
                bn2=nn.BatchNorm2d(half),
                relu2=nn.ReLU(),
            )
        )
        self.right = _inner_branch(channels_in, half, stride=2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return _shuffle(torch.cat([self.left(x_BCHW), self.right(x_BCHW)], 1), 2)


def _inner_branch(channels_in: int, channels: int, *, stride: int) -> nn.Sequential:
    """Return 1×1, depthwise 3×3 without ReLU, 1×1."""
    return nn.Sequential(
        OrderedDict(
            conv1=conv(channels_in, channels, 1),
            bn1=nn.BatchNorm2d(channels),
            relu1=nn.ReLU(),
            conv2=conv(channels, channels, stride=stride, groups=channels),
            bn2=nn.BatchNorm2d(channels),
            conv3=conv(channels, channels, 1),
            bn3=nn.BatchNorm2d(channels),
            relu3=nn.ReLU(),
        )
    )


def _shuffle(x_BCHW: Tensor, groups: int) -> Tensor:
    """Deal the channels of G groups out in turn: channel c of group g moves to c·G + g."""
    batch, channels, height, width = x_BCHW.shape
    grouped = x_BCHW.view(batch, groups, channels // groups, height, width)
    return grouped.transpose(1, 2).reshape(batch, channels, height, width)


def _stage_v1(
    channels_in: int, channels: int, blocks: int, groups: int, *, entry: int
) -> nn.Sequential:
    first = _UnitV1(channels_in, channels, groups, entry, 2)
    return nn.Sequential(
        first, *(_UnitV1(channels, channels, groups, groups, 1) for _ in range(blocks - 1))
    )


def _stage_v2(channels_in: int, channels: int, blocks: int) -> nn.Sequential:
    first = _DownV2(channels_in, channels)
    return nn.Sequential(first, *(_UnitV2(channels) for _ in range(blocks - 1)))


def _config_v1(
    widths: Sequence[int], blocks: Sequence[int], groups: int, classes: int, channels_in: int
) -> Config:
    if STEM // 4 % whole("groups", groups):
        raise InputError(f"groups is {groups}", expected="1, 2, 3 or 6")
    channels = wholes("widths", widths, length=3)
    grown = all(low < high for low, high in zip([STEM, *channels], channels, strict=False))
    if not grown or any(width % (4 * groups) for width in channels):
        raise InputError(
            f"widths are {channels} with {groups} groups",
            expected=f"multiples of {4 * groups}, growing, the first above {STEM}",
        )
    args = {
        "widths": channels,
        "blocks": wholes("blocks", blocks, length=3),
        "groups": groups,
        "classes": whole("classes", classes),
        "channels_in": whole("channels_in", channels_in),
    }
    return {"build": "shufflenet_v1", "args": args}


def _config_v2(
    widths: Sequence[int], blocks: Sequence[int], head: int, classes: int, channels_in: int
) -> Config:
    channels = wholes("widths", widths, length=3)
    if any(width % 2 for width in channels):
        raise InputError(f"widths are {channels}", expected="even numbers")
    args = {
        "widths": channels,
        "blocks": wholes("blocks", blocks, length=3),
        "head": whole("head", head),
        "classes": whole("classes", classes),
        "channels_in": whole("channels_in", channels_in),
    }
    return {"build": "shufflenet_v2", "args": args}
