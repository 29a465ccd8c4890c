"""Divergences against recorded values, SciPy, other formulas of the same number, and extremes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from recorded import ORACLES, Recorded, _case, cases
from scipy.special import rel_entr, softmax
from scipy.stats import bernoulli, entropy, wasserstein_distance
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses import divergences, spec_of
from limbeck.losses.logits import kl
from limbeck.testing import check_loss

NAMES = sorted(divergences.__all__)
TEMPERED = [name for name in NAMES if name not in ("policy", "universal_logit")]
RECORDED = [case for name in NAMES for case in cases(name)]
VOCABULARIES = [((6, 5), (6, 7)), ((6, 7), (6, 5)), ((4, 3, 5), (4, 3, 7)), ((6, 5), (6, 5))]


def loss_of(name: str):
    return getattr(divergences, name)


def numbers(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape) * scale)


def test_records_are_there() -> None:
    """A parametrised list that came out empty would pass."""
    assert {case.name.partition("-")[0] for case in RECORDED} == set(NAMES) - {"skewed_kl"}


@pytest.mark.parametrize(
    "case", [c for c in RECORDED if "form" not in c.options], ids=lambda c: c.name
)
def test_as_recorded(case: Recorded) -> None:
    """Sides, shares, T² or the factor ½ would differ from the authors' code."""
    assert not case.breaches(loss_of(case.name.partition("-")[0]))


def test_gaussian_policies_as_recorded() -> None:
    """The variances would change places; nothing else would show it."""
    (case,) = (c for c in RECORDED if c.options.get("form") == "gaussian")
    own = case.inputs["student_log_std"].requires_grad_(True)
    changed = {**vars(case), "inputs": {**case.inputs, "student_log_std": own}}
    assert not Recorded(**changed).breaches(divergences.policy)
    record = json.loads((ORACLES / "policy.json").read_text(encoding="utf-8"))["cases"][-1]
    theirs = np.asarray(record["student_log_std_gradient"]) * record["to_paper"]
    assert np.allclose(own.grad.numpy(), theirs, rtol=1e-9)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_skewed_kl_as_recorded(number: int) -> None:
    """Their code leaves out the teacher's entropy: the value is the paper's."""
    record = json.loads((ORACLES / "skewed_kl.json").read_text(encoding="utf-8"))["cases"][number]
    paper = {**record, "value": record["value_of_paper"], "to_paper": 1.0}
    assert not _case(f"skewed_kl-{number}", paper).breaches(divergences.skewed_kl)


def test_answers_at_different_places_as_recorded() -> None:
    """Tokens of a prompt would be compared with tokens of an answer."""
    record = json.loads((ORACLES / "universal_logit.json").read_text(encoding="utf-8"))["cases"][2]
    case = _case("universal_logit-2", {**record, "to_paper": 1.0})
    student = case.inputs["student"].requires_grad_(True)
    masks = {  # an answer begins at the last −100 before it, which predicts its first token
        "mask": torch.tensor([[0, 1, 1, 1, 0], [1, 1, 0, 0, 0]]),
        "teacher_mask": torch.tensor([[1, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0, 0]]),
    }
    each = divergences.universal_logit(student, case.inputs["teacher"], reduction="none", **masks)
    value = ((each[0].sum() / 3) + (each[1].sum() / 2)) / 2  # theirs: samples count equally
    assert float(value.detach()) == pytest.approx(record["value"], rel=1e-9)
    value.backward()
    assert np.allclose(student.grad.numpy(), record["student_gradient"], rtol=1e-9, atol=1e-12)
    mean = divergences.universal_logit(student, case.inputs["teacher"], **masks)
    assert float(mean.detach()) == pytest.approx(float(each.detach().sum()) / 5, rel=1e-12)


