"""Packages that only some teachers need, imported when they are."""

from __future__ import annotations

import importlib
from typing import Any

from limbeck.errors import InputError

__all__ = ["needed"]


def needed(package: str, extra: str) -> Any:
    """Return a package, imported now.

    Args:
        package: its name.
        extra: of Limbeck's extras, the one that brings it.

    Raises:
        InputError: it is not installed, or fails to be imported.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(
            f"{package} could not be imported: {error}",
            expected=f"the extra {extra!r}",
            remedy=f'Install it: pip install "limbeck[{extra}]".',
        ) from error
