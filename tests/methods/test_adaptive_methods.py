"""Methods that learn temperatures, weights or layers: what they say, train and leave behind."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limbeck as lb
from limbeck.errors import InputError
from limbeck.losses import logit_mse, schedules
from limbeck.losses.selection import AttentionSelection, SemanticCalibration
from limbeck.losses.spec import spec_of
from limbeck.methods import Match, Method, about, at, fitnets, kd, none, sp
from limbeck.methods.adaptive import (
    afd,
    confidence_weighted,
    ctkd,
    sample_temperature,
    semckd,
    uncertainty_weighted,
)
from limbeck.methods.contrast import crd
from limbeck.testing import check_method

SIZE = 12
TASK = lb.tasks.Classification(3)
METHODS = {
    "afd": afd(width=16),
    "confidence_weighted": confidence_weighted(),
    "ctkd": ctkd(),
    "sample_temperature": sample_temperature(),
    "semckd": semckd(batch_size=SIZE),
    "uncertainty_weighted": uncertainty_weighted(kd() + at() + sp() + fitnets()),
}
WITH_PARTS = ["afd", "ctkd", "semckd", "uncertainty_weighted"]


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(SIZE, 1, 16, 16, generator=generator)
    return images, torch.arange(SIZE) % 3, torch.arange(SIZE)


def network(width: int) -> nn.Module:
    torch.manual_seed(width)
    stages: list[nn.Module] = []
    for number in range(3):
        before = 1 if number == 0 else width << (number - 1)
        stages += [nn.Conv2d(before, width << number, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*stages, nn.Flatten(), nn.Linear(4 * (width << 2), 3))


def sharp(width: int) -> nn.Module:
    """Return a network whose answers differ in how sure they are."""
    model = network(width)
    with torch.no_grad():
        model[-1].weight.mul_(20)
    return model


def prepared(method: Any, teacher: nn.Module | None = None) -> lb.Distiller:
    torch.manual_seed(3)
    theirs = teacher or sharp(6)
    return lb.Distiller(theirs, network(4), task=TASK, method=method).prepare(batch())


@pytest.mark.parametrize("name", METHODS)
def test_keeps_the_contract(name: str) -> None:
    """A method would train its teacher, or leave its own modules untrained."""
    check_method(METHODS[name])
    check_method(METHODS[name] + at())


@pytest.mark.parametrize("name", METHODS)
def test_says_what_it_is(name: str) -> None:
    """A method without a source cannot be checked by anyone."""
    made = METHODS[name]
    assert made.name == name
    assert about(name) in made.sources
    assert about(name).family == "adaptive"
    assert (about(name).cost == "modules") == (name in WITH_PARTS)
    weights = {"afd": None, "semckd": None}
    assert made.label_weight == weights.get(name, 0.1)


@pytest.mark.parametrize("name", WITH_PARTS)
def test_parts_are_trained_kept_and_left_behind(name: str) -> None:
    """They would stay as they began, be lost on resuming, or ship with the student."""
    distiller = prepared(METHODS[name])
    distiller.progress = 1.0
    before = {k: p.detach().clone() for k, p in distiller.losses.named_parameters()}
    assert before
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1)
    distiller.train()(batch()).loss.backward()
    optimizer.step()
    after = dict(distiller.losses.named_parameters())
    stay = [key for key in before if torch.equal(before[key], after[key])]
    # A batch normalisation takes these biases off again.
    assert all(name == "afd" and key.endswith(".0.bias") for key in stay)
    other = prepared(METHODS[name])
    other.progress = 1.0
    assert other.losses[0] is not distiller.losses[0]
    other.load_state_dict(distiller.state_dict())
    assert torch.equal(other.eval()(batch()).loss, distiller.eval()(batch()).loss)
    assert distiller.release().state_dict().keys() == network(4).state_dict().keys()


@pytest.mark.parametrize("name", METHODS)
def test_training_lowers_its_terms(name: str) -> None:
    """The gradient would lead away from the teacher, or be lost beside the label's."""
    distiller = prepared(METHODS[name])
    images, labels, ids = batch()
    before = distiller.eval()(batch()).loss.detach()
    samples = {"inputs": images, "targets": labels, "id": ids}
    more: dict[str, Any] = {"listener": lb.Silent(), "precision": "fp32"}
    more["optimizer"] = lb.distill.optim.optimizer("adam", lr=1e-3)
    lb.fit(distiller, samples, epochs=25, batch_size=SIZE, **more)
    distiller.progress = 0.0
    assert distiller.eval()(batch()).loss < before


# -- temperatures


