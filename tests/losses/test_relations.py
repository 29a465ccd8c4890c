"""Losses between relations against records, loops in NumPy and the public contract."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from recorded import Recorded, cases
from recorded_parts import breaches, parameters, raw, tensor
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.losses import relations, spec_of
from limbeck.losses.geometry import squared_distances, unit
from limbeck.testing import check_loss

NAMES = [
    "correlation_congruence",
    "inter_channel",
    "kernel_alignment",
    "probabilistic_transfer",
    "rkd_angle",
    "rkd_distance",
    "similarity_preserving",
]
# PKT's public code divides by the norm plus 1e-7; ours by the norm.
TOLERANCE = {"probabilistic_transfer-0": 1e-6, "probabilistic_transfer-1": 1e-6}
WITH_HELPER = [n for n in NAMES if n not in ("inter_channel", "kernel_alignment")]
RECORDED = [case for name in WITH_HELPER for case in cases(name)]
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in NAMES),
    ("correlation_congruence", {"gamma": 1.0, "order": 4}),
    ("inter_channel", {"form": "normalized"}),
    ("kernel_alignment", {"form": "unbiased"}),
    ("kernel_alignment", {"kernel": "rbf"}),
    ("kernel_alignment", {"kernel": "rbf", "form": "unbiased", "bandwidth": 0.8}),
    ("probabilistic_transfer", {"scale": "mean"}),
    ("probabilistic_transfer", {"diagonal": False}),
]


def loss(name: str) -> Any:
    return getattr(relations, name)


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_all_are_checked() -> None:
    """A loss added to the file would be checked by nothing below."""
    assert sorted(relations.__all__) == NAMES
    assert len(RECORDED) == 13
    assert {spec_of(loss(name)).family for name in NAMES} == {"relation"}


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case.name)
def test_as_recorded(case: Recorded) -> None:
    """Our reading of a formula would differ from its authors' by a scale or a diagonal."""
    tolerance = TOLERANCE.get(case.name, 1e-9)
    assert not dataclasses.replace(case, tolerance=tolerance).breaches(
        loss(case.name.partition("-")[0])
    )


@pytest.mark.parametrize("number", [0, 1])
def test_mean_over_pairs_as_recorded(number: int) -> None:
    """The weight of 30000 belongs to the code's mean over pairs, not to the paper's sum."""
    case = raw("probabilistic_transfer")[number]
    student, teacher = (tensor(case["inputs"][side]) for side in ("student", "teacher"))
    student.requires_grad_(True)
    value = relations.probabilistic_transfer(student, teacher, scale="mean")
    assert not breaches(case, value, {"student_gradient": student}, tolerance=1e-6)


def test_neighbours_as_recorded() -> None:
    """The benchmark's numbers for "cc" come from this form, not from the paper's."""
    case = raw("correlation_congruence")[3]
    assert case["options"] == {"form": "RepDistiller"}
    student, teacher = (tensor(case["inputs"][side]) for side in ("student", "teacher"))
    student.requires_grad_(True)
    value = relations.correlation_congruence(student, teacher, form="neighbours")
    assert not breaches(case, value, {"student_gradient": student})


def test_channels_as_recorded_without_embedding() -> None:
    """Rows and columns, or C and B in the divisor, would be exchanged."""
    case = raw("inter_channel")[1]
    student, teacher = (tensor(case["inputs"][side]) for side in ("student", "teacher"))
    student.requires_grad_(True)
    value = relations.inter_channel(student, teacher, form="normalized")
    assert not breaches(case, value, {"student_gradient": student})


def test_channels_as_recorded_with_their_embedding() -> None:
    """The adapter that the authors use would not fit in front of ours."""
    case = raw("inter_channel")[0]
    student, teacher = (tensor(case["inputs"][side]) for side in ("student", "teacher"))
    student.requires_grad_(True)
    embed = nn.Sequential(nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12)).double()
    own = [v for k, v in parameters(case).items() if k.startswith("embed_s")]
    keys = [k for k in embed.state_dict() if not k.endswith("tracked")]
    embed.load_state_dict(dict(zip(keys, own, strict=True)), strict=False)
    value = relations.inter_channel(embed(student), teacher, form="normalized")
    assert not breaches(case, value, {"student_gradient": student})


@pytest.mark.parametrize(
    ("number", "options"),
    [
        (0, {}),
        (1, {}),
        (2, {"form": "unbiased"}),
        (3, {"kernel": "rbf", "bandwidth": 0.5}),
    ],
)
def test_alignment_as_recorded(number: int, options: dict[str, Any]) -> None:
    """The debiased form has three corrections that are easily lost; the median has zeros in it."""
    case = raw("kernel_alignment")[number]
    student, teacher = (tensor(case["inputs"][side]) for side in ("student", "teacher"))
    student.requires_grad_(True)
    value = relations.kernel_alignment(student, teacher, **options)
    assert float(value.detach()) == pytest.approx(1 - case["value"], rel=1e-9)
    value.backward()
    theirs = np.asarray(case["student_gradient_of_cka_by_central_differences"])
    assert np.allclose(-student.grad.numpy(), theirs, atol=1e-8)


