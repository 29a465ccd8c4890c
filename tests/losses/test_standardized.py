"""Losses of rescaled or correlated logits: recorded values, values by hand, loops, the contract."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import recorded_parts
import torch
from recorded import Recorded, cases

from limbeck.losses.levels import multi_level_logit
from limbeck.losses.logits import kl
from limbeck.losses.standardized import (
    dist,
    logit_standardized_kl,
    spherical,
    transformed_teacher,
    weighted_transformed_teacher,
)
from limbeck.testing import check_loss

LOSSES = {
    "dist": dist,
    "logit_standardized_kl": logit_standardized_kl,
    "multi_level_logit": multi_level_logit,
    "spherical": spherical,
    "transformed_teacher": transformed_teacher,
    "weighted_transformed_teacher": weighted_transformed_teacher,
}
RECORDED = [case for name in LOSSES for case in cases(name)]
FORMS = {"rescaled to the teacher's std": "deviation", "layer norm": "layer_norm"}


def as_ours(case: Recorded) -> Recorded:
    """Rename the recorded options that have another name here."""
    options = dict(case.options)
    if "level" in options:
        options["levels"] = [options.pop("level")]
    return dataclasses.replace(case, options=options)


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case.name)
def test_as_recorded(case: Recorded) -> None:
    """Our reading of a formula would differ from its authors'."""
    found = as_ours(case).breaches(LOSSES[case.name.partition("-")[0]])
    assert not without_rounding(found, case.gradient)


def without_rounding(found: list[str], gradient) -> list[str]:
    """Leave out the sum of a gradient that is 0 but for rounding."""
    if "sum" in gradient and abs(gradient["sum"]) < 1e-12 * gradient["abs_sum"]:
        return [breach for breach in found if breach != "gradient's sum"]
    return found


def test_every_record_is_read() -> None:
    """An empty list of cases would pass."""
    assert len(RECORDED) == 4 + 3 + 6 + 0 + 2 + 2


@pytest.mark.parametrize("number", range(4))
def test_spherical_as_recorded(number: int) -> None:
    """Both forms of the authors' code; they have no factor to the paper's form."""
    case = recorded_parts.raw("spherical")[number]
    options = {**case["options"], "form": FORMS[case["options"]["form"]]}
    student, teacher = (recorded_parts.tensor(case["inputs"][k]) for k in ("student", "teacher"))
    student.requires_grad_(True)
    value = spherical(student, teacher, **options)
    found = recorded_parts.breaches(case, value, {"student_gradient": student})
    assert found in ([], ["student_gradient: sum of the gradient"])
    if found:
        recorded = case["student_gradient_checks"]
        assert abs(recorded["sum"]) < 1e-12 * recorded["abs_sum"]


@pytest.mark.parametrize("count", [6, 7])
def test_doubtful_samples_and_classes_in_numpy(count: int) -> None:
    """Their mask only halves a sum; this selects, as the percentile of their code says."""
    generator = torch.Generator().manual_seed(3)
    student, teacher = (
        3 * torch.randn(2, count, 5, generator=generator, dtype=torch.float64)
    ).unbind()

    def soft(x: torch.Tensor, hot: float) -> np.ndarray:
        powers = np.exp(x.numpy() / hot)
        return powers / powers.sum(1, keepdims=True)

    sure = soft(teacher, 1)
    rows = sure.max(1) <= np.percentile(sure.max(1), 50)
    columns = sure.sum(0) <= np.percentile(sure.sum(0), 50)
    assert (rows.sum(), columns.sum()) == ((count + 1) // 2, 3)
    expected = {"instance": 0.0, "batch": 0.0, "class": 0.0}
    for hot in (2.0, 5.0):
        q, p = soft(student, hot), soft(teacher, hot)
        expected["instance"] += hot**2 * (p * np.log(p / q))[rows].sum(1).mean()
        q_rows, p_rows = q[rows], p[rows]
        expected["batch"] += ((q_rows @ q_rows.T - p_rows @ p_rows.T) ** 2).sum() / rows.sum()
        q_cols, p_cols = q[:, columns], p[:, columns]
        expected["class"] += ((q_cols.T @ q_cols - p_cols.T @ p_cols) ** 2).sum() / columns.sum()
    for level, value in expected.items():
        found = multi_level_logit(
            student, teacher, temperatures=[2.0, 5.0], levels=[level], kept="doubtful"
        )
        assert float(found) == pytest.approx(value, rel=1e-9)
    whole = multi_level_logit(student, teacher, temperatures=[2.0, 5.0], kept="doubtful")
    assert float(whole) == pytest.approx(sum(expected.values()), rel=1e-9)


def test_doubtful_rows_of_a_masked_batch() -> None:
    """The median would be that of padding."""
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, 3, 4, 5, generator=generator).unbind()
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]]).bool()
    teacher[~mask] = 100.0
    value = multi_level_logit(student, teacher, kept="doubtful", mask=mask)
    subset = multi_level_logit(student[mask], teacher[mask], kept="doubtful")
    assert torch.isclose(value, subset)


