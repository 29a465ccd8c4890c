"""A method that matches answers at three levels, and on a second view of each image.

Letters: B samples, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from limbeck.data.augment import Augmentation, operation
from limbeck.losses import levels, wrap
from limbeck.losses.spec import Spec, declare
from limbeck.methods.about import About
from limbeck.methods.match import Match
from limbeck.methods.method import Method, described
from limbeck.methods.shares import label_weight
from limbeck.methods.views import Changed

__all__ = ["mlkd"]

_APART = 48271  # a seed that no recipe is likely to give its data


@described(
    About(
        "Multi-Level Logit Distillation",
        "Jin, Wang, Lin",
        2023,
        "CVPR",
        "response",
        "logits",
        "small",
    )
)
def mlkd(
    weight: float = 0.9,
    temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
    lam: float = 0.1,
    kept: Literal["all", "doubtful"] = "all",
    strong: Augmentation | Sequence[str | Mapping[str, float]] | None = None,
) -> Method:
    r"""Match answers, similarities of samples and similarities of classes at five temperatures.

    The loss is weight·Σ over T of (T²·KL + samples + classes) + λ·label, with the authors' weights.
    Memory grows with the square of the batch. The whole method has ``kept="doubtful"`` and a second
    view of each image, ``strong``, of which the answers and the label count too, with the same
    weights; a step then costs twice as much, and the teacher must run beside the student. The
    authors train twice as long as others, 480 epochs, and change the second view by RandAugment;
    theirs has a crop of its own, here it begins with that of the first.

    Args:
        weight: of the sum.
        temperatures: at which the three are compared; they are added up.
        lam: λ, the label's weight.
        kept: of the plain view, ``all`` samples and classes, or only the ``doubtful`` half; see
            :func:`limbeck.losses.multi_level_logit`.
        strong: what is done to the second view, as ``data.augment`` in a recipe or as an
            :class:`limbeck.data.Augmentation` with a seed of its own; by default there is none.

    Raises:
        InputError: λ is negative, or a step of ``strong`` is unknown.

    Source: Jin, Wang, Lin 2023, "Multi-Level Logit Distillation", CVPR; code:
    Jin-Ying/Multi-Level-Logit-Distillation.

    >>> mlkd(temperatures=(1.0, 4.0)).matches
    (Match('logits', 'logits', multi_level_logit, weight=0.9, temperatures=(1.0, 4.0)),)
    """
    loss, hot = wrap.gathered(levels.multi_level_logit), tuple(temperatures)
    options: dict[str, Any] = {} if kept == "all" else {"kept": kept}
    plain = Match("logits", "logits", loss, weight=weight, temperatures=hot, **options)
    if strong is None:
        return Method((plain,), label_weight(lam))
    augment = strong if isinstance(strong, Augmentation) else _augmentation(strong)
    changed = (
        Match(
            "logits",
            "logits",
            _strong_answer,
            weight=weight,
            name="second view",
            views=True,
            temperatures=hot,
        ),
        Match(
            "logits",
            None,
            _strong_label,
            weight=label_weight(lam),
            name="label of the second view",
            views=True,
        ),
    )
    return Method((plain, *changed), lam, views=Changed(augment))


@declare(Spec("response", "Jin, Wang, Lin 2023 (MLKD), CVPR", "classes"))
def _strong_answer(student: Tensor, teacher: Tensor, *, temperatures: Sequence[float]) -> Tensor:
    """Return the instance level of the second of two views."""
    sides = student[1::2], teacher[1::2]
    return levels.multi_level_logit(*sides, temperatures=temperatures, levels=("instance",))


@declare(Spec("response", "labels", "classes", zero_at_equal=False))
def _strong_label(student: Tensor, teacher: Tensor, *, targets: Tensor) -> Tensor:
    """Return the cross-entropy of the second of two views with the label."""
    return F.cross_entropy(student[1::2], targets)


def _augmentation(steps: Sequence[str | Mapping[str, float]]) -> Augmentation:
    """Return what steps as in a recipe do; its draws are not those of the training data's."""
    operations = []
    for step in steps:
        named = {step: ()} if isinstance(step, str) else {k: (v,) for k, v in step.items()}
        operations += [operation(name, *values) for name, values in named.items()]
    return Augmentation(tuple(operations), seed=_APART)
