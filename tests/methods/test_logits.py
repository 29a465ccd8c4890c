"""Methods over logits: what they come to, by hand, and what they refuse."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import limbeck as lb
from limbeck import methods
from limbeck.errors import InputError
from limbeck.methods import about, divergences, levels, logits
from limbeck.methods.match import Match
from limbeck.methods.method import Method
from limbeck.testing import check_method

TASK = lb.tasks.Classification(5)

# Each method's match as its authors weigh it: weight, options, the label's weight.
AUTHORS: dict[str, tuple[float, dict[str, Any], float]] = {
    "binary": (1.0, {"temperature": 1.0}, 1.0),
    "dist": (1.0, {"beta": 2.0, "gamma": 2.0, "temperature": 4.0}, 1.0),
    "jensen_shannon": (1.0, {"beta": 0.5, "temperature": 1.0}, 0.0),
    "lskd": (9.0, {"temperature": 2.0}, 0.1),
    "mlkd": (0.9, {"temperatures": (2.0, 3.0, 4.0, 5.0, 6.0)}, 0.1),
    "nkd": (1.0, {"gamma": 1.5, "temperature": 1.0}, 1.0),
    "reverse_kl": (1.0, {"temperature": 1.0}, 0.0),
    "skd": (0.9, {"temperature": 4.0, "form": "norm", "multiplier": None}, 0.1),
    "skewed_kl": (1.0, {"alpha": 0.1, "temperature": 1.0}, 0.0),
    "skewed_reverse_kl": (1.0, {"alpha": 0.1, "temperature": 1.0}, 0.0),
    "total_variation": (1.0, {"temperature": 1.0}, 0.0),
    "ttm": (100.0, {"temperature": 10.0}, 1.0),
    "uld": (1.5, {}, 1.0),
    "wsld": (2.5, {"temperature": 2.0}, 1.0),
    "wttm": (3.0, {"temperature": 10.0}, 1.0),
}
NAMES = sorted([*AUTHORS, "dkd"])


def made(name: str, **options: Any) -> Method:
    method = methods.get(name)(**options)
    assert isinstance(method, Method)
    return method


def network(width: int = 4, classes: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, classes))


def samples(count: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 6, generator=generator)
    return inputs, torch.randint(5, (count,), generator=generator)


def test_the_list_is_complete() -> None:
    """A method that is not in the list would be checked by nothing below."""
    assert sorted(logits.__all__ + levels.__all__ + divergences.__all__) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_keeps_the_contract(name: str) -> None:
    """A method would train its teacher, or give a loss that is not finite."""
    check_method(made(name))


@pytest.mark.parametrize("name", NAMES)
def test_says_whose_it_is(name: str) -> None:
    """A method without a source, or with another's, could not be checked by anyone."""
    cited = about(name)
    assert cited.family == "response"
    assert made(name).sources == (cited,)
    text = inspect.getdoc(methods.get(name)) or ""
    assert str(cited.year) in text
    assert cited.source.removeprefix("arXiv:") in text
    assert len(text.partition("\n")[0]) > 20


@pytest.mark.parametrize("name", sorted(AUTHORS))
def test_weights_are_the_authors(name: str) -> None:
    """A weight of another paper would be taken for this one's."""
    weight, options, label = AUTHORS[name]
    method = made(name)
    [match] = method.matches
    assert (match.student, match.teacher) == ("logits", "logits")
    assert (match.weight, match.options) == (weight, options)
    assert method.label_weight == label


def test_dkd_and_its_warm_up() -> None:
    """The teacher would count fully from the first step, or never."""
    method = made("dkd")
    [match] = method.matches
    assert match.options == {"alpha": 1.0, "beta": 8.0, "temperature": 4.0}
    assert method.label_weight == 1.0
    assert callable(match.weight)
    found = [match.weight(epoch / 240) for epoch in (0, 10, 20, 240)]
    assert found == pytest.approx([0.0, 0.5, 1.0, 1.0])
    assert made("dkd", warmup=0).matches[0].weight == 1.0


# -- what they come to


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max())
    found: np.ndarray = powers / powers.sum()
    return found


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * np.log(p / q)).sum())


