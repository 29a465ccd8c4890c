"""A task for a model that reads another field of the samples.

Letters: B samples, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from limbeck.data.samples import Batch
from limbeck.errors import InputError, unknown
from limbeck.tasks.task import Meter, Separable, Task

__all__ = ["Reading"]


@final
@dataclass(frozen=True)
class Reading:
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

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def selection(self) -> str:
        return self.task.selection

    @property
    def higher_is_better(self) -> bool:
        return self.task.higher_is_better

    def named(self, batch: Any) -> Batch:
        return self.task.named(batch)

    def inputs(self, batch: Batch) -> Any:
        if self.field not in batch:
            raise unknown("field of the samples:", self.field, batch)
        return batch[self.field]

    def targets(self, batch: Batch) -> Tensor:
        return self.task.targets(batch)

    def mask(self, batch: Batch) -> Tensor | None:
        return self.task.mask(batch)

    def count(self, batch: Batch) -> int | Tensor:
        return self.task.count(batch)

    def label_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return self.task.label_loss(logits, batch)

    def label_losses(self, logits: Tensor, batch: Batch) -> Tensor:
        if not isinstance(self.task, Separable):
            raise InputError(
                f"the task {self.name} cannot say each sample's loss",
                remedy="Leave mixup and cutmix out of the teacher's augmentation.",
            )
        return self.task.label_losses(logits, batch)

    def check(self, batch: Batch) -> None:
        self.inputs(batch)
        self.task.check(batch)

    def check_logits(self, logits: Tensor, whose: str) -> None:
        self.task.check_logits(logits, whose)

    def meter(self) -> Meter:
        return self.task.meter()
