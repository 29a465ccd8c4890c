"""A step of a distiller never waits for the device: checked on tensors without values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck import methods
from limbeck.losses import Spec, declare
from limbeck.testing import WaitingError, never_waiting

CLASSES = 5
TASK = lb.tasks.Classification(CLASSES)
# What these compare, images with class labels do not have.
ELSEWHERE = {
    "affinity", "binary", "ctc", "ctc_sequence", "cwd_logits", "detection", "distilbert", "fgd",
    "ld", "listwise", "margin_mse", "minilm", "pkd", "policy", "rd", "rrd", "segmentation", "seqkd",
    "set_detection", "simkd", "tinybert", "uld",
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "crd": {"n_data": 20, "negatives": 4},
    "prototype": {"n_classes": CLASSES},
    "semckd": {"batch_size": 8},
}
NAMES = [name for name in methods.names() if name not in ELSEWHERE]


def _network(width: int) -> nn.Module:
    stages: list[nn.Module] = []
    channels = 3
    for stage in range(3):
        stages += [nn.Conv2d(channels, width << stage, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        channels = width << stage
    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*stages, *pooled, nn.Linear(channels, CLASSES))


def _step(method: Any) -> None:
    """Train one step on ``meta``, after a dry run with values, which has to look at some."""
    batch = {
        "inputs": torch.randn(8, 3, 16, 16),
        "targets": torch.arange(8) % CLASSES,
        "id": torch.arange(8),
    }
    teacher, student = _network(6), _network(4)
    distiller = lb.Distiller(teacher, student, task=TASK, method=method).prepare(batch)
    teacher.to("meta")
    distiller.to("meta").train()
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1)
    moved = {field: rows.to("meta") for field, rows in batch.items()}
    with never_waiting():
        distiller(moved).loss.backward()
        optimizer.step()


@pytest.mark.parametrize("name", NAMES)
def test_no_method_waits(name: str) -> None:
    """A GPU would stand still in each step until Python has seen a number."""
    _step(methods.get(name)(**OPTIONS.get(name, {})))


def test_the_list_is_long() -> None:
    """A list that is empty would prove nothing."""
    assert len(NAMES) >= 30


def test_a_method_that_waits_is_found() -> None:
    """A check that finds nothing would pass all the tests above."""

    @declare(Spec("response", "an example", "classes"))
    def waiting(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        difference = (student - teacher).square().sum()
        return difference if float(difference) > 1 else difference * 0

    match = lb.Match("logits", "logits", waiting)
    with pytest.raises(WaitingError, match=r"_local_scalar_dense .*test_waiting\.py:"):
        _step(match)
