"""Methods of contrast, class centres and affinity: what they say, need, train and leave behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limbeck as lb
from limbeck.errors import InputError
from limbeck.losses.contrast import Contrastive, affinity_mimic
from limbeck.losses.prototypes import Prototypes
from limbeck.methods import about
from limbeck.methods.contrast import affinity, crd, prototype
from limbeck.testing import check_method

SIZE = 12
MEMORY = {"n_data": SIZE, "negatives": 8}
TASK = lb.tasks.Classification(3)
METHODS = {
    "affinity": affinity(),
    "crd": crd(**MEMORY),
    "prototype": prototype(n_classes=3, temperature=0.5),
}


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(SIZE, 1, 8, 8, generator=generator)
    return images, torch.arange(SIZE) % 3, torch.arange(SIZE)


def network(width: int) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4),
        nn.Flatten(), nn.Linear(4 * width, 3),
    )  # fmt: skip


def prepared(method: Any, **more: Any) -> lb.Distiller:
    return lb.Distiller(network(6), network(4), task=TASK, method=method, **more).prepare(batch())


@pytest.mark.parametrize("name", METHODS)
def test_keeps_the_contract(name: str) -> None:
    """A method would train its teacher, or leave its own modules untrained."""
    given = {"student": network(4), "teacher": network(6), "batch": batch(), "task": TASK}
    check_method(METHODS[name], **given)
    check_method(lb.methods.kd() + METHODS[name], **given)


@pytest.mark.parametrize("name", METHODS)
def test_says_what_it_is(name: str) -> None:
    """A method without a source cannot be checked; the label's weight would be set twice."""
    made = METHODS[name]
    assert made.name == name
    assert made.label_weight is None
    assert made.sources == (about(name),)
    assert about(name).family == "contrast"
    costs = {"affinity": "small", "crd": "memory", "prototype": "small"}
    assert about(name).cost == costs[name]


# -- crd


def test_crd_matches_what_the_paper_says() -> None:
    """The weights would be others than those of the published numbers."""
    [match] = crd(n_data=50000).matches
    assert match.loss is Contrastive
    assert (match.student, match.teacher, match.weight) == ("penultimate", "penultimate", 0.8)
    assert match.options == {
        "n_data": 50000,
        "negatives": 16384,
        "tau": 0.07,
        "embedding": 128,
        "momentum": 0.5,
    }
    [match] = crd(10, 0.5, labels=[0, 1] * 5, student="3", teacher="0").matches
    assert (match.student, match.teacher, match.weight) == ("3", "0", 0.5)
    assert match.options["labels"].tolist() == [0, 1] * 5


def test_crd_builds_its_memory() -> None:
    """Options would not reach the memory; a class could be its own negative."""
    options = {"tau": 0.1, "embedding": 5, "momentum": 0.25, "labels": batch()[1]}
    memory = prepared(crd(**MEMORY, **options)).losses[0]
    assert (memory.tau, memory.momentum, memory.negatives) == (0.1, 0.25, 8)
    assert memory.student_bank.shape == memory.teacher_bank.shape == (SIZE, 5)
    assert memory.student_embedding.in_features == 16
    assert memory.teacher_embedding.in_features == 24
    assert memory.size.tolist() == [4] * SIZE


def test_crd_trains_its_embeddings_and_leaves_them_behind() -> None:
    """Layers and memories would stay as they began, be lost on resuming, or ship."""
    distiller = prepared(crd(**MEMORY))
    before = {k: v.clone() for k, v in distiller.losses[0].state_dict().items()}
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.05)
    distiller.train()(batch()).loss.backward()
    optimizer.step()
    after = distiller.losses[0].state_dict()
    assert not any(torch.equal(before[key], after[key]) for key in before)
    other = prepared(crd(**MEMORY))
    other.load_state_dict(distiller.state_dict())
    assert all(torch.equal(v, after[k]) for k, v in other.losses[0].state_dict().items())
    shipped = distiller.release()
    assert shipped.state_dict().keys() == network(4).state_dict().keys()


def test_two_distillers_have_two_memories() -> None:
    """A method is data: what one training remembers would begin the next."""
    method = crd(**MEMORY)
    assert prepared(method).losses[0] is not prepared(method).losses[0]


def test_crd_without_preparing() -> None:
    """The optimizer would never see the embeddings."""
    distiller = lb.Distiller(network(6), network(4), task=TASK, method=crd(**MEMORY))
    with pytest.raises(InputError, match=r"Call distiller\.prepare"):
        distiller(batch())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"n_data": 1}, "two samples or more"),
        ({"n_data": 10, "negatives": 0}, "one negative or more"),
        ({"n_data": 10, "labels": [0, 1]}, "one label for each sample"),
    ],
)
def test_impossible_memories(options: Any, told: str) -> None:
    """There would be nothing to contrast with, found out at the first step."""
    with pytest.raises(InputError, match=told):
        crd(**options)


# -- prototype


def test_prototype_matches_what_it_says() -> None:
    """Options would not reach the centres."""
    [match] = prototype(10).matches
    assert match.loss is Prototypes
    assert (match.student, match.teacher, match.weight) == ("penultimate", "penultimate", 1.0)
    assert match.options == {"n_classes": 10, "temperature": 1.0, "form": "probabilities"}
    method = prototype(3, 0.5, temperature=2.0, form="distances", momentum=0.9)
    centres = prepared(method).losses[0]
    assert (centres.temperature, centres.form, centres.momentum) == (2.0, "distances", 0.9)
    assert centres.prototypes.shape == (3, 1, 24)
    with pytest.raises(InputError, match="two or more"):
        prototype(1)


