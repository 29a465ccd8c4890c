"""Divergences between the answers of student and teacher, other than the usual KL.

Letters: B samples, T tokens, C classes, V vocabulary, A actions. Logits are (B, C) or (B, T, C);
with tokens, a ``mask`` of shape (B, T) says which count. p is the teacher's softened answer, q the
student's. A class that one side excludes (logit −∞) is left out where the sum would be infinite.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses.probabilities import require_positive
from limbeck.losses.spec import Reduction, Spec, comparable, declare, reduce

__all__ = [
    "binary_kl",
    "jensen_shannon",
    "policy",
    "reverse_kl",
    "skewed_kl",
    "skewed_reverse_kl",
    "total_variation",
    "universal_logit",
]

_REMEDY = "Give both models the same number of classes, or compare them with universal_logit."
_EXCLUDED = -1e30  # stands for the logarithm of 0: finite, so that no gradient is NaN


@declare(
    Spec(
        "response",
        "Gu, Dong, Wei, Huang 2023 (MiniLLM), arXiv:2306.08543",
        "classes",
        partial="merged",
    )
)
def reverse_kl(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Kullback–Leibler divergence from the student's answer to the teacher's.

    $$T^2 \sum_c q_c (\log q_c - \log p_c)$$

    It seeks modes: a small student gives up answers that it cannot hold, where :func:`kl` would
    spread it over all of them. MiniLLM also samples from the student; this is the divergence.

    Args:
        student: logits (B, C) or (B, T, C).
        teacher: logits of the same shape; no gradient reaches them.
        temperature: T > 0, with T² inside.
        mask: (B, T), true where a token counts.
        reduction: mean over samples (or unmasked tokens) of the sum over classes, in nats.

    Raises:
        InputError: the shapes differ, or the temperature is not positive.

    Source: Gu, Dong, Wei, Huang 2023, "MiniLLM", arXiv:2306.08543; code: jongwooko/distillm,
    microsoft/LMOps.

    >>> reverse_kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0986123]]))  # (½,½) to (¼,¾)
    tensor(0.1438)
    """
    log_q, log_p = _log_probabilities(student, teacher, temperature, mask)
    return temperature**2 * reduce(_divergence(log_q, log_p), mask, reduction)


