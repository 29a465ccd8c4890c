"""Texts that models produce: judged together, and some of them shown."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from limbeck.data import Arrays, Jagged
from limbeck.data.jagged import Texts
from limbeck.evaluate import produce
from limbeck.tasks import Quality

WANTED = ("aaaa", "bbbb", "cccc", "dddd", "eeee")


class Spelling:
    """Letters that are wanted; closeness is the share that is right."""

    headline = "right"

    def produced(self, model: object, batch: dict) -> list[str]:
        raise NotImplementedError

    def references(self, batch: dict) -> list[str]:
        return [WANTED[number] for number in batch["id"].tolist()]

    def judged(self, produced: Sequence[str], references: Sequence[str]) -> Quality:
        pairs = zip(produced, references, strict=True)
        return Quality({"right": sum(a == b for a, b in pairs) / len(references)})

    def closeness(self, produced: str, reference: str) -> float:
        return sum(a == b for a, b in zip(produced, reference, strict=True)) / 4


def test_each_model_is_judged_and_the_widest_differences_are_shown() -> None:
    """Without it, texts could be judged against another sample's reference, or shown beside it."""
    data = Arrays(
        {"inputs": Jagged.of([[n] for n in range(5)])}, torch.arange(5),
        Texts.of([f"text {n}" for n in range(5)]),
    ).subset(torch.tensor([4, 2, 0, 1, 3]))  # fmt: skip
    said = {
        "teacher 0": ("aaaa", "bxxx", "cccc", "dddd", "exxx"),
        "student 1": ("aaxx", "bbbb", "cccc", "xxxx", "eexx"),
    }
    producers = {
        name: lambda batch, texts=texts: [texts[number] for number in batch["id"].tolist()]
        for name, texts in said.items()
    }
    rows = torch.arange(5).split(2)
    found = produce(producers, data.batches(list(rows), 0, 0), Spelling())
    assert found.ids == [4, 2, 0, 1, 3]
    judged = found.judged(Spelling())
    assert judged["teacher 0"].metrics == {"right": 3 / 5}
    assert judged["student 1"].metrics == {"right": 2 / 5}
    told = found.examples(
        Spelling(), data, {"teacher 0": "teacher", "student 1": "student"}, most=2
    )
    assert (told["differing"], told["of"]) == (4, 5)
    shown = {
        group["title"]: [(entry["shown"]["text"], entry["wanted"]) for entry in group["samples"]]
        for group in told["groups"]
    }
    assert len(shown.pop("Chosen by chance")) == 2
    assert shown == {
        "The teacher comes closer to the reference than the student": [
            ("text 3", "dddd"), ("text 0", "aaaa"),
        ],
        "The student comes closer to the reference than the teacher": [
            ("text 1", "bbbb"), ("text 4", "eeee"),
        ],
    }  # fmt: skip
    answers = told["groups"][1]["samples"][1]["answers"]
    assert answers["teacher"] == {"answer": "aaaa", "right": True, "shares": [["aaaa", 1.0]]}
    assert answers["student"] == {"answer": "aaxx", "right": None, "shares": [["aaxx", 0.5]]}
