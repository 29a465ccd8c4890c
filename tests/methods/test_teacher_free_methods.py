"""Methods without a teacher: the label, or the student itself, gives the soft label."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limbeck as lb
from limbeck.errors import InputError
from limbeck.methods import about, teacher_free
from limbeck.methods.method import Method
from limbeck.testing import check_method

TASK = lb.tasks.Classification(5)
NAMES = ["label_refinement", "tfkd", "uskd"]


def made(name: str, **options: Any) -> Method:
    method = getattr(teacher_free, name)(**options)
    assert isinstance(method, Method)
    return method


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip


def samples(count: int = 20) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 1, 8, 8, generator=generator), torch.arange(count) % 5


def test_the_list_is_complete() -> None:
    """A method that is not in the list would be checked by nothing below."""
    assert sorted(teacher_free.__all__) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_keeps_the_contract(name: str) -> None:
    """A method would train a teacher that it does not need, or its head would stay idle."""
    check_method(made(name))


@pytest.mark.parametrize("name", NAMES)
def test_says_whose_it_is(name: str) -> None:
    """A method without a source could not be checked by anyone."""
    cited = about(name)
    text = inspect.getdoc(getattr(teacher_free, name)) or ""
    assert str(cited.year) in text
    assert cited.source in text
    assert made(name).sources == (cited,)


@pytest.mark.parametrize("name", NAMES)
def test_needs_no_teacher(name: str) -> None:
    """A teacher would have to be trained, and run, for nothing."""
    method = made(name)
    assert all(match.teachers == () for match in method.matches)
    distiller = lb.Distiller(None, network(), task=TASK, method=method).prepare(samples())
    out = distiller(samples())
    assert out.teacher is None
    assert out.loss.requires_grad


# -- what they come to


def test_tfkd_by_hand() -> None:
    """The student would be softened too, or the label be left out."""
    student, (inputs, labels) = network(), samples()
    found = lb.Distiller(None, student, task=TASK, method=made("tfkd"))((inputs, labels))
    logits = student(inputs)
    virtual = torch.full((20, 5), 0.01 / 4)
    virtual[torch.arange(20), labels] = 0.99
    p = (virtual / 20).softmax(-1)
    divergence = (p * (p.log() - logits.log_softmax(-1))).sum(-1).mean()
    expected = 0.9 * F.cross_entropy(logits, labels) + 0.1 * divergence
    assert torch.isclose(found.loss, expected, rtol=1e-5)


def test_label_refinement_is_label_smoothing() -> None:
    """The hard label would be counted a second time."""
    student, (inputs, labels) = network(), samples()
    found = lb.Distiller(None, student, task=TASK, method=made("label_refinement"))(
        (inputs, labels)
    )
    assert sorted(found.terms) == ["label_refinement"]
    expected = F.cross_entropy(student(inputs), labels, label_smoothing=0.1)
    assert torch.isclose(found.loss, expected)


def test_weights_are_the_authors() -> None:
    """Weights of another data set would be taken for those of ImageNet."""
    method = made("uskd")
    [match] = method.matches
    assert match.student == ("logits", "stage[-2]")
    assert match.options == {"alpha": 1.0, "beta": 0.1, "mu": 0.005, "form": "paper"}
    assert (match.weight, method.label_weight) == (1.0, 1.0)
    assert made("tfkd").label_weight == 0.9
    assert made("label_refinement").matches[0].options == {"smoothing": 0.1, "spread": "all"}


# -- the weak head


def test_the_weak_head_is_built_trained_and_left_behind() -> None:
    """It would never learn, be lost on resuming, or ship with the student."""
    student = network()
    shipped = {name for name, _ in student.named_parameters()}
    distiller = lb.Distiller(None, student, task=TASK, method=made("uskd")).prepare(samples())
    head = {n: p for n, p in distiller.named_parameters() if not n.startswith("student.")}
    assert {n: tuple(p.shape) for n, p in head.items()} == {
        "losses.0.head.weight": (5, 6),
        "losses.0.head.bias": (5,),
    }
    before = {name: p.detach().clone() for name, p in head.items()}
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1)
    distiller(samples()).loss.backward()
    optimizer.step()
    assert all(not torch.equal(p, before[name]) for name, p in head.items())
    other = lb.Distiller(None, network(), task=TASK, method=made("uskd")).prepare(samples())
    other.load_state_dict(distiller.state_dict())
    assert torch.equal(other(samples()).loss, distiller(samples()).loss)
    released = distiller.release()
    assert {name for name, _ in released.named_parameters()} == shipped


@pytest.mark.parametrize("middle", ["stage[-2]", "penultimate", "0"])
def test_the_weak_head_on_other_layers(middle: str) -> None:
    """The layer of the authors, or of a Transformer, could not be named."""
    check_method(made("uskd", middle=middle))


def test_too_many_rows_for_one_answer_are_told() -> None:
    """A row per token would be read as a sample."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(8, 4), nn.Linear(4, 5)

        def forward(self, images: Tensor) -> Tensor:
            tokens: Tensor = self.body(images.flatten(1, 2))
            answer: Tensor = self.head(tokens.mean(1))
            return answer

    method = made("uskd", middle="body")
    distiller = lb.Distiller(None, Tokens(), task=TASK, method=method).prepare(samples())
    with pytest.raises(InputError, match="4 features for each row of logits"):
        distiller(samples())
    check_method(
        made("uskd", middle="penultimate"), student=Tokens(), teacher=Tokens(), batch=samples()
    )


@pytest.mark.parametrize("name", NAMES)
def test_fit_lowers_the_loss(name: str) -> None:
    """A sign would be wrong, or the loop would not know a method without a teacher."""
    distiller = lb.Distiller(None, network(), task=TASK, method=made(name))
    fitted = lb.fit(distiller, samples(40), epochs=8, batch_size=20, precision="fp32",
                    optimizer=lb.distill.optim.optimizer("adamw", lr=1e-2))  # fmt: skip
    first, last = (fitted.history[epoch]["train"] for epoch in (0, -1))
    [term] = [key for key in first if key not in ("loss", "label")]
    assert last["loss"] < first["loss"]
    assert last[term] < first[term] or name == "tfkd"  # an even teacher, against the label


@pytest.mark.parametrize(
    ("name", "options"),
    [("tfkd", {"alpha": 1.1}), ("tfkd", {"alpha": -0.1}), ("uskd", {"lam": -1.0})],
)
def test_impossible_shares(name: str, options: dict[str, Any]) -> None:
    """A negative share teaches the opposite, in silence."""
    with pytest.raises(InputError):
        made(name, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tfkd", {"temperature": 0.0}),
        ("tfkd", {"probability": 1.5}),
        ("label_refinement", {"smoothing": 2.0}),
        ("label_refinement", {"spread": "some"}),
    ],
)
def test_impossible_options_are_told_before_training(name: str, options: dict[str, Any]) -> None:
    """They would be found out in the first epoch."""
    distiller = lb.Distiller(None, network(), task=TASK, method=made(name, **options))
    with pytest.raises(InputError):
        distiller.prepare(samples())
