"""Losses between rankings: in which order the two models put the items of a list.

Letters: B lists (queries, users), N items. Scores are (B, N), higher is better; a further dimension
(B, T, N) holds T lists each. A ``mask`` of shape (B,) or (B, T) says which lists count.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses.probabilities import require_positive
from limbeck.losses.spec import Reduction, Spec, comparable, declare, reduce

__all__ = ["listwise", "pairwise_margin", "ranking_distillation", "relaxed_ranking"]

_REMEDY = "Let both models score the same items, in the same order."
_LOWEST = -1e30  # the score of an item that is not there: finite, so that no gradient is NaN


@declare(
    Spec(
        "ranking",
        "Cao, Qin, Liu, Tsai, Li 2007 (ListNet), ICML, 10.1145/1273496.1273513",
        "classes",
        zero_at_equal=False,
    )
)
def listwise(
    student: Tensor,
    teacher: Tensor,
    *,
    form: Literal["listnet", "listmle"] = "listnet",
    temperature: float = 1.0,
    present: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy between the two models' beliefs about the list: ListNet, or ListMLE.

    $$-T^2 \sum_i p_i \log q_i, \quad p = \mathrm{softmax}(t / T),\; q = \mathrm{softmax}(s / T)$$

    where pᵢ is the probability that item i comes first (ListNet's top-one form). ``listmle`` takes
    the teacher's whole order π instead, best first, and none of its scores:

    $$T \sum_r \Big(\log \sum_{j \ge r} e^{s_{\pi_j} / T} - s_{\pi_r} / T\Big)$$

    Args:
        student: scores (B, N) or (B, T, N).
        teacher: scores of the same shape; no gradient reaches them.
        form: ``listnet``, or ``listmle`` (Xia et al. 2008).
        temperature: T > 0, with T² inside; with T for ``listmle``, whose gradient shrinks with 1/T.
        present: booleans of the scores' shape, false where a shorter list is filled up.
        mask: (B,) or (B, T), true where a list counts.
        reduction: mean over lists of the sum over items, in nats.

    Raises:
        InputError: the shapes differ, or the temperature is not positive.

    Source: Cao, Qin, Liu, Tsai, Li 2007, "Learning to Rank: From Pairwise Approach to Listwise
    Approach", ICML; Xia, Liu, Wang, Zhang, Li 2008, "Listwise Approach to Learning to Rank", ICML;
    code: allegro/allRank (not the authors), which adds 1e-10 inside the logarithms.

    >>> listwise(torch.zeros(1, 3), torch.zeros(1, 3))  # log 3
    tensor(1.0986)
    >>> listwise(torch.zeros(1, 3), torch.tensor([[3.0, 2.0, 1.0]]), form="listmle")  # log 3!
    tensor(1.7918)
    """
    require_positive(temperature)
    student, teacher = comparable(student, teacher, mask, remedy=_REMEDY)
    there = torch.ones_like(student, dtype=torch.bool) if present is None else present.bool()
    if there.shape != student.shape:
        raise InputError(
            f"present {tuple(there.shape)} came with scores {tuple(student.shape)}",
            expected="one entry for each item",
        )
    student, teacher = ((x / temperature).masked_fill(~there, _LOWEST) for x in (student, teacher))
    if form == "listmle":
        terms, order = _plackett_luce(student, teacher)
        there, factor = there.gather(-1, order), temperature
    else:
        log_q, log_p = (F.log_softmax(x, -1).clamp(min=_LOWEST) for x in (student, teacher))
        terms, factor = log_p.exp() * -log_q, temperature**2
    values = torch.where(there, terms, torch.zeros_like(terms)).sum(-1)
    return factor * reduce(values, mask, reduction)


