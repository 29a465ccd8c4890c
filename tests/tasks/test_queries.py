"""Detectors that answer with sets: their label loss against transformers', what they find."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

import limbeck as lb
from limbeck.errors import InputError
from limbeck.tasks import Detection
from limbeck.tasks.queries import Queries
from limbeck.testing import check_task

SIZE, CLASSES = (32, 48), 3
KINDS = {"softmax": CLASSES + 1, "yes or no": CLASSES}


def scenes() -> dict[str, Tensor]:
    """Return four pictures with up to three boxes; the second has none."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(4, 3, 2, generator=generator) * torch.tensor([30.0, 16.0])
    boxes = torch.cat([corner, corner + 4 + 11 * torch.rand(4, 3, 2, generator=generator)], dim=2)
    gone = torch.tensor([[0, 0, 1], [1, 1, 1], [0, 1, 0], [0, 0, 0]]).bool()
    classes = torch.tensor([[0, 2, 0], [0, 0, 0], [1, 0, 1], [2, 0, 0]]).masked_fill(gone, -1)
    return {
        "inputs": torch.rand(4, 3, *SIZE, generator=generator),
        "targets": boxes.masked_fill(gone[..., None], 0.0),
        "classes": classes,
        "id": torch.arange(4),
    }


def answers(kind: str, queries: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    scores = 2 * torch.randn(4, queries, KINDS[kind], generator=generator)
    return torch.cat([scores, torch.rand(4, queries, 4, generator=generator) * 0.4 + 0.3], dim=2)


def perfect(kind: str, batch: dict[str, Tensor]) -> Tensor:
    """Return an answer that finds every box, and nothing else."""
    down, across = SIZE
    boxes = batch["targets"] / torch.tensor([across, down, across, down])
    low, high = boxes.split(2, dim=2)
    there = batch["classes"] >= 0
    scores = torch.full((4, 3, KINDS[kind]), -9.0)
    if kind == "softmax":
        scores[..., -1] = torch.where(there, -9.0, 9.0)
    row, place = there.nonzero(as_tuple=True)
    scores[row, place, batch["classes"][row, place]] = 9.0
    return torch.cat([scores, (low + high) / 2, high - low], dim=2).flip(1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_label_loss_is_that_of_transformers(kind: str) -> None:
    """Without it, a detector trained elsewhere would be taught by other weights here."""
    batch, logits = scenes(), answers(kind)
    found = Detection(CLASSES, SIZE).label_losses(logits, batch)
    place = "for_object_detection" if kind == "softmax" else "deformable_detr"
    theirs: Any = importlib.import_module(f"transformers.loss.loss_{place}")
    if kind == "softmax":
        matcher = theirs.HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
        judge, weight = theirs.ImageLoss(matcher, CLASSES, 0.1, ["labels", "boxes"]), 1
    else:
        matcher = theirs.DeformableDetrHungarianMatcher(class_cost=2, bbox_cost=5, giou_cost=2)
        judge = theirs.DeformableDetrImageLoss(matcher, CLASSES, 0.25, ["labels", "boxes"])
        weight = 2
    down, across = SIZE
    for row in range(4):  # their means are over the boxes of a batch, ours over samples
        there = batch["classes"][row] >= 0
        boxes = batch["targets"][row, there] / torch.tensor([across, down, across, down])
        low, high = boxes.split(2, dim=1)
        label = {
            "class_labels": batch["classes"][row, there],
            "boxes": torch.cat([(low + high) / 2, high - low], dim=1),
        }
        only = logits[row : row + 1]
        parts = judge({"logits": only[..., :-4], "pred_boxes": only[..., -4:]}, [label])
        expected = weight * parts["loss_ce"] + 5 * parts["loss_bbox"] + 2 * parts["loss_giou"]
        assert float(found[row]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_right_is_measured_as_right(kind: str) -> None:
    """Without it, boxes could be read at another scale than they are learnt in."""
    pytest.importorskip("faster_coco_eval")
    task, batch = Detection(CLASSES, SIZE, ("cat", "dog", "owl")), scenes()
    logits = perfect(kind, batch)
    meter = task.meter()
    meter.update(logits, batch)
    found = meter.compute().metrics
    assert found["box_map"] == pytest.approx(1)
    assert found["loss"] < 0.01
    assert [task.told(logits, batch, row)["right"] for row in range(4)] == [True] * 4
    assert task.drawn(logits, batch, 0)["text"] == task.drawn(None, batch, 0)["text"]
    places = torch.zeros(4, 120, CLASSES + 36) - 9
    agreement, divergence = task.alike(logits, places, batch)
    assert agreement.tolist() == [0, 1, 0, 0]  # of another kind: both find nothing in the second
    assert divergence.isnan().all()


@pytest.mark.parametrize("kind", KINDS)
def test_keeps_the_contract(kind: str) -> None:
    """Accumulated gradients and distributed metrics rely on it."""
    pytest.importorskip("faster_coco_eval")
    check_task(Detection(CLASSES, SIZE), scenes(), answers(kind))


def test_a_teachers_boxes_become_labels() -> None:
    """Without it, detectors of unlike kinds could teach one another nothing."""
    task, batch = Detection(CLASSES, SIZE), scenes()
    said = task.as_labels(perfect("softmax", batch), batch)
    assert [len(each) for each in said] == [2, 0, 2, 3]
    samples = lb.data.Arrays.of(**{k: v for k, v in batch.items() if k != "id"})
    again = task.named(next(task.relabelled(samples, said).batches([torch.arange(4)], 0, 0)))
    expected = task.label_losses(answers("softmax"), batch)
    torch.testing.assert_close(task.label_losses(answers("softmax"), again), expected)
    with pytest.raises(InputError, match=r"sure is 1\.5"):
        Detection(CLASSES, SIZE, sure=1.5)


def test_pictures_without_labels_add_nothing() -> None:
    """Without it, a picture that nobody has marked would be learnt as one without objects."""
    task, batch = Detection(CLASSES, SIZE), scenes()
    hidden = batch | {"targets": batch["targets"].clone()}
    hidden["targets"][0] = float("nan")
    found = task.label_losses(answers("softmax").requires_grad_(), hidden)
    assert found.tolist()[0] == 0
    assert torch.isfinite(found).all()


def test_kinds_are_told_apart_by_their_width() -> None:
    """Without it, the numbers of a box could be taken for bins of an edge."""
    queries = Queries(CLASSES, SIZE)
    widths = [width for width in range(40) if queries.fit(torch.zeros(1, 2, width))]
    assert widths == [CLASSES + 4, CLASSES + 5]
    with pytest.raises(InputError, match=r"or \(B, L, 7\) or \(B, L, 8\), a set of boxes"):
        Detection(CLASSES, SIZE).check_logits(torch.zeros(1, 9, 9), "student")
