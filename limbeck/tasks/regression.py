"""Regression: one or several numbers for each sample.

Letters: B samples, K numbers of an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.data.samples import Batch
from limbeck.errors import InputError
from limbeck.losses.spec import Spec, exactly
from limbeck.tasks.fields import Whole, check_finite, measured, over_classes, sample
from limbeck.tasks.task import Meter, Quality

__all__ = ["Regression"]


@dataclass(frozen=True)
class Regression(Whole):
    """Numbers to be predicted: targets (B, K), and models whose "logits" are such numbers (B, K).

    Targets are best standardised, as the source ``table`` does: losses, and the weights of methods,
    then mean the same in every unit. ``center`` and ``scale`` lead back: a number's own value is
    ``center + scale · target``. Metrics are in these units, means over K: ``rmse`` (root of the
    mean squared error), ``mae`` (mean absolute error), and ``r2``, the share of the variance that
    is explained (1 − Σ(s − y)² / Σ(y − ȳ)², 0 where all targets are the same).

    The label loss is the sum over K of (s − y)², without a factor ½, or of its Huber form, beyond δ
    2·δ·(|s − y| − δ/2); a mean over B. A target that is NaN adds nothing: there is no label.

    Methods that fit compare numbers (``logit_mse``), features or relations.
    Those that compare distributions over classes are refused: a single number has none.

    Attributes:
        classes: K.
        labels: the names of the K numbers; left out, they have none.
        center: of each number, in its own unit; 0 if left out.
        scale: of each number, above 0; 1 if left out.
        huber: δ, in units of ``scale``, from which on an error counts less than its square; 0 for
            squares everywhere.
        near: two answers agree if no number differs by more than that, in units of ``scale``.
        input_names: in a mapping, the name of what models are called with; several names make a
            mapping of named arguments.
        target_name: in a mapping, the name of the targets, (B, K) floating, or (B,) for K = 1.

    >>> task = Regression(1, center=(10.0,), scale=(2.0,))
    >>> meter = task.meter()
    >>> meter.update(torch.tensor([[0.0], [1.0]]),
    ...              task.named((torch.zeros(2, 5), torch.tensor([[0.0], [2.0]]))))
    >>> {name: round(value, 4) for name, value in meter.compute().metrics.items()}
    {'rmse': 1.4142, 'mae': 1.0, 'r2': 0.5}
    """

    classes: int = 1
    labels: Sequence[str] = ()
    center: Sequence[float] = ()
    scale: Sequence[float] = ()
    huber: float = 0.0
    near: float = 0.1
    input_names: str | tuple[str, ...] = "inputs"
    target_name: str = "targets"
    name: str = "regression"
    selection: str = "r2"
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        lengths = {len(given) for given in (self.labels, self.center, self.scale) if given}
        if self.classes < 1 or lengths - {self.classes} or min(self.scale, default=1.0) <= 0:
            raise InputError(
                f"{self.classes} numbers with names {list(self.labels)}, center "
                f"{list(self.center)} and scale {list(self.scale)}",
                expected="at least one number; of each of the others one for each number, or none; "
                "scales above 0",
            )
        if self.huber < 0 or self.near < 0:
            raise InputError(f"huber {self.huber}, near {self.near}", expected="0 or more")

    def targets(self, batch: Batch) -> Tensor:
        found: Tensor = batch["targets"]
        return found.unsqueeze(1) if found.ndim == 1 else found

    def label_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return self.label_losses(logits, batch).mean()

    def label_losses(self, logits: Tensor, batch: Batch) -> Tensor:
        with exactly(logits.device.type):
            wanted = self.targets(batch).float()
            known = ~wanted.isnan()
            pair = logits.float(), torch.where(known, wanted, logits.float().detach())
            if self.huber:
                losses = 2 * F.huber_loss(*pair, delta=self.huber, reduction="none")
            else:
                losses = F.mse_loss(*pair, reduction="none")
            return (losses * known).sum(dim=1)

    def check(self, batch: Batch) -> None:
        wanted = self.targets(batch)
        if not wanted.is_floating_point() or wanted.ndim != 2 or wanted.shape[1] != self.classes:
            raise InputError(
                f"targets of type {wanted.dtype} and shape {tuple(wanted.shape)}",
                expected=f"(B, {self.classes}), floating",
                remedy="With the source table, name the numbers in data.args.amounts; for classes "
                "set task.name to classification.",
            )
        if wanted.isinf().any():
            row = int(wanted.isinf().any(dim=1).nonzero()[0])
            raise InputError(
                f"{sample(batch, row)} has an infinite target",
                expected="a number, or NaN where there is no label",
            )
        check_finite(self.inputs(batch), batch)

    def check_logits(self, logits: Tensor, whose: str) -> None:
        if logits.ndim != 2 or logits.shape[1] != self.classes:
            raise InputError(
                f"the {whose} gives {tuple(logits.shape)}",
                expected=f"(B, {self.classes}): a number for each of {self.classes} targets",
                remedy=f"Build the {whose} with {self.classes} outputs (classes={self.classes}).",
            )

    def check_loss(
        self, name: str, spec: Spec, compare: Callable[[Tensor, Tensor], Tensor] | None
    ) -> None:
        """Refuse a loss to which answers are scores of classes.

        It does not change where all numbers of a sample grow by the same; or it reads labels,
        without declaring the family ``regression``, and so as the numbers of classes.
        """
        if spec.family == "regression":
            return
        if compare is not None and not over_classes(compare, self.classes):
            return
        raise InputError(
            f"the match {name} compares classes, and the task regression has none",
            expected="a method that compares numbers, logit_mse; features; or relations",
            consequence="A number alone is a class of probability 1, whatever it is: the student "
            "would learn nothing from the teacher.",
            remedy="Set method to logit_mse.",
        )

    def meter(self) -> Meter:
        return _Meter(self)

    def alike(self, logits: Tensor, other: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return whether no number differs by more than ``near``, and half of Σ(s − t)².

        The latter is KL(other ‖ logits) of normal distributions around the answers, with the
        standard deviation ``scale``, in nats.
        """
        errors = logits.float() - other.float()
        return (errors.abs() <= self.near).all(dim=1), errors.square().sum(dim=1) / 2

    def apart(self, logits: Tensor, other: Tensor, batch: Batch) -> Tensor:
        """Return the largest difference, in units of ``scale``; 0 where it is at most ``near``."""
        most = (logits.float() - other.float()).abs().amax(dim=1)
        return most * (most > self.near)

    def told(self, logits: Tensor, batch: Batch, row: int) -> dict[str, Any]:
        """Return the numbers in their own units; no answer is simply right."""
        return {"answer": self._told(logits[row]), "right": None, "shares": []}

    def wanted(self, batch: Batch, row: int) -> str:
        return self._told(self.targets(batch)[row])

    def in_units(self, numbers: Tensor) -> Tensor:
        """Return numbers (..., K) in their own units."""
        if not self.scale and not self.center:
            return numbers
        scale = numbers.new_tensor(self.scale or [1.0] * self.classes)
        return numbers * scale + numbers.new_tensor(self.center or [0.0] * self.classes)

    def _told(self, numbers: Tensor) -> str:
        shown = [f"{value:.4g}".replace("-", "−") for value in self.in_units(numbers).tolist()]
        if self.classes == 1 or not self.labels:
            return ", ".join(shown)
        return ", ".join(f"{n} {value}" for n, value in zip(self.labels, shown, strict=True))


class _Meter:
    def __init__(self, task: Regression) -> None:
        from limbeck.tasks.deviations import Deviations  # torchmetrics takes a second to import

        self.task, self._found = task, Deviations(task.classes)

    def update(self, logits: Tensor, batch: Batch) -> None:
        if logits.device != self._found.device:
            self._found.to(logits.device)
        self._found.update(
            self.task.in_units(logits.double()),
            self.task.in_units(self.task.targets(batch).double()),
        )

    def compute(self) -> Quality:
        with measured():
            squared, absolute, explained = self._found.compute().tolist()
        if squared != squared:
            raise InputError("there were no samples to measure on")
        return Quality({"rmse": squared, "mae": absolute, "r2": explained})
