"""The contract between a modality and the rest of Limbeck.

Letters: B samples, T tokens, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from limbeck.data.samples import Batch

__all__ = ["Meter", "Quality", "Task", "Telling", "Tokened"]


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


@runtime_checkable
class Tokened(Protocol):
    """A task with one answer for each sample, whose samples are sequences of unequal length."""

    def tokens(self, batch: Batch) -> Tensor | None:
        """Return (B, T), true where a token is no padding, or ``None`` if samples have none.

        Losses that compare what models make of each token get it as their mask.
        """


@runtime_checkable
class Telling(Protocol):
    """A task that can put single answers into words, so that a report shows some for people."""

    def apart(self, logits: Tensor, other: Tensor, batch: Batch) -> Tensor:
        """Return how far two answers to each sample are apart, (B,); 0 where they say the same."""

    def told(self, logits: Tensor, batch: Batch, row: int) -> dict[str, Any]:
        """Return an answer in words.

        Returns:
            ``answer``, a text; ``right``, whether it is, or ``None`` if that is not known; and
            ``shares``, pairs of an answer and its probability, the likeliest first, or none.
        """

    def wanted(self, batch: Batch, row: int) -> str:
        """Return the label of a sample in words."""
