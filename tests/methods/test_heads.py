"""Methods through a classifier: the teacher's own, or exits on the student's stages."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limbeck as lb
from limbeck.errors import InputError
from limbeck.losses.exits import ClassActivation, SimKD, SoftmaxRegression
from limbeck.losses.heads import FrozenClassifier
from limbeck.losses.spec import Setting
from limbeck.methods import about
from limbeck.methods.heads import cat, ofa, simkd, srrl
from limbeck.methods.method import Method
from limbeck.students.reuse import reuse_classifier
from limbeck.testing import check_loss, check_method

TASK = lb.tasks.Classification(5)
METHODS: dict[str, Callable[..., Method]] = {"cat": cat, "ofa": ofa, "simkd": simkd, "srrl": srrl}


def network(width: int, *, pools: int = 2) -> nn.Module:
    """Return a convolutional network that averages its last maps before one linear layer."""
    torch.manual_seed(width)
    parts: list[nn.Module] = []
    channels = 3
    for stage in range(3):
        parts += [nn.Conv2d(channels, width << stage, 3, padding=1), nn.ReLU()]
        channels = width << stage
        if stage < pools:
            parts.append(nn.MaxPool2d(2))
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


def images(count: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, 8, 8, generator=generator), torch.arange(count) % 5


def models(name: str) -> tuple[nn.Module, nn.Module]:
    """Return a student and a teacher to which the method applies."""
    student, teacher = network(4), network(8)
    if name == "simkd":
        student = reuse_classifier(student, teacher, images(2)[0])
    return student, teacher


def prepared(name: str, **options: Any) -> lb.Distiller:
    student, teacher = models(name)
    method = METHODS[name](**options)
    torch.manual_seed(1)
    return lb.Distiller(teacher, student, task=TASK, method=method).prepare(images())


def test_the_list_is_complete() -> None:
    """A method that is not in the list would be checked by nothing below."""
    assert sorted(lb.methods.heads.__all__) == sorted(METHODS)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_keeps_the_contract(name: str) -> None:
    """A method would train its teacher, or leave its own modules untrained."""
    student, teacher = models(name)
    check_method(METHODS[name](), student=student, teacher=teacher, batch=images(), task=TASK)


@pytest.mark.parametrize("method", [srrl(), ofa(), srrl(compare="kl"), ofa(form="code")])
def test_keeps_the_contract_on_flattened_maps(method: Method) -> None:
    """Networks that flatten their last maps have features of another number than channels."""
    check_method(method)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_says_where_it_comes_from(name: str) -> None:
    """A method without a source cannot be checked by anyone."""
    cited, text = about(name), inspect.getdoc(METHODS[name]) or ""
    assert cited.source in text
    assert str(cited.year) in text
    assert text.startswith("Match ")
    assert cited.family == "feature"
    assert METHODS[name]().name == name


@pytest.mark.parametrize("name", sorted(METHODS))
def test_lowers_its_own_terms(name: str) -> None:
    """A sign, or a classifier that is noise, would show nowhere else."""
    distiller = prepared(name).train()
    distiller.method = distiller.method.with_label_weight(0.0)
    optimizer = torch.optim.Adam(distiller.parameters(), lr=0.01)
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        out = distiller(images())
        out.loss.backward()
        optimizer.step()
        values.append(float(out.loss.detach()))
    floor = 0.0
    if name == "ofa":  # a cross-entropy, whose least value is not 0
        soft = distiller(images()).teacher.logits.softmax(1)
        aims = soft + F.one_hot(images()[1], 5)
        floor = 4 * float(-(aims * (aims / aims.sum(1, keepdim=True)).log()).sum(1).mean())
    assert values[-1] - floor < 0.7 * (values[0] - floor)


@pytest.mark.parametrize("name", ["ofa", "srrl"])
def test_its_modules_are_trained_saved_and_left_behind(name: str) -> None:
    """A resumed training would begin with new exits, or they would ship."""
    distiller = prepared(name)
    before = {key: value.clone() for key, value in distiller.losses.state_dict().items()}
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.5)
    distiller.train()(images()).loss.backward()
    optimizer.step()
    after = distiller.losses.state_dict()
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    assert {key for key, _ in distiller.losses.named_parameters()} <= changed
    assert not any("classifier" in key for key in changed)
    torch.manual_seed(5)
    other = prepared(name)
    other.load_state_dict(distiller.state_dict())
    assert torch.equal(other.eval()(images()).loss, distiller.eval()(images()).loss)
    shipped = distiller.release()
    assert {type(part) for part in shipped.modules()} == {type(m) for m in network(4).modules()}


# -- SRRL


def test_srrl_is_the_authors_sum_of_means() -> None:
    """Their weight 1 is for means: with sums the logits would drown the label."""
    distiller = prepared("srrl", weight=0.5, alpha=0.3, beta=0.7).eval()
    out, teacher = distiller(images()), distiller.teacher.module
    connector = distiller.losses[0].connector
    own, theirs = connector(out.student["stage[-1]"]).mean((2, 3)), out.teacher["penultimate"]
    parts = F.mse_loss(own, theirs), F.mse_loss(teacher[-1](own), teacher[-1](theirs))
    [term] = [value for key, value in out.terms.items() if key != "label"]
    assert torch.isclose(term, 0.3 * parts[0] + 0.7 * parts[1])
    assert torch.isclose(out.loss, out.terms["label"] + 0.5 * term)


def test_srrl_of_the_paper() -> None:
    """Half the squared distance and the sum over classes are the paper's."""
    distiller = prepared("srrl", form="paper").eval()
    out, teacher = distiller(images()), distiller.teacher.module
    own = distiller.losses[0].connector(out.student["stage[-1]"]).mean((2, 3))
    theirs = out.teacher["penultimate"]
    expected = (own - theirs).square().sum(1).mean() / 2
    expected += (teacher[-1](own) - teacher[-1](theirs)).square().sum(1).mean()
    assert torch.isclose(out.terms["SoftmaxRegression stage[-1]"], expected)


