"""Vision Transformer for small images: patches as tokens, blocks of attention, a mean, a head.

Letters: B samples, C channels or classes, H×W positions, N patches, D width, A heads.

Source: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", arXiv:2010.11929, with the changes
of Beyer, Zhai, Kolesnikov 2022, "Better plain ViT baselines for ImageNet-1k", arXiv:2205.01580:
the mean over patches instead of a class token. Position embeddings are learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.students.zoo._parts import Config, number, whole, wholes

__all__ = ["ViT", "vit"]


def vit(
    depth: int = 6,
    width: int = 192,
    heads: int = 3,
    patch: int = 4,
    image: Sequence[int] = (3, 32, 32),
    classes: int = 10,
    expansion: float = 4.0,
) -> ViT:
    """Return a Vision Transformer; by default of the width of DeiT-Ti, half as deep.

    Args:
        depth: blocks.
        width: D, features of a token; a multiple of ``heads``.
        heads: A.
        patch: height and width of a patch, which divides the image's.
        image: (C, H, W) of the images.
        classes: number of logits.
        expansion: how much wider the feed-forward layer is inside.

    Source: Dosovitskiy et al. 2021, arXiv:2010.11929. Weights are initialised from a normal
    distribution of standard deviation 0.02, cut at two, biases with zero.

    >>> vit(classes=100)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 100])
    """
    return ViT(depth, width, heads, patch, image, classes, expansion)


@final
class ViT(nn.Module):
    """Images (B, C, H, W) to logits (B, C).

    Taps: ``blocks.3`` is a block's output (B, N, D), patches row by row. Arguments: see
    :func:`vit`.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        heads: int,
        patch: int,
        image: Sequence[int],
        classes: int,
        expansion: float,
    ) -> None:
        super().__init__()
        self.config = _config(depth, width, heads, patch, image, classes, expansion)
        channels, height, across = self.config["args"]["image"]
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = nn.Parameter(torch.zeros(1, (height // patch) * (across // patch), width))
        inside = round(width * expansion)
        self.blocks = nn.Sequential(*(_Block(width, heads, inside) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        self._initialise()

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return logits (B, C)."""
        x_BND = self.patches(images_BCHW).flatten(2).transpose(1, 2) + self.positions
        x_BND = self.blocks(x_BND)
        logits_BC: Tensor = self.head(self.norm(x_BND).mean(1))
        return logits_BC

    def _initialise(self) -> None:
        nn.init.trunc_normal_(self.positions, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


@final
class _Block(nn.Module):
    """Attention, then a feed-forward layer, each after a norm and added to what came in."""

    def __init__(self, width: int, heads: int, inside: int) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, inside)
        self.gelu = nn.GELU()
        self.fc2 = nn.Linear(inside, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        x_BND = x_BND + self._attention(self.norm1(x_BND))
        out_BND: Tensor = x_BND + self.fc2(self.gelu(self.fc1(self.norm2(x_BND))))
        return out_BND

    def _attention(self, x_BND: Tensor) -> Tensor:
        qkv = self.qkv(x_BND).unflatten(-1, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4)
        mixed_BAND = F.scaled_dot_product_attention(*qkv.unbind(0))
        out_BND: Tensor = self.proj(mixed_BAND.transpose(1, 2).flatten(2))
        return out_BND


def _config(
    depth: int,
    width: int,
    heads: int,
    patch: int,
    image: Sequence[int],
    classes: int,
    expansion: float,
) -> Config:
    sides = wholes("image", image, length=3)
    args = {
        "depth": whole("depth", depth),
        "width": whole("width", width),
        "heads": whole("heads", heads),
        "patch": whole("patch", patch),
        "image": sides,
        "classes": whole("classes", classes),
        "expansion": number("expansion", expansion),
    }
    if width % heads:
        raise InputError(f"width {width} with {heads} heads", expected="a multiple of the heads")
    if any(side % patch for side in sides[1:]):
        raise InputError(
            f"patches of {patch} pixels in an image of {sides[1]}×{sides[2]}",
            expected="a patch that divides both sides",
        )
    return {"build": "vit", "args": args}
