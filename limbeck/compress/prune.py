"""Making a trained network smaller by removing whole channels, features and heads.

What is left is a plain, dense, smaller network. Weights that are merely set to zero make no
runtime here faster, so that is not offered.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.compress.units import Coupled, coupled, graph
from limbeck.errors import InputError, unknown
from limbeck.evaluate.cost import timings
from limbeck.imports import needed
from limbeck.knowledge import model as models

__all__ = ["IMPORTANCES", "Clock", "Importance", "Scope", "prune", "rounds"]

Importance = Literal["magnitude", "taylor", "group_norm"]
Scope = Literal["global", "layer"]
IMPORTANCES = ("magnitude", "taylor", "group_norm")
Clock = Callable[[nn.Module, nn.Module], tuple[float, float]]
"""How long two networks take for the same, measured in turn; in any one unit."""

_Share = Callable[[nn.Module, nn.Module], float]
_FINE = 64  # a latency is sought to one part in so many of all units, for each try is a measurement
_SECONDS = 1.0  # for which each network is timed, if no other clock is given


def prune(
    model: nn.Module,
    inputs: Any,
    *,
    parameters: float | None = None,
    macs: float | None = None,
    latency: float | None = None,
    importance: Importance = "magnitude",
    scope: Scope = "global",
    keep: Sequence[str] = (),
    multiple: int = 1,
    loss: Callable[[nn.Module], Tensor] | None = None,
    clock: Clock | None = None,
) -> nn.Module:
    """Return a smaller copy of a trained network, without its least important units.

    Units are channels of convolutions, features of hidden linear layers, and heads of attention
    (those that :func:`limbeck.compress.units.head_width` knows). Classifiers and the states between
    a Transformer's blocks keep their width. Every other weight stays as it is: train the copy to
    recover.

    ==============  =======================================================================
    importance      of a unit
    ==============  =======================================================================
    ``magnitude``   the sum of its own weights' absolute values (Li et al. 2017)
    ``group_norm``  the L2 norm of all weights that go with it, in all layers (Fang et al. 2023)
    ``taylor``      the first-order change of the loss without it (Molchanov et al. 2019)
    ==============  =======================================================================

    They are divided by their mean in a layer.

    Args:
        model: is not changed.
        inputs: a few samples as it is called with: a tensor, a tuple or a mapping.
        parameters: the fraction of the parameters to keep, above 0 and below 1.
        macs: or the fraction of the multiply-accumulates.
        latency: or the fraction of the time that ``clock`` measures, sought by bisection. Each try
            is measured in turn with the whole network, so that drift of the machine cancels. What
            comes out is as exact as the machine is quiet.
        importance: what units are ranked by.
        scope: ``global`` ranks the units of all layers together; ``layer`` removes the same share
            of each layer.
        keep: paths of modules whose outputs keep their width.
        multiple: of which the channels and features that are left are one, or all that there were;
            many runtimes compute 8 or 16 channels at once, and gain nothing from 9 instead of 16.
        loss: for ``taylor``: returns the loss of a model, of some training samples.
        clock: for ``latency``: gets the whole network and a smaller one, and returns how long each
            takes. By default the median time of PyTorch for ``inputs``, as long as both are here.

    Returns:
        The largest network that is small enough, in the mode that the model is in.

    Raises:
        InputError: not exactly one fraction is given, or it lies outside (0, 1); an unknown
            importance, scope or module; nothing can be removed, or not enough.

    Source: Fang et al. 2023, "DepGraph: Towards Any Structural Pruning", arXiv:2301.12900; code:
    github.com/VainF/Torch-Pruning. Li et al. 2017, arXiv:1608.08710. Molchanov et al. 2019,
    arXiv:1906.10771.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> prune(net, torch.randn(2, 4), parameters=0.6)[0]
    Linear(in_features=4, out_features=4, bias=True)
    """
    name, fraction, share, fine = _goal(inputs, parameters, macs, latency, clock)
    _check(model, importance, scope, keep, loss)
    if multiple < 1:
        raise InputError(f"multiple is {multiple}", expected="at least 1")
    whole = _copy(model)
    sets = coupled(whole, inputs, tuple(keep))
    if not sets:
        raise InputError(
            f"{type(model).__name__} has no units that could be removed",
            expected="convolutions or hidden linear layers that do not make the answer"
            + (f", beside {', '.join(keep)}" if keep else ""),
        )
    plan = _Plan(sets, _scores(whole, inputs, sets, importance, loss), scope, multiple)
    least = share(whole, _without(whole, inputs, plan, plan.most))
    if least > fraction:
        raise InputError(
            f"{name} is to be {fraction:.3g} of what it was",
            expected=f"at least {least:.3f}, for each layer keeps "
            + ("a unit" if multiple == 1 else f"a multiple of {multiple} units, or all it has")
            + (f", and {', '.join(keep)} all" if keep else ""),
            remedy="Keep a larger fraction, "
            + ("" if multiple == 1 else "take a smaller multiple, ")
            + "or shrink the student: fewer layers.",
        )
    few, many = 0, plan.most  # how many to remove: too few, and enough
    while many - few > max(1, plan.most // fine):
        middle = (few + many) // 2
        small = share(whole, _without(whole, inputs, plan, middle)) <= fraction
        few, many = (few, middle) if small else (middle, many)
    return _as_it_was(_without(whole, inputs, plan, many), model)


def rounds(fraction: float, steps: int) -> tuple[float, ...]:
    """Return what each of several rounds of pruning keeps of the one before, all equal.

    >>> [round(kept, 3) for kept in rounds(0.25, 2)]
    [0.5, 0.5]
    """
    if steps < 1:
        raise InputError(f"{steps} steps of pruning", expected="at least 1")
    return (fraction ** (1 / steps),) * steps


@dataclass(frozen=True)
class _Plan:
    """In which order units go.

    Attributes:
        sets: the layers that lose units together.
        scores: of each set, the importance of its units.
        scope: across which layers units are ranked.
        multiple: of which the channels that stay are one.
    """

    sets: list[Coupled]
    scores: list[Tensor]
    scope: Scope
    multiple: int

    @property
    def most(self) -> int:
        """How many units can go at most, if each set keeps one."""
        return sum(len(each.units) - 1 for each in self.sets)

    def gone(self, count: int) -> list[list[int]]:
        """Return the units of each set that go, if so many go in all, or fewer for the multiple."""
        pairs = zip(self.sets, self._ranked(count), strict=True)
        return [self._whole(each, gone) for each, gone in pairs]

    def _whole(self, each: Coupled, gone: list[int]) -> list[int]:
        """Let units stay, the most important first, until as many stay as the multiple wants."""
        if len(each.units[0]) > 1:  # heads
            return gone
        size = len(each.units)
        stay = -(-(size - len(gone)) // self.multiple) * self.multiple
        return gone[: max(0, size - stay)]

    def _ranked(self, count: int) -> list[list[int]]:
        """Return the units of each set that go, the least important first."""
        if self.scope == "layer":
            share = count / self.most
            counts = [round(share * (len(each.units) - 1)) for each in self.sets]
            pairs = zip(self.scores, counts, strict=True)
            return [scores.argsort()[:n].tolist() for scores, n in pairs]
        gone: list[list[int]] = [[] for _ in self.sets]
        ranked = sorted(
            (score, place, unit)
            for place, scores in enumerate(self.scores)
            for unit, score in enumerate(scores.tolist())
        )
        for _, place, unit in ranked:
            if count and len(gone[place]) < len(self.sets[place].units) - 1:
                gone[place].append(unit)
                count -= 1
        return gone


def _goal(
    inputs: Any,
    parameters: float | None,
    macs: float | None,
    latency: float | None,
    clock: Clock | None,
) -> tuple[str, float, _Share, int]:
    """Return what is to shrink, to what, how that is measured, and how finely it is sought."""
    goals = {"parameters": parameters, "macs": macs, "latency": latency}
    given = {name: fraction for name, fraction in goals.items() if fraction is not None}
    if len(given) != 1:
        raise InputError(
            f"pruning to {' and '.join(given) or 'nothing'}",
            expected="parameters, macs or latency",
        )
    ((name, fraction),) = given.items()
    if not 0 < fraction < 1:
        raise InputError(f"{name} is {fraction}", expected="a fraction above 0 and below 1")
    if name == "latency":
        timed = clock or _clock(inputs)

        def faster(whole: nn.Module, smaller: nn.Module) -> float:
            before, after = timed(whole, smaller)
            return after / before

        return name, fraction, faster, _FINE

    def measure(model: nn.Module) -> float:
        if name == "macs":
            return float(models.macs(model, inputs)[0] or 0)
        return float(sum(p.numel() for p in model.parameters()))

    return name, fraction, lambda whole, smaller: measure(smaller) / measure(whole), sys.maxsize


def _clock(inputs: Any) -> Clock:
    """Return what times networks in PyTorch."""

    def clock(whole: nn.Module, smaller: nn.Module) -> tuple[float, float]:
        found = timings({"whole": whole, "smaller": smaller}, inputs, seconds=_SECONDS)
        return found["whole"].p50_ms, found["smaller"].p50_ms

    return clock


def _check(
    model: nn.Module, importance: str, scope: str, keep: Sequence[str], loss: object
) -> None:
    if importance not in IMPORTANCES:
        raise unknown("importance", importance, IMPORTANCES)
    if scope not in ("global", "layer"):
        raise unknown("scope", scope, ("global", "layer"))
    names = dict(model.named_modules())
    for name in keep:
        if name not in names:
            raise unknown(f"module of {type(model).__name__} to keep:", name, filter(None, names))
    if importance == "taylor" and loss is None:
        raise InputError(
            "importance 'taylor' without a loss",
            expected="loss, a function of the model that returns one number",
            consequence="Without gradients there is nothing to rank by.",
        )


def _copy(model: nn.Module) -> nn.Module:
    """Return a copy in eval mode whose weights all have gradients, as the graph needs them."""
    return copy.deepcopy(model).eval().requires_grad_(True)


def _scores(
    whole: nn.Module,
    inputs: Any,
    sets: list[Coupled],
    importance: Importance,
    loss: Callable[[nn.Module], Tensor] | None,
) -> list[Tensor]:
    """Return the importance of each set's units."""
    by = needed("torch_pruning.pruner.importance", "compress")
    ranked_by = {
        "magnitude": lambda: by.GroupMagnitudeImportance(p=1, group_reduction="first"),
        "group_norm": lambda: by.GroupMagnitudeImportance(p=2, group_reduction="mean"),
        "taylor": lambda: by.GroupTaylorImportance(),
    }[importance]()
    if importance == "taylor" and loss is not None:
        whole.zero_grad()
        loss(whole).backward()
    found = graph(whole, inputs)
    scores = []
    for each in sets:
        everything = each.group(found, whole, list(range(len(each.units))))
        raw: Tensor = ranked_by(everything)
        order = sorted(place for unit in each.units for place in unit)
        at = {place: index for index, place in enumerate(order)}
        scores.append(torch.stack([raw[[at[p] for p in unit]].mean() for unit in each.units]))
    whole.zero_grad()
    return scores


def _without(whole: nn.Module, inputs: Any, plan: _Plan, count: int) -> nn.Module:
    """Return a copy without so many units."""
    smaller = copy.deepcopy(whole)
    found = graph(smaller, inputs)
    for each, gone in zip(plan.sets, plan.gone(count), strict=True):
        if gone:
            each.group(found, smaller, gone).prune()
    return smaller


def _as_it_was(smaller: nn.Module, model: nn.Module) -> nn.Module:
    """Put modes and frozen weights back as they were in the model."""
    for own, old in zip(smaller.modules(), model.modules(), strict=True):
        own.training = old.training
    for weight, before in zip(smaller.parameters(), model.parameters(), strict=True):
        weight.requires_grad_(before.requires_grad)
        weight.grad = None
    return smaller
