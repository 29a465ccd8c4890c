"""Losses between logits that normalise, rescale or correlate them first.

They ask less of the student than plain KL: not the teacher's numbers, but its order, its shape or
its correlations.

Letters: B samples, T tokens, C classes, N rows (samples, or unmasked tokens). Logits are (B, C) or
(B, T, C); with tokens, a ``mask`` of shape (B, T) says which count. ``dist`` compares rows with one
another: tokens are rows, and a mask is exactly the subset of the tokens that it keeps. The teacher
never receives a gradient, and half-precision inputs are computed in float32.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from limbeck.errors import unknown
from limbeck.losses.probabilities import (
    REMEDY,
    divergence,
    kept_rows,
    log_probabilities,
    require_positive,
)
from limbeck.losses.spec import Reduction, Spec, comparable, declare, reduce

__all__ = [
    "dist",
    "logit_standardized_kl",
    "spherical",
    "transformed_teacher",
    "weighted_transformed_teacher",
]

_TTM = "Zheng, Yang 2024 (TTM), arXiv:2402.11148"
_CORRELATION_EPS = 1e-8  # of the authors of DIST, beside the product of the norms
_DEVIATION_EPS = 1e-7  # of Sun et al., beside the standard deviation; here also for lengths
_VARIANCE_EPS = 1e-7  # of Guo et al., in the root of the layer normalisation
_LEAST_SPREAD = 0.01  # ours, of logits: where they differ by less, they are not blown up further


@declare(
    Spec(
        "response",
        "Huang et al. 2022 (DIST), arXiv:2205.10536",
        "classes",
        per_sample=False,
        steady=False,
    )
)
def dist(
    student: Tensor,
    teacher: Tensor,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    r"""One minus Pearson's correlation of the probabilities, along classes and along samples.

    $$T^2 \Big( \frac{\beta}{N} \sum_n \big(1 - \rho(q_{n,:}, p_{n,:})\big)
    + \frac{\gamma}{C} \sum_c \big(1 - \rho(q_{:,c}, p_{:,c})\big) \Big)$$

    The student need not reach the teacher's probabilities, only be a linear function of them: which
    classes a sample resembles (first term), and which samples resemble a class (second term). The
    gradient grows with T², as in the authors' code.

    Tokens (B, T, C) are rows: the second term correlates over all unmasked tokens of the batch. A
    correlation with something constant, such as the second term of a single row, counts as 0. Where
    the student's logits differ by less than 0.01, the correlation shrinks with them, so that the
    gradient of a student that has learned nothing stays bounded; in the authors' code it does not.

    Args:
        student: logits (B, C) or (B, T, C).
        teacher: logits of the same shape; no gradient reaches them.
        beta: weight of the correlation along classes.
        gamma: weight of the correlation along samples.
        temperature: T > 0, with T² inside.
        mask: (B, T), true where a token counts. The value is the mean over rows and over classes.

    Raises:
        InputError: the shapes differ, or the temperature is not positive.

    Source: Huang, You, Wang, Qian, Xu 2022, "Knowledge Distillation from A Stronger Teacher",
    arXiv:2205.10536; code: hunto/image_classification_sota (the eps of 1e-8 beside the product of
    the norms is theirs).

    >>> student = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    >>> dist(student, -student)  # both correlations are −1
    tensor(4.)
    """
    require_positive(temperature)
    pair = comparable(student, teacher, mask, remedy=REMEDY)
    keep_N = kept_rows(mask, student)
    q_NC, p_NC = ((x / temperature).softmax(-1).flatten(0, -2) for x in pair)
    classes, least = q_NC.shape[1], _LEAST_SPREAD / temperature
    # Softmax's slope is q·(1 − q): so long is what it makes of logits that differ by `least`.
    shortest = least * (1 - 1 / classes) / math.sqrt(classes)
    rho_N = _cosine(q_NC - 1 / classes, p_NC - 1 / classes, shortest, 1)
    (own, means_C), (theirs, _) = (_apart(x, keep_N) for x in (q_NC, p_NC))
    rows = len(q_NC) if keep_N is None else keep_N.sum().clamp(min=1)
    with torch.no_grad():
        slopes_C = torch.addcmul(means_C, means_C, means_C, value=-1) * (least * rows**0.5)
    rho_C = _cosine(own, theirs, slopes_C, 0)
    along_classes, along_rows = 1 - reduce(rho_N, keep_N, "mean"), 1 - rho_C.mean()
    value = temperature**2 * beta * along_classes + temperature**2 * gamma * along_rows
    return value if keep_N is None else value * keep_N.any()


@declare(Spec("response", "Sun et al. 2024, arXiv:2403.01427", "classes"))
def logit_standardized_kl(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 2.0,
    correction: Literal[0, 1] = 1,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""KL between z-scores of the logits: each row with mean 0 and deviation 1 on both sides.

    $$T^2\, \mathrm{KL}\big(\mathrm{softmax}(z_t / T) \,\|\, \mathrm{softmax}(z_s / T)\big), \qquad
    z = \frac{x - \bar x}{\sigma(x)}$$

    The student may have logits of any size: only their order and relative distances count. Its
    weight is larger than that of :func:`kl` (9 at T = 2 in the paper, beside 0.1 for the label).
    A deviation below 0.01 counts as 0.01, so that the gradient stays bounded where all logits are
    equal; in the authors' code it does not.

    Args:
        student: finite logits (B, C) or (B, T, C).
        teacher: finite logits of the same shape; no gradient reaches them.
        temperature: T > 0, of the z-scores, with T² inside.
        correction: σ divides by C − correction before the root: 1 as in the authors' code, 0 for
            z-scores that are larger by √(C / (C − 1)).
        mask: (B, T), true where a token counts.
        reduction: mean over samples (or unmasked tokens) of the sum over classes, in nats.

    Raises:
        InputError: the shapes differ, or the temperature is not positive.

    Source: Sun, Ren, Li, Wang, Cao 2024, "Logit Standardization in Knowledge Distillation",
    arXiv:2403.01427; code: sunshangquan/logit-standardization-KD (the eps of 1e-7 beside σ is
    theirs).

    >>> logits = torch.tensor([[1.0, 2.0, 6.0]])
    >>> logit_standardized_kl(3 * logits + 5, logits).abs() < 1e-6
    tensor(True)
    """
    student, teacher = comparable(student, teacher, mask, remedy=REMEDY)
    own, theirs = (
        _centred(x) / (_deviation(x, correction).clamp(min=_LEAST_SPREAD) + _DEVIATION_EPS)
        for x in (student, teacher)
    )
    return _softened_kl(own, theirs, temperature, mask, reduction)


