"""Losses between logits: what the teacher answers.

Letters: B samples, T tokens, C classes. Logits are (B, C) or (B, T, C); with tokens, a ``mask`` of
shape (B, T) says which count. The teacher never receives a gradient, and half-precision inputs are
computed in float32.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from limbeck.losses.probabilities import REMEDY, divergence, log_probabilities, where_positive
from limbeck.losses.spec import Reduction, Spec, comparable, declare, reduce

__all__ = ["hard_label", "kl", "logit_mse", "probability_mse", "soft_cross_entropy"]

_HINTON = "Hinton, Vinyals, Dean 2015, arXiv:1503.02531"


@declare(Spec("response", _HINTON, "classes", partial="linear"))
def kl(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Kullback–Leibler divergence from the teacher's softened answer to the student's.

    $$T^2 \sum_c p_c (\log p_c - \log q_c), \quad p = \mathrm{softmax}(t / T),\;
    q = \mathrm{softmax}(s / T)$$

    A class that the teacher excludes (logit −∞) adds nothing, also where the student excludes it.

    Args:
        student: logits (B, C) or (B, T, C).
        teacher: logits of the same shape; no gradient reaches them.
        temperature: T > 0. T² is inside, so that the gradient's scale does not depend on T.
        mask: (B, T), true where a token counts.
        reduction: the default is the mean over samples (or unmasked tokens) of the sum over
            classes, in nats.

    Raises:
        InputError: the shapes differ, or the temperature is not positive.

    Source: Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network",
    arXiv:1503.02531.

    >>> import torch
    >>> kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0986123]]))  # (¼, ¾) against (½, ½)
    tensor(0.1308)
    """
    log_q, log_p = log_probabilities(student, teacher, temperature, mask)
    return reduce(divergence(log_p, log_q, temperature**2), mask, reduction)


@declare(Spec("response", _HINTON, "classes", zero_at_equal=False, partial="linear"))
def soft_cross_entropy(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy of the student with the teacher's softened answer as the label.

    $$-T^2 \sum_c p_c \log q_c$$

    It is :func:`kl` plus T² times the teacher's entropy, which is constant for the student: the
    gradients are equal, the value shows how uncertain the teacher is.

    Args:
        student: logits (B, C) or (B, T, C).
        teacher: logits of the same shape; no gradient reaches them.
        temperature: T > 0, with T² inside.
        mask: (B, T), true where a token counts.
        reduction: mean over samples (or unmasked tokens) of the sum over classes, in nats.

    Raises:
        InputError: the shapes differ, or the temperature is not positive.

    Source: Hinton, Vinyals, Dean 2015, arXiv:1503.02531.

    >>> import torch
    >>> soft_cross_entropy(torch.zeros(1, 2), torch.zeros(1, 2))  # log 2
    tensor(0.6931)
    """
    log_q, log_p = log_probabilities(student, teacher, temperature, mask)
    return temperature**2 * reduce(where_positive(log_p.exp(), -log_q).sum(-1), mask, reduction)


@declare(
    Spec(
        "response",
        "Lee 2013, Pseudo-Label, ICML workshop on challenges in representation learning",
        "classes",
        zero_at_equal=False,
        partial="top",
    )
)
def hard_label(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy with the teacher's most likely class as the label.

    $$-\log q_{\hat c}, \quad \hat c = \arg\max_c t_c$$

    Args:
        student: logits (B, C) or (B, T, C).
        teacher: logits of the same shape; only their argmax is used.
        mask: (B, T), true where a token counts.
        reduction: mean over samples (or unmasked tokens), in nats.

    Raises:
        InputError: the shapes differ.

    Source: Lee 2013, "Pseudo-Label"; the hard limit of Hinton et al. 2015, arXiv:1503.02531.

    >>> import torch
    >>> hard_label(torch.zeros(1, 4), torch.tensor([[0.0, 0.0, 5.0, 0.0]]))  # log 4
    tensor(1.3863)
    """
    student, teacher = comparable(student, teacher, mask, remedy=REMEDY)
    log_q = F.log_softmax(student, dim=-1)
    labels = teacher.argmax(dim=-1, keepdim=True)
    return reduce(-log_q.gather(-1, labels).squeeze(-1), mask, reduction)


@declare(Spec("response", "Ba, Caruana 2014, arXiv:1312.6184", "classes"))
def logit_mse(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Squared distance between the logits: regression on the teacher's raw answer.

    $$\sum_c (s_c - t_c)^2$$

    The sum over classes is not divided by their number and carries no factor ½ (the paper's
    formula has one).

    Args:
        student: logits (B, C) or (B, T, C).
        teacher: logits of the same shape; no gradient reaches them.
        mask: (B, T), true where a token counts.
        reduction: mean over samples (or unmasked tokens) of the sum over classes.

    Raises:
        InputError: the shapes differ.

    Source: Ba, Caruana 2014, "Do Deep Nets Really Need to be Deep?", arXiv:1312.6184; against KL:
    Kim et al. 2021, arXiv:2105.08919.

    >>> import torch
    >>> logit_mse(torch.zeros(2, 3), torch.ones(2, 3))
    tensor(3.)
    """
    student, teacher = comparable(student, teacher, mask, remedy=REMEDY)
    return reduce((student - teacher).square().sum(-1), mask, reduction)


@declare(Spec("response", "Kim, Oh, Kim, Cho, Yun 2021, arXiv:2105.08919", "classes"))
def probability_mse(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Squared distance between the softened probabilities (the Brier score of a soft label).

    $$T^2 \sum_c (q_c - p_c)^2$$

    It is bounded by 2 T², so its gradient is small beside a cross-entropy's: give the label a small
    weight, 0.01 to 0.1, when the two are added.

    Args:
        student: logits (B, C) or (B, T, C).
        teacher: logits of the same shape; no gradient reaches them.
        temperature: T > 0, with T² inside.
        mask: (B, T), true where a token counts.
        reduction: mean over samples (or unmasked tokens) of the sum over classes.

    Raises:
        InputError: the shapes differ, or the temperature is not positive.

    Source: compared with KL and logit regression by Kim et al. 2021, arXiv:2105.08919.

    >>> import torch
    >>> probability_mse(torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 50.0]]))
    tensor(2.)
    """
    log_q, log_p = log_probabilities(student, teacher, temperature, mask)
    distance = (log_q.exp() - log_p.exp()).square().sum(-1)
    return temperature**2 * reduce(distance, mask, reduction)