def _pairs(x: np.ndarray) -> list[list[float]]:
    gaps = [[math.dist(a, b) for b in x] for a in x]
    positive = [g for row in gaps for g in row if g > 0]
    return [[g / (sum(positive) / len(positive)) for g in row] for row in gaps]


def _huber(x: float) -> float:
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def test_distances_against_a_loop() -> None:
    """The mean would run over the diagonal too, or only over i < j."""
    student, teacher = features(5, 3), 40 * features(5, 7, seed=1)
    student[0] *= 30  # beyond the Huber loss's corner
    own, theirs = _pairs(student.numpy()), _pairs(teacher.numpy())
    expected = sum(_huber(own[i][j] - theirs[i][j]) for i in range(5) for j in range(5)) / 25
    assert float(relations.rkd_distance(student, teacher)) == pytest.approx(expected, rel=1e-10)


def test_angles_against_a_loop() -> None:
    """The vertex would be another of the three samples."""
    sides = features(4, 3).numpy(), features(4, 5, seed=1).numpy()
    total = 0.0
    for j in range(4):
        for i in range(4):
            for k in range(4):
                if j in (i, k):
                    continue
                cosines = []
                for x in sides:
                    a, b = x[i] - x[j], x[k] - x[j]
                    cosines.append(a @ b / math.sqrt((a @ a) * (b @ b)))
                total += _huber(cosines[0] - cosines[1])
    value = relations.rkd_angle(*map(torch.from_numpy, sides))
    assert float(value) == pytest.approx(total / 64, rel=1e-10)


def test_a_long_series_is_the_gaussian_kernel() -> None:
    """A wrong factor of a power would only be seen in the limit."""
    student, teacher = features(5, 3), features(5, 4, seed=1)
    kernels = []
    for x in (student.numpy(), teacher.numpy()):
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        kernels.append(np.exp(-0.7 * ((x[:, None] - x[None]) ** 2).sum(-1)))
    expected = ((kernels[0] - kernels[1]) ** 2).mean()
    value = relations.correlation_congruence(student, teacher, gamma=0.7, order=30)
    assert float(value) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("diagonal", [True, False])
def test_neighbourhoods_against_scipy(diagonal: bool) -> None:
    """Columns would be normalised for rows, or the two sides of the divergence exchanged."""
    from scipy.special import rel_entr

    student, teacher = features(5, 3), features(5, 4, seed=1)
    rows = []
    for x in (student.numpy(), teacher.numpy()):
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        kernel = [
            [0.0 if i == j and not diagonal else (1 + x[i] @ x[j]) / 2 for j in range(5)]
            for i in range(5)
        ]
        rows.append([np.array(row) / sum(row) for row in kernel])
    expected = sum(rel_entr(p, q).sum() for q, p in zip(*rows, strict=True))
    options = {"diagonal": diagonal, "eps": 1e-15}
    value = relations.probabilistic_transfer(student, teacher, **options)
    mean = relations.probabilistic_transfer(student, teacher, scale="mean", **options)
    assert float(value) == pytest.approx(expected, rel=1e-8)
    assert float(mean) == pytest.approx(expected / 25, rel=1e-8)


@pytest.mark.parametrize("shape", [(4, 3), (4, 5, 3), (4, 3, 2, 2)])
@pytest.mark.parametrize("form", ["plain", "normalized"])
def test_channels_against_a_loop(shape: tuple[int, ...], form: str) -> None:
    """The channel of tokens is the last dimension, that of maps the second."""
    student, teacher = features(*shape).numpy(), features(*shape, seed=1).numpy()
    total = 0.0
    for own, theirs in zip(student, teacher, strict=True):
        products = []
        for x in (own, theirs):
            x = x.T if len(shape) == 3 else x.reshape(3, -1)
            gram = [[sum(a * b for a, b in zip(u, v, strict=True)) for v in x] for u in x]
            if form == "normalized":
                gram = [[g / math.sqrt(sum(h * h for h in row)) for g in row] for row in gram]
            products.append(gram)
        squared = [(products[0][c][d] - products[1][c][d]) ** 2 for c in range(3) for d in range(3)]
        total += sum(squared) / (9 if form == "plain" else 3)
    value = relations.inter_channel(torch.from_numpy(student), torch.from_numpy(teacher), form=form)
    assert float(value) == pytest.approx(total / 4, rel=1e-10)


