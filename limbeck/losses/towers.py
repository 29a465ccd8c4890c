"""What CLIP-KD compares beside affinities: the features of two towers themselves.

Letters: B samples, D features of the student, D' of the teacher.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.losses.geometry import unit
from limbeck.losses.spec import Setting, Spec, declare

__all__ = ["TowerFeatures"]

_START = 1 / 0.07  # the scale with which CLIP and CLIP-KD begin

Pair = tuple[Tensor, Tensor]


@declare(
    Spec(
        "contrast",
        "Yang et al. 2024 (CLIP-KD), arXiv:2307.12732",
        zero_at_equal=False,
        per_sample=False,
        whole_batch=True,
    )
)
class TowerFeatures(nn.Module):
    r"""Distance of the features of two towers, and contrast of each with the teacher's other one.

    $$w_f \sum_{m} \frac1{B D'} \lVert \hat s_m - \hat t_m \rVert_F^2
    - \frac{w_i}{2B} \sum_{m} \sum_i \log \mathrm{softmax}_j
    \big(\alpha\, \hat s_{m, i}^\top \hat t_{\bar m, j}\big)_i$$

    m is images or texts, m̄ the other. Where the widths differ, each of the student's towers gets a
    linear layer to the teacher's. The scale α is learned.

    Args:
        student_features: D.
        teacher_features: D'.
        feature: weight of the distance, a mean over features as in the authors' code; the paper has
            a sum.
        interactive: weight of the contrast.
        form: ``paper``: α is the exponential of the parameter and begins at 1/0.07. ``code``: it is
            the parameter itself, which begins at log(1/0.07) = 2.66, as in the authors' code.

    Raises:
        InputError: a weight is negative, or both are 0.

    Source: Yang et al. 2024, "CLIP-KD: An Empirical Study of CLIP Model Distillation",
    arXiv:2307.12732; code: winycg/CLIP-KD.

    >>> loss = TowerFeatures(2, 2, feature=1.0, interactive=0.0)
    >>> ahead, aside = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    >>> loss((ahead, aside), (aside, aside))  # (1² + 1²) / 2 + 0
    tensor(1.)
    """

    def __init__(
        self,
        student_features: int,
        teacher_features: int,
        *,
        feature: float = 2000.0,
        interactive: float = 1.0,
        form: Literal["paper", "code"] = "paper",
    ) -> None:
        super().__init__()
        if min(feature, interactive) < 0 or not feature + interactive:
            raise InputError(
                f"the weights of features and of contrast are {feature} and {interactive}",
                expected="none below 0, and one above",
            )
        self.feature, self.interactive, self.form = feature, interactive, form
        widths = student_features, teacher_features
        alike = student_features == teacher_features
        self.projections = nn.ModuleList(
            nn.Identity() if alike else nn.Linear(*widths) for _ in range(2)
        )
        self.log_scale: nn.Parameter | None = None
        if interactive:
            self.log_scale = nn.Parameter(torch.tensor(_START).log())

    @classmethod
    def build(
        cls,
        student: Pair,
        teacher: Pair,
        setting: Setting,
        *,
        feature: float = 2000.0,
        interactive: float = 1.0,
        form: Literal["paper", "code"] = "paper",
    ) -> TowerFeatures:
        """Return the module for towers of these widths."""
        options: dict[str, Any] = {"feature": feature, "interactive": interactive, "form": form}
        return cls(student[0].shape[-1], teacher[0].shape[-1], **options)

    def scale(self) -> Tensor:
        """Return α."""
        if self.log_scale is None:
            raise InputError("there is no contrast", expected="a weight of it above 0")
        return self.log_scale if self.form == "code" else self.log_scale.exp()

    def forward(self, student: Pair, teacher: Pair) -> Tensor:
        """Return the loss of features of images and texts, (B, D) each, and the teacher's."""
        own = [unit(p(x)) for p, x in zip(self.projections, student, strict=True)]
        theirs = [unit(x) for x in teacher]
        total = own[0].new_zeros(())
        if self.feature:
            gaps = (s - t for s, t in zip(own, theirs, strict=True))
            total = total + self.feature * torch.stack([g.square().mean() for g in gaps]).sum()
        if self.interactive:
            right = torch.arange(len(own[0]), device=own[0].device)
            crossed = zip(own, reversed(theirs), strict=True)
            terms = [F.cross_entropy(self.scale() * s @ t.T, right) for s, t in crossed]
            total = total + self.interactive * torch.stack(terms).mean()
        return total
