"""Losses between maps against recorded numbers, loops in NumPy, and the contract."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from recorded import Recorded, cases
from recorded_parts import breaches, parameter_breaches, parameters, raw, tensor
from torch import Tensor

from limbeck.losses import maps
from limbeck.losses.maps import (
    Frequency,
    activation_boundary,
    block_wise,
    channel_wise,
    flow,
    frequency,
    neuron_selectivity,
)
from limbeck.losses.spec import Setting, spec_of
from limbeck.testing import check_loss

LOSSES = [
    Frequency,
    activation_boundary,
    block_wise,
    channel_wise,
    flow,
    frequency,
    neuron_selectivity,
]
TWO = [(((6, 3, 8, 8), (6, 5, 4, 4)), ((6, 3, 8, 8), (6, 5, 4, 4)))]
KERNELS = ["polynomial", "linear", "gaussian"]


def arrays(*shapes: tuple[int, ...], seed: int = 3) -> list[np.ndarray]:
    numbers = np.random.default_rng(seed)
    return [numbers.normal(size=shape) for shape in shapes]


def tensors(*given: np.ndarray) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(array) for array in given)


def test_the_public_names() -> None:
    """A loss that is not exported, or of another family, would be missing in the catalogue."""
    assert [loss.__name__ for loss in LOSSES] == maps.__all__
    assert {spec_of(loss).family for loss in LOSSES} == {"feature"}
    assert all(spec_of(loss).source for loss in LOSSES)


@pytest.mark.parametrize("case", cases("neuron_selectivity"), ids=lambda case: case.name)
def test_selectivity_as_recorded(case: Recorded) -> None:
    """The normalisation or one of the three means would be another than NST's."""

    def pooled(student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
        return neuron_selectivity(
            F.adaptive_avg_pool2d(student, teacher.shape[2:]), teacher, **options
        )

    assert not case.breaches(pooled)


@pytest.mark.parametrize("case", cases("activation_boundary"), ids=lambda case: case.name)
def test_boundary_as_recorded(case: Recorded) -> None:
    """The margin would be on the wrong side, or the sum a mean."""
    assert not case.breaches(activation_boundary)


@pytest.mark.parametrize("number", range(2))
def test_channel_wise_as_recorded(number: int) -> None:
    """The softmax would run over channels, or T² be missing."""
    case = raw("channel_wise")[number]
    student, teacher = (tensor(case["inputs"][side]) for side in ("student", "teacher"))
    value = channel_wise(student.requires_grad_(True), teacher, **case["options"])
    assert not breaches(case, value, {"student_gradient": student})


@pytest.mark.parametrize("number", range(3))
def test_flow_as_recorded(number: int) -> None:
    """The flow matrix would be divided, pooled or summed in another way (average pooling here)."""
    case = raw("flow")[number]
    student, teacher = (tensor(case["inputs"][side]) for side in ("student", "teacher"))
    leaves = {f"student_gradient_{i}": s.requires_grad_(True) for i, s in enumerate(student)}
    value = flow(student, teacher, pooling="average")
    assert not breaches(case, value, leaves, factor=case["to_paper"])


def test_frequency_as_recorded() -> None:
    """Orientations, levels or tokens would be paired in another way than in FreeKD's code."""
    case = raw("frequency")[0]
    student, teacher = (tensor(case["inputs"][side]) for side in ("student", "teacher"))
    tokens = parameters(case)["mask_modules.0.mask_token"].requires_grad_(True)
    student.requires_grad_(True)
    value = frequency(student, teacher, tokens=tokens[1:], levels=3)  # the first is the low band's
    assert not breaches(case, value, {"student_gradient": student})
    checks = case["parameter_gradient_checks"]
    case["parameter_gradient_checks"] = {k: v for k, v in checks.items() if v}
    assert not parameter_breaches(case, value, {"mask_modules.0.mask_token": tokens})


def test_haar_as_recorded() -> None:
    """A sign or an order of orientations would be another than the library's."""
    case = raw("frequency")[1]
    low = tensor(case["inputs"]["x"])
    for level in (1, 2, 3):
        low, high = maps.haar(low)
        # The library's filters are in single precision.
        assert torch.allclose(high, torch.tensor(case[f"level_{level}"]).double(), atol=1e-7)
    assert float(low) == pytest.approx(case["low"], rel=1e-6)


def test_haar_keeps_the_energy() -> None:
    """The bands would not be the coordinates of the map in an orthonormal basis."""
    (array,) = arrays((2, 3, 8, 8))
    low, high = maps.haar(torch.from_numpy(array))
    energy = (low**2).sum() + (high**2).sum()
    assert float(energy) == pytest.approx(float((array**2).sum()), rel=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_selectivity_against_a_loop(kernel: str) -> None:
    """Channels and positions would be exchanged, or the samples mixed."""
    student, teacher = arrays((3, 4, 2, 3), (3, 5, 2, 3))

    def k(a: np.ndarray, b: np.ndarray, width: float) -> float:
        if kernel == "gaussian":
            return math.exp(-sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / (2 * width))
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot**2 if kernel == "polynomial" else dot

    total = 0.0
    for own, theirs in zip(student, teacher, strict=True):
        s, t = ([m.ravel() / math.sqrt((m**2).sum()) for m in side] for side in (own, theirs))
        width = np.mean([[((a - b) ** 2).sum() for a in t] for b in t])
        total += np.mean([[k(a, b, width) for a in t] for b in t])
        total += np.mean([[k(a, b, width) for a in s] for b in s])
        total -= 2 * np.mean([[k(a, b, width) for a in s] for b in t])
    value = neuron_selectivity(*tensors(student, teacher), kernel=kernel)
    assert float(value) == pytest.approx(total / 3, rel=1e-9)


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_flow_against_a_loop(pooling: str) -> None:
    """The larger map would be read at the wrong positions."""
    sides = [arrays((2, 3, 4, 4), (2, 2, 2, 2), seed=seed) for seed in (1, 2)]
    cell = np.max if pooling == "max" else np.mean
    matrices = []
    for first, second in sides:
        matrix = np.zeros((2, 3, 2))
        for b, i, j, h, w in np.ndindex(2, 3, 2, 2, 2):
            block = first[b, i, 2 * h : 2 * h + 2, 2 * w : 2 * w + 2]
            matrix[b, i, j] += cell(block) * second[b, j, h, w] / 4
        matrices.append(matrix)
    expected = ((matrices[0] - matrices[1]) ** 2).sum() / 2
    options = {} if pooling == "max" else {"pooling": pooling}
    value = flow(*(tensors(*side) for side in sides), **options)
    assert float(value) == pytest.approx(expected, rel=1e-10)


def test_boundary_against_a_loop() -> None:
    """A teacher of exactly 0 is inactive; a student beyond the margin costs nothing."""
    student, teacher = arrays((3, 2, 2, 2), (3, 2, 2, 2))
    teacher[0, 0] = 0.0
    total = 0.0
    for s, t in zip(student.ravel(), teacher.ravel(), strict=True):
        wanted = 0.7 - s if t > 0 else 0.7 + s
        total += wanted**2 if wanted > 0 else 0.0
    value = activation_boundary(*tensors(student, teacher), margin=0.7)
    assert float(value) == pytest.approx(total / 3, rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_channel_wise_against_scipy(temperature: float) -> None:
    """The divergence would be turned round, or divided by the number of positions."""
    special = pytest.importorskip("scipy.special")
    student, teacher = arrays((3, 4, 2, 3), (3, 4, 2, 3))
    rows = [special.softmax(x.reshape(12, 6) / temperature, axis=1) for x in (teacher, student)]
    expected = temperature**2 * special.rel_entr(*rows).sum() / 12
    value = channel_wise(*tensors(student, teacher), temperature=temperature)
    assert float(value) == pytest.approx(expected, rel=1e-10)


def test_block_wise_against_torch() -> None:
    """Blocks would be weighted by their size."""
    shapes = ((3, 4, 2, 2), (3, 6, 5), (3, 7))
    own, theirs = (tensors(*arrays(*shapes, seed=seed)) for seed in (1, 2))
    parts = [F.mse_loss(s, t) for s, t in zip(own, theirs, strict=True)]
    assert float(block_wise(own, theirs)) == pytest.approx(float(sum(parts)), rel=1e-12)
    weighted = block_wise(own, theirs, weights=(1.0, 0.0, 0.5))
    assert float(weighted) == pytest.approx(float(parts[0] + parts[2] / 2), rel=1e-12)
    assert block_wise(own[0], theirs[0]) == block_wise(own[:1], theirs[:1])


def test_frequency_ignores_the_mean() -> None:
    """The low band would be compared, which FreeKD leaves out."""
    (array,) = arrays((2, 3, 8, 8))
    value = frequency(*tensors(array, array + 5.0))
    assert float(value) == pytest.approx(0.0, abs=1e-12)


def test_frequency_by_hand() -> None:
    """A token would change the scale by another factor than its mask."""
    student = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]], dtype=torch.float64)
    teacher = torch.zeros_like(student)
    plain = frequency(student, teacher, levels=1)
    tokens = torch.full((1, 3, 1), 9.0, dtype=torch.float64)
    assert float(frequency(student, teacher, tokens=tokens, levels=1)) == float(plain) / 2
    # The other way round the band is 2 where the teacher has it: σ(9·2) instead of σ(0).
    seen = frequency(teacher, student, tokens=tokens, levels=1)
    assert float(seen) == pytest.approx(float(plain) / (1 + math.exp(-18.0)), rel=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_selectivity_keeps_the_contract(kernel: str) -> None:
    """Half precision, parts or the order of samples would change the value."""
    check_loss(neuron_selectivity, kernel=kernel)
    check_loss(neuron_selectivity, kernel=kernel, shapes=[((6, 3, 4, 4), (6, 3, 4, 4))])


@pytest.mark.parametrize("loss", [activation_boundary, channel_wise])
def test_keeps_the_contract(loss: Any) -> None:
    """Half precision, parts, chunks or T² would be wrong without a word."""
    shapes = [((6, 3, 4, 4), (6, 3, 4, 4))]
    check_loss(loss, shapes=None if loss is activation_boundary else shapes)


def test_options_keep_the_contract() -> None:
    """An option would work in single precision only, or not in parts."""
    check_loss(activation_boundary, margin=0.5)
    check_loss(channel_wise, temperature=1.0, shapes=[((6, 3, 4, 4), (6, 3, 4, 4))])


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_flow_keeps_the_contract(pooling: str) -> None:
    """One of the two layers would get no gradient."""
    other = [(((6, 3, 8, 8), (6, 5, 4, 4)), ((6, 3, 6, 6), (6, 5, 3, 3)))]
    tokens = [(((6, 4, 3), (6, 4, 5)), ((6, 7, 3), (6, 7, 5)))]
    check_loss(flow, shapes=TWO + other + tokens, pooling=pooling)


def test_block_wise_keeps_the_contract() -> None:
    """One of the blocks would get no gradient."""
    check_loss(block_wise, shapes=TWO)
    check_loss(block_wise, shapes=TWO, weights=(0.5, 2.0))


def test_frequency_keeps_the_contract() -> None:
    """Odd sizes, tokens or parts would change the value."""
    check_loss(frequency, shapes=[((6, 3, 8, 8), (6, 3, 8, 8)), ((6, 3, 7, 5), (6, 3, 7, 5))])
    check_loss(
        frequency, shapes=[((6, 3, 4, 4), (6, 3, 4, 4))], levels=2, tokens=torch.randn(2, 4, 3)
    )
    check_loss(Frequency(3, levels=2), shapes=[((6, 3, 4, 4), (6, 3, 4, 4))])


def test_frequency_module() -> None:
    """The student would learn to hide what it cannot do, or the tokens be lost in a checkpoint."""
    setting = Setting(torch.nn.Identity())
    shape = torch.zeros(2, 6, 8, 8)
    loss = Frequency.build(shape, shape, setting, tokens=4, levels=2)
    assert loss.tokens.shape == (2, 4, 6)
    assert not loss.tokens.requires_grad
    other = Frequency(6, tokens=4, levels=2)
    student, teacher = torch.randn(2, 2, 6, 8, 8)
    assert other(student, teacher) != loss(student, teacher)
    other.load_state_dict(loss.state_dict())
    assert other(student, teacher) == loss(student, teacher)


def one(loss: Any, student: Any, teacher: Any, **options: Any) -> tuple[Tensor, list[Tensor]]:
    leaves = [t.requires_grad_(True) for t in ([student] if torch.is_tensor(student) else student)]
    value = loss(student, teacher, **options)
    value.backward()
    return value, [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("zero", ["student", "teacher", "both"])
@pytest.mark.parametrize(
    ("loss", "options"),
    [
        *((neuron_selectivity, {"kernel": kernel}) for kernel in KERNELS),
        (activation_boundary, {}),
        (channel_wise, {}),
        (frequency, {}),
        (block_wise, {}),
        (flow, {}),
    ],
)
def test_dead_features(loss: Any, options: dict[str, Any], zero: str, size: int) -> None:
    """Features that are all 0 after a ReLU would give NaN, or a gradient that wrecks the rest."""
    student, teacher = torch.rand(2, size, 3, 8, 8)
    student, teacher = student * (zero == "teacher"), teacher * (zero == "student")
    if loss is flow:
        student, teacher = (student, student.clone()), (teacher, teacher)
    value, gradients = one(loss, student, teacher, **options)
    assert torch.isfinite(value)
    assert all(torch.isfinite(g).all() and g.abs().max() < 100 for g in gradients)


@pytest.mark.parametrize("kernel", KERNELS)
def test_selectivity_with_one_channel_of_the_teacher(kernel: str) -> None:
    """The Gaussian's bandwidth would be 0, and the value NaN."""
    value, [gradient] = one(
        neuron_selectivity, torch.rand(2, 3, 2, 2), torch.rand(2, 1, 2, 2), kernel=kernel
    )
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("loss", "scale"),
    [(neuron_selectivity, 6e4), (activation_boundary, 6e4), (channel_wise, 6e4), (frequency, 6e4)],
)
def test_large_features(loss: Any, scale: float) -> None:
    """bfloat16 features of ±60,000 would overflow."""
    student, teacher = (scale * torch.randn(2, 4, 3, 8, 8).sign()).bfloat16()
    value, [gradient] = one(loss, student, teacher)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("loss", "student", "teacher", "options", "message"),
    [
        (neuron_selectivity, (4, 3, 2, 2), (1, 3, 2, 2), {}, "neuron_selectivity got maps"),
        (neuron_selectivity, (4, 3, 2, 2), (4, 3, 2, 4), {}, "neuron_selectivity got maps"),
        (neuron_selectivity, (4, 3), (4, 3), {}, "neuron_selectivity got maps"),
        (activation_boundary, (4, 3), (4, 1), {}, "the same shape"),
        (channel_wise, (4, 3, 2, 2), (4, 1, 2, 2), {}, "the same shape"),
        (channel_wise, (4, 3), (4, 3), {}, "maps"),
        (channel_wise, (4, 3, 2, 2), (4, 3, 2, 2), {"temperature": 0.0}, "temperature"),
        (frequency, (4, 3, 8, 8), (4, 1, 8, 8), {}, "the same shape"),
        (frequency, (4, 3, 4, 8), (4, 3, 4, 8), {}, "fewer levels"),
        (frequency, (4, 3), (4, 3), {}, "fewer levels"),
        (frequency, (4, 3, 8, 8), (4, 3, 8, 8), {"levels": 0}, "at least 1"),
        (frequency, (4, 3, 8, 8), (4, 3, 8, 8), {"tokens": torch.ones(3, 2, 4)}, "tokens"),
        (frequency, (4, 3, 8, 8), (4, 3, 8, 8), {"tokens": torch.ones(2, 2, 3)}, "tokens"),
        (block_wise, (2, 4, 3), (2, 4, 1), {}, "the same shape"),
        (block_wise, (2, 4, 3), (3, 4, 3), {}, "as many of each"),
        (block_wise, (2, 4, 3), (2, 4, 3), {"weights": (1.0,)}, "as many of each"),
        (flow, (3, 4, 3, 2, 2), (2, 4, 3, 2, 2), {}, "two layers"),
        (flow, (2, 4, 3, 2, 2), (2, 4, 1, 2, 2), {}, "the same shape"),
        (flow, (2, 4, 3, 2, 2), (2, 1, 3, 2, 2), {}, "the same shape"),
        (flow, (2, 4, 3), (2, 4, 3), {}, "two maps"),
    ],
)
def test_refuses(
    loss: Any,
    student: tuple[int, ...],
    teacher: tuple[int, ...],
    options: dict[str, Any],
    message: str,
) -> None:
    """Broadcasting would compare what does not belong together."""
    sides: list[Any] = [torch.randn(student), torch.randn(teacher)]
    if loss in (block_wise, flow):
        sides = [tuple(side) for side in sides]
    with pytest.raises(ValueError, match=message):
        loss(*sides, **options)


def test_flow_refuses_tokens_that_do_not_meet() -> None:
    """Two layers with other tokens have no common positions."""
    layers = torch.randn(2, 4, 3), torch.randn(2, 5, 3)
    with pytest.raises(ValueError, match="the same tokens"):
        flow(layers, layers)
