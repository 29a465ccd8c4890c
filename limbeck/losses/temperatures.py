"""Temperatures that are put around a loss: learned, for all samples or each, or by a rule.

Each takes a loss and is a loss; what has parameters is a module, so that an optimizer sees them.

Letters: B samples, T tokens, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from limbeck.losses.inner import default, given, inside, must_take
from limbeck.losses.logits import kl
from limbeck.losses.spec import Reduction, Setting, Spec, declare, reduce
from limbeck.losses.wrap import Loss

__all__ = ["InstanceTemperature", "LearnedTemperature", "SampleTemperature"]

Rule = Callable[[Tensor, Tensor], Tensor]


@declare(
    Spec("response", "Li et al. 2023 (CTKD), arXiv:2211.16231", "classes", per_sample=False),
    passes=True,
)
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
    (its global temperature; :class:`InstanceTemperature` has the other); code: zhengli97/CTKD.

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
        must_take(loss, "temperature")
        self.loss, self.inside = loss, inside(loss)
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
        return self.strength * _risen(progress, self.ramp)

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
        harder = _reversed(self.temperature(), self.reversal(progress))
        passed = given(self.loss, progress=progress, targets=targets, mask=mask)
        return self.loss(student, teacher, temperature=harder, **passed, **options)


@declare(
    Spec(
        "response",
        "Li et al. 2023 (CTKD), arXiv:2211.16231",
        "classes",
        per_sample=False,
        slope=False,
    )
)
class InstanceTemperature(nn.Module):
    r"""A temperature for each sample, by a network that learns against the student.

    $$T_i = T_0 + T_1 \,\sigma\big(f_\theta([s_i; t_i])\big), \qquad
    \mathcal L = \frac1B \sum_i \ell_{T_i}(s_i, t_i), \qquad
    \theta \text{ receives } {-\lambda}\,\frac{\partial \mathcal L}{\partial \theta}$$

    f has two layers and sees both answers. λ grows as in :class:`LearnedTemperature`. The reversed
    gradient reaches the network alone: what it sees of the student is cut off, so that the student
    is not taught through it. Width and first weights are ours, for the paper does not state them.

    Args:
        loss: one with a mean over samples and a ``temperature``, such as
            :func:`limbeck.losses.kl`.
        classes: C; the network has 2·C inputs.
        width: of its hidden layer; by default C.
        start: T₀.
        span: T₁.
        initial: what f adds to at the start: its last bias.
        strength: λ at the end of the ramp.
        ramp: share of training over which λ grows; 10 of 240 epochs in the authors' code.

    Raises:
        InputError: the loss has no temperature, or is no mean of independent values per sample.

    Source: Li et al. 2023, "Curriculum Temperature for Knowledge Distillation", arXiv:2211.16231
    (its instance-wise temperature); code: zhengli97/CTKD, whose README shows the loss.

    >>> from limbeck.losses import kl
    >>> loss = InstanceTemperature(kl, 3)
    >>> loss.temperature(torch.zeros(4, 3), torch.zeros(4, 3)).shape
    torch.Size([4])
    """

    def __init__(
        self,
        loss: Loss,
        classes: int,
        *,
        width: int | None = None,
        start: float = 1.0,
        span: float = 20.0,
        initial: float = 1.0,
        strength: float = 1.0,
        ramp: float = 10 / 240,
    ) -> None:
        super().__init__()
        must_take(loss, "temperature")
        must_take(loss, "reduction")
        self.loss, self.inside = loss, inside(loss)
        self.start, self.span, self.strength, self.ramp = start, span, strength, ramp
        hidden = classes if width is None else width
        last = nn.Linear(hidden, 1)
        nn.init.constant_(last.bias, initial)
        self.network = nn.Sequential(nn.Linear(2 * classes, hidden), nn.ReLU(), last)

    @classmethod
    def build(
        cls,
        student: Tensor,
        teacher: Tensor,
        setting: Setting,
        *,
        loss: Loss = kl,
        width: int | None = None,
        start: float = 1.0,
        span: float = 20.0,
        initial: float = 1.0,
        strength: float = 1.0,
        ramp: float = 10 / 240,
    ) -> Self:
        """Make one for as many classes as the logits have."""
        return cls(
            loss,
            student.shape[-1],
            width=width,
            start=start,
            span=span,
            initial=initial,
            strength=strength,
            ramp=ramp,
        )

    def temperature(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return T for each sample (or token), with an ordinary gradient to the network alone."""
        both = torch.cat([student, teacher], dim=-1).detach()
        return self.start + self.span * torch.sigmoid(self.network(both).squeeze(-1))

    def reversal(self, progress: float) -> float:
        """Return λ at a share of training."""
        return self.strength * _risen(progress, self.ramp)

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
        """Return the mean over samples (or unmasked tokens) of the loss at their temperatures.

        Args:
            student: logits (B, C) or (B, T, C).
            teacher: logits of the same shape.
            progress: of training, 0 to 1.
            targets: passed on where the loss takes them.
            mask: passed on where the loss takes it.
            options: further arguments of the loss.
        """
        student, teacher = _silenced(student, teacher, mask)  # nor may it reach the network
        each = _reversed(self.temperature(student, teacher), self.reversal(progress))
        rows = given(self.loss, targets=targets)
        return reduce(_by_row(self.loss, student, teacher, each, rows, options), mask, "mean")


