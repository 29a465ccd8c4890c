"""Methods are papers as data: matches, a label's weight, a citation."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limbeck as lb
from limbeck import losses, methods
from limbeck.errors import InputError
from limbeck.losses import schedules
from limbeck.methods import About, Match, Method, about, as_method, described
from limbeck.testing import check_method

# Those of this file; the others have files of their own, named after their modules.
METHODS = [
    "at",
    "fitnets",
    "hard_label",
    "kd",
    "logit_mse",
    "none",
    "probability_mse",
    "soft_hard",
    "sp",
]
# The names that are fixed, by chapter.
CHAPTERS = {
    "response": (
        "binary dist distilbert dkd hard_label jensen_shannon kd label_refinement logit_mse lskd "
        "mlkd nkd none policy probability_mse reverse_kl skd skewed_kl skewed_reverse_kl soft_hard "
        "tfkd total_variation ttm uld uskd wsld wttm"
    ),
    "feature": (
        "ab at block_wise cat cwd fitnets freekd fsp ft mgd minilm nst ofa ofd pkd "
        "review simkd srrl tinybert vid"
    ),
    "relation": "cc cka ickd pkt rkd sp",
    "contrast": "affinity crd prototype sskd",
    "sequence": "ctc ctc_sequence minillm seqkd",
    "ranking": "listwise margin_mse rd rrd",
    "dense": "cwd_logits detection fgd ld segmentation set_detection",
    "adaptive": "afd confidence_weighted ctkd sample_temperature semckd uncertainty_weighted",
}


def test_the_list_is_the_list() -> None:
    """A method that fell out of the registry would be checked by nothing below."""
    everything = sorted(name for names in CHAPTERS.values() for name in names.split())
    assert methods.names() == everything
    assert set(everything) <= set(methods.__all__)
    assert len(everything) >= 45
    for family, names in CHAPTERS.items():
        assert {about(name).family for name in names.split()} == {family}


@pytest.mark.parametrize("name", METHODS)
def test_keeps_the_contract(name: str) -> None:
    """A method would train its teacher, or leave its own adapters untrained."""
    check_method(methods.get(name)())


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("kd", {"temperature": 1.0, "alpha": 1.0}),
    ("kd", {"alpha": 0.0}),
    ("soft_hard", {"alpha": 0.0}),
    ("hard_label", {"alpha": 1.0}),
    ("logit_mse", {"lam": 0.0}),
    ("probability_mse", {"lam": 0.0, "temperature": 4.0}),
    ("at", {"student": ["0"], "teacher": ["3"], "weight": 1.0}),
    ("fitnets", {"student": "0", "teacher": "3"}),
    ("sp", {"student": "penultimate", "teacher": "logits"}),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_keeps_the_contract_with_options(name: str, options: dict[str, Any]) -> None:
    """An option at the end of its range would leave nothing to learn from."""
    check_method(methods.get(name)(**options))


@pytest.mark.parametrize("name", METHODS)
def test_has_a_citation(name: str) -> None:
    """A method without a source cannot be checked by anyone."""
    cited = about(name)
    assert cited.family in ("response", "feature", "relation")
    assert cited.needs in ("logits", "features", "nothing")
    assert cited.authors
    assert 1990 < cited.year <= 2026
    assert cited.source or name == "none"
    text = inspect.getdoc(methods.get(name)) or ""
    assert str(cited.year) in text or name == "none"
    assert ">>> " in text
    assert str(cited).startswith(f"{cited.authors} {cited.year}")
    assert methods.get(name)().name == name


def test_the_catalogue() -> None:
    """`limbeck methods` would leave one out, or print another's text."""
    found = methods.catalogue()
    assert sorted(found) == methods.names()
    for name, entry in found.items():
        assert entry["name"] == name
        assert str(entry["text"]).startswith(f"{name}(")
        assert len(str(entry["summary"])) > 20


def test_unknown_names_get_near_ones() -> None:
    """A typing error in a recipe would end in a KeyError."""
    with pytest.raises(InputError, match="did you mean 'fitnets'"):
        methods.get("fitnet")


# -- what they come to


