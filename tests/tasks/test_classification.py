"""Classification: metrics are what others compute, and wrong batches are refused by name."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from processes import together
from sklearn import metrics
from torch import Tensor

from limbeck import tasks
from limbeck.data import Loader, as_samples
from limbeck.errors import InputError
from limbeck.tasks import Classification, Quality, Task
from limbeck.tasks.calibration import Reliability
from limbeck.tasks.measure import measure
from limbeck.testing import check_task


def answers(count: int = 200, classes: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    logits = torch.randn(count, classes, generator=generator) * 2
    return logits + 2 * F.one_hot(labels, classes), labels


def measured(task: Task, logits: Tensor, labels: Tensor, size: int = 64) -> Quality:
    meter = task.meter()
    for one, other in zip(logits.split(size), labels.split(size), strict=True):
        meter.update(one, {"inputs": one, "targets": other})
    return meter.compute()


@pytest.mark.parametrize("classes", [2, 3, 5, 6, 10])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_keeps_the_contract(classes: int, smoothing: float) -> None:
    """Accumulated gradients and distributed metrics rely on it."""
    logits, labels = answers(12, classes)
    task = Classification(classes, label_smoothing=smoothing)
    check_task(task, (torch.randn(12, 4), labels), logits)
    check_task(task, {"inputs": torch.randn(12, 4), "targets": labels}, logits)
    assert isinstance(task, Task)


def test_its_names() -> None:
    """Recipes and reports rely on them."""
    task = Classification(3)
    assert (task.name, task.selection) == ("classification", "accuracy")
    assert task.higher_is_better
    assert "classification" in tasks.names()
    assert tasks.get("classification") is Classification
    with pytest.raises(InputError, match="did you mean 'classification'"):
        tasks.get("clasification")


@pytest.mark.parametrize("classes", [2, 5, 6, 10])
@pytest.mark.parametrize("size", [7, 200])
def test_metrics_against_scikit_learn(classes: int, size: int) -> None:
    """A mean over classes is not a mean over samples; a mean of batches is neither."""
    logits, labels = answers(200, classes)
    found = measured(Classification(classes), logits, labels, size)
    probabilities = torch.softmax(logits.double(), 1).numpy()
    truth, everything = labels.numpy(), list(range(classes))
    accuracy = metrics.accuracy_score(truth, probabilities.argmax(1))
    assert found.metrics["accuracy"] == pytest.approx(accuracy, abs=1e-6)
    loss = metrics.log_loss(truth, probabilities, labels=everything)
    assert found.metrics["loss"] == pytest.approx(loss, rel=1e-6)
    matrix = metrics.confusion_matrix(truth, probabilities.argmax(1), labels=everything)
    assert np.array_equal(found.details["confusion"], matrix)
    if classes > 5:
        top5 = metrics.top_k_accuracy_score(truth, probabilities, k=5, labels=everything)
        assert found.metrics["top5_accuracy"] == pytest.approx(top5, abs=1e-6)
    else:
        assert "top5_accuracy" not in found.metrics


def ece(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Guo et al. 2017, equations 2 and 3, in a loop."""
    total = 0.0
    for low in range(bins):
        inside: list[tuple[float, bool]] = []
        for row, label in zip(logits, labels, strict=True):
            p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
            if low / bins < p.max() <= (low + 1) / bins:
                inside.append((float(p.max()), int(p.argmax()) == label))
        if inside:
            confidence = sum(c for c, _ in inside) / len(inside)
            accuracy = sum(right for _, right in inside) / len(inside)
            total += len(inside) / len(labels) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("size", [7, 300])
def test_calibration_against_a_loop(classes: int, size: int) -> None:
    """Averaging each batch's error, or leaving out empty bins, is another number."""
    logits, labels = answers(300, classes, seed=1)
    found = measured(Classification(classes), logits, labels, size)
    expected = ece(logits.double().numpy(), labels.numpy())
    assert found.metrics["ece"] == pytest.approx(expected, abs=1e-6)
    rows = np.array(found.details["reliability"])
    assert rows.shape == (15, 3)
    assert rows[:, 0].sum() == 300
    assert rows[:, 2].sum() == pytest.approx(300 * found.metrics["accuracy"])


