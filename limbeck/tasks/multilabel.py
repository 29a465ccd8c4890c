"""Several labels at once: each of C is true or not of a sample.

Letters: B samples, C labels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.data.samples import Batch
from limbeck.errors import InputError
from limbeck.losses.divergences import binary_kl
from limbeck.losses.spec import Spec, exactly
from limbeck.tasks.fields import Whole, label_of, measured, over_classes
from limbeck.tasks.task import Meter, Quality

__all__ = ["Multilabel"]

_TOLD = 4  # how many labels of an answer are put into words


@dataclass(frozen=True)
class Multilabel(Whole):
    """Any number of ``classes`` labels for each sample: targets (B, C) of zeros and ones.

    A logit above 0 says that its label is true. The label loss is the binary cross-entropy, in
    nats: the mean over samples of the sum over labels, as :func:`limbeck.losses.binary_kl` is, so
    that the two keep their proportion whatever C is.

    Metrics, 0 to 1: ``mAP`` (mean average precision: the mean over labels of the area under
    precision against recall), ``macro_f1`` and ``micro_f1`` (at logits above 0),
    ``exact_accuracy`` (the share of samples of which all labels are right); and ``loss``.

    Methods that fit compare each class by itself (``binary``), or logits, features and relations.
    Those with a softmax over classes, ``kd`` among them, assume that one label excludes the others;
    methods that read the labels as class numbers cannot be used.

    Attributes:
        classes: C.
        labels: the labels' names; their numbers if left out.
        input_names: in a mapping, the name of what models are called with; several names make a
            mapping of named arguments.
        target_name: in a mapping, the name of the targets, (B, C) of any type.

    >>> task = Multilabel(2)
    >>> batch = task.named((torch.zeros(1, 5), torch.tensor([[1, 0]])))
    >>> task.label_loss(torch.zeros(1, 2), batch)  # 2 · log 2
    tensor(1.3863)
    """

    classes: int
    labels: Sequence[str] = ()
    input_names: str | tuple[str, ...] = "inputs"
    target_name: str = "targets"
    name: str = "multilabel"
    selection: str = "mAP"
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        if self.classes < 1 or (self.labels and len(self.labels) != self.classes):
            raise InputError(
                f"{self.classes} labels with {len(self.labels)} names",
                expected="at least one label, and a name for each or none",
            )

    def label_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return self.label_losses(logits, batch).mean()

    def label_losses(self, logits: Tensor, batch: Batch) -> Tensor:
        with exactly(logits.device.type):
            wanted = self.targets(batch).float()
            losses = F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none")
            return losses.sum(dim=1)

    def check(self, batch: Batch) -> None:
        labels = self.targets(batch)
        if labels.ndim != 2 or labels.shape[1] != self.classes:
            raise InputError(
                f"targets of shape {tuple(labels.shape)}",
                expected=f"(B, {self.classes}): a 0 or 1 for each label",
                remedy="For one label out of several, set task.name to classification.",
            )
        strange = ((labels != 0) & (labels != 1)).nonzero()
        if len(strange):
            row, column = strange[0].tolist()
            number = int(batch["id"][row]) if "id" in batch else row
            raise InputError(
                f"sample {number} has {float(labels[row, column]):g} "
                f"for {label_of(self.labels, column)}",
                expected="0 or 1",
                consequence="The loss would have no minimum.",
            )

    def check_logits(self, logits: Tensor, whose: str) -> None:
        if logits.ndim != 2 or logits.shape[1] != self.classes:
            raise InputError(
                f"the {whose}'s logits have the shape {tuple(logits.shape)}",
                expected=f"(B, {self.classes}): the data has {self.classes} labels",
                remedy=f"Build the {whose} with {self.classes} classes.",
            )

    def check_loss(
        self, name: str, spec: Spec, compare: Callable[[Tensor, Tensor], Tensor] | None
    ) -> None:
        """Refuse a loss to which one label out of all is right."""
        if compare is not None and not over_classes(compare, self.classes):
            return
        raise InputError(
            f"the match {name} compares classes of which each sample has one, and the task "
            "multilabel has several labels",
            expected="a method that compares each label by itself, binary; numbers, logit_mse; "
            "features; or relations",
            consequence="The more sure the teacher was of one label, the less the student would "
            "believe in the others.",
            remedy="Set method to binary.",
        )

    def meter(self) -> Meter:
        return _Meter(self)

    def alike(self, logits: Tensor, other: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the share of labels on which both say the same, and the sum of their divergences.

        The divergence of a label is that of yes and no, KL(other ‖ logits).
        """
        same = ((logits > 0) == (other > 0)).float().mean(dim=1)
        return same, binary_kl(logits, other, reduction="none")

    def apart(self, logits: Tensor, other: Tensor, batch: Batch) -> Tensor:
        """Return the sum of |p − q| over the labels about which the two say different things."""
        distance = (logits.float().sigmoid() - other.float().sigmoid()).abs()
        return (distance * ((logits > 0) != (other > 0))).sum(dim=1)

    def told(self, logits: Tensor, batch: Batch, row: int) -> dict[str, Any]:
        """Return an answer in words.

        Its first share is that of the whole answer, if labels did not depend on one another; then
        come the likeliest labels.
        """
        said, sure = logits[row] > 0, logits[row].float().sigmoid()
        answer = self._listed(said)
        together = torch.where(said, sure, 1 - sure).prod().item()
        shares, labels = sure.topk(min(_TOLD, self.classes))
        names = [label_of(self.labels, number) for number in labels.tolist()]
        single = [list(pair) for pair in zip(names, shares.tolist(), strict=True)]
        return {
            "answer": answer,
            "right": bool((said == self.targets(batch)[row].bool()).all()),
            "shares": [[answer, together], *single],
        }

    def wanted(self, batch: Batch, row: int) -> str:
        return self._listed(self.targets(batch)[row].bool())

    def _listed(self, true: Tensor) -> str:
        names = [label_of(self.labels, number) for number in true.nonzero().flatten().tolist()]
        return ", ".join(names) or "none"


class _Meter:
    def __init__(self, task: Multilabel) -> None:
        self.task = task
        self._metrics = _metrics(task.classes)
        self._device = torch.device("cpu")

    def update(self, logits: Tensor, batch: Batch) -> None:
        if logits.device != self._device:
            self._device = logits.device
            self._metrics.to(logits.device)
        self._metrics.update(logits.float(), self.task.targets(batch).long())

    def compute(self) -> Quality:
        with measured(), warnings.catch_warnings():  # a label may be true of no sample
            warnings.filterwarnings("ignore", message=".*macro-average")
            found = {name: float(value) for name, value in self._metrics.compute().items()}
        if found["loss"] != found["loss"]:
            raise InputError("there were no samples to measure on")
        return Quality(found)


def _metrics(classes: int) -> Any:
    """Build the torchmetrics collection; imported here, since that takes a second."""
    from torchmetrics import MetricCollection
    from torchmetrics.classification import (
        MultilabelAveragePrecision,
        MultilabelExactMatch,
        MultilabelF1Score,
    )

    from limbeck.tasks.calibration import BinaryCrossEntropy

    plain: dict[str, Any] = {"num_labels": classes, "validate_args": False}
    chosen: dict[str, Any] = {
        "mAP": MultilabelAveragePrecision(average="macro", **plain),
        "macro_f1": MultilabelF1Score(average="macro", **plain),
        "micro_f1": MultilabelF1Score(average="micro", **plain),
        "exact_accuracy": MultilabelExactMatch(**plain),
        "loss": BinaryCrossEntropy(),
    }
    return MetricCollection(chosen, compute_groups=False)
