"""Methods between relations: published weights and scales, and that they teach."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limbeck as lb
from limbeck.errors import InputError
from limbeck.losses import relations as losses
from limbeck.methods import Match, about
from limbeck.methods.relations import cc, cka, ickd, pkt, rkd
from limbeck.testing import check_method

METHODS = [cc, cka, ickd, pkt, rkd]
TASK = lb.tasks.Classification(3)


def batch(size: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, 1, 8, 8, generator=generator), torch.arange(size) % 3


def network(width: int) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(8 * width, 3),
    )  # fmt: skip


@pytest.mark.parametrize(
    "method",
    [*(make() for make in METHODS), cc(form="kernel"), cka(form="unbiased"), rkd(angle=0)],
    ids=lambda method: method.name,
)
def test_keeps_the_contract(method: Any) -> None:
    """A method would train its teacher, or leave its own adapters untrained."""
    check_method(method)
    check_method(lb.methods.kd() + method)


def facts(match: Match) -> tuple[Any, ...]:
    return match.loss.__name__, match.student, match.teacher, match.weight, match.options


def test_what_they_match() -> None:
    """The weights would be others than those of the published numbers, or meet other scales."""
    end = "penultimate", "penultimate"
    distance, angle = rkd().matches
    assert facts(distance) == ("rkd_distance", *end, 25.0, {})
    assert facts(angle) == ("rkd_angle", *end, 50.0, {})
    [match] = pkt().matches
    assert facts(match) == ("probabilistic_transfer", *end, 30000.0, {"scale": "mean"})
    [match] = cc().matches
    assert facts(match) == ("correlation_congruence", *end, 0.02, {"form": "neighbours"})
    assert match.adapter == "linear"
    [match] = cc(form="kernel").matches
    assert facts(match) == ("correlation_congruence", *end, 100.0, {"form": "kernel"})
    assert match.adapter == "auto"
    [match] = ickd().matches
    stage = "stage[-1]"
    assert facts(match) == ("inter_channel", stage, stage, 2.5, {"form": "normalized"})
    assert match.adapter == "conv1x1"
    [match] = cka().matches
    assert facts(match) == ("kernel_alignment", *end, 1.0, {"form": "biased"})


@pytest.mark.parametrize("make", METHODS)
def test_says_what_it_is(make: Any) -> None:
    """A method without a source cannot be checked; the label's weight would be set twice."""
    cited = about(make.__name__)
    assert (cited.family, cited.needs) == ("relation", "features")
    assert str(cited.year) in make.__doc__
    assert make().label_weight is None
    assert make().name == make.__name__
    assert make().sources == (cited,)


def test_options_reach_the_matches() -> None:
    """A tap or a weight that a user gives would be lost."""
    for make in METHODS:
        assert {m.student for m in make(student="3").matches} == {"3"}
        assert {m.teacher for m in make(teacher="0").matches} == {"0"}
    for make in (cc, cka, ickd, pkt):
        assert make(7.0).matches[0].weight == 7.0
    assert cc(0.5, form="kernel").matches[0].weight == 0.5
    assert [m.name for m in rkd(distance=0).matches] == ["rkd_angle penultimate"]
    assert [m.weight for m in rkd(1.0, 2.0).matches] == [1.0, 2.0]


@pytest.mark.parametrize(("distance", "angle"), [(0, 0), (-1, 50), (25, -1)])
def test_impossible_weights(distance: float, angle: float) -> None:
    """A method without a match would learn from the labels alone."""
    with pytest.raises(InputError, match="none below 0, one above"):
        rkd(distance, angle)


def test_unknown_forms() -> None:
    """A slip would end in a KeyError, or in another loss."""
    with pytest.raises(InputError, match=r"'neighbour'.*'neighbours' or 'kernel'"):
        cc(form="neighbour")  # type: ignore[arg-type]


def values(method: Any) -> tuple[lb.Distiller, lb.distill.Distilled]:
    distiller = lb.Distiller(network(6), network(4), task=TASK, method=method).prepare(batch())
    return distiller, distiller(batch())


def test_the_terms_are_the_losses() -> None:
    """Another tap or scale would give other terms under the same names."""
    student, teacher = network(4), network(6)
    own, theirs = (model[:7](batch()[0]) for model in (student, teacher))
    _, out = values(rkd() + pkt() + cka() + cc(form="kernel"))
    expected = {
        "rkd_distance": losses.rkd_distance(own, theirs),
        "rkd_angle": losses.rkd_angle(own, theirs),
        "probabilistic_transfer": losses.probabilistic_transfer(own, theirs) / 12**2,
        "kernel_alignment": losses.kernel_alignment(own, theirs),
        "correlation_congruence": losses.correlation_congruence(own, theirs),
    }
    weights = {
        "rkd_distance": 25,
        "rkd_angle": 50,
        "probabilistic_transfer": 30000,
        "kernel_alignment": 1,
        "correlation_congruence": 100,
    }
    for name, value in expected.items():
        assert torch.isclose(out.terms[f"{name} penultimate"], value, rtol=1e-4)
    whole = sum(weights[name] * value for name, value in expected.items())
    assert torch.isclose(out.loss, out.terms["label"] + whole, rtol=1e-4)


def test_pkt_weight_and_the_paper_s_sum() -> None:
    """The docstring's rule from one scale to the other would be wrong."""
    summed = Match(
        "penultimate", "penultimate", losses.probabilistic_transfer, weight=30000 / 12**2
    )
    assert torch.isclose(values(pkt())[1].loss, values(summed)[1].loss, rtol=1e-4)


def test_adapters() -> None:
    """The benchmark's layers on the student's side would be missing."""
    assert values(cc())[0].adapters() == {
        "correlation_congruence penultimate": "student: linear 32→48"
    }
    assert values(ickd())[0].adapters() == {"inter_channel stage[-1]": "student: conv1x1 8→12"}
    for method in (rkd(), pkt(), cka(), cc(form="kernel")):
        assert values(method)[0].adapters() == {}


@pytest.mark.parametrize(
    "method",
    [*(make() for make in METHODS), cc(form="kernel")],
    ids=["cc", "cka", "ickd", "pkt", "rkd", "cc-kernel"],
)
def test_training_lowers_its_terms(method: Any) -> None:
    """The gradient would lead away from the teacher, or be lost beside the label's."""
    distiller, before = values(method)
    names = [match.name for match in method.matches]
    images, labels = batch()
    lb.fit(distiller, (images, labels), epochs=25, batch_size=12, listener=lb.Silent())
    after = distiller.eval()(batch())
    for name in names:
        assert after.terms[name] < 0.9 * before.terms[name]
