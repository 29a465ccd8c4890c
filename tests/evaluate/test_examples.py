"""Which samples a report shows, and what it says of them."""

from __future__ import annotations

import torch

from limbeck.data import Arrays, Jagged
from limbeck.data.jagged import Texts
from limbeck.data.samples import as_samples
from limbeck.evaluate import Differing, evaluate
from limbeck.tasks import Classification, Telling

TASK = Classification(2, ("bad", "good"))


def _logits(*shares: float) -> torch.Tensor:
    """Return logits that give class 1 these probabilities."""
    share = torch.tensor(shares)
    return torch.stack([1 - share, share], dim=1).log()


def test_only_differing_answers_are_kept_the_farthest_first() -> None:
    """Without it, a page could show samples on which both agree, or hide the worst."""
    texts = [f"text {n}" for n in range(6)]
    data = Arrays(
        {"inputs": Jagged.of([[n] for n in range(6)]), "targets": torch.tensor([1, 1, 0, 1, 0, 0])},
        torch.arange(6), Texts.of(texts),
    ).subset(torch.tensor([5, 4, 3, 2, 1, 0]))  # fmt: skip
    teacher = _logits(0.9, 0.8, 0.1, 0.9, 0.7, 0.6).flip(0)
    student = _logits(0.4, 0.1, 0.9, 0.95, 0.2, 0.4).flip(0)
    seen = Differing(TASK, data, most=2)
    rows = list(torch.arange(6).split(4))
    for batch, part in zip(data.batches(rows, 0, 0), rows, strict=True):
        seen.update(batch, {"teacher": teacher[part], "student": student[part]})
    found = seen.compute()
    assert (found["differing"], found["of"]) == (5, 6)
    shown = {
        group["title"]: [entry["shown"]["text"] for entry in group["samples"]]
        for group in found["groups"]
    }
    assert shown == {
        "The teacher is right, the student is not": ["text 2", "text 1"],
        "The student is right, the teacher is not": ["text 4", "text 5"],
    }
    entry = found["groups"][0]["samples"][1]
    assert entry["wanted"] == "good"
    assert entry["answers"]["student"]["answer"] == "bad"
    assert entry["answers"]["student"]["right"] is False
    (best, second) = entry["answers"]["teacher"]["shares"]
    assert (best[0], round(best[1], 4), second[0]) == ("good", 0.8, "bad")
    assert round(entry["apart"], 4) == 0.7


def test_the_task_tells_and_the_evaluation_lets_watch() -> None:
    """Without it, the page's answers could be those of other models than the table's."""
    assert isinstance(TASK, Telling)
    data = as_samples((_logits(0.9, 0.2), torch.tensor([1, 1])))
    seen: list[dict[str, list[int]]] = []

    def watch(batch: dict, said: dict) -> None:
        seen.append({name: logits.argmax(1).tolist() for name, logits in said.items()})

    answers = {"same": lambda batch: batch["inputs"], "turned": lambda batch: -batch["inputs"]}
    evaluate(answers, data.batches([torch.arange(2)], 0, 0), TASK, watch=watch)
    assert seen == [{"same": [1, 0], "turned": [0, 1]}]


def test_pictures_and_sets_that_cannot_show_themselves() -> None:
    """Without it, a user's own set of samples would end the evaluation."""
    pictures = as_samples((torch.rand(2, 1, 4, 4), torch.tensor([0, 1])))
    batch = next(pictures.batches([torch.arange(2)], 0, 0))
    said = {"teacher": _logits(0.1, 0.9), "student": _logits(0.9, 0.9)}
    found = []
    for samples in (pictures, Mute()):
        seen = Differing(TASK, samples)
        seen.update(batch, said)
        found.append(seen.compute()["groups"][0]["samples"][0]["shown"])
    assert found[0]["kind"] == "picture"
    assert found[1] == {"kind": "text", "text": "sample 0"}


class Mute:
    """A set of samples as a user may write it: nothing that :class:`Showing` asks for."""

    ids = torch.arange(2)


def test_samples_chosen_by_chance_are_the_same_in_any_batches() -> None:
    """Without it, a page could show as usual what was chosen for its answers, or other samples."""
    count = 40
    data = as_samples((torch.rand(count, 1, 4, 4), torch.arange(count) % 2))
    shares = torch.linspace(0.1, 0.9, count)
    told = []
    for size in (7, count):
        seen = Differing(TASK, data, most=1, chance=5)
        for rows in torch.arange(count).split(size):
            said = {"teacher": _logits(*shares[rows]), "student": _logits(*shares[rows])}
            seen.update(next(data.batches([rows], 0, 0)), said)
        (group,) = seen.compute()["groups"]  # they never differ
        told.append([entry["id"] for entry in group["samples"]])
    assert told[0] == told[1]
    assert len(set(told[0])) == 5
    assert told[0] != sorted(told[0])
