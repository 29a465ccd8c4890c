"""Self-supervised distillation against records, loops in NumPy and the contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recorded_parts import breaches, raw, tensor
from torch import Tensor

from limbeck.losses import spec_of, views
from limbeck.losses.views import self_supervised, self_supervised_logits
from limbeck.testing import check_loss


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_all_are_declared() -> None:
    """A loss without a paper or a family would slip into the catalogue."""
    losses = set(views.__all__) - {"ViewHead", "telling_apart"}  # its head, and the head's own loss
    assert {spec_of(getattr(views, name)).family for name in losses} == {"contrast"}


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("shaped", [True, False])
def test_self_supervision_as_recorded(number: int, shaped: bool) -> None:
    """Plain and transformed views, or rows and columns, would be exchanged."""
    case = raw("self_supervised")[number]
    student, teacher = (tensor(case["inputs"][side]) for side in ("student", "teacher"))
    student.requires_grad_(True)
    given = [t.unflatten(0, (4, 4)) if shaped else t for t in (student, teacher)]
    kept = torch.zeros(12, dtype=torch.bool)
    kept[case["kept_rows"]] = True  # their argsort breaks ties by chance
    value = self_supervised(*given, temperature=case["options"]["temperature"], kept=kept)
    assert not breaches(case, value, {"student_gradient": student})
    if case["options"]["ratio"] == 1.0:
        assert torch.equal(self_supervised(*given, temperature=0.5, ratio=1.0), value)


def test_logits_of_views_as_recorded() -> None:
    """The plain view would be distilled twice."""
    case = raw("self_supervised")[2]
    x = {k: tensor(v) for k, v in case["inputs"].items()}
    student = x["student_logits"].requires_grad_(True)
    value = self_supervised_logits(student, x["teacher_logits"], targets=x["targets"])
    assert not breaches(case, value, {"student_logits_gradient": student})


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.75, 1.0])
def test_which_views_are_kept(ratio: float) -> None:
    """The worst answers would be kept for the best."""
    scores, right = features(12, 5), torch.arange(12) % 5
    keep = views._trusted(scores, right, ratio).tolist()
    p = torch.softmax(scores, 1).tolist()
    ranked = sorted(
        range(12),
        key=lambda i: (sum(x > p[i][right[i]] for x in p[i]), -p[i][right[i]]),
    )
    good = sum(max(p[i]) == p[i][right[i]] for i in range(12))
    expected = ranked[: good + int(ratio * (12 - good))]
    assert [i for i in range(12) if keep[i]] == sorted(expected)
    assert 0 < good < 12


def test_self_supervision_against_a_loop() -> None:
    """The recorded case keeps what it is told; this one ranks by itself."""
    student, teacher = features(3, 4, 5), features(3, 4, 6, seed=1)
    rows = []
    for x in (unit(student.numpy()), unit(teacher.numpy())):
        cosines = np.array(
            [[x[b, v] @ x[j, 0] for j in range(3)] for b in range(3) for v in (1, 2, 3)]
        )
        powers = np.exp(cosines / 0.5)
        rows.append(powers / powers.sum(1, keepdims=True))
    q, p = rows
    right = [b for b in range(3) for _ in range(3)]
    good = [i for i in range(9) if p[i].argmax() == right[i]]
    expected = np.mean([(p[i] * np.log(p[i] / q[i])).sum() for i in good]) / 4
    value = self_supervised(student, teacher, ratio=0.0)
    assert 0 < len(good) < 9
    assert float(value) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("ratio", [0.0, 0.75, 1.0])
def test_self_supervision_keeps_the_contract(ratio: float) -> None:
    """T², half precision, autocast or the order of the samples would be wrong in silence."""
    check_loss(
        self_supervised, shapes=[((5, 4, 6), (5, 4, 6)), ((5, 4, 6), (5, 4, 3))], ratio=ratio
    )
    targets = torch.tensor([0, 3, 2, 2])
    check_loss(
        self_supervised_logits, shapes=[((4, 3, 5), (4, 3, 5))], targets=targets, ratio=ratio
    )


def test_targets_of_samples_or_of_views() -> None:
    """A batch whose views are rows has a label for each of them."""
    student, teacher, targets = (
        features(3, 4, 5),
        features(3, 4, 5, seed=1),
        torch.tensor([0, 4, 2]),
    )
    value = self_supervised_logits(student, teacher, targets=targets, ratio=0.2)
    rows = targets.repeat_interleave(4)
    flat = self_supervised_logits(
        student.flatten(0, 1), teacher.flatten(0, 1), targets=rows, ratio=0.2
    )
    assert torch.equal(value, flat)


def test_self_supervision_with_one_or_dead_samples() -> None:
    """One sample leaves nothing to tell apart: 0, not NaN."""
    for student in (torch.randn(1, 4, 3), torch.zeros(2, 4, 3)):
        student.requires_grad_(True)
        value = self_supervised(student, torch.randn(len(student), 4, 3))
        value.backward()
        assert torch.isfinite(value)
        assert student.grad.abs().max() < 1e3
    nothing = self_supervised(torch.randn(2, 4, 3), torch.randn(2, 4, 3), kept=torch.zeros(6))
    assert nothing == 0


def test_views_that_do_not_fit_are_refused() -> None:
    """Rows of one sample would be taken for another's."""
    with pytest.raises(ValueError, match="views of each sample"):
        self_supervised(torch.randn(6, 3), torch.randn(6, 3))
    with pytest.raises(ValueError, match="the same samples"):
        self_supervised(torch.randn(2, 4, 3), torch.randn(3, 4, 3))
    with pytest.raises(ValueError, match="a target for each sample"):
        self_supervised_logits(torch.randn(2, 4, 3), torch.randn(2, 4, 3), targets=torch.arange(3))