@declare(Spec("ranking", "Hofstätter et al. 2020 (MarginMSE), arXiv:2010.02666", "classes"))
def pairwise_margin(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Squared difference between margins: how far a relevant item lies above the others.

    $$\frac{1}{N - 1} \sum_{i > 0} \big((s_0 - s_i) - (t_0 - t_i)\big)^2$$

    The first item is the relevant one; the paper has N = 2. A constant added to all of a model's
    scores of a list changes nothing, so models with different scales of relevance can be compared.

    Args:
        student: scores (B, N) or (B, T, N) of a positive item and N − 1 negative ones.
        teacher: scores of the same shape; no gradient reaches them.
        mask: (B,) or (B, T), true where a list counts.
        reduction: mean over lists of the mean over their pairs.

    Raises:
        InputError: the shapes differ, or there is no negative item.

    Source: Hofstätter, Althammer, Schröder, Sertkan, Hanbury 2020, "Improving Efficient Neural
    Ranking Models with Cross-Architecture Knowledge Distillation", arXiv:2010.02666;
    code: sebastian-hofstaetter/neural-ranking-kd.

    >>> pairwise_margin(torch.tensor([[2.0, 1.0]]), torch.tensor([[9.0, 5.0]]))  # (1 − 4)²
    tensor(9.)
    """
    student, teacher = comparable(student, teacher, mask, remedy=_REMEDY)
    if student.shape[-1] < 2:
        raise InputError(
            f"pairwise_margin got scores {tuple(student.shape)}",
            expected="a positive item and at least one negative in the last dimension",
        )
    margins = (x[..., :1] - x[..., 1:] for x in (student, teacher))
    own, theirs = margins
    return reduce((own - theirs).square().mean(-1), mask, reduction)


@declare(Spec("ranking", "Tang, Wang 2018 (RD), arXiv:1809.07428", "classes", zero_at_equal=False))
def ranking_distillation(
    student: Tensor,
    teacher: Tensor,
    *,
    k: int = 10,
    weights: Literal["hybrid", "position"] = "hybrid",
    sharpness: float = 1.0,
    mu: float = 0.1,
    sampled: Tensor | None = None,
    items: int | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The teacher's first K items as further positives of the student: ranking distillation.

    $$-\sum_{r=1}^{K} w_r \log \sigma(s_{\pi_r}), \quad
    w_r \propto e^{-r / \lambda} \cdot \max\big(0, \tanh(\mu (\hat r_r - r))\big)$$

    π is the teacher's order and r̂ the student's rank of the same item: what the student already
    ranks as high as the teacher does is left alone. e^{−r/λ} is normalised to a sum of 1 over the K
    items, the product with the second factor is not, as in the authors' code.

    Args:
        student: scores (B, N) or (B, T, N); they are read as logits of relevance.
        teacher: scores of the same shape, used for their order only. An item with score −∞ is never
            a positive.
        k: K; all N items if there are fewer.
        weights: ``position`` leaves out the second factor, as the authors do in the first epochs.
        sharpness: λ > 0: the larger, the more the later items count.
        mu: μ, how soon a difference between ranks counts fully.
        sampled: the student's scores (B, S) or (B, T, S) of items drawn from the catalogue, from
            which its ranks are estimated. By default they are counted within the N items.
        items: the catalogue's size; needed with ``sampled``.
        mask: (B,) or (B, T), true where a list counts.
        reduction: mean over lists of the weighted sum over K items, in nats.

    Raises:
        InputError: the shapes do not fit, k or the sharpness is not positive, or ``sampled`` and
            ``items`` do not come together.

    Source: Tang, Wang 2018, "Ranking Distillation", arXiv:1809.07428; code: graytowne/rank_distill.

    >>> scores = torch.zeros(1, 3), torch.tensor([[5.0, 1.0, -torch.inf]])
    >>> ranking_distillation(*scores, k=1, weights="position")  # −log σ(0) = log 2
    tensor(0.6931)
    """
    student, teacher = comparable(student, teacher, mask, remedy=_REMEDY)
    if k < 1 or sharpness <= 0 or (sampled is None) != (items is None):
        raise InputError(
            f"ranking_distillation got k={k}, sharpness={sharpness}, items={items} and "
            f"{'no' if sampled is None else 'some'} sampled scores",
            expected="k ≥ 1, sharpness above 0, and items exactly if there are sampled scores",
        )
    if sampled is not None and sampled.shape[:-1] != student.shape[:-1]:
        raise InputError(
            f"sampled scores {tuple(sampled.shape)} came with scores {tuple(student.shape)}",
            expected="some for each list",
        )
    best, order = teacher.topk(min(k, teacher.shape[-1]), dim=-1)
    scores = student.gather(-1, order)
    places = torch.arange(scores.shape[-1], device=student.device, dtype=student.dtype)
    weight = F.softmax(-places / sharpness, 0).expand_as(scores)
    if weights == "hybrid":
        pool = student if sampled is None else sampled.to(student)
        above = pool.detach().unsqueeze(-2) > scores.detach().unsqueeze(-1)
        ranks = above.sum(-1).to(student.dtype)
        if items is not None:
            ranks = (ranks / pool.shape[-1] * (items - 1)).floor()
        weight = weight * torch.tanh(mu * (ranks - places)).clamp(min=0)
    weight = torch.where(best > -torch.inf, weight, torch.zeros_like(weight))
    return reduce((weight * -F.logsigmoid(scores.clamp(min=_LOWEST))).sum(-1), mask, reduction)


@declare(
    Spec(
        "ranking",
        "Kang, Hwang, Kweon, Yu 2020 (DE-RRD), arXiv:2012.04357",
        "classes",
        zero_at_equal=False,
    )
)
def relaxed_ranking(
    student: Tensor,
    teacher: Tensor,
    *,
    k: int = 10,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Likelihood of the teacher's first K items in their order, above all others in any order.

    $$\sum_{r=1}^{K} \Big(\log \sum_{j \ge r} e^{s_{\pi_j}} - s_{\pi_r}\Big)$$

    π is the teacher's order of all N items: the denominators hold the uninteresting items, after
    the K-th, but their order is free. With K = N it is ListMLE (:func:`listwise`). In the paper the
    interesting items are drawn by rank from the teacher's list and the uninteresting ones evenly
    from the rest; give the scores of those that were drawn.

    Args:
        student: scores (B, N) or (B, T, N).
        teacher: scores of the same shape, used for their order only.
        k: K, how many items are interesting; all N if there are fewer.
        mask: (B,) or (B, T), true where a list counts.
        reduction: mean over lists of the sum over K items, in nats.

    Raises:
        InputError: the shapes differ, or k is not positive.

    Source: Kang, Hwang, Kweon, Yu 2020, "DE-RRD", arXiv:2012.04357;
    code: SeongKu-Kang/DE-RRD_CIKM20.

    >>> relaxed_ranking(torch.zeros(1, 4), torch.tensor([[4.0, 3.0, 2.0, 1.0]]), k=2)  # log 4 · 3
    tensor(2.4849)
    """
    student, teacher = comparable(student, teacher, mask, remedy=_REMEDY)
    if k < 1:
        raise InputError(f"k is {k}", expected="at least one interesting item")
    # Only the first K are put in order: to sort a whole catalogue would take many times as long.
    order = teacher.topk(min(k, teacher.shape[-1]), dim=-1).indices
    student = student.clamp(min=_LOWEST)
    scores = student.gather(-1, order)
    others = student.scatter(-1, order, _LOWEST).logsumexp(-1, keepdim=True)
    rest = torch.cat((scores, others), -1).flip(-1).logcumsumexp(-1).flip(-1)[..., :-1]
    return reduce((rest - scores).sum(-1), mask, reduction)


def _plackett_luce(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return −log of the probability of each choice in the teacher's order, and that order."""
    order = teacher.argsort(dim=-1, descending=True, stable=True)
    scores = student.gather(-1, order).clamp(min=_LOWEST)
    rest = scores.flip(-1).logcumsumexp(-1).flip(-1)
    return rest - scores, order