THIRD = math.log(3)  # softmax of (0, log 3) is (¼, ¾)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("reverse_kl", {}, 0.5 * math.log(2) + 0.5 * math.log(2 / 3)),
        # p = (¼, ¾), q = (½, ½), m = (3/8, 5/8)
        (
            "jensen_shannon",
            {},
            0.5 * (0.25 * math.log(2 / 3) + 0.75 * math.log(6 / 5))
            + 0.5 * (0.5 * math.log(4 / 3) + 0.5 * math.log(4 / 5)),
        ),
        # ⅓ of p and ⅔ of q: m = (5/12, 7/12)
        ("skewed_kl", {"alpha": 1 / 3}, 0.25 * math.log(3 / 5) + 0.75 * math.log(9 / 7)),
        # ⅔ of p and ⅓ of q: m = (⅓, ⅔)
        ("skewed_reverse_kl", {"alpha": 1 / 3}, 0.5 * math.log(3 / 2) + 0.5 * math.log(3 / 4)),
        ("total_variation", {}, 0.25),
        # Bernoulli ½ against ½, and ¾ against ½
        ("binary_kl", {}, 0.75 * math.log(3 / 2) + 0.25 * math.log(1 / 2)),
        ("universal_logit", {}, 0.5),
        ("policy", {"temperature": 1.0}, 0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2)),
        ("policy", {"temperature": 0.5}, 0.1 * math.log(1 / 5) + 0.9 * math.log(9 / 5)),
    ],
)
def test_by_hand(name: str, options: dict[str, float], expected: float) -> None:
    """A value that a reader can check on paper would be off by a factor or a side."""
    student = torch.zeros(1, 2, dtype=torch.float64)
    value = loss_of(name)(student, torch.tensor([[0.0, THIRD]], dtype=torch.float64), **options)
    assert float(value) == pytest.approx(expected, rel=1e-12)


def _scipy(name: str, s: np.ndarray, t: np.ndarray, temperature: float, share: float) -> float:
    q, p = softmax(s / temperature), softmax(t / temperature)
    m = share * p + (1 - share) * q
    if name == "total_variation":
        return temperature * float(max(abs(p[pick].sum() - q[pick].sum()) for pick in _subsets(p)))
    if name == "binary_kl":
        pairs = zip(
            1 / (1 + np.exp(-t / temperature)), 1 / (1 + np.exp(-s / temperature)), strict=True
        )
        each = [rel_entr(bernoulli.pmf([0, 1], a), bernoulli.pmf([0, 1], b)) for a, b in pairs]
        return temperature**2 * float(np.sum(each))
    values = {
        "reverse_kl": entropy(q, p),
        # the mixture's entropy less the mean entropy
        "jensen_shannon": entropy(m) - share * entropy(p) - (1 - share) * entropy(q),
        "skewed_kl": entropy(p, m),
        "skewed_reverse_kl": entropy(q, share * q + (1 - share) * p),
    }
    return temperature**2 * float(values[name])


def _subsets(p: np.ndarray) -> list[list[int]]:
    """All events: total variation is the largest difference of an event's probability."""
    return [[c for c in range(len(p)) if number >> c & 1] for number in range(2 ** len(p))]


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 3.5])
@pytest.mark.parametrize("name", TEMPERED)
def test_against_scipy(name: str, temperature: float, tokens: bool) -> None:
    """Vectorised code would sum over the wrong dimension, or count masked tokens."""
    shape = (3, 4, 7) if tokens else (5, 7)
    student, teacher = numbers(*shape, seed=3), numbers(*shape, seed=4)
    mask = torch.rand(3, 4, generator=torch.Generator().manual_seed(1)) < 0.6 if tokens else None
    share = {"jensen_shannon": "beta", "skewed_kl": "alpha", "skewed_reverse_kl": "alpha"}
    options = {share[name]: 0.3} if name in share else {}
    value = loss_of(name)(student, teacher, temperature=temperature, mask=mask, **options)
    rows = zip(*(_kept(logits, mask).numpy() for logits in (student, teacher)), strict=True)
    expected = np.mean([_scipy(name, s, t, temperature, 0.3) for s, t in rows])
    assert float(value) == pytest.approx(expected, rel=1e-10)


def _kept(logits: Tensor, mask: Tensor | None) -> Tensor:
    return logits if mask is None else logits[mask]


def test_universal_logit_is_a_transport() -> None:
    """Sorted probabilities as points on a line, moved as cheaply as can be (SciPy), times V."""
    student, teacher = numbers(5, 6, seed=5), numbers(5, 9, seed=6)
    value = divergences.universal_logit(
        student, teacher, student_temperature=2.0, teacher_temperature=0.5
    )
    each = []
    for s, t in zip(student.numpy(), teacher.numpy(), strict=True):
        q = np.concatenate([softmax(s / 2), np.zeros(3)])
        each.append(9 * wasserstein_distance(q, softmax(t / 0.5)))
    assert float(value) == pytest.approx(np.mean(each), rel=1e-10)


