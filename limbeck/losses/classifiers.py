"""Losses through a classifier: the teacher's, frozen, or one that turns features into an answer.

Letters: B samples, C channels (or features), H×W positions of a map, K classes, T tokens. The
teacher never receives a gradient; all is computed in float32 or better.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses.geometry import unit
from limbeck.losses.logits import kl, logit_mse
from limbeck.losses.spec import Reduction, Spec, comparable, declare, reduce

__all__ = ["class_activation", "one_for_all", "pooled", "simkd", "softmax_regression"]

_REMEDY = 'Leave adapter="auto", which brings the student to the teacher\'s channels and size.'
_SRRL = "Yang, Martinez, Bulat, Tzimiropoulos 2021 (SRRL), ICLR 2021"
_OFA = "Hao et al. 2023 (OFA-KD), arXiv:2310.19444"


@declare(Spec("feature", _SRRL, "shape"))
def softmax_regression(
    student: Tensor,
    teacher: Tensor,
    *,
    weight: Tensor,
    bias: Tensor | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    compare: Literal["l2", "kl"] = "l2",
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Distance between features, and between what the teacher's classifier makes of them.

    $$\frac{\alpha}2 \lVert f_s - f_t \rVert^2 + \beta\, d(W f_s + b, W f_t + b)$$

    The second part weighs a difference of features by what it means for the answer. The teacher's
    classifier stays as it is; the student's own is trained by the label alone.

    Args:
        student: features (B, C), or maps (B, C, H, W) that are averaged over positions first, with
            the teacher's channels; :class:`limbeck.losses.exits.SoftmaxRegression` has a connector
            to them.
        teacher: features or maps with the same channels; no gradient reaches them.
        weight: W, the weight (K, C) of the teacher's last linear layer; it gets no gradient.
        bias: b, its bias (K,).
        alpha: weight of the features' part.
        beta: weight of the logits' part.
        compare: the distance d. ``l2`` is the squared distance, summed over classes; ``kl`` is the
            divergence of the softmax, with the gradient of the cross-entropy.
        reduction: mean over samples.

    Raises:
        InputError: samples or channels differ, or do not fit the classifier.

    Source: Yang, Martinez, Bulat, Tzimiropoulos 2021, "Knowledge distillation via softmax
    regression representation learning", ICLR 2021; code: jingyang2017/KD_SRRL, which takes means
    where the paper has sums: alpha = 2/C and beta = 1/K give its value.

    >>> softmax_regression(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), weight=torch.eye(2) * 3)
    tensor(9.5000)
    """
    student, teacher = comparable(pooled(student), pooled(teacher), None, remedy=_REMEDY)
    if weight.ndim != 2 or weight.shape[1] != student.shape[1]:
        raise InputError(
            f"a classifier of weight {tuple(weight.shape)} met features {tuple(student.shape)}",
            expected="a weight of (classes, features)",
            remedy="Tap what enters the teacher's last linear layer.",
        )
    features = (student - teacher).square().sum(1) / 2
    weight = weight.detach().to(student.dtype)
    bias = None if bias is None else bias.detach().to(student.dtype)
    answers = F.linear(student, weight, bias), F.linear(teacher, weight, bias)
    distance = logit_mse if compare == "l2" else kl
    return reduce(alpha * features + beta * distance(*answers, reduction="none"), None, reduction)