@pytest.mark.parametrize(
    ("confidence", "place"), [(1.0, 14), (0.5, 7), (1 / 15 + 0.9, 14), (0.6, 8), (0.601, 9)]
)
def test_bins_are_closed_above(confidence: float, place: int) -> None:
    """A confidence of exactly 1 would fall out of the last bin."""
    meter = Reliability(15)
    odds = 60.0 if confidence == 1.0 else math.log(confidence / (1 - confidence))
    meter.update(torch.tensor([[odds, 0.0]], dtype=torch.float64), torch.tensor([0]))
    found = meter.compute()
    assert found[:, 0].nonzero().flatten().tolist() == [place]
    assert found[place].tolist() == pytest.approx([1.0, confidence, 1.0], abs=1e-6)


def test_the_details_are_for_json() -> None:
    """A report would fail to be written, an hour after training."""
    import json

    found = measured(Classification(4), *answers(20, 4))
    assert json.loads(json.dumps([dict(found.metrics), dict(found.details)]))
    assert all(isinstance(value, float) for value in found.metrics.values())


def test_label_loss() -> None:
    """Smoothing would be applied twice, or bf16 logits be compared in bf16."""
    logits, labels = answers(50, 7)
    batch = {"inputs": logits, "targets": labels}
    plain = Classification(7).label_loss(logits, batch)
    rows = torch.log_softmax(logits.double(), 1).numpy()
    expected = -np.mean([rows[n, label] for n, label in enumerate(labels.tolist())])
    assert float(plain) == pytest.approx(expected, rel=1e-6)
    smooth = Classification(7, label_smoothing=0.2).label_loss(logits, batch)
    assert float(smooth) == pytest.approx(0.8 * expected - 0.2 * rows.mean(), rel=1e-6)
    half = Classification(7).label_loss(logits.bfloat16(), batch)
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(float(plain), rel=2e-2)


@pytest.mark.parametrize(
    "found",
    [
        (torch.ones(2, 3), torch.tensor([0, 1])),
        [torch.ones(2, 3), torch.tensor([0, 1])],
        {"inputs": torch.ones(2, 3), "targets": torch.tensor([0, 1])},
        {"x": torch.ones(2, 3), "y": torch.tensor([0, 1])},
    ],
)
def test_forms_of_a_batch(found: Any) -> None:
    """A user's loader would have to be rewritten."""
    named = {"input_names": "x", "target_name": "y"} if "x" in found else {}
    task = Classification(2, **named)
    batch = task.named(found)
    assert torch.equal(task.inputs(batch), torch.ones(2, 3))
    assert task.targets(batch).tolist() == [0, 1]
    assert task.count(batch) == 2
    assert task.mask(batch) is None
    assert task.named(batch) == batch


def test_several_inputs() -> None:
    """Text models are called with ids and a mask by name."""
    task = Classification(2, input_names=("ids", "mask"), target_name="label")
    batch = task.named(
        {"ids": torch.ones(2), "mask": torch.zeros(2), "label": torch.tensor([0, 1])}
    )
    assert set(task.inputs(batch)) == {"ids", "mask"}
    task.check(batch)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([0, 1, 5], r"sample 30 has label 5.*0 to 4"),
        ([0, -2, 2], r"sample 20 has label -2.*0 to 4"),
        ([0.0, 1.0, 2.0], "type torch.float32"),
        ([[0], [1], [2]], r"shape \(3, 1\)"),
    ],
)
def test_wrong_labels(labels: list, told: str) -> None:
    """On a GPU a label out of range is an assertion without a line; on a CPU, foreign memory."""
    batch = {
        "inputs": torch.zeros(3, 2),
        "targets": torch.tensor(labels),
        "id": torch.tensor([10, 20, 30]),
    }
    with pytest.raises(InputError, match=told):
        Classification(5).check(batch)


def test_a_sample_without_a_label_adds_nothing() -> None:
    """Its loss would be that of a wrong class; and parts of a batch would no longer add up."""
    task, logits = Classification(5, label_smoothing=0.1), torch.randn(4, 5)
    batch = {"inputs": torch.zeros(4, 2), "targets": torch.tensor([3, -1, 0, -1])}
    task.check(batch)
    each = F.cross_entropy(
        logits[[0, 2]], torch.tensor([3, 0]), label_smoothing=0.1, reduction="sum"
    )
    torch.testing.assert_close(task.label_loss(logits, batch), each / 4)
    assert float(task.label_loss(logits[1:2], {"targets": torch.tensor([-1])})) == 0


