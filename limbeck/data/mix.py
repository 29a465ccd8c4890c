"""Mixup and CutMix: one sample of two.

Letters: B samples, C channels, H×W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from limbeck.errors import InputError

if TYPE_CHECKING:
    from limbeck.data.augment import Draw

__all__ = ["CutMix", "Mixup"]


@dataclass(frozen=True)
class Mixup:
    """share · own + (1 − share) · partner, for inputs of any shape.

    The share is max(λ, 1 − λ), λ from Beta(α, α); over all samples that is the same as λ, for each
    of a pair is as likely to be the first (fastai does so too). Whole numbers, as images of uint8
    are, are rounded.

    Attributes:
        alpha: α, above 0; 0.2 for ImageNet in the paper, 1 makes all shares equally likely.

    Source: Zhang, Cisse, Dauphin, Lopez-Paz 2018, "mixup: Beyond Empirical Risk Minimization",
    arXiv:1710.09412.

    >>> from limbeck.data.augment import Draw, key
    >>> draw = Draw(key(0, torch.arange(2), views=0), stream=0)
    >>> mixed, share = Mixup(1.0).mix(torch.ones(2, 3), torch.zeros(2, 3), draw)
    >>> torch.equal(mixed[:, 0], share)
    True
    """

    alpha: float = 0.2

    def __post_init__(self) -> None:
        _positive("mixup", self.alpha)

    def mix(self, own: Tensor, partners: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return the mixtures, and how much of each is the sample's own."""
        share = _shares(draw, self.alpha)
        weight = share.view(-1, *[1] * (own.ndim - 1))
        mixed = weight * own.float() + (1 - weight) * partners.float()
        return (mixed if own.is_floating_point() else mixed.round()).to(own.dtype), share


@dataclass(frozen=True)
class CutMix:
    """The sample with a rectangle of its partner pasted in, for images (B, C, H, W).

    The rectangle has the image's proportions and covers 1 − max(λ, 1 − λ) of it; its middle may be
    anywhere, and what lies outside is cut off. The share is counted in pixels afterwards.

    Attributes:
        alpha: α of Beta(α, α), 1 in the paper.

    Source: Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with
    Localizable Features", arXiv:1905.04899. There the rectangle may also cover more than half.

    >>> from limbeck.data.augment import Draw, key
    >>> draw = Draw(key(0, torch.arange(1), views=0), stream=0)
    >>> mixed, share = CutMix().mix(torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), draw)
    >>> mixed.mean().item() == share.item()
    True
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        _positive("cutmix", self.alpha)

    def mix(self, own: Tensor, partners: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return the mixtures, and how much of each is the sample's own."""
        if own.ndim != 4:
            raise InputError(
                f"cutmix met inputs of shape {tuple(own.shape)}",
                expected="images (B, C, H, W)",
                remedy="Take mixup, which mixes inputs of any shape.",
            )
        side = (1 - _shares(draw, self.alpha)).sqrt()
        rows, columns = (
            _inside(length, draw.integers(length, 1 + axis), (side * length).round().long())
            for axis, length in enumerate(own.shape[-2:])
        )
        hole = rows.unsqueeze(2) & columns.unsqueeze(1)
        share = 1 - hole.flatten(1).float().mean(1)
        return torch.where(hole.unsqueeze(1), partners, own), share


def _inside(length: int, middles: Tensor, sizes: Tensor) -> Tensor:
    """Say which of ``length`` places are among ``sizes`` around the middles, (B, length)."""
    first = (middles - sizes // 2).unsqueeze(1)
    places = torch.arange(length, device=middles.device)
    return (places >= first) & (places < first + sizes.unsqueeze(1))


def _shares(draw: Draw, alpha: float) -> Tensor:
    """Return (B,) float32 max(λ, 1 − λ), λ from Beta(α, α): the upper half of its quantiles."""
    from scipy.special import betaincinv

    chance = draw.uniform(0)
    upper = betaincinv(alpha, alpha, (0.5 + chance / 2).cpu().numpy())
    return torch.as_tensor(upper).to(chance.device, torch.float32)


def _positive(name: str, alpha: float) -> None:
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not alpha > 0:
        raise InputError(f"{name} is {alpha!r}", expected="α of Beta(α, α), a number above 0")
