"""Segmentation: metrics are what others compute, and methods compare pixel by pixel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.segmentation import MeanIoU

import limbeck as lb
from limbeck.errors import InputError
from limbeck.tasks import Segmentation
from limbeck.testing import check_task

CLASSES = 4


def answers(count: int = 6, ignored: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
    """Return logits, and a batch whose labels they partly meet."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES - 1, (count, 9, 7), generator=generator)  # one never occurs
    logits = torch.randn(count, CLASSES, 9, 7, generator=generator)
    logits += F.one_hot(labels, CLASSES).movedim(-1, 1)
    logits[:, -1] -= 99
    if ignored:
        labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    pictures = torch.rand(count, 3, 9, 7, generator=generator)
    return logits, {"inputs": pictures, "targets": labels.to(torch.uint8)}


def test_keeps_the_contract() -> None:
    """Accumulated gradients and distributed metrics rely on it."""
    logits, batch = answers()
    check_task(Segmentation(CLASSES), batch, logits)
    check_task(Segmentation(CLASSES), (batch["inputs"], batch["targets"]), logits)
    assert lb.tasks.get("segmentation") is Segmentation


def test_metrics_against_torchmetrics_and_counting() -> None:
    """A mean over pictures is not one over all pixels; pixels without a label must not count."""
    logits, batch = answers()
    task = Segmentation(CLASSES, ("background", "a", "b", "c"))
    meter = task.meter()
    for rows in (slice(0, 1), slice(1, 6)):
        meter.update(logits[rows], {name: field[rows] for name, field in batch.items()})
    found = meter.compute()
    labels, said = batch["targets"].long(), logits.argmax(1)
    counted = labels != 255
    # In one row, so that torchmetrics takes all pixels for one picture.
    one = MeanIoU(num_classes=CLASSES, per_class=True, input_format="index")
    shares = one(said[counted][None, None], labels[counted][None, None])
    assert found.metrics["mean_iou"] == pytest.approx(float(shares[:-1].mean()), abs=1e-6)
    right = (said == labels)[counted].float().mean()
    assert found.metrics["pixel_accuracy"] == pytest.approx(float(right), abs=1e-6)
    loss = F.cross_entropy(logits, labels, ignore_index=255)
    assert found.metrics["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert found.details["iou"] == pytest.approx(
        dict(zip(("background", "a", "b"), shares.tolist(), strict=False))
    )
    torch.testing.assert_close(task.label_loss(logits, batch), loss)
    assert int(task.count(batch)) == int(counted.sum())


def test_pictures_without_masks_add_nothing() -> None:
    """Without it, a picture that nobody has marked would be learnt as one of background."""
    logits, batch = answers()
    arrays = lb.data.Arrays.of(**batch)
    data = lb.data.Data(arrays, arrays, arrays).hiding(2)
    assert len(data.labelled) == 2
    hidden = next(data.train.batches([torch.arange(6)], 0, 0))
    task = Segmentation(CLASSES)
    task.check(hidden)
    known = hidden["targets"].flatten(1).amax(1) >= 0
    labels = batch["targets"].long()
    summed = F.cross_entropy(logits[known], labels[known], ignore_index=255, reduction="sum")
    # As for classes of whole samples, the mean is still one over all that could have a label.
    count = (hidden["targets"] != 255).sum()
    torch.testing.assert_close(task.label_loss(logits, hidden), summed / count)
    assert int(task.count(hidden)) == int(count)
    assert torch.equal(task.labelled(hidden).flatten(1).any(1), known)


@pytest.mark.parametrize(
    "method", [lb.methods.kd(2.0, 0.5), lb.methods.dkd(), lb.methods.probability_mse()]
)
def test_methods_of_classes_compare_each_pixel(method: lb.methods.Method) -> None:
    """Without it, a softmax would run over the columns of a picture."""
    _, batch = answers()
    teacher, student = (nn.Conv2d(3, CLASSES, 1) for _ in range(2))
    both = lb.Distiller(teacher, student, task=Segmentation(CLASSES), method=method)
    out = both(batch)
    flat = [
        model(batch["inputs"]).movedim(1, -1).flatten(0, 2).detach() for model in (student, teacher)
    ]
    match, (name, found) = method.matches[0], list(out.terms.items())[-1]
    context: dict[str, Any] = {}
    if "targets" in match.context:
        labels = batch["targets"].flatten().long()
        context, flat = {"targets": labels[labels != 255]}, [x[labels != 255] for x in flat]
    value = match.loss(*flat, **context, **match.options)
    torch.testing.assert_close(found, value, msg=name)


