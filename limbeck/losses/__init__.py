"""Comparing what the student computes with what the teacher computes.

Every loss is ``NAME(student, teacher, *, ...)``: the mean over samples (or unmasked tokens) of the
sum over classes or features that its paper states, with T² inside where there is a temperature.
"""

import inspect
from collections.abc import Callable
from dataclasses import asdict

from torch import Tensor

from limbeck.errors import unknown
from limbeck.losses import schedules, wrap
from limbeck.losses.features import attention_transfer, cosine_hint, hint
from limbeck.losses.logits import hard_label, kl, logit_mse, probability_mse, soft_cross_entropy
from limbeck.losses.relations import similarity_preserving
from limbeck.losses.spec import Spec, declare, spec_of

__all__ = [
    "Spec",
    "attention_transfer",
    "catalogue",
    "cosine_hint",
    "declare",
    "get",
    "hard_label",
    "hint",
    "kl",
    "logit_mse",
    "names",
    "probability_mse",
    "schedules",
    "similarity_preserving",
    "soft_cross_entropy",
    "spec_of",
    "wrap",
]

_LOSSES: dict[str, Callable[..., Tensor]] = {
    "attention_transfer": attention_transfer,
    "cosine_hint": cosine_hint,
    "hard_label": hard_label,
    "hint": hint,
    "kl": kl,
    "logit_mse": logit_mse,
    "probability_mse": probability_mse,
    "similarity_preserving": similarity_preserving,
    "soft_cross_entropy": soft_cross_entropy,
}


def names() -> list[str]:
    """Return the names of all losses, sorted."""
    return sorted(_LOSSES)


def catalogue() -> dict[str, dict[str, object]]:
    """Return what each loss says of itself, by name: for ``limbeck methods --json``.

    >>> catalogue()["kl"]["family"]
    'response'
    """
    return {
        name: {
            "name": name,
            "summary": (inspect.getdoc(loss) or "").partition("\n")[0],
            "text": f"{name}{inspect.signature(loss)}\n\n{inspect.getdoc(loss)}",
            **asdict(spec_of(loss)),
        }
        for name, loss in sorted(_LOSSES.items())
    }


def get(name: str) -> Callable[..., Tensor]:
    """Return the loss of that name; an unknown name lists near ones.

    >>> get("kl") is kl
    True
    """
    if name not in _LOSSES:
        raise unknown("loss", name, _LOSSES)
    return _LOSSES[name]
