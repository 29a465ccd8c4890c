"""Losses through a classifier, against the authors' numbers, other formulas and their contract."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from recorded import cases
from recorded_parts import breaches, parameter_breaches, parameters, raw, tensor
from torch import Tensor, nn

import limbeck as lb
from limbeck import losses
from limbeck.errors import InputError
from limbeck.losses.classifiers import class_activation, one_for_all, simkd, softmax_regression
from limbeck.losses.exits import OneForAll, SoftmaxRegression
from limbeck.losses.heads import FrozenClassifier, ReusedClassifier
from limbeck.losses.spec import Setting, spec_of
from limbeck.testing import check_loss

MAPS = (6, 3, 4, 4)


def _loaded(module: nn.Module, recorded: dict[str, Tensor], names: dict[str, str]) -> nn.Module:
    """Return the module in float64 with recorded parameters, their prefixes replaced by ours."""
    state = {}
    for key, value in recorded.items():
        old = next(prefix for prefix in names if key.startswith(prefix))
        state[names[old] + key.removeprefix(old)] = value
    missing, unexpected = module.double().load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return module.train()


# What turns the parts of the authors' code, means over channels and classes, into ours.
SRRL = {
    "feature": ({"alpha": 1.0, "beta": 0.0}, 6.0),
    "logits": ({"alpha": 0.0, "beta": 1.0}, 10.0),
    "both": ({"alpha": 2 / 12, "beta": 1 / 10}, 1.0),
}


@pytest.mark.parametrize("number", range(3))
def test_softmax_regression_as_recorded(number: int) -> None:
    """A part would be off by a mean, or the connector would end in something else."""
    case = raw("softmax_regression")[number]
    options, factor = SRRL[case["options"]["part"]]
    names = {"connector.Connectors.": "connector.", "classifier.": "classifier."}
    module = _loaded(SoftmaxRegression(8, 12, 10, **options), parameters(case), names)
    student, teacher = (tensor(case["inputs"][side]) for side in ("student", "teacher"))
    value = module(student.requires_grad_(True), teacher)
    named = {f"Connectors.{k}": v for k, v in module.connector.named_parameters()}
    assert not parameter_breaches(case, value, named, factor=factor)
    assert not breaches(case, value, {"student_gradient": student}, factor=factor)


def test_softmax_regression_by_divergence() -> None:
    """The gradient of ``kl`` is documented to be that of the cross-entropy, in nats."""
    student, teacher = torch.randn(4, 6).double(), torch.randn(4, 6).double()
    weight, bias = torch.randn(3, 6).double(), torch.randn(3).double()
    student.requires_grad_(True)
    options = {"weight": weight, "bias": bias, "alpha": 0.0, "compare": "kl"}
    value = softmax_regression(student, teacher, **options)
    soft = (teacher @ weight.T + bias).softmax(1)
    other = nn.functional.cross_entropy(student @ weight.T + bias, soft)
    gradients = [torch.autograd.grad(v, student)[0] for v in (value, other)]
    assert torch.allclose(*gradients, rtol=1e-9)
    entropy = -(soft * soft.log()).sum(1).mean()
    assert torch.isclose(value, other - entropy, rtol=1e-9)


@pytest.mark.parametrize("compare", ["l2", "kl"])
def test_softmax_regression_keeps_the_contract(compare: str) -> None:
    """Chunks, half precision or a gradient into the teacher would slip in."""
    loss = partial(check_loss, softmax_regression, compare=compare, bias=torch.randn(5))
    loss(shapes=[((6, 3), (6, 3)), (MAPS, MAPS), (MAPS, (6, 3, 2, 2))], weight=torch.randn(5, 3))


def test_softmax_regression_module_keeps_the_contract() -> None:
    """The wrapped forward would not widen, or would let a gradient into the teacher."""
    module = SoftmaxRegression(3, 5, 7).reuse(nn.Linear(5, 7))
    check_loss(module, shapes=[((6, 3), (6, 5)), (MAPS, (6, 5, 2, 2))])
    assert spec_of(module).align == "none"


def test_the_classifier_stays_and_the_connector_learns() -> None:
    """The teacher's layer would drift, or the connector would never reach the optimizer."""
    torch.manual_seed(0)
    module = SoftmaxRegression(3, 5, 7).reuse(nn.Linear(5, 7))
    kept = {key: value.clone() for key, value in module.state_dict().items()}
    assert {name.split(".")[0] for name, _ in module.named_parameters()} == {"connector"}
    student, teacher = torch.randn(8, 3, 4, 4), torch.randn(8, 5, 4, 4).relu()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    before = module(student, teacher).detach()
    for _ in range(20):
        optimizer.zero_grad()
        module(student, teacher).backward()
        optimizer.step()
    assert module(student, teacher) < before
    changed = {k for k, v in module.state_dict().items() if not torch.equal(v, kept[k])}
    assert "connector.0.weight" in changed
    assert not any(name.startswith("classifier") for name in changed)
    other = SoftmaxRegression(3, 5, 7)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(student, teacher), module(student, teacher))


