"""Methods for recommenders and search: lists of items, by hand and in training."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import limbeck as lb
from limbeck.errors import InputError
from limbeck.methods import about, ranking
from limbeck.methods.method import Method
from limbeck.testing import check_method

ITEMS = 6
TASK = lb.tasks.Classification(ITEMS)  # the item that was chosen
NAMES = ["listwise", "margin_mse", "rd", "rrd"]
LOSSES = {
    "listwise": "listwise",
    "margin_mse": "pairwise_margin",
    "rd": "ranking_distillation",
    "rrd": "relaxed_ranking",
}


def made(name: str, **options: Any) -> Method:
    method = getattr(ranking, name)(**options)
    assert isinstance(method, Method)
    return method


def recommender(width: int, scale: float = 1.0) -> nn.Sequential:
    """Score all items for a user's profile."""
    torch.manual_seed(width)
    model = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, ITEMS))
    for parameter in model.parameters():
        parameter.data *= scale
    return model


def users(count: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    profiles = torch.randn(count, 8, generator=generator)
    return profiles, torch.randint(ITEMS, (count,), generator=generator)


def test_the_list_is_complete() -> None:
    """A method that is not in the list would be checked by nothing below."""
    assert sorted(ranking.__all__) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_keeps_the_contract(name: str) -> None:
    """A method would train its teacher, or give a loss that is not finite."""
    check_method(made(name))
    check_method(
        made(name), student=recommender(3), teacher=recommender(9), batch=users(), task=TASK
    )


@pytest.mark.parametrize("name", NAMES)
def test_says_whose_it_is(name: str) -> None:
    """A method without a source could not be checked by anyone."""
    cited = about(name)
    text = inspect.getdoc(getattr(ranking, name)) or ""
    assert cited.family == "ranking"
    assert str(cited.year) in text
    assert made(name).sources == (cited,)


@pytest.mark.parametrize(
    ("name", "weight", "options", "label"),
    [
        ("listwise", 1.0, {"form": "listnet", "temperature": 1.0}, 0.0),
        ("margin_mse", 1.0, {}, 0.0),
        ("rd", 1.0, {"k": 10, "sharpness": 1.0, "mu": 0.1}, 1.0),
        ("rrd", 0.001, {"k": 40}, 1.0),
    ],
)
def test_weights(name: str, weight: float, options: dict[str, Any], label: float) -> None:
    """A weight of another paper would be taken for this one's."""
    method = made(name)
    [match] = method.matches
    assert (match.name, match.weight, match.options) == (LOSSES[name], weight, options)
    assert method.label_weight == label


# -- what they come to


def by_hand(name: str, s: np.ndarray, t: np.ndarray, hybrid: bool) -> float:
    """Return the loss of one list."""
    order = [int(i) for i in np.argsort(-t)]
    if name == "listwise":
        p, q = np.exp(t) / np.exp(t).sum(), np.exp(s) / np.exp(s).sum()
        return float(-(p * np.log(q)).sum())
    if name == "margin_mse":
        return float(np.mean([((s[0] - s[i]) - (t[0] - t[i])) ** 2 for i in range(1, len(s))]))
    if name == "rrd":
        chosen = range(min(40, len(s)))
        return sum(math.log(sum(math.exp(s[j]) for j in order[r:])) - s[order[r]] for r in chosen)
    places = np.exp(-np.arange(min(10, len(s)), dtype=float))
    total = 0.0
    for r, weight in enumerate(places / places.sum()):
        rank = int((s > s[order[r]]).sum())
        if hybrid:
            weight *= max(0.0, math.tanh(0.1 * (rank - r)))
        total += weight * math.log1p(math.exp(-s[order[r]]))
    return total


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("progress", [0.0, 0.19, 0.21, 1.0])
def test_the_term_by_hand(name: str, progress: float) -> None:
    """The teacher's order would be read upside down, or rd's warm-up never end."""
    student, teacher, batch = recommender(3), recommender(9, scale=2.0), users()
    distiller = lb.Distiller(teacher, student, task=TASK, method=made(name))
    distiller.progress = progress
    term = float(distiller(batch).terms[LOSSES[name]])
    s, t = (model(batch[0]).detach().double().numpy() for model in (student, teacher))
    expected = np.mean([by_hand(name, a, b, progress > 0.2) for a, b in zip(s, t, strict=True)])
    assert term == pytest.approx(expected, rel=1e-4)


def test_the_whole_order() -> None:
    """listmle would be listnet under another name."""
    student, teacher, batch = recommender(3), recommender(9), users()
    method = made("listwise", form="listmle")
    term = lb.Distiller(teacher, student, task=TASK, method=method)(batch).terms["listwise"]
    s, t = (model(batch[0]).detach().double().numpy() for model in (student, teacher))
    expected = np.mean([by_hand("rrd", a, b, True) for a, b in zip(s, t, strict=True)])
    assert float(term) == pytest.approx(expected, rel=1e-4)


def test_rd_without_a_warm_up() -> None:
    """A fraction of 0 would mean positions alone for ever."""
    student, teacher, batch = recommender(3), recommender(9), users()
    distiller = lb.Distiller(teacher, student, task=TASK, method=made("rd", warmup=0.0))
    s, t = (model(batch[0]).detach().double().numpy() for model in (student, teacher))
    expected = np.mean([by_hand("rd", a, b, True) for a, b in zip(s, t, strict=True)])
    assert float(distiller(batch).terms["ranking_distillation"]) == pytest.approx(
        expected, rel=1e-4
    )


# -- training


@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_teachers_part(name: str) -> None:
    """A sign would turn the list around."""
    student, teacher, batch = recommender(8), recommender(9, scale=2.0), users(32)
    method = made(name).with_label_weight(0.0)
    distiller = lb.Distiller(teacher, student, task=TASK, method=method)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.02)
    best = teacher(batch[0]).argmax(-1, keepdim=True)
    values, ranks = [], []
    for _ in range(80):
        out = distiller(batch)
        ranks.append(float((out.student.logits > out.student.logits.gather(1, best)).sum()))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        values.append(float(out.terms[LOSSES[name]]))
    assert values[-1] < 0.95 * values[0]
    assert ranks[-1] < 0.75 * ranks[0]


