"""A match: which piece of knowledge the student must reproduce, and how the two are compared."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, final

from torch import Tensor, nn

from limbeck.errors import InputError, unknown
from limbeck.losses.schedules import Schedule
from limbeck.losses.spec import Spec, spec_of

__all__ = ["Match"]

_CONTEXT = ("mask", "progress", "targets")


@final
class Match:
    """Four facts: a student tap, a teacher tap, an adapter, and a loss with its weight.

    Args:
        student: a tap of the student (see :mod:`limbeck.knowledge.taps`).
        teacher: a tap of the teacher.
        loss: a function of :mod:`limbeck.losses`, one of your own
            ``loss(student, teacher, ...) -> scalar``, or a module if it has parameters. Where it
            takes ``targets``, ``mask`` or ``progress``, it gets the batch's labels, the task's mask
            or the progress of training (0 to 1).
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
        student: str,
        teacher: str,
        loss: Callable[..., Tensor],
        *,
        weight: float | Schedule = 1.0,
        adapter: str | nn.Module | None = "auto",
        name: str = "",
        **options: Any,
    ) -> None:
        called = loss.forward if isinstance(loss, nn.Module) else loss
        parameters = inspect.signature(called).parameters
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
        self.student, self.teacher, self.loss = student, teacher, loss
        self.weight, self.adapter, self.options = weight, adapter, options
        self.name = name or (_name(loss) if student == "logits" else f"{_name(loss)} {student}")
        self.context = tuple(k for k in _CONTEXT if k in parameters and k not in options)

    @property
    def spec(self) -> Spec:
        """What the loss declares about itself."""
        return spec_of(self.loss)

    def compare(self, student: Tensor, teacher: Tensor, context: Mapping[str, Any]) -> Tensor:
        """Return the loss, unweighted, of two tensors that are already comparable."""
        given = {key: context[key] for key in self.context if context.get(key) is not None}
        return self.loss(student, teacher, **given, **self.options)

    def __repr__(self) -> str:
        weight = self.weight if isinstance(self.weight, (int, float)) else "schedule"
        adapter = [] if self.adapter == "auto" else [f"adapter={self.adapter!r}"]
        more = [f"weight={weight}", *adapter, *(f"{k}={v!r}" for k, v in self.options.items())]
        return f"Match({self.student!r}, {self.teacher!r}, {_name(self.loss)}, {', '.join(more)})"


def _name(loss: Callable[..., Any]) -> str:
    return str(getattr(loss, "__name__", type(loss).__name__))
