"""Single samples for a person to judge: those about which teacher and student differ most.

Letters: B samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from limbeck.data.random import key
from limbeck.data.samples import Batch, Samples
from limbeck.data.shown import shown
from limbeck.tasks.task import Drawing, Telling

__all__ = ["Differing"]

_GROUPS = {
    (True, False): "The teacher is right, the student is not",
    (False, True): "The student is right, the teacher is not",
    (False, False): "Both are wrong, each in its way",
    (None, None): "They differ",
}
_PICKED = "Chosen by chance"
_FURTHER = "More on which they differ"
_MOST_PER_BATCH = 32
_PER_BUCKET = 3


class Differing:
    """Keeps the samples to which two models give the most different answers.

    Args:
        task: says how far answers are apart, and what they are in words.
        samples: where the batches are from; they show themselves.
        pair: whose answers are compared, the teacher's first.
        most: how many samples are kept of each kind: the one right, the other, or neither.
        chance: how many are kept besides, chosen by a hash of their ids, whatever the answers are.
        bucket: a number for each sample of a batch, (B,); of each number some samples are kept
            besides, so that more can be asked for in the end.

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
        chance: int = 0,
        bucket: Callable[[Batch, Mapping[str, Tensor]], Tensor] | None = None,
    ) -> None:
        self.task, self.samples, self.pair, self.most = task, samples, pair, most
        self.chance, self.bucket = chance, bucket
        self.differing = self.all = 0
        self._picked: list[tuple[int, dict[str, Any]]] = []
        self._kept: dict[tuple[bool | None, bool | None], list[dict[str, Any]]] = {}
        self._further: dict[int, list[dict[str, Any]]] = {}

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
        if self.chance and "id" in batch:
            self._pick(apart, batch, said)
        if self.bucket is not None and "id" in batch:
            self._keep_further(apart, self.bucket(batch, said), batch, said)

    def compute(
        self, choose: Callable[[Sequence[int]], Sequence[int]] | None = None
    ) -> dict[str, Any]:
        """Return what a page shows, JSON-like; the samples that are farthest apart first.

        Args:
            choose: which of the ids of further samples are to be shown too, in a group of their
                own that is marked ``further``.
        """
        kinds = {title: self._kept.get(kind, []) for kind, title in _GROUPS.items()}
        found = {_PICKED: [entry for _, entry in self._picked], **kinds}
        if choose is not None:
            found[_FURTHER] = self._chosen(choose)
        groups: list[dict[str, Any]] = []
        for title, kept in found.items():
            if kept:
                samples = [e | {"shown": shown(self.samples, e["id"])} for e in kept]
                groups.append({"title": title, "samples": samples})
                groups[-1] |= {"further": True} if title == _FURTHER else {}
        return {"differing": self.differing, "of": self.all, "groups": groups}

    def _chosen(self, choose: Callable[[Sequence[int]], Sequence[int]]) -> list[dict[str, Any]]:
        """Return further samples in the order in which they are wanted."""
        shown = [entry for kept in self._kept.values() for entry in kept]
        known = {entry["id"] for entry in shown}
        more = [e for kept in self._further.values() for e in kept if e["id"] not in known]
        entries = {entry["id"]: entry for entry in [*shown, *sorted(more, key=_farthest)]}
        return [entries[number] for number in choose(list(entries)) if number not in known]

    def _keep(self, distance: float, row: int, batch: Batch, said: Mapping[str, Tensor]) -> None:
        entry = self._entry(distance, row, batch, said)
        rights = [entry["answers"][name].get("right") for name in self.pair]
        kind = (rights[0], rights[1]) if None not in rights else (None, None)
        kept = [*self._kept.get(kind, []), entry]
        self._kept[kind] = sorted(kept, key=_farthest)[: self.most]

    def _keep_further(
        self, apart: Tensor, buckets: Tensor, batch: Batch, said: Mapping[str, Tensor]
    ) -> None:
        """Keep of each bucket the samples that are the farthest apart."""
        for bucket in buckets[apart > 0].unique().tolist():
            inside = apart * (buckets == bucket)
            best = inside.topk(min(_PER_BUCKET, int((inside > 0).sum())))
            new = zip(best.values.tolist(), best.indices.tolist(), strict=True)
            kept = [self._entry(distance, row, batch, said) for distance, row in new]
            both = [*self._further.get(bucket, []), *kept]
            self._further[bucket] = sorted(both, key=_farthest)[:_PER_BUCKET]

    def _pick(self, apart: Tensor, batch: Batch, said: Mapping[str, Tensor]) -> None:
        """Keep the samples whose hashes are the smallest of all so far."""
        chances = key(0, batch["id"], 0)
        least = chances.topk(min(self.chance, len(chances)), largest=False)
        new = zip(least.values.tolist(), least.indices.tolist(), strict=True)
        found = [(c, self._entry(float(apart[row]), row, batch, said)) for c, row in new]
        self._picked = sorted([*self._picked, *found], key=lambda each: each[0])[: self.chance]

    def _entry(
        self, distance: float, row: int, batch: Batch, said: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        answers = {name: self.task.told(answer, batch, row) for name, answer in said.items()}
        entry: dict[str, Any] = {
            "id": int(batch["id"][row]),
            "apart": distance,
            "wanted": self.task.wanted(batch, row),
            "answers": answers,
        }
        if isinstance(self.task, Drawing):
            entry["drawn"] = self.task.drawn(None, batch, row)
            for name, answer in said.items():
                answers[name] = answers[name] | {"drawn": self.task.drawn(answer, batch, row)}
        return entry


def _farthest(entry: Mapping[str, Any]) -> float:
    return -float(entry["apart"])
