"""Students that answer through their teacher's classifier."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.knowledge.stages import stages
from limbeck.knowledge.taps import Taps
from limbeck.students import zoo
from limbeck.students.build import Blueprint, load, save, tensors
from limbeck.students.reuse import Reuse, Reused, reuse_classifier

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def reused(student: str = "resnet8", teacher: str = "resnet8x4", **options: Any) -> Reused:
    torch.manual_seed(0)
    pair = zoo.build(student, classes=7), zoo.build(teacher, classes=7)
    return reuse_classifier(*pair, IMAGES, **options)


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8", "mobilenet_v2", "shufflenet_v2"])
def test_families_of_the_zoo(name: str) -> None:
    """The projector would stand at another place, or its output have no name."""
    model = reused(name).eval()
    assert model(IMAGES).shape == (2, 7)
    assert stages(model, IMAGES)[-1] == "projected"
    taps = Taps(model, ["projected", "logits"])
    taps.prepare(IMAGES)
    _, found = taps.capture(lambda: model(IMAGES))
    assert found["projected"].shape[1] == 256
    head = [part for part in model.modules() if type(part).__name__ == "FrozenClassifier"]
    assert torch.allclose(head[0](found["projected"].mean((2, 3))), found["logits"])


@pytest.mark.parametrize("teacher", ["wrn_16_2", "vgg8", "mobilenet_v2", "shufflenet_v1"])
def test_teachers_of_the_zoo(teacher: str) -> None:
    """The maps that are to be matched must be those that the classifier averages."""
    torch.manual_seed(0)
    module = zoo.build(teacher, classes=7).eval()
    model = reuse_classifier(zoo.build("resnet8", classes=7), module, IMAGES).eval()
    taps = Taps(module, ["stage[-1]", "logits"])
    taps.prepare(IMAGES)
    _, known = taps.capture(lambda: module(IMAGES))
    model.projected.register_forward_hook(lambda *_: known["stage[-1]"])
    assert torch.allclose(model(IMAGES), known["logits"], atol=1e-5)


def test_the_classifier_is_the_teachers_and_frozen() -> None:
    """It would be trained away, or be lost when the student is saved."""
    teacher = zoo.build("resnet8x4", classes=7)
    model = reuse_classifier(zoo.build("resnet8", classes=7), teacher, IMAGES)
    state = model.state_dict()
    assert torch.equal(state["student.linear.weight"], teacher.linear.weight)
    assert torch.equal(state["student.linear.bias"], teacher.linear.bias)
    assert not any(name.startswith("student.linear") for name, _ in model.named_parameters())
    teacher.linear.weight.data.zero_()
    assert model.student.linear.weight.abs().sum() > 0


def test_the_student_is_copied() -> None:
    """Whoever gave it would find a projector in it, or its weights trained."""
    student = zoo.build("resnet8", classes=7).eval()
    before = student.state_dict().keys()
    answer = student(IMAGES)
    model = reuse_classifier(student, zoo.build("resnet8x4", classes=7), IMAGES)
    assert student.state_dict().keys() == before
    assert not model.training
    assert not any(part._forward_hooks for part in (*model.modules(), *student.modules()))
    body = dict(model.student.layer1.named_parameters())
    assert all(torch.equal(p, body[name]) for name, p in student.layer1.named_parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(student(IMAGES), answer)


def test_it_is_saved_and_copied_as_any_module(tmp_path: Path) -> None:
    """The tap would belong to the original's projector, or be saved twice."""
    model = reused().eval()
    twin = copy.deepcopy(model)
    assert twin.projected is twin.student.layer3.projected
    assert twin.projected is not model.projected
    save_file(tensors(model), tmp_path / "model.safetensors")
    other = reused().eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(other(IMAGES), model(IMAGES))


def test_it_exports() -> None:
    """What ships must leave Python; a hidden module would be lost on the way."""
    model = reused().eval()
    exported = torch.export.export(model, (IMAGES,)).module()
    assert torch.allclose(exported(IMAGES), model(IMAGES), atol=1e-5)


def test_the_factor_makes_the_projector_smaller() -> None:
    """It ships, so that its size counts."""

    def size(factor: int) -> int:
        return sum(p.numel() for p in reused(factor=factor).student.layer3.projector.parameters())

    norms = [2 * (i + i + 256) for i in (128, 32)]
    sizes = [i * (64 + 9 * i + 256) for i in (128, 32)]
    assert [size(2), size(8)] == [s + n for s, n in zip(sizes, norms, strict=True)]