@declare(
    Spec("response", "Agarwal et al. 2024 (GKD), arXiv:2306.13649", "classes", partial="merged")
)
def jensen_shannon(
    student: Tensor,
    teacher: Tensor,
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Generalised Jensen–Shannon divergence: both answers against their mixture.

    $$T^2 \big(\beta\, \mathrm{KL}(p \Vert m) + (1 - \beta)\, \mathrm{KL}(q \Vert m)\big),
    \quad m = \beta p + (1 - \beta) q$$

    It is bounded, by T² log 2 at β = ½, even where the two answers share no class. Near β = 0 it
    is β times :func:`kl`, near β = 1 it is 1 − β times :func:`reverse_kl`.

    Args:
        student: logits (B, C) or (B, T, C).
        teacher: logits of the same shape; no gradient reaches them.
        beta: the teacher's share β of the mixture, 0 < β < 1. At the ends the formula is 0.
        temperature: T > 0, with T² inside.
        mask: (B, T), true where a token counts.
        reduction: mean over samples (or unmasked tokens) of the sum over classes, in nats.

    Raises:
        InputError: the shapes differ, the temperature is not positive, or β is not between 0 and 1.

    Source: Agarwal et al. 2024, "On-Policy Distillation of Language Models", arXiv:2306.13649.
    Code: huggingface/trl (not the authors).

    >>> jensen_shannon(torch.tensor([[99.0, 0.0]]), torch.tensor([[0.0, 99.0]]))  # log 2
    tensor(0.6931)
    """
    if not 0 < beta < 1:
        raise InputError(
            f"beta is {beta}", expected="0 < beta < 1", remedy="At the ends take kl or reverse_kl."
        )
    log_q, log_p = _log_probabilities(student, teacher, temperature, mask)
    log_m = _mixture(log_p, log_q, beta)
    values = beta * _divergence(log_p, log_m) + (1 - beta) * _divergence(log_q, log_m)
    return temperature**2 * reduce(values, mask, reduction)


@declare(
    Spec(
        "response",
        "Ko, Kim, Chen, Yun 2024 (DistiLLM), arXiv:2402.03898",
        "classes",
        partial="merged",
    )
)
def skewed_kl(
    student: Tensor,
    teacher: Tensor,
    *,
    alpha: float = 0.1,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""KL divergence from the teacher's answer to a student's that holds a little of the teacher's.

    $$T^2\, \mathrm{KL}\big(p \,\Vert\, \alpha p + (1 - \alpha) q\big)$$

    Bounded by T² log(1/α): what the student deems almost impossible no longer rules the gradient.

    Args:
        student: logits (B, C) or (B, T, C).
        teacher: logits of the same shape; no gradient reaches them.
        alpha: α, 0 ≤ α < 1; 0 is :func:`kl`.
        temperature: T > 0, with T² inside.
        mask: (B, T), true where a token counts.
        reduction: mean over samples (or unmasked tokens) of the sum over classes, in nats.

    Raises:
        InputError: the shapes differ, the temperature is not positive, or α is outside [0, 1).

    Source: Ko, Kim, Chen, Yun 2024, "DistiLLM", arXiv:2402.03898; code: jongwooko/distillm (without
    the teacher's entropy).

    >>> skewed_kl(torch.tensor([[99.0, 0.0]]), torch.tensor([[0.0, 99.0]]), alpha=0.5)  # log 2
    tensor(0.6931)
    """
    _check_alpha(alpha)
    log_q, log_p = _log_probabilities(student, teacher, temperature, mask)
    values = _divergence(log_p, _mixture(log_p, log_q, alpha))
    return temperature**2 * reduce(values, mask, reduction)


@declare(
    Spec(
        "response",
        "Ko, Kim, Chen, Yun 2024 (DistiLLM), arXiv:2402.03898",
        "classes",
        partial="merged",
    )
)
def skewed_reverse_kl(
    student: Tensor,
    teacher: Tensor,
    *,
    alpha: float = 0.1,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""KL divergence from the student's answer to a teacher's that holds a little of the student's.

    $$T^2\, \mathrm{KL}\big(q \,\Vert\, (1 - \alpha) p + \alpha q\big)$$

    It is bounded by T² log(1/α), where :func:`reverse_kl` is not.

    Args:
        student: logits (B, C) or (B, T, C).
        teacher: logits of the same shape; no gradient reaches them.
        alpha: α, 0 ≤ α < 1; 0 is :func:`reverse_kl`.
        temperature: T > 0, with T² inside.
        mask: (B, T), true where a token counts.
        reduction: mean over samples (or unmasked tokens) of the sum over classes, in nats.

    Raises:
        InputError: the shapes differ, the temperature is not positive, or α is outside [0, 1).

    Source: Ko, Kim, Chen, Yun 2024, "DistiLLM", arXiv:2402.03898; code: jongwooko/distillm.

    >>> skewed_reverse_kl(torch.tensor([[99.0, 0.0]]), torch.tensor([[0.0, 99.0]]), alpha=0.5)
    tensor(0.6931)
    """
    _check_alpha(alpha)
    log_q, log_p = _log_probabilities(student, teacher, temperature, mask)
    values = _divergence(log_q, _mixture(log_q, log_p, alpha))
    return temperature**2 * reduce(values, mask, reduction)


@declare(
    Spec(
        "response",
        "Wen, Li, Du, Mou 2023 (f-distill), arXiv:2307.15190",
        "classes",
        partial="merged",
    )
)
def total_variation(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Total variation: the probability that has to be moved to turn one answer into the other.

    $$\frac{T}{2} \sum_c |p_c - q_c|$$

    The gradient shrinks with 1/T, not with 1/T² as a KL divergence's: the factor T steadies it.

    Args:
        student: logits (B, C) or (B, T, C).
        teacher: logits of the same shape; no gradient reaches them.
        temperature: T > 0, with T (not T²) inside.
        mask: (B, T), true where a token counts.
        reduction: mean over samples (or unmasked tokens) of the sum over classes.

    Raises:
        InputError: the shapes differ, or the temperature is not positive.

    Source: Wen, Li, Du, Mou 2023, "f-Divergence Minimization for Sequence-Level Knowledge
    Distillation", arXiv:2307.15190; code: jongwooko/distillm.

    >>> total_variation(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0986123]]))  # ½ − ¼
    tensor(0.2500)
    """
    log_q, log_p = _log_probabilities(student, teacher, temperature, mask)
    distance = (log_p.exp() - log_q.exp()).abs().sum(-1) / 2
    return temperature * reduce(distance, mask, reduction)


@declare(Spec("response", "Yang et al. 2023 (L2D), arXiv:2308.06453", "classes"))
def binary_kl(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Kullback–Leibler divergence of each class by itself, for classes that may occur together.

    $$T^2 \sum_c \Big(p_c \log \frac{p_c}{q_c} + (1 - p_c) \log \frac{1 - p_c}{1 - q_c}\Big),
    \quad p = \sigma(t / T),\; q = \sigma(s / T)$$

    Args:
        student: logits (B, C) or (B, T, C), one yes or no for each class.
        teacher: logits of the same shape; no gradient reaches them.
        temperature: T > 0, with T² inside.
        mask: (B, T), true where a token counts.
        reduction: mean over samples (or unmasked tokens) of the sum over classes, in nats.

    Raises:
        InputError: the shapes differ, or the temperature is not positive.

    Source: Yang et al. 2023, "Multi-Label Knowledge Distillation", arXiv:2308.06453;
    code: penghui-yang/L2D, which clamps the probabilities to [1e-8, 1 − 1e-8].

    >>> binary_kl(torch.zeros(1, 2), torch.full((1, 2), 1.0986123))  # 2 · KL(¾ ‖ ½)
    tensor(0.2616)
    """
    require_positive(temperature, "temperature")
    student, teacher = comparable(student, teacher, mask, remedy=_REMEDY)
    s, t = student / temperature, teacher / temperature
    log_q, log_p = (F.logsigmoid(x).clamp(min=_EXCLUDED) for x in (s, t))
    log_not_q, log_not_p = (F.logsigmoid(-x).clamp(min=_EXCLUDED) for x in (s, t))
    values = _divergence(log_p, log_q) + _divergence(log_not_p, log_not_q)
    return temperature**2 * reduce(values, mask, reduction)


@declare(Spec("response", "Boizard, El Haddad, Hudelot, Colombo 2024 (ULD), arXiv:2402.12030"))
def universal_logit(
    student: Tensor,
    teacher: Tensor,
    *,
    student_temperature: float = 1.0,
    teacher_temperature: float = 1.0,
    mask: Tensor | None = None,
    teacher_mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Distance between sorted probabilities: for models with different tokenizers.

    $$\sum_i |p_{(i)} - q_{(i)}|$$

    where p₍ᵢ₎ is the i-th largest probability and the smaller vocabulary is filled up with zeros.
    This Wasserstein distance, with one cost for all moves, compares how certain the two are, not
    of what. Where one answer is longer than the other, the first tokens of both are compared.

    Args:
        student: logits (B, V) or (B, T, V).
        teacher: logits (B, V') or (B, T', V'); no gradient reaches them.
        student_temperature: divides the student's logits. No factor is put before the sum.
        teacher_temperature: divides the teacher's logits.
        mask: (B,) or (B, T), true where a token of the student counts.
        teacher_mask: (B, T'). If given, the n-th token that counts in the student is compared with
            the n-th that counts in the teacher, wherever they stand; else T tokens stand one
            against one, and ``mask`` holds for both.
        reduction: mean over samples (or compared tokens) of the sum over the vocabulary.

    Raises:
        InputError: the samples differ, a mask does not fit, or a temperature is not positive.

    Source: Boizard, El Haddad, Hudelot, Colombo 2024, "Towards Cross-Tokenizer Distillation",
    arXiv:2402.12030; code: Nicolas-BZRD/llm-recipes, whose mean runs over each sample's tokens
    first; the paper's sum over tokens is ``reduction="sum"``.

    >>> universal_logit(torch.zeros(1, 2), torch.zeros(1, 4))  # |½ − ¼| · 2 + ¼ · 2
    tensor(1.)
    """
    require_positive(student_temperature, "student_temperature")
    require_positive(teacher_temperature, "teacher_temperature")
    student, teacher, mask = _token_pairs(student, teacher, mask, teacher_mask)
    q = F.softmax(student / student_temperature, -1).sort(-1, descending=True).values
    p = F.softmax(teacher / teacher_temperature, -1).sort(-1, descending=True).values
    size = max(p.shape[-1], q.shape[-1])
    p, q = F.pad(p, (0, size - p.shape[-1])), F.pad(q, (0, size - q.shape[-1]))
    return reduce((p - q).abs().sum(-1), mask, reduction)


@declare(Spec("response", "Rusu et al. 2016, arXiv:1511.06295", "classes", zero_at_equal=False))
def policy(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 0.01,
    form: Literal["categorical", "gaussian"] = "categorical",
    student_log_std: Tensor | None = None,
    teacher_log_std: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""KL divergence from a teacher's sharpened policy to the student's.

    $$\sum_a p_a (\log p_a - \log q_a), \quad p = \mathrm{softmax}(t / \tau),\;
    q = \mathrm{softmax}(s)$$

    Only the teacher is divided by τ, so there is no factor τ². Q-values differ little between
    actions: τ = 0.01 sharpens them; for the logits of a policy take 1. Continuous actions have the
    form ``gaussian``: the KL of normal distributions, summed over the A dimensions of an action.

    Args:
        student: logits of actions (B, A) or (B, T, A); means of actions for Gaussians.
        teacher: Q-values (or logits, or means) of the same shape; no gradient reaches them.
        temperature: τ > 0, for the teacher alone; it has no meaning for Gaussians.
        form: ``gaussian`` needs both log_std, ``categorical`` neither.
        student_log_std: log standard deviations, (B, A), (B, T, A) or (A,).
        teacher_log_std: the same of the teacher; no gradient reaches it.
        mask: (B, T), true where a step counts.
        reduction: mean over states (or unmasked steps) of the sum over actions, in nats.

    Raises:
        InputError: the shapes differ, the temperature is not positive, or a log_std is missing.

    Source: Rusu et al. 2016, "Policy Distillation", arXiv:1511.06295 (no public code).

    >>> policy(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]))  # (0, 1) against (½, ½)
    tensor(0.6931)
    """
    require_positive(temperature, "temperature")
    student, teacher = comparable(student, teacher, mask, remedy=_REMEDY)
    given = sum(x is not None for x in (student_log_std, teacher_log_std))
    if given != (2 if form == "gaussian" else 0):
        raise InputError(f"policy got {given} log_std", expected='2 with form="gaussian", else 0')
    if student_log_std is None or teacher_log_std is None:
        log_q = F.log_softmax(student, -1).clamp(min=_EXCLUDED)
        log_p = F.log_softmax(teacher / temperature, -1).clamp(min=_EXCLUDED)
        return reduce(_divergence(log_p, log_q), mask, reduction)
    theirs, own = (x.to(student).expand_as(student) for x in (teacher_log_std, student_log_std))
    own, theirs = comparable(own, theirs.detach(), mask, remedy=_REMEDY)
    log_ratio = theirs - own
    distance = (teacher - student) * torch.exp(-own)
    values = (torch.expm1(2 * log_ratio) + distance.square()) / 2 - log_ratio
    return reduce(values.sum(-1), mask, reduction)


def _log_probabilities(
    student: Tensor, teacher: Tensor, temperature: float, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the student's and the teacher's log-softmax, never below ``_EXCLUDED``."""
    require_positive(temperature, "temperature")
    student, teacher = comparable(student, teacher, mask, remedy=_REMEDY)
    log_q = F.log_softmax(student / temperature, -1).clamp(min=_EXCLUDED)
    return log_q, F.log_softmax(teacher / temperature, -1).clamp(min=_EXCLUDED)


def _divergence(log_a: Tensor, log_b: Tensor) -> Tensor:
    """Return KL(a ‖ b) over the last dimension, without the classes that b excludes."""
    terms = log_a.exp() * (log_a - log_b)
    return torch.where(log_b > _EXCLUDED, terms, torch.zeros_like(terms)).sum(-1)


def _mixture(log_a: Tensor, log_b: Tensor, share: float) -> Tensor:
    """Return log(share · a + (1 − share) · b)."""
    if share == 0:
        return log_b
    mixed = torch.logaddexp(log_a + math.log(share), log_b + math.log1p(-share))
    return mixed.clamp(min=_EXCLUDED)


def _token_pairs(
    student: Tensor, teacher: Tensor, mask: Tensor | None, teacher_mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return as many tokens of each side, and the mask of those that are compared."""
    sequences = student.ndim == teacher.ndim == 3
    lead = 1 if sequences else student.ndim - 1
    unlike = student.ndim != teacher.ndim or student.shape[:lead] != teacher.shape[:lead]
    if unlike or (teacher_mask is not None and not sequences):
        raise InputError(
            f"universal_logit got logits {tuple(student.shape)} and {tuple(teacher.shape)}",
            expected="(B, V) and (B, V'), or (B, T, V) and (B, T', V') if there is a teacher_mask",
        )
    for name, given, side in (("mask", mask, student), ("teacher_mask", teacher_mask, teacher)):
        if given is not None and given.shape != side.shape[:-1]:
            raise InputError(
                f"a {name} of shape {tuple(given.shape)} came with logits {tuple(side.shape)}",
                expected="one mask entry per sample or token",
            )
    if teacher_mask is not None:
        own = torch.ones_like(student[..., 0], dtype=torch.bool) if mask is None else mask.bool()
        student, own = _to_front(student, own)
        teacher, theirs = _to_front(teacher, teacher_mask.bool())
        shorter = min(own.shape[1], theirs.shape[1])
        mask = own[:, :shorter] & theirs[:, :shorter]
    if sequences:
        shorter = min(student.shape[1], teacher.shape[1])
        student, teacher = student[:, :shorter], teacher[:, :shorter]
        mask = None if mask is None else mask[:, :shorter]
    if mask is not None:
        silent = ~mask.bool().unsqueeze(-1)
        student, teacher = student.masked_fill(silent, 0.0), teacher.masked_fill(silent, 0.0)
    return student, teacher, mask


def _to_front(logits_BTV: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Move the tokens that count before those that do not, in their order."""
    order = mask_BT.int().argsort(dim=1, descending=True, stable=True)
    moved = logits_BTV.gather(1, order.unsqueeze(-1).expand_as(logits_BTV))
    return moved, mask_BT.gather(1, order)


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha < 1:
        raise InputError(f"alpha is {alpha}", expected="0 ≤ alpha < 1")