def test_softmax_regression_finds_the_classifier() -> None:
    """A recipe has numbers and names only; a random classifier would teach noise."""
    teacher = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 7))
    setting = Setting(nn.Linear(4, 3), teacher)
    tensors = torch.randn(2, 3), torch.randn(2, 5)
    made = SoftmaxRegression.build(*tensors, setting, alpha=2.0)
    assert torch.equal(made.classifier.weight, teacher[2].weight)
    assert torch.equal(made.classifier.bias, teacher[2].bias)
    assert made.alpha == 2.0
    named = SoftmaxRegression.build(*tensors, setting, classifier="2")
    assert torch.equal(named.classifier.weight, teacher[2].weight)
    with pytest.raises(InputError, match="'fc' was not found"):
        SoftmaxRegression.build(*tensors, setting, classifier="fc")
    with pytest.raises(InputError, match="was not found"):
        SoftmaxRegression.build(*tensors, Setting(teacher))
    with pytest.raises(InputError, match="a weight of"):
        SoftmaxRegression.build(torch.randn(2, 3), torch.randn(2, 9), setting)


def test_a_forgotten_classifier_does_not_pass_unnoticed() -> None:
    """Zeros or random numbers would train quietly towards nothing."""
    assert FrozenClassifier(3, 2)(torch.zeros(1, 3)).isnan().all()
    linear = nn.Linear(3, 2, bias=False)
    reused = FrozenClassifier(3, 2).reuse(linear)
    assert torch.equal(reused(torch.ones(1, 3)), linear(torch.ones(1, 3)))
    assert not list(reused.parameters())


def test_softmax_regression_refuses() -> None:
    """Features of another layer would be multiplied or broadcast."""
    with pytest.raises(InputError, match="the same shape"):
        softmax_regression(torch.randn(2, 3), torch.randn(2, 4), weight=torch.randn(5, 3))
    with pytest.raises(InputError, match="a classifier of weight"):
        softmax_regression(torch.randn(2, 3), torch.randn(2, 3), weight=torch.randn(5, 4))
    with pytest.raises(InputError, match="cannot enter a classifier"):
        softmax_regression(torch.randn(2, 4, 3), torch.randn(2, 4, 3), weight=torch.randn(5, 3))


@pytest.mark.parametrize("number", range(2))
def test_simkd_as_recorded(number: int) -> None:
    """The projector would be another, or its output would be compared at another size."""
    case = raw("simkd")[number]
    size = (3, 3) if number else None
    names = {"simkd.transfer.": "projector.", "classifier.": "classifier."}
    end = ReusedClassifier(8, 12, 10, factor=case["options"]["factor"], size=size)
    _loaded(end, parameters(case), names)
    student, teacher = (tensor(case["inputs"][side]) for side in ("student", "teacher"))
    student.requires_grad_(True)
    projected = end.projector(end.resize(student))
    named = {f"transfer.{k}": v for k, v in end.projector.named_parameters()}
    for features, factor in (("mean", 1.0), ("sum", case["to_paper"])):
        value = simkd(projected, teacher, features=features)
        assert not parameter_breaches(case, value, named, factor=factor)
        assert not breaches(case, value, {"student_gradient": student}, factor=factor)
    logits = end(student).detach().numpy()
    assert np.allclose(logits, np.array(case["logits"]), rtol=1e-9)


def test_simkd_keeps_the_contract() -> None:
    """Chunks, masks, half precision or a gradient into the teacher would slip in."""
    check_loss(simkd)
    check_loss(simkd, features="mean")


def test_simkd_is_a_sum_of_squares() -> None:
    """A factor ½, or a mean over tokens and features, would change the weight by hundreds."""
    own, theirs = torch.randn(3, 4, 5).double(), torch.randn(3, 4, 5).double()
    tokens = own.flatten(0, 1), theirs.flatten(0, 1)
    loop = [((s - t) ** 2).sum() for s, t in zip(*tokens, strict=True)]
    assert torch.isclose(simkd(own, theirs), torch.stack(loop).mean(), rtol=1e-12)
    with pytest.raises(InputError, match="the same shape"):
        simkd(torch.randn(2, 3, 4, 4), torch.randn(2, 3, 2, 2))


