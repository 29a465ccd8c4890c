"""Self-supervised distillation: what the teacher makes of transformed views of a batch.

The module has the two heads whose outputs are compared; it is trained with the student and dropped
with the loss.

Letters: B samples, V views of a sample (the plain one first), D features, C classes, R rows. The
value depends on which samples meet in a batch; the teacher never receives a gradient; all is
computed in float32 or better.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.losses.geometry import unit
from limbeck.losses.probabilities import divergence
from limbeck.losses.spec import Setting, Spec, declare

__all__ = [
    "SelfSupervised",
    "ViewHead",
    "self_supervised",
    "self_supervised_logits",
    "telling_apart",
]

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
    keep = _trusted(log_p, _own(log_p), ratio) if kept is None else kept.flatten()
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


class ViewHead(nn.Module):
    """What is put on a model's features, that their views can be told apart: two linear layers.

    Args:
        features: D, of what enters and of what leaves.

    >>> ViewHead(6)(torch.zeros(2, 6)).shape
    torch.Size([2, 6])
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features
        self.layers = nn.Sequential(
            nn.Linear(features, features), nn.ReLU(), nn.Linear(features, features)
        )

    def forward(self, rows: Tensor) -> Tensor:
        """Return (..., D) for features (..., D)."""
        told: Tensor = self.layers(rows)
        return told


def telling_apart(features: Tensor, *, views: int = 4) -> Tensor:
    r"""Cross-entropy of: which of these samples is this a transformed view of?

    $$-\frac{1}{B (V - 1)} \sum_i \log \mathrm{softmax}_j \big(\cos(\tilde f_i, f_j)\big)$$

    taken at the sample whose view it is. It trains the teacher's :class:`ViewHead`; as in the
    authors' code there is no temperature.

    Args:
        features: outputs of the head (B, V, D), the plain view first; or (B·V, D) in that order.
        views: V, for (B·V, D).

    Raises:
        InputError: the views cannot be told apart.

    Source: Xu, Liu, Li, Loy 2020, arXiv:2006.07114; code: xuguodong03/SSKD.

    >>> telling_apart(torch.ones(2, 2, 3), views=2)  # all alike: one of two
    tensor(0.6931)
    """
    similarities = _view_similarities(features, views)
    return F.cross_entropy(similarities, _own(similarities))


@declare(Spec("contrast", _SSKD, zero_at_equal=False, per_sample=False, whole_batch=True))
class SelfSupervised(nn.Module):
    """:func:`self_supervised` with the head of each side.

    Train the teacher's head first, with :func:`telling_apart`, and hand it in: it is then frozen.
    Or let ``alongside`` train it beside the student: its cross-entropy is added to the loss, and
    nothing else reaches it.

    Args:
        student_features: D of the student.
        teacher_features: D' of the teacher.
        head: the teacher's, trained.
        alongside: factor of the cross-entropy of a head that was not handed in.
        temperature: as :func:`self_supervised`, and the next two.
        ratio: which views are kept.
        views: V.

    Raises:
        InputError: the head is of another teacher.

    Source: Xu, Liu, Li, Loy 2020, arXiv:2006.07114; code: xuguodong03/SSKD.

    >>> loss = SelfSupervised(6, 8)
    >>> loss(torch.randn(8, 6), torch.randn(8, 8)).ndim
    0
    """

    def __init__(
        self,
        student_features: int,
        teacher_features: int,
        *,
        head: ViewHead | None = None,
        alongside: float = 1.0,
        temperature: float = 0.5,
        ratio: float = 0.75,
        views: int = 4,
    ) -> None:
        super().__init__()
        if head is not None and head.features != teacher_features:
            raise InputError(
                f"a head for {head.features} features met a teacher's {teacher_features}",
                expected="one that was trained on the tapped features",
            )
        self.alongside = alongside if head is None else 0.0
        self.head = ViewHead(student_features)
        self.teacher_head = (head or ViewHead(teacher_features)).requires_grad_(self.alongside > 0)
        self.temperature, self.ratio, self.views = temperature, ratio, views

    @classmethod
    def build(
        cls,
        student: Tensor,
        teacher: Tensor,
        setting: Setting,
        *,
        head: ViewHead | None = None,
        alongside: float = 1.0,
        temperature: float = 0.5,
        ratio: float = 0.75,
        views: int = 4,
    ) -> SelfSupervised:
        """Return the module for features of these widths, with a copy of the teacher's head."""
        return cls(
            student.shape[-1],
            teacher.shape[-1],
            head=copy.deepcopy(head),
            alongside=alongside,
            temperature=temperature,
            ratio=ratio,
            views=views,
        )

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of features (B·V, D) and (B·V, D')."""
        theirs = self.teacher_head(teacher)
        told: Tensor = self_supervised(
            self.head(student),
            theirs,
            temperature=self.temperature,
            ratio=self.ratio,
            views=self.views,
        )
        if not self.alongside:
            return told
        return told + self.alongside * telling_apart(theirs, views=self.views)


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


def _own(similarities: Tensor) -> Tensor:
    """Return of which sample each row, a transformed view, is one."""
    rows, samples = similarities.shape
    own = torch.arange(samples, device=similarities.device)
    return own.repeat_interleave(rows // samples, output_size=rows)


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
