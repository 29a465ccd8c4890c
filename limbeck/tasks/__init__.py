"""What a batch means: one file per modality."""

from collections.abc import Callable

from limbeck.errors import unknown
from limbeck.tasks.classification import Classification
from limbeck.tasks.ctc import CTC
from limbeck.tasks.embedding import Embedding
from limbeck.tasks.language_modelling import LanguageModelling
from limbeck.tasks.multilabel import Multilabel
from limbeck.tasks.reading import Reading
from limbeck.tasks.task import (
    Comparing,
    Meter,
    Producing,
    Quality,
    Restating,
    Separable,
    Task,
    Telling,
    Tokened,
    Writing,
)
from limbeck.tasks.token_prediction import TokenPrediction
from limbeck.tasks.translation import Translation

__all__ = [
    "CTC",
    "Classification",
    "Comparing",
    "Embedding",
    "LanguageModelling",
    "Meter",
    "Multilabel",
    "Producing",
    "Quality",
    "Reading",
    "Restating",
    "Separable",
    "Task",
    "Telling",
    "TokenPrediction",
    "Tokened",
    "Translation",
    "Writing",
    "get",
    "names",
]

_TASKS: dict[str, Callable[..., Task]] = {
    "classification": Classification,
    "multilabel": Multilabel,
    "ctc": CTC,
    "embedding": Embedding,
    "language_modelling": LanguageModelling,
    "token_prediction": TokenPrediction,
    "translation": Translation,
}


def names() -> list[str]:
    """Return the names of all tasks, sorted."""
    return sorted(_TASKS)


def get(name: str) -> Callable[..., Task]:
    """Return the task of that name; an unknown name lists near ones."""
    if name not in _TASKS:
        raise unknown("task", name, _TASKS)
    return _TASKS[name]