def test_srrl_in_means_leaves_the_divergence() -> None:
    """The divergence is a sum over classes by its nature."""
    made = SoftmaxRegression(3, 4, 5, compare="kl", form="code")
    assert (made.alpha, made.beta) == (0.5, 1.0)
    assert SoftmaxRegression(3, 4, 5, form="code").beta == 0.2
    assert SoftmaxRegression(3, 4, 5).alpha == 1.0


def test_srrl_and_cat_need_the_teacher_itself() -> None:
    """A store has answers and features, but no classifier."""

    class Recorded:
        def knowledge(self, batch: Any, taps: Any) -> Any:
            return lb.Teacher(network(8)).knowledge(batch, taps)

        def fingerprint(self) -> str:
            return "recorded"

    for name in ("srrl", "cat"):
        distiller = lb.Distiller(Recorded(), network(4), task=TASK, method=METHODS[name]())
        with pytest.raises(InputError, match="Give the teacher itself"):
            distiller.prepare(images())


def test_srrl_refuses_tokens() -> None:
    """A convolution would take the samples for channels."""
    setting = Setting(network(4), network(8))
    with pytest.raises(InputError, match="Tap what enters the last linear layer"):
        SoftmaxRegression.build(torch.randn(2, 5, 8), torch.randn(2, 32), setting)
    with pytest.raises(InputError, match="one of its layers: 10"):
        prepared("srrl", classifier="fc")


# -- SimKD


def test_simkd_is_the_mean_squared_error_alone() -> None:
    """A label's gradient would reach the student beside it, or the scale depend on the maps."""
    distiller = prepared("simkd")
    out = distiller(images())
    assert set(out.terms) == {"SimKD stage[-1]"}
    teacher = distiller.teacher.module
    maps = teacher[:-3](images()[0])
    own = distiller.student.student[:-3](images()[0])
    assert torch.isclose(out.loss, F.mse_loss(own, maps))
    with pytest.raises(InputError, match="weigh the label differently"):
        simkd() + lb.methods.kd()


def test_simkd_tells_what_it_needs() -> None:
    """A plain student's classifier would never be trained, and its answer stay random."""
    with pytest.raises(InputError, match=r"Call limbeck\.students\.reuse_classifier"):
        lb.Distiller(network(8), network(4), task=TASK, method=simkd()).prepare(images())


def test_simkd_refuses_another_teacher() -> None:
    """Maps of other channels cannot enter the classifier that was reused."""
    student = reuse_classifier(network(4), network(8), images()[0])
    with pytest.raises(InputError, match="the same teacher"):
        lb.Distiller(network(6), student, task=TASK, method=simkd()).prepare(images())


def test_simkd_teaches_the_answer() -> None:
    """Without a label, the student must come to answer as its teacher does."""
    student, teacher = models("simkd")
    distiller = lb.Distiller(teacher, student, task=TASK, method=simkd()).prepare(images())
    optimizer = torch.optim.Adam(distiller.parameters(), lr=0.01)
    wanted = lb.Teacher(teacher).knowledge({"inputs": images()[0]})["logits"]
    first = F.mse_loss(distiller.answer(images()), wanted)
    for _ in range(100):
        optimizer.zero_grad()
        distiller.train()(images()).loss.backward()
        optimizer.step()
    shipped = distiller.release().eval()
    assert F.mse_loss(shipped(images()[0]), wanted) < 0.1 * first


@pytest.mark.parametrize("pools", [(1, 2), (2, 1)])
def test_simkd_between_sizes(pools: tuple[int, int]) -> None:
    """The larger map is averaged, on whichever side it is."""
    student, teacher = network(4, pools=pools[0]), network(8, pools=pools[1])
    reused = reuse_classifier(student, teacher, images()[0])
    check_method(simkd(), student=reused, teacher=teacher, batch=images(), task=TASK)


def test_simkd_module_keeps_the_contract() -> None:
    """Half precision or a gradient into the teacher would slip in."""
    check_loss(SimKD(), shapes=[((6, 3, 4, 4), (6, 3, 4, 4)), ((6, 3, 4, 4), (6, 3, 8, 2))])


