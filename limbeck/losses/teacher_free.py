"""Losses of logits without a teacher: the label, or the student itself, gives the soft label.

Letters: B samples, T tokens, C classes, D features. Logits are (B, C) or (B, T, C), labels (B,) or
(B, T); with tokens, a ``mask`` of shape (B, T) says which count, and any label may stand where it
is false. What is given as the teacher is not read: the student's own logits will do. All is
computed in float32 or better.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError, unknown
from limbeck.losses.decoupled import label_index, of_label, others_of
from limbeck.losses.probabilities import REMEDY, divergence, require_positive, where_positive
from limbeck.losses.spec import Reduction, Setting, Spec, comparable, declare, reduce

__all__ = ["UniversalSelfKD", "label_refinement", "universal_self_kd", "virtual_teacher"]

_NKD = "Yang et al. 2023, arXiv:2303.13005"
_TFKD = "Yuan et al. 2020 (Tf-KD), arXiv:1909.11723"
_RANK_EPS = 1e-6  # of the authors of USKD, beside 1 − w_y and 1 − q_y


@declare(Spec("response", _TFKD, "classes", zero_at_equal=False))
def virtual_teacher(
    student: Tensor,
    teacher: Tensor,
    *,
    targets: Tensor,
    probability: float = 0.99,
    temperature: float = 20.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""KL from a teacher made by hand, which is right on every sample: no model teaches.

    $$\mathrm{KL}\big(\mathrm{softmax}(v / T) \,\|\, \mathrm{softmax}(s)\big), \qquad
    v_y = a,\; v_c = \frac{1 - a}{C - 1} \text{ for } c \ne y$$

    As in the authors' code, T divides the probabilities v (not logits) and the student is not
    softened, so there is no T². With T = 20 the target is close to uniform: a regularizer, as label
    smoothing is. The authors' total is (1 − α) times the label's cross-entropy plus α·m/C times
    this loss, with a multiplier m of 100, since their divergence is divided by the number of
    classes.

    Args:
        student: logits (B, C) or (B, T, C).
        teacher: not read, but of the same shape.
        targets: labels y, (B,) or (B, T).
        probability: a, what the virtual teacher gives to the label, between 0 and 1.
        temperature: T > 0, of the virtual teacher.
        mask: (B, T), true where a token counts.
        reduction: mean over samples (or unmasked tokens) of the sum over classes, in nats.

    Raises:
        InputError: shapes do not fit, labels are not integers, a is not between 0 and 1, T is not
            positive.

    Source: Yuan, Tay, Li, Wang, Feng 2020, "Revisiting Knowledge Distillation via Label Smoothing
    Regularization", arXiv:1909.11723 (Tf-KD_reg); code:
    yuanli2333/Teacher-free-Knowledge-Distillation.

    >>> uniform = torch.zeros(1, 2)  # v = (1, 0) at T = 1/log 3 is (¾, ¼), against (½, ½)
    >>> virtual_teacher(uniform, uniform, targets=torch.tensor([0]), probability=1.0,
    ...                 temperature=0.9102392)
    tensor(0.1308)
    """
    require_positive(temperature)
    if not 0 <= probability <= 1:
        raise InputError(f"probability is {probability}", expected="a number between 0 and 1")
    student, _ = comparable(student, teacher, mask, remedy=REMEDY)
    labels = label_index(targets, student, mask)
    rest = (1 - probability) / max(student.shape[-1] - 1, 1)
    virtual = torch.full_like(student, rest).scatter(-1, labels, probability)
    log_p = F.log_softmax(virtual / temperature, -1)
    return reduce(divergence(log_p, F.log_softmax(student, -1)), mask, reduction)


