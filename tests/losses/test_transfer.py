"""FT and OFD against recorded numbers, loops in NumPy and scipy, and the contract."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from recorded_modules import learns, loaded, names
from recorded_parts import breaches, parameter_breaches, raw, tensor
from torch import Tensor, nn

from limbeck.losses import transfer
from limbeck.losses.spec import Setting, spec_of
from limbeck.losses.transfer import (
    ConvNorm,
    FactorTransfer,
    Overhaul,
    Paraphraser,
    Translator,
    channel_margins,
    factor_transfer,
    overhaul,
    reconstruction_loss,
)
from limbeck.testing import check_loss

MAPS = [((6, 3, 4, 4), (6, 3, 4, 4)), ((6, 3), (6, 3))]
POSITIONS = [((6, 3, 4, 4), (6, 5, 4, 4))]
MARGIN = torch.tensor([-0.5, -0.1, -1.0])


def sides(case: dict[str, Any]) -> tuple[Tensor, Tensor]:
    student, teacher = (tensor(case["inputs"][side]) for side in ("student", "teacher"))
    return student.requires_grad_(True), teacher


def test_the_losses_declare_themselves() -> None:
    """A loss of another family, or without a source, would be missing in the catalogue."""
    losses = [factor_transfer, overhaul, FactorTransfer, Overhaul]
    assert {spec_of(loss).family for loss in losses} == {"feature"}
    assert all(spec_of(loss).source for loss in losses)
    assert {loss.__name__ for loss in losses} <= set(transfer.__all__)


def test_factors_as_recorded() -> None:
    """The factors would be normalised over another dimension, or averaged."""
    case = raw("factor_transfer")[0]
    student, teacher = sides(case)
    value = factor_transfer(student, teacher)
    assert not breaches(case, value, {"student_gradient": student}, factor=case["to_paper"])


def test_factor_transfer_as_recorded() -> None:
    """Paraphraser and translator would be other networks than the authors'."""
    case = raw("factor_transfer")[1]
    student, teacher = sides(case)
    loss = FactorTransfer(8, 8, batch_norm=False)
    recorded = loaded(loss, case)
    value = loss(student, teacher)
    assert not breaches(case, value, {"student_gradient": student}, factor=case["to_paper"])
    named = {recorded[n].removeprefix("translator."): p for n, p in loss.named_parameters()}
    assert not parameter_breaches(case, value, named, factor=case["to_paper"])


def test_reconstruction_as_recorded() -> None:
    """The decoder would be another network than the authors'."""
    case = raw("factor_transfer")[2]
    loss = FactorTransfer(8, 8, batch_norm=False)
    loaded(loss, case)
    teacher = tensor(case["inputs"]["teacher"]).requires_grad_(True)
    value = reconstruction_loss(loss.paraphraser, teacher, form="absolute")
    assert not breaches(case, value, {"teacher_gradient": teacher})
    error = (loss.paraphraser.reconstruct(teacher) - teacher).detach().numpy()
    squared = sum(float(e) ** 2 for e in error.ravel()) / len(error)
    value = reconstruction_loss(loss.paraphraser, teacher)
    assert float(value.detach()) == pytest.approx(squared, rel=1e-10)


@pytest.mark.parametrize("number", [0, 1])
def test_overhaul_as_recorded(number: int) -> None:
    """The wrong half of the features would be left alone."""
    case = raw("overhaul")[number]
    student, teacher = sides(case)
    value = overhaul(student, teacher, margin=tensor(case["inputs"]["margin"]).flatten())
    assert not breaches(case, value, {"student_gradient": student}, factor=case["to_paper"])


def test_overhaul_module_as_recorded() -> None:
    """The connector would be another than the authors'."""
    case = raw("overhaul")[2]
    student, teacher = sides(case)
    loss = Overhaul(8, 12, margin=tensor(case["inputs"]["margin"]).flatten())
    recorded = loaded(loss, case, [name for name in names(loss) if name != "margin"])
    loss.margin.copy_(tensor(case["inputs"]["margin"]).flatten())
    value = loss(student, teacher)
    assert not breaches(case, value, {"student_gradient": student}, factor=case["to_paper"])
    named = {recorded[n]: p for n, p in loss.named_parameters()}
    assert not parameter_breaches(case, value, named, factor=case["to_paper"])


def test_margins_as_recorded() -> None:
    """Channels that are almost never negative would get another margin."""
    case = raw("overhaul")[3]
    margins = channel_margins(*(tensor(case["inputs"][name]) for name in ("weight", "bias")))
    assert margins.numpy() == pytest.approx(np.array(case["value"]), rel=1e-6)  # single precision


