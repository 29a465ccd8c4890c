"""Ranking losses against recorded values, enumerated orders, loops and extremes."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from recorded import ORACLES, Recorded, _case, cases
from scipy.special import expit, softmax
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses import ranking, spec_of
from limbeck.losses.wrap import chunked
from limbeck.testing import check_loss

NAMES = sorted(ranking.__all__)
# allRank adds 1e-10 inside its logarithms, which ours does not need.
TOLERANCE = {"listwise-0": 1e-6, "listwise-1": 1e-8}


def loss_of(name: str):
    return getattr(ranking, name)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape) * 2)


def record(name: str, number: int) -> dict:
    return json.loads((ORACLES / f"{name}.json").read_text(encoding="utf-8"))["cases"][number]


@pytest.mark.parametrize(
    "case", cases("listwise") + cases("pairwise_margin"), ids=lambda case: case.name
)
def test_as_recorded(case: Recorded) -> None:
    """A side, a factor or an order would differ from the code that others use."""
    tolerance = TOLERANCE.get(case.name, 1e-9)
    assert not Recorded(**{**vars(case), "tolerance": tolerance}).breaches(
        loss_of(case.name.partition("-")[0])
    )


def test_records_are_there() -> None:
    """A parametrised list that came out empty would pass."""
    assert [len(cases(name)) for name in NAMES] == [2, 1, 2, 1]


def _in_the_teachers_order(count: int, like: Tensor) -> Tensor:
    """Return scores of a teacher whose order is that of the columns."""
    return -torch.arange(count, dtype=like.dtype).expand(len(like), count)


@pytest.mark.parametrize("number", [0, 1])
def test_ranking_distillation_as_recorded(number: int) -> None:
    """Ranks from 0 and positions from 1, weights that sum to one or not: easily confused."""
    given = record("ranking_distillation", number)
    case = _case(f"ranking_distillation-{number}", given)
    options = {"sharpness": given["options"]["sharpness"]}
    if number == 0:
        options["weights"] = "position"
    else:
        options |= {key: given["options"][key] for key in ("mu", "items")}
        options["sampled"] = case.inputs["dynamic_samples"]
    teacher = _in_the_teachers_order(5, case.inputs["student"])
    inputs = {"student": case.inputs["student"], "teacher": teacher}
    changed = Recorded(**{**vars(case), "inputs": inputs, "options": {"k": 5, **options}})
    assert not changed.breaches(ranking.ranking_distillation)


def test_relaxed_ranking_as_recorded() -> None:
    """The uninteresting items would be missing below, or be ranked among themselves."""
    given = record("relaxed_ranking", 0)
    case = _case("relaxed_ranking-0", given)
    student = torch.cat([case.inputs["student"], case.inputs["uninteresting"]], 1)
    parts = [given["student_gradient"], given["uninteresting_gradient"]]
    changed = Recorded(
        "relaxed_ranking-0",
        {"student": student, "teacher": _in_the_teachers_order(11, student)},
        {"k": 5},
        case.value,
        {"full": np.concatenate(parts, 1)},
        case.factor,
    )
    assert not changed.breaches(ranking.relaxed_ranking)


def _likelihood(scores: np.ndarray, order: tuple[int, ...]) -> float:
    """Plackett–Luce: draw one after the other, in proportion to exp(score), without return."""
    chance, left = 1.0, list(range(len(scores)))
    for pick in order:
        chance *= math.exp(scores[pick]) / sum(math.exp(scores[i]) for i in left)
        left.remove(pick)
    return chance


@pytest.mark.parametrize("k", [1, 2, 3, 4, 9])
def test_relaxed_ranking_against_all_orders(k: int) -> None:
    """The likelihood is the sum over every order that begins with the teacher's first k."""
    student, teacher = numbers(3, 4), numbers(3, 4, seed=1)
    expected = 0.0
    for s, t in zip(student.numpy(), teacher.numpy(), strict=True):
        first = tuple(np.argsort(-t)[:k])
        orders = (o for o in itertools.permutations(range(4)) if o[: len(first)] == first)
        expected -= math.log(sum(_likelihood(s, order) for order in orders)) / 3
    assert float(ranking.relaxed_ranking(student, teacher, k=k)) == pytest.approx(expected)
    if k >= 4:
        whole = ranking.listwise(student, teacher, form="listmle")
        assert float(whole) == pytest.approx(expected)


