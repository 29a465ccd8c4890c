"""Margins of the overhaul loss: how far below zero a silent channel of the teacher usually is.

Letters: B samples, C channels, H×W positions of a map, N of all samples' values.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["channel_margins", "measured_margins", "norm_before"]

_RARELY = 1e-3  # a neuron that is negative less often gets a margin of −3 standard deviations
_NO_SPREAD = 1e-12  # least standard deviation of a channel


def channel_margins(weight: Tensor, bias: Tensor) -> Tensor:
    r"""Return the mean of a channel's negative responses, from its batch normalisation.

    $$m_c = E[x \mid x < 0] = \mu - \sigma \frac{\phi(\mu/\sigma)}{\Phi(-\mu/\sigma)}, \qquad
    x \sim N(\mu, \sigma^2),\; \mu = \text{bias},\; \sigma = |\text{weight}|$$

    Where a response is negative with a probability below 0.001, it is −3σ, as in the authors' code.

    Args:
        weight: (C,) of the teacher's batch normalisation before the activation.
        bias: (C,) of the same.

    Source: Heo et al. 2019, arXiv:1904.01866; code: clovaai/overhaul-distillation.

    >>> channel_margins(torch.tensor([1.0, 0.1]), torch.tensor([0.0, 0.9]))  # −√(2/π), −3σ
    tensor([-0.7979, -0.3000])
    """
    weight, bias = weight.detach(), bias.detach()
    std = weight.abs().clamp(min=_NO_SPREAD)
    ratio = bias / std
    log_density = -ratio.square() / 2 - math.log(2 * math.pi) / 2
    log_negative = torch.special.log_ndtr(-ratio)
    mean = bias - std * (log_density - log_negative).exp()
    return torch.where(log_negative > math.log(_RARELY), mean, -3 * std)


def measured_margins(features: Tensor) -> Tensor:
    """Return the mean of each channel's negative values, −3 standard deviations if it has none.

    Args:
        features: maps (B, C, H, W) or features (B, C) of the teacher before the activation.

    >>> measured_margins(torch.tensor([[-1.0, 5.0], [-3.0, 5.0], [8.0, 5.0]]))
    tensor([-2., -0.])
    """
    values_CN = features.detach().float().transpose(0, 1).flatten(1)
    negative = values_CN < 0
    mean = values_CN.clamp(max=0).sum(1) / negative.sum(1).clamp(min=1)
    return torch.where(negative.any(1), mean, -3 * values_CN.std(1, correction=0))


def norm_before(model: nn.Module | None, tap: str, channels: int) -> _BatchNorm | None:
    """Return the batch normalisation that makes what a tap shows, as far as names tell.

    It is the tapped module itself; or, for an activation's input, the one just before it in an
    ``nn.Sequential``, and the last one before it in any other module. A residual block thus gives
    that of its main path, as in the authors' code, though the shortcut is added after it.

    Args:
        model: the teacher.
        tap: ``bn2`` or ``layer3.1.relu2:input``; ``stage[-1]`` names no module, and finds none.
        channels: that it must have.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
    >>> norm_before(model, "2:input", 8) is model[1], norm_before(model, "2", 8)
    (True, None)
    """
    place, _, side = tap.partition(":")
    modules = {} if model is None else dict(model.named_modules())
    if place not in modules:
        return None
    tapped, parent = modules[place], modules[place.rpartition(".")[0]]
    near = [tapped]
    if side == "input":
        near = list(itertools.takewhile(lambda part: part is not tapped, parent.children()))
        near = near[-1:] if isinstance(parent, nn.Sequential) else near
    norms = [m for m in near if isinstance(m, _BatchNorm) and m.affine]
    return next((norm for norm in reversed(norms) if norm.num_features == channels), None)
