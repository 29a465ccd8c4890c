"""What tasks share: the fields of a batch, how a sample is named, metrics over several processes.

Letters: B samples, T tokens, S values of a sample.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from limbeck.data.samples import Batch, as_batch
from limbeck.errors import InputError

__all__ = [
    "Fields",
    "Whole",
    "check_classes",
    "check_finite",
    "label_of",
    "mask_in",
    "measured",
    "over_classes",
    "sample",
]


class Fields:
    """A task that finds inputs and targets in a batch by the names that it was given."""

    input_names: str | tuple[str, ...]
    target_name: str

    def named(self, batch: Any) -> Batch:
        if isinstance(batch, Mapping) and {"inputs", "targets"} <= batch.keys():
            return dict(batch)
        return as_batch(batch, self.input_names, self.target_name)

    def inputs(self, batch: Batch) -> Any:
        return batch["inputs"]

    def targets(self, batch: Batch) -> Tensor:
        targets: Tensor = batch["targets"]
        return targets


class Whole(Fields):
    """A task with one answer for each sample, all of which count."""

    def mask(self, batch: Batch) -> None:
        return None

    def count(self, batch: Batch) -> int:
        return len(self.targets(batch))


def mask_in(inputs: Any, name: str) -> Tensor | None:
    """Return what inputs that are a mapping have under a mask's name, (B, T) or (B, S)."""
    found: Tensor | None = inputs.get(name) if isinstance(inputs, Mapping) else None
    return found


def sample(batch: Batch, row: int) -> str:
    """Return how a message calls a sample of a batch."""
    return f"sample {int(batch['id'][row])}" if "id" in batch else f"sample {row} of the batch"


def label_of(labels: Sequence[str], number: int) -> str:
    """Return a class's name, or its number if classes have no names."""
    return str(labels[number]) if labels else str(number)


def check_classes(classes: int, labels: Sequence[str]) -> None:
    """Refuse fewer classes than two, or names for only some of them."""
    if classes < 2 or (labels and len(labels) != classes):
        raise InputError(
            f"{classes} classes with {len(labels)} names",
            expected="at least 2 classes, and a name for each or none",
        )


def check_finite(inputs: Any, batch: Batch) -> None:
    """Refuse inputs that hold NaN or infinite values."""
    for values in (leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)):
        finite = torch.isfinite(values).unsqueeze(1).flatten(1).all(dim=1)
        if not finite.all():
            row = int((~finite).nonzero()[0])
            raise InputError(
                f"{sample(batch, row)} holds NaN or infinite values",
                expected="finite inputs",
                consequence="The loss would become NaN and the weights with it.",
            )


@contextmanager
def measured() -> Iterator[None]:
    """Let metrics be computed where a process saw no sample: the others wait for its share."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*called before the ``update`` method")
        yield


def over_classes(compare: Callable[[Tensor, Tensor], Tensor], classes: int) -> bool:
    """Return whether a loss takes two answers (2, C) for scores of which each sample has one class.

    Then it does not change where all numbers of a sample grow by the same: a softmax takes that
    out.

    >>> from limbeck import losses
    >>> over_classes(losses.kl, 3), over_classes(losses.logit_mse, 3)
    (True, False)
    """
    teacher = torch.arange(2 * classes).square().sin().view(2, -1)
    student = teacher.flip(0)
    moved = student + torch.tensor([[1.0], [3.0]])
    return torch.allclose(compare(student, teacher), compare(moved, teacher), 1e-4, 1e-6)
