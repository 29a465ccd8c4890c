"""A teacher answers, and never learns."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limbeck as lb
from limbeck.data import Arrays, Augmentation, Crop, Loader, Normalize
from limbeck.errors import InputError
from limbeck.knowledge import write
from limbeck.teachers import Knowing, Replay, Teacher, module_fingerprint
from limbeck.testing import check_teacher


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(4 * 64, 5),
    )


def batch(count: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "inputs": torch.rand(count, 3, 8, 8, generator=generator),
        "targets": torch.arange(count) % 5,
        "id": torch.arange(count) * 10,
        "view": torch.zeros(count, dtype=torch.int64),
    }


# -- the contract


@pytest.mark.parametrize("taps", [("logits",), ("logits", "1", "stage[0]", "penultimate")])
@pytest.mark.parametrize("preprocess", [None, Normalize((0.5,) * 3, (0.2,) * 3)])
def test_a_module_keeps_the_contract(taps: tuple[str, ...], preprocess: Any) -> None:
    """Schemes and stores rely on it for every teacher."""
    teacher = Teacher(network(), preprocess)
    check_teacher(teacher, batch(), taps)
    assert isinstance(teacher, Knowing)


def test_a_replay_keeps_the_contract(tmp_path: Path) -> None:
    """A store must be as good a teacher as the one it was written from."""
    data = Arrays.of(batch()["id"], inputs=batch()["inputs"], targets=batch()["targets"])
    teacher = Teacher(network())
    write(tmp_path, teacher, data, taps=["logits", "0"])
    replay = Teacher.replay(tmp_path)
    check_teacher(replay, batch(), ("logits", "0"))
    assert isinstance(replay, Replay)
    assert isinstance(replay, Knowing)
    assert replay.fingerprint() == teacher.fingerprint()
    known = replay.knowledge(batch(), ("logits",))
    assert known.provenance == str(tmp_path)
    assert torch.equal(known.ids, batch()["id"])
    assert torch.allclose(known.logits, teacher.knowledge(batch()).logits, rtol=1e-3, atol=1e-3)


# -- defects of other tools


@pytest.mark.parametrize("who", ["the teacher", "a child", "the distiller"])
def test_batch_norm_does_not_drift(who: str) -> None:
    """torchdistill: the teacher in train mode moved its statistics under no_grad."""
    model = network()
    teacher = Teacher(model)
    distiller = lb.Distiller(
        teacher, network(1), task=lb.tasks.Classification(5), method=lb.methods.kd()
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = teacher.knowledge(batch()).logits
    for _ in range(3):
        {"the teacher": model.train, "a child": model[1].train, "the distiller": distiller.train}[
            who
        ]()
        out = distiller(batch())
        assert out.teacher is not None
        assert torch.equal(out.teacher.logits, first)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("part", [3, None])
def test_dropout_is_off(part: int | None) -> None:
    """mmrazor: only batch norm was put to eval; a child in train mode answered at random."""
    model = network()
    teacher = Teacher(model)
    expected = teacher.knowledge(batch()).logits
    (model if part is None else model[part]).train()
    for _ in range(3):
        assert torch.equal(teacher.knowledge(batch()).logits, expected)
    assert not any(module.training for module in model.modules())


def test_it_belongs_to_nobody() -> None:
    """Its parameters would be optimised, saved with the student, and shipped."""
    model = network()
    distiller = lb.Distiller(
        Teacher(model, Normalize((0.5,) * 3, (0.2,) * 3)),
        network(1),
        task=lb.tasks.Classification(5),
        method=lb.methods.kd(),
    )
    distiller.prepare(batch())
    theirs = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    held = [*distiller.parameters(), *distiller.buffers(), *distiller.state_dict().values()]
    assert not any(id(tensor) in theirs for tensor in held)
    assert all(module is not model for module in distiller.modules())
    assert set(distiller.state_dict()) == {f"student.{name}" for name in network().state_dict()}
    distiller.to(torch.float64)
    assert next(model.parameters()).dtype == torch.float32


def test_it_is_frozen() -> None:
    """A gradient would be computed for it, at the price of its memory, and then be used."""
    model = network()
    teacher = Teacher(model)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    model.requires_grad_(True)
    known = teacher.knowledge(batch(), ("logits", "1"))
    assert not known.logits.requires_grad
    assert not known["1"].requires_grad


def test_what_it_says_can_be_learnt_from() -> None:
    """Tensors made in inference mode cannot be saved for a backward pass."""
    teacher = Teacher(network())
    known = teacher.knowledge(batch(), ("logits", "1"))
    weight = torch.ones(5, 5, requires_grad=True)
    # Saved for the backward pass, changed in place, and computed with.
    ((known.logits @ weight) * known.logits).sum().backward()
    known.logits.add_(1.0)
    assert weight.grad is not None
    assert not known["1"].is_inference()


def test_answers_are_its_own_copies() -> None:
    """The next batch would overwrite what a loss still holds."""
    teacher = Teacher(nn.Sequential(nn.Identity(), nn.Linear(4, 3)))
    x = torch.randn(5, 4)
    known = teacher.knowledge({"inputs": x}, ("0",))
    assert torch.equal(known["0"], x)
    known["0"].zero_()
    assert x.abs().sum() > 0


# -- inputs and preprocessing


def test_its_own_preprocessing() -> None:
    """A teacher trained on other statistics would see the student's."""
    model, seen = nn.Flatten(), Normalize((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    found = Teacher(model, seen).knowledge(batch()).logits
    assert torch.allclose(found, seen(batch()["inputs"]).flatten(1))
    assert torch.allclose(
        Teacher(model, lambda images: images * 2).knowledge(batch()).logits,
        (batch()["inputs"] * 2).flatten(1),
    )


@pytest.mark.parametrize("inputs", ["view2", lambda b: b["view2"] + 0])
def test_its_own_inputs(inputs: Any) -> None:
    """A teacher with another view of the sample would be shown the student's."""
    given = batch() | {"view2": torch.rand(6, 3, 8, 8)}
    found = Teacher(nn.Flatten(), inputs=inputs).knowledge(given).logits
    assert torch.equal(found, given["view2"].flatten(1))


class Named(nn.Module):
    """Called with named arguments, one of which is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor, scale: Tensor, twice: bool = True) -> dict[str, Tensor]:
        return {"logits": self.linear(x) * scale * (2 if twice else 1)}


def test_named_arguments() -> None:
    """A flag beside the tensors would be cut to two rows."""
    model, x = Named(), torch.randn(5, 4)
    given = {"x": x, "scale": torch.tensor(3.0), "twice": False}
    known = Teacher(model).knowledge({"inputs": given}, ("logits", "linear"))
    assert torch.allclose(known.logits, model.linear(x) * 3)
    assert known["linear"].shape == (5, 3)


def test_several_sets_of_taps() -> None:
    """Asking for other taps would answer with the first ones, or pile up hooks."""
    teacher = Teacher(network())
    for _ in range(3):
        assert teacher.knowledge(batch(), ("0", "logits")).fields == ("0", "logits")
        assert teacher.knowledge(batch(), ("1",)).fields == ("1",)
    assert len(teacher.module[0]._forward_hooks) == 1


def test_unknown_taps() -> None:
    """A typing error would be a KeyError."""
    with pytest.raises(InputError, match="did you mean"):
        Teacher(lb.students.zoo.build("resnet8")).knowledge(batch(), ("layer4",))


# -- fingerprints


def half(images: Tensor) -> Tensor:
    return images / 2


def scaled(by: float) -> Any:
    def scale(images: Tensor) -> Tensor:
        return images * by

    return scale


class WithBuffer(nn.Module):
    """Preprocessing whose number is in no checkpoint and in no repr."""

    by: Tensor

    def __init__(self, by: float) -> None:
        super().__init__()
        self.register_buffer("by", torch.tensor(by), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return images * self.by


def test_fingerprints_differ_where_answers_do() -> None:
    """Old answers would be replayed for another teacher."""
    linear = nn.Linear(4, 3)
    makes: dict[str, Teacher] = {
        "plain": Teacher(nn.Sequential(linear, nn.ReLU())),
        "another activation": Teacher(nn.Sequential(linear, nn.Tanh())),
        "another slope": Teacher(nn.Sequential(linear, nn.LeakyReLU(0.1))),
        "another slope still": Teacher(nn.Sequential(linear, nn.LeakyReLU(0.2))),
        "other weights": Teacher(nn.Sequential(nn.Linear(4, 3), nn.ReLU())),
        "a function": Teacher(nn.Sequential(linear, nn.ReLU()), half),
        "a closure": Teacher(nn.Sequential(linear, nn.ReLU()), scaled(0.5)),
        "another closure": Teacher(nn.Sequential(linear, nn.ReLU()), scaled(0.25)),
        "a partial": Teacher(nn.Sequential(linear, nn.ReLU()), partial(torch.mul, other=2)),
        "another partial": Teacher(nn.Sequential(linear, nn.ReLU()), partial(torch.mul, other=3)),
        "normalised": Teacher(nn.Sequential(linear, nn.ReLU()), Normalize((0.5,), (0.5,))),
        "otherwise": Teacher(nn.Sequential(linear, nn.ReLU()), Normalize((0.5,), (0.25,))),
        "a buffer": Teacher(nn.Sequential(linear, nn.ReLU()), WithBuffer(1.0)),
        "another buffer": Teacher(nn.Sequential(linear, nn.ReLU()), WithBuffer(2.0)),
        "another field": Teacher(nn.Sequential(linear, nn.ReLU()), inputs="other"),
    }
    prints = {name: teacher.fingerprint() for name, teacher in makes.items()}
    assert len(set(prints.values())) == len(prints)
    again = Teacher(nn.Sequential(linear, nn.ReLU()), scaled(0.5))
    assert again.fingerprint() == prints["a closure"]


def test_fingerprints_do_not_follow_layout_or_mode() -> None:
    """A store would be refused because the machine chose another memory layout."""
    model = network()
    before = module_fingerprint(model)
    Teacher(model).arrange(channels_last=True, compiled=False)
    model.train()
    assert module_fingerprint(model) == before
    assert module_fingerprint(network()) == before
    model[1].running_mean.add_(1)
    assert module_fingerprint(model) != before


def test_fingerprints_are_the_same_in_another_process() -> None:
    """A store could never be resumed: an address in memory is another one each time."""
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
from tests.teachers.test_teachers import *
print([Teacher(network(), first).fingerprint() for first in (half, scaled(0.5), WithBuffer(3.0))])
"""
    prints = {
        subprocess.check_output(
            [sys.executable, "-c", code], text=True, env=os.environ | {"PYTHONHASHSEED": seed}
        )
        for seed in ("1", "2")
    }
    assert len(prints) == 1


# -- replays


@pytest.fixture
def augmented(tmp_path: Path) -> Path:
    data = Arrays.of(batch()["id"], inputs=batch()["inputs"], targets=batch()["targets"])
    write(tmp_path, Teacher(network()), data, views=2, augment=Augmentation((Crop(2),)))
    return tmp_path


@pytest.mark.parametrize("view", [2, 5])
def test_a_view_that_the_teacher_never_saw(augmented: Path, view: int) -> None:
    """torchdistill: cached answers replayed against new random crops."""
    given = batch() | {"view": torch.full((6,), view)}
    with pytest.raises(InputError, match=f"view {view} .*views=2"):
        Replay(augmented).knowledge(given)


def test_a_loader_that_does_not_cycle(augmented: Path) -> None:
    """The same, as it happens: a loader whose every epoch is a new view."""
    data = Arrays.of(batch()["id"], inputs=batch()["inputs"], targets=batch()["targets"])
    options: dict[str, Any] = {"shuffle": True, "augment": Augmentation((Crop(2),))}
    for epoch in range(4):
        [found] = Loader(data, 6, views=2, **options).epoch(epoch)
        Replay(augmented).knowledge(found)
    [found] = Loader(data, 6, views=0, **options).epoch(3)
    with pytest.raises(InputError, match="another crop"):
        Replay(augmented).knowledge(found)


def test_without_augmentation_every_view_is_the_same(tmp_path: Path) -> None:
    """Epochs are numbered on; without augmentation they all show what was stored."""
    data = Arrays.of(batch()["id"], inputs=batch()["inputs"], targets=batch()["targets"])
    write(tmp_path, Teacher(network()), data)
    first = Replay(tmp_path).knowledge(batch()).logits
    later = Replay(tmp_path).knowledge(batch() | {"view": torch.full((6,), 17)}).logits
    assert torch.equal(first, later)
    plain = {name: value for name, value in batch().items() if name != "view"}
    assert torch.equal(Replay(tmp_path).knowledge(plain).logits, first)


def test_a_batch_without_names(augmented: Path) -> None:
    """EasyDistill: answers found by the step's number are another sample's."""
    given = {name: value for name, value in batch().items() if name != "id"}
    with pytest.raises(InputError, match="batch without sample ids"):
        Replay(augmented).knowledge(given)


def test_no_store(tmp_path: Path) -> None:
    """It would be found out at the first batch."""
    with pytest.raises(InputError, match="not a knowledge store"):
        Teacher.replay(tmp_path)


def test_a_distiller_with_a_replay_learns_the_same(tmp_path: Path) -> None:
    """Live and replayed teachers must give the same loss, or a stored run is another experiment."""
    data = Arrays.of(batch()["id"], inputs=batch()["inputs"], targets=batch()["targets"])
    teacher = Teacher(network())
    write(tmp_path, teacher, data, codec="full", taps=["logits", "0"])
    match = lb.Match("0", "0", lb.losses.attention_transfer)
    method = lb.methods.kd() + lb.Method((match,))
    task = lb.tasks.Classification(5)
    losses = []
    for source in (teacher, Replay(tmp_path)):
        distiller = lb.Distiller(source, network(1).eval(), task=task, method=method)
        losses.append(float(distiller.prepare(batch())(batch()).loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