@pytest.mark.parametrize("number", [6, 7, 8])
def test_multi_level_as_trained(number: int) -> None:
    """The authors' training: what it adds up of the levels, temperatures and two views."""
    case = recorded_parts.raw("multi_level_logit")[number]
    inputs = {k: recorded_parts.tensor(v) for k, v in case["inputs"].items()}
    student, strong = (inputs[k].requires_grad_(True) for k in ("student", "student_strong"))
    level = {"loss_kd": "instance", "loss_cc": "class", "loss_bc": "batch"}
    levels = [level[case["options"]["part"]]]

    def ours(own, theirs, *temperatures):
        return multi_level_logit(own, theirs, temperatures=temperatures, levels=levels)

    value = 0.5 * ours(student, inputs["teacher"], 2, 3, 4, 5, 6)
    leaves = {"student_gradient": student}
    if levels == ["instance"]:
        value = value + ours(strong, inputs["teacher_strong"], 3, 4, 5)
        value = value + ours(student, inputs["teacher"], 2, 6)
        leaves["student_strong_gradient"] = strong
    assert not recorded_parts.breaches(case, value, leaves)


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (logit_standardized_kl, {}),
        (logit_standardized_kl, {"temperature": 1.0, "correction": 0}),
        (multi_level_logit, {}),
        (multi_level_logit, {"temperatures": [1.0], "levels": ["batch"]}),
        (multi_level_logit, {"temperatures": [1.0, 0.5], "levels": ["class"]}),
        (multi_level_logit, {"temperatures": [3.0], "levels": ["instance"]}),
        (multi_level_logit, {"kept": "doubtful"}),
        (spherical, {}),
        (spherical, {"multiplier": 5.0}),
        (spherical, {"form": "deviation"}),
        (spherical, {"form": "layer_norm"}),
        (spherical, {"form": "layer_norm", "multiplier": 2.0, "temperature": 1.0}),
        (transformed_teacher, {}),
        (transformed_teacher, {"temperature": 1.0}),
        (weighted_transformed_teacher, {}),
        (weighted_transformed_teacher, {"temperature": 1.5}),
    ],
)
@pytest.mark.parametrize("seed", [0, 5])
def test_keeps_the_contract(loss: object, options: dict[str, object], seed: int) -> None:
    """Masks, chunks, half precision or T² would be wrong without a word."""
    check_loss(loss, seed=seed, compiled=False, **options)


@pytest.mark.parametrize("options", [{}, {"gamma": 0.0}, {"beta": 0.0, "gamma": 3.0}])
@pytest.mark.parametrize("seed", [0, 5])
def test_dist_keeps_the_contract(options: dict[str, float], seed: int) -> None:
    """The same; but its gradient grows with T², since a correlation does not shrink with T."""
    check_loss(dist, seed=seed, compiled=False, **options)


