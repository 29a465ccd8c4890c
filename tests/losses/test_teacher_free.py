"""Losses without a teacher: recorded values, values by hand, loops, the module, the contract."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import recorded_parts
import torch
import torch.nn.functional as F
from recorded import Recorded, cases
from torch import Tensor

from limbeck.losses.logits import kl
from limbeck.losses.spec import Setting
from limbeck.losses.teacher_free import (
    UniversalSelfKD,
    label_refinement,
    universal_self_kd,
    virtual_teacher,
)
from limbeck.testing import check_loss

LABELS = torch.tensor([2, 0, 1, 4])


@pytest.mark.parametrize("case", cases("virtual_teacher"), ids=lambda case: case.name)
def test_as_recorded(case: Recorded) -> None:
    """Tf-KD's three forms; its self-distillation is plain KL."""
    form, options = case.options["form"], case.options
    if form == "regularization":
        assert (options["alpha"], options["multiplier"]) == (1.0, 1.0)
        loss, own = virtual_teacher, {k: options[k] for k in ("temperature", "probability")}
    elif form == "smoothing":
        loss, own = label_refinement, {"smoothing": options["alpha"], "spread": "others"}
    else:
        loss, own = kl, {"temperature": options["temperature"]}
    inputs = {"teacher": case.inputs["student"], **case.inputs}
    if loss is kl:
        del inputs["targets"]
    assert not dataclasses.replace(case, inputs=inputs, options=own).breaches(loss)


def test_every_record_is_read() -> None:
    """An empty list of cases would pass."""
    assert len(cases("virtual_teacher")) == 4
    assert len(recorded_parts.raw("universal_self_kd")) == 2


def test_virtual_teacher_with_the_label_as_recorded() -> None:
    """The total that the docstring tells how to weigh."""
    [case] = [c for c in recorded_parts.raw("virtual_teacher") if c["to_paper"] is None]
    student, labels = (recorded_parts.tensor(case["inputs"][k]) for k in ("student", "targets"))
    student.requires_grad_(True)
    assert (case["options"]["alpha"], case["options"]["multiplier"]) == (0.95, 100.0)
    label = F.cross_entropy(student, labels)
    value = 0.05 * label + 0.95 * 100 / 10 * virtual_teacher(student, student, targets=labels)
    assert not recorded_parts.breaches(case, value, {"student_gradient": student})


@pytest.mark.parametrize("number", range(2))
def test_self_kd_as_recorded(number: int) -> None:
    """Every part, its gradient to the logits, the features and the head's parameters."""
    case = recorded_parts.raw("universal_self_kd")[number]
    given = {k: recorded_parts.tensor(v) for k, v in case["inputs"].items()}
    student, features = (given[k].requires_grad_(True) for k in ("student", "features"))
    loss = UniversalSelfKD(8, 10).double()
    recorded = recorded_parts.parameters(case)
    loss.load_state_dict({k.replace("fc", "head"): v for k, v in recorded.items()})
    value = loss(
        (student, features), student, targets=given["targets"], form="code", **case["options"]
    )
    leaves = {"student_gradient": student, "features_gradient": features}
    assert not recorded_parts.breaches(case, value, leaves)
    named = {f"fc.{k}": getattr(loss.head, k) for k in ("weight", "bias")}
    assert not recorded_parts.parameter_breaches(case, value, named)


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (virtual_teacher, {}),
        (virtual_teacher, {"temperature": 0.2, "probability": 0.9}),
        (label_refinement, {}),
        (label_refinement, {"spread": "others", "smoothing": 0.3}),
        (label_refinement, {"smoothing": 0.0}),
    ],
)
@pytest.mark.parametrize("seed", [0, 5])
def test_keeps_the_contract(loss: object, options: dict[str, object], seed: int) -> None:
    """Masks, chunks or half precision would be wrong without a word."""
    check_loss(loss, seed=seed, compiled=False, **options)


@pytest.mark.parametrize("form", ["paper", "code"])
@pytest.mark.parametrize("rows", [(6,), (4, 3)])
def test_self_kd_keeps_the_contract(form: str, rows: tuple[int, ...]) -> None:
    """The same; but its soft labels are cut, so that its gradient is not the value's slope."""
    labels = torch.randint(5, rows)
    logits, features = (*rows, 5), (*rows, 8)
    check_loss(
        universal_self_kd, shapes=[((logits, logits), logits)], targets=labels, form=form, mu=1.0
    )
    module = UniversalSelfKD(8, 5)
    check_loss(module, shapes=[((logits, features), logits)], targets=labels, form=form)


