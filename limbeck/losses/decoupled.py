"""Losses between logits that look at the label too: the target class apart from the others.

Letters: B samples, T tokens, C classes. Logits are (B, C) or (B, T, C), labels (B,) or (B, T); with
tokens, a ``mask`` of shape (B, T) says which count, and any label may stand where it is false. The
teacher never receives a gradient, and half-precision inputs are computed in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses.probabilities import REMEDY, divergence, require_positive, where_positive
from limbeck.losses.spec import Reduction, Spec, comparable, declare, reduce

__all__ = ["dkd", "nkd", "weighted_soft_label"]

_NKD = "Yang et al. 2023, arXiv:2303.13005"
_WEIGHT_EPS = 1e-7  # of the authors of WSLD, beside the teacher's cross-entropy


@declare(Spec("response", "Zhao et al. 2022 (DKD), arXiv:2203.08679", "classes"))
def dkd(
    student: Tensor,
    teacher: Tensor,
    *,
    targets: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""KL in two parts with weights of their own: target against the rest, and within the rest.

    $$T^2 \big( \alpha\, \mathrm{KL}(b^t \,\|\, b^s) + \beta\, \mathrm{KL}(\hat p \,\|\, \hat q)
    \big), \quad b = (p_y, 1 - p_y), \quad \hat p_c = p_c / (1 - p_y),\; c \ne y$$

    Plain KL gives the second part the weight 1 − p_y, so that a confident teacher says little about
    the other classes; here it keeps the weight β.

    Args:
        student: logits (B, C) or (B, T, C), at least two classes.
        teacher: logits of the same shape; no gradient reaches them.
        targets: labels y, (B,) or (B, T).
        alpha: weight of the target part.
        beta: weight of the other classes; the paper uses 2 to 8, more for a confident teacher.
        temperature: T > 0, in all softmax functions, with T² inside.
        mask: (B, T), true where a token counts.
        reduction: mean over samples (or unmasked tokens) of the sum over classes, in nats.

    Raises:
        InputError: shapes do not fit, there is one class, labels are not integers, T is not
            positive.

    Source: Zhao, Cui, Song, Qiu, Liang 2022, "Decoupled Knowledge Distillation", arXiv:2203.08679;
    code: megvii-research/mdistiller.

    >>> zeros, target = torch.zeros(1, 3), torch.tensor([0])
    >>> dkd(zeros, torch.tensor([[0.0, 0.0, 1.0986123]]), targets=target, alpha=0.0, beta=1.0,
    ...     temperature=1.0)  # of the two others: (¼, ¾) against (½, ½)
    tensor(0.1308)
    """
    require_positive(temperature)
    student, teacher = comparable(student, teacher, mask, remedy=REMEDY)
    labels = label_index(targets, student, mask)
    (target_q, others_q), (target_p, others_p) = (
        _decoupled(logits / temperature, labels) for logits in (student, teacher)
    )
    target = divergence(target_p, target_q, alpha * temperature**2)
    others = divergence(others_p, others_q, beta * temperature**2)
    return reduce(target + others, mask, reduction)


