"""What can be put around a loss and learns or looks: a temperature, weights.

Each takes a loss and is a loss; what has parameters is a module, so that an optimizer sees them.

Letters: B samples, T tokens, C classes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.losses.logits import kl
from limbeck.losses.spec import Reduction, Setting, Spec, declare, reduce
from limbeck.losses.wrap import Loss

__all__ = ["ConfidenceWeighted", "LearnedTemperature", "SampleTemperature", "UncertaintyWeighted"]

Rule = Callable[[Tensor, Tensor], Tensor]


@declare(Spec("response", "Li et al. 2023 (CTKD), arXiv:2211.16231", "classes", per_sample=False))
class LearnedTemperature(nn.Module):
    r"""A temperature that learns against the student: the answers grow harder to match.

    $$T = T_0 + T_1 \,\sigma(\theta), \qquad
    \theta \text{ receives } {-\lambda}\,\frac{\partial \mathcal L}{\partial \theta}, \quad
    \lambda = \tfrac12 \big(1 - \cos (\pi \min(1, \text{progress} / \text{ramp}))\big)$$

    The reversal grows from 0 to its full ``strength`` over the first part of training: a
    curriculum.

    Args:
        loss: one with a ``temperature``, such as :func:`limbeck.losses.kl`.
        start: T₀.
        span: T₁.
        initial: θ at the start.
        strength: λ at the end of the ramp.
        ramp: share of training over which λ grows; 10 of 240 epochs in the authors' code.

    Raises:
        InputError: the loss has no temperature.

    Source: Li et al. 2023, "Curriculum Temperature for Knowledge Distillation", arXiv:2211.16231
    (its global temperature); code: zhengli97/CTKD.

    >>> from limbeck.losses import kl
    >>> loss = LearnedTemperature(kl, initial=0.0)
    >>> loss.temperature()
    tensor(11., grad_fn=<AddBackward0>)
    """

    def __init__(
        self,
        loss: Loss,
        *,
        start: float = 1.0,
        span: float = 20.0,
        initial: float = 1.0,
        strength: float = 1.0,
        ramp: float = 10 / 240,
    ) -> None:
        super().__init__()
        _must_take(loss, "temperature")
        self.loss, self.inside = loss, _inside(loss)
        self.start, self.span, self.strength, self.ramp = start, span, strength, ramp
        self.theta = nn.Parameter(torch.tensor(float(initial)))

    @classmethod
    def build(
        cls,
        student: Tensor,
        teacher: Tensor,
        setting: Setting,
        *,
        loss: Loss = kl,
        start: float = 1.0,
        span: float = 20.0,
        initial: float = 1.0,
        strength: float = 1.0,
        ramp: float = 10 / 240,
    ) -> Self:
        """Make one, with a temperature of its own."""
        return cls(loss, start=start, span=span, initial=initial, strength=strength, ramp=ramp)

    def temperature(self) -> Tensor:
        """Return T, with an ordinary gradient."""
        return self.start + self.span * torch.sigmoid(self.theta)

    def reversal(self, progress: float) -> float:
        """Return λ at a share of training."""
        done = min(1.0, progress / self.ramp) if self.ramp > 0 else 1.0
        return self.strength * (1 - math.cos(math.pi * done)) / 2

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        *,
        progress: float,
        targets: Tensor | None = None,
        mask: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Return the loss at the temperature that has been learned.

        Args:
            student: logits, as the loss takes them.
            teacher: logits.
            progress: of training, 0 to 1.
            targets: passed on where the loss takes them.
            mask: passed on where the loss takes it.
            options: further arguments of the loss.
        """
        plain = self.temperature()
        reversed_ = plain.detach() - self.reversal(progress) * (plain - plain.detach())
        given = _given(self.loss, progress=progress, targets=targets, mask=mask)
        return self.loss(student, teacher, temperature=reversed_, **given, **options)


