"""A task that Limbeck does not have: grades, whose order matters.

A grade from 0 to K - 1 is K - 1 questions, "is it above 0?", "above 1?", ..., each yes or no
(Frank and Hall 2001, "A Simple Approach to Ordinal Classification"). A model answers with K - 1
logits. To be off by two grades is worse than by one, and the loss and the metrics know it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_diabetes
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection

from limbeck import InputError
from limbeck.data import Arrays, Data
from limbeck.data.sources import complete
from limbeck.tasks import Quality


@dataclass(frozen=True)
class Grades:
    """One grade for each sample: targets (B,), 0 to grades - 1; logits (B, grades - 1)."""

    grades: int
    name: str = "grades"
    selection: str = "distance"
    higher_is_better: bool = False

    def named(self, batch: Any) -> dict[str, Any]:
        if isinstance(batch, Mapping):
            return dict(batch)
        return dict(zip(("inputs", "targets", "id"), batch, strict=False))

    def inputs(self, batch: Mapping[str, Any]) -> Tensor:
        return batch["inputs"]

    def targets(self, batch: Mapping[str, Any]) -> Tensor:
        return batch["targets"]

    def mask(self, batch: Mapping[str, Any]) -> None:
        return None

    def count(self, batch: Mapping[str, Any]) -> int:
        return len(batch["targets"])

    def label_loss(self, logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
        above = torch.arange(self.grades - 1, device=logits.device)
        wanted = (batch["targets"].unsqueeze(1) > above).float()
        with torch.autocast(logits.device.type, enabled=False):
            each = F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none")
            return each.sum(dim=1).mean()

    def check(self, batch: Mapping[str, Any]) -> None:
        lowest, highest = batch["targets"].aminmax()
        if lowest < 0 or highest >= self.grades:
            raise InputError(
                f"grades from {int(lowest)} to {int(highest)}", expected=f"0 to {self.grades - 1}"
            )

    def check_logits(self, logits: Tensor, whose: str) -> None:
        if logits.ndim != 2 or logits.shape[1] != self.grades - 1:
            raise InputError(
                f"the {whose} gives {tuple(logits.shape)}", expected=f"(B, {self.grades - 1})"
            )

    def meter(self) -> "Counted":
        return Counted()

    # The protocol Comparing: the logits are no distribution over classes.

    def alike(
        self, logits: Tensor, other: Tensor, batch: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        log_q, log_p = (F.logsigmoid(torch.stack([x, -x])) for x in (logits.float(), other.float()))
        divergence = (log_p.exp() * (log_p - log_q)).sum(dim=(0, 2))
        return graded(logits) == graded(other), divergence

    # The protocol Telling: the report then shows patients on whom models differ.

    def apart(self, logits: Tensor, other: Tensor, batch: Mapping[str, Any]) -> Tensor:
        return (graded(logits) - graded(other)).abs().float()

    def told(self, logits: Tensor, batch: Mapping[str, Any], row: int) -> dict[str, Any]:
        grade = int(graded(logits)[row])
        right = grade == int(batch["targets"][row])
        return {"answer": f"grade {grade}", "right": right, "shares": []}

    def wanted(self, batch: Mapping[str, Any], row: int) -> str:
        return f"grade {int(batch['targets'][row])}"


def graded(logits: Tensor) -> Tensor:
    """Return the grade that logits (B, K - 1) mean: how many questions are answered with yes."""
    return (logits > 0).sum(dim=1)


class Counted:
    """How far grades are from the right ones, and how many are right; across processes, too."""

    def __init__(self) -> None:
        self.metrics = MetricCollection({"distance": MeanMetric(), "accuracy": MeanMetric()})

    def update(self, logits: Tensor, batch: Mapping[str, Any]) -> None:
        self.metrics.to(logits.device)
        distance = (graded(logits) - batch["targets"]).abs()
        self.metrics["distance"].update(distance)
        self.metrics["accuracy"].update((distance == 0).float())

    def compute(self) -> Quality:
        return Quality({name: float(value) for name, value in self.metrics.compute().items()})


def patients(grades: int = 4) -> Data:
    """Diabetes patients (Efron et al. 2004, scikit-learn has them): how far it went, in grades."""
    measured, progress = load_diabetes(return_X_y=True)
    edges = np.quantile(progress, np.arange(1, grades) / grades)
    samples = Arrays.of(
        inputs=(measured * len(measured) ** 0.5).astype(np.float32),  # standard deviation 1
        targets=np.digitize(progress, edges),
    )
    return complete({"train": samples}, (), "patients", validation=0.2, test=0.2, seed=0)


def network(hidden: int, grades: int = 4) -> nn.Module:
    """Return a network of two layers that reads ten numbers."""
    return nn.Sequential(nn.Linear(10, hidden), nn.ReLU(), nn.Linear(hidden, grades - 1))