@declare(Spec("response", _NKD, "classes", zero_at_equal=False))
def nkd(
    student: Tensor,
    teacher: Tensor,
    *,
    targets: Tensor,
    gamma: float = 1.5,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy of the target, and of the others after each side's others sum to one.

    $$-p_y \log q_y - \gamma T^2 \sum_{c \ne y} \hat p_c \log \hat q_c$$

    The first term has no temperature; p̂ and q̂ are softmax functions at T over the classes other
    than y. Both terms are cross-entropies, so the value is not 0 where student equals teacher.

    Args:
        student: logits (B, C) or (B, T, C), at least two classes.
        teacher: logits of the same shape; no gradient reaches them.
        targets: labels y, (B,) or (B, T).
        gamma: weight of the other classes.
        temperature: T > 0, of the other classes alone, with T² inside.
        mask: (B, T), true where a token counts.
        reduction: mean over samples (or unmasked tokens) of the sum over classes, in nats.

    Raises:
        InputError: shapes do not fit, there is one class, labels are not integers, T is not
            positive.

    Source: Yang, Zeng, Li, Zhang, Yuan, Li 2023, "From Knowledge Distillation to Self-Knowledge
    Distillation", arXiv:2303.13005; code: yzd-v/cls_KD.

    >>> nkd(torch.zeros(1, 4), torch.zeros(1, 4), targets=torch.tensor([1]), gamma=1.0)
    tensor(1.4452)
    >>> torch.log(torch.tensor(4.0)) / 4 + torch.log(torch.tensor(3.0))
    tensor(1.4452)
    """
    require_positive(temperature)
    student, teacher = comparable(student, teacher, mask, remedy=REMEDY)
    labels = label_index(targets, student, mask)
    log_q, log_p = (of_label(F.log_softmax(x, -1), labels) for x in (student, teacher))
    p_hat = others_of(teacher / temperature, labels).exp()
    others = where_positive(p_hat, -others_of(student / temperature, labels)).sum(-1)
    target = where_positive(log_p.exp(), -log_q)
    return reduce(target + gamma * temperature**2 * others, mask, reduction)


@declare(
    Spec("response", "Zhou et al. 2021 (WSLD), arXiv:2102.00650", "classes", False, slope=False)
)
def weighted_soft_label(
    student: Tensor,
    teacher: Tensor,
    *,
    targets: Tensor,
    temperature: float = 2.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Soft-label cross-entropy, weaker for samples that the student knows better than the teacher.

    $$-w\, T^2 \sum_c p_c \log q_c, \qquad
    w = 1 - \exp\!\Big(-\frac{-\log s_y}{-\log t_y}\Big)$$

    s_y and t_y are the probabilities of the label at temperature 1. The weight w lies between 0 and
    1 and receives no gradient. The mean is over all samples, not divided by the weights.

    Args:
        student: logits (B, C) or (B, T, C).
        teacher: logits of the same shape; no gradient reaches them.
        targets: labels y, (B,) or (B, T).
        temperature: T > 0, of p and q, with T² inside.
        mask: (B, T), true where a token counts.
        reduction: mean over samples (or unmasked tokens) of the sum over classes, in nats.

    Raises:
        InputError: shapes do not fit, labels are not integers, T is not positive.

    Source: Zhou, Song, Chen, Zhou, Wang, Yuan, Zhang 2021, "Rethinking Soft Labels for Knowledge
    Distillation: A Bias-Variance Tradeoff Perspective", arXiv:2102.00650; code:
    bellymonster/Weighted-Soft-Label-Distillation (the eps of 1e-7 beside the teacher's −log t_y is
    theirs).

    >>> equal = torch.zeros(1, 2)  # equally good: w = 1 − 1/e
    >>> weighted_soft_label(equal, equal, targets=torch.tensor([0]), temperature=1.0)
    tensor(0.4382)
    """
    require_positive(temperature)
    student, teacher = comparable(student, teacher, mask, remedy=REMEDY)
    labels = label_index(targets, student, mask)
    own, theirs = (-of_label(F.log_softmax(x.detach(), -1), labels) for x in (student, teacher))
    weights = -torch.expm1(-own / (theirs + _WEIGHT_EPS))
    log_q = F.log_softmax(student / temperature, -1)
    soft = where_positive((teacher / temperature).softmax(-1), -log_q).sum(-1)
    return temperature**2 * reduce(weights * soft, mask, reduction)


def label_index(targets: Tensor, logits: Tensor, mask: Tensor | None) -> Tensor:
    """Return the labels as an index (..., 1), class 0 where ``mask`` is false."""
    if targets.shape != logits.shape[:-1] or targets.is_floating_point():
        raise InputError(
            f"labels {tuple(targets.shape)} of {targets.dtype} came with logits "
            f"{tuple(logits.shape)}",
            expected=f"one class index for each, {tuple(logits.shape[:-1])} of torch.int64",
        )
    labels = targets.long() if mask is None else targets.long().masked_fill(~mask.bool(), 0)
    return labels.unsqueeze(-1)


def of_label(values: Tensor, labels: Tensor) -> Tensor:
    """Return the entry of the label's class."""
    return values.gather(-1, labels).squeeze(-1)


def _except(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the logits with the label's class ruled out."""
    if logits.shape[-1] < 2:
        raise InputError(
            f"the logits {tuple(logits.shape)} have one class", expected="at least two classes"
        )
    return logits.scatter(-1, labels, -torch.inf)


def others_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the log-softmax over the classes other than the label's, −∞ at the label's."""
    return F.log_softmax(_except(logits, labels), -1)


def _decoupled(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities (..., 2) of the label's class and of all others, and others_of.

    Both come from the logits without the label's, so that neither is a small difference.
    """
    rest = _except(logits, labels)
    margin = logits.gather(-1, labels) - rest.logsumexp(-1, keepdim=True)
    return F.logsigmoid(torch.cat((margin, -margin), -1)), F.log_softmax(rest, -1)
