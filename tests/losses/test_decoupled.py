"""Losses that look at the label: recorded values, values by hand, loops, and the contract."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from recorded import Recorded, cases

from limbeck.losses.decoupled import dkd, nkd, weighted_soft_label
from limbeck.testing import check_loss

LOSSES = {"dkd": dkd, "nkd": nkd, "weighted_soft_label": weighted_soft_label}
RECORDED = [case for name in LOSSES for case in cases(name)]
LOG3 = math.log(3)


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case.name)
def test_as_recorded(case: Recorded) -> None:
    """Our reading of a formula would differ from its authors'."""
    found = case.breaches(LOSSES[case.name.partition("-")[0]])
    if "sum" in case.gradient and abs(case.gradient["sum"]) < 1e-13 * case.gradient["abs_sum"]:
        found = [breach for breach in found if breach != "gradient's sum"]  # 0 but for rounding
    assert not found


def test_every_record_is_read() -> None:
    """An empty list of cases would pass."""
    assert len(RECORDED) == 9


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (dkd, {}),
        (dkd, {"alpha": 0.5, "beta": 2.0, "temperature": 1.0}),
        (dkd, {"alpha": 0.0, "beta": 1.0}),
        (dkd, {"alpha": 1.0, "beta": 0.0}),
        (nkd, {}),
        (nkd, {"gamma": 1.0, "temperature": 4.0}),
    ],
)
@pytest.mark.parametrize("seed", [0, 5])
def test_keeps_the_contract(loss: object, options: dict[str, float], seed: int) -> None:
    """Masks, chunks, half precision or T² would be wrong without a word."""
    check_loss(loss, seed=seed, compiled=False, **options)


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}])
@pytest.mark.parametrize("seed", [0, 5])
def test_weighted_keeps_the_contract(options: dict[str, float], seed: int) -> None:
    """The same; but its weight is cut, so that its gradient is not the value's slope."""
    check_loss(weighted_soft_label, seed=seed, compiled=False, **options)


