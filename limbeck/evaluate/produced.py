"""Texts that models produce: produced once, judged together, and some shown to a person.

Letters: B samples in a batch, N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather_object

from limbeck.data.random import key
from limbeck.data.samples import Batch, Samples
from limbeck.data.shown import shown
from limbeck.tasks.task import Producing, Quality
from limbeck.teachers.module import Teacher

__all__ = ["Produced", "produce", "taught"]

Producer = Callable[[Batch], list[str]]
_BETTER = {
    "teacher": "The teacher comes closer to the reference than the student",
    "student": "The student comes closer to the reference than the teacher",
}


@dataclass(frozen=True)
class Produced:
    """What several models produced for the same N samples.

    Attributes:
        ids: of the samples.
        references: what was wanted.
        texts: by model, a text for each sample.
    """

    ids: list[int]
    references: list[str]
    texts: Mapping[str, list[str]]

    def judged(self, task: Producing) -> dict[str, Quality]:
        """Return each model's metrics over all samples."""
        return {name: task.judged(texts, self.references) for name, texts in self.texts.items()}

    def examples(
        self,
        task: Producing,
        samples: Samples,
        roles: Mapping[str, str],
        pair: tuple[str, str] = ("teacher", "student"),
        most: int = 6,
    ) -> dict[str, Any]:
        """Return what a page shows, JSON-like: some samples by chance, and the widest differences.

        Args:
            task: says how close a text comes to what was wanted.
            samples: where the ids are from; they show themselves.
            roles: the models to show, and what the page calls them.
            pair: the roles that are compared.
            most: how many samples are shown of each kind.
        """
        said = {role: self.texts[name] for name, role in roles.items()}
        pairs = list(zip(self.ids, self.references, strict=True))
        close = {
            role: [task.closeness(*each) for each in zip(texts, self.references, strict=True)]
            for role, texts in said.items()
        }
        one, other = pair
        leads = [a - b for a, b in zip(close[one], close[other], strict=True)]
        order = sorted(range(len(leads)), key=lambda row: -leads[row])
        chance = key(0, torch.tensor(self.ids), 0).argsort().tolist()
        rows = {
            "Chosen by chance": chance[:most],
            _BETTER.get(one, one): [row for row in order[:most] if leads[row] > 0],
            _BETTER.get(other, other): [row for row in order[::-1][:most] if leads[row] < 0],
        }

        def entry(row: int) -> dict[str, Any]:
            number, wanted = pairs[row]
            answers = {
                role: {
                    "answer": texts[row],
                    "right": True if texts[row] == wanted else None,
                    "shares": [[texts[row], close[role][row]]],
                }
                for role, texts in said.items()
            }
            told = {"id": number, "apart": leads[row], "wanted": wanted, "answers": answers}
            return told | {"shown": shown(samples, number)}

        groups = [
            {"title": title, "samples": [entry(row) for row in found]}
            for title, found in rows.items()
            if found
        ]
        differing = sum(a != b for a, b in zip(said[one], said[other], strict=True))
        return {
            "differing": differing,
            "of": len(pairs),
            "groups": groups,
            "about": "Shown are texts and, in percent, how close each is to the reference",
        }


def taught(task: Producing, teacher: Teacher, batch: Batch) -> list[str]:
    """Return a teacher's texts for a batch, (B,), from the inputs that it takes."""
    return task.produced(teacher.module, {**batch, "inputs": teacher.prepared(batch)})


@torch.inference_mode()
def produce(
    producers: Mapping[str, Producer], batches: Iterable[Any], task: Producing, world: int = 1
) -> Produced:
    """Let several models produce a text for each sample.

    Args:
        producers: by name, what returns the texts of a batch, (B,).
        batches: with the samples' ids, on the models' device; each of several processes brings its
            own part, and all get everything.
        task: says what was wanted.
        world: the number of processes.
    """
    ids: list[int] = []
    references: list[str] = []
    texts: dict[str, list[str]] = {name: [] for name in producers}
    for batch in batches:
        if not len(batch["id"]):
            continue
        ids += batch["id"].tolist()
        references += task.references(batch)
        for name, producer in producers.items():
            texts[name] += producer(batch)
    if world > 1:
        parts = gather_object([(ids, references, texts)])
        ids = [number for part in parts for number in part[0]]
        references = [text for part in parts for text in part[1]]
        texts = {name: [text for part in parts for text in part[2][name]] for name in texts}
    return Produced(ids, references, texts)
