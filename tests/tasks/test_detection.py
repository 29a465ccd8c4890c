"""Detection: places, boxes and losses against loops, average precision against pycocotools."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import limbeck as lb
from limbeck.data import Jagged
from limbeck.data.motion import Motion
from limbeck.errors import InputError
from limbeck.tasks import Detection
from limbeck.tasks.boxes import Places, kept, overlap
from limbeck.testing import check_method, check_task

SIZE, CLASSES, BINS = (32, 48), 3, 9
PLACES = 8 * 12 + 4 * 6


@pytest.fixture
def task() -> Detection:
    """Two levels, three classes."""
    return Detection(CLASSES, SIZE, ("cat", "dog", "owl"))


def scenes(count: int = 6) -> dict[str, Tensor]:
    """Return pictures with up to three boxes; the second has none."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(count, 3, 2, generator=generator) * torch.tensor([30.0, 16.0])
    side = 4 + torch.rand(count, 3, 2, generator=generator) * torch.tensor([13.0, 11.0])
    boxes = torch.cat([corner, corner + side], dim=2).round()
    classes = torch.randint(CLASSES, (count, 3), generator=generator)
    gone = torch.rand(count, 3, generator=generator) < 0.3
    gone[1:2] = True
    return {
        "inputs": torch.rand(count, 3, *SIZE, generator=generator),
        "targets": boxes.masked_fill(gone[..., None], 0.0),
        "classes": classes.masked_fill(gone, -1),
        "id": torch.arange(count),
    }


