"""Losses between logits that normalise, rescale or correlate them first.

They ask less of the student than plain KL: not the teacher's numbers, but its order, its shape or
its correlations.

Letters: B samples, T tokens, C classes, N rows (samples, or unmasked tokens). Logits are (B, C) or
(B, T, C); with tokens, a ``mask`` of shape (B, T) says which count. ``dist`` and
``multi_level_logit`` compare rows with one another: tokens are rows, and a mask is exactly the
subset of the tokens that it keeps. The teacher never receives a gradient, and half-precision inputs
are computed in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from limbeck.errors import InputError, unknown
from limbeck.losses.probabilities import REMEDY, divergence, log_probabilities
from limbeck.losses.spec import Reduction, Spec, comparable, declare, reduce

__all__ = [
    "dist",
    "logit_standardized_kl",
    "multi_level_logit",
    "spherical",
    "transformed_teacher",
    "weighted_transformed_teacher",
]

_TTM = "Zheng, Yang 2024 (TTM), arXiv:2402.11148"
Level = Literal["instance", "batch", "class"]
_LEVELS: tuple[Level, ...] = ("instance", "batch", "class")
_CORRELATION_EPS = 1e-8  # of the authors of DIST, beside the product of the norms
_DEVIATION_EPS = 1e-7  # of Sun et al., beside the standard deviation; here also for lengths
_VARIANCE_EPS = 1e-7  # of Guo et al., in the root of the layer normalisation


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
    correlation with something constant, such as the second term of a single row, counts as 0.

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
    log_q, log_p = log_probabilities(student, teacher, temperature, mask)
    q_NC, p_NC = (x.exp().flatten(0, -2) for x in (log_q, log_p))
    keep_N = _kept(mask, log_q)
    along_classes = reduce(1 - _pearson(q_NC.T, p_NC.T, None), keep_N, "mean")
    along_rows = (1 - _pearson(q_NC, p_NC, keep_N)).mean()
    if keep_N is not None:
        along_rows = along_rows * keep_N.any()
    return temperature**2 * (beta * along_classes + gamma * along_rows)


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
        _centred(x) / (_deviation(x, correction) + _DEVIATION_EPS) for x in (student, teacher)
    )
    return _softened_kl(own, theirs, temperature, mask, reduction)


@declare(
    Spec(
        "response",
        "Jin, Wang, Lin 2023, Multi-Level Logit Distillation, CVPR",
        "classes",
        True,
        False,
    )
)
def multi_level_logit(
    student: Tensor,
    teacher: Tensor,
    *,
    temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
    levels: Sequence[Level] = _LEVELS,
    mask: Tensor | None = None,
) -> Tensor:
    r"""KL, similarities of samples and similarities of classes, at several temperatures.

    $$\sum_T \Big( \frac{T^2}{N} \sum_n \mathrm{KL}(p_n \,\|\, q_n)
    + \frac1N \lVert Q Q^\top - P P^\top \rVert_F^2
    + \frac1C \lVert Q^\top Q - P^\top P \rVert_F^2 \Big)$$

    Q and P are the N×C probabilities at T. The last two terms carry no T², as in the authors' code,
    and are small beside the first.

    Tokens (B, T, C) are rows: the second term compares all unmasked tokens of the batch with one
    another and needs memory for (B·T)² numbers. The authors also leave out half of the samples by
    the teacher's confidence; a ``mask`` (B,) does that here.

    Args:
        student: logits (B, C) or (B, T, C).
        teacher: logits of the same shape; no gradient reaches them.
        temperatures: each T > 0; the terms are added, not averaged.
        levels: which of the three terms to add.
        mask: (B, T) or (B,), true where a row counts.

    Raises:
        InputError: the shapes differ, a temperature is not positive, a level is unknown, or there
            is none of either.

    Source: Jin, Wang, Lin 2023, "Multi-Level Logit Distillation", CVPR; code:
    Jin-Ying/Multi-Level-Logit-Distillation.

    >>> sure, unsure = torch.tensor([[90.0, 0.0]]), torch.zeros(1, 2)
    >>> multi_level_logit(sure, unsure, temperatures=[1], levels=["batch"])  # (1 − ½)²
    tensor(0.2500)
    """
    for level in levels:
        if level not in _LEVELS:
            raise unknown("level", level, _LEVELS)
    if not temperatures or not levels:
        raise InputError(
            f"there are {len(temperatures)} temperatures and {len(levels)} levels",
            expected="at least one of each",
        )
    keep_N = _kept(mask, student)
    terms = []
    for temperature in temperatures:
        log_q, log_p = log_probabilities(student, teacher, temperature, mask)
        if "instance" in levels:
            terms.append(temperature**2 * reduce(divergence(log_p, log_q), mask, "mean"))
        q_NC, p_NC = (x.exp().flatten(0, -2) for x in (log_q, log_p))
        if keep_N is not None:
            q_NC, p_NC = (x.masked_fill(~keep_N.unsqueeze(1), 0.0) for x in (q_NC, p_NC))
        if "batch" in levels:
            number = len(q_NC) if keep_N is None else keep_N.sum().clamp(min=1)
            terms.append((q_NC @ q_NC.T - p_NC @ p_NC.T).square().sum() / number)
        if "class" in levels:
            terms.append((q_NC.T @ q_NC - p_NC.T @ p_NC).square().sum() / q_NC.shape[1])
    return torch.stack(terms).sum()


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
    task's, of the logits as they are.

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


def _kept(mask: Tensor | None, logits: Tensor) -> Tensor | None:
    """Return which rows (N,) count."""
    if mask is not None and mask.shape != logits.shape[:-1]:
        raise InputError(
            f"a mask of shape {tuple(mask.shape)} came with logits of shape {tuple(logits.shape)}",
            expected="one mask entry per sample or token",
        )
    return None if mask is None else mask.bool().flatten()


def _pearson(own_NC: Tensor, theirs_NC: Tensor, keep_N: Tensor | None) -> Tensor:
    """Return the correlations (C,) of the columns, over the rows that are kept."""
    if keep_N is not None:
        silent_N1, number = ~keep_N.unsqueeze(1), keep_N.sum().clamp(min=1)
    centred = []
    for x_NC in (own_NC, theirs_NC):
        if keep_N is None:
            centred.append(x_NC - x_NC.mean(0))
        else:
            mean_C = x_NC.masked_fill(silent_N1, 0.0).sum(0) / number
            centred.append((x_NC - mean_C).masked_fill(silent_N1, 0.0))
    own, theirs = centred
    lengths = _norm(own, 0) * _norm(theirs, 0)
    return (own * theirs).sum(0) / (lengths + _CORRELATION_EPS).squeeze(0)


def _centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(-1, keepdim=True)


def _deviation(logits: Tensor, correction: int) -> Tensor:
    """Return the standard deviation (..., 1) over classes, with a gradient of 0 where it is 0."""
    divisor = max(logits.shape[-1] - correction, 1)
    return _norm(_centred(logits), -1) / math.sqrt(divisor)


def _length(logits: Tensor, form: str) -> Tensor:
    """Return the length (..., 1) of the logits, which is never 0."""
    if form == "layer_norm":
        return (_centred(logits).square().mean(-1, keepdim=True) + _VARIANCE_EPS).sqrt()
    if form == "deviation":
        return _deviation(logits, 1).clamp(min=_DEVIATION_EPS)
    return _norm(logits, -1).clamp(min=_DEVIATION_EPS)


def _norm(vectors: Tensor, dim: int) -> Tensor:
    """Return the Euclidean length, with a gradient of 0 where it is 0."""
    length: Tensor = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    return length