@declare(Spec("response", _TFKD, "classes", zero_at_equal=False))
def label_refinement(
    student: Tensor,
    teacher: Tensor,
    *,
    targets: Tensor,
    smoothing: float = 0.1,
    spread: Literal["all", "others"] = "all",
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy with a smoothed label: the virtual teacher that label smoothing is.

    $$-(1 - \varepsilon) \log q_y - \varepsilon \sum_c u_c \log q_c$$

    Distillation is, by the paper, a learned form of this; it is the control that tells how much of
    a gain is smoothing alone. It holds the label: give the method's label term the weight 0.

    Args:
        student: logits (B, C) or (B, T, C).
        teacher: not read, but of the same shape.
        targets: labels y, (B,) or (B, T).
        smoothing: ε, between 0 and 1.
        spread: over which classes ε is spread evenly: ``all`` C, as in the paper and in PyTorch's
            ``label_smoothing``, or the C − 1 ``others``, as in the authors' code.
        mask: (B, T), true where a token counts.
        reduction: mean over samples (or unmasked tokens) of the sum over classes, in nats.

    Raises:
        InputError: shapes do not fit, labels are not integers, ε is not between 0 and 1, the
            spread is unknown.

    Source: Yuan, Tay, Li, Wang, Feng 2020, "Revisiting Knowledge Distillation via Label Smoothing
    Regularization", arXiv:1909.11723; code: yuanli2333/Teacher-free-Knowledge-Distillation.

    >>> logits = torch.tensor([[1.0986123, 0.0]])  # q = (¾, ¼)
    >>> label_refinement(logits, logits, targets=torch.tensor([0]), smoothing=0.5, spread="others")
    tensor(0.8370)
    >>> -torch.tensor([0.75, 0.25]).log().mean()
    tensor(0.8370)
    """
    if not 0 <= smoothing <= 1:
        raise InputError(f"smoothing is {smoothing}", expected="a number between 0 and 1")
    if spread not in ("all", "others"):
        raise unknown("spread", spread, ("all", "others"))
    student, _ = comparable(student, teacher, mask, remedy=REMEDY)
    log_q = F.log_softmax(student, -1)
    right = of_label(log_q, label_index(targets, student, mask))
    total = log_q.sum(-1) if spread == "all" else log_q.sum(-1) - right
    classes = log_q.shape[-1] if spread == "all" else max(log_q.shape[-1] - 1, 1)
    values = -(1 - smoothing) * right - smoothing * total / classes
    return reduce(values, mask, reduction)


@declare(Spec("response", _NKD, zero_at_equal=False, per_sample=False, slope=False))
def universal_self_kd(
    student: tuple[Tensor, Tensor],
    teacher: Tensor | tuple[Tensor, ...],
    *,
    targets: Tensor,
    alpha: float = 1.0,
    beta: float = 0.1,
    mu: float = 0.005,
    smoothing: float = 0.1,
    form: Literal["paper", "code"] = "paper",
    mask: Tensor | None = None,
) -> Tensor:
    r"""The student as its own teacher: its target smoothed, its other classes by rank (USKD).

    $$-\alpha \big(q_y^2 + 1 - \overline{q_y^2}\big) \log q_y
    - \beta \sum_{c \ne y} \hat z_c \log \hat q_c - \mu \sum_c \tilde y_c \log w_c$$

    The soft label ẑ of the other classes follows Zipf's law: 1/rank of
    w_c / (1 − w_y) + q_c / (1 − q_y) among all classes, scaled to sum to one without y. w is the
    softmax of a weak head on a middle layer, which learns the smoothed label ỹ; q̂ is the softmax
    over the classes other than y. The soft labels receive no gradient.

    The weight of the target holds the batch's mean of q_y², so the value depends on which samples
    meet. Tokens (B, T, C) are rows: a mask is exactly the subset of the tokens that it keeps, in
    that mean too.

    Args:
        student: logits (B, C) or (B, T, C) of at least two classes, and the logits of the weak
            head, of the same shape; :class:`UniversalSelfKD` has such a head.
        teacher: not read.
        targets: labels y, (B,) or (B, T).
        alpha: weight of the target part.
        beta: weight of the other classes.
        mu: weight of the weak head's own cross-entropy.
        smoothing: of ỹ, spread over all classes.
        form: ``paper`` ranks by probabilities; ``code`` has log q_c and log q_y in the place of q_c
            and q_y, as in the authors' code.
        mask: (B, T), true where a token counts. The value is the mean over samples (or unmasked
            tokens) of the sums over classes, in nats.

    Raises:
        InputError: shapes do not fit, there is one class, labels are not integers, the form is
            unknown.

    Source: Yang, Zeng, Li, Zhang, Yuan, Li 2023, "From Knowledge Distillation to Self-Knowledge
    Distillation", arXiv:2303.13005; code: yzd-v/cls_KD.

    >>> logits = torch.zeros(1, 2)
    >>> universal_self_kd((logits, logits), logits, targets=torch.tensor([0]), mu=1.0)  # 2 log 2
    tensor(1.3863)
    """
    if form not in ("paper", "code"):
        raise unknown("form", form, ("paper", "code"))
    logits, weak = comparable(*student, mask, remedy="Give the weak head as many classes.")
    labels = label_index(targets, logits, mask)
    log_q = F.log_softmax(logits, -1)
    log_q_y = of_label(log_q, labels)
    squared = log_q_y.detach().exp().square()
    softened = squared + 1 - reduce(squared, mask, "mean")
    z_hat = _zipf(log_q.detach(), weak.detach(), labels, form)
    others = where_positive(z_hat, -others_of(logits, labels)).sum(-1)
    log_w = F.log_softmax(weak, -1)
    label = -(1 - smoothing) * of_label(log_w, labels) - smoothing * log_w.mean(-1)
    return reduce(-alpha * softened * log_q_y + beta * others + mu * label, mask, "mean")


@declare(Spec("response", _NKD, zero_at_equal=False, per_sample=False, slope=False))
class UniversalSelfKD(nn.Module):
    r"""The loss :func:`universal_self_kd` with its weak head, linear on a middle layer.

    Args:
        features: of the middle layer: D, or the channels of a map.
        classes: C.

    Source: Yang, Zeng, Li, Zhang, Yuan, Li 2023, arXiv:2303.13005; code: yzd-v/cls_KD.

    >>> loss = UniversalSelfKD(features=8, classes=5)
    >>> logits, maps = torch.randn(4, 5), torch.randn(4, 8, 3, 3)
    >>> loss((logits, maps), logits, targets=torch.tensor([0, 1, 2, 3])).ndim
    0
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(features, classes)

    @classmethod
    def build(
        cls,
        student: tuple[Tensor, Tensor],
        teacher: Tensor | tuple[Tensor, ...],
        setting: Setting,
    ) -> UniversalSelfKD:
        """Return the module for the student's logits and middle layer."""
        logits, features = student
        return cls(features.shape[1 if features.ndim == 4 else -1], logits.shape[-1])

    def forward(
        self,
        student: tuple[Tensor, Tensor],
        teacher: Tensor | tuple[Tensor, ...],
        *,
        targets: Tensor,
        alpha: float = 1.0,
        beta: float = 0.1,
        mu: float = 0.005,
        smoothing: float = 0.1,
        form: Literal["paper", "code"] = "paper",
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the loss.

        Args:
            student: logits (B, C) or (B, T, C), and the middle layer: features (B, D) or (B, T, D),
                or maps (B, D, H, W), whose positions are averaged.
            teacher: not read.
            targets: labels, (B,) or (B, T).
            alpha: see :func:`universal_self_kd`, as for the others.
            beta: weight of the other classes.
            mu: weight of the weak head's own cross-entropy.
            smoothing: of the weak head's label.
            form: of the rank.
            mask: (B, T), true where a token counts.

        Raises:
            InputError: the middle layer does not fit the head or the logits.
        """
        logits, features = student
        pooled = features.mean((2, 3)) if features.ndim == 4 else features
        if pooled.shape != (*logits.shape[:-1], self.head.in_features):
            raise InputError(
                f"a middle layer {tuple(features.shape)} came with logits {tuple(logits.shape)}",
                expected=f"{self.head.in_features} features for each row of logits, or maps",
                remedy="Build UniversalSelfKD with the middle layer's number of features.",
            )
        weak = F.linear(pooled, *(p.to(pooled.dtype) for p in self.head.parameters()))
        return universal_self_kd(
            (logits, weak),
            teacher,
            targets=targets,
            alpha=alpha,
            beta=beta,
            mu=mu,
            smoothing=smoothing,
            form=form,
            mask=mask,
        )


def _zipf(log_q: Tensor, weak: Tensor, labels: Tensor, form: str) -> Tensor:
    """Return the soft label of the classes other than the label's: 1/rank, 0 at the label's."""
    own, theirs = log_q.exp() if form == "paper" else log_q, weak.softmax(-1)
    own, theirs = (x / (1 - x.gather(-1, labels) + _RANK_EPS) for x in (own, theirs))
    order = (own + theirs).argsort(dim=-1, descending=True, stable=True)
    frequency = 1 / (1 + order.argsort(dim=-1)).to(log_q.dtype)
    frequency = frequency.scatter(-1, labels, 0.0)
    return frequency / frequency.sum(-1, keepdim=True)
