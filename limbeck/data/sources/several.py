"""Pictures with several labels each, made of scikit-learn's real digits.

Letters: N pictures, M digits, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.data.random import key, uniform
from limbeck.data.samples import Arrays, Samples
from limbeck.data.sources.arrays import digits
from limbeck.data.splits import Data

__all__ = ["several_digits"]

_PLACES = 4


def several_digits(*, pictures: int = 2000, seed: int = 0, limit: int | None = None) -> Data:
    """Pictures of 16×16 with one to four of scikit-learn's digits, for the task ``multilabel``.

    Each quarter holds a digit or nothing, as chance has it, but one is never empty. A label says
    that its digit occurs, whether once or more often: targets (N, 10). The digits of training,
    validation and test pictures are different ones.

    Args:
        pictures: of training; a quarter as many for validation, half as many for testing.
        seed: of the choice of digits.
        limit: at most so many training samples, and half as many of the others.

    Source: as :func:`limbeck.data.sources.digits`.

    >>> data = several_digits(pictures=8)
    >>> data.train.column("inputs").shape, data.train.column("targets").shape
    (torch.Size([8, 1, 16, 16]), torch.Size([8, 10]))
    """
    single = digits()
    data = Data(
        _pictures(single.train, pictures, seed, 0),
        _pictures(single.validation, pictures // 4, seed, 1),
        _pictures(single.test, pictures // 2, seed, 2),
        labels=single.labels,
        name="several digits",
    )
    return data if limit is None else data.limited(limit)


def _pictures(samples: Samples, count: int, seed: int, part: int) -> Arrays:
    """Put digits together; ``part`` tells the splits' random numbers apart."""
    images, labels = samples.column("inputs"), samples.column("targets")
    keys = key(seed, torch.arange(count), part)
    rows = torch.stack([uniform(keys, place) for place in range(_PLACES)], dim=1)
    rows = (rows * len(images)).long()
    filled = torch.stack([uniform(keys, _PLACES + place) < 0.5 for place in range(_PLACES)], dim=1)
    filled[:, 0] |= ~filled.any(dim=1)
    quarters = images[rows] * filled.view(count, _PLACES, 1, 1, 1)
    return Arrays.of(inputs=_grid(quarters), targets=_present(labels[rows], filled))


def _grid(quarters: Tensor) -> Tensor:
    """Return (N, 1, 2H, 2W) of four pictures (N, 4, 1, H, W): above, then below."""
    above, below = (torch.cat([quarters[:, i], quarters[:, i + 1]], dim=-1) for i in (0, 2))
    return torch.cat([above, below], dim=-2)


def _present(labels: Tensor, filled: Tensor) -> Tensor:
    """Return (N, 10) float32, 1 where a class is among the labels (N, 4) that are filled."""
    seen = torch.zeros(len(labels), 11)
    return seen.scatter_(1, labels.masked_fill(~filled, 10), 1.0)[:, :10].contiguous()
