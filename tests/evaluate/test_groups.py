"""Groups of samples on which models differ, against loops over samples."""

from __future__ import annotations

import numpy as np
import torch

from limbeck.data import Arrays, Jagged
from limbeck.evaluate import Groups
from limbeck.tasks import Classification

NAMES = ("ant", "bee", "cat")
COUNT = 60


def _found() -> tuple[dict, Groups, dict[str, np.ndarray]]:
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 12, (COUNT,), generator=draw).tolist()
    labels = torch.randint(-1, 3, (COUNT,), generator=draw)
    said = {role: 3 * torch.randn(COUNT, 3, generator=draw) for role in ("teacher", "student")}
    data = Arrays.of(
        torch.arange(COUNT) + 100, inputs=Jagged.of([[1] * n for n in lengths]), targets=labels
    )
    seen = Groups(Classification(3, NAMES), data)
    rows = list(torch.randperm(COUNT, generator=draw).split(17))
    for batch, part in zip(data.batches(rows, 0, 0), rows, strict=True):
        seen.update(batch, {role: logits[part] for role, logits in said.items()})
    found = seen.compute()
    assert found is not None
    facts = {"labels": labels.numpy(), "lengths": np.array(lengths)}
    facts |= {role: logits.softmax(1).numpy() for role, logits in said.items()}
    return found, seen, facts


def test_counts_are_those_of_a_loop() -> None:
    """Without it, a page could blame the wrong class, or count unlabelled samples as wrong."""
    found, _, facts = _found()
    kept = [n for n in range(COUNT) if facts["labels"][n] >= 0]
    assert found["of"] == len(kept) < COUNT
    edges = [0.5, 0.7, 0.9, 0.99, 2]
    wanted: dict[str, dict[int, list[int]]] = {"class": {}, "confidence": {}}
    for n in kept:
        label = int(facts["labels"][n])
        teacher, student = (int(facts[role][n].argmax()) for role in ("teacher", "student"))
        sure = next(k for k, edge in enumerate(edges) if facts["teacher"][n].max() < edge)
        one, other = teacher == label, student == label
        row = [1, teacher == student, one, other, one and not other, other and not one]
        for kind, group in (("class", label), ("confidence", sure)):
            sums = wanted[kind].setdefault(group, [0] * 6)
            wanted[kind][group] = [a + int(b) for a, b in zip(sums, row, strict=True)]
    names = ("samples", "agree", "teacher_right", "student_right", "lost", "won")
    for kind, groups in wanted.items():
        told = {row["key"]: [row[name] for name in names] for row in found["groupings"][kind]}
        assert told == groups
    assert [row["name"] for row in found["groupings"]["class"]] == list(NAMES)


def test_lengths_are_cut_into_like_parts_and_named_by_what_is_in_them() -> None:
    """Without it, a group could be called by lengths that it does not hold."""
    found, _, facts = _found()
    groups = found["groupings"]["length"]
    assert sum(row["samples"] for row in groups) == found["of"]
    assert len(groups) > 2
    kept = facts["lengths"][facts["labels"] >= 0]
    for row in groups:
        low, _, high = row["name"].partition(" to ")
        inside = (kept >= int(low)) & (kept <= int(high or low))
        assert inside.sum() == row["samples"]


def test_examples_are_chosen_from_every_group() -> None:
    """Without it, a group could be chosen on the page, and show nothing."""
    found, seen, facts = _found()
    apart = facts["teacher"].argmax(1) != facts["student"].argmax(1)
    apart &= facts["labels"] >= 0
    ids = (np.flatnonzero(apart) + 100).tolist()
    assert sum(move["count"] for move in found["moves"]) == len(ids)
    chosen = seen.chosen(ids, 1)
    assert len(chosen) < len(ids)
    for kind in ("class", "confidence", "length", "move"):
        assert {seen.member(n)[kind] for n in ids} == {seen.member(n)[kind] for n in chosen}
    assert seen.member(99) == {}
