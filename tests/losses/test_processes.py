"""Losses with parameters or a memory: two processes train as one does."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import together
from torch import Tensor, nn

import limbeck as lb
from limbeck import losses
from limbeck.losses import Contrastive, Prototypes
from limbeck.losses.towers import TowerFeatures
from limbeck.losses.views import SelfSupervised

SIZE, STEPS = 8, 3


def _matches() -> dict[str, lb.Match]:
    """Return what is tried; made anew in each process."""
    taps = {"student": "0", "teacher": "0"}
    return {
        "prototypes": lb.Match(**taps, loss=Prototypes, adapter=None, n_classes=3),
        "moving prototypes": lb.Match(
            **taps, loss=Prototypes, adapter=None, n_classes=3, momentum=0.5
        ),
        "memory": lb.Match(**taps, loss=Contrastive, n_data=40, embedding=4, negatives=6),
        "views": lb.Match(**taps, loss=SelfSupervised, views=2),
        "uncertainty": lb.Match("logits", "logits", losses.UncertaintyWeighted(losses.kl)),
        "learned temperature": lb.Match("logits", "logits", losses.LearnedTemperature),
        "confidence": lb.Match("logits", "logits", losses.ConfidenceWeighted),
        "sample temperature": lb.Match("logits", "logits", losses.SampleTemperature),
    }


NAMES = list(_matches())


def _model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def _batch(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {
        "inputs": torch.randn(SIZE, 4, generator=generator).double(),
        "targets": torch.randint(3, (SIZE,), generator=generator),
        "id": torch.randperm(40, generator=generator)[:SIZE],
    }


def _trained(name: str, rank: int, count: int) -> dict[str, Tensor]:
    """Return the student's weights and the state of the loss after a few steps on a part."""
    torch.manual_seed(0)  # of the parameters of the loss, and of its memory
    distiller = lb.Distiller(
        _model(1), _model(2), task=lb.tasks.Classification(3), method=_matches()[name]
    )
    distiller.prepare(_batch(0)).double()
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1)
    part = slice(rank * SIZE // count, (rank + 1) * SIZE // count)
    for step in range(STEPS):
        torch.manual_seed(step)  # the negatives
        distiller.train().progress = step / STEPS
        loss = distiller({field: rows[part] for field, rows in _batch(step).items()}).loss
        optimizer.zero_grad()
        loss.backward()
        for parameter in distiller.parameters() if count > 1 else ():
            assert parameter.grad is not None
            dist.all_reduce(parameter.grad)  # as data parallelism averages
            parameter.grad /= count
        optimizer.step()
    return {key: value.clone() for key, value in distiller.state_dict().items()}


def _everything(rank: int, count: int) -> dict[str, dict[str, Tensor]]:
    warnings.simplefilter("error")  # pytest's own rule does not reach here
    return {name: _trained(name, rank, count) for name in NAMES}


@pytest.fixture(scope="module")
def parts() -> list[dict[str, dict[str, Tensor]]]:
    """What each of two processes has in the end."""
    return together(_everything, 2)


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_as_one(name: str, parts: list[Any]) -> None:
    """A memory would hold the samples of one process only, or differ between them."""
    alone = _trained(name, 0, 1)
    assert len(parts) == 2
    for part in parts:
        assert part[name].keys() == alone.keys()
        for key, expected in alone.items():
            torch.testing.assert_close(part[name][key], expected, rtol=1e-9, atol=1e-12, msg=key)


@pytest.mark.parametrize(
    "made", [Prototypes, Contrastive, SelfSupervised, TowerFeatures], ids=lambda made: made.__name__
)
def test_what_compares_samples_says_so(made: Callable[..., Any]) -> None:
    """It would see the samples of its own process alone."""
    assert losses.spec_of(made).whole_batch
