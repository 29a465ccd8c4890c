"""How label and teacher share a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from limbeck.errors import InputError
from limbeck.methods.match import Match
from limbeck.methods.method import Method

__all__ = ["label_weight", "require_share", "shared"]


def shared(
    loss: Callable[..., Any], share: float, teacher: str | None = "logits", /, **options: Any
) -> Method:
    """Return α·loss between logits + (1 − α)·label; ``share`` is α."""
    require_share(share)
    match = Match("logits", teacher, loss, weight=share, **options)
    return Method((match,), round(1 - share, 12))


def label_weight(lam: float) -> float:
    """Refuse a negative weight of the label, which would teach the opposite."""
    if lam < 0:
        raise InputError(f"lam is {lam}", expected="a weight of the label, 0 or above")
    return lam


def require_share(alpha: float) -> None:
    """Refuse a share that is not one."""
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha is {alpha}", expected="a share from 0 to 1")
