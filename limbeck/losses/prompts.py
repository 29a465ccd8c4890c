"""Tokens that say where in a map its frequencies matter: FreeKD's prompts, and how they learn.

Letters: B samples, C channels, H×W positions of a map, L levels of the transform, K tokens, O = 3
orientations.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.losses.maps import haar

__all__ = ["FrequencyPrompt", "alike", "haar_inverse"]


class FrequencyPrompt(nn.Module):
    r"""A map told again through masks: what the teacher needs of each band, it must let through.

    $$\hat x = \mathcal H^{-1}\Big(\sum_k M^l_k \odot \mathcal H^l(x)\Big), \qquad
    M^l_k = \sigma\Big(\sum_c e^l_{kc} \sum_o \mathcal H^l(x)_{co}\Big)$$

    In place of a map of the teacher it learns by the teacher's own task, with :func:`alike` so that
    its tokens look at different places. Its ``tokens`` of the high bands then go into
    :class:`limbeck.losses.Frequency`.

    Args:
        channels: C of the map.
        tokens: K for each band.
        levels: L.

    Source: Zhang et al. 2023, arXiv:2311.12079; code: Gumpest/FreeKD (MaskModule).

    >>> told, apart = FrequencyPrompt(4, tokens=2, levels=2)(torch.randn(3, 4, 8, 8))
    >>> told.shape, apart.shape
    (torch.Size([3, 4, 8, 8]), torch.Size([]))
    """

    def __init__(self, channels: int, *, tokens: int = 2, levels: int = 3) -> None:
        super().__init__()
        if tokens < 1 or levels < 1:
            raise InputError(f"{tokens} tokens and {levels} levels", expected="1 or more of each")
        self.low = nn.Parameter(0.01 * torch.randn(tokens, channels))
        self.tokens = nn.Parameter(0.01 * torch.randn(levels, tokens, channels))

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maps (B, C, H, W) told again, and how alike the tokens' masks are."""
        bands, sizes = [], []
        low = maps
        for _ in self.tokens:
            sizes.append(low.shape[2:])
            low, high = haar(low)
            bands.append(high)
        masks = [self._mask(e, high.sum(2)) for e, high in zip(self.tokens, bands, strict=True)]
        masks.append(self._mask(self.low, low))
        told = low * masks[-1].sum(1, keepdim=True)
        for high, mask, size in reversed(list(zip(bands, masks, sizes, strict=False))):
            told = haar_inverse(told, high * mask.sum(1)[:, None, None])
            told = told[..., : size[0], : size[1]]
        return told, torch.stack([alike(mask) for mask in masks]).sum()

    def _mask(self, tokens_KC: Tensor, band_BCHW: Tensor) -> Tensor:
        return torch.einsum("kc,bchw->bkhw", tokens_KC, band_BCHW).sigmoid()


def alike(masks: Tensor) -> Tensor:
    r"""Mean Dice coefficient of all pairs of masks: 1 if they are the same, 0 if they are apart.

    $$\frac{1}{B K (K - 1)} \sum_{k \ne k'} \frac{2\, m_k \cdot m_{k'}}
    {\lVert m_k \rVert^2 + \lVert m_{k'} \rVert^2}$$

    Args:
        masks: (B, K, H, W), not negative.

    Source: Zhang et al. 2023, arXiv:2311.12079; code: Gumpest/FreeKD.

    >>> alike(torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]]))
    tensor(0.)
    """
    rows = masks.flatten(2)
    products = rows @ rows.mT
    squares = products.diagonal(dim1=1, dim2=2)
    pairs = 2 * products / (squares.unsqueeze(1) + squares.unsqueeze(2)).clamp(min=1e-12)
    count = masks.shape[1]
    others = pairs.sum((1, 2)) - pairs.diagonal(dim1=1, dim2=2).sum(1)
    return others.mean() / max(count * (count - 1), 1)


def haar_inverse(low: Tensor, high: Tensor) -> Tensor:
    """Return the maps (B, C, 2H, 2W) of their low band (B, C, H, W) and high bands (B, C, 3, H, W).

    >>> maps = torch.randn(1, 2, 4, 4)
    >>> torch.allclose(haar_inverse(*haar(maps)), maps, atol=1e-6)
    True
    """
    down, across, both = high.unbind(2)
    top = torch.stack([low + down + across + both, low + down - across - both], dim=-1)
    bottom = torch.stack([low - down + across - both, low - down - across + both], dim=-1)
    return torch.stack([top, bottom], dim=3).flatten(4).flatten(2, 3) / 2
