"""The contract between a modality and the rest of Limbeck.

Letters: B samples, T tokens, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from limbeck.data.samples import Batch

__all__ = ["Meter", "Quality", "Task"]


@dataclass(frozen=True)
class Quality:
    """How well a model answers.

    Attributes:
        metrics: one number per metric: fractions for accuracies, nats for losses.
        details: what a page shows beyond numbers, JSON-like; keys are the task's own.
    """

    metrics: Mapping[str, float]
    details: Mapping[str, Any] = field(default_factory=dict)


class Meter(Protocol):
    """Adds up a model's answers over batches; across processes too."""

    def update(self, logits: Tensor, batch: Batch) -> None:
        """Count one batch."""

    def compute(self) -> Quality:
        """Return the metrics of all batches; every process must call it."""


@runtime_checkable
class Task(Protocol):
    """What a batch means. One class per modality; the core asks only these questions.

    Attributes:
        name: for recipes and reports.
        selection: the metric by which the best epoch is chosen on validation data.
        higher_is_better: whether more of it is better.
    """

    @property
    def name(self) -> str: ...

    @property
    def selection(self) -> str: ...

    @property
    def higher_is_better(self) -> bool: ...

    def named(self, batch: Any) -> Batch:
        """Return a batch of any form that loaders yield as a mapping of named fields."""

    def inputs(self, batch: Batch) -> Any:
        """Return what a model is called with: a tensor, a tuple, or a mapping of arguments."""

    def targets(self, batch: Batch) -> Tensor:
        """Return the labels."""

    def mask(self, batch: Batch) -> Tensor | None:
        """Return what counts, (B,) or (B, T), or ``None`` if all does."""

    def count(self, batch: Batch) -> int | Tensor:
        """Return over how many things the losses of this batch are means."""

    def label_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the loss against the labels: the mean over what :meth:`count` counts, float32."""

    def check(self, batch: Batch) -> None:
        """Refuse a batch that cannot be meant: a label out of range, a NaN in the inputs."""

    def check_logits(self, logits: Tensor, whose: str) -> None:
        """Refuse a model whose answer has the wrong shape for this task."""

    def meter(self) -> Meter:
        """Return a new meter of this task's metrics."""