def test_alignment_ignores_rotation_and_scale() -> None:
    """What CKA is made for would not hold."""
    x = features(8, 4)
    rotation = torch.linalg.qr(features(4, 4, seed=2)).Q
    for form in ("biased", "unbiased"):
        for kernel in ("linear", "rbf"):
            value = relations.kernel_alignment(3 * x @ rotation + 7, x, form=form, kernel=kernel)
            assert float(value) == pytest.approx(0, abs=1e-10)


def test_radial_alignment_looks_at_near_samples() -> None:
    """A narrow kernel must see the clusters alone, whatever lies far away from them."""
    clusters = torch.tensor([[0.0], [0.1], [5.0], [5.1], [9.0], [9.1]], dtype=torch.float64)
    moved = torch.tensor([[0.0], [0.1], [9.0], [9.1], [4.0], [4.1]], dtype=torch.float64)
    near = relations.kernel_alignment(clusters, moved, kernel="rbf", bandwidth=0.1)
    assert float(near) < 1e-2 < float(relations.kernel_alignment(clusters, moved))


def test_radial_alignment_of_equal_samples() -> None:
    """A median of 0 would divide by it."""
    x = torch.ones(4, 3, requires_grad=True)
    value = relations.kernel_alignment(x, torch.randn(4, 3), kernel="rbf")
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(x.grad).all()
    with pytest.raises(InputError, match="bandwidth"):
        relations.kernel_alignment(x, x, kernel="rbf", bandwidth=0)


def test_unbiased_alignment_is_zero_on_average_for_independent_features() -> None:
    """The biased form is near 1 for wide random features: the correction is what is paid for."""
    values = {"biased": [], "unbiased": []}
    for seed in range(40):
        pair = features(10, 60, seed=seed), features(10, 60, seed=1000 + seed)
        for form, found in values.items():
            found.append(1 - float(relations.kernel_alignment(*pair, form=form)))
    assert abs(np.mean(values["unbiased"])) < 0.03
    assert np.mean(values["biased"]) > 0.7


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_keeps_the_contract(name: str, options: dict[str, Any]) -> None:
    """Half precision, autocast, the teacher's gradient or the order would be wrong in silence."""
    for seed in (0, 5):
        check_loss(loss(name), seed=seed, compiled=False, **options)


def test_channels_of_maps_of_other_sizes() -> None:
    """Only the channels must agree."""
    check_loss(relations.inter_channel, shapes=[((6, 3, 4, 4), (6, 3, 2, 2))])


NEIGHBOURS = ("correlation_congruence", {"form": "neighbours"})


@pytest.mark.parametrize(("name", "options"), [*VARIANTS, NEIGHBOURS])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_few_samples(name: str, options: dict[str, Any], size: int) -> None:
    """The last batch of an epoch can hold one sample; a NaN there ruins the run."""
    student = features(size, 4).requires_grad_(True)
    value = loss(name)(student, features(size, 4, seed=1), **options)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize(("name", "options"), [*VARIANTS, NEIGHBOURS])
@pytest.mark.parametrize("dead", [[0], [0, 1], [0, 1, 2, 3]])
def test_dead_features(name: str, options: dict[str, Any], dead: list[int]) -> None:
    """Zeros after a ReLU would give a gradient that is not finite, or of 1e12."""
    student = features(4, 3).float()
    student[dead] = 0
    student.requires_grad_(True)
    value = loss(name)(student, features(4, 3, seed=1).float(), **options)
    value.backward()
    assert torch.isfinite(value)
    assert student.grad.abs().max() < 1e3


@pytest.mark.parametrize("name", NAMES)
def test_refuses_another_batch(name: str) -> None:
    """A batch of one would be broadcast."""
    with pytest.raises(ValueError, match="the same"):
        loss(name)(features(4, 3), features(1, 3))


def test_refuses_other_widths_where_they_matter() -> None:
    """Broadcasting would compare three features with one."""
    with pytest.raises(ValueError, match="the same number"):
        relations.correlation_congruence(features(4, 3), features(4, 1), form="neighbours")
    with pytest.raises(ValueError, match="the same B and C"):
        relations.inter_channel(features(4, 3, 2, 2), features(4, 1, 2, 2))
    with pytest.raises(ValueError, match="the same B and C"):
        relations.inter_channel(features(4, 3), features(4, 3, 1))


def test_geometry_against_numpy() -> None:
    """Every loss here would inherit a slip."""
    x, y = features(4, 3).numpy(), features(5, 3, seed=1).numpy()
    expected = ((x[:, None] - y[None]) ** 2).sum(-1)
    found = squared_distances(torch.from_numpy(x), torch.from_numpy(y)).numpy()
    assert np.allclose(found, expected, rtol=1e-10)
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    assert np.allclose(unit(torch.from_numpy(x)).numpy(), x / lengths, rtol=1e-12)
