"""What tasks share that are another task and something more."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from limbeck.data.samples import Batch
from limbeck.tasks.task import Meter, Task

__all__ = ["Around"]


class Around:
    """Answers all questions of the protocol :class:`limbeck.tasks.Task` as another task does."""

    def inner(self) -> Task:
        """Return the task that answers."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        return self.inner().name

    @property
    def selection(self) -> str:
        return self.inner().selection

    @property
    def higher_is_better(self) -> bool:
        return self.inner().higher_is_better

    def named(self, batch: Any) -> Batch:
        return self.inner().named(batch)

    def inputs(self, batch: Batch) -> Any:
        return self.inner().inputs(batch)

    def targets(self, batch: Batch) -> Tensor:
        return self.inner().targets(batch)

    def mask(self, batch: Batch) -> Tensor | None:
        return self.inner().mask(batch)

    def count(self, batch: Batch) -> int | Tensor:
        return self.inner().count(batch)

    def label_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return self.inner().label_loss(logits, batch)

    def check(self, batch: Batch) -> None:
        self.inner().check(batch)

    def check_logits(self, logits: Tensor, whose: str) -> None:
        self.inner().check_logits(logits, whose)

    def meter(self) -> Meter:
        return self.inner().meter()
