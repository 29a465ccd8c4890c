"""Methods with modules: published weights and scales, training, and the paraphraser's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from staged import STAGES, TASK, batch, network, prepared, steps

import limbeck as lb
from limbeck.errors import InputError
from limbeck.losses.schedules import value_at
from limbeck.losses.transfer import Paraphraser
from limbeck.methods import about
from limbeck.methods.guided import ft, mgd, pretrain_paraphraser, review, vid
from limbeck.testing import check_method

METHODS = [ft, vid, review, mgd]


def trained(distiller: lb.Distiller, count: int = 20, rate: float = 3e-3) -> list[float]:
    """Train as at the end of a run, where no weight is still rising."""
    distiller.progress = 1.0
    return steps(distiller, count, rate)


@pytest.mark.parametrize("make", METHODS)
def test_keeps_the_contract(make: Any) -> None:
    """A method would train its teacher, or leave its own modules untrained."""
    check_method(make())


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (ft, {"student": "0", "teacher": "3", "rate": 0.75, "weight": 1.0}),
        (vid, {"student": ["0"], "teacher": ["3"], "initial_variance": 1.0}),
        (review, {"student": STAGES, "teacher": STAGES, "warmup": 0.0, "width": 7}),
        (mgd, {"drop": 0.15, "places": "channels", "weight": 0.0012}),
        (mgd, {"student": STAGES, "teacher": STAGES}),
    ],
)
def test_keeps_the_contract_with_options(make: Any, options: dict[str, Any]) -> None:
    """An option would reach no loss."""
    check_method(make(**options))


@pytest.mark.parametrize("make", METHODS)
def test_its_own_term_falls(make: Any) -> None:
    """Gradients of the wrong sign, or into nothing, would go unnoticed beside the label's."""
    values = trained(prepared(make().with_label_weight(0.0)))
    assert values[-1] < values[0]


@pytest.mark.parametrize("make", METHODS)
def test_modules_are_trained_saved_and_left_behind(make: Any) -> None:
    """Modules would stay as drawn, be missing in a checkpoint, or ship with the student."""
    distiller = prepared(make())
    helpers = {n: p for n, p in distiller.named_parameters() if not n.startswith("student.")}
    assert helpers
    assert all(p.requires_grad for p in helpers.values())
    before = {name: p.detach().clone() for name, p in helpers.items()}
    trained(distiller, count=2)
    still = [name for name, p in helpers.items() if torch.equal(p, before[name])]
    assert not still
    other = prepared(make())
    other.load_state_dict(distiller.state_dict())
    other.progress = distiller.progress
    losses = []
    for one in (distiller, other):
        torch.manual_seed(0)  # for the masks
        losses.append(one.eval()(batch()).loss)
    assert torch.equal(*losses)
    released = distiller.release()
    assert [type(m) for m in released.modules()] == [type(m) for m in network(4).modules()]


def test_fit_takes_them() -> None:
    """The optimizer of the loop would not know the modules."""
    samples = {"inputs": batch(32)[0], "targets": batch(32)[1]}
    method = ft() + vid() + review() + mgd()
    torch.manual_seed(0)
    distiller = lb.Distiller(network(6), network(4), task=TASK, method=method)
    lb.fit(distiller, samples, epochs=2, batch_size=16, precision="fp32")
    fresh = prepared(method)
    trained = dict(distiller.losses.named_parameters())
    assert trained.keys() == dict(fresh.losses.named_parameters()).keys()
    assert all(torch.isfinite(p).all() for p in trained.values())


@pytest.mark.parametrize("make", METHODS)
def test_its_citation(make: Any) -> None:
    """The catalogue would show another paper, or hide that modules are trained."""
    cited = about(make.__name__)
    assert (cited.family, cited.needs, cited.cost) == ("feature", "features", "modules")
    assert str(cited.year) in str(make.__doc__)
    assert make().name == make.__name__


# -- what they come to


@pytest.mark.parametrize(
    ("make", "weights"), [(ft, [500.0]), (vid, [1.0] * 3), (review, [5.0]), (mgd, [7e-5])]
)
def test_published_weights(make: Any, weights: list[float]) -> None:
    """Another weight than its source's would be another method."""
    method = make()
    assert [value_at(match.weight, 1.0) for match in method.matches] == pytest.approx(weights)
    assert method.label_weight is None


def test_taps() -> None:
    """A stage would be compared with another, or left out."""
    assert [(m.student, m.teacher) for m in vid().matches] == [(stage, stage) for stage in STAGES]
    assert [(m.student, m.teacher) for m in (*ft().matches, *mgd().matches)] == [
        ("stage[-1]", "stage[-1]")
    ] * 2
    [stages] = review().matches
    assert stages.students == stages.teachers == (*STAGES, "penultimate")


def test_the_review_warms_up() -> None:
    """Its large weight would meet attention maps that are still as drawn."""
    [match] = review().matches
    found = [value_at(match.weight, epoch / 240) for epoch in (0, 5, 10, 20, 240)]
    assert found == pytest.approx([0.0, 1.25, 2.5, 5.0, 5.0])
    assert review(weight=0.6, warmup=0.0).matches[0].weight == 0.6