def test_ctkd_matches_what_the_paper_says() -> None:
    """The share, or the curriculum, would be others than the authors'."""
    [match] = ctkd().matches
    assert (match.student, match.teacher, match.weight) == ("logits", "logits", 0.9)
    assert match.options == {
        "start": 1.0,
        "span": 20.0,
        "initial": 1.0,
        "strength": 1.0,
        "ramp": 10 / 240,
    }
    assert match.context == ("mask", "progress", "targets")
    assert ctkd(alpha=0.5).label_weight == 0.5
    made = prepared(ctkd(start=2.0, span=8.0, initial=0.0, strength=0.5, ramp=0.2)).losses[0]
    assert float(made.temperature().detach()) == 6.0
    assert made.reversal(0.1) == pytest.approx(0.25)
    assert made.reversal(0.2) == made.reversal(1.0) == 0.5


def test_ctkd_for_each_sample() -> None:
    """The network would not be trained, or its temperatures be alike whatever the answers are."""
    method = ctkd(form="instance", width=7, start=2.0, span=8.0, ramp=0.0)
    check_method(method)
    distiller = prepared(method).train()
    distiller.progress = 1.0
    [loss] = distiller.losses
    assert loss.network[0].out_features == 7
    before = [p.detach().clone() for p in loss.parameters()]
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1)
    out = distiller(batch())
    out.loss.backward()
    optimizer.step()
    assert all(not torch.equal(*pair) for pair in zip(before, loss.parameters(), strict=True))
    found = loss.temperature(out.student.logits, out.teacher.logits)
    assert found.min() > 2.0
    assert found.max() < 10.0
    assert found.std() > 0
    with pytest.raises(InputError, match="'global' or 'instance'"):
        ctkd(form="sample")


def test_ctkd_follows_the_progress_of_training() -> None:
    """The temperature would learn with the student, or from the first step on."""
    distiller = prepared(ctkd(span=2.0, initial=0.0, ramp=0.5))
    theta = distiller.losses[0].theta
    logits = [model(batch()[0]).detach().double() for model in (network(4), sharp(6))]
    free = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    warmth = 1 + 2 * torch.sigmoid(free)
    q, p = (F.softmax(each / warmth, dim=1) for each in logits)
    value = warmth**2 * (p * (p / q).log()).sum(1).mean()
    [slope] = torch.autograd.grad(0.9 * value, [free])
    for progress, share in ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (1.0, 1.0)):
        distiller.progress = progress
        out = distiller(batch())
        [gradient] = torch.autograd.grad(out.loss, [theta])
        term = float(out.terms["LearnedTemperature"])
        assert term == pytest.approx(float(value.detach()), rel=5e-3)
        assert float(gradient) == pytest.approx(-share * float(slope), rel=5e-3, abs=1e-8)


def test_the_temperature_learns_against_the_student() -> None:
    """Within a training the curriculum would stand still, as if progress were never told."""
    distiller = prepared(ctkd(ramp=0.0))
    warmth = distiller.losses[0].temperature().detach()
    more: dict[str, Any] = {"listener": lb.Silent(), "precision": "fp32"}
    lb.fit(distiller, batch()[:2], epochs=5, batch_size=SIZE, **more)
    assert distiller.losses[0].temperature().detach() != warmth


@pytest.mark.parametrize(
    "options",
    [{"start": 0}, {"span": -1}, {"strength": -1}, {"ramp": 1.5}, {"ramp": -0.1}, {"alpha": 2}],
)
def test_impossible_temperatures(options: Any) -> None:
    """A temperature of 0 divides by it; a negative strength teaches nothing harder."""
    with pytest.raises(InputError):
        ctkd(**options)


def test_sample_temperature() -> None:
    """T² would be missing, or be the batch's and not the sample's."""
    for temperature in (1.0, 2.0):
        out = prepared(sample_temperature(0.5, temperature))(batch())
        own, theirs = network(4)(batch()[0]), sharp(6)(batch()[0])
        total = 0.0
        for s, t in zip(own.detach().double(), theirs.detach().double(), strict=True):
            warmth = temperature * t.var(correction=0).sqrt().clamp(min=0.1)
            q, p = F.softmax(s / warmth, dim=0), F.softmax(t / warmth, dim=0)
            total += float(warmth**2 * (p * (p / q).log()).sum()) / SIZE
        assert float(out.terms["SampleTemperature"]) == pytest.approx(total, rel=1e-4)
        label = float(out.terms["label"])
        assert float(out.loss.detach()) == pytest.approx(0.5 * label + 0.5 * total, rel=1e-4)


