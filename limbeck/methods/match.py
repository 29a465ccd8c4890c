"""A match: which piece of knowledge the student must reproduce, and how the two are compared."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from typing import Any, final

from torch import Tensor, nn

from limbeck.errors import InputError, unknown
from limbeck.losses.schedules import Schedule
from limbeck.losses.spec import Setting, Spec, spec_of

__all__ = ["Match"]

_CONTEXT = ("ids", "mask", "progress", "targets")


@final
class Match:
    """Four facts: a student tap, a teacher tap, an adapter, and a loss with its weight.

    Args:
        student: a tap of the student (see :mod:`limbeck.knowledge.taps`), or several for a loss
            that compares several tensors.
        teacher: a tap of the teacher, or several; ``None`` for a loss that has no use for a
            teacher, which gets the student's own tensor, detached, in its place.
        loss: a function of :mod:`limbeck.losses`, one of your own
            ``loss(student, teacher, ...) -> scalar``, or a module if it has parameters. Where it
            takes ``targets``, ``ids``, ``mask`` or ``progress``, it gets the batch's labels, the
            samples' ids, the task's mask or the progress of training (0 to 1). The class of a
            module is made by its ``build``, once the shapes are known.
        weight: the factor of the loss in the sum, or a schedule.
        adapter: how shapes are brought together (see :func:`limbeck.students.adapters.align`).
        name: of the term in logs and reports; by default the loss's name and the tap.
        options: further arguments of the loss.

    Raises:
        InputError: the loss has no such option.

    >>> from limbeck.losses import kl
    >>> Match("logits", "logits", kl, weight=0.9, temperature=4)
    Match('logits', 'logits', kl, weight=0.9, temperature=4)
    """

    def __init__(
        self,
        student: str | Sequence[str],
        teacher: str | Sequence[str] | None,
        loss: Callable[..., Any],
        *,
        weight: float | Schedule = 1.0,
        adapter: str | nn.Module | None = "auto",
        name: str = "",
        **options: Any,
    ) -> None:
        calling, building = _parameters(loss)
        parameters = calling | building
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        for option in options:
            if option not in parameters and not open_ended:
                known = [key for key in parameters if key not in ("student", "teacher")]
                raise unknown(f"option of the loss {_name(loss)}:", option, known)
        required = [
            key
            for key, parameter in list(parameters.items())[2:]
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            and key not in options
            and key not in _CONTEXT
        ]
        if required:
            raise InputError(f"the loss {_name(loss)} needs {', '.join(required)}")
        self.student = _taps(student)
        self.teacher = None if teacher is None else _taps(teacher)
        self.loss, self.weight, self.adapter, self.options = loss, weight, adapter, options
        place = "" if student == "logits" else " ".join(["", *self.students])
        self.name = name or f"{_name(loss)}{place}"
        self.context = tuple(k for k in _CONTEXT if k in calling and k not in options)
        self._needed = [
            key
            for key in ("ids", "targets")
            if key in self.context and calling[key].default is Parameter.empty
        ]
        self._building = {k: v for k, v in options.items() if k in building}
        self._calling = {k: v for k, v in options.items() if k not in building}

    @property
    def spec(self) -> Spec:
        """What the loss declares about itself."""
        return spec_of(self.loss)

    @property
    def students(self) -> tuple[str, ...]:
        """The student's taps."""
        return (self.student,) if isinstance(self.student, str) else self.student

    @property
    def teachers(self) -> tuple[str, ...]:
        """The teacher's taps; none if the loss needs no teacher."""
        if self.teacher is None:
            return ()
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher

    def made(self, student: Any, teacher: Any, setting: Setting) -> Callable[..., Tensor]:
        """Return the loss, ready to be called; a class is built for these tensors and models."""
        if not isinstance(self.loss, type):
            return self.loss
        build: Callable[..., nn.Module] = self.loss.build  # type: ignore[attr-defined]
        return build(student, teacher, setting, **self._building)

    def compare(
        self,
        student: Any,
        teacher: Any,
        context: Mapping[str, Any],
        made: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """Return the value, unweighted, of the loss (as :meth:`made`) for comparable tensors."""
        given = {key: context[key] for key in self.context if context.get(key) is not None}
        missing = [key for key in self._needed if key not in given]
        if missing:
            raise InputError(
                f"the loss {_name(self.loss)} got no {' and no '.join(missing)}",
                expected="a batch that has them: (inputs, targets, ids), or a mapping with id",
            )
        return (made or self.loss)(student, teacher, **given, **self._calling)

    def __repr__(self) -> str:
        weight = self.weight if isinstance(self.weight, (int, float)) else "schedule"
        adapter = [] if self.adapter == "auto" else [f"adapter={self.adapter!r}"]
        more = [f"weight={weight}", *adapter, *(f"{k}={v!r}" for k, v in self.options.items())]
        return f"Match({self.student!r}, {self.teacher!r}, {_name(self.loss)}, {', '.join(more)})"


def _parameters(loss: Callable[..., Any]) -> tuple[dict[str, Parameter], dict[str, Parameter]]:
    """Return what a loss takes when it is called, and what its class takes when it is built."""
    if not isinstance(loss, type):
        called = loss.forward if isinstance(loss, nn.Module) else loss
        return dict(inspect.signature(called).parameters), {}
    if not hasattr(loss, "build"):
        raise InputError(
            f"the loss {loss.__name__} is a class without build",
            expected="a function, a module, or a class with build(student, teacher, setting)",
        )
    calling = list(inspect.signature(loss.forward).parameters.items())[1:]  # type: ignore[attr-defined]
    building = list(inspect.signature(loss.build).parameters.items())[3:]
    return dict(calling), dict(building)


def _taps(found: str | Sequence[str]) -> str | tuple[str, ...]:
    return found if isinstance(found, str) else tuple(found)


def _name(loss: Callable[..., Any]) -> str:
    return str(getattr(loss, "__name__", type(loss).__name__))
