"""Our loop against the same loop written by hand, in float32: identical weights."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import limbeck as lb
from limbeck.data import Arrays, Loader
from limbeck.distill import optim

STEPS, BATCH = 50, 32


def _data() -> Arrays:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(STEPS * BATCH, 3, 16, 16, generator=generator)
    return Arrays.of(inputs=images, targets=torch.randint(10, (len(images),), generator=generator))


def _sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)


def _one_cycle(optimizer, total):
    # The same numbers as limbeck.distill.optim.one_cycle(), stated independently.
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.1, total, pct_start=0.3, div_factor=25, final_div_factor=1e4
    )


def _by_hand(student: nn.Module, teacher: nn.Module | None, data: Arrays) -> list[float]:
    """Hinton's distillation as one would write it in a script: T = 4, α = 0.9."""
    optimizer = _sgd(student.parameters())
    scheduler = _one_cycle(optimizer, STEPS)
    torch.manual_seed(7)
    losses = []
    student.train()
    for batch in Loader(data, BATCH, shuffle=True, seed=7).epoch(0):
        logits = student(batch["inputs"])
        loss = F.cross_entropy(logits, batch["targets"])
        if teacher is not None:
            with torch.no_grad():
                target = F.log_softmax(teacher(batch["inputs"]) / 4, dim=1)
            log_q = F.log_softmax(logits / 4, dim=1)
            divergence = (target.exp() * (target - log_q)).sum(1).mean() * 16
            loss = 0.1 * loss + 0.9 * divergence
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(float(loss.detach()))
    return losses


def _with_limbeck(student: nn.Module, teacher: nn.Module | None, data: Arrays, **options):
    method = lb.methods.kd(temperature=4, alpha=0.9) if teacher else None
    distiller = lb.Distiller(teacher, student, task=lb.tasks.Classification(10), method=method)
    return lb.fit(
        distiller, data, epochs=1, batch_size=BATCH, optimizer=_sgd, seed=7,
        schedule=optim.one_cycle(warmup=0.3, start=1 / 25, end=1 / 25e4),
        precision="fp32", channels_last=False, compiled=False, listener=lb.Silent(), **options,
    )  # fmt: skip


def _models(family: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    build = lb.students.zoo.build
    if family == "resnet":
        return build("resnet8"), build("resnet14").eval()
    dropout = nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.Dropout(0.5), nn.Linear(32, 10))
    return dropout, nn.Sequential(nn.Flatten(), nn.Linear(768, 64), nn.Linear(64, 10)).eval()


@pytest.mark.parametrize("taught", [True, False], ids=["kd", "control"])
@pytest.mark.parametrize("family", ["resnet", "dropout"])
def test_weights_after_fifty_steps_are_identical(family: str, taught: bool) -> None:
    """Without it, the loop could train something subtly other than what its documentation says."""
    student, teacher = _models(family)
    other, data = copy.deepcopy(student), _data()
    losses = _by_hand(other, teacher if taught else None, data)
    fitted = _with_limbeck(student, teacher if taught else None, data)
    assert fitted.history[0]["steps"] == STEPS
    assert fitted.history[0]["train"]["loss"] == pytest.approx(sum(losses) / STEPS, rel=1e-6)
    for name, ours in student.state_dict().items():
        theirs = other.state_dict()[name]
        assert torch.equal(ours, theirs), name


def test_a_loop_of_ones_own_gives_the_same_bits_as_fit() -> None:
    """Without it, ``distiller(batch).loss`` and ``fit`` could drift apart."""
    student, teacher = _models("resnet")
    other, data = copy.deepcopy(student), _data()
    _with_limbeck(student, teacher, data)

    distiller = lb.Distiller(
        teacher, other, task=lb.tasks.Classification(10), method=lb.methods.kd(4, 0.9)
    )
    optimizer = _sgd(distiller.parameters())
    scheduler = _one_cycle(optimizer, STEPS)
    torch.manual_seed(7)
    distiller.train()
    for batch in Loader(data, BATCH, shuffle=True, seed=7).epoch(0):
        optimizer.zero_grad()
        distiller(batch).loss.backward()
        optimizer.step()
        scheduler.step()
    for name, ours in student.state_dict().items():
        assert torch.equal(ours, other.state_dict()[name]), name


def test_the_snippet_in_the_design_works_as_written() -> None:
    """Without it, the first thing that a user copies could be broken."""
    resnet56 = lb.students.zoo.build("resnet14")
    imagenet_norm = lb.data.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    data = _data().subset(torch.arange(128))
    train, val = data, data
    teacher = lb.Teacher(resnet56, preprocess=imagenet_norm)
    student = lb.students.shrink(resnet56, depth=0.5, width=0.5)
    distiller = lb.Distiller(
        teacher, student, task=lb.tasks.Classification(10),
        method=lb.methods.kd(temperature=4, alpha=0.9),
    )  # fmt: skip
    lb.fit(distiller, train, validation=val, epochs=1, listener=lb.Silent())
    student = distiller.student
    method = [
        lb.Match("logits", "logits", lb.losses.kl, weight=0.9, temperature=4),
        lb.Match("layer2", "layer2", lb.losses.attention_transfer, weight=1000),
    ]
    again = lb.Distiller(teacher, student, task=lb.tasks.Classification(10), method=method)
    assert sorted(again(next(iter(Loader(train, 8)))).terms) == [
        "attention_transfer layer2", "kl", "label",
    ]  # fmt: skip


def test_partial_is_an_optimizer() -> None:
    """Without it, the documented way to pass any optimizer could stop working."""
    student, _ = _models("dropout")
    distiller = lb.Distiller(None, student, task=lb.tasks.Classification(10))
    data = _data().subset(torch.arange(64))
    made = partial(torch.optim.Adam, lr=1e-3)
    lb.fit(distiller, data, epochs=1, optimizer=made, listener=lb.Silent())
