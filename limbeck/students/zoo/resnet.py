"""The residual network for small images, in its narrow and its four times wider form.

Letters: B samples, C channels or classes, H×W positions.

Source: He, Zhang, Ren, Sun 2015, "Deep Residual Learning for Image Recognition", arXiv:1512.03385,
section 4.2. The names ``resnet8`` ... ``resnet32x4`` are those of the CIFAR-100 distillation
benchmark (Tian et al. 2020, arXiv:1910.10699; code: github.com/HobbitLong/RepDistiller), whose
shortcuts are convolutions with batch norm (option B), in resnet20 and resnet56 too; the paper's own
CIFAR networks have shortcuts without parameters (option A).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError, unknown
from limbeck.students.zoo._parts import Config, conv, kaiming, whole, wholes

__all__ = ["ResNet", "benchmark_resnet", "resnet"]

Shortcut = Literal["A", "B"]


def resnet(
    depth: int = 20,
    classes: int = 10,
    widths: Sequence[int] = (16, 16, 32, 64),
    shortcut: Shortcut = "A",
    channels_in: int = 3,
) -> ResNet:
    """Return a CIFAR ResNet: a stem and three stages of (depth - 2) / 6 blocks each.

    Args:
        depth: layers with weights on the main path, 6n + 2.
        classes: number of logits.
        widths: channels of the stem and of the three stages; (32, 64, 128, 256) is a "x4" network.
        shortcut: where a stage begins, ``A`` subsamples and pads with zero channels, without
            parameters, as in the paper's CIFAR section; ``B`` is a 1×1 convolution with batch norm.
        channels_in: channels of the image.

    Raises:
        InputError: the depth is not 6n + 2, or widths shrink under option A.

    Source: He et al. 2015, arXiv:1512.03385, section 4.2. Convolutions are initialised as in
    arXiv:1502.01852 with the fan-out, as in RepDistiller; the linear layer as in PyTorch.

    >>> sum(p.numel() for p in resnet(20).parameters())
    269722
    """
    return ResNet(depth, classes, widths, shortcut, channels_in)


def benchmark_resnet(
    depth: int,
    widths: Sequence[int],
    classes: int = 10,
    shortcut: Shortcut = "B",
    channels_in: int = 3,
) -> ResNet:
    """Return a ResNet of the CIFAR-100 distillation benchmark: option B unless told otherwise.

    >>> sum(p.numel() for p in benchmark_resnet(8, (32, 64, 128, 256), classes=100).parameters())
    1233540
    """
    return ResNet(depth, classes, widths, shortcut, channels_in)


@final
class ResNet(nn.Module):
    """Images (B, C, H, W) to logits (B, C); at 32×32 the stages are 32, 16 and 8 wide.

    Taps: ``layer2`` is a stage's output, ``layer2.0`` a block's, after its ReLU;
    ``layer2.0.relu2:input`` is the sum before that ReLU. Arguments: see :func:`resnet`.
    """

    def __init__(
        self,
        depth: int,
        classes: int,
        widths: Sequence[int],
        shortcut: Shortcut,
        channels_in: int,
    ) -> None:
        super().__init__()
        self.config = _config(depth, classes, widths, shortcut, channels_in)
        blocks = (depth - 2) // 6
        stem, *stages = self.config["args"]["widths"]
        self.conv1 = conv(channels_in, stem)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu1 = nn.ReLU()
        self.layer1 = _stage(stem, stages[0], blocks, 1, shortcut)
        self.layer2 = _stage(stages[0], stages[1], blocks, 2, shortcut)
        self.layer3 = _stage(stages[1], stages[2], blocks, 2, shortcut)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(stages[2], classes)
        kaiming(self)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return logits (B, C)."""
        x = self.relu1(self.bn1(self.conv1(images_BCHW)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits_BC: Tensor = self.linear(self.avgpool(x).flatten(1))
        return logits_BC


@final
class _Block(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = conv(channels_in, channels, stride=stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = conv(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(channels_in, channels, stride, shortcut)
        self.relu2 = nn.ReLU()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x_BCHW)))))
        out_BCHW: Tensor = self.relu2(residual + self.shortcut(x_BCHW))
        return out_BCHW


@final
class _Subsample(nn.Module):
    """Option A: every ``stride``-th position, zero channels added, half of them on either side."""

    def __init__(self, added: int, stride: int) -> None:
        super().__init__()
        self.before, self.after, self.stride = added // 2, added - added // 2, stride

    def forward(self, x_BCHW: Tensor) -> Tensor:
        kept = x_BCHW[:, :, :: self.stride, :: self.stride]
        return F.pad(kept, (0, 0, 0, 0, self.before, self.after))


def _shortcut(channels_in: int, channels: int, stride: int, shortcut: Shortcut) -> nn.Module:
    if stride == 1 and channels_in == channels:
        return nn.Identity()
    if shortcut == "A":
        return _Subsample(channels - channels_in, stride)
    return nn.Sequential(conv(channels_in, channels, 1, stride=stride), nn.BatchNorm2d(channels))


def _stage(
    channels_in: int, channels: int, blocks: int, stride: int, shortcut: Shortcut
) -> nn.Sequential:
    first = _Block(channels_in, channels, stride, shortcut)
    return nn.Sequential(
        first, *(_Block(channels, channels, 1, shortcut) for _ in range(blocks - 1))
    )


def _config(
    depth: int, classes: int, widths: Sequence[int], shortcut: Shortcut, channels_in: int
) -> Config:
    if whole("depth", depth, least=8) % 6 != 2:
        raise InputError(f"depth is {depth}", expected="6n + 2: 8, 14, 20, 32, 44, 56, 110, ...")
    if shortcut not in ("A", "B"):
        raise unknown("shortcut", shortcut, ("A", "B"))
    channels = wholes("widths", widths, length=4)
    if shortcut == "A" and channels != sorted(channels):
        raise InputError(
            f"widths are {channels} with shortcut 'A'",
            expected="widths that do not shrink, since option A can only add channels",
            remedy="Use shortcut='B'.",
        )
    args = {
        "depth": depth,
        "classes": whole("classes", classes),
        "widths": channels,
        "shortcut": shortcut,
        "channels_in": whole("channels_in", channels_in),
    }
    return {"build": "resnet", "args": args}