def test_listnet_against_all_orders() -> None:
    """Top-one probabilities are those of all orders that begin with an item."""
    student, teacher = numbers(3, 4), numbers(3, 4, seed=1)
    expected = 0.0
    for s, t in zip(student.numpy(), teacher.numpy(), strict=True):
        first = [np.zeros(4), np.zeros(4)]
        for order in itertools.permutations(range(4)):
            first[0][order[0]] += _likelihood(s, order)
            first[1][order[0]] += _likelihood(t, order)
        expected -= float(first[1] @ np.log(first[0])) / 3
    assert float(ranking.listwise(student, teacher)) == pytest.approx(expected, rel=1e-10)
    warm = ranking.listwise(2 * student, 2 * teacher, temperature=2.0)
    assert float(warm) == pytest.approx(4 * expected, rel=1e-10)


def test_listmle_has_the_factor_t() -> None:
    """Scores twice as large at T = 2 are the same order problem; the value is doubled."""
    student, teacher = numbers(3, 4), numbers(3, 4, seed=1)
    plain = ranking.listwise(student, teacher, form="listmle")
    warm = ranking.listwise(2 * student, teacher, form="listmle", temperature=2.0)
    assert float(warm) == pytest.approx(2 * float(plain), rel=1e-12)


@pytest.mark.parametrize("form", ["listnet", "listmle"])
def test_absent_items_do_not_count(form: str) -> None:
    """Lists are filled up to one length; what fills them would take part."""
    student, teacher = numbers(3, 5), numbers(3, 5, seed=1)
    present = torch.arange(5) < torch.tensor([[5], [3], [0]])
    expected = sum(
        ranking.listwise(student[i : i + 1, :n], teacher[i : i + 1, :n], form=form)
        for i, n in ((0, 5), (1, 3))
    )
    student[~present] = teacher[~present] = torch.nan
    student.requires_grad_(True)
    value = ranking.listwise(student, teacher, form=form, present=present, reduction="sum")
    value.backward()
    assert float(value.detach()) == pytest.approx(float(expected), rel=1e-12)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("negatives", [1, 3])
def test_margins_against_a_loop(negatives: int) -> None:
    """The positive item would be taken from the wrong end."""
    student, teacher = numbers(4, 1 + negatives), numbers(4, 1 + negatives, seed=1)
    squares = [
        ((s[0] - s[i]) - (t[0] - t[i])) ** 2
        for s, t in zip(student.tolist(), teacher.tolist(), strict=True)
        for i in range(1, negatives + 1)
    ]
    value = ranking.pairwise_margin(student, teacher)
    assert float(value) == pytest.approx(sum(squares) / len(squares), rel=1e-12)
    shifted = ranking.pairwise_margin(student + 7, teacher - 2)
    assert float(shifted) == pytest.approx(float(value), rel=1e-9)


@pytest.mark.parametrize("weights", ["hybrid", "position"])
@pytest.mark.parametrize("k", [2, 4, 10])
def test_ranking_distillation_against_a_loop(weights: str, k: int) -> None:
    """The student's ranks are counted within the list where nothing was sampled."""
    student, teacher = numbers(3, 6), numbers(3, 6, seed=1)
    expected, count = 0.0, min(k, 6)
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        order = sorted(range(6), key=lambda i: -t[i])[:k]
        ranks = sorted(range(6), key=lambda i: -s[i])
        places = softmax(-np.arange(1, count + 1) / 2.0)
        for r, item in enumerate(order):
            gap = max(0.0, math.tanh(0.3 * (ranks.index(item) - r)))
            weight = places[r] * (gap if weights == "hybrid" else 1.0)
            expected -= weight * math.log(expit(s[item])) / 3
    value = ranking.ranking_distillation(
        student, teacher, k=k, weights=weights, sharpness=2.0, mu=0.3
    )
    assert float(value) == pytest.approx(expected, rel=1e-10)


def test_a_student_in_the_right_order_is_left_alone() -> None:
    """The second weight is there for this: only what stands too low is pushed."""
    scores = numbers(3, 6)
    assert float(ranking.ranking_distillation(scores, scores)) == 0