def test_prototypes_are_the_teacher_s_means() -> None:
    """They would follow the student, or not be kept with the checkpoint."""
    distiller = prepared(prototype(3))
    assert distiller.losses[0].counts.tolist() == [0, 0, 0]
    distiller.train()(batch())
    images, labels, _ = batch()
    features = network(6)[:4](images)
    for number in range(3):
        mean = features[labels == number].mean(0)
        assert torch.allclose(distiller.losses[0].prototypes[number, 0], mean, atol=1e-5)
    other = prepared(prototype(3))
    other.load_state_dict(distiller.state_dict())
    assert torch.equal(other.losses[0].prototypes, distiller.losses[0].prototypes)


# -- affinity


def test_affinity_matches_what_it_says() -> None:
    """One tower would be compared with itself at a scale that hides all others."""
    [match] = affinity().matches
    twice = ("penultimate", "penultimate")
    assert match.loss is affinity_mimic
    assert (match.student, match.teacher, match.weight) == (twice, twice, 1.0)
    assert match.options == {"form": "cross_entropy", "student_scale": 10.0, "teacher_scale": 10.0}
    taps = {"student": ["image", "text"], "teacher": ["a", "b"]}
    [match] = affinity(2.0, form="kl", **taps).matches
    assert (match.student, match.teacher, match.weight) == (("image", "text"), ("a", "b"), 2.0)
    assert match.options == {"form": "kl", "student_scale": 100.0, "teacher_scale": 100.0}
    assert affinity(scale=30).matches[0].options["teacher_scale"] == 30


@pytest.mark.parametrize(
    "options",
    [
        {"student": ["a", "b"]},
        {"student": ["a"] * 3, "teacher": ["b"] * 3},
        {"student": [], "teacher": []},
        {"scale": 0.0},
        {"scale": -1.0},
    ],
)
def test_impossible_affinities(options: Any) -> None:
    """A tower would be left out without a word; a negative scale draws opposites together."""
    with pytest.raises(InputError):
        affinity(**options)


def test_affinity_of_one_tower() -> None:
    """The value would be that of other features, or of one direction only."""
    out = prepared(affinity(form="kl"))(batch())
    own, theirs = (F.normalize(network(w)[:4](batch()[0]), dim=1) for w in (4, 6))
    q, p = (F.softmax(10 * f @ f.T, dim=1) for f in (own, theirs))
    expected = (p * (p / q).log()).sum(1).mean()
    [name] = [name for name in out.terms if name != "label"]
    assert torch.isclose(out.terms[name], expected, rtol=1e-4)


class Towers(nn.Module):
    """A network of two towers, which also classifies."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.image, self.text = nn.Linear(8, width), nn.Linear(8, width)
        self.head = nn.Linear(width, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        image, text = self.image(inputs[:, 0]), self.text(inputs[:, 1])
        return self.head(image + text)


def test_affinity_of_two_towers() -> None:
    """Images would be compared with images."""
    inputs = torch.randn(6, 2, 8, generator=torch.Generator().manual_seed(0))
    given = inputs, torch.arange(6) % 3
    method = affinity(student=["image", "text"], teacher=["image", "text"])
    student, teacher = Towers(4), Towers(6)
    check_method(method, student=Towers(4), teacher=Towers(6), batch=given, task=TASK)
    out = lb.Distiller(teacher, student, task=TASK, method=method).prepare(given)(given)
    sides = [(m.image(inputs[:, 0]), m.text(inputs[:, 1])) for m in (student, teacher)]
    expected = affinity_mimic(*sides)
    assert torch.isclose(out.terms["affinity_mimic image text"], expected, rtol=1e-4)


def test_affinity_with_the_parts_of_clip_kd() -> None:
    """Their projections and their scale would not be trained, or they would ship."""
    given = torch.randn(6, 2, 8), torch.arange(6) % 3
    towers = {"student": ["image", "text"], "teacher": ["image", "text"]}
    method = affinity(form="kl", feature=2000.0, interactive=1.0, **towers)
    student, teacher = Towers(4), Towers(6)
    check_method(method, student=student, teacher=teacher, batch=given, task=TASK)
    out = lb.Distiller(teacher, student, task=TASK, method=method).prepare(given)(given)
    assert set(out.terms) == {"label", "affinity_mimic image text", "TowerFeatures image text"}
    sources = [source.source for source in method.sources]
    assert sources == ["arXiv:2309.12314", "arXiv:2307.12732"]
    with pytest.raises(InputError, match="two taps on each side"):
        affinity(interactive=1.0)


@pytest.mark.parametrize("name", METHODS)
def test_training_lowers_its_term(name: str) -> None:
    """The gradient would lead away from the teacher, or be lost beside the label's."""
    torch.manual_seed(0)
    distiller = prepared(METHODS[name])
    images, labels, ids = batch()
    samples = {"inputs": images, "targets": labels, "id": ids}
    optimizer = lb.distill.optim.optimizer("adam", lr=3e-3)
    terms = []
    for _ in range(2):
        torch.manual_seed(1)
        out = distiller.train()(batch())
        terms += [value for key, value in out.terms.items() if key != "label"]
        more = {"optimizer": optimizer, "listener": lb.Silent(), "precision": "fp32"}
        lb.fit(distiller, samples, epochs=30, batch_size=SIZE, **more)
    assert terms[1] < terms[0]
