"""Self-supervised distillation: what the teacher makes of transformed views of a batch.

Letters: B samples, V views of a sample (the plain one first), D features, C classes, R rows. The
value depends on which samples meet in a batch; the teacher never receives a gradient; all is
computed in float32 or better.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses.geometry import unit
from limbeck.losses.probabilities import divergence
from limbeck.losses.spec import Spec, declare

__all__ = ["self_supervised", "self_supervised_logits"]

_SSKD = "Xu, Liu, Li, Loy 2020 (SSKD), arXiv:2006.07114"


@declare(Spec("contrast", _SSKD, per_sample=False))
def self_supervised(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 0.5,
    ratio: float = 0.75,
    views: int = 4,
    kept: Tensor | None = None,
) -> Tensor:
    r"""Divergence between the answers to: which of these samples is this a transformed view of?

    $$\frac{T^2}{|\mathcal K|} \sum_{i \in \mathcal K} \mathrm{KL}(p_i \,\Vert\, q_i), \qquad
    p_i = \mathrm{softmax}_j \big(\cos(\tilde t_i, t_j) / T\big)$$

    t̃ are the transformed views (three rotations in the authors' code) and t_j the B plain views; q
    is the same of the student. 𝒦 are the views that the teacher gives to the right sample, and a
    share of the others, those it ranks best first.

    Args:
        student: features of the views (B, V, D), the plain view first; or (B·V, D) in that order.
            In the paper, outputs of a head trained beforehand for the teacher.
        teacher: features (B, V, D') or (B·V, D'); no gradient reaches them.
        temperature: T > 0, with T² inside.
        ratio: the share of the views that the teacher gives to a wrong sample and that are kept;
            among equal ranks those with the larger probability of the right sample are kept.
        views: V, for (B·V, D).
        kept: (B·(V − 1),) true for the transformed views to keep, instead of the teacher's choice.
            The value is the mean over those kept.

    Raises:
        InputError: the views cannot be told apart, or the numbers of samples differ.

    Source: Xu, Liu, Li, Loy 2020, "Knowledge Distillation Meets Self-Supervision",
    arXiv:2006.07114; code: xuguodong03/SSKD.

    >>> self_supervised(torch.eye(4).view(2, 2, 4), torch.eye(4).view(2, 2, 4))
    tensor(0.)
    """
    log_q, log_p = (
        F.log_softmax(_view_similarities(f, views) / temperature, dim=1) for f in (student, teacher)
    )
    if log_q.shape != log_p.shape:
        raise InputError(
            f"self_supervised got {tuple(student.shape)} and {tuple(teacher.shape)}",
            expected="the same samples and views",
        )
    right = torch.arange(log_p.shape[1], device=log_p.device).repeat_interleave(
        log_p.shape[0] // log_p.shape[1]
    )
    keep = _trusted(log_p, right, ratio) if kept is None else kept.flatten()
    return temperature**2 * _kept_divergence(log_q, log_p, keep)


@declare(Spec("contrast", _SSKD, "classes", per_sample=False))
def self_supervised_logits(
    student: Tensor,
    teacher: Tensor,
    *,
    targets: Tensor,
    temperature: float = 4.0,
    ratio: float = 1.0,
    views: int = 4,
) -> Tensor:
    r"""Divergence between the softened answers to transformed views, where the teacher is good.

    $$\frac{T^2}{|\mathcal K|} \sum_{i \in \mathcal K} \mathrm{KL}(p_i \,\Vert\, q_i)$$

    The companion of :func:`self_supervised` on the logits of the transformed views. 𝒦 are the
    views that the teacher classifies rightly, and a share of the others, those whose label it ranks
    best first.

    Args:
        student: logits of the views (B, V, C), the plain view first; or (B·V, C) in that order.
        teacher: logits of the same shape; no gradient reaches them.
        targets: (B,) int64; with views (B·V,), of which each sample's first counts.
        temperature: T > 0, with T² inside.
        ratio: the share of wrongly classified views that are kept. The value is the mean over those
            kept.
        views: V, for (B·V, C).

    Raises:
        InputError: the views cannot be told apart, the shapes differ, or the targets do not fit.

    Source: Xu, Liu, Li, Loy 2020, "Knowledge Distillation Meets Self-Supervision",
    arXiv:2006.07114; code: xuguodong03/SSKD.

    >>> logits = torch.tensor([[[9.0, 0.0], [0.0, 0.0]]])
    >>> self_supervised_logits(logits, logits + 1, targets=torch.tensor([0]))
    tensor(0.)
    """
    own, theirs = _viewed(student, views), _viewed(teacher, views)
    size = len(own)
    if own.shape != theirs.shape or targets.numel() % size:
        raise InputError(
            f"self_supervised_logits got {tuple(student.shape)}, {tuple(teacher.shape)} and "
            f"targets {tuple(targets.shape)}",
            expected="logits of the same shape, and a target for each sample",
        )
    own, theirs = own[:, 1:], theirs[:, 1:]
    right = targets.reshape(size, -1)[:, :1].expand(-1, own.shape[1]).flatten()
    keep = _trusted(theirs.flatten(0, 1), right, ratio)
    log_q, log_p = (F.log_softmax(x.flatten(0, 1) / temperature, dim=-1) for x in (own, theirs))
    return temperature**2 * _kept_divergence(log_q, log_p, keep)


def _viewed(rows: Tensor, views: int) -> Tensor:
    """Return rows (B, V, D) or (B·V, D) as (B, V, D)."""
    if rows.ndim == 2 and len(rows) % views == 0:
        rows = rows.unflatten(0, (-1, views))
    if rows.ndim != 3 or rows.shape[1] < 2:
        raise InputError(
            f"features of shape {tuple(rows.shape)} came as {views} views of each sample",
            expected="(B, V, D), or (B·V, D) with views=V, and V at least 2",
        )
    return rows


def _view_similarities(features: Tensor, views: int) -> Tensor:
    """Return the cosines (B·(V − 1), B) of transformed views with plain ones."""
    directions_BVD = unit(_viewed(features, views))
    return directions_BVD[:, 1:].flatten(0, 1) @ directions_BVD[:, 0].T


def _trusted(scores_RC: Tensor, right_R: Tensor, ratio: float) -> Tensor:
    """Return which rows to keep: those with the right answer first, and a share of the others.

    The rank of the right answer decides; among equal ranks, its probability.
    """
    log_p = F.log_softmax(scores_RC, dim=1)
    own = log_p.gather(1, right_R.unsqueeze(1))
    rank = (log_p > own).sum(1)
    wrong = (rank > 0).sum()
    number = len(rank) - wrong + (ratio * wrong).long()
    likely = own.squeeze(1).argsort(descending=True, stable=True)
    order = likely[rank[likely].argsort(stable=True)]
    return order.argsort() < number


def _kept_divergence(log_q: Tensor, log_p: Tensor, keep: Tensor) -> Tensor:
    """Return the mean over the rows kept of KL(p ‖ q)."""
    weight = keep.to(log_q)
    return (divergence(log_p, log_q) * weight).sum() / weight.sum().clamp(min=1)