@declare(Spec("feature", "Chen et al. 2022 (SimKD), arXiv:2203.14001", "shape"))
def simkd(
    student: Tensor,
    teacher: Tensor,
    *,
    features: Literal["sum", "mean"] = "sum",
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Squared distance between the student's projected features and the teacher's last ones.

    $$\lVert P(f_s) - f_t \rVert^2$$

    It is the only loss of SimKD, with no label: the student then answers through the teacher's own
    classifier. The projector P and that classifier are
    :class:`limbeck.losses.heads.ReusedClassifier`, a part of the student; tap its ``projector``.

    Args:
        student: projected maps (B, C, H, W), vectors (B, C) or tokens (B, T, C).
        teacher: features of the same shape, from before its last pooling; no gradient reaches them.
        features: ``sum`` is the paper's norm, ``mean`` divides it by the number of features, as the
            authors' code does, for which its weight 1 was chosen.
        mask: (B, T), true where a token counts.
        reduction: mean over samples (or unmasked tokens).

    Raises:
        InputError: the shapes differ.

    Source: Chen, Mei, Zhang, Wang, Feng, Chen 2022, "Knowledge Distillation with the Reused Teacher
    Classifier", arXiv:2203.14001, eq. 2; code: DefangChen/SimKD.

    >>> simkd(torch.zeros(2, 3), torch.ones(2, 3))
    tensor(3.)
    """
    student, teacher = comparable(student, teacher, mask, remedy=_REMEDY)
    own = (2,) if student.ndim == 3 else tuple(range(1, student.ndim))
    squared = (student - teacher).square()
    return reduce(squared.sum(own) if features == "sum" else squared.mean(own), mask, reduction)


@declare(Spec("feature", "Guo et al. 2023 (CAT-KD), arXiv:2304.12777"))
def class_activation(
    student: Tensor,
    teacher: Tensor,
    *,
    resolution: int = 2,
    normalize: bool = True,
    student_classifier: Tensor | None = None,
    teacher_classifier: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Distance between class activation maps: where each class is seen.

    $$\frac1K \sum_k \Big\lVert \frac{\phi(A^s_k)}{\lVert \phi(A^s_k) \rVert} -
    \frac{\phi(A^t_k)}{\lVert \phi(A^t_k) \rVert} \Big\rVert^2$$

    φ averages a map down to ``resolution``². A class's map is the last feature map weighted by that
    class's row of the last linear layer. Student and teacher may have maps of different size. A map
    that is zero everywhere has no direction and stays as it is.

    Args:
        student: class activation maps (B, K, H, W), or with ``student_classifier`` the last feature
            maps (B, C, H, W).
        teacher: the same of the teacher (B, K, H', W') or (B, C', H', W').
        resolution: to which size maps are averaged; 2 on CIFAR-100, where the last maps are 8×8.
        normalize: divide each class's map by its length, as in the paper; without it, classes that
            are seen strongly dominate.
        student_classifier: the weight (K, C) of the student's last linear layer; it learns too.
        teacher_classifier: the weight (K, C') of the teacher's; it gets no gradient.
        reduction: mean over samples of the mean over classes of the sum over positions.

    Raises:
        InputError: samples or classes differ, or a classifier does not fit its maps.

    Source: Guo, Yan, Li, Lin 2023, "Class Attention Transfer Based Knowledge Distillation", CVPR
    2023, arXiv:2304.12777; code: GzyAftermath/CAT-KD, which takes the mean over positions (divide
    by resolution²).

    >>> left, right = torch.tensor([[[[2.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
    >>> # each class: (1, 0, 1, 0)/√2 against (0, 1, 0, 1)/√2
    >>> class_activation(left.expand(1, 3, 2, 2), right.expand(1, 3, 2, 2))
    tensor(2.0000)
    """
    student = _activation_maps(student, student_classifier)
    given = None if teacher_classifier is None else teacher_classifier.detach()
    teacher = _activation_maps(teacher, given)
    own, theirs = (
        F.adaptive_avg_pool2d(maps, resolution).flatten(2) for maps in (student, teacher)
    )
    remedy = "Give both models the same number of classes."
    own, theirs = comparable(own, theirs, None, remedy=remedy)
    if normalize:
        own, theirs = unit(own), unit(theirs)
    return reduce((own - theirs).square().sum(2).mean(1), None, reduction)


@declare(Spec("feature", _OFA, "classes", zero_at_equal=False))
def one_for_all(
    student: Tensor,
    teacher: Tensor,
    *,
    targets: Tensor,
    gamma: float = 1.0,
    form: Literal["paper", "code"] = "paper",
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy with the teacher's answer in which the labelled class counts for more.

    $$-(1 + p_y)^\gamma \log q_y - \sum_{c \ne y} p_c \log q_c$$

    γ > 1 strengthens the label most where the teacher is sure of it, which helps between families
    of architectures whose dark knowledge differs. The student's logits come from its end or from an
    exit on a stage (:class:`limbeck.losses.exits.OneForAll`). With γ = 1 it is
    :func:`limbeck.losses.soft_cross_entropy` plus the cross-entropy with the label.

    There is no temperature in the paper: with γ ≠ 1 no power of T would keep the gradient's scale.
    Divide both logits by T for the temperature of the authors' code.

    Args:
        student: logits (B, K) or (B, T, K), of the student or of an exit.
        teacher: logits of the same shape; no gradient reaches them.
        targets: the labels (B,) or (B, T), int64; what stands at masked places does not matter.
        gamma: γ, the authors use 1 to 1.5.
        form: ``paper`` is the formula above, label's cross-entropy included. ``code`` leaves that
            out (the label's weight is (1 + p)^γ − 1, for its code adds the cross-entropy itself)
            and weighs the other classes by p^γ.
        mask: (B, T), true where a token counts.
        reduction: mean over samples (or unmasked tokens) of the sum over classes, in nats.

    Raises:
        InputError: the shapes differ, or the targets do not have one label per sample or token.

    Source: Hao et al. 2023, "One-for-All: Bridge the Gap Between Heterogeneous Architectures in
    Knowledge Distillation", arXiv:2310.19444, eq. 6; code: Hao840/OFAKD.

    >>> even = torch.zeros(1, 2)
    >>> one_for_all(even, even, targets=torch.tensor([0]))  # (1½ + ½) · log 2
    tensor(1.3863)
    """
    remedy = "Give both models the same number of classes."
    student, teacher = comparable(student, teacher, mask, remedy=remedy)
    if targets.shape != student.shape[:-1]:
        raise InputError(
            f"one_for_all got targets of shape {tuple(targets.shape)} for logits "
            f"{tuple(student.shape)}",
            expected="one label per sample or token",
        )
    log_q, p = F.log_softmax(student, -1), F.softmax(teacher, -1)
    labelled = targets[..., None] == torch.arange(p.shape[-1], device=p.device)
    enhanced = (1 + p) ** gamma - (1 if form == "code" else 0)
    weights = torch.where(labelled, enhanced, p**gamma if form == "code" else p)
    counting = weights > 0
    terms = weights * log_q.masked_fill(~counting, 0.0)
    return reduce(-terms.sum(-1), mask, reduction)


def pooled(features: Tensor) -> Tensor:
    """Average maps (B, C, H, W) to (B, C); leave (B, C) as it is."""
    if features.ndim not in (2, 4):
        raise InputError(
            f"a tensor of shape {tuple(features.shape)} cannot enter a classifier",
            expected="maps (B, C, H, W) or vectors (B, C)",
            remedy="Tap what enters the last linear layer.",
        )
    return features.mean((2, 3)) if features.ndim == 4 else features


def _activation_maps(maps: Tensor, classifier: Tensor | None) -> Tensor:
    """Return class activation maps (B, K, H, W)."""
    if maps.ndim != 4 or (classifier is not None and classifier.shape[1:] != maps.shape[1:2]):
        shape = None if classifier is None else tuple(classifier.shape)
        raise InputError(
            f"class_activation got maps {tuple(maps.shape)} and a classifier {shape}",
            expected="maps (B, C, H, W), and a weight (classes, C) or none",
        )
    if classifier is None:
        return maps
    return torch.einsum("bchw,kc->bkhw", maps, classifier.to(maps.dtype))
