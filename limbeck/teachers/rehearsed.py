"""A teacher whose answers pass through a store's codecs, without a store: to try them out.

Letters: B samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from limbeck.data.samples import Batch
from limbeck.knowledge import codec
from limbeck.knowledge.record import Knowledge
from limbeck.teachers.knowing import Knowing

__all__ = ["Rehearsed"]


class Rehearsed:
    """Answers as a replayed store will, as far as losses can tell.

    Parts of answers are kept and read again; what other codecs lose in precision is not lost here.

    Args:
        teacher: who answers.
        codecs: the name of each tap's codec.

    >>> from limbeck.teachers import Teacher
    >>> known = Rehearsed(Teacher(torch.nn.Linear(4, 9)), {"logits": "top2"})
    >>> known.knowledge({"inputs": torch.zeros(3, 4)})["logits"]
    SparseLogits((3, 9), top2)
    """

    def __init__(self, teacher: Knowing, codecs: Mapping[str, str]) -> None:
        self.teacher, self.codecs = teacher, codecs

    def knowledge(self, batch: Batch, taps: Sequence[str] = ("logits",)) -> Knowledge:
        """Return what the teacher says, as it would be kept."""
        known = self.teacher.knowledge(batch, taps)
        return replace(known, tensors={tap: self._kept(tap, known[tap]) for tap in taps})

    def fingerprint(self) -> str:
        """Return the teacher's."""
        return self.teacher.fingerprint()

    def _kept(self, tap: str, field: Any) -> Any:
        name = self.codecs.get(tap, "half")
        if not codec.keeps_a_part(name):
            return field
        chosen = codec.get(name)
        keys = torch.zeros(len(field), dtype=torch.int64, device=field.device)
        return chosen.decode(chosen.encode(field, keys), tuple(field.shape[1:]))