def test_scales_are_those_of_the_weights() -> None:
    """A weight chosen for a mean over features would meet a sum of thousands."""
    distiller = prepared(vid()).eval()
    out = distiller(batch())
    loss, stage = distiller.losses[0], STAGES[0]
    error = (loss.regressor(out.student[stage]) - out.teacher[stage]).square()
    variance = loss.variance().view(-1, 1, 1)
    expected = ((error / variance + variance.log()) / 2).mean()
    assert torch.isclose(out.terms[f"Variational {stage}"], expected)

    made = ft(paraphraser=Paraphraser(24, 12))
    distiller = prepared(made).eval()
    out = distiller(batch())
    own = distiller.losses[0].translator(out.student["stage[-1]"]).flatten(1)
    theirs = distiller.losses[0].paraphraser(out.teacher["stage[-1]"]).flatten(1)
    pair = [factor / factor.norm(dim=1, keepdim=True) for factor in (own, theirs)]
    assert torch.isclose(out.terms["FactorTransfer stage[-1]"], (pair[0] - pair[1]).abs().mean())


# -- the paraphraser


def loud() -> lb.Teacher:
    """Return a teacher whose last map has values near 1, as trained ones have."""
    return lb.Teacher(network(6), preprocess=lambda images: 10 * images)


def pretrained(**options: Any) -> Paraphraser:
    settings = {"epochs": 4, "batch_size": 8, "learning_rate": 0.05} | options
    return pretrain_paraphraser(loud(), batch(32), **settings)


def error_of(paraphraser: Paraphraser) -> float:
    maps = loud().knowledge({"inputs": batch(32)[0]}, ["stage[-1]"])["stage[-1]"]
    return float((paraphraser.eval().reconstruct(maps) - maps).abs().mean().detach())


@pytest.mark.parametrize("batch_norm", [True, False])
def test_pretraining_lowers_the_error(batch_norm: bool) -> None:
    """The factors would be random projections of the teacher's map."""
    fresh = pretrained(epochs=0, batch_norm=batch_norm)
    assert error_of(pretrained(epochs=25, batch_norm=batch_norm)) < 0.8 * error_of(fresh)


def test_pretraining_is_repeatable() -> None:
    """A run could not be repeated, or its seeds would change the student's."""
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = pretrained(), pretrained(), pretrained(seed=1)
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), state)
    pairs = zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))
    assert not first.training
    assert not any(p.requires_grad for p in first.parameters())


def test_pretraining_draws_nothing() -> None:
    """The student that is made next would depend on whether a paraphraser was trained before."""
    model, data = network(6), batch(32)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    pretrain_paraphraser(model, data, epochs=1, batch_size=16)
    assert torch.equal(torch.rand(3), expected)


def test_pretraining_takes_teachers_taps_and_devices() -> None:
    """Only plain modules, or only the last stage, could be told again."""
    teacher = lb.Teacher(network(6), preprocess=lambda images: 2 * images)
    settings = {"epochs": 1, "batch_size": 16, "rate": 0.25}
    made = pretrain_paraphraser(teacher, batch(32), tap="4", device="cpu", **settings)
    assert (made.channels, made.factors) == (12, 3)
    with pytest.raises(InputError, match="Expected: maps"):
        pretrain_paraphraser(teacher, batch(32), tap="penultimate")


def test_a_trained_paraphraser_stays_as_it_is() -> None:
    """It would drift with the student, so that the factors moved."""
    paraphraser = pretrained()
    kept = {name: value.clone() for name, value in paraphraser.state_dict().items()}
    distiller = prepared(ft(paraphraser=paraphraser))
    trained(distiller, count=2)
    used = distiller.losses[0].paraphraser
    assert used is not paraphraser
    assert not any(p.requires_grad for p in used.parameters())
    for state in (paraphraser.state_dict(), used.state_dict()):
        assert all(torch.equal(state[name], kept[name]) for name in kept)
    check_method(ft(paraphraser=Paraphraser(24, 5)))


def test_a_paraphraser_of_another_teacher_is_refused() -> None:
    """It would fail in the first convolution, with a message about shapes."""
    with pytest.raises(InputError, match="8 channels, a teacher's map of 24"):
        prepared(ft(paraphraser=Paraphraser(8, 4)))


def test_a_paraphraser_beside_the_student() -> None:
    """It would learn to make the translator's task easy, or have 500 times its weight."""
    distiller = prepared(ft(weight=500.0).with_label_weight(0.0)).train()
    loss = distiller.losses[0]
    out = distiller(batch())
    out.loss.backward()
    maps = out.teacher["stage[-1]"]
    grown = {name: p.grad.clone() for name, p in loss.paraphraser.named_parameters()}
    loss.zero_grad()
    (loss.paraphraser.reconstruct(maps) - maps).abs().mean().backward()
    for name, p in loss.paraphraser.named_parameters():
        assert torch.allclose(grown[name], p.grad, rtol=1e-3, atol=1e-5), name
    before = float((loss.paraphraser.reconstruct(maps) - maps).abs().mean().detach())
    trained(distiller, count=40)
    assert (loss.paraphraser.reconstruct(maps) - maps).abs().mean() < before


# -- what is refused at once


@pytest.mark.parametrize("make", [vid, review, mgd])
@pytest.mark.parametrize(("student", "teacher"), [(["a"], ["a", "b"]), ("layer1", "layer1")])
def test_taps_that_do_not_pair(make: Any, student: Any, teacher: Any) -> None:
    """A name is not a list of letters; the last tap would be left out."""
    with pytest.raises(InputError, match="two lists of taps, equally long"):
        make(student=student, teacher=teacher)


def test_impossible_options() -> None:
    """They would be found out at the first training step."""
    with pytest.raises(InputError, match="above 0"):
        ft(weight=0.0)
    with pytest.raises(InputError, match="a probability"):
        prepared(mgd(drop=1.5))
    with pytest.raises(InputError, match="above 0"):
        prepared(vid(initial_variance=0.0))
