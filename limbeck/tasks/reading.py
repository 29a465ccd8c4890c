"""A task for a model that reads another field of the samples.

Letters: B samples, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from limbeck.data.samples import Batch
from limbeck.errors import unknown
from limbeck.tasks.around import Around
from limbeck.tasks.task import Task

__all__ = ["Reading"]


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
