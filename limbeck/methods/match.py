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
from limbeck.losses.wrap import gathered, processes

__all__ = ["Match"]

_CONTEXT = ("ids", "likelihood", "mask", "progress", "targets", "teacher_mask", "written")


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
            samples' ids, the task's mask or the progress of training (0 to 1); as ``teacher_mask``,
            which of the teacher's tokens count, where it has other ones; as ``written`` and
            ``likelihood``, what the student drew and how likely that was, where it wrote the batch.
            The class of a module is made by its ``build``, once the shapes are known.
        weight: the factor of the loss in the sum, or a schedule.
        adapter: how shapes are brought together (see :func:`limbeck.students.adapters.align`).
        name: of the term in logs and reports; by default the loss's name and the tap.
        fields: options of the loss that come from the batch, and the batch's field for each:
            ``{"sampled": "negatives"}``. They may stand in for those above:
            ``{"targets": "boxes"}``.
        taps: options of the loss that come from further taps of the student:
            ``{"sampled": "output[sampled]"}``.
        views: whether the loss gets all views that the method shows of each sample, as rows (B·V,
            ...), and not the plain one alone; see :class:`limbeck.methods.Method`.
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
        fields: Mapping[str, str] | None = None,
        taps: Mapping[str, str] | None = None,
        views: bool = False,
        **options: Any,
    ) -> None:
        calling, building = _parameters(loss)
        parameters = calling | building
        self.fields, self.taps, self.views = dict(fields or {}), dict(taps or {}), views
        _refuse_unknown(loss, options, parameters)
        _refuse_unknown(loss, {**self.fields, **self.taps}, calling)
        _refuse_twice(loss, options, self.fields, self.taps)
        required = [
            key
            for key, parameter in list(parameters.items())[2:]
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            and key not in (*options, *self.fields, *self.taps, *_CONTEXT)
        ]
        if required:
            raise InputError(f"the loss {_name(loss)} needs {', '.join(required)}")
        self.student = _taps(student)
        self.teacher = None if teacher is None else _taps(teacher)
        self.loss, self.weight, self.adapter, self.options = loss, weight, adapter, options
        place = "" if student == "logits" else " ".join(["", *self.students])
        self.name = name or f"{_name(loss)}{place}"
        stated = (*options, *self.fields, *self.taps)
        self.context = tuple(k for k in _CONTEXT if k in calling and k not in stated)
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

    def read(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of the loss that come from the batch.

        Raises:
            InputError: the batch lacks a field.
        """
        for option, field in self.fields.items():
            if field not in batch:
                known = ", ".join(map(str, batch))
                raise InputError(
                    f"the batch has no field {field!r}, which match {self.name!r} reads for the "
                    f"option {option!r} of {_name(self.loss)}",
                    expected=f"one of its fields: {known}",
                    remedy="Let the data yield mappings with that field, or name another.",
                )
        return {option: batch[field] for option, field in self.fields.items()}

    def compare(
        self,
        student: Any,
        teacher: Any,
        context: Mapping[str, Any],
        made: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """Return the value, unweighted, of the loss (as :meth:`made`) for comparable tensors.

        The context holds what :meth:`read` found, the further taps by the options that they are,
        and those of every batch.
        """
        wanted = (*self.context, *self.fields, *self.taps)
        given = {key: context[key] for key in wanted if context.get(key) is not None}
        missing = [key for key in self._needed if key not in given]
        if missing:
            raise InputError(
                f"the loss {_name(self.loss)} got no {' and no '.join(missing)}",
                expected="a batch that has them: (inputs, targets, ids), or a mapping with id",
            )
        loss = made or self.loss
        if isinstance(self.loss, type) and self.spec.whole_batch and processes() > 1:
            loss = gathered(loss)
        return loss(student, teacher, **given, **self._calling)

    def __repr__(self) -> str:
        weight = self.weight if isinstance(self.weight, (int, float)) else "schedule"
        adapter = [] if self.adapter == "auto" else [f"adapter={self.adapter!r}"]
        rest = {"fields": self.fields, "taps": self.taps, "views": self.views}
        stated = {k: v for k, v in rest.items() if v} | self.options
        more = [f"weight={weight}", *adapter, *(f"{k}={v!r}" for k, v in stated.items())]
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


def _refuse_unknown(
    loss: Callable[..., Any], options: Mapping[str, Any], parameters: Mapping[str, Parameter]
) -> None:
    """Refuse options that the loss does not take."""
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for option in options:
        if option not in parameters:
            known = [key for key in parameters if key not in ("student", "teacher")]
            raise unknown(f"option of the loss {_name(loss)}:", option, known)


def _refuse_twice(loss: Callable[..., Any], *origins: Mapping[str, Any]) -> None:
    """Refuse an option that is to come from two places."""
    names = [name for origin in origins for name in origin]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"the option {name!r} of the loss {_name(loss)} is to come from several places",
                expected="a value, a field of the batch, or a tap of the student",
            )


def _taps(found: str | Sequence[str]) -> str | tuple[str, ...]:
    return found if isinstance(found, str) else tuple(found)


def _name(loss: Callable[..., Any]) -> str:
    return str(getattr(loss, "__name__", type(loss).__name__))
