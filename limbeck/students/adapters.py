"""Adapters: what makes a student's tensor comparable with a teacher's.

They are inferred from the shapes of a dry run, trained with the student, and left behind when the
student ships.

Letters: B samples, C channels, H×W positions, N tokens, D features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError, unknown
from limbeck.losses.spec import Align

__all__ = ["ADAPTERS", "Alignment", "Alignments", "align"]

ADAPTERS = ("auto", "conv1x1", "interpolate", "linear", "none", "pool")

_Shape = tuple[int, ...]


class Alignment(nn.Module):
    """The adapters of one match: a trainable one for the student, a fixed one for the teacher.

    Attributes:
        student: applied to the student's tensor.
        teacher: applied to the teacher's; it has no parameters.
        text: what the two do, for reports; empty if nothing.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, text: str) -> None:
        super().__init__()
        self.student, self.teacher, self.text = student, teacher, text

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return both tensors, comparable."""
        return self.student(student), self.teacher(teacher)


class Alignments(nn.Module):
    """The adapters of a match of several tensors on each side.

    Attributes:
        pairs: an :class:`Alignment` for each pair.
        text: what they do; empty if nothing.
    """

    def __init__(self, pairs: Sequence[Alignment]) -> None:
        super().__init__()
        self.pairs = nn.ModuleList(pairs)
        self.text = "; ".join(pair.text for pair in pairs if pair.text)

    def forward(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return both sides, comparable."""
        found = zip(self.pairs, student, teacher, strict=True)
        own, theirs = zip(*(pair(s, t) for pair, s, t in found), strict=True)
        return own, theirs


class _Resize(nn.Module):
    """Bring maps (B, C, ...) to H×W: by averaging, or bilinearly if they must grow."""

    def __init__(self, size: tuple[int, int], *, grow: bool = False) -> None:
        super().__init__()
        self.size, self.grow = size, grow

    def forward(self, maps: Tensor) -> Tensor:
        if self.grow:
            return F.interpolate(maps, self.size, mode="bilinear", align_corners=False)
        return F.adaptive_avg_pool2d(maps, self.size)


class _Squeeze(nn.Module):
    """Average maps (B, C, H, W) to (B, C)."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=(2, 3))


def align(
    student: _Shape, teacher: _Shape, need: Align, adapter: str | nn.Module | None = "auto"
) -> Alignment:
    """Return the adapters with which two tensors can be compared.

    Where sizes differ, the larger map is averaged down to the smaller, on whichever side it is; no
    detail is invented. Where channels or features differ, the student gets a 1×1 convolution or a
    linear layer to the teacher's.

    Args:
        student: the student tensor's shape, (B, D), (B, N, D) or (B, C, H, W).
        teacher: the teacher tensor's shape.
        need: what the loss requires to be equal, from its :class:`limbeck.losses.Spec`.
        adapter: ``auto`` does what ``need`` asks for and no more; ``linear`` or ``conv1x1`` always
            puts one in; ``interpolate`` resizes the student's map to the teacher's, up or down;
            ``pool`` only averages maps; ``none`` (or ``None``) does nothing. A module is used on
            the student's side as it is.

    Raises:
        InputError: the shapes cannot be brought together; the name is unknown.

    >>> align((2, 16, 32, 32), (2, 64, 8, 8), "shape").text
    'student: pool to 8×8, conv1x1 16→64'
    """
    if isinstance(adapter, nn.Module):
        return Alignment(adapter, nn.Identity(), f"student: {type(adapter).__name__}")
    if adapter is not None and adapter not in ADAPTERS:
        raise unknown("adapter", adapter, ADAPTERS)
    if adapter in (None, "none") or (adapter == "auto" and need in ("none", "classes")):
        return Alignment(nn.Identity(), nn.Identity(), "")
    own: list[tuple[nn.Module, str]] = []
    theirs: list[tuple[nn.Module, str]] = []
    student, teacher = _same_kind(student, teacher, own, theirs)
    if len(student) == 4:
        _same_size(student, teacher, own, theirs, grow=adapter == "interpolate")
    wanted = adapter in ("linear", "conv1x1") or (need == "shape" and adapter != "pool")
    forced = adapter in ("linear", "conv1x1")
    if wanted and (forced or _features(student) != _features(teacher)):
        own.append(_projection(student, teacher))
    return Alignment(_chain(own), _chain(theirs), _text(own, theirs))


def _same_kind(
    student: _Shape,
    teacher: _Shape,
    own: list[tuple[nn.Module, str]],
    theirs: list[tuple[nn.Module, str]],
) -> tuple[_Shape, _Shape]:
    """Average a map to a vector where it meets one; refuse what has no obvious counterpart."""
    if len(student) == 4 and len(teacher) == 2:
        own.append((_Squeeze(), "average to a vector"))
        return student[:2], teacher
    if len(student) == 2 and len(teacher) == 4:
        theirs.append((_Squeeze(), "average to a vector"))
        return student, teacher[:2]
    if len(student) != len(teacher) or len(student) not in (2, 3, 4):
        raise InputError(
            f"a student tensor {student} cannot be adapted to a teacher tensor {teacher}",
            expected="both (B, D), (B, N, D) or (B, C, H, W), or a map and a vector",
            remedy="Give a module of your own as the match's adapter.",
        )
    if len(student) == 3 and student[1] != teacher[1]:
        raise InputError(
            f"the student has {student[1]} tokens and the teacher {teacher[1]}",
            expected="the same number",
            remedy="Give a module of your own as the match's adapter.",
        )
    return student, teacher


def _same_size(
    student: _Shape,
    teacher: _Shape,
    own: list[tuple[nn.Module, str]],
    theirs: list[tuple[nn.Module, str]],
    *,
    grow: bool,
) -> None:
    mine, other = (student[2], student[3]), (teacher[2], teacher[3])
    if mine == other:
        return
    if grow:
        own.append((_Resize(other, grow=True), f"interpolate to {other[0]}×{other[1]}"))
        return
    smaller = min(mine[0], other[0]), min(mine[1], other[1])
    for size, parts in ((mine, own), (other, theirs)):
        if size != smaller:
            parts.append((_Resize(smaller), f"pool to {smaller[0]}×{smaller[1]}"))


def _projection(student: _Shape, teacher: _Shape) -> tuple[nn.Module, str]:
    here, there = _features(student), _features(teacher)
    if len(student) == 4:
        return nn.Conv2d(here, there, kernel_size=1, bias=False), f"conv1x1 {here}→{there}"
    return nn.Linear(here, there), f"linear {here}→{there}"


def _features(shape: _Shape) -> int:
    return shape[1] if len(shape) == 4 else shape[-1]


def _chain(parts: list[tuple[nn.Module, str]]) -> nn.Module:
    return nn.Sequential(*(module for module, _ in parts)) if parts else nn.Identity()


def _text(own: list[tuple[nn.Module, str]], theirs: list[tuple[nn.Module, str]]) -> str:
    sides = (("student", own), ("teacher", theirs))
    return "; ".join(f"{who}: {', '.join(text for _, text in p)}" for who, p in sides if p)