def test_universal_logit_ignores_the_order_of_the_vocabulary() -> None:
    """Different tokenizers number their tokens differently."""
    student, teacher = numbers(4, 6, seed=1), numbers(4, 6, seed=2)
    shuffled = teacher[:, torch.randperm(6, generator=torch.Generator().manual_seed(0))]
    values = [divergences.universal_logit(student, t) for t in (teacher, shuffled)]
    assert torch.isclose(*values, rtol=1e-12)


def test_universal_logit_compares_the_first_tokens() -> None:
    """A longer answer would be broadcast, or refused."""
    student, teacher = numbers(2, 5, 4), numbers(2, 7, 6, seed=1)
    whole = divergences.universal_logit(student, teacher)
    assert torch.isclose(whole, divergences.universal_logit(student, teacher[:, :5]))
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    masked = divergences.universal_logit(student, teacher, mask=mask)
    assert torch.isclose(masked, divergences.universal_logit(student[mask], teacher[:, :5][mask]))


def test_the_ends_meet_the_plain_divergences() -> None:
    """α = 0 is documented as KL and reverse KL; a small β as β times KL."""
    student, teacher = numbers(5, 7, seed=1), numbers(5, 7, seed=2)
    plain, back = kl(student, teacher), divergences.reverse_kl(student, teacher)
    assert torch.isclose(divergences.skewed_kl(student, teacher, alpha=0.0), plain)
    assert torch.isclose(divergences.skewed_reverse_kl(student, teacher, alpha=0.0), back)
    small, large = (divergences.jensen_shannon(student, teacher, beta=b) for b in (1e-7, 1 - 1e-7))
    assert float(small) == pytest.approx(1e-7 * float(plain), rel=1e-4)
    assert float(large) == pytest.approx(1e-7 * float(back), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_keeps_the_contract(name: str) -> None:
    """Masks, chunks, accumulation, half precision or T² would be wrong without a word."""
    for options in ({}, {"temperature": 3.0} if "universal" not in name else {}):
        check_loss(
            loss_of(name), shapes=VOCABULARIES if name == "universal_logit" else None, **options
        )
    assert spec_of(loss_of(name)).family == "response"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("jensen_shannon", {"beta": 0.1}),
        ("jensen_shannon", {"beta": 0.9}),
        ("skewed_kl", {"alpha": 0.0}),
        ("skewed_kl", {"alpha": 0.5}),
        ("skewed_reverse_kl", {"alpha": 0.0}),
        ("skewed_reverse_kl", {"alpha": 0.5}),
        ("policy", {"temperature": 1.0}),
    ],
)
def test_keeps_the_contract_with_options(name: str, options: dict[str, float]) -> None:
    """An option could break what holds by default."""
    check_loss(loss_of(name), seed=5, compiled=False, **options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_excluded_classes(name: str, dtype: torch.dtype) -> None:
    """A class ruled out (logit −∞) by one side or both would make the loss or its gradient NaN."""
    plain = numbers(4, 5).to(dtype), numbers(4, 5, seed=1).to(dtype)
    for own, theirs in ((slice(5, 5), slice(3, 5)), (slice(4, 5), slice(3, 5)), (slice(3, 5),) * 2):
        student, teacher = (x.clone() for x in plain)
        student[:, own], teacher[:, theirs] = -torch.inf, -torch.inf
        student.requires_grad_(True)
        value = loss_of(name)(student, teacher)
        value.backward()
        assert 0 <= float(value.detach()) < 100
        assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("name", NAMES)
def test_large_logits_and_one_hot_teachers(name: str) -> None:
    """Overflow in float32 and half precision would end a run."""
    for size in (60_000.0, 1e8):
        student = torch.tensor([[size, -size, 0.0], [-size, 0.0, size]], requires_grad=True)
        value = loss_of(name)(student, torch.tensor([[-size, 0, size]]).repeat(2, 1))
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("name", sorted({*NAMES} - {"universal_logit"}))
def test_refuses_other_class_counts(name: str) -> None:
    """Broadcasting would compare ten classes with one."""
    with pytest.raises(InputError, match="the same shape"):
        loss_of(name)(torch.randn(4, 10), torch.randn(4, 1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [0, -1.0])
def test_refuses_an_impossible_temperature(name: str, temperature: float) -> None:
    """T = 0 gives NaN; a negative one teaches the opposite."""
    option = "teacher_temperature" if name == "universal_logit" else "temperature"
    with pytest.raises(InputError, match="temperature"):
        loss_of(name)(torch.randn(2, 3), torch.randn(2, 3), **{option: temperature})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("jensen_shannon", {"beta": 0.0}),
        ("jensen_shannon", {"beta": 1.0}),
        ("skewed_kl", {"alpha": 1.0}),
        ("skewed_kl", {"alpha": -0.1}),
        ("skewed_reverse_kl", {"alpha": 1.5}),
        ("policy", {"student_log_std": torch.zeros(3)}),
        ("policy", {"student_log_std": torch.zeros(3), "form": "gaussian"}),
        ("policy", {"form": "gaussian"}),
    ],
)
def test_refuses_options_without_meaning(name: str, options: dict[str, object]) -> None:
    """At the ends of the range the loss is 0 and teaches nothing."""
    with pytest.raises(InputError):
        loss_of(name)(torch.randn(2, 3), torch.randn(2, 3), **options)


