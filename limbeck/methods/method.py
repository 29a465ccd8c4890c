"""A method: a paper as matches and a weight of the label loss, with its citation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import ParamSpec

from torch import Tensor

from limbeck.data.samples import Batch
from limbeck.errors import InputError
from limbeck.losses.schedules import Schedule
from limbeck.methods.about import About
from limbeck.methods.match import Match

__all__ = ["Method", "about", "as_method", "described", "is_described"]

P = ParamSpec("P")


@dataclass(frozen=True)
class Method:
    """What the student is to reproduce, and how much its label counts beside that.

    Methods add up: ``kd() + at()`` has the matches of both.

    Attributes:
        matches: each adds its weighted loss.
        label_weight: factor of the label loss, or a schedule; ``None`` leaves it to the method that
            this one is added to, and alone means 1.
        name: for logs and reports.
        sources: what to cite.
        views: ``None``, or how both models are shown several views of each sample: from a batch
            with ``inputs`` (B, ...) to (B, V, ...), the plain view first. The label and most
            matches see the plain view alone; those with ``views=True`` see all.

    >>> from limbeck import methods
    >>> (methods.kd(alpha=0.9) + methods.at()).name
    'kd + at'
    """

    matches: tuple[Match, ...]
    label_weight: float | Schedule | None = None
    name: str = "own"
    sources: tuple[About, ...] = ()
    views: Callable[[Batch], Tensor] | None = None

    def __add__(self, other: Method) -> Method:
        weights = [m.label_weight for m in (self, other) if m.label_weight is not None]
        if len(set(weights)) > 1:
            raise InputError(
                f"{self.name} and {other.name} weigh the label differently ({weights[0]} and "
                f"{weights[1]})",
                remedy="Give both the same: method.with_label_weight(0.5).",
            )
        weight = weights[0] if weights else None
        sources = tuple(dict.fromkeys(self.sources + other.sources))
        name, views = f"{self.name} + {other.name}", self.views or other.views
        if other.views not in (None, views):
            raise InputError(
                f"{self.name} and {other.name} show different views of a sample",
                expected="the same views, or one method that shows some",
            )
        return Method(self.matches + other.matches, weight, name, sources, views)

    def with_label_weight(self, weight: float | Schedule) -> Method:
        """Return the same method with another weight of the label loss."""
        return replace(self, label_weight=weight)


_ABOUT: dict[str, About] = {}


def described(info: About) -> Callable[[Callable[P, Method]], Callable[P, Method]]:
    """Attach a citation to a function that returns a method, and name the method after it."""

    def attach(make: Callable[P, Method]) -> Callable[P, Method]:
        @functools.wraps(make)
        def named(*args: P.args, **options: P.kwargs) -> Method:
            made = make(*args, **options)
            sources = tuple(dict.fromkeys((info, *made.sources)))
            return replace(made, name=make.__name__, sources=sources)

        _ABOUT[make.__name__] = info
        return named

    return attach


def about(name: str) -> About:
    """Return what the method of that name says of itself."""
    return _ABOUT[name]


def is_described(make: Callable[..., object]) -> bool:
    """Say whether a function is a method that :func:`described` names."""
    return make.__name__ in _ABOUT and hasattr(make, "__wrapped__")


def as_method(method: Method | Match | Iterable[Match]) -> Method:
    """Return a method for what users write: a method, a match, or a list of matches."""
    if isinstance(method, Method):
        return method
    matches = (method,) if isinstance(method, Match) else tuple(method)
    strange = [type(match).__name__ for match in matches if not isinstance(match, Match)]
    if strange:
        raise InputError(
            f"a method with a {strange[0]} in it", expected="a Method, or a list of Match"
        )
    return Method(matches)
