"""Methods that match the teacher's answer with other rulers than the plain divergence.

As in :mod:`limbeck.methods.response`, λ is the label's weight beside the teacher's, and α shares
out between the two. All work with classes (B, C) and with tokens (B, T, C), and obey a task's mask.
"""

from __future__ import annotations

from typing import Any, Literal

from limbeck.losses import decoupled, schedules, standardized, wrap
from limbeck.methods.about import About
from limbeck.methods.match import Match
from limbeck.methods.method import Method, described
from limbeck.methods.shares import label_weight, shared

__all__ = [
    "dist",
    "dkd",
    "lskd",
    "nkd",
    "skd",
    "ttm",
    "wsld",
    "wttm",
]

_TTM = About(
    "Knowledge Distillation Based on Transformed Teacher Matching",
    "Zheng, Yang",
    2024,
    "arXiv:2402.11148",
    "response",
    "logits",
)


@described(
    About(
        "Decoupled Knowledge Distillation",
        "Zhao, Cui, Song, Qiu, Liang",
        2022,
        "arXiv:2203.08679",
        "response",
        "logits and labels",
    )
)
def dkd(
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    warmup: float = 1 / 12,
    lam: float = 1.0,
) -> Method:
    r"""Match how sure the teacher is of the label, and apart from that its other classes.

    The loss is w·T²·(α·target + β·others) + λ·label. In plain distillation a confident teacher says
    little about the other classes; here they keep the weight β. A good first choice for classes
    and a strong teacher; it costs nothing. The defaults are the authors' for CIFAR-100: 20 of 240
    epochs of warm-up, β = 8 from resnet32x4 to resnet8x4; they take 6 for wide ResNets and VGG, 2
    from resnet56 to resnet20; for ImageNet T = 1, β = 0.5 or 2 and one epoch of warm-up.

    Args:
        alpha: of the target class against the rest.
        beta: of the other classes: the larger, the more confident the teacher.
        temperature: T.
        warmup: the fraction of training in which the weight w rises from 0 to 1; 0 for none.
        lam: λ, the label's weight.

    Raises:
        InputError: λ is negative, or the warm-up is not between 0 and 1.

    Source: Zhao, Cui, Song, Qiu, Liang 2022, arXiv:2203.08679; code: megvii-research/mdistiller.

    >>> dkd(warmup=0).matches
    (Match('logits', 'logits', dkd, weight=1.0, alpha=1.0, beta=8.0, temperature=4.0),)
    """
    weight = schedules.warmup(1.0, warmup) if warmup else 1.0
    options: dict[str, Any] = {"alpha": alpha, "beta": beta, "temperature": temperature}
    match = Match("logits", "logits", decoupled.dkd, weight=weight, **options)
    return Method((match,), label_weight(lam))


@described(
    About(
        "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with "
        "Normalized Loss and Customized Soft Labels",
        "Yang et al.",
        2023,
        "arXiv:2303.13005",
        "response",
        "logits and labels",
    )
)
def nkd(gamma: float = 1.5, temperature: float = 1.0, lam: float = 1.0) -> Method:
    r"""Match the teacher's probability of the label, and its others after they sum to one.

    The loss is target + γ·T²·others + λ·label, all cross-entropies. The defaults are the authors'
    for ImageNet; for CIFAR-100 they take γ = 3.5 and T = 3, from DeiT III to DeiT γ = 1.

    Args:
        gamma: γ, of the other classes.
        temperature: T, of the other classes.
        lam: λ, the label's weight.

    Raises:
        InputError: λ is negative.

    Source: Yang, Zeng, Li, Zhang, Yuan, Li 2023, arXiv:2303.13005; code: yzd-v/cls_KD.

    >>> nkd().matches
    (Match('logits', 'logits', nkd, weight=1.0, gamma=1.5, temperature=1.0),)
    """
    match = Match("logits", "logits", decoupled.nkd, gamma=gamma, temperature=temperature)
    return Method((match,), label_weight(lam))


@described(
    About(
        "Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective",
        "Zhou et al.",
        2021,
        "arXiv:2102.00650",
        "response",
        "logits and labels",
    )
)
def wsld(weight: float = 2.5, temperature: float = 2.0, lam: float = 1.0) -> Method:
    r"""Match the teacher's soft label, less for samples on which the student is better than it.

    The loss is weight·w·T²·CE(soft) + λ·label; w falls from 1 to 0 the better the student knows a
    sample. For a teacher that errs on some of the training data. The defaults are the authors' for
    ImageNet.

    Args:
        weight: of the soft label.
        temperature: T of the soft label.
        lam: λ, the label's weight.

    Raises:
        InputError: λ is negative.

    Source: Zhou et al. 2021, arXiv:2102.00650; code: bellymonster/Weighted-Soft-Label-Distillation.

    >>> wsld().matches
    (Match('logits', 'logits', weighted_soft_label, weight=2.5, temperature=2.0),)
    """
    loss = decoupled.weighted_soft_label
    match = Match("logits", "logits", loss, weight=weight, temperature=temperature)
    return Method((match,), label_weight(lam))