def softmax(row: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    powers = np.exp((row - row.max()) / temperature)
    return powers / powers.sum()


def looped(name: str, s: np.ndarray, t: np.ndarray, label: int, temperature: float) -> float:
    """One sample's loss, class by class."""
    q, p = softmax(s, temperature), softmax(t, temperature)
    rest = [c for c in range(len(s)) if c != label]
    if name == "dkd":
        total = p[label] * math.log(p[label] / q[label])
        rest_p, rest_q = sum(p[c] for c in rest), sum(q[c] for c in rest)
        total += rest_p * math.log(rest_p / rest_q)
        for c in rest:
            here, there = p[c] / rest_p, q[c] / rest_q
            total += 3.0 * here * math.log(here / there)
        return temperature**2 * total
    plain_q, plain_p = softmax(s), softmax(t)
    if name == "nkd":
        total = -plain_p[label] * math.log(plain_q[label])
        for c in rest:
            here = p[c] / sum(p[k] for k in rest)
            there = q[c] / sum(q[k] for k in rest)
            total -= 1.5 * temperature**2 * here * math.log(there)
        return total
    weight = 1 - math.exp(-math.log(plain_q[label]) / (math.log(plain_p[label]) - 1e-7))
    return -weight * temperature**2 * sum(p[c] * math.log(q[c]) for c in range(len(s)))


@pytest.mark.parametrize("temperature", [1.0, 3.5])
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_against_a_loop(name: str, tokens: bool, temperature: float) -> None:
    """Vectorised code would take the wrong class apart, or count masked tokens."""
    numbers = np.random.default_rng(3)
    shape = (3, 4, 7) if tokens else (5, 7)
    student, teacher = (numbers.normal(size=shape) * 2 for _ in range(2))
    labels = numbers.integers(7, size=shape[:-1])
    mask = numbers.random(shape[:-1]) < 0.6 if tokens else np.ones(5, bool)
    each = [
        looped(name, student[at], teacher[at], int(labels[at]), temperature)
        for at in zip(*np.nonzero(mask), strict=True)
    ]
    labels[~mask] = -100  # what a tokenizer leaves there
    options = {"beta": 3.0} if name == "dkd" else {}
    value = LOSSES[name](
        torch.from_numpy(student),
        torch.from_numpy(teacher),
        targets=torch.from_numpy(labels),
        temperature=temperature,
        mask=torch.from_numpy(mask),
        **options,
    )
    assert float(value) == pytest.approx(sum(each) / len(each), rel=1e-10)


def test_dkd_by_hand() -> None:
    """The target's part and the others' would be mixed up."""
    # target against the rest (½, ½) and (¾, ¼); among the two others (½, ½) and (¾, ¼)
    student = torch.tensor([[math.log(2), 0.0, 0.0]], dtype=torch.float64)
    teacher = torch.tensor([[math.log(12), LOG3, 0.0]], dtype=torch.float64)
    divergence = 0.75 * LOG3 - math.log(2)
    value = dkd(student, teacher, targets=torch.tensor([0]), alpha=10.0, beta=1.0, temperature=1.0)
    assert float(value) == pytest.approx(11 * divergence, rel=1e-12)


def test_dkd_with_the_weights_of_kl_is_kl() -> None:
    """The paper's decomposition: with α = 1 and β = 1 − p_y the two parts are plain KL."""
    numbers = np.random.default_rng(8)
    student, teacher = numbers.normal(size=6) * 2, numbers.normal(size=6) * 2
    q, p = softmax(student, 2.0), softmax(teacher, 2.0)
    value = dkd(
        torch.from_numpy(student)[None],
        torch.from_numpy(teacher)[None],
        targets=torch.tensor([4]),
        alpha=1.0,
        beta=1 - p[4],
        temperature=2.0,
    )
    assert float(value) == pytest.approx(4 * float((p * np.log(p / q)).sum()), rel=1e-10)


def test_dkd_is_precise_where_the_teacher_is_certain() -> None:
    """log(1 − p) of a float32 probability near 1 is −∞ or noise."""
    teacher = torch.tensor([[30.0, 1.0, 0.0]])
    student = torch.tensor([[25.0, 1.0, 0.0]])
    options = {"targets": torch.tensor([0]), "alpha": 1.0, "beta": 0.0, "temperature": 1.0}
    exact = dkd(student.double(), teacher.double(), **options)
    assert float(dkd(student, teacher, **options)) == pytest.approx(float(exact), rel=1e-4)


def test_weight_of_wsld_gets_no_gradient_and_says_who_is_better() -> None:
    """The student would be taught by making its own label worse."""
    teacher = torch.randn(4, 5, dtype=torch.float64)
    student = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3])
    weighted_soft_label(student, teacher, targets=labels, temperature=2.0).backward()
    own, theirs = (x.detach().numpy() for x in (student, teacher))
    expected = np.zeros((4, 5))
    for row in range(4):
        ratio = math.log(softmax(own[row])[row]) / math.log(softmax(theirs[row])[row])
        difference = softmax(own[row], 2.0) - softmax(theirs[row], 2.0)
        expected[row] = (1 - math.exp(-ratio)) * 2.0 * difference / 4
    assert np.allclose(student.grad.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("loss", LOSSES.values())
def test_certain_and_right_on_both_sides(loss) -> None:
    """0/0 in WSLD's weight, or log 0 in a part, would make the gradient NaN."""
    certain = torch.tensor([[6e4, -6e4, -6e4], [-6e4, 6e4, -6e4]])
    student = certain.clone().requires_grad_(True)
    value = loss(student, certain, targets=torch.tensor([0, 1]))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("loss", LOSSES.values())
@pytest.mark.parametrize("rows", [1, 4])
def test_zeros_and_one_sample(loss, rows: int) -> None:
    """The first step of a zero-initialised head, and the last batch of an epoch."""
    student = torch.zeros(rows, 3, requires_grad=True)
    value = loss(student, torch.zeros(rows, 3), targets=torch.zeros(rows, dtype=torch.int64))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("loss", LOSSES.values())
def test_excluded_classes(loss) -> None:
    """Teachers that rule classes out (logit −∞) would make the loss or its gradient NaN."""
    teacher = torch.randn(4, 5)
    teacher[:, 4] = -torch.inf
    student = teacher.flip(0).requires_grad_(True)
    value = loss(student, teacher, targets=torch.tensor([0, 1, 2, 3]))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("loss", LOSSES.values())
@pytest.mark.parametrize(
    ("student", "teacher", "targets", "said"),
    [
        ((4, 10), (4, 1), torch.zeros(4, dtype=torch.int64), "the same shape"),
        ((4, 10), (4, 10), torch.zeros(3, dtype=torch.int64), "one class index for each"),
        ((4, 10), (4, 10), torch.zeros(4, 10, dtype=torch.int64), "one class index for each"),
        ((4, 10), (4, 10), torch.zeros(4), "one class index for each"),
    ],
)
def test_refuses_what_does_not_fit(loss, student, teacher, targets, said: str) -> None:
    """Broadcasting would compare other things, and soft labels are not indices."""
    with pytest.raises(ValueError, match=said):
        loss(torch.randn(student), torch.randn(teacher), targets=targets)


@pytest.mark.parametrize("loss", LOSSES.values())
def test_refuses_an_impossible_temperature(loss) -> None:
    """T = 0 gives NaN; a negative one teaches the opposite."""
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="temperature"):
        loss(torch.randn(2, 3), torch.randn(2, 3), targets=labels, temperature=0.0)


@pytest.mark.parametrize("loss", [dkd, nkd])
def test_refuses_one_class(loss) -> None:
    """There are no other classes: their softmax is NaN."""
    with pytest.raises(ValueError, match="at least two classes"):
        loss(torch.randn(2, 1), torch.randn(2, 1), targets=torch.zeros(2, dtype=torch.int64))
