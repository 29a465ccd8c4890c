"""A loss of detectors that answer place by place: which classes, and where the edges lie.

Letters: B samples, L places, C classes, N bins. The teacher never receives a gradient; all is
computed in float32 or better.
"""

from __future__ import annotations

from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses.dense import localization
from limbeck.losses.divergences import binary_kl
from limbeck.losses.spec import Reduction, Spec, declare, reduce

__all__ = ["detection"]


@declare(Spec("dense", "Zheng et al. 2022 (LD), arXiv:2102.12252", "none"))
def detection(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    *,
    edges: float = 0.25,
    temperature: float = 1.0,
    edge_temperature: float = 4.0,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Divergence of the classes at all places, and of the edges where the teacher is sure.

    $$\frac1{\max(1, \sum_i w_i)} \sum_i \Big(\mathrm{KL}_2(p_i \,\Vert\, q_i) + \lambda\, w_i
    \sum_{e=1}^{4} \mathrm{KL}(p_{ie} \,\Vert\, q_{ie})\Big), \quad w_i = \max_c \sigma(t_{ic})$$

    KL₂ takes each class as a yes or no (:func:`limbeck.losses.binary_kl`), KL the bins of an edge
    as a distribution (:func:`limbeck.losses.localization`). The teacher's highest probability
    w says where there is an object; the authors of LD take the labelled boxes and their
    surroundings instead. Dividing by its sum keeps the many places without an object from making
    the loss small.

    Args:
        student: logits of the classes (B, L, C), and of the edges (B, 4·L, N), four rows for each
            place.
        teacher: the same of the teacher; no gradient reaches them.
        edges: λ.
        temperature: T > 0 of the classes, with T² inside.
        edge_temperature: T > 0 of the edges, with T² inside.
        reduction: mean over samples, in nats.

    Raises:
        InputError: the shapes differ, there are not four edges for each place, or a temperature is
            not positive.

    Source: edges after Zheng et al. 2022, "Localization Distillation for Dense Object Detection",
    arXiv:2102.12252; classes after Yang et al. 2023, arXiv:2308.06453; the weights are our own.

    >>> import torch
    >>> sure = torch.full((1, 1, 1), 20.0), torch.zeros(1, 4, 2)  # an object, for certain
    >>> unsure = torch.zeros(1, 1, 1), torch.zeros(1, 4, 2)
    >>> detection(unsure, sure)  # log 2
    tensor(0.6931)
    """
    if len(student) != 2 or len(teacher) != 2 or student[1].shape[1] != 4 * student[0].shape[1]:
        told = " and ".join(str(tuple(part.shape)) for part in student)
        raise InputError(
            f"detection got {told} of the student",
            expected="logits of classes (B, L, C) and of edges (B, 4·L, N)",
        )
    (classes, bins), (their_classes, their_bins) = student, teacher
    sure = their_classes.sigmoid().amax(-1)
    found = binary_kl(classes, their_classes, temperature=temperature, reduction="none").sum(1)
    apart = localization(
        bins,
        their_bins,
        temperature=edge_temperature,
        weights=sure.repeat_interleave(4, dim=1),
        reduction="none",
    ).sum(1)
    return reduce((found + edges * apart) / sure.sum(1).clamp(min=1.0), None, reduction)
