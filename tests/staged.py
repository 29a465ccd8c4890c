"""What tests of methods between stages share: a batch, networks of three stages, a plain loop."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import limbeck as lb
from limbeck.methods import Method

STAGES = ["stage[-3]", "stage[-2]", "stage[-1]"]
TASK = lb.tasks.Classification(3)


def batch(size: int = 16) -> tuple[Tensor, Tensor]:
    """Return grey images of 16×16 and labels of three classes."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, 1, 16, 16, generator=generator), torch.arange(size) % 3


def network(width: int, *, norm: bool = False) -> nn.Module:
    """Return a convolutional network of three stages, each twice as wide and half as large."""
    torch.manual_seed(width)
    stages: list[nn.Module] = []
    before = 1
    for channels in (width, 2 * width, 4 * width):
        stages.append(nn.Conv2d(before, channels, 3, padding=1))
        stages += [nn.BatchNorm2d(channels)] if norm else []
        stages += [nn.ReLU(), nn.MaxPool2d(2)]
        before = channels
    return nn.Sequential(*stages, nn.Flatten(), nn.Linear(4 * before, 3))


def prepared(method: Method, *, norm: bool = False) -> lb.Distiller:
    """Return a distiller of two such networks, ready for an optimizer."""
    models = network(6, norm=norm), network(4, norm=norm)
    return lb.Distiller(*models, task=TASK, method=method).prepare(batch())


def steps(distiller: lb.Distiller, count: int = 20, rate: float = 3e-3) -> list[float]:
    """Train on one batch, and return the loss step by step."""
    learning = [p for p in distiller.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learning, lr=rate)
    values = []
    for _ in range(count):
        loss = distiller.train()(batch()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    return values
