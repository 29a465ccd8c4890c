"""Methods that learn or look how to distil: temperatures, weights, which layer teaches which."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, Self

from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.losses.adaptive import ConfidenceWeighted, UncertaintyWeighted
from limbeck.losses.selection import AttentionSelection, SemanticCalibration
from limbeck.losses.spec import Setting, declare
from limbeck.losses.temperatures import InstanceTemperature, LearnedTemperature, SampleTemperature
from limbeck.methods.about import About
from limbeck.methods.match import Match
from limbeck.methods.method import Method, described
from limbeck.methods.response import kd
from limbeck.methods.shares import shared
from limbeck.methods.stages import STAGES

__all__ = [
    "afd",
    "confidence_weighted",
    "ctkd",
    "sample_temperature",
    "semckd",
    "uncertainty_weighted",
]


@described(
    About(
        "Curriculum Temperature for Knowledge Distillation",
        "Li et al.",
        2023,
        "arXiv:2211.16231",
        "adaptive",
        "logits",
        "modules",
    )
)
def ctkd(
    alpha: float = 0.9,
    start: float = 1.0,
    span: float = 20.0,
    initial: float = 1.0,
    strength: float = 1.0,
    ramp: float = 10 / 240,
    form: Literal["global", "instance"] = "global",
    width: int | None = None,
) -> Method:
    r"""Match the teacher's softened answer, at a temperature that learns to make this hard.

    The loss is (1 − α)·label + α·T²·KL with T = T₀ + T₁·σ(θ); θ gets the reversed gradient, whose
    strength grows along a cosine during the first part of training. A step costs no more than with
    :func:`kd`, and T need not be chosen. With ``form="instance"`` θ is a number for each sample,
    which a network of two layers makes of both answers.

    Args:
        alpha: the teacher's share, 0 to 1.
        start: T₀, the least temperature.
        span: T₁, the range above it.
        initial: θ at the start: with 1, T begins at 15.6.
        strength: of the reversed gradient at the end of the ramp.
        ramp: the fraction of training over which it grows; 0 for none.
        form: one temperature for all samples, ``global``, or one for each, ``instance``.
        width: of the hidden layer of the network for ``instance``; by default the classes. The
            paper does not state it, and its code has only the ``global`` form.

    Raises:
        InputError: α is no share, the temperature could be 0 or less, the ramp is not between 0
            and 1, or the form is unknown.

    Source: Li et al. 2023, arXiv:2211.16231; the defaults are those of the authors' code for
    CIFAR-100, zhengli97/CTKD: 10 of 240 epochs for the ramp.

    >>> ctkd().matches[0].weight, ctkd().label_weight
    (0.9, 0.1)
    """
    if start <= 0 or span <= 0 or strength < 0 or not 0 <= ramp <= 1:
        raise InputError(
            f"ctkd got start {start}, span {span}, strength {strength}, ramp {ramp}",
            expected="start and span above 0, strength from 0, a ramp from 0 to 1",
        )
    options: dict[str, Any] = {
        "start": start,
        "span": span,
        "initial": initial,
        "strength": strength,
        "ramp": ramp,
    }
    if form == "global":
        return _between_logits(LearnedTemperature, alpha, **options)
    if form != "instance":
        raise InputError(f"ctkd got the form {form!r}", expected="'global' or 'instance'")
    return _between_logits(InstanceTemperature, alpha, width=width, **options)


@described(
    About(
        "Logit Standardization in Knowledge Distillation",
        "Sun et al.",
        2024,
        "arXiv:2403.01427",
        "adaptive",
        "logits",
    )
)
def sample_temperature(
    alpha: float = 0.9,
    temperature: float = 1.0,
    rule: Callable[[Tensor, Tensor], Tensor] | Literal["spread"] = "spread",
) -> Method:
    r"""Match the teacher's answer at a temperature for each sample, so that all are equally soft.

    The loss is (1 − α)·label + α·Tᵢ²·T²·KL at the temperature Tᵢ·T; Tᵢ is the standard deviation of
    the teacher's logits for the sample. Confident and hesitant answers are then compared at the
    same softness. The student is divided by the same Tᵢ, where Sun et al. divide it by its own
    spread.

    Args:
        alpha: the teacher's share, 0 to 1.
        temperature: T, in units of Tᵢ.
        rule: ``rule(student, teacher)`` gives Tᵢ > 0, (B,) or (B, T); a module is trained.

    Raises:
        InputError: α is no share, or the temperature is not positive.

    Source: after Sun et al. 2024, arXiv:2403.01427, and the instance-wise temperature of Li et al.
    2023, arXiv:2211.16231. α and T are a starting point.

    >>> sample_temperature().matches
    (Match('logits', 'logits', SampleTemperature, weight=0.9, rule='spread', temperature=1.0),)
    """
    _warm(temperature)
    return _between_logits(SampleTemperature, alpha, rule=rule, temperature=temperature)


@described(
    About(
        "Confidence-Aware Multi-Teacher Knowledge Distillation",
        "Zhang, Chen, Wang",
        2022,
        "arXiv:2201.00007",
        "adaptive",
        "logits and labels",
    )
)
def confidence_weighted(
    alpha: float = 0.9,
    temperature: float = 4.0,
    form: Literal["label", "maximum", "entropy"] = "label",
    softness: float = 1.0,
) -> Method:
    r"""Match the teacher's softened answer, each sample as far as the teacher is right there.

    The loss is (1 − α)·label + α·mean(w·T²·KL) with the weight w, 0 to 1. A weak teacher, or one
    trained on noisy labels, then does less harm. Where it is always sure, this is :func:`kd`.

    Args:
        alpha: the teacher's share, 0 to 1.
        temperature: T of the divergence.
        form: w is the teacher's probability of the ``label``, its ``maximum`` probability, or one
            minus its ``entropy`` divided by log C; the last two need no labels.
        softness: the temperature of the probabilities that w is made of.

    Raises:
        InputError: α is no share, a temperature is not positive, or the form is unknown.

    Source: after Zhang, Chen, Wang 2022, arXiv:2201.00007, who weigh several teachers against one
    another. α and T are those of :func:`kd`, a starting point.

    >>> confidence_weighted().matches[0].options["form"]
    'label'
    """
    _warm(temperature)
    _warm(softness)
    if form not in ("label", "maximum", "entropy"):
        raise InputError(
            f"confidence_weighted got the form {form!r}", expected="'label', 'maximum' or 'entropy'"
        )
    options: dict[str, Any] = {"form": form, "softness": softness, "temperature": temperature}
    return _between_logits(ConfidenceWeighted, alpha, **options)


@described(
    About(
        "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics",
        "Kendall, Gal, Cipolla",
        2018,
        "arXiv:1705.07115",
        "adaptive",
        "what the method needs",
        "modules",
    )
)
def uncertainty_weighted(method: Method | None = None) -> Method:
    r"""Match what another method matches, with weights of its terms that are learned.

    Each term 𝓛 becomes 𝓛/(2eˢ) + s/2 with a number s that is trained; it begins where the term has
    the weight that its method gave it, and settles where 𝓛 ≈ eˢ, so that all terms pull alike. Use
    it to add up methods whose weights were chosen for other data. The label keeps its weight. The
    terms in logs are the weighted ones, and can be negative.

    Args:
        method: whose terms are weighed; by default :func:`kd`.

    Raises:
        InputError: the method has no matches, or one without a positive weight.

    Source: Kendall, Gal, Cipolla 2018, arXiv:1705.07115, there between tasks.

    >>> from limbeck import methods
    >>> [match.name for match in uncertainty_weighted(methods.kd() + methods.sp()).matches]
    ['kl', 'similarity_preserving stage[-1]']
    """
    given = kd() if method is None else method
    if not given.matches:
        raise InputError(
            f"uncertainty_weighted got the method {given.name}", expected="one with matches"
        )
    return replace(given, matches=tuple(_weighed(match) for match in given.matches))


@described(
    About(
        "Show, Attend and Distill: Knowledge Distillation via Attention-based Feature Matching",
        "Ji, Heo, Park",
        2021,
        "arXiv:2102.02973",
        "adaptive",
        "features",
        "modules",
    )
)
def afd(
    weight: float = 200.0,
    width: int = 128,
    student: Sequence[str] = STAGES,
    teacher: Sequence[str] = STAGES,
) -> Method:
    r"""Match where the layers look, each of the teacher's shared out between the student's.

    Attention that is learned decides for each sample which of the student's layers follows which of
    the teacher's, so the pairs need not be chosen, and the numbers of layers may differ. For
    convolutional networks. The authors add it to plain distillation: ``kd() + afd()``.

    Args:
        weight: of the loss.
        width: of queries and keys.
        student: the student's taps, any number of maps.
        teacher: the teacher's taps, any number of maps.

    Raises:
        InputError: the taps are not lists.

    Source: Ji, Heo, Park 2021, arXiv:2102.02973; weight and width are those of the authors' code,
    clovaai/attention-feature-distillation.

    >>> afd().matches[0].weight, afd().matches[0].options
    (200.0, {'width': 128})
    """
    _lists("afd", student, teacher)
    return Method((Match(student, teacher, AttentionSelection, weight=weight, width=width),))


@described(
    About(
        "Cross-Layer Distillation with Semantic Calibration",
        "Chen et al.",
        2021,
        "arXiv:2012.03236",
        "adaptive",
        "features",
        "modules",
    )
)
def semckd(
    batch_size: int,
    weight: float = 400.0,
    factor: int = 4,
    student: Sequence[str] = STAGES,
    teacher: Sequence[str] = STAGES,
) -> Method:
    r"""Match feature maps, each of the student's shared out between the teacher's, projected.

    Attention that is learned from the samples' similarities decides which of the teacher's layers
    each of the student's follows. Every pair has convolutions of its own, so a step costs much more
    than with :func:`afd`. For convolutional networks. The authors add plain distillation, with the
    weight 1 for it and for the label: half their sum is ``kd(alpha=0.5) + semckd(64, weight=200)``.

    Args:
        batch_size: the number of samples that meet, in one process and one accumulated part: the
            attention is built for it. A smaller batch is filled up, a larger one is refused.
        weight: of the loss.
        factor: queries and keys have ``batch_size // factor`` entries.
        student: the student's taps, any number of maps.
        teacher: the teacher's taps, any number of maps.

    Raises:
        InputError: the taps are not lists, or the batch or the factor is not positive.

    Source: Chen et al. 2021, arXiv:2012.03236; weight and factor are those of the authors' code,
    DefangChen/SemCKD.

    >>> semckd(batch_size=64).matches[0].weight, semckd(batch_size=64).matches[0].options
    (400.0, {'batch_size': 64, 'factor': 4})
    """
    _lists("semckd", student, teacher)
    if batch_size < 1 or factor < 1:
        raise InputError(
            f"semckd got a batch size of {batch_size} and a factor of {factor}",
            expected="1 or more",
        )
    options: dict[str, Any] = {"batch_size": batch_size, "factor": factor}
    return Method((Match(student, teacher, SemanticCalibration, weight=weight, **options),))


def _between_logits(loss: Callable[..., Any], alpha: float, **options: Any) -> Method:
    return shared(loss, alpha, **options)


def _weighed(match: Match) -> Match:
    """Return the match with a learned weight around its loss; a schedule stays outside."""
    constant = 1.0 if callable(match.weight) else match.weight
    if constant <= 0:
        raise InputError(
            f"the match {match.name!r} has a weight of {constant}",
            expected="one above 0, from which the learned weight begins",
        )
    start = -math.log(2 * constant)

    @declare(replace(match.spec, zero_at_equal=False, per_sample=False))
    class Weighed(nn.Module):
        """The match's loss, made for the shapes that meet, with its learned weight."""

        def __init__(self, loss: Callable[..., Tensor]) -> None:
            super().__init__()
            self.weighing = UncertaintyWeighted(loss, log_variance=start)

        @classmethod
        def build(cls, student: Any, teacher: Any, setting: Setting) -> Self:
            return cls(match.made(student, teacher, setting))

        def forward(
            self,
            student: Any,
            teacher: Any,
            *,
            ids: Tensor | None = None,
            targets: Tensor | None = None,
            mask: Tensor | None = None,
            progress: float | None = None,
            **fields: Any,
        ) -> Tensor:
            context = {"ids": ids, "targets": targets, "mask": mask, "progress": progress}
            return match.compare(student, teacher, context | fields, self.weighing)

    Weighed.__name__ = f"UncertaintyWeighted({match.name})"
    weight = match.weight if callable(match.weight) else 1.0
    return Match(
        match.student,
        match.teacher,
        Weighed,
        weight=weight,
        adapter=match.adapter,
        name=match.name,
        fields=match.fields,
        taps=match.taps,
        views=match.views,
    )


def _warm(temperature: float) -> None:
    if temperature <= 0:
        raise InputError(f"a temperature of {temperature}", expected="a number above 0")


def _lists(name: str, student: Sequence[str], teacher: Sequence[str]) -> None:
    if isinstance(student, str) or isinstance(teacher, str) or not student or not teacher:
        raise InputError(
            f"{name} got the student's taps {student!r} and the teacher's {teacher!r}",
            expected="two lists of taps",
        )