def test_a_rule_with_parameters_is_trained() -> None:
    """Its parameters would be missing from the optimizer."""

    class Rule(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.log_t = nn.Parameter(torch.zeros(()))

        def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
            return self.log_t.exp().expand(len(student))

    distiller = prepared(sample_temperature(rule=Rule()))
    assert "losses.0.rule.log_t" in dict(distiller.named_parameters())
    check_method(sample_temperature(rule=Rule()))


@pytest.mark.parametrize("form", ["label", "maximum", "entropy"])
def test_confidence_weighted(form: Any) -> None:
    """A teacher that errs would be followed all the same; T would warm the weights too."""
    out = prepared(confidence_weighted(0.8, temperature=3.0, form=form))(batch())
    images, labels, _ = batch()
    own, theirs = network(4)(images).detach(), sharp(6)(images).detach()
    sure = F.softmax(theirs, dim=1)
    weights = {
        "label": sure[torch.arange(SIZE), labels],
        "maximum": sure.max(1).values,
        "entropy": 1 + (sure * sure.log()).sum(1) / math.log(3),
    }[form]
    q, p = F.softmax(own / 3, dim=1), F.softmax(theirs / 3, dim=1)
    value = (weights * 9 * (p * (p / q).log()).sum(1)).mean()
    assert torch.isclose(out.terms["ConfidenceWeighted"], value, rtol=1e-4)
    assert torch.isclose(out.loss, 0.2 * out.terms["label"] + 0.8 * value, rtol=1e-4)


def test_softness_of_the_confidence() -> None:
    """The option would be taken for the divergence's temperature."""
    [match] = confidence_weighted(softness=2.0).matches
    made = prepared(Method((match,))).losses[0]
    assert (made.softness, made.form, match.options["temperature"]) == (2.0, "label", 4.0)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (sample_temperature, {"temperature": 0.0}),
        (sample_temperature, {"alpha": -0.1}),
        (confidence_weighted, {"temperature": -1.0}),
        (confidence_weighted, {"softness": 0.0}),
        (confidence_weighted, {"form": "labels"}),
        (confidence_weighted, {"alpha": 1.1}),
    ],
)
def test_impossible_options(make: Any, options: Any) -> None:
    """They would be found out at the first step, or teach the opposite."""
    with pytest.raises(InputError):
        make(**options)


# -- weights that are learned


def test_uncertainty_weights_begin_with_the_method_s() -> None:
    """The balance that a method was published with would be lost at the first step."""
    plain = kd(4.0, 0.7) + at() + sp()
    made = uncertainty_weighted(plain)
    assert [m.name for m in made.matches] == [m.name for m in plain.matches]
    assert made.label_weight == plain.label_weight
    learned, given = prepared(made), prepared(plain)
    ours, theirs = learned(batch()), given(batch())
    for match, loss in zip(plain.matches, learned.losses, strict=True):
        start = -math.log(2 * match.weight)
        assert float(loss.weighing.log_variance.detach()) == pytest.approx(start)
        expected = match.weight * theirs.terms[match.name] + start / 2
        assert torch.isclose(ours.terms[match.name], expected, rtol=1e-4)
    prices = sum(-math.log(2 * match.weight) / 2 for match in plain.matches)
    assert torch.isclose(ours.loss, theirs.loss + prices, rtol=1e-4)
    for model in (learned, given):
        model(batch()).loss.backward()
    pairs = zip(learned.student.parameters(), given.student.parameters(), strict=True)
    assert all(torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-6) for a, b in pairs)


def test_uncertainty_weights_settle_at_the_loss() -> None:
    """The weights would run away, or be those of another formula."""
    distiller = prepared(uncertainty_weighted(Method((Match("logits", "logits", logit_mse),))))
    [loss] = distiller.losses
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        distiller.eval()(batch()).loss.backward()
        optimizer.step()
    value = logit_mse(network(4)(batch()[0]), sharp(6)(batch()[0]))
    assert torch.isclose(loss.weighing.log_variance.exp(), value, rtol=1e-3)


def test_uncertainty_weights_keep_what_a_match_needs() -> None:
    """Adapters, options, built losses and the label's targets would be lost inside."""
    plain = Method((*ctkd().matches, *fitnets().matches, *crd(SIZE, negatives=4).matches))
    made = uncertainty_weighted(plain)
    for ours, theirs in zip(made.matches, plain.matches, strict=True):
        assert (ours.student, ours.teacher) == (theirs.student, theirs.teacher)
        assert (ours.adapter, ours.spec.align) == (theirs.adapter, theirs.spec.align)
        assert not spec_of(ours.loss).per_sample
        assert repr(ours).count(f"UncertaintyWeighted({theirs.name})") == 1
    distiller = prepared(made)
    assert distiller.adapters() == {"hint stage[-2]": "student: conv1x1 16→24"}
    names = {name for name, _ in distiller.losses.named_parameters()}
    assert {"0.weighing.log_variance", "0.weighing.loss.theta", "1.weighing.log_variance"} <= names
    assert "2.weighing.loss.student_embedding.weight" in names
    given = {"student": network(4), "teacher": network(6), "batch": batch(), "task": TASK}
    check_method(made, **given)
    check_method(uncertainty_weighted(made), **given)