@pytest.mark.parametrize(
    ("student", "teacher", "mask", "teacher_mask"),
    [
        ((4, 5), (3, 5), None, None),
        ((2, 4, 5), (3, 4, 5), None, None),
        ((2, 4, 5), (2, 5), None, None),
        ((2, 4, 5), (2, 6, 5), (2, 6), None),
        ((2, 4, 5), (2, 6, 5), (2, 4), (2, 4)),
        ((4, 5), (4, 6), None, (4,)),
    ],
)
def test_universal_logit_refuses_what_does_not_meet(
    student: tuple, teacher: tuple, mask: tuple | None, teacher_mask: tuple | None
) -> None:
    """A batch or a mask of another size would be broadcast."""
    masks = {
        name: None if shape is None else torch.ones(shape)
        for name, shape in (("mask", mask), ("teacher_mask", teacher_mask))
    }
    with pytest.raises(InputError):
        divergences.universal_logit(torch.randn(student), torch.randn(teacher), **masks)


def test_gaussian_policies_against_an_integral() -> None:
    """A formula of Gaussians is easily off by a half; a sum over a fine grid is not."""
    grid = np.linspace(-30, 30, 200_001)

    def density(mean: float, log_std: float) -> np.ndarray:
        return np.exp(-0.5 * ((grid - mean) / np.exp(log_std)) ** 2 - log_std) / math.sqrt(
            2 * math.pi
        )

    facts = [(0.3, 0.2, -0.5, 0.4), (1.0, -0.3, 0.2, 0.1)]  # teacher's mean, log_std; student's
    expected = sum(
        rel_entr(density(*f[:2]), density(*f[2:])).sum() * (grid[1] - grid[0]) for f in facts
    )
    t, ts, s, ss = (
        torch.tensor([column], dtype=torch.float64) for column in zip(*facts, strict=True)
    )
    spread = {"student_log_std": ss, "teacher_log_std": ts[0]}
    value = divergences.policy(s, t, form="gaussian", **spread)
    assert float(value) == pytest.approx(expected, rel=1e-6)


def test_masked_gaussians_do_not_leak() -> None:
    """NaN in the padding of a log_std would reach the gradient."""
    mean, spread = torch.zeros(2, 3, 2), torch.zeros(2, 3, 2)
    mean[:, 2] = spread[:, 2] = torch.nan
    mean.requires_grad_(True), spread.requires_grad_(True)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    spread_of = {"student_log_std": spread, "teacher_log_std": torch.ones(2, 3, 2)}
    teacher = torch.ones(2, 3, 2)
    value = divergences.policy(mean, teacher, form="gaussian", mask=mask, **spread_of)
    value.backward()
    assert float(value.detach()) == pytest.approx(2 * ((math.e**2 - 1 + 1) / 2 - 1), rel=1e-6)
    assert torch.isfinite(mean.grad).all()
    assert torch.isfinite(spread.grad).all()
