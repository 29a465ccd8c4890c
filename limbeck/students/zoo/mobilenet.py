"""MobileNetV2 for small images: inverted residual blocks around depthwise convolutions.

Letters: B samples, C channels or classes, H×W positions.

Source: Sandler, Howard, Zhu, Zhmoginov, Chen 2018, "MobileNetV2: Inverted Residuals and Linear
Bottlenecks", arXiv:1801.04381, in the form of the CIFAR-100 distillation benchmark (Tian et al.
2020, arXiv:1910.10699; code: github.com/HobbitLong/RepDistiller). It differs from the paper in the
second stage's stride (1, not 2), in ReLU instead of ReLU6, in the first stage's 1×1 convolution,
which is there though it expands nothing, and in the absence of dropout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch import Tensor, nn

from limbeck.students.zoo._parts import Config, conv, kaiming, number, scaled, whole, wholes

__all__ = ["MobileNetV2", "mobilenet_v2"]

_STEM = 32
_STAGES = ((16, 1), (24, 1), (32, 2), (64, 2), (96, 1), (160, 2), (320, 1))
"""Channels at full width, and stride, of each stage."""


def mobilenet_v2(
    width: float = 0.5,
    expansion: int = 6,
    classes: int = 10,
    blocks: Sequence[int] = (1, 2, 3, 4, 3, 3, 1),
    head: int = 1280,
    channels_in: int = 3,
) -> MobileNetV2:
    """Return a MobileNetV2; by default the benchmark's, of half width and with T = 6.

    Args:
        width: multiplies the channels of the stem and of the seven stages, rounded.
        expansion: the paper's t: how much wider a block is inside. The first stage has 1.
        classes: number of logits.
        blocks: blocks in each of the seven stages.
        head: channels of the last convolution; the paper widens them only if ``width`` exceeds 1.
        channels_in: channels of the image.

    Source: Sandler et al. 2018, arXiv:1801.04381. Convolutions are initialised as in
    arXiv:1502.01852 with the fan-out, the linear layer from N(0, 0.01²) with bias zero.

    >>> sum(p.numel() for p in mobilenet_v2(classes=100).parameters())
    812836
    """
    return MobileNetV2(width, expansion, classes, blocks, head, channels_in)


@final
class MobileNetV2(nn.Module):
    """Images (B, C, H, W) to logits (B, C); at 32×32 the stages are 16, 16, 8, 4, 4, 2 and 2 wide.

    Taps: ``layer3`` is a stage's output, ``layer3.0`` a block's; neither has a ReLU, since the
    bottlenecks are linear. Arguments: see :func:`mobilenet_v2`.
    """

    def __init__(
        self,
        width: float,
        expansion: int,
        classes: int,
        blocks: Sequence[int],
        head: int,
        channels_in: int,
    ) -> None:
        super().__init__()
        self.config = _config(width, expansion, classes, blocks, head, channels_in)
        counts, channels = self.config["args"]["blocks"], scaled(_STEM, width)
        self.conv1 = conv(channels_in, channels, stride=2)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        stages = []
        for index, (base, stride) in enumerate(_STAGES):
            inside = expansion if index else 1
            before, channels = channels, scaled(base, width)
            stages.append(_stage(before, channels, counts[index], stride, inside))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages[:4]
        self.layer5, self.layer6, self.layer7 = stages[4:]
        self.conv2 = conv(channels, head, 1)
        self.bn2 = nn.BatchNorm2d(head)
        self.relu2 = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(head, classes)
        kaiming(self, linear_std=0.01)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return logits (B, C)."""
        x = self.relu1(self.bn1(self.conv1(images_BCHW)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.layer7(self.layer6(self.layer5(x)))
        x = self.avgpool(self.relu2(self.bn2(self.conv2(x))))
        logits_BC: Tensor = self.linear(x.flatten(1))
        return logits_BC


@final
class _Block(nn.Module):
    """Widen by a 1×1 convolution, filter each channel by itself, narrow again; add the input."""

    def __init__(self, channels_in: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inside = channels_in * expansion
        self.conv1 = conv(channels_in, inside, 1)
        self.bn1 = nn.BatchNorm2d(inside)
        self.relu1 = nn.ReLU()
        self.conv2 = conv(inside, inside, stride=stride, groups=inside)
        self.bn2 = nn.BatchNorm2d(inside)
        self.relu2 = nn.ReLU()
        self.conv3 = conv(inside, channels, 1)
        self.bn3 = nn.BatchNorm2d(channels)
        self.adds = stride == 1 and channels_in == channels

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x_BCHW)))
        x = self.relu2(self.bn2(self.conv2(x)))
        out_BCHW: Tensor = self.bn3(self.conv3(x))
        return x_BCHW + out_BCHW if self.adds else out_BCHW


def _stage(
    channels_in: int, channels: int, blocks: int, stride: int, expansion: int
) -> nn.Sequential:
    first = _Block(channels_in, channels, stride, expansion)
    return nn.Sequential(
        first, *(_Block(channels, channels, 1, expansion) for _ in range(blocks - 1))
    )


def _config(
    width: float,
    expansion: int,
    classes: int,
    blocks: Sequence[int],
    head: int,
    channels_in: int,
) -> Config:
    args = {
        "width": number("width", width),
        "expansion": whole("expansion", expansion),
        "classes": whole("classes", classes),
        "blocks": wholes("blocks", blocks, length=len(_STAGES)),
        "head": whole("head", head),
        "channels_in": whole("channels_in", channels_in),
    }
    return {"build": "mobilenet_v2", "args": args}
