"""What a batch means: one file per modality."""

from collections.abc import Callable

from limbeck.errors import unknown
from limbeck.tasks.classification import Classification
from limbeck.tasks.reading import Reading
from limbeck.tasks.task import Meter, Quality, Task, Telling, Tokened

__all__ = [
    "Classification",
    "Meter",
    "Quality",
    "Reading",
    "Task",
    "Telling",
    "Tokened",
    "get",
    "names",
]

_TASKS: dict[str, Callable[..., Task]] = {"classification": Classification}


def names() -> list[str]:
    """Return the names of all tasks, sorted."""
    return sorted(_TASKS)


def get(name: str) -> Callable[..., Task]:
    """Return the task of that name; an unknown name lists near ones."""
    if name not in _TASKS:
        raise unknown("task", name, _TASKS)
    return _TASKS[name]