def by_hand(name: str, s: np.ndarray, t: np.ndarray, y: int) -> float:
    """Return the teacher's part of a method for one sample, weighted, as its paper writes it."""
    q, p, others = softmax(s), softmax(t), np.arange(len(s)) != y
    if name == "dkd":
        q, p = softmax(s / 4), softmax(t / 4)
        target = kl(np.array([p[y], 1 - p[y]]), np.array([q[y], 1 - q[y]]))
        return 16 * (target + 8 * kl(p[others] / (1 - p[y]), q[others] / (1 - q[y])))
    if name == "nkd":
        soft = p[others] / (1 - p[y])
        rest = -(soft * np.log(q[others] / (1 - q[y]))).sum()
        return float(-p[y] * np.log(q[y]) + 1.5 * rest)
    if name == "wsld":
        factor = 1 - np.exp(-np.log(q[y]) / np.log(p[y]))
        return float(2.5 * factor * 4 * -(softmax(t / 2) * np.log(softmax(s / 2))).sum())
    if name == "lskd":
        zs, zt = ((x - x.mean()) / x.std(ddof=1) for x in (s, t))
        return 9 * 4 * kl(softmax(zt / 2), softmax(zs / 2))
    if name == "ttm":
        return 100 * kl(softmax(t / 10), q)
    if name == "wttm":
        return float(3 * (p**0.1).sum() * kl(softmax(t / 10), q))
    if name == "skd":
        rescaled = s / np.linalg.norm(s) * np.linalg.norm(t)
        return 0.9 * 16 * kl(softmax(t / 4), softmax(rescaled / 4))
    if name == "reverse_kl":
        return kl(q, p)
    if name == "jensen_shannon":
        return (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2
    if name == "skewed_kl":
        return kl(p, 0.1 * p + 0.9 * q)
    if name == "skewed_reverse_kl":
        return kl(q, 0.9 * p + 0.1 * q)
    if name == "total_variation":
        return float(abs(p - q).sum() / 2)
    if name == "binary":
        own, theirs = 1 / (1 + np.exp(-s)), 1 / (1 + np.exp(-t))
        return kl(theirs, own) + kl(1 - theirs, 1 - own)
    assert name == "uld"
    return float(1.5 * abs(np.sort(p) - np.sort(q)).sum())


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("dist", "mlkd")])
def test_the_whole_loss(name: str) -> None:
    """The shares of label and teacher would be exchanged, or T² be there twice."""
    torch.manual_seed(1)
    inputs, labels = samples()
    student, teacher, method = network(), network(8), made(name)
    for parameter in teacher.parameters():
        parameter.data *= 3
    distiller = lb.Distiller(teacher, student, task=TASK, method=method)
    distiller.progress = 1.0
    s, t = (model(inputs).detach().double().numpy() for model in (student, teacher))
    expected = np.mean([by_hand(name, *row) for row in zip(s, t, labels.tolist(), strict=True)])
    cross = np.mean([-np.log(softmax(x)[y]) for x, y in zip(s, labels.tolist(), strict=True)])
    assert isinstance(method.label_weight, float)
    whole = expected + method.label_weight * cross
    assert distiller((inputs, labels)).loss.item() == pytest.approx(whole, rel=1e-4)


def test_dist_and_mlkd_over_the_batch() -> None:
    """They would compare within samples alone, or at one temperature."""
    torch.manual_seed(1)
    inputs, labels = samples()
    student, teacher = network(), network(8)
    s, t = (model(inputs).detach().double().numpy() for model in (student, teacher))

    def soft(x: np.ndarray, temperature: float) -> np.ndarray:
        return np.stack([softmax(row / temperature) for row in x])

    def value(name: str) -> float:
        out = lb.Distiller(teacher, student, task=TASK, method=made(name))((inputs, labels))
        [term] = [float(v) for key, v in out.terms.items() if key != "label"]
        return term

    q, p = soft(s, 4), soft(t, 4)
    rows = [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q, p, strict=True)]
    columns = [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q.T, p.T, strict=True)]
    assert value("dist") == pytest.approx(16 * 2 * (np.mean(rows) + np.mean(columns)), rel=1e-3)

    total = 0.0
    for temperature in (2, 3, 4, 5, 6):
        q, p = soft(s, temperature), soft(t, temperature)
        total += temperature**2 * np.mean([kl(a, b) for a, b in zip(p, q, strict=True)])
        total += ((q @ q.T - p @ p.T) ** 2).sum() / 16 + ((q.T @ q - p.T @ p) ** 2).sum() / 5
    assert value("mlkd") == pytest.approx(total, rel=1e-3)


