"""The wide residual network for small images: fewer layers, more channels.

Letters: B samples, C channels or classes, H×W positions.

Source: Zagoruyko, Komodakis 2016, "Wide Residual Networks", arXiv:1605.07146. ``wrn_40_2`` is
depth 40 with k = 2, as in the CIFAR-100 distillation benchmark (Tian et al. 2020, arXiv:1910.10699;
code: github.com/HobbitLong/RepDistiller).
"""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.students.zoo._parts import Config, conv, kaiming, number, scaled, whole

__all__ = ["WideResNet", "wide_resnet"]

_STEM = 16


def wide_resnet(
    depth: int = 16,
    width: float = 2.0,
    classes: int = 10,
    dropout: float = 0.0,
    channels_in: int = 3,
) -> WideResNet:
    """Return a wide ResNet WRN-depth-width: three stages of (depth - 4) / 6 blocks each.

    Args:
        depth: convolutions on the main path, 6n + 4, as the paper counts them.
        width: the paper's k: the stages have 16k, 32k and 64k channels (rounded); the stem has 16.
        classes: number of logits.
        dropout: probability between the two convolutions of a block, in [0, 1).
        channels_in: channels of the image.

    Raises:
        InputError: the depth is not 6n + 4.

    Source: Zagoruyko and Komodakis 2016, arXiv:1605.07146; the initialisation is RepDistiller's:
    convolutions as in arXiv:1502.01852 with the fan-out, the linear layer's bias zero.

    >>> sum(p.numel() for p in wide_resnet(16, 2, classes=100).parameters())
    703284
    """
    return WideResNet(depth, width, classes, dropout, channels_in)


@final
class WideResNet(nn.Module):
    """Images (B, C, H, W) to logits (B, C); at 32×32 the stages are 32, 16 and 8 wide.

    A block normalises and activates before it convolves, so a stage's output ``layer2`` is a plain
    sum, without a ReLU; ``relu`` is the last stage normalised and activated. Arguments: see
    :func:`wide_resnet`.
    """

    def __init__(
        self, depth: int, width: float, classes: int, dropout: float, channels_in: int
    ) -> None:
        super().__init__()
        self.config = _config(depth, width, classes, dropout, channels_in)
        blocks = (depth - 4) // 6
        first, second, third = (scaled(base, width) for base in (16, 32, 64))
        self.conv1 = conv(channels_in, _STEM)
        self.layer1 = _stage(_STEM, first, blocks, 1, dropout)
        self.layer2 = _stage(first, second, blocks, 2, dropout)
        self.layer3 = _stage(second, third, blocks, 2, dropout)
        self.bn = nn.BatchNorm2d(third)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(third, classes)
        kaiming(self)
        nn.init.zeros_(self.linear.bias)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return logits (B, C)."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(images_BCHW))))
        x = self.avgpool(self.relu(self.bn(x)))
        logits_BC: Tensor = self.linear(x.flatten(1))
        return logits_BC


@final
class _Block(nn.Module):
    """Where the shape changes, the shortcut too starts from the activated input."""

    def __init__(self, channels_in: int, channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.relu1 = nn.ReLU()
        self.conv1 = conv(channels_in, channels, stride=stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv(channels, channels)
        self.changes = stride != 1 or channels_in != channels
        self.shortcut = (
            conv(channels_in, channels, 1, stride=stride) if self.changes else nn.Identity()
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        active = self.relu1(self.bn1(x_BCHW))
        residual = self.conv2(self.dropout(self.relu2(self.bn2(self.conv1(active)))))
        out_BCHW: Tensor = residual + self.shortcut(active if self.changes else x_BCHW)
        return out_BCHW


def _stage(
    channels_in: int, channels: int, blocks: int, stride: int, dropout: float
) -> nn.Sequential:
    first = _Block(channels_in, channels, stride, dropout)
    return nn.Sequential(
        first, *(_Block(channels, channels, 1, dropout) for _ in range(blocks - 1))
    )


def _config(depth: int, width: float, classes: int, dropout: float, channels_in: int) -> Config:
    if whole("depth", depth, least=10) % 6 != 4:
        raise InputError(f"depth is {depth}", expected="6n + 4: 10, 16, 22, 28, 40, ...")
    args = {
        "depth": depth,
        "width": number("width", width),
        "classes": whole("classes", classes),
        "dropout": number("dropout", dropout, zero=True, below=1.0),
        "channels_in": whole("channels_in", channels_in),
    }
    return {"build": "wide_resnet", "args": args}