def test_labels_of_another_whole_type() -> None:
    """int32 labels fail inside the loss, with a message about scalar types."""
    batch = {"inputs": torch.zeros(2, 2), "targets": torch.tensor([0, 1], dtype=torch.int32)}
    with pytest.raises(InputError, match="one int64 label per sample"):
        Classification(2).check(batch)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "shape", [(4,), (4, 3), (4, 1, 2, 2)], ids=["scalars", "vectors", "pictures"]
)
def test_inputs_that_are_no_numbers(value: float, shape: tuple[int, ...]) -> None:
    """The loss becomes NaN, and the weights with it, without a hint at the sample."""
    inputs = torch.zeros(shape)
    inputs[2] = value
    batch = {"inputs": inputs, "targets": torch.zeros(4, dtype=torch.int64)}
    with pytest.raises(InputError, match="sample 2 of the batch holds NaN or infinite"):
        Classification(2).check(batch)
    with pytest.raises(InputError, match="sample 2 of the batch"):
        Classification(2).check(batch | {"inputs": {"a": torch.zeros(4), "b": inputs}})


@pytest.mark.parametrize(
    "inputs",
    [
        torch.zeros(4),
        torch.zeros(4, 3, 2, 2, dtype=torch.uint8),
        torch.zeros(4, 3, dtype=torch.int64),
        {"ids": torch.zeros(4, 3, dtype=torch.int64), "flag": True},
    ],
)
def test_inputs_that_are_fine(inputs: Any) -> None:
    """The check itself would fail on token ids, or on one number per sample."""
    Classification(2).check({"inputs": inputs, "targets": torch.zeros(4, dtype=torch.int64)})


@pytest.mark.parametrize("shape", [(4, 3), (4, 11), (4,), (4, 10, 10), (4, 1)])
@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_a_wrong_number_of_classes(shape: tuple[int, ...], whose: str) -> None:
    """Ten classes against a thousand would be found out by a loss, or by nobody."""
    with pytest.raises(InputError, match=f"the {whose}'s logits.*10 classes"):
        Classification(10).check_logits(torch.zeros(shape), whose)
    Classification(10).check_logits(torch.zeros(4, 10), whose)


@pytest.mark.parametrize(("classes", "labels"), [(1, ()), (0, ()), (3, ("a", "b"))])
def test_impossible_tasks(classes: int, labels: tuple[str, ...]) -> None:
    """A report would name classes wrongly."""
    with pytest.raises(InputError, match="at least 2 classes"):
        Classification(classes, labels)


def test_measuring_nothing() -> None:
    """An empty validation set would be 0 % or a division by zero."""
    with pytest.raises(InputError, match="no samples to measure on"):
        Classification(3).meter().compute()


def test_measure_leaves_no_graph() -> None:
    """Validation would hold every batch's activations."""
    weight = torch.randn(4, 3, requires_grad=True)
    inputs, labels = torch.randn(10, 4), torch.arange(10) % 3
    seen = []

    def answer(batch: dict[str, Any]) -> Tensor:
        seen.append(batch["inputs"] @ weight)
        return seen[-1]

    found = measure(answer, Loader(as_samples((inputs, labels)), 4), Classification(3))
    assert [len(logits) for logits in seen] == [4, 4, 2]
    assert not any(logits.requires_grad for logits in seen)
    accuracy = metrics.accuracy_score(labels, (inputs @ weight).argmax(1))
    assert found.metrics["accuracy"] == pytest.approx(accuracy)


def _share(rank: int, count: int) -> dict[str, Any]:
    logits, labels = answers(29, 6)
    loader = Loader(as_samples((logits, labels)), 8, rank=rank, world=count)
    found = measure(lambda batch: batch["inputs"], loader, Classification(6))
    return {"metrics": dict(found.metrics), "details": dict(found.details)}


def test_processes_measure_together() -> None:
    """Each process would report its own half; or a mean of unequal halves."""
    logits, labels = answers(29, 6)
    whole = measured(Classification(6), logits, labels)
    for part in together(_share, 2):
        assert part["metrics"] == pytest.approx(dict(whole.metrics), rel=1e-6)
        assert part["details"]["confusion"] == whole.details["confusion"]
