"""Losses of detectors, which answer place by place or with a set of boxes.

Letters: B samples, L places, C classes, N bins, Q and R queries. The teacher never receives a
gradient; all is computed in float32 or better.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses.dense import localization
from limbeck.losses.divergences import binary_kl
from limbeck.losses.matching import cheapest, corners, overlap
from limbeck.losses.spec import Reduction, Spec, declare, reduce

__all__ = ["detection", "paired", "set_detection"]

_NEVER = -30.0  # the logit of a class that a query does not see


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


@declare(
    Spec(
        "dense",
        "Chang et al. 2023 (DETRDistill), arXiv:2211.10156",
        "none",
        waits="pairs are found on the CPU",
        uncompiled="scipy finds the pairs",
        unmapped="scipy finds the pairs",
    )
)
def set_detection(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    *,
    temperature: float = 1.0,
    nothing: float = 0.1,
    distance: float = 5.0,
    shared: float = 2.0,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Distance of two sets of boxes: the least over all ways to pair their members.

    $$\frac1{\max(1, \sum_i w_i)} \min_\sigma \sum_i \Big(v_i\,
    \mathrm{KL}_2(p_i \,\Vert\, q_{\sigma(i)}) + w_i \big(\lambda_1 \lVert b_i -
    \hat b_{\sigma(i)} \rVert_1 + \lambda_2 (1 - \mathrm{GIoU}(b_i, \hat b_{\sigma(i)}))
    \big)\Big)$$

    with w the teacher's highest probability of a class and v = w + η (1 − w). For detectors that
    answer with a set (DETR and its descendants), in which no order means anything: each of the
    teacher's queries is compared with another one of the student's. What the student has more is
    to see nothing; if it has fewer, the teacher's surest count. KL₂ takes each class as a yes or no
    (:func:`limbeck.losses.binary_kl`).

    Args:
        student: yes-or-no logits of classes (B, Q, C), and boxes (B, Q, 4): middle, width and
            height as shares of the picture's.
        teacher: the same of R queries; no gradient reaches them.
        temperature: T > 0 of the classes, with T² inside.
        nothing: η, how much a query counts in which the teacher sees nothing; 0.1 as in DETR.
        distance: λ₁; 5 as in DETR.
        shared: λ₂; 2 as in DETR.
        reduction: mean over samples, in nats and shares of the picture.

    Raises:
        InputError: the numbers of classes differ, there is not one box for each query, or the
            temperature is not positive.

    Source: after Chang, Wang, Xu, Chen, Yang, Zhao 2023, "DETRDistill", arXiv:2211.10156, whose
    Hungarian-matching logits distillation pairs with DETR's cost (Carion et al. 2020,
    arXiv:2005.12872) and treats queries that see something and others apart. Here the cost is the
    loss itself, so that equal sets have none, and η weighs the others.

    >>> classes, boxes = torch.tensor([[[4.0], [-4.0]]]), torch.rand(1, 2, 4)
    >>> other = classes.flip(1), boxes.flip(1)  # in another order
    >>> set_detection(other, (classes, boxes))
    tensor(0.)
    """
    for classes, boxes in (student, teacher):
        if boxes.shape != (*classes.shape[:2], 4) or classes.shape[2] != student[0].shape[2]:
            told = ", ".join(str(tuple(part.shape)) for part in (*student, *teacher))
            raise InputError(
                f"set_detection got {told}",
                expected="logits of classes (B, Q, C) and boxes (B, Q, 4) on both sides, with the "
                "same classes",
            )
    (classes, boxes), (their_classes, their_boxes) = student, _as_many(*teacher, student[0])
    sure = their_classes.sigmoid().amax(-1)
    weight = sure + nothing * (1 - sure)
    with torch.no_grad():
        costs = weight[..., None] * _divergences(classes, their_classes, temperature)
        apart = torch.cdist(their_boxes, boxes, p=1)
        alike = overlap(corners(their_boxes)[:, :, None], corners(boxes)[:, None])[1]
        costs = costs + sure[..., None] * (distance * apart + shared * (1 - alike))
        which = torch.stack([cheapest(each)[1] for each in costs])
    classes = paired(classes, which)
    boxes = paired(boxes, which)
    found = binary_kl(classes, their_classes, temperature=temperature, reduction="none")
    alike = overlap(corners(boxes), corners(their_boxes))[1]
    away = distance * (boxes - their_boxes).abs().sum(-1) + shared * (1 - alike)
    return reduce(
        (weight * found + sure * away).sum(1) / sure.sum(1).clamp(min=1.0), None, reduction
    )


def paired(rows: Tensor, which: Tensor) -> Tensor:
    """Return rows (B, Q, D) in another order, (B, R, D), for numbers (B, R)."""
    return rows.gather(1, which[..., None].expand(-1, -1, rows.shape[2]))


def _as_many(classes: Tensor, boxes: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    """Return the teacher's surest queries, as many as the student's; at the end some of nothing."""
    count, wanted = classes.shape[1], student.shape[1]
    if count < wanted:
        more = wanted - count
        return F.pad(classes, (0, 0, 0, more), value=_NEVER), F.pad(boxes, (0, 0, 0, more))
    if count == wanted:
        return classes, boxes
    which = classes.amax(-1).topk(wanted, dim=1).indices
    return paired(classes, which), paired(boxes, which)


def _divergences(classes: Tensor, theirs: Tensor, temperature: float) -> Tensor:
    """Return T²·KL₂ of each of the teacher's queries from each of the student's, (B, R, Q)."""
    scores, wanted = classes / temperature, theirs / temperature
    yes, no = (F.logsigmoid(sign * scores).transpose(1, 2) for sign in (1, -1))
    p = wanted.sigmoid()
    own = p * F.logsigmoid(wanted) + (1 - p) * F.logsigmoid(-wanted)
    return temperature**2 * (own.sum(-1, keepdim=True) - p @ yes - (1 - p) @ no)
