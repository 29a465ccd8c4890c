"""The teacher's classifier, kept as it is, and what leads a student's maps to it.

Letters: B samples, C channels (or features), H×W positions of a map, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.losses.classifiers import pooled

__all__ = ["FrozenClassifier", "ReusedClassifier", "conv_norm", "last_linear", "projector"]


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
        *conv_norm(student_channels, inner, 1),
        *conv_norm(inner, inner, 3),
        *conv_norm(inner, teacher_channels, 1),
    )


def conv_norm(channels: int, wanted: int, kernel: int) -> tuple[nn.Module, ...]:
    """Return a convolution that keeps the size, batch normalisation and ReLU."""
    convolution = nn.Conv2d(channels, wanted, kernel, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(wanted), nn.ReLU()


def last_linear(model: nn.Module | None, path: str, whose: str) -> nn.Linear:
    """Return a model's linear layer of that path, or its last one."""
    layers = [] if model is None else model.named_modules()
    found = {name: module for name, module in layers if isinstance(module, nn.Linear)}
    if (path and path not in found) or not found:
        raise InputError(
            f"the {whose}'s last linear layer{f' {path!r}' if path else ''} was not found",
            expected=f"one of its layers: {', '.join(found)}"
            if found
            else f"a {whose} that is a module and has one; a store of answers has none",
            remedy="Name the layer in the method's options."
            if found
            else f"Give the {whose} itself.",
        )
    return found[path] if path else list(found.values())[-1]
