"""What the zoo's models share: checks of arguments, rounding, convolutions, initialisation."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any

from torch import nn

from limbeck.errors import InputError

__all__ = ["Config", "conv", "kaiming", "number", "scaled", "whole", "wholes"]

Config = dict[str, Any]
"""How to build a model again: ``{"build": NAME, "args": {...}}``, all of it JSON."""


def whole(name: str, value: Any, *, least: int = 1) -> int:
    """Return ``value`` as an int; anything but a whole number of at least ``least`` is refused.

    >>> whole("classes", 10)
    10
    """
    try:
        result = operator.index(value)
    except TypeError:
        result = least - 1
    if isinstance(value, bool) or result < least:
        raise InputError(f"{name} is {value!r}", expected=f"a whole number of at least {least}")
    return result


def wholes(name: str, values: Any, *, length: int | None = None) -> list[int]:
    """Return ``values`` as a list of whole numbers of at least 1, ``length`` of them if given.

    >>> wholes("widths", (16, 32))
    [16, 32]
    """
    expected = f"a list of {'' if length is None else f'{length} '}whole numbers"
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InputError(f"{name} is {values!r}", expected=expected)
    result = [whole(f"{name}[{place}]", value) for place, value in enumerate(values)]
    if length is not None and len(result) != length:
        raise InputError(f"{name} has {len(result)} entries", expected=expected)
    return result


def number(name: str, value: Any, *, zero: bool = False, below: float = math.inf) -> float:
    """Return ``value`` as a float, if positive (or zero, where ``zero`` says so) and small enough.

    >>> number("width", 2), number("dropout", 0, zero=True, below=1)
    (2.0, 0.0)
    """
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain or not 0 <= value < below or (value == 0 and not zero):
        least = "a number of at least 0" if zero else "a number above 0"
        limit = f" and below {below:g}" if below < math.inf else ", finite"
        raise InputError(f"{name} is {value!r}", expected=least + limit)
    return float(value)


def scaled(count: int, fraction: float, *, multiple: int = 1) -> int:
    """Return ``fraction`` of ``count``, to the nearest ``multiple``, halves up, and never none.

    >>> scaled(16, 0.5), scaled(9, 0.5), scaled(3, 0.01), scaled(240, 0.3, multiple=12)
    (8, 5, 1, 72)
    """
    return multiple * max(1, math.floor(count * fraction / multiple + 0.5))


def conv(
    channels_in: int, channels: int, kernel: int = 3, *, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    """Return a convolution without bias that keeps height and width (divided by ``stride``).

    >>> conv(3, 8, 1).weight.shape
    torch.Size([8, 3, 1, 1])
    """
    padding = kernel // 2
    return nn.Conv2d(
        channels_in, channels, kernel, stride=stride, padding=padding, groups=groups, bias=False
    )


def kaiming(model: nn.Module, *, linear_std: float | None = None) -> None:
    """Fill convolutions from N(0, 2 / fan-out), their biases with 0; linear layers on request.

    Batch norms begin at weight 1 and bias 0 anyway. With ``linear_std``, linear weights come from
    N(0, std²) and their biases are 0; otherwise they keep PyTorch's initialisation.

    Source: He et al. 2015, "Delving Deep into Rectifiers", arXiv:1502.01852, eq. 14.

    >>> kaiming(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2)), linear_std=0.01)
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, 0.0, linear_std)
            nn.init.zeros_(module.bias)
