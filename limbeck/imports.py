"""Finding users' code by ``package.module:attribute``, and saying what it is."""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from limbeck.errors import InputError, unknown
from limbeck.files import digest, file_digest

__all__ = ["attribute", "call_theirs", "code_digest", "is_path", "needed", "portrait", "unlogged"]


def is_path(name: str) -> bool:
    """Say whether a name has the form ``package.module:attribute``."""
    return ":" in name


def attribute(name: str) -> Any:
    """Return what ``package.module:attribute`` names; the current folder is searched too.

    Raises:
        InputError: the module cannot be imported, or lacks the attribute.

    >>> attribute("math:pi")
    3.141592653589793
    """
    where, _, what = name.partition(":")
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(where)
    except Exception as error:
        raise InputError(
            f"the module {where!r} could not be imported: {_told(error)}",
            expected="package.module:attribute, importable from the current folder",
        ) from error
    for step in what.split("."):
        if not hasattr(found, step):
            public = [key for key in vars(found) if not key.startswith("_")]
            raise unknown(f"attribute of {where}:", step, public)
        found = getattr(found, step)
    return found


def call_theirs(name: str, function: Callable[..., Any], args: Mapping[str, Any]) -> Any:
    """Call users' code; what it raises becomes an :class:`InputError` that says where."""
    try:
        return function(**args)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name} failed: {_told(error)}") from error


def needed(package: str, extra: str, *parts: str) -> Any:
    """Return a package that only some parts need, imported now.

    What packages log while they are imported is not shown: it is about further packages that they
    could use, and not about the run. What goes wrong is raised.

    Args:
        package: its name.
        extra: of Limbeck's extras, the one that brings it.
        parts: modules of it that are to be used, which it would import only then, and not so
            quietly.

    Raises:
        InputError: it is not installed, or fails to be imported.
    """
    try:
        with unlogged():
            found = importlib.import_module(package)
            for part in parts:
                importlib.import_module(f"{package}.{part}")
        return found
    except (ImportError, RuntimeError) as error:  # the latter from compiled code that does not fit
        raise InputError(
            f"{package} could not be imported: {error}",
            expected=f"the extra {extra!r}",
            remedy=f'Install it: pip install "limbeck[{extra}]".',
        ) from error


@contextmanager
def unlogged() -> Iterator[None]:
    """Keep to itself what libraries log; what goes wrong is still raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def code_digest(name: str) -> str:
    """Return a hash of the file in which ``package.module:attribute`` is defined."""
    try:
        source = inspect.getsourcefile(attribute(name))
    except TypeError:
        source = None
    return file_digest(Path(source))[:16] if source else "unknown"


def portrait(thing: object) -> str:
    """Return a text for a fingerprint that is the same in every process.

    Of a function that is where it stands, hashes of its file and of its own code, its defaults and
    what it closes over; anything else shows itself by its ``repr``.

    >>> portrait(round), portrait(("inputs", 2))
    ('<built-in function round>', "('inputs', 2)")
    """
    if isinstance(thing, functools.partial):
        parts = [
            thing.func,
            *thing.args,
            *(part for pair in thing.keywords.items() for part in pair),
        ]
        return f"partial({', '.join(map(portrait, parts))})"
    if not inspect.isfunction(thing):
        return repr(thing)
    code, file = thing.__code__, Path(thing.__code__.co_filename)
    source = file_digest(file)[:16] if file.is_file() else "no file"
    plain = [const for const in code.co_consts if isinstance(const, (float, int, str))]
    own = digest([code.co_code.hex(), plain, code.co_names])
    held = [cell.cell_contents for cell in thing.__closure__ or ()]
    held += [*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
    more = ", ".join(map(portrait, held))
    return f"{thing.__module__}.{thing.__qualname__} in {source}: {own} ({more})"


def _told(error: BaseException) -> str:
    """Say what was raised and, for users' own code, where."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    where = f" ({Path(last.filename).name}, line {last.lineno})" if last else ""
    return f"{type(error).__name__}: {error}{where}"