# -- CAT-KD


def test_cat_has_the_authors_weight() -> None:
    """Theirs is for a mean over positions, where the loss has a sum."""
    for resolution in (2, 3):
        distiller = prepared("cat", weight=6.0, resolution=resolution)
        out = distiller(images())
        heads = distiller.student[-1], distiller.teacher.module[-1]
        sides = [
            F.adaptive_avg_pool2d(
                torch.einsum("bchw,kc->bkhw", known["stage[-1]"], head.weight), resolution
            )
            for known, head in zip((out.student, out.teacher), heads, strict=True)
        ]
        assert torch.isclose(out.loss, out.terms["label"] + 6 * F.mse_loss(*sides))
    assert cat().matches[0].weight == 15 / 4


def test_cat_reaches_the_students_classifier() -> None:
    """The activation maps are the classifier's too; a copy of it would not learn."""
    distiller = prepared("cat")
    distiller.method = distiller.method.with_label_weight(0.0)
    distiller(images()).loss.backward()
    assert distiller.student[-1].weight.grad.abs().sum() > 0
    assert not list(distiller.losses.parameters())
    before = distiller(images()).loss
    with torch.no_grad():
        distiller.student[-1].weight.mul_(2)
    assert distiller(images()).loss != before


def test_cat_of_normalized_maps() -> None:
    """The paper's form compares directions: the teacher's scale must not matter."""
    distiller = prepared("cat", normalize=True)
    value = distiller(images()).terms["ClassActivation stage[-1]"]
    with torch.no_grad():
        distiller.student[-1].weight.mul_(3)
    assert torch.isclose(distiller(images()).terms["ClassActivation stage[-1]"], value)


def test_cat_refuses_models_without_activation_maps() -> None:
    """A class has no map where positions have weights of their own."""
    flat = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5))
    with pytest.raises(InputError, match="takes 256 features"):
        lb.Distiller(network(8), flat, task=TASK, method=cat()).prepare(images())
    with pytest.raises(InputError, match="the student's last linear layer 'fc'"):
        prepared("cat", student_classifier="fc")
    named = prepared("cat", student_classifier="10", teacher_classifier="10")
    assert torch.isfinite(named(images()).loss)


def test_class_activation_module_keeps_the_contract() -> None:
    """Half precision, the order of samples or a gradient into the teacher would slip in."""
    torch.manual_seed(0)
    module = ClassActivation(nn.Linear(3, 5), nn.Linear(4, 5))
    check_loss(module, shapes=[((6, 3, 4, 4), (6, 4, 8, 8))])
    assert isinstance(module.classifier, FrozenClassifier)


# -- OFA-KD


def by_hand(logits: Tensor, teacher: Tensor, targets: Tensor, gamma: float, form: str) -> Tensor:
    log_q, p = logits.log_softmax(1), teacher.softmax(1)
    label = F.one_hot(targets, 5)
    if form == "paper":
        weights = label * (1 + p) ** gamma + (1 - label) * p
    else:
        weights = (p + label) ** gamma - label
    return -(weights * log_q).sum(1).mean()


@pytest.mark.parametrize("form", ["paper", "code"])
def test_ofa_by_hand(form: str) -> None:
    """The label would count twice at the end, or an exit hang at the wrong stage."""
    distiller = prepared("ofa", form=form, gamma=1.5, weight=0.5, exit_weight=0.25)
    out = distiller(images())
    taps = ("stage[-3]", "stage[-2]", "stage[-1]")
    answers = [out.student.logits] + [
        loss.exit(out.student[tap].mean((2, 3)))
        for loss, tap in zip(distiller.losses, taps, strict=True)
    ]
    targets = images()[1]
    end, *exits = (by_hand(a, out.teacher.logits, targets, 1.5, form) for a in answers)
    label = F.cross_entropy(out.student.logits, targets) if form == "code" else 0.0
    assert torch.isclose(out.loss, label + 0.5 * end + 0.25 * sum(exits))
    assert ("label" in out.terms) == (form == "code")


def test_ofa_between_families() -> None:
    """Nothing of the teacher but its answer is looked at, so it can be of any kind."""

    class Perceptron(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.GELU())
            self.head = nn.Linear(64, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layers(x))

    teacher = Perceptron()
    check_method(ofa(), student=network(4), teacher=teacher, batch=images(), task=TASK)
    chosen = ofa(student=["4", "7"], gamma=1.2)
    assert [match.students for match in chosen.matches] == [("logits",), ("4",), ("7",)]
    check_method(chosen, student=network(4), teacher=teacher, batch=images(), task=TASK)


@pytest.mark.parametrize(
    ("make", "options"),
    [(cat, {"resolution": 0}), (ofa, {"student": "layer3"}), (srrl, {"weigth": 1})],
)
def test_impossible_options(make: Any, options: dict[str, Any]) -> None:
    """A name would be taken for a list of letters, or a division by zero come late."""
    with pytest.raises((InputError, TypeError)):
        make(**options)
