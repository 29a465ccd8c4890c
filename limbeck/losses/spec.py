"""What a loss declares about itself, and the reduction that all losses share.

Letters: B samples, T tokens, C classes (or channels), V vocabulary, D features, N positions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from limbeck.errors import InputError

__all__ = [
    "ROWWISE",
    "Align",
    "Reduction",
    "Setting",
    "Spec",
    "comparable",
    "declare",
    "reduce",
    "spec_of",
]

Align = Literal["none", "classes", "positions", "shape"]
Reduction = Literal["mean", "sum", "none"]
# Options with an entry for each sample (or token); other tensors are the same for all.
ROWWISE = ("ids", "mask", "present", "sampled", "targets", "teacher_mask")
LossFunction = TypeVar("LossFunction", bound=Callable[..., Any])


@dataclass(frozen=True)
class Spec:
    """What the rest of Limbeck may rely on about a loss.

    Attributes:
        family: the chapter it belongs to: ``response``, ``feature``, ``relation``, ...
        source: the paper: authors, year, arXiv id.
        align: what must be equal in student and teacher before they can be compared. ``classes``:
            the last dimension of logits (never adapted: a mismatch is an error); ``positions``:
            the spatial size; ``shape``: everything, so a learned adapter may be needed;
            ``none``: only the number of samples.
        zero_at_equal: the loss is 0, and at its minimum, where the student equals the teacher.
        per_sample: the value is a mean of independent values per sample (or per token), so that
            masks, chunks and gradient accumulation are exact; it then takes ``reduction=``.
        slope: the gradient is the slope of the value; not so where a paper holds a factor that
            depends on the student constant.
        steady: the gradient's size does not depend on the temperature, if there is one.
    """

    family: str
    source: str
    align: Align = "none"
    zero_at_equal: bool = True
    per_sample: bool = True
    slope: bool = True
    steady: bool = True


@dataclass(frozen=True)
class Setting:
    """What a loss with parameters may want to know when it is built.

    Such a loss is a module whose class has
    ``build(cls, student, teacher, setting, **options) -> module``: it gets the tensors of a dry run
    with two samples, this, and those options of its match that ``build`` names.

    Attributes:
        student: the student's module.
        teacher: the teacher's module; ``None`` if the teacher is not one, a store for example.
    """

    student: nn.Module
    teacher: nn.Module | None = None


_SPECS: dict[Any, Spec] = {}
_UNDECLARED = Spec("user", "", "none", zero_at_equal=False, per_sample=False)


def declare(spec: Spec) -> Callable[[LossFunction], LossFunction]:
    """Attach a :class:`Spec` to a loss function, or to a loss module's class.

    It also gets what every loss needs and none should have to repeat: half-precision inputs arrive
    as float32, autocast is off inside, and the teacher's gradient is cut. A loss of several tensors
    gets a tuple of them for each side.

    >>> @declare(Spec("response", "an example, 2026", "classes"))
    ... def my_loss(student, teacher):
    ...     return (student - teacher).abs().sum(-1).mean()
    >>> my_loss(torch.ones(2, 3, dtype=torch.bfloat16), torch.zeros(2, 3)), spec_of(my_loss).align
    (tensor(3.), 'classes')
    """

    def attach(loss: LossFunction) -> LossFunction:
        if isinstance(loss, type):
            module: Any = loss
            forward = module.forward

            @functools.wraps(forward)
            def exact_forward(self: Any, student: Any, teacher: Any, **options: Any) -> Any:
                with torch.autocast(_first(student).device.type, enabled=False):
                    return forward(self, _wide(student), _cut(teacher), **options)

            module.forward = exact_forward
            _SPECS[loss] = spec
            return cast(LossFunction, loss)

        @functools.wraps(loss)
        def exact(student: Any, teacher: Any, **options: Any) -> Any:
            with torch.autocast(_first(student).device.type, enabled=False):
                return loss(_wide(student), _cut(teacher), **options)

        _SPECS[exact] = spec
        return cast(LossFunction, exact)

    return attach


def spec_of(loss: Callable[..., Any]) -> Spec:
    """Return what ``loss`` declared, or the cautious default for an undeclared callable."""
    return _SPECS.get(loss) or _SPECS.get(type(loss)) or _UNDECLARED


def comparable(
    student: Tensor, teacher: Tensor, mask: Tensor | None, *, remedy: str
) -> tuple[Tensor, Tensor]:
    """Refuse shapes that do not fit, and put zeros where ``mask`` is false: nothing leaks."""
    if student.shape != teacher.shape:
        raise InputError(
            f"the student's tensor {tuple(student.shape)} met the teacher's {tuple(teacher.shape)}",
            expected="the same shape",
            remedy=remedy,
        )
    if mask is not None:
        if mask.shape != student.shape[: mask.ndim]:
            raise _unmasked(mask, student)
        silent = ~mask.bool().view(*mask.shape, *[1] * (student.ndim - mask.ndim))
        student, teacher = student.masked_fill(silent, 0.0), teacher.masked_fill(silent, 0.0)
    return student, teacher


def reduce(values: Tensor, mask: Tensor | None, reduction: Reduction) -> Tensor:
    """Reduce values per sample (or per token), counting only those where ``mask`` is true.

    Args:
        values: (B,) or (B, T); anything may stand at masked places, NaN included.
        mask: boolean or 0/1, of the shape of ``values``; ``None`` keeps all.
        reduction: ``mean`` divides by the number kept (by 1 if none is kept).
    """
    if mask is not None:
        if mask.shape != values.shape:
            raise _unmasked(mask, values)
        keep = mask.bool()
        values = torch.where(
            keep, values, torch.zeros((), dtype=values.dtype, device=values.device)
        )
    if reduction == "none":
        return values
    if reduction == "sum":
        return values.sum()
    return values.mean() if mask is None else values.sum() / keep.sum().clamp(min=1)


def _unmasked(mask: Tensor, values: Tensor) -> InputError:
    return InputError(
        f"a mask of shape {tuple(mask.shape)} came with values of shape {tuple(values.shape)}",
        expected="one mask entry per sample or token",
    )


def _first(tensors: Any) -> Tensor:
    """Return a tensor, or the first of several."""
    return tensors if isinstance(tensors, Tensor) else tensors[0]


def _wide(tensors: Any) -> Any:
    """Cast half precision to float32; leave float32 and float64 as they are."""
    if not isinstance(tensors, Tensor):
        return tuple(_wide(tensor) for tensor in tensors)
    return tensors.float() if tensors.dtype in (torch.bfloat16, torch.float16) else tensors


def _cut(tensors: Any) -> Any:
    """Widen, and let no gradient through."""
    if not isinstance(tensors, Tensor):
        return tuple(_cut(tensor) for tensor in tensors)
    return _wide(tensors.detach())