class Small(nn.Module):
    """A network whose end can be spoilt in several ways; it can return a mapping."""

    def __init__(self, width: int, size: int, *, end: str = "") -> None:
        super().__init__()
        torch.manual_seed(width)
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(size)
        self.end = end
        self.norm = nn.LayerNorm(width)
        self.norm.weight.data.uniform_(0.5, 2)
        self.head = nn.Linear(width, 7)

    def forward(self, images: Tensor) -> Any:
        x = self.pool(self.conv(images)).amax((2, 3)) if self.end == "max" else None
        if x is None:
            maps = self.pool(self.conv(images))
            x = (maps.relu() if self.end == "relu" else maps).mean((2, 3))
        x = self.norm(x) if self.end == "norm" else x
        logits = self.head(x)
        return {"logits": logits} if self.end == "mapping" else logits


@pytest.mark.parametrize(("own", "theirs"), [("", "relu"), ("relu", ""), ("max", ""), ("", "norm")])
def test_ends_that_differ_are_refused(own: str, theirs: str) -> None:
    """The maps could be matched exactly, and the student still answer something else."""
    student, teacher = Small(4, 4, end=own), Small(6, 4, end=theirs)
    with pytest.raises(InputError, match="does not make the teacher's logits"):
        reuse_classifier(student, teacher, IMAGES)


def test_ends_that_are_alike() -> None:
    """An activation that both have, a mapping, or another size of maps is no obstacle."""
    for end in ("relu", "max"):
        both = Small(4, 4, end=end), Small(6, 4, end=end)
        assert reuse_classifier(*both, IMAGES)(IMAGES).shape == (2, 7)
    model = reuse_classifier(Small(4, 4, end="mapping"), Small(6, 4), IMAGES)
    assert model(IMAGES)["logits"].shape == (2, 7)
    for own, theirs in ((8, 4), (4, 8), (7, 4), (4, 7)):
        model = reuse_classifier(Small(4, own), Small(6, theirs), IMAGES)
        assert model(IMAGES).shape == (2, 7)


def test_maps_can_be_named() -> None:
    """Where no stage is recognised as the last, the user knows it."""
    options = {"student_maps": "conv", "teacher_maps": "pool"}
    model = reuse_classifier(Small(4, 4), Small(6, 4), IMAGES, **options)
    assert type(model.student.conv).__name__ == "_Projecting"
    with pytest.raises(InputError, match=r"Name another with teacher_maps="):
        reuse_classifier(Small(4, 4), Small(6, 4), IMAGES, teacher_maps="head")
    with pytest.raises(InputError, match=r"Name another with student_maps="):
        reuse_classifier(Small(4, 4), Small(6, 4), IMAGES, student_maps="conv:input")


def test_hidden_layers_before_the_classifier_are_refused() -> None:
    """The student's would never be trained: the loss ends before them."""
    student = zoo.build("cnn", classes=7)
    with pytest.raises(InputError, match="does not make the teacher's logits"):
        reuse_classifier(student, zoo.build("resnet8", classes=7), IMAGES)


def test_a_student_that_was_saved_needs_no_teacher(tmp_path: Path) -> None:
    """It could be built again only where its teacher is at hand."""
    plan = Blueprint("resnet8", {"classes": 7})
    teacher = zoo.build("resnet8x4", classes=7)
    found = Reuse.between(plan.bare(), teacher, IMAGES)
    plan = replace(plan, reuse=found)
    assert Reuse.read(json.loads(json.dumps(found.facts()))) == found
    model = found.applied(plan.bare(), teacher)
    model.train()(IMAGES)
    save(tmp_path / "student", model, plan, {})
    loaded = load(tmp_path / "student")
    assert torch.equal(loaded(IMAGES), model.eval()(IMAGES))


def test_a_plan_that_was_edited(tmp_path: Path) -> None:
    """A missing number would end in a TypeError."""
    plan = Blueprint("resnet8", {"classes": 7})
    found = Reuse.between(plan.bare(), zoo.build("resnet8x4", classes=7), IMAGES)
    plan = replace(plan, reuse=found)
    save(tmp_path, plan.model(), plan, {})
    facts = json.loads((tmp_path / "student.json").read_text())
    del facts["reuse"]["head"]
    (tmp_path / "student.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=r"student\.json is damaged"):
        load(tmp_path)


def test_looking_draws_nothing() -> None:
    """What is tried out would change the weights that are drawn afterwards."""
    student, teacher = zoo.build("resnet8", classes=7), zoo.build("resnet8x4", classes=7)
    before = torch.random.get_rng_state()
    Reuse.between(student, teacher, IMAGES)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_classifier_of_its_own() -> None:
    """The control would be frozen at random, or have other names for its weights."""
    model = reused()
    names = set(model.state_dict())
    alone = model.answer_alone()
    assert set(alone.state_dict()) == names
    heads = [part for part in alone.modules() if isinstance(part, nn.Linear)]
    assert heads
    alone(IMAGES).sum().backward()
    assert heads[-1].weight.grad is not None
