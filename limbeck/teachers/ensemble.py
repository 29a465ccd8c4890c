"""Several teachers as one.

Letters: B samples, C classes, M members.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Literal, final, get_args

import torch
from torch import Tensor, nn

from limbeck.data.samples import Batch
from limbeck.errors import InputError, unknown
from limbeck.knowledge.record import Knowledge
from limbeck.teachers.contents import contents
from limbeck.teachers.knowing import Knowing

__all__ = ["Ensemble", "Mean", "ensemble"]

Mean = Literal["probabilities", "logits"]

_MEMBER = re.compile(r"logits\[(\d+)\]")


def ensemble(
    teachers: Iterable[Knowing | nn.Module],
    *,
    weights: Sequence[float] | None = None,
    mean: Mean = "probabilities",
) -> Ensemble:
    """Return several teachers as one, which answers with their mean.

    Args:
        teachers: of any kinds; a plain module is taken as a :class:`limbeck.Teacher`.
        weights: one for each, at least 0; they are divided by their sum. By default all equal.
        mean: ``probabilities``: log Σ w·softmax(z), what the members would predict together;
            ``logits``: Σ w·z, for members whose logits have the same scale.

    >>> one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> ensemble([one, other]).knowledge({"inputs": torch.zeros(3, 2)}).logits.shape
    torch.Size([3, 2])
    """
    from limbeck.teachers.module import Teacher

    members = [t if isinstance(t, Knowing) else Teacher(t) for t in teachers]
    return Ensemble(members, [1.0] * len(members) if weights is None else list(weights), mean)


@final
class Ensemble:
    """The weighted mean of several teachers' answers.

    Its taps are ``logits``, and ``logits[i]`` for those of member i, from 0 on.

    Args:
        members: M teachers.
        weights: M numbers.
        mean: of ``probabilities`` or of ``logits``.

    Raises:
        InputError: no members, weights that do not fit, or an unknown mean; later, another tap, or
            members that disagree on the number of classes.

    Source: mean of probabilities: Hinton et al. 2015, arXiv:1503.02531, section 3.
    """

    def __init__(self, members: Sequence[Knowing], weights: Sequence[float], mean: Mean) -> None:
        if mean not in get_args(Mean):
            raise unknown("mean", mean, get_args(Mean))
        total = math.fsum(weights)
        wrong = any(not math.isfinite(weight) or weight < 0 for weight in weights)
        if not members or len(weights) != len(members) or wrong or total <= 0:
            raise InputError(
                f"{len(members)} teachers with the weights {list(weights)}",
                expected="at least one teacher, and for each a weight of at least 0, not all 0",
            )
        self.members, self.mean = list(members), mean
        self.weights = [weight / total for weight in weights]

    def knowledge(self, batch: Batch, taps: Sequence[str] = ("logits",)) -> Knowledge:
        """Return the mean of the members' logits, or single members'."""
        which = {tap: self._member(tap) for tap in taps}
        said = [member.knowledge(batch, ("logits",)).logits.float() for member in self.members]
        shapes = {tuple(logits.shape) for logits in said}
        if len(shapes) > 1:
            raise InputError(
                f"the members' logits have the shapes {sorted(shapes)}", expected="the same for all"
            )
        known = {tap: self._mean(said) if at is None else said[at] for tap, at in which.items()}
        return Knowledge(known, ids=batch.get("id"), provenance=repr(self))

    def fingerprint(self) -> str:
        """Return a hash of the members' fingerprints, the weights and the kind of mean."""
        prints = [member.fingerprint() for member in self.members]
        return contents([prints, self.weights, self.mean])

    def _mean(self, said: Sequence[Tensor]) -> Tensor:
        logits_MBC = torch.stack(list(said))
        weights = logits_MBC.new_tensor(self.weights).view(-1, *[1] * (logits_MBC.ndim - 1))
        if self.mean == "logits":
            return (weights * logits_MBC).sum(dim=0)
        return torch.logsumexp(logits_MBC.log_softmax(dim=-1) + weights.log(), dim=0)

    def _member(self, tap: str) -> int | None:
        """Return which member a tap means; ``None`` for all."""
        if tap == "logits":
            return None
        found = _MEMBER.fullmatch(tap)
        if found is None or int(found[1]) >= len(self.members):
            known = ["logits", *(f"logits[{n}]" for n in range(len(self.members)))]
            raise unknown("tap of an ensemble:", tap, known)
        return int(found[1])

    def __repr__(self) -> str:
        return f"Ensemble of {len(self.members)}, mean of {self.mean}"
