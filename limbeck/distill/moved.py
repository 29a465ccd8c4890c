"""Labels that follow where augmentation moves pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from limbeck.data.augment import Augmentation
from limbeck.data.loader import Loader
from limbeck.tasks.task import Placed, Task

__all__ = ["with_labels_moved"]


def with_labels_moved(
    train: Any, augment: Augmentation | None, task: Task
) -> tuple[Any, Augmentation | None]:
    """Let the labels follow where augmentation moves pixels, if they have a place in the picture.

    Raises:
        InputError: an operation does not say where pixels go.
    """
    if not isinstance(task, Placed):
        return train, augment
    if isinstance(train, Loader) and train.augment is not None:
        train = replace(train, augment=train.augment.followed(task.moved))
    return train, None if augment is None else augment.followed(task.moved)