def test_label_refinement_is_label_smoothing() -> None:
    """PyTorch spreads over all classes, as the paper does."""
    student = torch.randn(4, 5, dtype=torch.float64)
    value = label_refinement(student, student, targets=LABELS, smoothing=0.2)
    expected = F.cross_entropy(student, LABELS, label_smoothing=0.2)
    assert torch.isclose(value, expected, rtol=1e-12)


def test_virtual_teacher_by_hand() -> None:
    """T divides probabilities, of which the label has a."""
    student = torch.zeros(1, 3, dtype=torch.float64)
    powers = [math.exp(0.8 / 2), math.exp(0.1 / 2), math.exp(0.1 / 2)]
    p = [x / sum(powers) for x in powers]
    value = virtual_teacher(
        student, student, targets=torch.tensor([0]), probability=0.8, temperature=2.0
    )
    assert float(value) == pytest.approx(sum(x * math.log(3 * x) for x in p), rel=1e-12)


def softmax(row: np.ndarray) -> np.ndarray:
    powers = np.exp(row - row.max())
    return powers / powers.sum()


def looped(rows: list[tuple[np.ndarray, np.ndarray, int]], form: str) -> float:
    """USKD with alpha 2, beta 3, mu 0.5, smoothing 0.1."""
    mean = sum(softmax(s)[y] ** 2 for s, _, y in rows) / len(rows)
    total = 0.0
    for s, w_logits, y in rows:
        q, w = softmax(s), softmax(w_logits)
        total -= 2 * (q[y] ** 2 + 1 - mean) * math.log(q[y])
        own = q if form == "paper" else np.log(q)
        scores = [w[c] / (1 - w[y]) + own[c] / (1 - own[y]) for c in range(len(q))]
        rank = [1 + sum(other > score for other in scores) for score in scores]
        rest = [c for c in range(len(q)) if c != y]
        whole, left = sum(1 / rank[c] for c in rest), sum(q[c] for c in rest)
        total -= 3 * sum(1 / rank[c] / whole * math.log(q[c] / left) for c in rest)
        label = [0.1 / len(q) + 0.9 * (c == y) for c in range(len(q))]
        total -= 0.5 * sum(label[c] * math.log(w[c]) for c in range(len(q)))
    return total / len(rows)


@pytest.mark.parametrize("form", ["paper", "code"])
@pytest.mark.parametrize("tokens", [False, True])
def test_self_kd_against_a_loop(form: str, tokens: bool) -> None:
    """Ranks would be upside down; what is masked would enter the mean over the batch."""
    numbers = np.random.default_rng(6)
    shape = (3, 4, 7) if tokens else (5, 7)
    student, weak = (numbers.normal(size=shape) * 2 for _ in range(2))
    labels = numbers.integers(7, size=shape[:-1])
    mask = numbers.random(shape[:-1]) < 0.6 if tokens else np.ones(5, bool)
    rows = list(zip(student[mask], weak[mask], labels[mask], strict=True))
    for hidden in (student, weak):
        hidden[~mask] = np.nan
    labels[~mask] = -100
    tensors = [torch.from_numpy(x).requires_grad_(True) for x in (student, weak)]
    value = universal_self_kd(
        tuple(tensors),
        tensors[0],
        targets=torch.from_numpy(labels),
        alpha=2.0,
        beta=3.0,
        mu=0.5,
        form=form,
        mask=torch.from_numpy(mask),
    )
    value.backward()
    assert float(value.detach()) == pytest.approx(looped(rows, form), rel=1e-9)
    assert all(torch.isfinite(tensor.grad).all() for tensor in tensors)


def test_self_kd_with_nothing_kept_is_zero() -> None:
    """A batch of padding would be NaN."""
    logits = torch.randn(4, 5)
    value = universal_self_kd(
        (logits, logits), logits, targets=LABELS, mask=torch.zeros(4, dtype=torch.bool)
    )
    assert float(value) == 0.0


def test_self_kd_forms_rank_apart() -> None:
    """The option would do nothing."""
    logits, weak = torch.randn(2, 8, 9).unbind()
    labels = torch.arange(8)
    values = [
        universal_self_kd((logits, weak), logits, targets=labels, form=form)
        for form in ("paper", "code")
    ]
    assert not torch.isclose(*values)


def test_the_head_learns_and_is_saved() -> None:
    """A head outside the module's parameters is never trained, moved or saved."""
    loss = UniversalSelfKD(3, 5)
    logits, maps = torch.randn(4, 5), torch.randn(4, 3, 2, 2)
    optimizer = torch.optim.SGD(loss.parameters(), lr=10.0)

    def value() -> Tensor:
        return loss((logits, maps), logits, targets=LABELS, alpha=0.0, beta=0.0, mu=1.0)

    before = value()
    for _ in range(20):
        optimizer.zero_grad()
        value().backward()
        optimizer.step()
    assert value() < before
    copy = UniversalSelfKD(3, 5)
    copy.load_state_dict(loss.state_dict())
    assert torch.equal(
        copy((logits, maps), logits, targets=LABELS, mu=1.0),
        loss((logits, maps), logits, targets=LABELS, mu=1.0),
    )