def test_the_reused_classifier_learns_only_its_projector() -> None:
    """A SimKD student that trains the teacher's classifier is another method."""
    end = ReusedClassifier(4, 6, 3).reuse(nn.Linear(6, 3))
    maps = torch.randn(2, 4, 5, 5)
    simkd(end.projector(maps), torch.randn(2, 6, 5, 5)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in end.parameters())
    assert {name.split(".")[0] for name, _ in end.named_parameters()} == {"projector"}
    other = ReusedClassifier(4, 6, 3)
    other.load_state_dict(end.state_dict())
    assert torch.equal(other.eval()(maps), end.eval()(maps))


@pytest.mark.parametrize("case", cases("class_activation"), ids=lambda case: case.name)
def test_class_activation_as_recorded(case: object) -> None:
    """Maps would be normalised over classes, or averaged where the paper sums."""
    assert not case.breaches(class_activation)


def test_class_activation_of_features() -> None:
    """The maps of a class must average to its logit, whichever side the classifier is on."""
    own, theirs = torch.randn(2, 4, 6, 6).double(), torch.randn(2, 5, 3, 3).double()
    weights = torch.randn(7, 4).double().requires_grad_(True), torch.randn(7, 5).double()
    weights[1].requires_grad_(True)
    cams = [
        torch.stack([(maps * w[k][None, :, None, None]).sum(1) for k in range(7)], 1)
        for maps, w in zip((own, theirs), weights, strict=True)
    ]
    value = class_activation(
        own, theirs, student_classifier=weights[0], teacher_classifier=weights[1], resolution=3
    )
    assert torch.isclose(value, class_activation(*cams, resolution=3), rtol=1e-10)
    value.backward()
    assert weights[0].grad.abs().sum() > 0
    assert weights[1].grad is None


def test_class_activation_keeps_the_contract() -> None:
    """Chunks, half precision or a gradient into the teacher would slip in."""
    check_loss(class_activation, shapes=[(MAPS, MAPS), (MAPS, (6, 3, 2, 2))])
    check_loss(class_activation, shapes=[(MAPS, MAPS)], normalize=False, resolution=4)
    check_loss(
        class_activation,
        shapes=[(MAPS, (6, 5, 4, 4))],
        student_classifier=torch.randn(7, 3),
        teacher_classifier=torch.randn(7, 5),
    )


def test_dead_classes_give_a_bounded_gradient() -> None:
    """A class seen nowhere would get a gradient of 1e12."""
    own = torch.zeros(1, 3, 4, 4, requires_grad=True)
    class_activation(own, torch.randn(1, 3, 4, 4)).backward()
    assert own.grad.abs().max() < 1


def test_class_activation_refuses() -> None:
    """Ten classes would be compared with one, or channels taken for classes."""
    with pytest.raises(InputError, match="the same shape"):
        class_activation(torch.randn(2, 10, 4, 4), torch.randn(2, 1, 4, 4))
    with pytest.raises(InputError, match="class_activation got maps"):
        class_activation(torch.randn(2, 10), torch.randn(2, 10))
    maps = torch.randn(2, 10, 4, 4)
    with pytest.raises(InputError, match="a classifier"):
        class_activation(maps, maps, student_classifier=torch.randn(5, 9))


@pytest.mark.parametrize("number", range(3))
def test_one_for_all_as_recorded(number: int) -> None:
    """The label's own cross-entropy would be counted, or the temperature applied once more."""
    case = cases("one_for_all")[number]
    gamma, temperature = case.options["eps"], case.options["temperature"]

    def ours(student: Tensor, teacher: Tensor, *, targets: Tensor, **_: object) -> Tensor:
        sides = student / temperature, teacher / temperature
        return one_for_all(*sides, targets=targets, gamma=gamma, form="code")

    assert not case.breaches(ours)


def test_one_for_all_without_enhancement() -> None:
    """With γ = 1 it is documented to be two known losses added."""
    student, teacher = torch.randn(4, 3, 6).double(), torch.randn(4, 3, 6).double()
    targets = torch.randint(6, (4, 3))
    label = nn.functional.cross_entropy(student.flatten(0, 1), targets.flatten())
    expected = losses.soft_cross_entropy(student, teacher) + label
    assert torch.isclose(one_for_all(student, teacher, targets=targets), expected, rtol=1e-10)