@declare(Spec("response", "a wrapper: one temperature for each sample", "classes"))
class SampleTemperature(nn.Module):
    r"""A temperature for each sample (or token), by a rule.

    $$T_i^2 \,\ell(s_i / T_i, t_i / T_i)$$

    Args:
        loss: one with a mean over samples, such as :func:`limbeck.losses.kl`; its own temperature
            stays 1.
        rule: ``rule(student, teacher)`` gives T > 0 of shape (B,) or (B, T). A module is trained
            with the rest. ``"spread"`` is the standard deviation of the teacher's logits over
            classes, so that confident and hesitant answers are compared at the same scale.
        least: no temperature is below.

    Raises:
        InputError: the loss has no ``reduction``.

    Source: the instance-wise temperature of Li et al. 2023 (CTKD), arXiv:2211.16231, has a network
    as its rule; logits in units of their spread: Sun et al. 2024, arXiv:2403.01427.

    >>> from limbeck.losses import kl
    >>> SampleTemperature(kl)(torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]))
    tensor(0.3278)
    """

    def __init__(
        self, loss: Loss, rule: Rule | Literal["spread"] = "spread", *, least: float = 0.1
    ) -> None:
        super().__init__()
        _must_take(loss, "reduction")
        self.loss, self.inside, self.rule, self.least = loss, _inside(loss), rule, least

    @classmethod
    def build(
        cls,
        student: Tensor,
        teacher: Tensor,
        setting: Setting,
        *,
        loss: Loss = kl,
        rule: Rule | Literal["spread"] = "spread",
        least: float = 0.1,
    ) -> Self:
        """Make one; a rule with parameters stays the one that is given."""
        return cls(loss, rule, least=least)

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        *,
        targets: Tensor | None = None,
        mask: Tensor | None = None,
        reduction: Reduction = "mean",
        **options: Any,
    ) -> Tensor:
        """Return the mean over samples (or unmasked tokens) of the loss at their temperatures.

        Args:
            student: logits (B, C) or (B, T, C).
            teacher: logits of the same shape.
            targets: passed on where the loss takes them.
            mask: passed on where the loss takes it.
            reduction: mean over samples or unmasked tokens.
            options: further arguments of the loss.
        """
        rule = _spread if self.rule == "spread" else self.rule
        found = rule(student, teacher)
        kept = found if mask is None else found.masked_fill(~mask.bool(), 1.0)
        each = kept.clamp(min=self.least)
        own, theirs = (logits / each.unsqueeze(-1) for logits in (student, teacher))
        given = _given(self.loss, targets=targets, mask=mask)
        values = self.loss(own, theirs, reduction="none", **given, **options)
        return reduce(each.square() * values, mask, reduction)


@declare(Spec("response", "a wrapper: weights by the teacher's confidence", "classes"))
class ConfidenceWeighted(nn.Module):
    r"""A weight for each sample (or token): how sure, or how right, the teacher is.

    $$w_i \,\ell(s_i, t_i)$$

    A teacher that errs on a sample is then followed less there.

    Args:
        loss: one with a mean over samples, such as :func:`limbeck.losses.kl`.
        form: ``label`` is the teacher's probability of the right class, and needs targets;
            ``maximum`` its largest probability; ``entropy`` one minus its entropy divided by log C.
            All are between 0 and 1.
        temperature: of the teacher's probabilities.

    Raises:
        InputError: the loss has no ``reduction``, or targets are missing.

    Source: weights by the teacher's cross-entropy with the label: Zhang, Chen, Wang 2022 (CA-MKD),
    arXiv:2201.00007, there among several teachers.

    >>> from limbeck.losses import logit_mse
    >>> loss = ConfidenceWeighted(logit_mse, form="maximum")
    >>> loss(torch.ones(1, 2), torch.zeros(1, 2))  # half of 2
    tensor(1.)
    """

    def __init__(
        self,
        loss: Loss,
        *,
        form: Literal["label", "maximum", "entropy"] = "label",
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        _must_take(loss, "reduction")
        self.loss, self.inside, self.form, self.softness = loss, _inside(loss), form, temperature

    @classmethod
    def build(
        cls,
        student: Tensor,
        teacher: Tensor,
        setting: Setting,
        *,
        loss: Loss = kl,
        form: Literal["label", "maximum", "entropy"] = "label",
        softness: float = 1.0,
    ) -> Self:
        """Make one; ``softness`` is its temperature, which leaves that name to the loss's."""
        return cls(loss, form=form, temperature=softness)

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        *,
        targets: Tensor | None = None,
        mask: Tensor | None = None,
        reduction: Reduction = "mean",
        **options: Any,
    ) -> Tensor:
        """Return the mean over samples (or unmasked tokens) of the weighted loss.

        Args:
            student: logits (B, C) or (B, T, C).
            teacher: logits of the same shape.
            targets: (B,) or (B, T) int64, for ``label``.
            mask: passed on where the loss takes it.
            reduction: mean over samples or unmasked tokens; the sum of weights does not divide it.
            options: further arguments of the loss.
        """
        given = _given(self.loss, targets=targets, mask=mask)
        values = self.loss(student, teacher, reduction="none", **given, **options)
        weights = self._confidence(teacher, targets)
        if mask is not None:
            weights = weights.masked_fill(~mask.bool(), 0.0)
        return reduce(weights * values, mask, reduction)

    def _confidence(self, teacher: Tensor, targets: Tensor | None) -> Tensor:
        log_p = F.log_softmax(teacher / self.softness, dim=-1)
        if self.form == "maximum":
            return log_p.amax(-1).exp()
        if self.form == "entropy":
            entropy: Tensor = torch.special.entr(log_p.exp()).sum(-1)
            return 1 - entropy / math.log(max(teacher.shape[-1], 2))
        if targets is None:
            raise InputError(
                "weights by the probability of the label came without targets",
                expected="targets (B,) or (B, T)",
                remedy='Use form="maximum" or form="entropy", which need none.',
            )
        return log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1).exp()


