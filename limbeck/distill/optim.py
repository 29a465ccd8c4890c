"""Optimizers and learning-rate schedules by name, as recipes write them.

In Python, give :func:`limbeck.fit` any function that makes an optimizer from parameters, for
example ``functools.partial(torch.optim.SGD, lr=0.1)``.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from limbeck.errors import InputError, unknown

__all__ = [
    "MakeOptimizer",
    "MakeSchedule",
    "constant",
    "cosine",
    "one_cycle",
    "optimizer",
    "schedule",
    "steps",
]

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
MakeSchedule = Callable[[Optimizer, int], LRScheduler]


def optimizer(name: str = "adamw", **options: Any) -> MakeOptimizer:
    """Return what makes the optimizer of that name in ``torch.optim``.

    >>> optimizer("sgd", lr=0.1, momentum=0.9)([nn.Parameter(torch.zeros(1))]).defaults["lr"]
    0.1
    """
    kinds = {
        key.lower(): kind
        for key, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
    }
    if name.lower() not in kinds:
        raise unknown("optimizer", name, kinds)
    return functools.partial(_checked(kinds[name.lower()], f"optimizer {name}", options), **options)


def constant() -> MakeSchedule:
    """Leave the learning rate as it is."""
    return lambda opt, total: LambdaLR(opt, lambda step: 1.0)


def cosine(warmup: float = 0.0, floor: float = 0.0) -> MakeSchedule:
    """Rise in a line over the first ``warmup`` of training, then fall along half a cosine.

    Args:
        warmup: a fraction of training, 0 to 1.
        floor: where it ends, as a fraction of the optimizer's learning rate.

    Source: Loshchilov, Hutter 2017, arXiv:1608.03983, without restarts.
    """

    def factor(step: int, total: int) -> float:
        start = warmup * total
        if step < start:
            return (step + 1) / (start + 1)
        done = (step - start) / max(1.0, total - start)
        return floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, done))) / 2

    return lambda opt, total: LambdaLR(opt, lambda step: factor(step, total))


def one_cycle(warmup: float = 0.3, start: float = 0.04, end: float = 4e-6) -> MakeSchedule:
    """Rise from ``start`` to the optimizer's learning rate, then fall to ``end``, along cosines.

    PyTorch's ``OneCycleLR``, with momentum cycled the other way round for optimizers that have it.

    Args:
        warmup: the fraction of training in which it rises.
        start: where it begins, as a fraction of the learning rate.
        end: where it ends, as a fraction of the learning rate.

    Source: Smith, Topin 2018, arXiv:1708.07120.
    """

    def make(opt: Optimizer, total: int) -> LRScheduler:
        return OneCycleLR(
            opt,
            max_lr=[group["lr"] for group in opt.param_groups],
            total_steps=total,
            pct_start=warmup,
            div_factor=1 / start,
            final_div_factor=start / end,
            cycle_momentum="momentum" in opt.defaults or "betas" in opt.defaults,
        )

    return make


def steps(at: Sequence[float] = (0.625, 0.75, 0.875), factor: float = 0.1) -> MakeSchedule:
    """Multiply the learning rate by ``factor`` at each of these fractions of training.

    The default is that of the CIFAR-100 benchmark: epochs 150, 180 and 210 of 240.
    """

    def make(opt: Optimizer, total: int) -> LRScheduler:
        return LambdaLR(opt, lambda step: factor ** sum(step >= round(a * total) for a in at))

    return make


_SCHEDULES: dict[str, Callable[..., MakeSchedule]] = {
    "constant": constant,
    "cosine": cosine,
    "one_cycle": one_cycle,
    "steps": steps,
}


def schedule(name: str = "cosine", **options: Any) -> MakeSchedule:
    """Return the schedule of that name."""
    if name not in _SCHEDULES:
        raise unknown("schedule", name, _SCHEDULES)
    made: MakeSchedule = _checked(_SCHEDULES[name], f"schedule {name}", options)(**options)
    return made


def _checked(make: Callable[..., Any], what: str, options: dict[str, Any]) -> Callable[..., Any]:
    """Refuse options that ``make`` does not have."""
    known = [key for key in inspect.signature(make).parameters if key not in ("self", "params")]
    for option in options:
        if option not in known:
            raise unknown(f"option of {what}:", option, known)
    rate = options.get("lr", 1.0)
    if isinstance(rate, (int, float)) and rate <= 0:
        raise InputError(f"{what} has a learning rate of {rate}", expected="a number above 0")
    return make
