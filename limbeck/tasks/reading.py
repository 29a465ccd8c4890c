"""A task for a model that reads other fields of the samples.

Letters: B samples, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from limbeck.data.samples import Batch
from limbeck.errors import unknown
from limbeck.tasks.around import Around
from limbeck.tasks.task import OtherTokens, Task

__all__ = ["Reading", "Renamed", "as_taught"]


@final
@dataclass(frozen=True)
class Reading(Around):
    """The same task, but models are called with another field of the batch.

    A teacher with a tokenizer of its own is trained so: it reads its own tokens of the same texts.

    Attributes:
        task: says everything else.
        field: what a model is called with.

    >>> import torch
    >>> from limbeck.tasks import Classification
    >>> batch = {"inputs": torch.zeros(2, 3), "large": torch.ones(2, 9),
    ...          "targets": torch.tensor([0, 1])}
    >>> Reading(Classification(2), "large").inputs(batch).shape
    torch.Size([2, 9])
    """

    task: Task
    field: str

    def inner(self) -> Task:
        return self.task

    def inputs(self, batch: Batch) -> Any:
        if self.field not in batch:
            raise unknown("field of the samples:", self.field, batch)
        return batch[self.field]

    def check(self, batch: Batch) -> None:
        self.inputs(batch)
        self.task.check(batch)


@final
@dataclass(frozen=True)
class Renamed(Around):
    """A task of which inputs and targets stand in other fields of the batch.

    A teacher with other tokens than its student has such a task: it reads, and is to predict, its
    own tokens of the same texts.

    Attributes:
        task: says everything about a batch with these inputs and targets.
        fields: where ``inputs`` and ``targets`` are.

    >>> import torch
    >>> from limbeck.tasks import TokenPrediction
    >>> batch = {"inputs": torch.zeros(1, 3), "targets": torch.tensor([[1, 2, 3]]),
    ...          "theirs": torch.zeros(1, 2), "told": torch.tensor([[7, 8]])}
    >>> task = Renamed(TokenPrediction(9), {"inputs": "theirs", "targets": "told"})
    >>> task.targets(task.named(batch))
    tensor([[7, 8]])
    """

    task: Task
    fields: Mapping[str, str]

    def inner(self) -> Task:
        return self.task

    def named(self, batch: Any) -> Batch:
        found = self.task.named(batch)
        for field in self.fields.values():
            if field not in found:
                raise unknown("field of the samples:", field, found)
        # What the student wrote or what counts for it says nothing about other tokens.
        own = {name: value for name, value in found.items() if name != "counted"}
        return own | {name: found[field] for name, field in self.fields.items()}


def as_taught(task: Task, field: str) -> Task:
    """Return what a batch means to a teacher that reads a field of it.

    Args:
        task: of the student.
        field: what the teacher is called with, ``inputs`` if it reads the same.
    """
    other = task.for_teacher() if isinstance(task, OtherTokens) else None
    return Reading(task, field) if other is None else other
