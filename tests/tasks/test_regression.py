"""Numbers to be predicted: metrics are scikit-learn's, units are kept, classes' losses refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import Tensor, nn

import limbeck as lb
from limbeck.errors import InputError
from limbeck.tasks import Comparing, Refusing, Regression, Separable, Telling
from limbeck.testing import check_task


def numbers(count: int = 70, each: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randn(count, each, generator=generator)
    return wanted + 0.5 * torch.randn(count, each, generator=generator), wanted


def test_keeps_the_contract() -> None:
    """Accumulated gradients, mixtures and distributed metrics rely on it."""
    answers, wanted = numbers(12)
    for task in (Regression(2), Regression(2, huber=0.3, center=(4, -2), scale=(3.0, 0.5))):
        check_task(task, (torch.randn(12, 4), wanted), answers)
        assert isinstance(task, Separable)
        assert isinstance(task, Comparing)
        assert isinstance(task, Telling)
        assert isinstance(task, Refusing)
    check_task(Regression(1), (torch.randn(12, 4), wanted[:, 0]), answers[:, :1])
    assert lb.tasks.get("regression") is Regression


def test_metrics_are_those_of_scikit_learn_in_the_targets_units() -> None:
    """Errors in standard deviations would be told as dollars or hours."""
    answers, wanted = numbers()
    center, scale = (1e6, -2.0), (3.0, 0.5)  # a large mean costs squares about 0 all their digits
    meter = Regression(2, center=center, scale=scale).meter()
    for one, other in zip(answers.split(32), wanted.split(32), strict=True):
        meter.update(one, {"inputs": one, "targets": other})
    found = meter.compute().metrics
    own, theirs = (x.double().numpy() * scale + center for x in (answers, wanted))
    squared = metrics.mean_squared_error(theirs, own, multioutput="raw_values")
    assert found["rmse"] == pytest.approx(np.sqrt(squared).mean(), rel=1e-6)
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(theirs, own), rel=1e-6)
    assert found["r2"] == pytest.approx(metrics.r2_score(theirs, own), rel=1e-6)


def test_the_label_loss_by_hand() -> None:
    """A factor ½, or a mean over the numbers, would change what a method's weights mean."""
    answers, wanted = torch.tensor([[1.0, 3.0], [0.0, 5.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    batch = {"inputs": answers, "targets": wanted}
    assert float(Regression(2).label_loss(answers, batch)) == (1 + 9 + 0 + 16) / 2
    huber = Regression(2, huber=2.0).label_loss(answers, batch)
    assert float(huber) == pytest.approx((1 + 2 * 2 * (3 - 1) + 0 + 2 * 2 * (4 - 1)) / 2)
    unknown = {"inputs": answers, "targets": torch.tensor([[0.0, 0.0], [0.0, math.nan]])}
    leaf = answers.clone().requires_grad_(True)
    loss = Regression(2).label_loss(leaf, unknown)
    loss.backward()
    assert loss.item() == (1 + 9) / 2
    assert leaf.grad is not None
    assert leaf.grad[1].tolist() == [0.0, 0.0]


def test_answers_are_compared_and_told_in_units() -> None:
    """A report would tell standard deviations, or call an answer wrong that is near."""
    task = Regression(1, ("hours",), center=(40.0,), scale=(10.0,), near=0.2)
    own, other = torch.tensor([[0.5], [0.1], [-1.0]]), torch.tensor([[0.0], [0.0], [1.0]])
    batch = {"inputs": own, "targets": torch.tensor([[0.0], [-4.5], [0.0]])}
    same, divergence = task.alike(own, other, batch)
    assert same.tolist() == [False, True, False]
    # KL of N(t, 1) from N(s, 1), by its closed form
    assert divergence.tolist() == pytest.approx([0.125, 0.005, 2.0])
    assert task.apart(own, other, batch).tolist() == pytest.approx([0.5, 0.0, 2.0])
    assert task.told(own, batch, 0) == {"answer": "45", "right": None, "shares": []}
    assert task.wanted(batch, 1) == "−5"
    pair = Regression(2, ("a", "b"))
    assert pair.told(torch.tensor([[1.5, -2.0]]), {}, 0)["answer"] == "a 1.5, b −2"


@pytest.mark.parametrize("method", ["kd", "hard_label", "dkd", "dist", "logit_mse", "rkd"])
def test_losses_that_compare_classes_are_refused(method: str) -> None:
    """A single number's softmax is 1: the student would learn nothing, and nobody would know."""
    made = lb.methods.get(method)()
    task, batch = Regression(1), (torch.randn(6, 4), torch.randn(6, 1))
    models = [nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 1)) for _ in range(2)]
    distiller = lb.Distiller(models[0], models[1], task=task, method=made)
    if method in ("logit_mse", "rkd"):
        distiller.prepare(batch)
        assert torch.isfinite(distiller(batch).loss)
        return
    with pytest.raises(InputError, match=r"compares classes.*Set method to logit_mse"):
        distiller.prepare(batch)


@pytest.mark.parametrize(
    ("targets", "answer", "told"),
    [
        (torch.tensor([0, 1]), (2, 1), "targets of type torch.int64"),
        (torch.zeros(2, 3), (2, 1), r"shape \(2, 3\). Expected: \(B, 1\)"),
        (torch.tensor([[0.0], [math.inf]]), (2, 1), "sample 1 of the batch has an infinite target"),
        (torch.zeros(2, 1), (2, 4), r"classes=1"),
    ],
)
def test_wrong_batches_are_refused(targets: Tensor, answer: tuple[int, int], told: str) -> None:
    """A class number would be learnt as an amount."""
    task = Regression(1)
    batch = task.named((torch.zeros(2, 3), targets))

    def check() -> None:
        task.check_logits(torch.zeros(answer), "student")
        task.check(batch)

    with pytest.raises(InputError, match=told):
        check()
    with pytest.raises(InputError, match="scales above 0"):
        Regression(1, scale=(0.0,))