@pytest.mark.parametrize("features", [(2, 7), (2, 7, 3, 3), (2, 4, 7)])
def test_is_built_for_the_shapes_that_meet(features: tuple[int, ...]) -> None:
    """A distiller could not make the head by itself."""
    logits = torch.randn(2, 4, 5) if len(features) == 3 else torch.randn(2, 5)
    student = logits, torch.randn(features)
    loss = UniversalSelfKD.build(student, logits, Setting(torch.nn.Identity()))
    assert (loss.head.in_features, loss.head.out_features) == (7, 5)
    labels = torch.zeros(logits.shape[:-1], dtype=torch.int64)
    assert torch.isfinite(loss(student, logits, targets=labels))


def test_maps_are_averaged() -> None:
    """A channel's positions would be mixed with other channels."""
    loss, logits, maps = UniversalSelfKD(3, 5), torch.randn(4, 5), torch.randn(4, 3, 2, 6)
    pooled = maps.flatten(2).mean(2)
    values = [loss((logits, x), logits, targets=LABELS, mu=1.0) for x in (maps, pooled)]
    assert torch.isclose(*values)


def test_half_precision_reaches_a_head_of_any_precision() -> None:
    """Widened features would not meet a head in bfloat16."""
    loss, logits = UniversalSelfKD(3, 5).bfloat16(), torch.randn(4, 5).bfloat16()
    value = loss((logits, torch.randn(4, 3).bfloat16()), logits, targets=LABELS)
    assert value.dtype == torch.float32


def self_kd(student: Tensor, teacher: Tensor, **options: object) -> Tensor:
    """USKD whose weak head says what the student says."""
    return universal_self_kd((student, student), teacher, **options)


@pytest.mark.parametrize("loss", [virtual_teacher, label_refinement, self_kd])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("size", [0.0, 6e4])
def test_zeros_extremes_and_one_sample(loss, rows: int, size: float) -> None:
    """The first step of a zero-initialised head, a certain student, a last batch of one."""
    student = (size * torch.eye(4, 5)[:rows]).requires_grad_(True)
    for labels in (torch.arange(rows), torch.arange(rows) + 1):  # right, and wrong
        value = loss(student, student, targets=labels)
        [gradient] = torch.autograd.grad(value, [student])
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("loss", [virtual_teacher, label_refinement, self_kd])
def test_refuses_labels_that_do_not_fit(loss) -> None:
    """Soft labels, or those of another batch, are not indices."""
    logits = torch.randn(4, 5)
    for labels in (LABELS[:3], LABELS.float(), F.one_hot(LABELS)):
        with pytest.raises(ValueError, match="one class index for each"):
            loss(logits, logits, targets=labels)


@pytest.mark.parametrize("loss", [virtual_teacher, label_refinement])
def test_refuses_other_class_counts(loss) -> None:
    """A mistaken tap would go unnoticed."""
    with pytest.raises(ValueError, match="the same shape"):
        loss(torch.randn(4, 5), torch.randn(4, 1), targets=LABELS)


@pytest.mark.parametrize(
    ("loss", "options", "said"),
    [
        (virtual_teacher, {"temperature": 0.0}, "temperature"),
        (virtual_teacher, {"probability": 1.2}, "between 0 and 1"),
        (label_refinement, {"smoothing": -0.1}, "between 0 and 1"),
        (label_refinement, {"spread": "other"}, "did you mean 'others'"),
        (self_kd, {"form": "papers"}, "did you mean 'paper'"),
    ],
)
def test_refuses_impossible_options(loss, options: dict[str, object], said: str) -> None:
    """A probability above 1 or a misspelt form would train something else."""
    logits = torch.randn(4, 5)
    with pytest.raises(ValueError, match=said):
        loss(logits, logits, targets=LABELS, **options)


def test_refuses_a_middle_layer_that_does_not_fit() -> None:
    """Another layer's features would fail deep inside, or be broadcast."""
    loss, logits = UniversalSelfKD(3, 5), torch.randn(4, 5)
    for features in (torch.randn(4, 2), torch.randn(3, 3), torch.randn(4, 6, 3)):
        with pytest.raises(ValueError, match="a middle layer"):
            loss((logits, features), logits, targets=LABELS)
    with pytest.raises(ValueError, match="as many classes"):
        universal_self_kd((logits, torch.randn(4, 6)), logits, targets=LABELS)
    one = torch.randn(4, 1)
    with pytest.raises(ValueError, match="at least two classes"):
        universal_self_kd((one, one), one, targets=torch.zeros(4, dtype=torch.int64))