@pytest.mark.parametrize("name", NAMES)
def test_only_the_order_counts(name: str) -> None:
    """Teachers with another scale of scores would teach something else (where that is claimed)."""
    student, teacher = numbers(3, 6), numbers(3, 6, seed=1)
    options = {"form": "listmle"} if name == "listwise" else {}
    values = [loss_of(name)(student, t, **options) for t in (teacher, teacher.exp())]
    assert torch.equal(*values) == (name != "pairwise_margin")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("listwise", {}),
        ("listwise", {"temperature": 3.0}),
        ("listwise", {"form": "listmle"}),
        ("listwise", {"form": "listmle", "temperature": 3.0}),
        ("pairwise_margin", {}),
        ("ranking_distillation", {}),
        ("ranking_distillation", {"weights": "position", "k": 3, "sharpness": 4.0}),
        ("relaxed_ranking", {}),
        ("relaxed_ranking", {"k": 2}),
    ],
)
def test_keeps_the_contract(name: str, options: dict[str, object]) -> None:
    """Masks, chunks, accumulation, half precision or T² would be wrong without a word."""
    for seed in (0, 5):
        check_loss(loss_of(name), seed=seed, compiled=False, **options)
    assert spec_of(loss_of(name)).family == "ranking"


def test_sampled_scores_go_with_their_list() -> None:
    """In chunks, or under a mask, a list would be ranked among another list's items."""
    student, teacher, sampled = numbers(6, 5), numbers(6, 5, seed=1), numbers(6, 9, seed=2)
    options = {"sampled": sampled, "items": 50, "mu": 0.3}
    loss, keep = ranking.ranking_distillation, torch.arange(6) % 2 == 0
    whole = loss(student, teacher, **options)
    assert torch.isclose(chunked(loss, 4)(student, teacher, **options), whole)
    kept = loss(student[keep], teacher[keep], **{**options, "sampled": sampled[keep]})
    assert torch.isclose(loss(student, teacher, mask=keep, **options), kept)
    assert not torch.isclose(kept, whole)


OPTIONS = [(name, {}) for name in NAMES] + [("listwise", {"form": "listmle"})]


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_one_list_ties_and_zeros(name: str, options: dict[str, str]) -> None:
    """An untrained student scores all items alike; the last batch can hold one list."""
    for rows in (1, 4):
        student = torch.zeros(rows, 3, requires_grad=True)
        value = loss_of(name)(student, torch.zeros(rows, 3), **options)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize(("name", "options"), [o for o in OPTIONS if o[0] != "pairwise_margin"])
def test_excluded_items(name: str, options: dict[str, str]) -> None:
    """Items ruled out by both (score −∞) would make the loss or its gradient NaN."""
    student, teacher = numbers(4, 5).float(), numbers(4, 5, seed=1).float()
    student[:, 3:] = teacher[:, 3:] = -torch.inf
    student.requires_grad_(True)
    value = loss_of(name)(student, teacher, **{"k": 3} if "ranking" in name else options)
    value.backward()
    assert torch.isfinite(value)
    assert float(value.detach()) < 100
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("name", NAMES)
def test_refuses_other_lists(name: str) -> None:
    """Broadcasting would compare ten items with one."""
    with pytest.raises(InputError, match="the same shape"):
        loss_of(name)(torch.randn(4, 10), torch.randn(4, 1))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("listwise", {"temperature": 0.0}),
        ("listwise", {"present": torch.ones(4, 2)}),
        ("ranking_distillation", {"k": 0}),
        ("ranking_distillation", {"sharpness": 0.0}),
        ("ranking_distillation", {"items": 50}),
        ("ranking_distillation", {"sampled": torch.randn(4, 9)}),
        ("ranking_distillation", {"sampled": torch.randn(3, 9), "items": 50}),
        ("relaxed_ranking", {"k": 0}),
    ],
)
def test_refuses_options_without_meaning(name: str, options: dict[str, object]) -> None:
    """Each would be ignored, or give NaN."""
    with pytest.raises(InputError):
        loss_of(name)(torch.randn(4, 3), torch.randn(4, 3), **options)


def test_margin_needs_a_negative() -> None:
    """The mean over no pairs is NaN."""
    with pytest.raises(InputError, match="at least one negative"):
        ranking.pairwise_margin(torch.randn(4, 1), torch.randn(4, 1))