def softmax(row: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    powers = np.exp((row - row.max()) / temperature)
    return powers / powers.sum()


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def looped(name: str, rows: list[tuple[np.ndarray, np.ndarray]], t: float) -> float:
    """The loss of the rows that count."""
    own, theirs = (np.array(side) for side in zip(*rows, strict=True))
    n, classes = own.shape
    if name == "dist":
        q, p = (np.array([softmax(row, t) for row in side]) for side in (own, theirs))
        total = sum(1 - np.corrcoef(q[i], p[i])[0, 1] for i in range(n)) / n
        total += 2 * sum(1 - np.corrcoef(q[:, c], p[:, c])[0, 1] for c in range(classes)) / classes
        return t * t * total
    if name == "multi_level_logit":
        total = 0.0
        for step in (t, t + 1):
            q, p = (np.array([softmax(row, step) for row in side]) for side in (own, theirs))
            total += step**2 * sum(divergence(p[i], q[i]) for i in range(n)) / n
            for i in range(n):
                for j in range(n):
                    total += (q[i] @ q[j] - p[i] @ p[j]) ** 2 / n
            for i in range(classes):
                for j in range(classes):
                    total += (q[:, i] @ q[:, j] - p[:, i] @ p[:, j]) ** 2 / classes
        return total
    total = 0.0
    for s, u in rows:
        if name == "logit_standardized_kl":
            s, u = ((x - x.mean()) / x.std(ddof=1) for x in (s, u))
            total += t * t * divergence(softmax(u, t), softmax(s, t))
        elif name == "spherical":
            s, u = (3.0 * x / math.sqrt(sum(x * x)) for x in (s, u))
            total += t * t * divergence(softmax(u, t), softmax(s, t))
        else:
            powers = softmax(u) ** (1 / t)
            weight = powers.sum() if name == "weighted_transformed_teacher" else 1.0
            total += weight * divergence(powers / powers.sum(), softmax(s))
    return total / n


@pytest.mark.parametrize("temperature", [1.0, 3.5])
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_against_a_loop(name: str, tokens: bool, temperature: float) -> None:
    """Vectorised code would correlate the wrong way, or count masked tokens."""
    numbers = np.random.default_rng(3)
    shape = (3, 4, 7) if tokens else (5, 7)
    student, teacher = (numbers.normal(size=shape) * 2 for _ in range(2))
    mask = numbers.random(shape[:-1]) < 0.6 if tokens else np.ones(5, bool)
    rows = list(zip(student[mask], teacher[mask], strict=True))
    options = {"temperature": temperature}
    if name == "multi_level_logit":
        options = {"temperatures": [temperature, temperature + 1]}
    options |= {"dist": {"gamma": 2.0}, "spherical": {"multiplier": 3.0}}.get(name, {})
    value = LOSSES[name](
        torch.from_numpy(student),
        torch.from_numpy(teacher),
        mask=torch.from_numpy(mask),
        **options,
    )
    tolerance = 1e-5 if name == "dist" else 1e-6  # their eps beside norms and deviations
    assert float(value) == pytest.approx(looped(name, rows, temperature), rel=tolerance)


@pytest.mark.parametrize("name", ["dist", "multi_level_logit"])
def test_tokens_are_rows(name: str) -> None:
    """A sequence's tokens would be correlated apart from the others of the batch."""
    student, teacher = (torch.randn(3, 4, 5, dtype=torch.float64) for _ in range(2))
    flat = LOSSES[name](student.view(12, 5), teacher.view(12, 5))
    assert torch.isclose(LOSSES[name](student, teacher), flat, rtol=1e-12)


def test_standardized_by_hand() -> None:
    """The deviation would have the other divisor, or the temperature come first."""
    student = torch.tensor([[0.0, 5.0]], dtype=torch.float64)  # z = ∓1/√2, or ∓1
    teacher = torch.tensor([[9.0, 1.0]], dtype=torch.float64)
    for correction, z in ((1, math.sqrt(0.5)), (0, 1.0)):
        p = 1 / (1 + math.exp(-2 * z / 3))
        value = logit_standardized_kl(student, teacher, temperature=3.0, correction=correction)
        assert float(value) == pytest.approx(9 * (2 * p - 1) * 2 * z / 3, rel=1e-6)


@pytest.mark.parametrize("form", ["norm", "deviation", "layer_norm"])
def test_spherical_does_not_mind_the_size(form: str) -> None:
    """How confident the student is would still be taught."""
    student, teacher = (torch.randn(4, 6, dtype=torch.float64) for _ in range(2))
    for multiplier in (None, 2.5):
        values = [
            spherical(scale * student, teacher, form=form, multiplier=multiplier)
            for scale in (1.0, 9.0)
        ]
        assert torch.isclose(*values, rtol=1e-5)


def test_spherical_without_a_multiplier_leaves_the_teacher() -> None:
    """The teacher's logits as they are, the student's at their length."""
    student, teacher = (torch.randn(4, 6, dtype=torch.float64) for _ in range(2))
    scale = np.linalg.norm(teacher.numpy(), axis=1) / np.linalg.norm(student.numpy(), axis=1)
    expected = kl(student * torch.from_numpy(scale)[:, None], teacher, temperature=3.0)
    value = spherical(student, teacher, temperature=3.0)
    assert torch.isclose(value, expected, rtol=1e-10)


def test_transformed_at_one_is_kl() -> None:
    """At T = 1 both are plain KL, the weight being the sum of the probabilities."""
    student, teacher = (torch.randn(4, 6, dtype=torch.float64) for _ in range(2))
    expected = kl(student, teacher)
    for loss in (transformed_teacher, weighted_transformed_teacher):
        assert torch.isclose(loss(student, teacher, temperature=1.0), expected, rtol=1e-12)


def test_levels_add_up() -> None:
    """A level or a temperature would be left out, or averaged."""
    student, teacher = (torch.randn(4, 6, dtype=torch.float64) for _ in range(2))
    parts = [
        multi_level_logit(student, teacher, temperatures=[t], levels=[level])
        for t in (2.0, 3.0, 4.0, 5.0, 6.0)
        for level in ("instance", "batch", "class")
    ]
    assert torch.isclose(multi_level_logit(student, teacher), sum(parts), rtol=1e-12)


@pytest.mark.parametrize("loss", LOSSES.values())
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("constant", ["both", "student", "teacher"])
def test_constant_rows(loss, rows: int, classes: int, constant: str) -> None:
    """A zero-initialised head, a single row or class: norms and deviations of 0."""
    student, teacher = torch.randn(rows, classes), torch.randn(rows, classes)
    if constant != "teacher":
        student = torch.zeros(rows, classes)
    if constant != "student":
        teacher = torch.ones(rows, classes)
    student.requires_grad_(True)
    value = loss(student, teacher)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize(
    "name", ["dist", "multi_level_logit", "transformed_teacher", "weighted_transformed_teacher"]
)
def test_excluded_classes(name: str) -> None:
    """Teachers that rule classes out (logit −∞) would make the loss or its gradient NaN."""
    teacher = torch.randn(4, 5)
    teacher[:, 3:] = -torch.inf
    student = torch.randn(4, 5, requires_grad=True)
    value = LOSSES[name](student, teacher)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("loss", LOSSES.values())
def test_refuses_what_does_not_fit(loss) -> None:
    """Broadcasting would compare other things."""
    with pytest.raises(ValueError, match="the same shape"):
        loss(torch.randn(4, 10), torch.randn(4, 1))
    for shape in ((2,), (2, 3), (5, 2)):
        with pytest.raises(ValueError, match="one mask entry per sample or token"):
            loss(torch.randn(2, 5, 4), torch.randn(2, 5, 4), mask=torch.ones(shape))


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_refuses_an_impossible_temperature(name: str) -> None:
    """T = 0 gives NaN; a negative one teaches the opposite."""
    options = {"temperatures": [2.0, 0.0]} if name == "multi_level_logit" else {"temperature": -1}
    with pytest.raises(ValueError, match="temperature"):
        LOSSES[name](torch.randn(2, 3), torch.randn(2, 3), **options)


@pytest.mark.parametrize(
    ("loss", "options", "said"),
    [
        (multi_level_logit, {"levels": ["instances"]}, "did you mean 'instance'"),
        (multi_level_logit, {"levels": []}, "at least one of each"),
        (multi_level_logit, {"temperatures": []}, "at least one of each"),
        (spherical, {"form": "norms"}, "did you mean 'norm'"),
    ],
)
def test_refuses_unknown_options(loss, options: dict[str, object], said: str) -> None:
    """A typing error would leave a term out, or choose another form."""
    with pytest.raises(ValueError, match=said):
        loss(torch.randn(2, 3), torch.randn(2, 3), **options)