def test_margins_against_scipy() -> None:
    """The mean of the negative part would be that of the whole distribution."""
    stats = pytest.importorskip("scipy.stats")
    numbers = np.random.default_rng(1)
    weight, bias = numbers.normal(size=20), 0.5 * numbers.normal(size=20)
    margins = channel_margins(torch.from_numpy(weight), torch.from_numpy(bias))
    for w, b, margin in zip(weight, bias, margins.tolist(), strict=True):
        normal = stats.norm(b, abs(w))
        expected = normal.expect(lambda x: x, ub=0.0, conditional=True)
        if normal.cdf(0.0) <= 1e-3:
            expected = -3 * abs(w)
        assert margin == pytest.approx(expected, rel=1e-6)


def test_margins_of_dead_channels() -> None:
    """A batch norm with a weight of 0 would give a margin that is not a number."""
    weight, bias = torch.tensor([0.0, 0.0, 0.0, 1e-30]), torch.tensor([0.0, 1.0, -1.0, -1e20])
    margins = channel_margins(weight, bias)
    assert torch.isfinite(margins).all()
    assert margins.tolist() == pytest.approx([0.0, 0.0, -1.0, -1e20], rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("p", [1, 2])
def test_factors_against_a_loop(p: Any) -> None:
    """The norm would be squared, or taken over the batch."""
    numbers = np.random.default_rng(2)
    student, teacher = numbers.normal(size=(2, 5, 3, 2, 2))
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        lengths = [math.sqrt(sum(x * x for x in side.ravel())) for side in (s, t)]
        gaps = [abs(a / lengths[0] - b / lengths[1]) for a, b in zip(s.flat, t.flat, strict=True)]
        total += sum(gaps) if p == 1 else math.sqrt(sum(g * g for g in gaps))
    value = factor_transfer(torch.from_numpy(student), torch.from_numpy(teacher), p=p)
    assert float(value) == pytest.approx(total / 5, rel=1e-10)


def test_overhaul_against_a_loop() -> None:
    """Each of the partial distance's three cases would be mistaken for another."""
    numbers = np.random.default_rng(3)
    student, teacher = numbers.normal(size=(2, 4, 3, 3, 3))
    total = 0.0
    for b, c, h, w in np.ndindex(4, 3, 3, 3):
        s, t = student[b, c, h, w], max(teacher[b, c, h, w], float(MARGIN[c]))
        total += 0.0 if s <= t <= 0 else (s - t) ** 2
    value = overhaul(torch.from_numpy(student), torch.from_numpy(teacher), margin=MARGIN)
    assert float(value) == pytest.approx(total / 4, rel=1e-9)


@pytest.mark.parametrize("p", [1, 2])
def test_factors_keep_the_contract(p: int) -> None:
    """Half precision, parts or the order of samples would change the value."""
    check_loss(factor_transfer, p=p, shapes=MAPS)


def test_overhaul_keeps_the_contract() -> None:
    """Half precision, parts or the order of samples would change the value."""
    check_loss(overhaul, margin=MARGIN, shapes=MAPS)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_factor_transfer_keeps_the_contract(batch_norm: bool) -> None:
    """Autocast or half precision would reach the convolutions."""
    check_loss(FactorTransfer(3, 5, batch_norm=batch_norm), shapes=POSITIONS)
    check_loss(FactorTransfer(3, 5, p=2, batch_norm=batch_norm), shapes=POSITIONS)


def test_overhaul_module_keeps_the_contract() -> None:
    """Autocast or half precision would reach the connector."""
    check_loss(Overhaul(3, 5, margin=-0.3), shapes=POSITIONS)


def test_factor_transfer_learns() -> None:
    """The paraphraser would learn to make the translator's task easy."""
    loss = FactorTransfer(3, 6)
    student, teacher = torch.randn(4, 3, 4, 4), torch.randn(4, 6, 4, 4)
    assert not learns(loss, student, teacher)
    frozen = {k: v.clone() for k, v in loss.paraphraser.state_dict().items()}
    loss.train()
    loss(student, teacher)
    assert not loss.paraphraser.training
    assert all(torch.equal(v, frozen[k]) for k, v in loss.paraphraser.state_dict().items())
    other = FactorTransfer(3, 6)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.eval()(student, teacher), loss.eval()(student, teacher))


@pytest.mark.parametrize("form", ["squared", "absolute"])
def test_a_paraphraser_learns_to_reconstruct(form: Any) -> None:
    """The stage before distillation would leave the paraphraser as drawn."""
    paraphraser = Paraphraser(4, 2)
    maps = torch.randn(8, 4, 4, 4)
    optimizer = torch.optim.Adam(paraphraser.parameters(), lr=1e-2)
    values = []
    for _ in range(20):
        value = reconstruction_loss(paraphraser, maps, form=form)
        optimizer.zero_grad()
        value.backward()
        assert all(p.grad is not None for p in paraphraser.parameters())
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.9 * values[0]
    loss = FactorTransfer(3, 4, paraphraser=paraphraser)
    assert loss.paraphraser is paraphraser
    assert not any(p.requires_grad for p in paraphraser.parameters())


