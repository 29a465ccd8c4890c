"""Readers in a few lines of Python, for exported models that run without Limbeck."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

__all__ = ["Lines", "Scripted"]


@dataclass(frozen=True)
class Lines:
    """How raw samples from a command line become a model's inputs, in Python without Limbeck.

    Attributes:
        imports: lines that import packages.
        usage: what is to be given, as a command line has it: ``"A TEXT" ...``.
        takes: what that is, in words.
        lines: that make ``inputs``, arrays by name, of ``sys.argv[1:]``; ``np`` and ``here``, the
            script's folder with what :meth:`limbeck.data.readers.Reader.save` wrote, are there.
    """

    imports: str
    usage: str
    takes: str
    lines: str


@runtime_checkable
class Scripted(Protocol):
    """A reader that can say how it reads, so that an exported model runs without Limbeck."""

    def script(self) -> Lines:
        """Return the lines that read."""
