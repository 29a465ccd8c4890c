"""Single samples for a person to judge: those about which teacher and student differ most.

Letters: B samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from limbeck.data.samples import Batch, Samples
from limbeck.data.shown import shown
from limbeck.tasks.task import Telling

__all__ = ["Differing"]

_GROUPS = {
    (True, False): "The teacher is right, the student is not",
    (False, True): "The student is right, the teacher is not",
    (False, False): "Both are wrong, each in its way",
    (None, None): "They differ",
}
_MOST_PER_BATCH = 32


class Differing:
    """Keeps the samples to which two models give the most different answers.

    Args:
        task: says how far answers are apart, and what they are in words.
        samples: where the batches are from; they show themselves.
        pair: whose answers are compared, the teacher's first.
        most: how many samples are kept of each kind: the one right, the other, or neither.

    >>> import torch
    >>> from limbeck.data import Arrays
    >>> from limbeck.tasks import Classification
    >>> data = Arrays.of(inputs=torch.eye(2), targets=torch.tensor([0, 1]))
    >>> seen = Differing(Classification(2, ("cat", "dog")), data)
    >>> seen.update(next(data.batches([torch.arange(2)], 0, 0)),
    ...             {"teacher": torch.eye(2), "student": torch.ones(2, 1) * torch.tensor([1., 0.])})
    >>> found = seen.compute()
    >>> found["differing"], found["groups"][0]["samples"][0]["answers"]["student"]["answer"]
    (1, 'cat')
    """

    def __init__(
        self,
        task: Telling,
        samples: Samples,
        pair: tuple[str, str] = ("teacher", "student"),
        most: int = 6,
    ) -> None:
        self.task, self.samples, self.pair, self.most = task, samples, pair, most
        self.differing = self.all = 0
        self._kept: dict[tuple[bool | None, bool | None], list[dict[str, Any]]] = {}

    def update(self, batch: Batch, said: Mapping[str, Tensor]) -> None:
        """Look at one batch.

        Args:
            batch: with the samples' ids.
            said: logits by the models' names, those of the pair among them.
        """
        apart = self.task.apart(said[self.pair[0]], said[self.pair[1]], batch)
        self.all += len(apart)
        self.differing += int((apart > 0).sum())
        farthest = apart.topk(min(_MOST_PER_BATCH, len(apart)))
        for distance, row in zip(*(found.tolist() for found in farthest), strict=True):
            if distance > 0 and "id" in batch:
                self._keep(distance, row, batch, said)

    def compute(self) -> dict[str, Any]:
        """Return what a page shows, JSON-like; the samples that are farthest apart first."""
        groups = []
        for kind, title in _GROUPS.items():
            if kept := self._kept.get(kind):
                samples = [e | {"shown": shown(self.samples, e["id"])} for e in kept]
                groups.append({"title": title, "samples": samples})
        return {"differing": self.differing, "of": self.all, "groups": groups}

    def _keep(self, distance: float, row: int, batch: Batch, said: Mapping[str, Tensor]) -> None:
        answers = {name: self.task.told(logits, batch, row) for name, logits in said.items()}
        rights = [answers[name].get("right") for name in self.pair]
        kind = (rights[0], rights[1]) if None not in rights else (None, None)
        entry = {
            "id": int(batch["id"][row]),
            "apart": distance,
            "wanted": self.task.wanted(batch, row),
            "answers": answers,
        }
        kept = [*self._kept.get(kind, []), entry]
        self._kept[kind] = sorted(kept, key=lambda each: -each["apart"])[: self.most]
