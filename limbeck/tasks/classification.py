"""Classification: one label out of C for each sample.

Letters: B samples, C classes, K bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.data.samples import Batch
from limbeck.data.splits import UNLABELLED
from limbeck.errors import InputError
from limbeck.losses.spec import exactly
from limbeck.tasks.fields import (
    Whole,
    check_classes,
    check_finite,
    label_of,
    mask_in,
    measured,
    sample,
)
from limbeck.tasks.task import Meter, Quality

__all__ = ["Classification"]

_SCRIPT = """for row in logits:
    shares = np.exp(row - row.max())
    shares /= shares.sum()
    best = int(shares.argmax())
    print(facts["labels"][best] if facts["labels"] else best, f"{shares[best]:.1%}")"""
_TOLD = 2  # how many classes of an answer are put into words


@dataclass(frozen=True)
class Classification(Whole):
    """One label out of ``classes`` for each sample, whatever the samples are.

    A batch is (inputs, targets), or a mapping in which the two have the given names. Metrics:
    ``accuracy`` and ``top5_accuracy`` (fractions), ``macro_f1`` (the mean over classes of F1, 0 to
    1), ``loss`` (cross-entropy in nats) and ``ece`` (expected calibration error, 15 bins, Guo et
    al. 2017, arXiv:1706.04599).

    Attributes:
        classes: C.
        labels: the classes' names; their numbers if left out.
        input_names: in a mapping, the name of what models are called with; several names make a
            mapping of named arguments.
        target_name: in a mapping, the name of the labels, (B,) int64 from 0 to C − 1, or −1 for a
            sample without a label: it adds nothing to the label loss, which stays a mean over B.
        mask_name: in inputs that are a mapping, what says which tokens are no padding, (B, T).
        label_smoothing: ε of the label loss (Szegedy et al. 2016, arXiv:1512.00567).

    >>> task = Classification(3)
    >>> task.label_loss(torch.zeros(2, 3), task.named((torch.zeros(2, 5), torch.tensor([0, 2]))))
    tensor(1.0986)
    """

    classes: int
    labels: Sequence[str] = ()
    input_names: str | tuple[str, ...] = "inputs"
    target_name: str = "targets"
    mask_name: str = "attention_mask"
    label_smoothing: float = 0.0
    name: str = "classification"
    selection: str = "accuracy"
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        check_classes(self.classes, self.labels)

    def tokens(self, batch: Batch) -> Tensor | None:
        found = mask_in(self.inputs(batch), self.mask_name)
        return None if found is None else found.bool()

    def label_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return self.label_losses(logits, batch).mean()

    def label_losses(self, logits: Tensor, batch: Batch) -> Tensor:
        with exactly(logits.device.type):
            return F.cross_entropy(
                logits.float(),
                self.targets(batch),
                ignore_index=UNLABELLED,
                label_smoothing=self.label_smoothing,
                reduction="none",
            )

    def check(self, batch: Batch) -> None:
        labels, inputs = self.targets(batch), self.inputs(batch)
        if labels.dtype != torch.int64 or labels.ndim != 1:
            raise InputError(
                f"labels of type {labels.dtype} and shape {tuple(labels.shape)}",
                expected="one int64 label per sample",
            )
        wrong = ((labels < 0) & (labels != UNLABELLED)) | (labels >= self.classes)
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise InputError(
                f"{sample(batch, row)} has label {int(labels[row])}",
                expected=f"0 to {self.classes - 1}: {self.classes} classes; or −1, no label",
                consequence="Training would fail or read foreign memory.",
            )
        check_finite(inputs, batch)

    def check_logits(self, logits: Tensor, whose: str) -> None:
        if logits.ndim != 2 or logits.shape[1] != self.classes:
            raise InputError(
                f"the {whose}'s logits have the shape {tuple(logits.shape)}",
                expected=f"(B, {self.classes}): the data has {self.classes} classes",
                remedy=f"Build the {whose} with {self.classes} classes.",
            )

    def meter(self) -> Meter:
        return _Meter(self)

    def apart(self, logits: Tensor, other: Tensor, batch: Batch) -> Tensor:
        """Return half of Σ|p − q| where the likeliest classes differ, 0 where they are the same."""
        distance = (logits.float().softmax(1) - other.float().softmax(1)).abs().sum(1) / 2
        return distance * (logits.argmax(1) != other.argmax(1))

    def told(self, logits: Tensor, batch: Batch, row: int) -> dict[str, Any]:
        shares, classes = logits[row].float().softmax(0).topk(min(_TOLD, self.classes))
        names = [label_of(self.labels, number) for number in classes.tolist()]
        return {
            "answer": names[0],
            "right": int(classes[0]) == int(self.targets(batch)[row]),
            "shares": [list(pair) for pair in zip(names, shares.tolist(), strict=True)],
        }

    def log_shares(self, logits: Tensor) -> Tensor:
        return F.log_softmax(logits.float(), dim=1)

    def script(self) -> str:
        return _SCRIPT

    def wanted(self, batch: Batch, row: int) -> str:
        return label_of(self.labels, int(self.targets(batch)[row]))


class _Meter:
    def __init__(self, task: Classification) -> None:
        self.task = task
        self._metrics = _metrics(task.classes)
        self._device = torch.device("cpu")

    def update(self, logits: Tensor, batch: Batch) -> None:
        if logits.device != self._device:
            self._device = logits.device
            self._metrics.to(logits.device)
        self._metrics.update(logits.float(), self.task.targets(batch))

    def compute(self) -> Quality:
        with measured():
            found = {name: value.tolist() for name, value in self._metrics.compute().items()}
        confusion, bins = found.pop("confusion"), found.pop("reliability")
        count = sum(row[0] for row in bins)
        if count == 0:
            raise InputError("there were no samples to measure on")
        found["ece"] = sum(abs(row[1] - row[2]) for row in bins) / count
        return Quality(found, {"confusion": confusion, "reliability": bins})


def _metrics(classes: int) -> Any:
    """Build the torchmetrics collection; imported here, since that takes a second."""
    from torchmetrics import Metric, MetricCollection
    from torchmetrics.classification import (
        MulticlassAccuracy,
        MulticlassConfusionMatrix,
        MulticlassF1Score,
    )

    from limbeck.tasks.calibration import CrossEntropy, Reliability

    plain: dict[str, Any] = {"num_classes": classes, "validate_args": False}
    chosen: dict[str, Metric | MetricCollection] = {
        "accuracy": MulticlassAccuracy(average="micro", **plain),
        "macro_f1": MulticlassF1Score(average="macro", **plain),
        "loss": CrossEntropy(),
        "confusion": MulticlassConfusionMatrix(**plain),
        "reliability": Reliability(bins=15),
    }
    if classes > 5:
        chosen["top5_accuracy"] = MulticlassAccuracy(average="micro", top_k=5, **plain)
    return MetricCollection(chosen, compute_groups=False)
