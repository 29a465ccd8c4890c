"""What stands between features and an answer: connectors, exits and the teacher's classifier.

Letters: B samples, C channels (or features), H×W positions of a map, K classes, T tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
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
from limbeck.losses.spec import Reduction, Setting, Spec, declare

__all__ = [
    "ClassActivation",
    "FrozenClassifier",
    "OneForAll",
    "ReusedClassifier",
    "SimKD",
    "SoftmaxRegression",
    "projector",
]


class FrozenClassifier(nn.Module):
    """The teacher's last linear layer, as buffers: saved and moved with the module, never trained.

    Until :meth:`reuse` (or a loaded ``state_dict``) has filled them they are NaN, so that
    forgetting it cannot pass unnoticed.

    Args:
        features: C, what enters the layer.
        classes: K.

    >>> FrozenClassifier(2, 3).reuse(nn.Linear(2, 3))(torch.zeros(5, 2)).shape
    torch.Size([5, 3])
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.full((classes, features), torch.nan))
        self.register_buffer("bias", torch.full((classes,), torch.nan))

    def reuse(self, classifier: nn.Linear) -> FrozenClassifier:
        """Copy the teacher's last layer, and return self."""
        if classifier.weight.shape != self.weight.shape:
            raise InputError(
                f"the teacher's last layer has a weight of {tuple(classifier.weight.shape)}",
                expected=f"{tuple(self.weight.shape)}",
            )
        with torch.no_grad():
            self.weight.copy_(classifier.weight)
            self.bias.zero_()
            if classifier.bias is not None:
                self.bias.copy_(classifier.bias)
        return self

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, K) of features (B, C)."""
        return F.linear(features, self.weight, self.bias)


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
        self.connector = nn.Sequential(*_step(student_channels, teacher_channels, 1))
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
        layer = _last_linear(setting.teacher, classifier, "teacher")
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


class ReusedClassifier(nn.Module):
    """The end of a SimKD student: a projector to the teacher's features, and the teacher's answer.

    It is a part of the student, trained by :func:`simkd` on the output of ``projector`` alone, and
    ships with it: ``nn.Sequential(body, ReusedClassifier(...))``, matched at ``1.projector``.

    Args:
        student_channels: of the maps (B, C, H, W) that enter.
        teacher_channels: of the teacher's last maps.
        classes: K.
        factor: by how much the projector's inner width is smaller than the teacher's channels.
        size: (H, W) of the teacher's maps if the student's are larger: they are averaged to it
            first.

    Source: Chen et al. 2022, arXiv:2203.14001; code: DefangChen/SimKD.

    >>> end = ReusedClassifier(4, 6, 3).reuse(nn.Linear(6, 3))
    >>> end(torch.randn(2, 4, 5, 5)).shape, end.projector(torch.randn(2, 4, 5, 5)).shape
    (torch.Size([2, 3]), torch.Size([2, 6, 5, 5]))
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        classes: int,
        *,
        factor: int = 2,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.resize: nn.Module = nn.Identity() if size is None else nn.AdaptiveAvgPool2d(size)
        self.projector = projector(student_channels, teacher_channels, factor)
        self.classifier = FrozenClassifier(teacher_channels, classes)

    def reuse(self, classifier: nn.Linear) -> ReusedClassifier:
        """Copy the teacher's last layer, and return self."""
        self.classifier.reuse(classifier)
        return self

    def forward(self, maps: Tensor) -> Tensor:
        """Return logits (B, K) of the student's maps (B, C, H, W)."""
        logits: Tensor = self.classifier(pooled(self.projector(self.resize(maps))))
        return logits


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
                "and train what it returns.",
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


def projector(student_channels: int, teacher_channels: int, factor: int = 2) -> nn.Sequential:
    """Return SimKD's projector from the student's maps to the teacher's, at the same size.

    Args:
        student_channels: of the maps that enter.
        teacher_channels: of the maps that leave.
        factor: by how much its inner width is smaller than the teacher's channels.

    >>> projector(4, 6)(torch.randn(2, 4, 5, 5)).shape
    torch.Size([2, 6, 5, 5])
    """
    inner = max(teacher_channels // factor, 1)
    return nn.Sequential(
        *_step(student_channels, inner, 1),
        *_step(inner, inner, 3),
        *_step(inner, teacher_channels, 1),
    )


def _step(channels: int, wanted: int, kernel: int) -> tuple[nn.Module, ...]:
    """Return a convolution that keeps the size, batch normalisation and ReLU."""
    convolution = nn.Conv2d(channels, wanted, kernel, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(wanted), nn.ReLU()


def _last_linear(model: nn.Module | None, path: str, whose: str) -> nn.Linear:
    """Return a model's linear layer of that path, or its last one."""
    layers = [] if model is None else model.named_modules()
    found = {name: module for name, module in layers if isinstance(module, nn.Linear)}
    if (path and path not in found) or not found:
        raise InputError(
            f"the {whose}'s last linear layer {path!r} was not found",
            expected=f"one of its layers: {', '.join(found)}"
            if found
            else f"a {whose} that is a module and has one; a store of answers has none",
            remedy="Name the layer in the method's options."
            if found
            else f"Give the {whose} itself.",
        )
    return found[path] if path else list(found.values())[-1]


def _of_maps(model: nn.Module | None, path: str, maps: Tensor, whose: str) -> nn.Linear:
    """Return a model's last linear layer, which takes one feature for each channel of its maps."""
    layer = _last_linear(model, path, whose)
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
