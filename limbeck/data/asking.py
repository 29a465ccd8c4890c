"""What a person is asked for, so that a model can be tried with a sample of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

__all__ = ["Ask", "Asking"]


@dataclass(frozen=True)
class Ask:
    """One thing that a person gives.

    Attributes:
        kind: ``text``; ``picture`` or ``sound``, a file; ``number``; ``one`` of the options, or
            ``several`` of them in an order.
        options: from which a person chooses.
        value: at the beginning.
    """

    kind: Literal["text", "picture", "sound", "number", "one", "several"]
    options: tuple[str, ...] = ()
    value: Any = None


@runtime_checkable
class Asking(Protocol):
    """A reader that says what it needs for one raw sample, in things that a person can give."""

    def __call__(self, raw: Any, /) -> Any:
        """Return the model's inputs for a list of raw samples."""

    def asks(self) -> Mapping[str, Ask]:
        """Return what is needed for a sample, by what a person is to call it."""

    def gathered(self, given: Mapping[str, Any]) -> Any:
        """Return the raw sample that was given, by the names of :meth:`asks`."""
