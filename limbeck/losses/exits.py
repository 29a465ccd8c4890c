"""What stands between features and an answer: connectors, exits and the teacher's classifier.

Letters: B samples, C channels (or features), H×W positions of a map, K classes, T tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.losses.classifiers import one_for_all, pooled, softmax_regression
from limbeck.losses.spec import Reduction, Setting, Spec, declare

__all__ = ["FrozenClassifier", "OneForAll", "ReusedClassifier", "SoftmaxRegression"]


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
    ) -> None:
        super().__init__()
        self.connector = nn.Sequential(*_step(student_channels, teacher_channels, 1))
        self.classifier = FrozenClassifier(teacher_channels, classes)
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

        Raises:
            InputError: the teacher has no such layer.
        """
        layer = _last_linear(setting.teacher, classifier)
        channels = student.shape[1], teacher.shape[1]
        made = cls(*channels, layer.out_features, alpha=alpha, beta=beta, compare=compare)
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
        inner = teacher_channels // factor
        self.resize: nn.Module = nn.Identity() if size is None else nn.AdaptiveAvgPool2d(size)
        self.projector = nn.Sequential(
            *_step(student_channels, inner, 1),
            *_step(inner, inner, 3),
            *_step(inner, teacher_channels, 1),
        )
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


def _step(channels: int, wanted: int, kernel: int) -> tuple[nn.Module, ...]:
    """Return a convolution that keeps the size, batch normalisation and ReLU."""
    convolution = nn.Conv2d(channels, wanted, kernel, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(wanted), nn.ReLU()


def _last_linear(teacher: nn.Module | None, path: str) -> nn.Linear:
    """Return the teacher's linear layer of that path, or its last one."""
    found = (
        {}
        if teacher is None
        else {
            name: module
            for name, module in teacher.named_modules()
            if isinstance(module, nn.Linear)
        }
    )
    if (path and path not in found) or not found:
        raise InputError(
            f"the teacher's last linear layer {path!r} was not found",
            expected=f"a teacher that is a module, and one of its layers: {', '.join(found)}",
            remedy='Name it with classifier="...".',
        )
    return found[path] if path else list(found.values())[-1]