def by_hand(name: str, s: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """Return the loss of a method with its defaults, as its paper writes it."""
    label = F.cross_entropy(s, y)

    def kl(temperature: float) -> Tensor:
        p, q = (F.softmax(x / temperature, 1) for x in (t, s))
        return temperature**2 * (p * (p / q).log()).sum(1).mean()

    if name == "kd":
        return 0.1 * label + 0.9 * kl(4.0)
    if name == "soft_hard":
        entropy = -(F.softmax(t / 4, 1) * F.log_softmax(t / 4, 1)).sum(1).mean()
        return 0.5 * label + 0.5 * (kl(4.0) + 16 * entropy)
    if name == "logit_mse":
        return 0.5 * label + ((s - t) ** 2).sum(1).mean()
    if name == "probability_mse":
        return 0.05 * label + ((F.softmax(s, 1) - F.softmax(t, 1)) ** 2).sum(1).mean()
    if name == "hard_label":
        return 0.5 * label + 0.5 * F.cross_entropy(s, t.argmax(1))
    return label


@pytest.mark.parametrize("name", [n for n in METHODS if about(n).needs in ("logits", "nothing")])
def test_the_whole_loss(name: str) -> None:
    """The shares of label and teacher would be exchanged, or T² be there twice."""
    student, teacher = nn.Linear(4, 5), nn.Linear(4, 5)
    x, y = torch.randn(8, 4), torch.randint(5, (8,))
    distiller = lb.Distiller(
        teacher, student, task=lb.tasks.Classification(5), method=methods.get(name)()
    )
    expected = by_hand(name, student(x), teacher(x), y)
    found = distiller((x, y)).loss
    assert torch.isclose(found, expected, rtol=1e-5)


def test_feature_methods_match_what_they_say() -> None:
    """The stages, or the weights of the CIFAR-100 benchmark, would be others."""
    [hint] = methods.fitnets().matches
    assert (hint.student, hint.teacher, hint.weight) == ("stage[-2]", "stage[-2]", 100.0)
    assert hint.options == {"features": "mean"}
    attention = methods.at().matches
    assert [m.student for m in attention] == [m.teacher for m in attention]
    assert [m.student for m in attention] == ["stage[-3]", "stage[-2]", "stage[-1]"]
    assert {m.weight for m in attention} == {1000.0}
    [similar] = methods.sp().matches
    assert (similar.student, similar.weight) == ("stage[-1]", 3000.0)
    for made in (methods.fitnets(), methods.at(), methods.sp()):
        assert made.label_weight is None


# -- adding them up


def test_adding_up() -> None:
    """One of the two would be lost, or the label be counted twice."""
    both = methods.kd() + methods.at()
    assert both.name == "kd + at"
    assert len(both.matches) == 4
    assert both.label_weight == pytest.approx(0.1)
    assert (methods.at() + methods.kd()).label_weight == pytest.approx(0.1)
    assert (methods.at() + methods.sp()).label_weight is None
    assert (methods.none() + methods.at()).label_weight == 1.0
    assert (methods.kd(alpha=0.5) + methods.hard_label(alpha=0.5)).label_weight == 0.5
    check_method(both)
    check_method(methods.at() + methods.sp() + methods.fitnets())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (methods.kd(), methods.none()),
        (methods.kd(alpha=0.9), methods.soft_hard(alpha=0.9)),
        (methods.at().with_label_weight(0.3), methods.kd()),
    ],
)
def test_methods_that_disagree_about_the_label(one: Method, other: Method) -> None:
    """The last one's weight would win, in silence."""
    with pytest.raises(InputError, match="weigh the label differently"):
        one + other
    agreed = one.with_label_weight(0.5) + other.with_label_weight(0.5)
    assert agreed.label_weight == 0.5


def test_without_a_label_weight_the_label_counts_once() -> None:
    """A feature method alone would learn no classes."""
    x, y = torch.randn(6, 4), torch.randint(5, (6,))
    student = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5))
    method = Method((Match("0", "0", losses.hint, weight=0.0),))
    teacher = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5))
    distiller = lb.Distiller(teacher, student, task=lb.tasks.Classification(5), method=method)
    found = distiller.prepare((x, y))((x, y))
    assert torch.isclose(found.loss, F.cross_entropy(student(x), y))


def test_weights_that_follow_a_schedule() -> None:
    """A schedule would be added as a number, or stay where it began."""
    x, y = torch.randn(6, 4), torch.randint(5, (6,))
    student, teacher = nn.Linear(4, 5), nn.Linear(4, 5)
    match = Match("logits", "logits", losses.kl, weight=schedules.linear(1.0, 0.0))
    method = Method((match,), schedules.linear(0.0, 2.0))
    distiller = lb.Distiller(teacher, student, task=lb.tasks.Classification(5), method=method)
    label, divergence = F.cross_entropy(student(x), y), losses.kl(student(x), teacher(x))
    for progress in (0.0, 0.25, 1.0):
        distiller.progress = progress
        expected = 2 * progress * label + (1 - progress) * divergence
        assert torch.isclose(distiller((x, y)).loss, expected, atol=1e-6)


