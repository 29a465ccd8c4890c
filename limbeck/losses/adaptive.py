"""What can be put around a loss and learns or looks: weights.

Each takes a loss and is a loss; what has parameters is a module, so that an optimizer sees them.

Letters: B samples, T tokens, C classes.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.losses.inner import given, inside, must_take
from limbeck.losses.logits import kl
from limbeck.losses.spec import Reduction, Setting, Spec, declare, reduce
from limbeck.losses.wrap import Loss

__all__ = ["ConfidenceWeighted", "UncertaintyWeighted"]


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
        must_take(loss, "reduction")
        self.loss, self.inside, self.form, self.softness = loss, inside(loss), form, temperature

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
        passed = given(self.loss, targets=targets, mask=mask)
        values = self.loss(student, teacher, reduction="none", **passed, **options)
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
    ),
    passes=True,
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
        self.loss, self.inside = loss, inside(loss)
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
        passed = given(self.loss, ids=ids, targets=targets, mask=mask, progress=progress)
        value = self.loss(student, teacher, **passed, **options)
        price = self.log_variance / 2
        if mask is not None and "mask" in passed:
            price = price * mask.bool().any()  # nothing kept: nothing to pay for
        return value * torch.exp(-self.log_variance) / 2 + price
