"""What a source yields: three sets of samples and what is known about them.

Letters: N samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from limbeck.data.jagged import Jagged
from limbeck.data.random import key
from limbeck.data.readers import Reader
from limbeck.data.samples import Arrays, Samples
from limbeck.errors import InputError

__all__ = ["UNLABELLED", "Data", "carve", "repeated", "some", "with_labels"]

UNLABELLED = -1  # as scikit-learn has it


@dataclass(frozen=True, eq=False)
class Data:
    """Training, validation and test samples that share no sample.

    Attributes:
        train: what the student learns from. A target of −1, or NaN where targets are numbers, means
            that there is no label: only a teacher can say something about such a sample.
        validation: what choices are made on (best epoch, early stopping, search).
        test: what is measured once, at the end.
        labels: the classes' names, in the order of their numbers, or the names of the numbers that
            are to be predicted; empty if there are neither.
        name: for messages and reports.
        facts: by field, what models of the zoo that read it are to know of it, by the names of
            their arguments: ``{"inputs": {"vocab": 8000}}``; under ``targets``, what the task is to
            know: ``{"targets": {"vocab": 8000}}``.
        reader: what makes inputs of raw samples, texts say, if the models are not called with
            these; it ships with the student.
        other_readers: by field, what makes of the same raw samples what a teacher reads instead.
    """

    train: Samples
    validation: Samples
    test: Samples
    labels: tuple[str, ...] = ()
    name: str = "data"
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reader: Reader | None = None
    other_readers: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """Return a short text that changes when any of the samples changes."""
        parts = [split.fingerprint() for split in (self.train, self.validation, self.test)]
        told = sorted(self.facts.get("targets", {}).items())
        parts += [f"{name}={fact}" for name, fact in told if isinstance(fact, int | float | str)]
        return hashlib.sha256(" ".join([*parts, *self.labels]).encode()).hexdigest()[:16]

    @property
    def labelled(self) -> Samples:
        """The training samples that have a label: what can be learnt from without a teacher."""
        return with_labels(self.train)

    def hiding(self, keep: int) -> Data:
        """Return the same data with the labels of only ``keep`` training samples.

        They are chosen by a hash of their ids, class by class, in the classes' proportions.

        Raises:
            InputError: there are not so many labels, or samples are not in memory.
        """
        train = self.labelled
        if not isinstance(self.train, Arrays) or not 0 < keep < len(train):
            raise InputError(
                f"labels of {keep} samples, and the training set has {len(train)}",
                expected="fewer than there are, of samples that are held in memory",
                remedy="Change data.labelled, or leave it out.",
            )
        stay = carve(train, keep / len(train))[1].ids
        targets = self.train.column("targets")
        kept = torch.isin(self.train.ids, stay)
        fields = {**self.train.fields, "targets": _hidden(targets, ~kept)}
        return replace(self, train=replace(self.train, fields=fields))

    def limited(self, most: int) -> Data:
        """Return the same data with at most ``most`` training samples (and half as many others).

        Which samples stay is decided by a hash of their ids: sets are often sorted by class.
        """
        fewer = max(1, most // 2)
        return replace(
            self,
            train=some(self.train, most),
            validation=some(self.validation, fewer),
            test=some(self.test, fewer),
        )


def carve(
    samples: Samples, fraction: float, *, seed: int = 0, by: str | None = "targets"
) -> tuple[Samples, Samples]:
    """Cut a part off a set: the same part whenever the same samples are there.

    Which samples go is decided by a hash of (seed, id), class by class, so that both parts have the
    classes in the same proportions.

    Args:
        samples: N samples.
        fraction: of each class, above 0 and below 1; at least one sample goes and one stays.
        seed: another seed cuts another part.
        by: the field whose values are kept in proportion, if it has one whole number for each
            sample; ``None`` for none.

    Returns:
        What stays and what was cut off.

    >>> from limbeck.data import Arrays
    >>> stays, cut = carve(Arrays.of(targets=torch.tensor([0] * 8 + [1] * 4)), 0.25)
    >>> cut.column("targets").tolist()
    [0, 0, 1]
    """
    if not 0 < fraction < 1 or len(samples) < 2:
        raise InputError(
            f"a fraction of {fraction} to cut off {len(samples)} samples",
            expected="a number above 0 and below 1, and at least two samples",
        )
    groups = samples.column(by) if by else None
    if not isinstance(groups, Tensor) or groups.ndim != 1 or groups.is_floating_point():
        groups = torch.zeros(len(samples), dtype=torch.int64)
    order = key(seed, samples.ids, 0).argsort()
    cut = torch.zeros(len(samples), dtype=torch.bool)
    for value in groups.unique():
        members = order[groups[order] == value]
        cut[members[: round(len(members) * fraction)]] = True
    cut = _neither_empty(cut, order)
    return samples.subset((~cut).nonzero().squeeze(1)), samples.subset(cut.nonzero().squeeze(1))


def with_labels(samples: Samples) -> Samples:
    """Return the samples whose target is not −1, or whose targets, if they are numbers, not NaN."""
    targets = samples.fields.get("targets") if isinstance(samples, Arrays) else None
    if isinstance(targets, Jagged) and targets.values.is_floating_point():
        there = targets.known
    elif not isinstance(targets, Tensor):
        return samples
    elif targets.is_floating_point():
        there = ~targets.isnan().view(len(targets), -1).any(dim=1)
    else:
        there = (targets != UNLABELLED).view(len(targets), -1).any(dim=1)
    here = there.nonzero().squeeze(1)
    return samples if len(here) == len(samples) else samples.subset(here)


def repeated(samples: Samples, count: int) -> Samples:
    """Return ``count`` samples: the given ones again and again, the copies with ids of their own.

    >>> twice = repeated(Arrays.of(inputs=torch.arange(3)), 5)
    >>> twice.column("inputs").tolist(), twice.ids.tolist()
    ([0, 1, 2, 0, 1], [0, 1, 2, 3, 4])
    """
    if count <= len(samples) or not isinstance(samples, Arrays):
        return samples
    rows = torch.arange(count)
    again = samples.subset(rows % len(samples))
    return replace(again, ids=again.ids + rows // len(samples) * (int(samples.ids.max()) + 1))


def some(samples: Samples, most: int) -> Samples:
    """Return at most so many samples, chosen by a hash of their ids: sets are often sorted.

    >>> some(Arrays.of(targets=torch.tensor([0] * 50 + [1] * 50)), 4).column("targets").tolist()
    [0, 0, 0, 1]
    """
    return samples.subset(key(0, samples.ids, 0).argsort()[:most].sort().values)


def _hidden(targets: Tensor | Jagged, rows: Tensor) -> Tensor | Jagged:
    """Return targets of which some rows, (N,) bool, say that there is no label."""
    if isinstance(targets, Jagged):
        return targets.hidden(rows)
    nothing = float("nan") if targets.is_floating_point() else UNLABELLED
    if targets.dtype == torch.uint8:
        targets = targets.short()  # which has a −1
    return torch.where(rows.view(-1, *[1] * (targets.ndim - 1)), nothing, targets)


def _neither_empty(cut: Tensor, order: Sequence[int] | Tensor) -> Tensor:
    if not cut.any():
        cut[order[0]] = True
    if cut.all():
        cut[order[0]] = False
    return cut
