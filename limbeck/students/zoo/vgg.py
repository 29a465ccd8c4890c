"""VGG with batch norm for small images: five blocks of 3×3 convolutions and one linear layer.

Letters: B samples, C channels or classes, H×W positions.

Source: Simonyan, Zisserman 2014, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", arXiv:1409.1556, in the form of the CIFAR-100 distillation benchmark (Tian et al.
2020, arXiv:1910.10699; code: github.com/HobbitLong/RepDistiller). There the paper's three linear
layers are one, though ``vgg13`` still counts three; ``vgg8`` has one convolution in each block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.students.zoo._parts import Config, kaiming, whole, wholes

__all__ = ["VGG", "vgg"]


def vgg(
    convs: Sequence[int] = (1, 1, 1, 1, 1),
    widths: Sequence[int] = (64, 128, 256, 512, 512),
    classes: int = 10,
    pools: int = 3,
    channels_in: int = 3,
) -> VGG:
    """Return a VGG: blocks of convolutions, the first ``pools`` of them followed by max-pooling.

    Args:
        convs: convolutions in each block; (2, 2, 2, 2, 2) is VGG13.
        widths: channels of each block.
        classes: number of logits.
        pools: 3 for 32×32 images, 4 for 64×64, as in the benchmark.
        channels_in: channels of the image.

    Raises:
        InputError: there is not one width for each block, or there are more pools than blocks.

    Source: Simonyan and Zisserman 2014, arXiv:1409.1556. Convolutions are initialised as in
    arXiv:1502.01852 with the fan-out, the linear layer from N(0, 0.01²), all biases zero.

    >>> sum(p.numel() for p in vgg((2, 2, 2, 2, 2), classes=100).parameters())
    9462180
    """
    return VGG(convs, widths, classes, pools, channels_in)


@final
class VGG(nn.Module):
    """Images (B, C, H, W) to logits (B, C); at 32×32 the blocks are 32, 16, 8, 4 and 4 wide.

    Taps: ``block3`` is a block's output, after its last ReLU and before pooling;
    ``block3.bn2`` is a convolution's output, normalised, before its ReLU. Arguments: see
    :func:`vgg`.
    """

    def __init__(
        self,
        convs: Sequence[int],
        widths: Sequence[int],
        classes: int,
        pools: int,
        channels_in: int,
    ) -> None:
        super().__init__()
        self.config = _config(convs, widths, classes, pools, channels_in)
        counts, sizes = self.config["args"]["convs"], self.config["args"]["widths"]
        before = [channels_in, *sizes[:-1]]
        for index, count in enumerate(counts):
            self.add_module(f"block{index + 1}", _block(before[index], sizes[index], count))
            if index < pools:
                self.add_module(f"pool{index + 1}", nn.MaxPool2d(2))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(sizes[-1], classes)
        kaiming(self, linear_std=0.01)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return logits (B, C)."""
        x = images_BCHW
        for layer in self.children():
            x = layer(x)
        return x


def _block(channels_in: int, channels: int, count: int) -> nn.Sequential:
    """Return ``count`` times convolution (with bias), batch norm, ReLU."""
    block = nn.Sequential()
    for index in range(1, count + 1):
        source = channels_in if index == 1 else channels
        block.add_module(f"conv{index}", nn.Conv2d(source, channels, 3, padding=1))
        block.add_module(f"bn{index}", nn.BatchNorm2d(channels))
        block.add_module(f"relu{index}", nn.ReLU())
    return block


def _config(
    convs: Sequence[int], widths: Sequence[int], classes: int, pools: int, channels_in: int
) -> Config:
    counts = wholes("convs", convs)
    if not counts:
        raise InputError("convs is empty", expected="at least one block")
    if whole("pools", pools, least=0) > len(counts):
        raise InputError(f"pools is {pools}", expected=f"at most the {len(counts)} blocks")
    args = {
        "convs": counts,
        "widths": wholes("widths", widths, length=len(counts)),
        "classes": whole("classes", classes),
        "pools": pools,
        "channels_in": whole("channels_in", channels_in),
    }
    return {"build": "vgg", "args": args}