@declare(Spec("response", "a wrapper: one temperature for each sample", "classes"))
class SampleTemperature(nn.Module):
    r"""A temperature for each sample (or token), by a rule.

    $$T_i^2 \,\ell(s_i / T_i, t_i / T_i)$$

    Args:
        loss: one with a mean over samples, such as :func:`limbeck.losses.kl`; its own temperature,
            if it has one, multiplies T.
        rule: ``rule(student, teacher)`` gives T > 0 of shape (B,) or (B, T). A module is trained
            with the rest (through the student's side alone, if the loss has no temperature).
            ``"spread"`` is the standard deviation of the teacher's logits over classes, so that
            confident and hesitant answers are compared at the same scale.
        least: no temperature is below.

    Raises:
        InputError: the loss has no ``reduction``.

    Source: logits in units of their spread: Sun et al. 2024, arXiv:2403.01427. A temperature that a
    network learns for each sample is :class:`InstanceTemperature`.

    >>> from limbeck.losses import kl
    >>> SampleTemperature(kl)(torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]))
    tensor(0.3278)
    """

    def __init__(
        self, loss: Loss, rule: Rule | Literal["spread"] = "spread", *, least: float = 0.1
    ) -> None:
        super().__init__()
        must_take(loss, "reduction")
        self.loss, self.inside, self.rule, self.least = loss, inside(loss), rule, least

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
        base = options.pop("temperature", default(self.loss, "temperature"))
        if base is not None:
            student, teacher = _silenced(student, teacher, mask)
            rows = given(self.loss, targets=targets)
            values = _by_row(self.loss, student, teacher, base * each, rows, options)
            return reduce(values, mask, reduction)
        own, theirs = (logits / each.unsqueeze(-1) for logits in (student, teacher))
        passed = given(self.loss, targets=targets, mask=mask)
        values = self.loss(own, theirs, reduction="none", **passed, **options)
        return reduce(each.square() * values, mask, reduction)


def _by_row(
    loss: Loss,
    student: Tensor,
    teacher: Tensor,
    temperatures: Tensor,
    rows: dict[str, Tensor],
    options: dict[str, Any],
) -> Tensor:
    """Return the loss of each sample (or token) at its own temperature.

    The temperature goes in as such: divided by it outside, the teacher's logits would lose its
    gradient, for every loss cuts that of its teacher.
    """
    lead = temperatures.ndim

    def one(student: Tensor, teacher: Tensor, temperature: Tensor, *more: Tensor) -> Tensor:
        row = {name: value[None] for name, value in zip(rows, more, strict=True)}
        return loss(student[None], teacher[None], temperature=temperature, **row, **options)

    flat = (t.flatten(0, lead - 1) for t in (student, teacher, temperatures, *rows.values()))
    values: Tensor = torch.func.vmap(one)(*flat)
    return values.view_as(temperatures)


def _silenced(student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Put zeros where the mask is false: what stands there may be NaN."""
    if mask is None:
        return student, teacher
    silent = ~mask.bool().unsqueeze(-1)
    return student.masked_fill(silent, 0.0), teacher.masked_fill(silent, 0.0)


def _spread(student: Tensor, teacher: Tensor) -> Tensor:
    return teacher.std(-1, correction=0)


def _risen(progress: float, ramp: float) -> float:
    """Return how far the curriculum is, 0 to 1, along a cosine."""
    done = min(1.0, progress / ramp) if ramp > 0 else 1.0
    return (1 - math.cos(math.pi * done)) / 2


def _reversed(plain: Tensor, strength: float) -> Tensor:
    """Return the same value, with its gradient turned round."""
    return plain.detach() - strength * (plain - plain.detach())