def test_uncertainty_weights_leave_schedules_outside() -> None:
    """A warm-up would be frozen at its first value, or be taken for a number."""
    match = Match("logits", "logits", logit_mse, weight=schedules.linear(0.0, 2.0))
    distiller = prepared(uncertainty_weighted(Method((match,), 0.0)))
    value = logit_mse(network(4)(batch()[0]), sharp(6)(batch()[0]))
    for progress in (0.0, 0.5, 1.0):
        distiller.progress = progress
        expected = 2 * progress * (value - math.log(2) / 2)
        assert torch.isclose(distiller(batch()).loss, expected, rtol=1e-4)


def test_uncertainty_weights_without_a_teacher() -> None:
    """A match that needs no teacher would get one, or nothing."""

    def small(student: Tensor, teacher: Tensor) -> Tensor:
        return student.square().mean()

    method = uncertainty_weighted(Method((Match("logits", None, small, weight=0.1),)))
    distiller = lb.Distiller(None, network(4), task=TASK, method=method).prepare(batch())
    out = distiller(batch())
    expected = 0.1 * network(4)(batch()[0]).square().mean() - math.log(0.2) / 2
    assert torch.isclose(out.terms["small"], expected, rtol=1e-5)


def test_what_has_no_weights_to_learn() -> None:
    """A term with the weight 0 has no logarithm to begin from."""
    assert [m.name for m in uncertainty_weighted().matches] == ["kl"]
    with pytest.raises(InputError, match="one with matches"):
        uncertainty_weighted(none())
    with pytest.raises(InputError, match="weight of 0"):
        uncertainty_weighted(kd(alpha=0.0))


# -- layers


@pytest.mark.parametrize(
    ("make", "loss", "weight", "options"),
    [
        (afd, AttentionSelection, 200.0, {"width": 128}),
        (lambda **more: semckd(64, **more), SemanticCalibration, 400.0, None),
    ],
)
def test_layers_match_what_the_papers_say(
    make: Any, loss: Any, weight: float, options: Any
) -> None:
    """The layers, or the weights of the authors' code, would be others."""
    [match] = make().matches
    stages = ("stage[-3]", "stage[-2]", "stage[-1]")
    assert (match.loss, match.weight) == (loss, weight)
    assert match.student == match.teacher == stages
    assert match.options == (options or {"batch_size": 64, "factor": 4})
    [match] = make(weight=2.0, student=["2"], teacher=["5", "8"]).matches
    assert (match.student, match.teacher, match.weight) == (("2",), ("5", "8"), 2.0)
    with pytest.raises(InputError, match="two lists of taps"):
        make(student="stage[-1]")
    with pytest.raises(InputError, match="two lists of taps"):
        make(teacher=[])


@pytest.mark.parametrize("make", [afd, lambda **more: semckd(8, **more)])
def test_unequal_numbers_of_layers(make: Any) -> None:
    """Layers need not come in pairs: the last one would be left out, or refused."""
    check_method(make(student=["2", "5"], teacher=["2", "5", "8"]))
    check_method(make(student=["2", "5", "8"], teacher=["8"]))


def test_the_authors_sum_of_semckd() -> None:
    """The docstring's half of it would be another method."""
    method = kd(alpha=0.5) + semckd(64, weight=200)
    assert method.label_weight == 0.5
    assert [match.weight for match in method.matches] == [0.5, 200]


def test_semckd_refuses_larger_batches() -> None:
    """PyTorch's error about shapes would come at the first step, without the remedy."""
    distiller = prepared(semckd(batch_size=SIZE - 2))
    with pytest.raises(InputError, match=f"got {SIZE} samples"):
        distiller.train()(batch())
    for options in ({"batch_size": 0}, {"batch_size": 8, "factor": 0}):
        with pytest.raises(InputError, match="1 or more"):
            semckd(**options)


def test_layers_of_vectors_are_refused() -> None:
    """What is no map would end in an error about dimensions."""
    for method in (afd(student=["10"], teacher=["10"]), semckd(8, student=["10"], teacher=["10"])):
        with pytest.raises(InputError, match=r"maps \(B, C, H, W\)"):
            prepared(method)