def test_fit_runs_a_recommender() -> None:
    """The loop would not pass the progress on which rd's weights depend."""
    distiller = lb.Distiller(recommender(9), recommender(3), task=TASK, method=made("rd"))
    fitted = lb.fit(distiller, users(32), epochs=3, batch_size=8, precision="fp32")
    assert [record["train"]["ranking_distillation"] > 0 for record in fitted.history] == [True] * 3


# -- what is refused


@pytest.mark.parametrize("name", NAMES)
def test_a_negative_weight_of_the_label(name: str) -> None:
    """It would teach the opposite, in silence."""
    with pytest.raises(InputError, match="0 or above"):
        made(name, lam=-1.0)


@pytest.mark.parametrize("warmup", [-0.1, 1.1])
def test_an_impossible_warm_up(warmup: float) -> None:
    """Training would end before it, unnoticed."""
    with pytest.raises(InputError, match="a fraction, 0 to 1"):
        made("rd", warmup=warmup)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("listwise", {"temperature": 0.0}),
        ("rd", {"k": 0}),
        ("rd", {"sharpness": 0.0}),
        ("rrd", {"k": 0}),
    ],
)
def test_impossible_options_are_told_before_training(name: str, options: dict[str, Any]) -> None:
    """They would be found out in the first epoch."""
    distiller = lb.Distiller(
        recommender(9), recommender(3), task=TASK, method=made(name, **options)
    )
    with pytest.raises(InputError):
        distiller.prepare(users())