def answers(
    task: Detection, batch: dict[str, Tensor], sure: float = 3.0, noise: float = 1.0
) -> Tensor:
    """Return logits that find the boxes more or less, and other ones too."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(len(batch["inputs"]), PLACES, CLASSES + 4 * BINS, generator=generator)
    logits = noise * logits - 1
    places = task.places(batch)
    here, which = places.assigned(batch["targets"])
    boxes = batch["targets"].gather(1, which[..., None].expand(-1, -1, 4))
    bins = places.distances(boxes).clamp(0, BINS - 1).round().long()
    row, place = here.nonzero(as_tuple=True)
    labels = batch["classes"].gather(1, which)[row, place]
    logits[row, place, labels] += sure
    for edge in range(4):
        logits[row, place, CLASSES + BINS * edge + bins[row, place, edge]] += 4
    return logits


def test_keeps_the_contract(task: Detection) -> None:
    """Accumulated gradients and distributed metrics rely on it."""
    batch = scenes()
    check_task(task, batch, answers(task, batch))
    assert isinstance(task, lb.tasks.Task)


def test_overlaps_by_hand() -> None:
    """Without it, boxes would be drawn to the wrong ones."""
    one, other = torch.tensor([0.0, 0, 4, 4]), torch.tensor([2.0, 2, 6, 4])
    shared, general = overlap(one, other)  # 4 of 20 pixels; 24 around both
    assert float(shared) == pytest.approx(4 / 20)
    assert float(general) == pytest.approx(4 / 20 - 4 / 24)
    apart = overlap(one, torch.tensor([8.0, 0, 12, 4]))[1]  # 16 of 48 around both are empty
    assert float(apart) == pytest.approx(-16 / 48)


def test_the_surest_of_a_class_stays() -> None:
    """Without it, a digit would be found ten times, or beside another not at all."""
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(1, 30, 2, generator=generator) * 20
    boxes = torch.cat([low, low + 4 + 8 * torch.rand(1, 30, 2, generator=generator)], dim=2)
    classes = torch.randint(2, (1, 30), generator=generator)
    stays: list[int] = []
    for number in range(30):
        rivals = [n for n in stays if classes[0, n] == classes[0, number]]
        if all(overlap(boxes[0, n], boxes[0, number])[0] <= 0.4 for n in rivals):
            stays.append(number)
    assert kept(boxes, classes, 0.4)[0].nonzero().flatten().tolist() == stays
    assert 5 < len(stays) < 30


def test_places_answer_for_the_boxes_about_their_middles() -> None:
    """Without it, a box could be learnt nowhere, or by the wrong level."""
    boxes = [[3.0, 5, 20, 30], [21, 2, 47, 30], [30, 8, 32, 9], [4, 6, 18, 28], [0, 0, 48, 32]]
    places = Places.of(SIZE, (4, 8), torch.device("cpu"))
    here, which = places.assigned(torch.tensor([[*boxes, [0.0] * 4]]))
    for place, (middle, stride) in enumerate(
        zip(places.middles.tolist(), places.strides.tolist(), strict=True)
    ):
        fitting = []
        for number, (left, top, right, bottom) in enumerate(boxes):
            longest = max(right - left, bottom - top)
            if (4 if longest <= 32 else 8) != stride:
                continue
            off = max(abs(middle[0] - (left + right) / 2), abs(middle[1] - (top + bottom) / 2))
            inside = left < middle[0] < right and top < middle[1] < bottom
            if (inside and off < 1.5 * stride) or off <= 0.5 * stride:
                fitting.append(((right - left) * (bottom - top), number))
        assert bool(here[0, place]) == bool(fitting)
        if fitting:
            assert int(which[0, place]) == min(fitting)[1]
    assert set(which[0][here[0]].tolist()) >= {0, 1, 2, 3, 4} - {0}
    again = places.boxes(places.distances(torch.rand(2, PLACES, 4)))
    assert again.shape == (2, PLACES, 4)


def test_the_label_loss_against_a_loop(task: Detection) -> None:
    """Without it, a weight or a mean of the three parts would be wrong unseen."""
    batch = scenes()
    logits = answers(task, batch).double()
    found = task.label_losses(logits.float(), batch)
    places = task.places(batch)
    here, which = places.assigned(batch["targets"])
    for row in range(len(logits)):
        focal = box = weights = 0.0
        for place in range(PLACES):
            classes = logits[row, place, :CLASSES].sigmoid().numpy()
            edges = logits[row, place, CLASSES:].view(4, BINS).softmax(1).numpy()
            quality = np.zeros(CLASSES)
            if here[row, place]:
                label = int(which[row, place])
                middle, stride = places.middles[place].numpy(), float(places.strides[place])
                steps = edges @ np.arange(BINS) * stride
                said = np.concatenate([middle - steps[:2], middle + steps[2:]])
                true = batch["targets"][row, label].numpy()
                pair = overlap(torch.tensor(said), torch.tensor(true))
                quality[int(batch["classes"][row, label])] = float(pair[0])
                wanted = np.concatenate([middle - true[:2], true[2:] - middle]) / stride
                wanted = wanted.clip(0, BINS - 1 - 1e-3)
                low = np.floor(wanted).astype(int)
                each = [
                    -(low[e] + 1 - wanted[e]) * math.log(edges[e, low[e]])
                    - (wanted[e] - low[e]) * math.log(edges[e, low[e] + 1])
                    for e in range(4)
                ]
                weight = classes.max()
                box += weight * (2 * (1 - float(pair[1])) + 0.25 * np.mean(each))
                weights += weight
            cross = -quality * np.log(classes) - (1 - quality) * np.log(1 - classes)
            focal += float(((quality - classes) ** 2 * cross).sum())
        count = max(1, int(here[row].sum()))
        expected = focal / count + box / max(weights, 1e-6)
        assert float(found[row]) == pytest.approx(expected, rel=1e-4)
    assert not here[1].any()


def test_pictures_without_labels_add_nothing(task: Detection) -> None:
    """Without it, a picture that nobody has marked would be learnt as one without objects."""
    boxes = scenes()
    real = boxes["classes"] >= 0
    offsets = torch.cat([torch.zeros(1).long(), real.sum(1).cumsum(0)])
    targets = Jagged(boxes["targets"][real], offsets, names=(), dtype=torch.float32)
    classes = Jagged(boxes["classes"][real], offsets, padding=-1, names=())
    arrays = lb.data.Arrays.of(inputs=boxes["inputs"], targets=targets, classes=classes)
    arrays = arrays.subset(real.any(1).nonzero().flatten())
    data = lb.data.Data(arrays, arrays, arrays).hiding(2)
    assert len(data.labelled) == 2
    rows = torch.arange(len(arrays))
    plain, hidden = (next(each.batches([rows], 0, 0)) for each in (arrays, data.train))
    task.check(hidden)
    logits = torch.randn(len(arrays), PLACES, CLASSES + 4 * BINS)
    there = torch.isin(arrays.ids, data.labelled.ids)
    expected = task.label_losses(logits, plain) * there
    torch.testing.assert_close(task.label_losses(logits, hidden), expected)
    mirrored = Motion(SIZE, torch.tensor([[-1.0, 1.0]] * len(rows)), torch.tensor([[48.0, 0.0]]))
    again = task.moved(hidden, mirrored)
    assert torch.equal(task.label_losses(logits, again) > 0, there)
    with pytest.raises(InputError, match="sequences of whole numbers are to be hidden"):
        classes.hidden(there)


def test_average_precision_against_pycocotools(task: Detection) -> None:
    """Without it, boxes of one picture could be compared with those of another."""
    library = pytest.importorskip("pycocotools.coco")
    judges = pytest.importorskip("pycocotools.cocoeval")
    batch = scenes(12)
    logits = answers(task, batch, sure=2.0)
    meter = task.meter()
    for rows in (slice(5, 12), slice(0, 5)):
        meter.update(logits[rows], {name: field[rows] for name, field in batch.items()})
    found = meter.compute().metrics
    entries: list[dict[str, Any]] = []
    for number, boxes, classes in zip(
        batch["id"].tolist(), batch["targets"], batch["classes"], strict=True
    ):
        for (left, top, right, bottom), label in zip(
            boxes[classes >= 0].tolist(), classes[classes >= 0].tolist(), strict=True
        ):
            sides = [right - left, bottom - top]
            entries.append(
                {"id": len(entries) + 1, "image_id": number, "category_id": label, "iscrowd": 0,
                 "bbox": [left, top, *sides], "area": sides[0] * sides[1]}
            )  # fmt: skip
    said = [
        {"image_id": number, "category_id": label, "score": score,
         "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]}
        for number, each in enumerate(task.boxes(logits))
        for box, label, score in zip(
            each.boxes.tolist(), each.classes.tolist(), each.scores.tolist(), strict=True
        )
    ]  # fmt: skip
    truth = library.COCO()
    truth.dataset = {
        "images": [{"id": number} for number in range(12)],
        "annotations": entries,
        "categories": [{"id": number, "name": str(number)} for number in range(CLASSES)],
        "info": {},
    }
    truth.createIndex()
    judge = judges.COCOeval(truth, truth.loadRes(said), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    for name, place in (("box_map", 0), ("box_map_50", 1), ("box_recall", 8)):
        assert found[name] == pytest.approx(judge.stats[place], abs=1e-6)
    assert 0.05 < found["box_map"] < 0.95
    assert found["loss"] == pytest.approx(float(task.label_losses(logits, batch).mean()), rel=1e-5)


def test_a_box_is_found_where_it_is(task: Detection) -> None:
    """Without it, edges could be taken in another order than they are learnt in."""
    batch = scenes(1) | {
        "targets": torch.tensor([[[10.0, 6, 26, 22]]]), "classes": torch.tensor([[2]])
    }  # fmt: skip
    logits = answers(task, batch, sure=12.0, noise=0.0)
    logits[..., CLASSES:] *= 20  # all of the probability in one bin
    [found] = task.boxes(logits)
    assert int(found.classes[0]) == 2
    assert (found.boxes[0] - batch["targets"][0, 0]).abs().max() < 0.01
    assert task.wanted(batch, 0) == "owl"
    answer = task.told(logits, batch, 0)
    assert answer == {"answer": "owl", "right": True, "shares": []}
    for said in (None, logits):
        assert task.drawn(said, batch, 0)["text"] == "owl"
    nothing = torch.full_like(logits, -9.0)
    assert task.told(nothing, batch, 0) == {"answer": "nothing", "right": False, "shares": []}
    assert task.apart(logits, nothing, batch).tolist() == [1.0]
    assert task.alike(logits, logits, batch)[0].tolist() == [1.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": [[40.0, 2, 60, 9]]}, r"sample 0 has a box 40, 2, 60, 9 of class 0"),
        ({"targets": [[9.0, 2, 4, 9]]}, r"sample 0 has a box 9, 2, 4, 9"),
        ({"classes": [3]}, r"of class 3.*class 0 to 2"),
        ({"targets": [[1.0, 2, 3, 4], [1, 2, 3, 4]]}, r"a class for each box"),
        ({"inputs": torch.zeros(1, 3, 9, 9)}, r"pictures of 32×48"),
    ],
)
def test_wrong_batches_are_refused(changes: dict[str, Any], message: str, task: Detection) -> None:
    """Without it, a detector would learn boxes that are not there."""
    batch: dict[str, Any] = {"targets": [[1.0, 2, 9, 9]], "classes": [0]} | changes
    batch = {
        "inputs": batch.get("inputs", torch.zeros(1, 3, *SIZE)),
        "targets": torch.tensor([batch["targets"]]),
        "classes": torch.tensor([batch["classes"]]),
        "id": torch.arange(1),
    }
    with pytest.raises(InputError, match=message):
        task.check(batch)


def test_methods_for_detectors(task: Detection) -> None:
    """Without it, a method would be refused, or compare what cannot be compared."""
    batch = scenes()
    sizes: dict[str, Any] = {"classes": CLASSES, "neck": 8}
    make = lb.students.zoo.build
    levels = ["neck.0", "neck.1"]
    hint = lb.Match("neck.0", "neck.0", lb.losses.hint, features="mean")
    for method in (
        lb.methods.detection(),
        lb.methods.ld(bins=BINS),
        lb.methods.fgd(SIZE, student=levels, teacher=levels),
        hint,
    ):
        teacher = make("detector", channels=[6, 8, 8], **sizes | {"neck": 12})
        student = make("detector", channels=[4, 4, 6], **sizes)
        check_method(method, student=student, teacher=teacher, batch=batch, task=task)
    refused = lb.Distiller(teacher, student, task=task, method=lb.methods.kd())
    with pytest.raises(InputError, match="the method detection, or matches of 'output"):
        refused.prepare(batch)
    wrong = make("detector", channels=[4, 4, 6], **sizes | {"strides": [4]})
    with pytest.raises(InputError, match=r"the student's logits .*\(B, 120, 39\)"):
        lb.Distiller(None, wrong, task=task).prepare(batch)