@pytest.mark.parametrize(
    "given", [Match("logits", "logits", losses.kl), [Match("logits", "logits", losses.kl)] * 2]
)
def test_matches_as_a_method(given: Any) -> None:
    """Users write a match, or a list of them."""
    method = as_method(given)
    assert len(method.matches) == (1 if isinstance(given, Match) else 2)
    assert method.label_weight is None
    assert as_method(method) is method


@pytest.mark.parametrize("given", [[losses.kl], ["kd"], "kd"])
def test_what_is_no_method(given: Any) -> None:
    """A name in place of a method would be taken letter by letter."""
    with pytest.raises(InputError, match="a Method, or a list of Match"):
        as_method(given)


def test_two_matches_with_one_name() -> None:
    """One term would overwrite the other in logs, and in the sum."""
    twice = [Match("logits", "logits", losses.kl, weight=w) for w in (1.0, 3.0)]
    student, teacher = nn.Linear(4, 5), nn.Linear(4, 5)
    x, y = torch.randn(6, 4), torch.randint(5, (6,))
    task = lb.tasks.Classification(5)
    out = lb.Distiller(teacher, student, task=task, method=twice)((x, y))
    assert sorted(out.terms) == ["kl", "kl 2", "label"]
    expected = F.cross_entropy(student(x), y) + 4 * losses.kl(student(x), teacher(x))
    assert torch.isclose(out.loss, expected)


# -- what is refused at once


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"temprature": 4}, "did you mean 'temperature'"),
        ({"power": 2}, "Known: mask, reduction, temperature"),
    ],
)
def test_wrong_options_of_a_match(options: dict[str, Any], told: str) -> None:
    """They would be found out at the first training step."""
    with pytest.raises(InputError, match=told):
        Match("logits", "logits", losses.kl, **options)


def test_missing_options_of_a_match() -> None:
    """A loss that needs an option of its own would fail at the first step."""

    def loss(student: Tensor, teacher: Tensor, *, targets: Tensor, margin: float) -> Tensor:
        return student.sum() * margin

    with pytest.raises(InputError, match="the loss loss needs margin"):
        Match("logits", "logits", loss)
    match = Match("logits", "logits", loss, margin=1.0)
    assert match.context == ("targets",)


def test_context_that_is_given() -> None:
    """Targets given by hand would be replaced by the batch's."""

    def loss(student: Tensor, teacher: Tensor, *, targets: Tensor) -> Tensor:
        return targets.sum()

    match = Match("logits", "logits", loss, targets=torch.tensor([7]))
    value = match.compare(torch.zeros(1), torch.zeros(1), {"targets": torch.tensor([1])})
    assert value == 7


def test_a_module_as_a_loss() -> None:
    """Options of its forward() would be looked for on the class."""

    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, student: Tensor, teacher: Tensor, *, margin: float = 0.0) -> Tensor:
            return (self.scale * student - teacher).square().mean() + margin

    match = Match("logits", "logits", Learned(), margin=1.0)
    assert match.name == "Learned"
    with pytest.raises(InputError, match="did you mean 'margin'"):
        Match("logits", "logits", Learned(), margins=1.0)
    check_method(match)


def test_names_and_text_of_a_match() -> None:
    """Terms of several layers would have one name in the report."""
    assert Match("logits", "fc", losses.kl).name == "kl"
    assert Match("layer2", "layer3", losses.hint).name == "hint layer2"
    assert Match("layer2", "layer3", losses.hint, name="mine").name == "mine"
    match = Match("a", "b", losses.hint, weight=2.0, adapter="linear", features="mean")
    assert repr(match) == "Match('a', 'b', hint, weight=2.0, adapter='linear', features='mean')"
    scheduled = Match("a", "b", losses.hint, weight=schedules.constant(1.0))
    assert "weight=schedule" in repr(scheduled)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (methods.kd, {"alpha": 1.5}),
        (methods.kd, {"alpha": -0.1}),
        (methods.soft_hard, {"alpha": 2}),
        (methods.hard_label, {"alpha": -1}),
        (methods.at, {"student": ["a"], "teacher": ["a", "b"]}),
        (methods.at, {"student": "layer1", "teacher": "layer1"}),
    ],
)
def test_impossible_options(make: Any, options: dict[str, Any]) -> None:
    """A negative share teaches the opposite; a name is not a list of letters."""
    with pytest.raises(InputError):
        make(**options)


def test_a_method_of_ones_own() -> None:
    """Third parties describe theirs as ours are described."""

    @described(About("A title", "Someone", 2020, "arXiv:0000.00000", "response", "logits"))
    def my_method(weight: float = 2.0) -> Method:
        return Method((Match("logits", "logits", losses.kl, weight=weight),))

    assert my_method(3.0).name == "my_method"
    assert my_method(3.0).matches[0].weight == 3.0
    assert about("my_method").year == 2020
    check_method(my_method())