@pytest.mark.parametrize("form", ["paper", "code"])
def test_one_for_all_against_a_loop(form: str) -> None:
    """γ would reach the wrong classes."""
    numbers = np.random.default_rng(2)
    student, teacher = numbers.normal(size=(3, 4)), numbers.normal(size=(3, 4))
    targets, gamma, total = [1, 0, 3], 1.4, 0.0
    for s, t, y in zip(student, teacher, targets, strict=True):
        q = [math.exp(x) / sum(math.exp(z) for z in s) for x in s]
        p = [math.exp(x) / sum(math.exp(z) for z in t) for x in t]
        for c in range(4):
            if c == y:
                weight = (1 + p[c]) ** gamma - (form == "code")
            else:
                weight = p[c] ** gamma if form == "code" else p[c]
            total -= weight * math.log(q[c]) / 3
    value = one_for_all(
        torch.from_numpy(student),
        torch.from_numpy(teacher),
        targets=torch.tensor(targets),
        gamma=gamma,
        form=form,
    )
    assert float(value) == pytest.approx(total, rel=1e-10)


@pytest.mark.parametrize("form", ["paper", "code"])
def test_one_for_all_keeps_the_contract(form: str) -> None:
    """Extreme logits, masks or chunks would break it."""
    check_loss(one_for_all, form=form)
    check_loss(one_for_all, form=form, gamma=1.5)


def test_one_for_all_ignores_the_labels_of_masked_tokens() -> None:
    """Padding is labelled −100: as an index it would stop the device."""
    student, teacher = torch.randn(1, 2, 4), torch.randn(1, 2, 4)
    mask, targets = torch.tensor([[True, False]]), torch.tensor([[2, -100]])
    value = one_for_all(student, teacher, targets=targets, mask=mask)
    assert torch.isclose(value, one_for_all(student[:, :1], teacher[:, :1], targets=targets[:, :1]))
    with pytest.raises(InputError, match="one label per sample"):
        one_for_all(student, teacher, targets=torch.tensor([1]))


def test_exits_learn_and_keep_the_contract() -> None:
    """An exit that gets no gradient leaves the stage's loss to noise."""
    module = OneForAll(5, 7)
    targets = torch.randint(7, (6,))
    shapes = [((6, 5), (6, 7)), ((6, 5, 4, 4), (6, 7))]
    check_loss(module, shapes=shapes, targets=targets)
    tokens, teacher = torch.randn(6, 9, 5), torch.randn(6, 7)
    value = module(tokens, teacher, targets=targets)
    value.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    assert torch.isclose(value, module(tokens.mean(1), teacher, targets=targets))
    for stage in (tokens, torch.randn(6, 5), torch.randn(6, 5, 2, 2)):
        made = OneForAll.build(stage, teacher, Setting(module), gamma=1.2)
        assert torch.isfinite(made(stage, teacher, targets=targets))
        assert made.gamma == 1.2
    other = OneForAll(5, 7)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(tokens, teacher, targets=targets), value)


def test_one_sample() -> None:
    """A batch of one is the last of many epochs."""
    maps = torch.randn(1, 3, 4, 4)
    module = SoftmaxRegression(3, 5, 7).reuse(nn.Linear(5, 7))
    assert torch.isfinite(module(maps, torch.randn(1, 5, 4, 4)))
    assert torch.isfinite(class_activation(maps, torch.randn(1, 3, 4, 4)))
    logits = torch.randn(1, 3)
    assert torch.isfinite(one_for_all(logits, logits, targets=torch.tensor([2])))
    assert simkd(maps, maps) == 0


def _network(width: int, end: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(width)
    body = nn.Conv2d(1, width, 3, padding=1), nn.ReLU()
    if end is not None:
        return nn.Sequential(*body, end)
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))


def test_in_a_distiller() -> None:
    """Classes would not be built for the taps, or the classifier be given to the optimizer."""
    batch = torch.randn(8, 1, 6, 6), torch.arange(8) % 3
    teacher, task = _network(6), lb.tasks.Classification(3)
    matches = [
        lb.Match("1", "1", SoftmaxRegression, alpha=0.5),
        lb.Match("1", "logits", OneForAll, gamma=1.2),
        lb.Match("logits", "logits", one_for_all),
    ]
    method = lb.Method(tuple(matches))
    distiller = lb.Distiller(teacher, _network(4), task=task, method=method).prepare(batch)
    out = distiller(batch)
    out.loss.backward()
    assert len(out.terms) == 4
    assert all(p.grad is not None for p in distiller.parameters())

    teacher = _network(16)
    student = _network(2, ReusedClassifier(2, 16, 3, factor=8).reuse(teacher[4]))
    match = lb.Match("2.projector", "1", simkd)
    method = lb.Method((match,), label_weight=0.0)
    distiller = lb.Distiller(teacher, student, task=task, method=method).prepare(batch)
    assert not distiller.adapters()
    distiller(batch).loss.backward()
    assert all(p.grad is not None for p in distiller.parameters())
