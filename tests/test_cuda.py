"""What only a GPU can show; skipped where there is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import limbeck as lb
from limbeck import losses, methods
from limbeck.students import zoo
from limbeck.testing import check_loss

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
CLASSES = 10


@pytest.fixture
def batch() -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "inputs": torch.rand(64, 3, 32, 32, device="cuda"),
        "targets": torch.randint(CLASSES, (64,), device="cuda"),
        "id": torch.arange(64, device="cuda"),
        "view": torch.zeros(64, dtype=torch.int64, device="cuda"),
    }


@pytest.mark.parametrize("name", ["kl", "dkd", "dist", "logit_standardized_kl", "reverse_kl"])
def test_losses_agree_with_the_cpu(name: str) -> None:
    """A loss that moved to another device's defaults would differ there alone."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 32, 100)
    options = {"targets": torch.randint(100, (32,))} if name == "dkd" else {}
    here = losses.get(name)(student, teacher, **options)
    moved = {key: value.cuda() for key, value in options.items()}
    there = losses.get(name)(student.cuda(), teacher.cuda(), **moved)
    assert torch.allclose(here, there.cpu(), rtol=1e-5)


def test_the_contract_holds_on_the_gpu() -> None:
    """The contract's own tensors are on the processor; a loss could pass there alone."""
    with torch.device("cuda"):
        check_loss(losses.kl)


@pytest.mark.parametrize("name", ["kd", "dkd", "dist", "at", "sp", "pkt", "fitnets"])
def test_a_step_does_not_wait_for_the_device(name: str, batch: dict[str, Any]) -> None:
    """One hidden wait in each step would halve the speed of small models."""
    teacher, student = (
        zoo.build(model, classes=CLASSES).cuda() for model in ("resnet20", "resnet8")
    )
    task = lb.tasks.Classification(CLASSES)
    distiller = lb.Distiller(teacher, student, task=task, method=methods.get(name)()).prepare(batch)
    distiller.train()
    distiller(batch).loss.backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        distiller(batch).loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("precision", "compiled"), [("fp32", False), ("auto", False), ("auto", True)]
)
def test_a_student_learns(precision: str, compiled: bool) -> None:
    """Precision and compilation are chosen for users: each must train."""
    data = lb.data.sources.digits()
    build = {"image": (1, 8, 8), "classes": CLASSES}
    teacher = zoo.build("cnn", channels=(16, 32), hidden=(64,), **build)
    student = zoo.build("cnn", channels=(8, 16), hidden=(32,), **build)
    task = lb.tasks.Classification(CLASSES)
    for learner in (
        lb.Distiller(None, teacher, task=task),
        lb.Distiller(teacher, student, task=task, method=methods.kd()),
    ):
        fitted = lb.fit(
            learner, data.train, validation=data.validation, epochs=10, precision=precision,
            compiled=compiled, listener=lb.Silent(),
        )  # fmt: skip
        assert fitted.history[fitted.best_epoch]["validation"]["accuracy"] > 0.9
        assert next(learner.parameters()).device.type == "cuda"