@described(
    About(
        "Knowledge Distillation from A Stronger Teacher",
        "Huang, You, Wang, Qian, Xu",
        2022,
        "arXiv:2205.10536",
        "response",
        "logits",
        "small",
    )
)
def dist(
    beta: float = 2.0, gamma: float = 2.0, temperature: float = 4.0, lam: float = 1.0
) -> Method:
    r"""Correlate probabilities with the teacher's, along classes and along the batch's samples.

    The loss is T²·(β·(1 − ρ along classes) + γ·(1 − ρ along samples)) + λ·label: only relations
    count, not the teacher's numbers, which helps where the teacher is far stronger than the
    student. The batch should be large enough for a correlation, 32 and above. The weights are the
    authors', T = 4 theirs for CIFAR-100; for ImageNet they take 1.

    Args:
        beta: weight along classes.
        gamma: weight along samples.
        temperature: T.
        lam: λ, the label's weight.

    Raises:
        InputError: λ is negative.

    Source: Huang, You, Wang, Qian, Xu 2022, arXiv:2205.10536; code:
    hunto/image_classification_sota.

    >>> dist().matches
    (Match('logits', 'logits', dist, weight=1.0, beta=2.0, gamma=2.0, temperature=4.0),)
    """
    loss = wrap.gathered(standardized.dist)
    match = Match("logits", "logits", loss, beta=beta, gamma=gamma, temperature=temperature)
    return Method((match,), label_weight(lam))


@described(
    About(
        "Logit Standardization in Knowledge Distillation",
        "Sun, Ren, Li, Wang, Cao",
        2024,
        "arXiv:2403.01427",
        "response",
        "logits",
    )
)
def lskd(weight: float = 9.0, temperature: float = 2.0, lam: float = 0.1) -> Method:
    r"""Match the z-scores of the teacher's logits: their order and spacing, whatever their size.

    The loss is weight·T²·KL between softmax functions of z-scores + λ·label. It is :func:`kd` for a
    student that cannot reach the range of the teacher's logits, and costs the same. The defaults
    are the authors' for CIFAR-100; for some pairs they take T = 3.

    Args:
        weight: of the divergence.
        temperature: T, of the z-scores.
        lam: λ, the label's weight.

    Raises:
        InputError: λ is negative.

    Source: Sun, Ren, Li, Wang, Cao 2024, arXiv:2403.01427; code:
    sunshangquan/logit-standardization-KD.

    >>> lskd().matches
    (Match('logits', 'logits', logit_standardized_kl, weight=9.0, temperature=2.0),)
    """
    loss = standardized.logit_standardized_kl
    match = Match("logits", "logits", loss, weight=weight, temperature=temperature)
    return Method((match,), label_weight(lam))


@described(_TTM)
def ttm(weight: float = 100.0, temperature: float = 10.0, lam: float = 1.0) -> Method:
    r"""Match the softened teacher with the student as it is: a temperature on one side only.

    The loss is weight·KL(softmax(t/T) ‖ softmax(s)) + λ·label. It regularizes: the student's own
    answer becomes soft. The defaults are the authors' from resnet32x4 to resnet8x4 on CIFAR-100;
    their T lies between 2.5 and 10 there and their weight between 7 and 101, so tune the two.

    Args:
        weight: β of the paper, of the divergence.
        temperature: T of the teacher; 1/T is the paper's exponent γ.
        lam: λ, the label's weight.

    Raises:
        InputError: λ is negative.

    Source: Zheng, Yang 2024, arXiv:2402.11148, appendix A.4; code: zkxufo/TTM.

    >>> ttm().matches
    (Match('logits', 'logits', transformed_teacher, weight=100.0, temperature=10.0),)
    """
    loss = standardized.transformed_teacher
    match = Match("logits", "logits", loss, weight=weight, temperature=temperature)
    return Method((match,), label_weight(lam))


@described(_TTM)
def wttm(weight: float = 3.0, temperature: float = 10.0, lam: float = 1.0) -> Method:
    r"""Match the softened teacher with the student as it is, most where the teacher is unsure.

    As :func:`ttm`, with each sample's divergence times the sum of the teacher's probabilities to
    the power 1/T, which grows with its doubt; so the weight is far smaller. The defaults are the
    authors' from resnet32x4 to resnet8x4 on CIFAR-100; elsewhere there 1.4 to 16, and 1.6 at
    T = 1.25 for ImageNet.

    Args:
        weight: β of the paper, of the divergence.
        temperature: T of the teacher.
        lam: λ, the label's weight.

    Raises:
        InputError: λ is negative.

    Source: Zheng, Yang 2024, arXiv:2402.11148 (WTTM), appendix A.4; code: zkxufo/TTM.

    >>> wttm().matches
    (Match('logits', 'logits', weighted_transformed_teacher, weight=3.0, temperature=10.0),)
    """
    loss = standardized.weighted_transformed_teacher
    match = Match("logits", "logits", loss, weight=weight, temperature=temperature)
    return Method((match,), label_weight(lam))


@described(
    About(
        "Reducing the Teacher-Student Gap via Spherical Knowledge Distillation",
        "Guo et al.",
        2020,
        "arXiv:2010.07485",
        "response",
        "logits",
    )
)
def skd(
    temperature: float = 4.0,
    alpha: float = 0.9,
    form: Literal["norm", "deviation", "layer_norm"] = "norm",
    multiplier: float | None = None,
) -> Method:
    r"""Match the direction of the teacher's logits, with the student's brought to their length.

    The loss is (1 − α)·label + α·T²·KL: how confident the teacher is need not be learned, so a much
    larger teacher can be used. The defaults are the authors' for ImageNet, who lower α to 0.5 and
    0.1 in the last 40 and 20 of 100 epochs and take the label's loss of the rescaled logits too.

    Args:
        temperature: T.
        alpha: the teacher's share, 0 to 1.
        form: what length is; see :func:`limbeck.losses.standardized.spherical`.
        multiplier: the common length of all logits; by default the teacher's, sample by sample.

    Raises:
        InputError: α is not a share.

    Source: Guo et al. 2020, arXiv:2010.07485; code: forjiuzhou/Spherical-Knowledge-Distillation.

    >>> skd().matches[0].weight, skd().label_weight
    (0.9, 0.1)
    """
    options: dict[str, Any] = {"temperature": temperature, "form": form, "multiplier": multiplier}
    return shared(standardized.spherical, alpha, **options)
