"""Losses of several tensors, and losses that are built for the shapes that meet."""

from __future__ import annotations

from typing import Any, Self

import pytest
import torch
from torch import Tensor, nn

import limbeck as lb
from limbeck.losses import Spec, declare
from limbeck.losses.spec import Setting

TASK = lb.tasks.Classification(3)


def batch(size: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, 1, 8, 8, generator=generator)
    return images, torch.arange(size) % 3, torch.arange(size)


def network(width: int) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(8 * width, 3),
    )  # fmt: skip


@declare(Spec("feature", "an example 2026", "shape"))
def both(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> Tensor:
    return sum(((s - t).square().mean() for s, t in zip(student, teacher, strict=True)))


@declare(Spec("feature", "an example 2026", "positions"))
class Scaled(nn.Module):
    """A loss with a parameter per channel, and a count of the samples that it has seen."""

    def __init__(self, own: int, theirs: int, start: float) -> None:
        super().__init__()
        self.project = nn.Conv2d(own, theirs, 1)
        self.scale = nn.Parameter(torch.full((theirs, 1, 1), start))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @classmethod
    def build(
        cls, student: Tensor, teacher: Tensor, setting: Setting, *, start: float = 1.0
    ) -> Self:
        assert setting.student is not None
        return cls(student.shape[1], teacher.shape[1], start)

    def forward(self, student: Tensor, teacher: Tensor, *, ids: Tensor, power: int = 2) -> Tensor:
        self.seen += len(ids)
        return (self.scale * self.project(student) - teacher).abs().pow(power).mean()


def test_several_tensors_are_aligned_and_compared() -> None:
    """A loss of two maps would get one, or unaligned ones."""
    match = lb.Match(["2", "5"], ["2", "5"], both, weight=0.5)
    distiller = lb.Distiller(network(4), network(2), task=TASK, method=match).prepare(batch())
    assert distiller.adapters() == {"both 2 5": "student: conv1x1 2→4; student: conv1x1 4→8"}
    out = distiller(batch())
    maps = [
        (pair.student(out.student[tap]), out.teacher[tap])
        for pair, tap in zip(distiller.alignments[0].pairs, ("2", "5"), strict=True)
    ]
    assert torch.isclose(out.terms["both 2 5"], sum((a - b).square().mean() for a, b in maps))
    out.loss.backward()
    assert all(p.grad is not None for p in distiller.parameters())


def test_unequal_numbers_of_taps_are_refused() -> None:
    """The last map would be left out without a word."""
    match = lb.Match(["2", "5"], ["2"], both)
    with pytest.raises(lb.InputError, match="2 taps of the student and 1 of the teacher"):
        lb.Distiller(network(4), network(2), task=TASK, method=match).prepare(batch())


def test_a_class_is_built_for_the_shapes_and_trained() -> None:
    """Its parameters would be missing from the optimizer, the state or the device."""
    match = lb.Match("2", "2", Scaled, start=2.0, power=1, weight=0.1)
    distiller = lb.Distiller(network(4), network(2), task=TASK, method=match).prepare(batch())
    names = {name for name, _ in distiller.named_parameters() if name.startswith("losses")}
    assert names == {"losses.0.scale", "losses.0.project.weight", "losses.0.project.bias"}
    assert distiller.losses[0].scale.flatten().tolist() == [2.0] * 4
    assert distiller.losses[0].seen == 0
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1)
    distiller(batch()).loss.backward()
    optimizer.step()
    assert distiller.losses[0].scale.flatten().tolist() != [2.0] * 4
    assert distiller.losses[0].seen == 8
    other = lb.Distiller(network(4), network(2), task=TASK, method=match).prepare(batch())
    assert other.losses[0] is not distiller.losses[0]
    other.load_state_dict(distiller.state_dict())
    assert torch.equal(other(batch()).loss, distiller(batch()).loss)
    assert not any("losses" in name for name, _ in distiller.release().named_modules())


def test_a_class_made_too_late_is_told() -> None:
    """An optimizer that was made before would never train the loss's parameters."""
    match = lb.Match("2", "2", Scaled, adapter="none")
    distiller = lb.Distiller(network(4), network(2), task=TASK, method=match)
    with pytest.raises(lb.InputError, match=r"Call distiller\.prepare"):
        distiller(batch())


def test_fit_trains_and_resumes_with_built_losses(tmp_path: Any) -> None:
    """A resumed training would begin with new parameters of the loss."""

    def run(**more: Any) -> dict[str, Tensor]:
        match = lb.Match("2", "2", Scaled, weight=0.1)
        torch.manual_seed(0)
        distiller = lb.Distiller(network(4), network(2), task=TASK, method=match)
        data = batch(32)
        samples = {"inputs": data[0], "targets": data[1], "id": data[2]}
        lb.fit(distiller, samples, epochs=4, batch_size=8, precision="fp32", **more)
        return {k: v.clone() for k, v in distiller.state_dict().items()}

    class StopError(Exception):
        pass

    class Once:
        def step(self, done: int, total: int) -> None: ...

        def epoch(self, record: Any) -> None:
            if record["epoch"] == 1:
                raise StopError

    file = tmp_path / "checkpoint.pt"
    straight = run()
    with pytest.raises(StopError):
        run(checkpoint_to=file, listener=Once(), checkpoint_seconds=0)
    assert file.is_file()
    resumed = run(checkpoint_to=file)
    assert resumed.keys() == straight.keys()
    assert all(torch.equal(resumed[k], straight[k]) for k in straight)


def test_options_of_building_and_of_calling_are_known() -> None:
    """A slip in a recipe would be passed on, or lost."""
    with pytest.raises(lb.InputError, match="did you mean 'power'"):
        lb.Match("2", "2", Scaled, powr=1)
    with pytest.raises(lb.InputError, match="class without build"):
        lb.Match("2", "2", nn.MSELoss)


def test_a_loss_without_a_teacher() -> None:
    """Self-distillation would need a teacher that nobody reads."""

    @declare(Spec("response", "an example 2026", "classes"))
    def smooth(student: Tensor, teacher: Tensor, *, targets: Tensor) -> Tensor:
        assert not teacher.requires_grad
        return nn.functional.cross_entropy(student, targets, label_smoothing=0.1)

    match = lb.Match("logits", None, smooth)
    distiller = lb.Distiller(None, network(2), task=TASK, method=match)
    out = distiller(batch())
    expected = nn.functional.cross_entropy(out.student.logits, batch()[1], label_smoothing=0.1)
    assert torch.isclose(out.terms["smooth"], expected)
    assert out.teacher is None
    with_one = lb.Distiller(network(4), network(2), task=TASK, method=match)
    assert torch.isclose(with_one(batch()).loss, out.loss)


def test_a_batch_without_what_a_loss_needs_is_told() -> None:
    """A loss with a memory would end in a TypeError about its own forward."""
    match = lb.Match("2", "2", Scaled)
    distiller = lb.Distiller(network(4), network(2), task=TASK, method=match).prepare(batch())
    with pytest.raises(lb.InputError, match="Scaled got no ids"):
        distiller(batch()[:2])
