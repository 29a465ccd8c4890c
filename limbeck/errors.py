"""One kind of error for wrong input, and the near names that it offers."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

__all__ = ["InputError", "explained", "first_line", "near", "unknown"]


class InputError(ValueError):
    """What the user gave cannot be used; nothing has been lost.

    The message says what was received, what was expected, what would have happened and how to
    mend it. On the command line it is printed without a traceback and ends with exit status 2.

    >>> raise InputError("epochs is -1", expected="at least 1")
    Traceback (most recent call last):
    ...
    limbeck.errors.InputError: epochs is -1. Expected: at least 1.
    """

    def __init__(
        self, received: str, *, expected: str = "", consequence: str = "", remedy: str = ""
    ) -> None:
        self.received, self.expected = received, expected
        self.consequence, self.remedy = consequence, remedy
        parts = [received, f"Expected: {expected}" if expected else "", consequence, remedy]
        super().__init__(" ".join(_sentence(part) for part in parts if part))


def first_line(error: BaseException) -> str:
    r"""Return the first line of what an error of another library says, or its kind.

    >>> first_line(ValueError("no such file\nsee the manual")), first_line(KeyError())
    ('no such file', 'KeyError')
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def explained(received: str, *, expected: str = "") -> Iterator[None]:
    """Turn whatever another library raises in the block into an error that says what was tried.

    Args:
        received: what cannot be used; the first line of what the library says comes after it.
        expected: instead of it.

    >>> with explained("no number could be read from 'x'", expected="digits"):
    ...     int("x", 10)
    Traceback (most recent call last):
    ...
    limbeck.errors.InputError: no number could be read from 'x': invalid literal for int() with base 10: 'x'. Expected: digits.
    """  # noqa: E501
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # what is wrong with a file can raise anything
        raise InputError(f"{received}: {first_line(error)}", expected=expected) from error


def near(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Return the known names that look most like ``name``, best first.

    >>> near("layer5", ["conv1", "layer3", "layer4"])
    ['layer4', 'layer3']
    """
    return difflib.get_close_matches(name, sorted(known, reverse=True), n=most, cutoff=0.6)


def unknown(what: str, name: str, known: Iterable[str], *, remedy: str = "") -> InputError:
    """Return the error for a name that is not among the known ones, with near names first.

    >>> str(unknown("method", "kdd", ["kd", "fitnets"]))
    "method 'kdd' is not known; did you mean 'kd'? Known: fitnets, kd."
    """
    names = sorted(known)
    guesses = near(name, names)
    hint = f"; did you mean {' or '.join(repr(guess) for guess in guesses)}?" if guesses else "."
    listed = ", ".join(names[:24]) + (f", … ({len(names)} in all)" if len(names) > 24 else "")
    return InputError(
        f"{what} {name!r} is not known{hint} Known: {listed or 'none'}", remedy=remedy
    )


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!", ":")) else text + "."
