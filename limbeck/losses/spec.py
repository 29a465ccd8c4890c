"""What a loss declares about itself, and the reduction that all losses share.

Letters: B samples, T tokens, C classes (or channels), V vocabulary, D features, N positions.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.losses import sparse
from limbeck.losses.sparse import Partial, SparseLogits

__all__ = [
    "ROWWISE",
    "Align",
    "Reduction",
    "Setting",
    "Spec",
    "comparable",
    "declare",
    "exactly",
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
        partial: what it makes of a teacher's answer of which a part is kept
            (:class:`limbeck.losses.SparseLogits`). ``merged``: it compares two distributions at its
            temperature and nothing else, so that classes may change places and several count as
            one; ``linear``: besides, it is T² times a term that is linear in the teacher's
            probabilities, less T² times the teacher's entropy if it is ``zero_at_equal``, so that
            classes drawn at random give the right value on average; ``top``: only the teacher's
            most likely class counts; ``refused``: it needs all logits.
        whole_batch: built by a match, it sees the samples of all processes, for it compares them or
            remembers them; functions are wrapped in :func:`limbeck.losses.wrap.gathered`.
        waits: why a step waits for the device, as choosing rows by mask does; empty: it does not.
        uncompiled: why ``torch.compile`` cannot make one graph of it; empty: it can.
        unmapped: why ``torch.func`` cannot differentiate it or map it over samples; empty: it can.
    """

    family: str
    source: str
    align: Align = "none"
    zero_at_equal: bool = True
    per_sample: bool = True
    slope: bool = True
    steady: bool = True
    whole_batch: bool = False
    waits: str = ""
    uncompiled: str = ""
    unmapped: str = ""
    partial: Partial = "refused"


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


def declare(spec: Spec, *, passes: bool = False) -> Callable[[LossFunction], LossFunction]:
    """Attach a :class:`Spec` to a loss function, or to a loss module's class.

    It also gets what every loss needs and none should have to repeat: half-precision inputs arrive
    as float32, autocast is off inside, and the teacher's gradient is cut. A loss of several tensors
    gets a tuple of them for each side. Of a teacher's answer of which a part is kept, it gets what
    ``spec.partial`` allows, as logits of fewer classes on both sides.

    Args:
        spec: what the loss says of itself.
        passes: it hands its tensors on to a declared loss, which then sees to such an answer.

    >>> @declare(Spec("response", "an example, 2026", "classes"))
    ... def my_loss(student, teacher):
    ...     return (student - teacher).abs().sum(-1).mean()
    >>> my_loss(torch.ones(2, 3, dtype=torch.bfloat16), torch.zeros(2, 3)), spec_of(my_loss).align
    (tensor(3.), 'classes')
    """

    def attach(loss: LossFunction) -> LossFunction:
        given = _Given(spec, loss, passes)
        if isinstance(loss, type):
            module: Any = loss
            forward = module.forward

            @functools.wraps(forward)
            def exact_forward(self: Any, student: Any, teacher: Any, **options: Any) -> Any:
                with exactly(_first(student).device.type):
                    return given.to(functools.partial(forward, self), student, teacher, options)

            module.forward = exact_forward
            _SPECS[loss] = spec
            return cast(LossFunction, loss)

        @functools.wraps(loss)
        def exact(student: Any, teacher: Any, **options: Any) -> Any:
            with exactly(_first(student).device.type):
                return given.to(loss, student, teacher, options)

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


class _Given:
    """The form in which a declared loss gets its two sides."""

    def __init__(self, spec: Spec, loss: Any, passes: bool) -> None:
        self.spec, self.passes = spec, passes
        self.name = getattr(loss, "__name__", type(loss).__name__)
        called = loss.forward if isinstance(loss, type) else loss  # type: ignore[attr-defined]
        option = inspect.signature(called).parameters.get("temperature")
        self.temperature = 1.0 if option is None else option.default

    def to(
        self, loss: Callable[..., Any], student: Any, teacher: Any, options: dict[str, Any]
    ) -> Any:
        """Return the value of the loss."""
        if isinstance(teacher, Tensor):
            return loss(_wide(student), _wide(teacher.detach()), **options)
        several = teacher if isinstance(teacher, (tuple, list)) else (teacher,)
        known = [answer for answer in several if isinstance(answer, SparseLogits)]
        if self.passes or not known:
            return loss(_wide(student), _cut(teacher), **options)
        if teacher is not known[0]:
            raise sparse.refusal(self.name, known[0])
        return self._to_part(loss, _wide(student), known[0].detach(), options)

    def _to_part(
        self,
        loss: Callable[..., Any],
        student: Tensor,
        teacher: SparseLogits,
        options: dict[str, Any],
    ) -> Any:
        """Return the value for a teacher's answer of which a part is kept."""
        mask, temperature = options.get("mask"), options.get("temperature", self.temperature)
        pair = sparse.reduced(
            student, teacher, self.spec.partial, mask, temperature=temperature, name=self.name
        )
        value = loss(*pair, **options)
        if teacher.entropy is None or not self.spec.zero_at_equal:
            return value
        return value + reduce(sparse.surplus(teacher), mask, options.get("reduction", "mean"))


def exactly(device: str) -> AbstractContextManager[Any]:
    """Switch autocast off where it is on; ``meta``, which computes nothing, has none."""
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def _first(tensors: Any) -> Tensor:
    """Return a tensor, or the first of several."""
    return tensors if isinstance(tensors, Tensor) else tensors[0]


def _wide(tensors: Any) -> Any:
    """Cast half precision to float32; leave float32 and float64 as they are."""
    if isinstance(tensors, SparseLogits):
        raise InputError(
            f"the student's answer is {tensors}", expected="a tensor: only a teacher's is kept"
        )
    if not isinstance(tensors, Tensor):
        return tuple(_wide(tensor) for tensor in tensors)
    return tensors.float() if tensors.dtype in (torch.bfloat16, torch.float16) else tensors


def _cut(tensors: Any) -> Any:
    """Widen, and let no gradient through."""
    if isinstance(tensors, SparseLogits):
        return tensors.detach()
    if not isinstance(tensors, Tensor):
        return tuple(_cut(tensor) for tensor in tensors)
    return _wide(tensors.detach())