# -- the second view of mlkd


def flipped() -> lb.data.Augmentation:
    return lb.data.Augmentation((lb.data.Flip(1.0),), seed=5)


def pictures(count: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(count)
    inputs = torch.randn(count, 1, 2, 3, generator=generator)
    return {"inputs": inputs, "targets": ids % 5, "id": ids, "view": torch.zeros_like(ids)}


def of_pictures(width: int) -> nn.Sequential:
    torch.manual_seed(width)
    return nn.Sequential(nn.Flatten(), *network(width))


def test_mlkd_on_two_views() -> None:
    """The second view would be compared with the first, or its label forgotten."""
    student, teacher = of_pictures(4), of_pictures(8)
    method = methods.mlkd(kept="doubtful", strong=flipped(), temperatures=(2.0, 3.0))
    out = lb.Distiller(teacher, student, task=TASK, method=method)(pictures())
    images, targets = pictures()["inputs"], pictures()["targets"]
    strong = images.flip(3)
    hot: dict[str, Any] = {"temperatures": (2.0, 3.0)}
    weak_part = lb.losses.multi_level_logit(
        student(images), teacher(images), kept="doubtful", **hot
    )
    strong_part = sum(
        lb.losses.kl(student(strong), teacher(strong), temperature=t) for t in (2.0, 3.0)
    )
    labels = sum(nn.functional.cross_entropy(student(views), targets) for views in (images, strong))
    expected = 0.9 * (weak_part + strong_part) + 0.1 * labels
    assert float(out.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert out.student.logits.shape == (6, 5)
    check_method(method, student=student, teacher=teacher, batch=pictures(), task=TASK)


def test_mlkd_names_its_second_view_as_a_recipe_does() -> None:
    """Only Python could ask for it; or its draws would be those of the first view."""
    method = methods.mlkd(strong=["flip", {"cutout": 2}])
    assert method.views is not None
    assert method.views.augment.seed != 0
    assert [type(step).__name__ for step in method.views.augment.operations] == ["Flip", "Cutout"]
    assert (method + methods.mlkd(strong=["flip", {"cutout": 2}])).views == method.views
    with pytest.raises(InputError, match="different views"):
        method + methods.sskd().with_label_weight(0.1)
    with pytest.raises(InputError, match="augmentation"):
        methods.mlkd(strong=["fliip"])


def test_a_second_view_needs_to_know_its_sample() -> None:
    """It would be another picture each time that it is asked for."""
    method = methods.mlkd(strong=flipped())
    learner = lb.Distiller(of_pictures(8), of_pictures(4), task=TASK, method=method)
    with pytest.raises(InputError, match="without id and view"):
        learner.prepare((pictures()["inputs"], pictures()["targets"]))


def test_mlkd_trains_on_two_views() -> None:
    """The loop's batches would lack what the second view is made from."""
    data = lb.data.as_samples((pictures(16)["inputs"], pictures(16)["targets"]))
    learner = lb.Distiller(
        of_pictures(8), of_pictures(4), task=TASK, method=methods.mlkd(strong=flipped())
    )
    options: dict[str, Any] = {"listener": lb.Silent(), "precision": "fp32"}
    fitted = lb.fit(learner, data, epochs=1, batch_size=8, **options)
    assert "_strong_label" not in fitted.history[0]["train"]
    assert {"label of the second view", "second view"} <= fitted.history[0]["train"].keys()


def test_a_teacher_of_other_classes() -> None:
    """Two vocabularies could not meet, which is what uld is for."""
    inputs, labels = samples()
    student, teacher = network(), network(8, classes=9)
    with pytest.raises(InputError, match="the teacher's logits have the shape"):
        lb.Distiller(teacher, student, task=TASK, method=made("uld"))((inputs, labels))
    method = made("uld", teacher="2")
    out = lb.Distiller(teacher, student, task=TASK, method=method)((inputs, labels))
    p = teacher(inputs).softmax(-1).sort(-1, descending=True).values
    q = student(inputs).softmax(-1).sort(-1, descending=True).values
    distance = (p[:, :5] - q).abs().sum(-1) + p[:, 5:].sum(-1)
    assert torch.isclose(out.terms["universal_logit"], distance.mean())


# -- training


@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_teachers_part(name: str) -> None:
    """A sign or a cut gradient would lead the student away from the teacher."""
    torch.manual_seed(0)
    student, teacher = network(), network(8)
    for parameter in teacher.parameters():
        parameter.data *= 3
    [match] = made(name).matches
    # The teacher's part alone, at full weight, of a teacher that is right.
    alone = Match("logits", "logits", match.loss, name="own", **match.options)
    distiller = lb.Distiller(teacher, student, task=TASK, method=Method((alone,), 0.0))
    optimizer = torch.optim.Adam(student.parameters(), lr=0.02)
    inputs, _ = samples(32)
    labels = teacher(inputs).argmax(-1)
    values = []
    for _ in range(60):
        out = distiller((inputs, labels))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        values.append(float(out.terms["own"]))
    assert values[-1] < 0.95 * values[0]


def test_fit_lets_the_warm_up_end() -> None:
    """The loop would not tell the weight how far it is, and dkd would never begin."""
    torch.manual_seed(0)
    student, teacher = network(), network(8)
    method = made("dkd", warmup=0.5)
    distiller = lb.Distiller(teacher, student, task=TASK, method=method)
    lb.fit(distiller, samples(32), epochs=4, batch_size=8, precision="fp32")
    [match] = method.matches
    assert callable(match.weight)
    assert match.weight(distiller.progress) == 1.0


# -- what is refused


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        *((n, {"alpha": a}, "a share from 0 to 1") for n in ("skd", "reverse_kl") for a in (-1, 2)),
        *(
            (n, {"alpha": 1.5}, "a share from 0 to 1")
            for n in ("jensen_shannon", "skewed_kl", "skewed_reverse_kl", "total_variation")
        ),
        *(
            (n, {"lam": -0.1}, "0 or above")
            for n in ("binary", "dist", "dkd", "lskd", "mlkd", "nkd", "ttm", "uld", "wsld", "wttm")
        ),
        ("dkd", {"warmup": 1.5}, "above 0 and at most 1"),
        ("dkd", {"warmup": -0.1}, "above 0 and at most 1"),
    ],
)
def test_impossible_shares(name: str, options: dict[str, Any], told: str) -> None:
    """A negative share teaches the opposite, in silence."""
    with pytest.raises(InputError, match=told):
        made(name, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((n, {"temperature": 0.0}) for n in NAMES if n not in ("mlkd", "uld")),
        ("mlkd", {"temperatures": (2.0, 0.0)}),
        ("mlkd", {"temperatures": ()}),
        ("jensen_shannon", {"beta": 1.0}),
        ("skewed_kl", {"skew": 1.0}),
        ("skewed_reverse_kl", {"skew": -0.1}),
        ("skd", {"form": "length"}),
    ],
)
def test_impossible_options_are_told_before_training(name: str, options: dict[str, Any]) -> None:
    """They would be found out in the first epoch, or give a loss that is NaN."""
    distiller = lb.Distiller(network(8), network(), task=TASK, method=made(name, **options))
    with pytest.raises(InputError):
        distiller.prepare(samples())


@pytest.mark.parametrize("name", ["reverse_kl", "skewed_kl"])
def test_shares_with_the_label(name: str) -> None:
    """The label would be added to the teacher's share instead of taken from it."""
    method = made(name, alpha=0.7)
    assert method.matches[0].weight == 0.7
    assert method.label_weight == pytest.approx(0.3)
    check_method(method)