def test_overhaul_module_learns() -> None:
    """The margins would be trained, or lost in a checkpoint."""
    loss = Overhaul(3, 5, margin=[-0.1, -0.2, -0.3, -0.4, -0.5])
    student, teacher = torch.randn(4, 3, 4, 4), torch.randn(4, 5, 4, 4)
    assert not learns(loss, student, teacher)
    other = Overhaul(3, 5, margin=0.0)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.margin, loss.margin)
    assert torch.equal(other.eval()(student, teacher), loss.eval()(student, teacher))


def test_modules_are_built_from_tensors() -> None:
    """A match would have to know channels, and the margins of the teacher's batch norm."""
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 6, 4, 4)
    norm = nn.BatchNorm2d(6)
    nn.init.uniform_(norm.bias)
    setting = Setting(nn.Identity(), nn.Sequential(nn.Conv2d(3, 6, 1), norm))
    built = Overhaul.build(student, teacher, setting, batch_norm="1")
    assert torch.equal(built.margin, channel_margins(norm.weight, norm.bias))
    assert Overhaul.build(student, teacher, setting, margin=-0.5).margin.tolist() == [-0.5] * 6
    for path in ("", "0", "nowhere"):
        with pytest.raises(ValueError, match="batch_norm="):
            Overhaul.build(student, teacher, setting, batch_norm=path)
    with pytest.raises(ValueError, match="batch_norm="):
        Overhaul.build(student, teacher, Setting(nn.Identity()), batch_norm="1")
    transfer = FactorTransfer.build(student, teacher, setting, rate=0.5, p=2)
    assert (transfer.paraphraser.factors, transfer.p) == (3, 2)
    for loss in (built, transfer):
        assert torch.isfinite(loss(student, teacher))


@pytest.mark.parametrize("loss", [FactorTransfer(3, 5), Overhaul(3, 5, margin=-0.5)])
@pytest.mark.parametrize("size", [1, 2])
def test_one_sample_of_one_position(loss: nn.Module, size: int) -> None:
    """Batch statistics of a single value would stop the run at the last batch."""
    student = torch.randn(1, 3, size, size, requires_grad=True)
    value = loss.train()(student, torch.randn(1, 5, size, size))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


def test_norm_uses_running_statistics_for_one_value() -> None:
    """The replacement would be another than evaluation's."""
    step = ConvNorm(nn.Conv2d(2, 3, 1), 3)
    step(torch.randn(8, 2, 2, 2))
    single = torch.randn(1, 2, 1, 1)
    assert torch.equal(step(single), step.eval()(single))


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("zero", ["student", "teacher", "both"])
def test_dead_factors(zero: str, p: Any) -> None:
    """A factor of zeros has no direction: its gradient would be NaN or huge."""
    student = (torch.rand(2, 3, 2, 2) * (zero == "teacher")).requires_grad_(True)
    value = factor_transfer(student, torch.rand(2, 3, 2, 2) * (zero == "student"), p=p)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()
    assert student.grad.abs().max() < 10


def test_dead_features_for_overhaul() -> None:
    """Zeros against zeros would count as a difference."""
    student = torch.zeros(2, 3, 2, 2, requires_grad=True)
    value = overhaul(student, torch.zeros(2, 3, 2, 2), margin=MARGIN)
    value.backward()
    assert float(value.detach()) == 0.0
    assert student.grad.abs().max() == 0.0


@pytest.mark.parametrize(
    ("loss", "student", "teacher", "message"),
    [
        (factor_transfer, (4, 3, 2, 2), (4, 1, 2, 2), "the same shape"),
        (factor_transfer, (4, 3, 2), (4, 3, 2), "factor_transfer got"),
        (lambda s, t: overhaul(s, t, margin=MARGIN), (4, 3, 2, 2), (1, 3, 2, 2), "the same shape"),
        (lambda s, t: overhaul(s, t, margin=MARGIN), (4, 5, 2, 2), (4, 5, 2, 2), "per channel"),
        (lambda s, t: overhaul(s, t, margin=MARGIN), (4, 3, 2), (4, 3, 2), "per channel"),
        (FactorTransfer(3, 5), (4, 3, 2, 2), (4, 5, 2, 4), "the same shape"),
        (Overhaul(3, 5, margin=0.0), (4, 3, 2, 2), (4, 5, 2, 4), "the same shape"),
    ],
)
def test_refuses(
    loss: Any, student: tuple[int, ...], teacher: tuple[int, ...], message: str
) -> None:
    """Broadcasting would compare what does not belong together."""
    with pytest.raises(ValueError, match=message):
        loss(torch.randn(student), torch.randn(teacher))


def test_translators_have_no_position_of_their_own() -> None:
    """A factor of another size could not be compared with the paraphraser's."""
    assert Translator(3, 2)(torch.randn(2, 3, 5, 7)).shape == (2, 2, 5, 7)
    assert Paraphraser(3, 2).reconstruct(torch.randn(2, 3, 5, 7)).shape == (2, 3, 5, 7)
