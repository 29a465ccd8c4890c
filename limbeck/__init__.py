"""Limbeck: knowledge distillation, from a large accurate model to a small fast one that ships.

>>> import limbeck as lb
>>> sorted(set(lb.__all__) - set(dir(lb)))
[]
"""

import importlib
from typing import TYPE_CHECKING, Any

from limbeck._version import __version__

if TYPE_CHECKING:
    from limbeck import data, distill, knowledge, losses, methods, students, tasks, teachers
    from limbeck.distill import Distilled, Distiller, Fitted, fit
    from limbeck.errors import InputError
    from limbeck.knowledge import Knowledge
    from limbeck.methods import Match, Method
    from limbeck.pipeline.cite import citation
    from limbeck.progress import Silent
    from limbeck.teachers import Teacher

# Everything is imported when it is first asked for, so that the command line starts at once.
_HOMES = {
    "Distilled": "limbeck.distill",
    "Distiller": "limbeck.distill",
    "Fitted": "limbeck.distill",
    "InputError": "limbeck.errors",
    "Knowledge": "limbeck.knowledge",
    "Match": "limbeck.methods",
    "Method": "limbeck.methods",
    "Silent": "limbeck.progress",
    "Teacher": "limbeck.teachers",
    "citation": "limbeck.pipeline.cite",
    "fit": "limbeck.distill",
}
_ROOMS = ("data", "distill", "knowledge", "losses", "methods", "students", "tasks", "teachers")

__all__ = [
    "Distilled",
    "Distiller",
    "Fitted",
    "InputError",
    "Knowledge",
    "Match",
    "Method",
    "Silent",
    "Teacher",
    "__version__",
    "citation",
    "data",
    "distill",
    "fit",
    "knowledge",
    "losses",
    "methods",
    "students",
    "tasks",
    "teachers",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"limbeck.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'limbeck' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