@declare(Spec("response", _TTM, "classes", zero_at_equal=False))
def transformed_teacher(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 4.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""KL from the softened teacher to the student as it is: a temperature on one side only.

    $$\mathrm{KL}(p \,\|\, \mathrm{softmax}(s)), \qquad p = \mathrm{softmax}(t / T)$$

    Softening the teacher alone adds a Rényi entropy of the student to the loss, which regularizes.
    The gradient does not vanish with T, so there is no T². The value is 0 where s = t / T.

    Args:
        student: logits (B, C) or (B, T, C).
        teacher: logits of the same shape; no gradient reaches them.
        temperature: T > 0, of the teacher.
        mask: (B, T), true where a token counts.
        reduction: mean over samples (or unmasked tokens) of the sum over classes, in nats.

    Raises:
        InputError: the shapes differ, or the temperature is not positive.

    Source: Zheng, Yang 2024, "Knowledge Distillation Based on Transformed Teacher Matching",
    arXiv:2402.11148; code: zkxufo/TTM.

    >>> transformed_teacher(torch.zeros(1, 2), torch.tensor([[0.0, 4.3944492]]))  # (¼, ¾), (½, ½)
    tensor(0.1308)
    """
    log_q, _ = log_probabilities(student, teacher, 1.0, mask)
    _, log_p = log_probabilities(student, teacher, temperature, mask)
    return reduce(divergence(log_p, log_q), mask, reduction)


@declare(Spec("response", _TTM, "classes", zero_at_equal=False))
def weighted_transformed_teacher(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 4.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r""":func:`transformed_teacher` with more weight for samples of which the teacher is unsure.

    $$\Big(\sum_c \pi_c^{1/T}\Big)\, \mathrm{KL}(p \,\|\, \mathrm{softmax}(s)), \qquad
    \pi = \mathrm{softmax}(t),\; p = \mathrm{softmax}(t / T)$$

    The weight is 1 for a certain teacher and grows to C^(1 − 1/T) for a uniform one. The mean is
    over all samples, not divided by the weights.

    Args:
        student: logits (B, C) or (B, T, C).
        teacher: logits of the same shape; no gradient reaches them.
        temperature: T > 0, of the teacher.
        mask: (B, T), true where a token counts.
        reduction: mean over samples (or unmasked tokens) of the sum over classes, in nats.

    Raises:
        InputError: the shapes differ, or the temperature is not positive.

    Source: Zheng, Yang 2024, "Knowledge Distillation Based on Transformed Teacher Matching",
    arXiv:2402.11148 (WTTM); code: zkxufo/TTM.

    >>> student = torch.tensor([[1.0986123, 0.0]])  # (¾, ¼); the weight is √½ + √½
    >>> weighted_transformed_teacher(student, torch.zeros(1, 2), temperature=2.0)
    tensor(0.2034)
    """
    log_q, log_pi = log_probabilities(student, teacher, 1.0, mask)
    _, log_p = log_probabilities(student, teacher, temperature, mask)
    weights = (log_pi / temperature).exp().sum(-1)
    return reduce(weights * divergence(log_p, log_q), mask, reduction)


@declare(Spec("response", "Guo et al. 2020 (SKD), arXiv:2010.07485", "classes"))
def spherical(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 4.0,
    multiplier: float | None = None,
    form: Literal["norm", "deviation", "layer_norm"] = "norm",
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""KL between logits of equal length: how confident the teacher is need not be learned.

    $$T^2\, \mathrm{KL}\Big(\mathrm{softmax}\frac{\ell\, t}{\lVert t \rVert T} \,\Big\|\,
    \mathrm{softmax}\frac{\ell\, s}{\lVert s \rVert T}\Big)$$

    The authors also compute the label's cross-entropy from the rescaled logits; here it is the
    task's, of the logits as they are. Lengths below 0.01 for each class (root mean square) count as
    that, so that the gradient stays bounded where all logits are equal.

    Args:
        student: finite logits (B, C) or (B, T, C).
        teacher: finite logits of the same shape; no gradient reaches them.
        temperature: T > 0, with T² inside.
        multiplier: ℓ, the same for all samples: in the paper the teacher's average length. ``None``
            takes the teacher's own length for each sample, so its logits stay as they are.
        form: what length is. ``norm`` is the paper's. ``deviation`` is the standard deviation over
            classes (divisor C − 1) without centring, as in the newest code of the authors, which
            has no multiplier. ``layer_norm`` centres and takes the deviation with divisor C and an
            eps of 1e-7, as in their code of 2021, with a multiplier of 2 to 3.
        mask: (B, T), true where a token counts.
        reduction: mean over samples (or unmasked tokens) of the sum over classes, in nats.

    Raises:
        InputError: the shapes differ, the form is unknown, or the temperature is not positive.

    Source: Guo, Chen, Hu, Zhu, He, Cai 2020, "Reducing the Teacher-Student Gap via Spherical
    Knowledge Distillation", arXiv:2010.07485; code: forjiuzhou/Spherical-Knowledge-Distillation.

    >>> logits = torch.tensor([[3.0, 0.0, -4.0]])
    >>> spherical(7 * logits, logits).abs() < 1e-6
    tensor(True)
    """
    if form not in ("norm", "deviation", "layer_norm"):
        raise unknown("form", form, ("norm", "deviation", "layer_norm"))
    student, teacher = comparable(student, teacher, mask, remedy=REMEDY)
    if form == "layer_norm":
        student, teacher = _centred(student), _centred(teacher)
    common = _length(teacher, form) if multiplier is None else multiplier
    own, theirs = (x / _length(x, form) * common for x in (student, teacher))
    return _softened_kl(own, theirs, temperature, mask, reduction)


def _softened_kl(
    own: Tensor, theirs: Tensor, temperature: float, mask: Tensor | None, reduction: Reduction
) -> Tensor:
    """Return T²·KL, reduced."""
    log_q, log_p = log_probabilities(own, theirs, temperature, mask)
    return temperature**2 * reduce(divergence(log_p, log_q), mask, reduction)


def _cosine(own_NC: Tensor, theirs_NC: Tensor, shortest: Any, dim: int) -> Tensor:
    """Return the cosines along ``dim``; the own vectors count as no shorter than ``shortest``."""
    own = torch.linalg.vector_norm(own_NC, dim=dim).clamp_min(shortest)
    lengths = own * torch.linalg.vector_norm(theirs_NC, dim=dim)
    cosines: Tensor = (own_NC * theirs_NC).sum(dim) / (lengths + _CORRELATION_EPS)
    return cosines


def _apart(x_NC: Tensor, keep_N: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the distances from the columns' means, 0 in rows that are not kept; the means."""
    if keep_N is None:
        mean_C = x_NC.mean(0)
        return x_NC - mean_C, mean_C
    silent_N1 = ~keep_N.unsqueeze(1)
    mean_C = x_NC.masked_fill(silent_N1, 0.0).sum(0) / keep_N.sum().clamp(min=1)
    return (x_NC - mean_C).masked_fill(silent_N1, 0.0), mean_C


def _centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(-1, keepdim=True)


def _deviation(logits: Tensor, correction: int) -> Tensor:
    """Return the standard deviation (..., 1) over classes, with a gradient of 0 where it is 0."""
    divisor = max(logits.shape[-1] - correction, 1)
    return _norm(_centred(logits), -1) / math.sqrt(divisor)


def _length(logits: Tensor, form: str) -> Tensor:
    """Return the length (..., 1) of the logits, which is never 0."""
    if form == "layer_norm":
        variance = _centred(logits).square().mean(-1, keepdim=True)
        return (variance + _VARIANCE_EPS).sqrt().clamp(min=_LEAST_SPREAD)
    if form == "deviation":
        return _deviation(logits, 1).clamp(min=_LEAST_SPREAD)
    return _norm(logits, -1).clamp(min=_LEAST_SPREAD * math.sqrt(logits.shape[-1]))


def _norm(vectors: Tensor, dim: int) -> Tensor:
    """Return the Euclidean length, with a gradient of 0 where it is 0."""
    length: Tensor = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    return length
