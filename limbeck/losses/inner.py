"""What wrappers ask about the loss inside them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from limbeck.errors import InputError
from limbeck.losses.wrap import Loss

__all__ = ["default", "given", "inside", "must_take"]


def inside(loss: Loss) -> nn.Module | None:
    """Return the module in a wrapped loss, so that its parameters are registered."""
    inner = inspect.unwrap(loss)
    return inner if isinstance(inner, nn.Module) and inner is not loss else None


def default(loss: Loss, option: str) -> Any:
    """Return what an option is if it is not given; ``None`` if the loss has no such option."""
    found = _parameters(loss).get(option)
    return None if found is None else found.default


def _parameters(loss: Loss) -> Mapping[str, inspect.Parameter]:
    called = loss.forward if isinstance(loss, nn.Module) else loss
    return inspect.signature(called).parameters


def given(loss: Loss, **context: Any) -> dict[str, Any]:
    """Return what is given and what the loss takes."""
    takes = _parameters(loss)
    return {k: v for k, v in context.items() if v is not None and k in takes}


def must_take(loss: Loss, option: str) -> None:
    """Refuse a loss that has no such option."""
    if option not in _parameters(loss):
        name = getattr(loss, "__name__", type(loss).__name__)
        raise InputError(f"the loss {name} has no {option}", expected=f"a loss with {option}=")
