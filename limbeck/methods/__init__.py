"""Papers as compositions of matches: each function returns matches and a label weight."""

import inspect
from collections.abc import Callable
from dataclasses import asdict

from limbeck.errors import unknown
from limbeck.methods.about import About
from limbeck.methods.feature import at, fitnets, sp
from limbeck.methods.match import Match
from limbeck.methods.method import Method, about, as_method, described
from limbeck.methods.response import hard_label, kd, logit_mse, none, probability_mse, soft_hard

__all__ = [
    "About",
    "Match",
    "Method",
    "about",
    "as_method",
    "at",
    "catalogue",
    "described",
    "fitnets",
    "get",
    "hard_label",
    "kd",
    "logit_mse",
    "names",
    "none",
    "probability_mse",
    "soft_hard",
    "sp",
]

_METHODS: dict[str, Callable[..., Method]] = {
    "at": at,
    "fitnets": fitnets,
    "hard_label": hard_label,
    "kd": kd,
    "logit_mse": logit_mse,
    "none": none,
    "probability_mse": probability_mse,
    "soft_hard": soft_hard,
    "sp": sp,
}


def names() -> list[str]:
    """Return the names of all methods, sorted."""
    return sorted(_METHODS)


def catalogue() -> dict[str, dict[str, object]]:
    """Return what each method says of itself, by name: for ``limbeck methods``.

    >>> catalogue()["kd"]["source"]
    'arXiv:1503.02531'
    """
    return {
        name: {
            "name": name,
            "summary": (inspect.getdoc(make) or "").partition("\n")[0],
            "text": f"{name}{inspect.signature(make)}\n\n{inspect.getdoc(make)}",
            "bibtex": about(name).bibtex,
            **asdict(about(name)),
        }
        for name, make in sorted(_METHODS.items())
    }


def get(name: str) -> Callable[..., Method]:
    """Return the method of that name; an unknown name lists near ones.

    >>> get("kd") is kd
    True
    """
    if name not in _METHODS:
        raise unknown("method", name, _METHODS)
    return _METHODS[name]
