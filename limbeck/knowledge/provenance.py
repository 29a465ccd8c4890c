"""What knowledge was made from, and what would go wrong in silence if that is another thing now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils._pytree import tree_leaves

from limbeck.data.augment import Augmentation
from limbeck.data.samples import Arrays, Samples
from limbeck.errors import InputError, unknown

__all__ = [
    "SUBJECTS",
    "UNKNOWN",
    "Detailed",
    "augmentation",
    "different",
    "fingerprints",
    "refuse",
    "trusted",
]

_DISPLACED = "Answers would be given to other samples than those they are about."
_OTHERS = "The student would learn from another teacher's answers."
_MIXED = "Old and new knowledge would be mixed in one store."

# In the order in which they are told, each with what would go wrong.
SUBJECTS: dict[str, str] = {
    "weights": _OTHERS,
    "preprocessing": "The answers are to inputs that were prepared in another way.",
    "teacher": _OTHERS,
    "data": _DISPLACED,
    "augmentation": "The student would see another crop than the teacher saw.",
    "samples": _DISPLACED,
    "views": "Some epochs would show a view that the teacher never saw.",
    "taps": "A match would not find what it compares.",
    "codec": _MIXED,
    "mask": "Tokens would be taken for others.",
    "batch_size": "A resumed store would differ from an uninterrupted one.",
    "rows_per_shard": _MIXED,
    "format": _MIXED,
}
_INSIDE = "inside the data set"
UNKNOWN = "unknown"  # a fingerprint that a store from elsewhere does not have
_DETAILS = ("weights", "preprocessing")


@runtime_checkable
class Detailed(Protocol):
    """A teacher that can say which part of it has changed."""

    def fingerprints(self) -> Mapping[str, str]:
        """Return one fingerprint each of its ``weights`` and its ``preprocessing``."""


def fingerprints(teacher: Any) -> dict[str, str]:
    """Return a teacher's fingerprint, and those of its parts if it has some."""
    parts = dict(teacher.fingerprints()) if isinstance(teacher, Detailed) else {}
    return {**parts, "teacher": teacher.fingerprint()}


def augmentation(samples: Samples, augment: Augmentation | None) -> str:
    """Return what changes from one view of a sample to the next: ``none``, or what does it.

    A data set may have random transforms of its own: a few samples are read in several views to
    find out.
    """
    if augment is not None:
        return augment.over(samples).fingerprint()
    few = samples.subset(torch.arange(min(8, len(samples))))
    if isinstance(samples, Arrays):
        return "none"
    views = [tree_leaves(next(few.batches([torch.arange(len(few))], v, 0))) for v in range(4)]
    for leaves in views[1:]:
        for one, other in zip(views[0][:-1], leaves[:-1], strict=True):  # the last is the view
            if isinstance(one, torch.Tensor) and not torch.equal(one, other):
                return _INSIDE
    return "none"


def different(kept: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the subjects that differ, in the order of :data:`SUBJECTS`, others last.

    A teacher's parts are compared only if both sides know them; if one differs, the teacher as a
    whole is not named too.

    >>> different({"weights": "a", "preprocessing": "b", "teacher": "c"},
    ...           {"weights": "a", "preprocessing": "x", "teacher": "y"})
    ['preprocessing']
    """
    order = [*SUBJECTS, *(subject for subject in now if subject not in SUBJECTS)]
    found = [
        subject
        for subject in order
        if subject in now
        and kept.get(subject) not in (now[subject], UNKNOWN)
        and (subject in kept or subject not in _DETAILS)
    ]
    if set(found) & set(_DETAILS):
        found = [subject for subject in found if subject != "teacher"]
    return found


def refuse(
    what: str, subjects: list[str], kept: Mapping[str, Any], now: Mapping[str, Any], remedy: str
) -> InputError:
    """Return the error that says which subjects differ, and what would go wrong in silence.

    Args:
        what: names the store: "the store runs/x".
        subjects: those that differ, one or more.
        kept: what the store was made from.
        now: what it is to be used with.
        remedy: how to mend it.
    """
    told = ", and another ".join(f"{s} ({kept.get(s)}, now {now.get(s)})" for s in subjects)
    return InputError(
        f"{what} was written with another {told}",
        consequence=SUBJECTS.get(
            subjects[0], "The student would learn from answers to other questions."
        ),
        remedy=remedy,
    )


def trusted(subjects: Iterable[str]) -> frozenset[str]:
    """Return subjects whose difference a user takes responsibility for.

    Raises:
        InputError: a name is not one of :data:`SUBJECTS`.
    """
    chosen = frozenset([subjects] if isinstance(subjects, str) else subjects)
    for subject in sorted(chosen - SUBJECTS.keys()):
        raise unknown("subject to trust:", subject, SUBJECTS)
    return chosen
