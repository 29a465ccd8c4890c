"""Losses that own what stands between features and an answer: connectors and exits.

Letters: B samples, C channels (or features), H×W positions of a map, K classes, T tokens.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.losses.classifiers import (
    class_activation,
    one_for_all,
    pooled,
    simkd,
    softmax_regression,
)
from limbeck.losses.heads import FrozenClassifier, conv_norm, last_linear
from limbeck.losses.spec import Reduction, Setting, Spec, declare

__all__ = ["ClassActivation", "OneForAll", "SimKD", "SoftmaxRegression"]


@declare(
    Spec("feature", "Yang, Martinez, Bulat, Tzimiropoulos 2021 (SRRL), ICLR 2021", per_sample=False)
)
class SoftmaxRegression(nn.Module):
    """:func:`softmax_regression` with its connector and the teacher's classifier.

    The connector is a 1×1 convolution, batch normalisation and ReLU, from the student's channels to
    the teacher's. Batch normalisation makes the value depend on the batch.

    Args:
        student_channels: of the student's last maps or features.
        teacher_channels: of the teacher's.
        classes: K.
        alpha: weight of the features' part.
        beta: weight of the logits' part.
        compare: ``l2`` or ``kl``, see the function.
        form: ``paper`` is the function's formula. ``code`` takes means over features and over
            classes in place of the sums and drops the ½, as the authors' code does.

    >>> import torch
    >>> loss = SoftmaxRegression(4, 6, 3).reuse(nn.Linear(6, 3))
    >>> loss(torch.randn(2, 4, 5, 5), torch.randn(2, 6, 5, 5)).shape
    torch.Size([])
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        classes: int,
        *,
        alpha: float = 1.0,
        beta: float = 1.0,
        compare: Literal["l2", "kl"] = "l2",
        form: Literal["paper", "code"] = "paper",
    ) -> None:
        super().__init__()
        self.connector = nn.Sequential(*conv_norm(student_channels, teacher_channels, 1))
        self.classifier = FrozenClassifier(teacher_channels, classes)
        if form == "code":
            alpha, beta = 2 * alpha / teacher_channels, beta / (classes if compare == "l2" else 1)
        self.alpha, self.beta = alpha, beta
        self.compare: Literal["l2", "kl"] = compare

    @classmethod
    def build(
        cls,
        student: Tensor,
        teacher: Tensor,
        setting: Setting,
        *,
        classifier: str = "",
        alpha: float = 1.0,
        beta: float = 1.0,
        compare: Literal["l2", "kl"] = "l2",
        form: Literal["paper", "code"] = "paper",
    ) -> SoftmaxRegression:
        """Return the module for these features, with the teacher's classifier.

        Args:
            student: maps or features of the student.
            teacher: of the teacher.
            setting: the two models.
            classifier: path of the teacher's last linear layer; by default the last one that its
                modules list.
            alpha: weight of the features' part.
            beta: weight of the logits' part.
            compare: ``l2`` or ``kl``.
            form: ``paper`` or ``code``.

        Raises:
            InputError: the teacher is not a module or has no such layer, or the student's tensor
                is neither maps nor vectors.
        """
        layer = last_linear(setting.teacher, classifier, "teacher")
        pooled(student)  # refuses tokens
        made = cls(
            student.shape[1],
            teacher.shape[1],
            layer.out_features,
            alpha=alpha,
            beta=beta,
            compare=compare,
            form=form,
        )
        return made.reuse(layer)

    def reuse(self, classifier: nn.Linear) -> SoftmaxRegression:
        """Copy the teacher's last layer, and return self."""
        self.classifier.reuse(classifier)
        return self

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of maps (B, C, H, W) or features (B, C) and the teacher's."""
        maps = student[:, :, None, None] if student.ndim == 2 else student
        return softmax_regression(
            pooled(self.connector(maps)),
            pooled(teacher),
            weight=self.classifier.weight,
            bias=self.classifier.bias,
            alpha=self.alpha,
            beta=self.beta,
            compare=self.compare,
        )


