"""What a batch means: one file per modality."""

from collections.abc import Callable

from limbeck.errors import unknown
from limbeck.tasks.classification import Classification
from limbeck.tasks.ctc import CTC
from limbeck.tasks.detection import Boxes, Detection
from limbeck.tasks.embedding import Embedding
from limbeck.tasks.image_text import ImageText
from limbeck.tasks.language_modelling import LanguageModelling
from limbeck.tasks.multilabel import Multilabel
from limbeck.tasks.reading import Reading, Renamed, as_taught
from limbeck.tasks.recommendation import Recommendation
from limbeck.tasks.regression import Regression
from limbeck.tasks.segmentation import Segmentation
from limbeck.tasks.task import (
    Comparing,
    Deciding,
    Drawing,
    Meter,
    OtherTokens,
    Placed,
    Presenting,
    Producing,
    Quality,
    Refusing,
    Relabelling,
    Restating,
    Scripted,
    Separable,
    Spread,
    Task,
    Telling,
    Tokened,
    Writing,
)
from limbeck.tasks.token_prediction import TokenPrediction
from limbeck.tasks.translation import Translation

__all__ = [
    "CTC",
    "Boxes",
    "Classification",
    "Comparing",
    "Deciding",
    "Detection",
    "Drawing",
    "Embedding",
    "ImageText",
    "LanguageModelling",
    "Meter",
    "Multilabel",
    "OtherTokens",
    "Placed",
    "Presenting",
    "Producing",
    "Quality",
    "Reading",
    "Recommendation",
    "Refusing",
    "Regression",
    "Relabelling",
    "Renamed",
    "Restating",
    "Scripted",
    "Segmentation",
    "Separable",
    "Spread",
    "Task",
    "Telling",
    "TokenPrediction",
    "Tokened",
    "Translation",
    "Writing",
    "as_taught",
    "get",
    "names",
]

_TASKS: dict[str, Callable[..., Task]] = {
    "classification": Classification,
    "multilabel": Multilabel,
    "ctc": CTC,
    "detection": Detection,
    "embedding": Embedding,
    "image_text": ImageText,
    "language_modelling": LanguageModelling,
    "recommendation": Recommendation,
    "regression": Regression,
    "segmentation": Segmentation,
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