@declare(
    Spec(
        "response",
        "Kendall, Gal, Cipolla 2018, arXiv:1705.07115",
        "none",
        zero_at_equal=False,
        per_sample=False,
    )
)
class UncertaintyWeighted(nn.Module):
    r"""A weight that is learned: a loss divided by its variance, and the variance paid for.

    $$\frac{\mathcal L}{2 e^{s}} + \frac s2, \qquad s = \log \sigma^2$$

    Wrap each of several losses, and they find their balance. The value can be negative. Around a
    loss of features or relations, name the ``adapter`` of the match: this wrapper asks for none.

    Args:
        loss: any loss.
        log_variance: s at the start.

    Source: Kendall, Gal, Cipolla 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses for
    Scene Geometry and Semantics", arXiv:1705.07115; code: lorenmt/mtan.

    >>> from limbeck.losses import logit_mse
    >>> UncertaintyWeighted(logit_mse)(torch.ones(1, 4), torch.zeros(1, 4)).detach()
    tensor(2.)
    """

    def __init__(self, loss: Loss, *, log_variance: float = 0.0) -> None:
        super().__init__()
        self.loss, self.inside = loss, _inside(loss)
        self.log_variance = nn.Parameter(torch.tensor(float(log_variance)))

    def forward(
        self,
        student: Any,
        teacher: Any,
        *,
        ids: Tensor | None = None,
        targets: Tensor | None = None,
        mask: Tensor | None = None,
        progress: float | None = None,
        **options: Any,
    ) -> Tensor:
        """Return the weighted loss.

        Args:
            student: as the loss takes it.
            teacher: as the loss takes it.
            ids: passed on where the loss takes them, as the next three.
            targets: labels.
            mask: what counts.
            progress: of training.
            options: further arguments of the loss.
        """
        given = _given(self.loss, ids=ids, targets=targets, mask=mask, progress=progress)
        value = self.loss(student, teacher, **given, **options)
        price = self.log_variance / 2
        if mask is not None and "mask" in given:
            price = price * mask.bool().any()  # nothing kept: nothing to pay for
        return value * torch.exp(-self.log_variance) / 2 + price


def _spread(student: Tensor, teacher: Tensor) -> Tensor:
    return teacher.std(-1, correction=0)


def _inside(loss: Loss) -> nn.Module | None:
    """Return the module in a wrapped loss, so that its parameters are registered."""
    inner = inspect.unwrap(loss)
    return inner if isinstance(inner, nn.Module) and inner is not loss else None


def _parameters(loss: Loss) -> set[str]:
    called = loss.forward if isinstance(loss, nn.Module) else loss
    return set(inspect.signature(called).parameters)


def _given(loss: Loss, **context: Any) -> dict[str, Any]:
    """Return what is given and what the loss takes."""
    takes = _parameters(loss)
    return {k: v for k, v in context.items() if v is not None and k in takes}


def _must_take(loss: Loss, option: str) -> None:
    if option not in _parameters(loss):
        name = getattr(loss, "__name__", type(loss).__name__)
        raise InputError(f"the loss {name} has no {option}", expected=f"a loss with {option}=")