@declare(Spec("feature", "Hao et al. 2023 (OFA-KD), arXiv:2310.19444", zero_at_equal=False))
class OneForAll(nn.Module):
    """:func:`one_for_all` on a stage of the student, through an exit that gives logits.

    The exit is pooling, layer normalisation and a linear layer: the paper's exits put further
    blocks of the student's family before that, which an adapter can add.

    Args:
        channels: of the stage's maps (B, C, H, W), tokens (B, T, C) or vectors (B, C).
        classes: K, of the teacher's logits.
        gamma: γ, see the function.
        form: ``paper`` or ``code``, see the function.

    >>> import torch
    >>> exit = OneForAll(4, 3)
    >>> exit(torch.randn(2, 4, 5, 5), torch.randn(2, 3), targets=torch.tensor([0, 2])).shape
    torch.Size([])
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        gamma: float = 1.0,
        form: Literal["paper", "code"] = "paper",
    ) -> None:
        super().__init__()
        self.exit = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, classes))
        self.gamma = gamma
        self.form: Literal["paper", "code"] = form

    @classmethod
    def build(
        cls,
        student: Tensor,
        teacher: Tensor,
        setting: Setting,
        *,
        gamma: float = 1.0,
        form: Literal["paper", "code"] = "paper",
    ) -> OneForAll:
        """Return the module for a stage's output and the teacher's logits."""
        channels = student.shape[2 if student.ndim == 3 else 1]
        return cls(channels, teacher.shape[-1], gamma=gamma, form=form)

    def forward(
        self, student: Tensor, teacher: Tensor, *, targets: Tensor, reduction: Reduction = "mean"
    ) -> Tensor:
        """Return the loss of a stage's output and the teacher's logits (B, K)."""
        features = student.mean(1) if student.ndim == 3 else pooled(student)
        return one_for_all(
            self.exit(features),
            teacher,
            targets=targets,
            gamma=self.gamma,
            form=self.form,
            reduction=reduction,
        )


@declare(Spec("feature", "Chen et al. 2022 (SimKD), arXiv:2203.14001"))
class SimKD(nn.Module):
    """:func:`simkd` in the mean over features, for a student that has the teacher's classifier.

    Where sizes differ, the larger map is averaged to the smaller. It has no parameters: the
    projector is the student's.

    >>> import torch
    >>> SimKD()(torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 8, 8))
    tensor(1.)
    """

    @classmethod
    def build(cls, student: Tensor, teacher: Tensor, setting: Setting) -> SimKD:
        """Return the module, once it is clear that this student can learn by it.

        Raises:
            InputError: the student does not answer through a teacher's classifier, or the projected
                maps do not have the teacher's channels.
        """
        if not any(isinstance(part, FrozenClassifier) for part in setting.student.modules()):
            raise InputError(
                f"the student, a {type(setting.student).__name__}, has a classifier of its own",
                expected="one that ends in the teacher's",
                consequence="SimKD learns without labels: that classifier would stay as it is.",
                remedy="Call limbeck.students.reuse_classifier(student, teacher, sample) first, "
                "and train what it returns; in a recipe: student: {reuse_classifier: true}.",
            )
        if student.shape[1] != teacher.shape[1] or student.ndim != 4 or teacher.ndim != 4:
            raise InputError(
                f"the student's maps {tuple(student.shape)} met the teacher's "
                f"{tuple(teacher.shape)}",
                expected="(B, C, H, W) with the same channels",
                remedy="Tap what leaves the student's projector, and the maps of the same teacher "
                "that reuse_classifier was given.",
            )
        return cls()

    def forward(self, student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
        """Return the loss of projected maps (B, C, H, W) and the teacher's (B, C, H', W')."""
        height, width = (min(own, theirs) for own, theirs in _sizes(student, teacher))
        own, theirs = (F.adaptive_avg_pool2d(t, (height, width)) for t in (student, teacher))
        return simkd(own, theirs, features="mean", reduction=reduction)


@declare(Spec("feature", "Guo et al. 2023 (CAT-KD), arXiv:2304.12777"))
class ClassActivation(nn.Module):
    """:func:`class_activation` of two models that average their last maps before one linear layer.

    The student's layer remains the student's, and learns from this loss too; the teacher's is
    copied.

    Args:
        student_classifier: the student's last linear layer.
        teacher_classifier: the teacher's.
        resolution: to which size maps are averaged.
        normalize: divide each class's map by its length.

    >>> import torch
    >>> loss = ClassActivation(nn.Linear(4, 3), nn.Linear(6, 3))
    >>> loss(torch.randn(2, 4, 8, 8), torch.randn(2, 6, 8, 8)).shape, list(loss.parameters())
    (torch.Size([]), [])
    """

    def __init__(
        self,
        student_classifier: nn.Linear,
        teacher_classifier: nn.Linear,
        *,
        resolution: int = 2,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        # In a tuple, so that PyTorch does not take the student's layer for a part of this.
        self._aside = (student_classifier,)
        theirs = teacher_classifier
        self.classifier = FrozenClassifier(theirs.in_features, theirs.out_features).reuse(theirs)
        self.resolution, self.normalize = resolution, normalize

    @classmethod
    def build(
        cls,
        student: Tensor,
        teacher: Tensor,
        setting: Setting,
        *,
        student_classifier: str = "",
        teacher_classifier: str = "",
        resolution: int = 2,
        normalize: bool = True,
    ) -> ClassActivation:
        """Return the module for these maps, with both models' classifiers.

        Args:
            student: the student's last maps.
            teacher: the teacher's.
            setting: the two models.
            student_classifier: path of the student's last linear layer; by default the last one
                that its modules list.
            teacher_classifier: path of the teacher's.
            resolution: to which size maps are averaged.
            normalize: divide each class's map by its length.

        Raises:
            InputError: a model is not a module or has no such layer, or its layer does not take the
                channels of the maps.
        """
        own = _of_maps(setting.student, student_classifier, student, "student")
        theirs = _of_maps(setting.teacher, teacher_classifier, teacher, "teacher")
        return cls(own, theirs, resolution=resolution, normalize=normalize)

    def forward(self, student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
        """Return the loss of the last maps (B, C, H, W) and the teacher's (B, C', H', W')."""
        return class_activation(
            student,
            teacher,
            resolution=self.resolution,
            normalize=self.normalize,
            student_classifier=self._aside[0].weight,
            teacher_classifier=self.classifier.weight,
            reduction=reduction,
        )


def _of_maps(model: nn.Module | None, path: str, maps: Tensor, whose: str) -> nn.Linear:
    """Return a model's last linear layer, which takes one feature for each channel of its maps."""
    layer = last_linear(model, path, whose)
    if maps.ndim != 4 or maps.shape[1] != layer.in_features:
        raise InputError(
            f"the {whose}'s last linear layer takes {layer.in_features} features, and its maps are "
            f"{tuple(maps.shape)}",
            expected="maps (B, C, H, W) that are averaged and then enter a layer of C features",
            consequence="Without that, classes have no activation maps.",
            remedy="Tap the maps before the last pooling, or name the layer in the method's "
            "options.",
        )
    return layer


def _sizes(student: Tensor, teacher: Tensor) -> list[tuple[int, int]]:
    """Return (student's, teacher's) height, and the same of the width."""
    return list(zip(student.shape[2:], teacher.shape[2:], strict=True))