class Coarse(nn.Module):
    """As torchvision's models: a mapping with ``out``, here at a quarter of the size."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, CLASSES, 4, stride=4)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.inner(images)}


def test_models_of_other_libraries() -> None:
    """Without it, coarse answers of theirs would be compared with the wrong pixels."""
    transformers = pytest.importorskip("transformers")
    sizes: dict[str, Any] = {
        "num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [8, 8], "sr_ratios": [2, 1],
        "num_attention_heads": [1, 1], "patch_sizes": [7, 3], "strides": [4, 2],
        "mlp_ratios": [2, 2], "decoder_hidden_size": 8, "num_labels": CLASSES,
    }  # fmt: skip
    teacher = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(**sizes))
    batch = {"inputs": torch.rand(2, 3, 32, 32), "targets": torch.randint(CLASSES, (2, 32, 32))}
    task = Segmentation(CLASSES)
    method = lb.methods.segmentation(student="inner", teacher="decode_head.classifier")
    out = lb.Distiller(teacher, Coarse(), task=task, method=method).prepare(batch)(batch)
    assert out.teacher is not None
    assert out.teacher.logits.shape == (2, CLASSES, 8, 8)
    out.loss.backward()
    grown = F.interpolate(out.student.logits, (32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(out.terms["label"], F.cross_entropy(grown, batch["targets"]))
    meter = task.meter()
    meter.update(out.student.logits.detach(), batch)
    right = (grown.argmax(1) == batch["targets"]).float().mean()
    assert meter.compute().metrics["pixel_accuracy"] == pytest.approx(float(right))


def test_answers_are_compared_told_and_drawn() -> None:
    """Without it, nobody could judge where teacher and student differ."""
    logits, batch = answers(2, ignored=False)
    task = Segmentation(CLASSES, ("background", "a", "b", "c"))
    other = logits.clone()
    other[0, :, :3] = logits[0, :, :3].flip(0)  # three of nine rows
    same, divergence = task.alike(logits, other, batch)
    changed = (logits.argmax(1) != other.argmax(1)).float().mean((1, 2))
    torch.testing.assert_close(same, 1 - changed)
    torch.testing.assert_close(task.apart(logits, other, batch), changed)
    assert divergence[0] > 0
    assert divergence[1] == 0
    assert task.told(logits, batch, 0)["answer"].startswith("a, b; ")
    assert task.wanted(batch, 0) == "a, b"
    for answer in (None, logits):
        assert task.drawn(answer, batch, 0)["src"].startswith("data:image/png;base64,")
    assert task.drawn(None, batch, 0)["text"] == "a, b"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": torch.full((6, 9, 7), 9)}, r"sample 0 .* has label 9 in row 0, column 0"),
        ({"targets": torch.zeros(6, 8, 7).long()}, r"masks of 8×7 for pictures of 9×7"),
        ({"targets": torch.zeros(6).long()}, r"shape \(6,\).*a class for each pixel"),
        ({"inputs": torch.full((6, 3, 9, 7), torch.nan)}, r"sample 0 .* holds NaN"),
    ],
)
def test_wrong_batches_are_refused(changes: dict[str, Tensor], message: str) -> None:
    """Without it, training would read foreign memory or end in NaN."""
    with pytest.raises(InputError, match=message):
        Segmentation(CLASSES).check(answers()[1] | changes)


def test_wrong_answers_are_refused() -> None:
    """Without it, a model for other classes would be trained to its first epoch's end."""
    with pytest.raises(InputError, match=r"the student's logits have the shape \(2, 3, 9, 7\)"):
        Segmentation(CLASSES).check_logits(torch.zeros(2, 3, 9, 7), "student")
