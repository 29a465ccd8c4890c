"""Where two models differ: groups of samples by class, by how sure the teacher is, by length.

Letters: N samples, B samples in a batch, C classes, G groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor

from limbeck.data.samples import Arrays, Batch, Samples
from limbeck.tasks.task import Deciding

__all__ = ["Groups"]

_EDGES = (0.5, 0.7, 0.9, 0.99)  # of the teacher's confidence
_SURE = ("below 50%", "50 to 70%", "70 to 90%", "90 to 99%", "99% and more")
_PARTS = 5  # groups by length, about equally large
_PAIRS = 132  # of differing answers, the most frequent ones: all of a dozen classes
_COUNTS = ("agree", "teacher_right", "student_right", "lost", "won")
_Whole = NDArray[np.int64]


class Groups:
    """Counts, by group, how often two models are right, and how often they agree.

    Samples without a label are passed over.

    Args:
        task: says which class an answer is.
        samples: where the batches are from; they may know how long each sample is.
        pair: whose answers are compared, the teacher's first.

    >>> from limbeck.tasks import Classification
    >>> data = Arrays.of(inputs=torch.eye(2), targets=torch.tensor([0, 1]))
    >>> seen = Groups(Classification(2, ("cat", "dog")), data)
    >>> seen.update(next(data.batches([torch.arange(2)], 0, 0)),
    ...             {"teacher": torch.eye(2), "student": torch.ones(2, 1) * torch.tensor([1., 0.])})
    >>> found = seen.compute()
    >>> [(row["name"], row["lost"]) for row in found["groupings"]["class"]]
    [('cat', 0), ('dog', 1)]
    >>> [(move["teacher"], move["student"], move["count"]) for move in found["moves"]]
    [('dog', 'cat', 1)]
    """

    def __init__(
        self, task: Deciding, samples: Samples, pair: tuple[str, str] = ("teacher", "student")
    ) -> None:
        self.task, self.pair = task, pair
        lengths = samples.lengths if isinstance(samples, Arrays) else None
        self._lengths = None
        if lengths is not None:
            self._lengths = dict(zip(samples.ids.tolist(), lengths.tolist(), strict=True))
        self._rows: list[tuple[_Whole, NDArray[np.float64]]] = []
        self._places: dict[int, dict[str, int | str]] = {}
        self._lost: dict[int, int] = {}

    def update(self, batch: Batch, said: Mapping[str, Tensor]) -> None:
        """Count one batch.

        Args:
            batch: with the samples' ids and labels.
            said: logits (B, C) by the models' names, those of the pair among them.
        """
        labels = self.task.targets(batch)
        if "id" not in batch:
            return
        teacher, student = (self.task.log_shares(said[name]).max(dim=1) for name in self.pair)
        numbers = [batch["id"], labels, teacher.indices, student.indices]
        kept = (labels >= 0).cpu()
        whole = torch.stack([column.cpu() for column in numbers], dim=1)[kept]
        self._rows.append((whole.numpy(), teacher.values.exp().double().cpu()[kept].numpy()))

    def compute(self, world: int = 1) -> dict[str, Any] | None:
        """Return what a page shows, JSON-like; ``None`` if no sample has a label.

        Args:
            world: the number of processes, all of which must then call it.

        Returns:
            ``of``; ``groupings``: by ``class``, ``confidence`` and, if samples have one, ``length``
            a list of groups that have samples, with ``key``, ``name``, ``samples`` and the counts
            ``agree``, ``teacher_right``, ``student_right``, ``lost`` (only the teacher is right)
            and ``won`` (only the student is); ``moves``: the most frequent pairs of differing
            answers, with ``lost`` and ``won``.
        """
        parts = gather_object(self._rows) if world > 1 else self._rows
        if not sum(len(rows) for rows, _ in parts):
            return None
        ids, labels, teacher, student = np.concatenate([rows for rows, _ in parts]).T
        facts = np.stack(
            [
                teacher == student,
                teacher == labels,
                student == labels,
                (teacher == labels) & (student != labels),
                (teacher != labels) & (student == labels),
            ]
        )
        sure = np.digitize(np.concatenate([shares for _, shares in parts]), _EDGES)
        kinds: dict[str, tuple[_Whole, Sequence[str]]] = {
            "class": (labels, [self._name(n) for n in range(int(labels.max()) + 1)]),
            "confidence": (sure, _SURE),
        }
        if (found := self._by_length(ids)) is not None:
            kinds["length"] = found
        self._remember(ids, teacher, student, {kind: which for kind, (which, _) in kinds.items()})
        groupings = {kind: _counted(*found, facts) for kind, found in kinds.items()}
        self._lost = {group["key"]: group["lost"] for group in groupings["class"]}
        return {
            "of": len(ids),
            "groupings": groupings,
            "moves": self._moves(teacher, student, labels),
        }

    def member(self, number: int) -> dict[str, int | str]:
        """Return, after :meth:`compute`, the key of the group of each kind that a sample is in."""
        return self._places.get(number, {})

    def bucket(self, batch: Batch, said: Mapping[str, Tensor]) -> Tensor:
        """Return a number for each sample, (B,), by its label and how sure the teacher is."""
        sure = self.task.log_shares(said[self.pair[0]]).amax(dim=1).exp()
        edges = torch.tensor(_EDGES, device=sure.device)
        return self.task.targets(batch) * len(_SURE) + torch.bucketize(sure, edges, right=True)

    def chosen(self, numbers: Sequence[int], each: int) -> list[int]:
        """Return samples of every group, ``each`` of them if there are, and one of every move.

        Those of classes in which most was lost come first.

        Args:
            numbers: ids to choose among, of samples that get two answers, the best first.
            each: how many samples of a group are enough.
        """
        counts: Counter[tuple[str, int | str]] = Counter()
        kept: dict[int, None] = {}
        order = sorted(
            numbers, key=lambda n: -self._lost.get(int(self.member(n).get("class", -1)), 0)
        )
        for enough, moves in (*((n + 1, False) for n in range(each)), (1, True)):
            for number in order:
                groups = list(self.member(number).items())
                own = [group for group in groups if (group[0] == "move") == moves]
                if number not in kept and any(counts[group] < enough for group in own):
                    kept[number] = None
                    counts.update(groups)
        return list(kept)

    def _remember(
        self, ids: _Whole, teacher: _Whole, student: _Whole, kinds: Mapping[str, _Whole]
    ) -> None:
        apart = np.flatnonzero(teacher != student)
        self._places = {
            int(ids[row]): {kind: int(which[row]) for kind, which in kinds.items()}
            | {"move": f"{teacher[row]}-{student[row]}"}
            for row in apart
        }

    def _moves(self, teacher: _Whole, student: _Whole, labels: _Whole) -> list[dict[str, Any]]:
        """Return pairs of differing answers, the most frequent first."""
        apart = teacher != student
        pairs, places, counts = np.unique(
            np.stack([teacher[apart], student[apart]], axis=1),
            axis=0, return_inverse=True, return_counts=True,
        )  # fmt: skip
        right = [
            np.bincount(places.ravel(), said[apart] == labels[apart], len(pairs))
            for said in (teacher, student)
        ]
        order = np.argsort(-counts, kind="stable")[:_PAIRS]
        return [
            {
                "key": f"{pairs[n][0]}-{pairs[n][1]}",
                "teacher": self._name(pairs[n][0]),
                "student": self._name(pairs[n][1]),
                "count": int(counts[n]),
                "lost": int(right[0][n]),
                "won": int(right[1][n]),
            }
            for n in order
        ]

    def _by_length(self, ids: _Whole) -> tuple[_Whole, list[str]] | None:
        """Return each sample's group by length, and what the groups are called."""
        if self._lengths is None:
            return None
        lengths = np.array([self._lengths[number] for number in ids.tolist()])
        cuts = np.unique(np.quantile(lengths, np.linspace(0, 1, _PARTS + 1)[1:-1], method="higher"))
        cuts = cuts[(cuts > lengths.min())]
        if not len(cuts):
            return None
        which = np.digitize(lengths, cuts)
        ends = [
            (lengths[which == n].min(), lengths[which == n].max()) for n in range(len(cuts) + 1)
        ]
        return which, [f"{low:,}" if low == high else f"{low:,} to {high:,}" for low, high in ends]

    def _name(self, number: int) -> str:
        return str(self.task.labels[number] if self.task.labels else number)


def _counted(which: _Whole, names: Sequence[str], facts: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Return the counts of each group that has samples.

    Args:
        which: (N,) the group of each sample.
        names: (G,) of the groups.
        facts: (5, N) what is counted.
    """
    sizes = np.bincount(which, minlength=len(names))
    sums = [np.bincount(which, fact, len(names)) for fact in facts]
    return [
        {"key": n, "name": names[n], "samples": int(sizes[n])}
        | {name: int(count[n]) for name, count in zip(_COUNTS, sums, strict=True)}
        for n in np.flatnonzero(sizes).tolist()
    ]
