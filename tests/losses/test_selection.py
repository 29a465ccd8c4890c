"""Layers chosen by attention (AFD, SemCKD): records, loops in NumPy, and the contract."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from recorded_modules import learns, loaded
from recorded_parts import breaches, parameter_breaches, raw, tensor
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.losses import selection
from limbeck.losses.selection import (
    AttentionSelection,
    SemanticCalibration,
    attention_selection,
    semantic_calibration,
)
from limbeck.losses.spec import Setting, spec_of
from limbeck.testing import ContractError, check_loss

OWN = ((6, 3, 4, 4), (6, 4, 2, 2))
THEIRS = ((6, 5, 4, 4), (6, 2, 3, 3), (6, 3, 2, 2))
PROJECTED = (*THEIRS, (6, 5, 2, 2), (6, 2, 2, 2), (6, 3, 1, 1))


def drawn(shapes: Any, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def sides(case: dict[str, Any]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    student, teacher = (tensor(case["inputs"][side]) for side in ("student", "teacher"))
    return tuple(m.requires_grad_(True) for m in student), teacher


def selecting() -> AttentionSelection:
    torch.manual_seed(0)
    return AttentionSelection([3, 4], [5, 2, 3], width=8)


def calibrating(batch_size: int = 6) -> SemanticCalibration:
    torch.manual_seed(0)
    return SemanticCalibration([3, 4], [5, 2, 3], batch_size=batch_size, factor=2)


def test_the_losses_declare_themselves() -> None:
    """A loss of another family, or without a source, would be missing in the catalogue."""
    for name in selection.__all__:
        spec = spec_of(getattr(selection, name))
        assert (spec.family, spec.align, spec.per_sample) == ("feature", "none", False)
        assert re.search(r"20\d\d.*arXiv:\d{4}\.\d{5}", spec.source)


# -- against the authors' code


def test_attention_selection_as_recorded() -> None:
    """The attention would run over the other side's layers, or without the positions."""
    case = raw("attention_selection")[0]
    student, teacher = sides(case)
    loss = AttentionSelection([4, 6], [5, 6, 7], width=case["options"]["qk_dim"])
    recorded = loaded(loss, case)
    value = loss(student, teacher)
    leaves = {f"student_gradient_{i}": m for i, m in enumerate(student)}
    assert not breaches(case, value, leaves, factor=case["to_paper"])
    named = {recorded[n]: p for n, p in loss.named_parameters()}
    assert named.keys() == case["parameter_gradient_checks"].keys()
    assert not parameter_breaches(case, value, named, factor=case["to_paper"])


def test_semantic_calibration_as_recorded() -> None:
    """The projections would be other networks, or the weights those of another softmax."""
    case = raw("semantic_calibration")[0]
    student, teacher = sides(case)
    loss = SemanticCalibration([4, 6], [5, 6, 7], batch_size=4, factor=case["options"]["factor"])
    recorded = loaded(loss, case)
    weights = loss.weights(student, teacher).detach().numpy()
    assert weights == pytest.approx(np.array(case["weights"]), rel=1e-10)
    value = loss(student, teacher)
    leaves = {f"student_gradient_{i}": m for i, m in enumerate(student)}
    assert not breaches(case, value, leaves, factor=case["to_paper"])
    named = {recorded[n]: p for n, p in loss.named_parameters()}
    assert not parameter_breaches(case, value, named, factor=case["to_paper"])


# -- against loops


def pooled(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Average (..., H, W) over a grid that divides it, cell by cell."""
    rows, columns = image.shape[-2] // height, image.shape[-1] // width
    cells = [
        [
            image[..., i * rows : (i + 1) * rows, j * columns : (j + 1) * columns].mean((-2, -1))
            for j in range(width)
        ]
        for i in range(height)
    ]
    return np.moveaxis(np.array(cells), (0, 1), (-2, -1))


def test_attention_selection_against_a_loop() -> None:
    """Samples, layers or positions would be averaged where they are to be summed."""
    numbers = np.random.default_rng(1)
    student = [numbers.normal(size=s) for s in ((2, 3, 4, 4), (2, 4, 2, 2))]
    teacher = [numbers.normal(size=s) for s in ((2, 5, 2, 2), (2, 2, 1, 2))]
    weights = numbers.uniform(size=(2, 2, 2))
    total = 0.0
    for b in range(2):
        for number, target in enumerate(teacher):
            looks = (target[b] ** 2).mean(0)
            looks = looks / np.sqrt((looks**2).sum())
            for s, maps in enumerate(student):
                own = pooled((maps[b] ** 2).mean(0), *looks.shape)
                own = own / np.sqrt((own**2).sum())
                total += weights[b, number, s] * ((own - looks) ** 2).mean()
    found = attention_selection(
        [torch.from_numpy(m) for m in student],
        [torch.from_numpy(m) for m in teacher],
        weights=torch.from_numpy(weights),
    )
    assert float(found) == pytest.approx(total / 2, rel=1e-12)


def test_semantic_calibration_against_a_loop() -> None:
    """The larger map would be cut, or the sum over layers not be divided by the student's."""
    numbers = np.random.default_rng(2)
    teacher = [numbers.normal(size=s) for s in ((2, 5, 2, 2), (2, 3, 4, 4))]
    shapes = [(2, 5, 4, 4), (2, 3, 4, 4), (2, 5, 2, 2), (2, 3, 2, 2), (2, 5, 1, 2), (2, 3, 1, 2)]
    student = [numbers.normal(size=s) for s in shapes]
    weights = numbers.uniform(size=(2, 3, 2))
    total = 0.0
    for b in range(2):
        for s in range(3):
            for number, target in enumerate(teacher):
                own = student[2 * s + number][b]
                size = [min(a, c) for a, c in zip(own.shape[1:], target.shape[2:], strict=True)]
                gap = pooled(own, *size) - pooled(target[b], *size)
                total += weights[b, s, number] * (gap**2).mean()
    found = semantic_calibration(
        [torch.from_numpy(m) for m in student],
        [torch.from_numpy(m) for m in teacher],
        weights=torch.from_numpy(weights),
    )
    assert float(found) == pytest.approx(total / 2 / 3, rel=1e-12)


def test_weights_for_all_samples() -> None:
    """Weights without a dimension for samples would be stretched over another."""
    one = torch.tensor([[0.2, 0.8], [0.5, 0.5], [0.0, 1.0]])
    student, teacher = drawn(OWN), drawn(THEIRS, 1)
    each = attention_selection(student, teacher, weights=one.expand(6, 3, 2))
    assert torch.isclose(attention_selection(student, teacher, weights=one), each)
    student, one = drawn(PROJECTED), one.T
    each = semantic_calibration(student, teacher, weights=one.expand(6, 2, 3))
    assert torch.isclose(semantic_calibration(student, teacher, weights=one), each)


# -- the contract


def test_the_contract() -> None:
    """Half precision, gradients or the order of samples would be wrong without a word."""
    weights = torch.tensor([[0.25, 0.75], [0.5, 0.5], [0.9, 0.1]])
    check_loss(attention_selection, shapes=[(OWN, THEIRS)], weights=weights)
    check_loss(semantic_calibration, shapes=[(PROJECTED, THEIRS)], weights=weights.T)
    check_loss(selecting(), shapes=[(OWN, THEIRS)])
    check_loss(selecting().eval(), shapes=[(OWN, THEIRS)])


def test_the_contract_but_for_the_order() -> None:
    """Anything but the order of samples, which the paper builds in, would go wrong too."""
    with pytest.raises(ContractError) as found:
        check_loss(calibrating(), shapes=[(OWN, THEIRS)])
    breaks = str(found.value).splitlines()[1:]
    assert len(breaks) == 1
    assert "the order of the samples changes the value" in breaks[0]


def test_modules_learn() -> None:
    """Their parameters would get no gradient, or a step would lead upwards."""
    assert not learns(calibrating(), drawn(OWN), drawn(THEIRS, 1))
    found = learns(selecting(), drawn(OWN), drawn(THEIRS, 1))
    # The authors' linear layers have biases, which their batch normalisation takes off again.
    assert all(re.fullmatch(r".*\.0\.bias stays", one) for one in found)


@pytest.mark.parametrize("make", [selecting, calibrating])
def test_state_is_kept(make: Any) -> None:
    """A resumed training would begin with other weights."""
    loss, other = make(), make()
    for parameter in other.parameters():
        nn.init.constant_(parameter, 0.1)
    given = drawn(OWN), drawn(THEIRS, 1)
    loss(*given).backward()
    assert not torch.isclose(loss.eval()(*given), other.eval()(*given))
    other.load_state_dict(loss.state_dict())
    assert torch.equal(loss(*given), other(*given))


def test_built_for_the_maps_that_meet() -> None:
    """Options would be lost, or the sides be exchanged."""
    student, teacher = drawn(OWN), drawn(THEIRS)
    setting = Setting(nn.Identity())
    selected = AttentionSelection.build(student, teacher, setting, width=8)
    assert selected.weights(student, teacher).shape == (6, 3, 2)
    assert torch.allclose(selected.weights(student, teacher).sum(2), torch.ones(6, 3))
    few = [m[:2] for m in student], [m[:2] for m in teacher]
    calibrated = SemanticCalibration.build(*few, setting, batch_size=6, factor=3)
    assert calibrated.weights(student, teacher).shape == (6, 2, 3)
    assert torch.allclose(calibrated.weights(student, teacher).sum(2), torch.ones(6, 2))
    assert calibrated.keys[0][-1].out_features == 2


# -- edges


@pytest.mark.parametrize("make", [selecting, calibrating])
def test_dead_features_have_finite_gradients(make: Any) -> None:
    """A length of 0 would give a gradient that is not a number."""
    student = tuple(torch.zeros(shape, requires_grad=True) for shape in OWN)
    loss = make()
    value = loss(student, tuple(torch.zeros(shape) for shape in THEIRS))
    value.backward()
    given = [*student, *loss.parameters()]
    assert torch.isfinite(value)
    assert all(torch.isfinite(g.grad).all() for g in given if g.grad is not None)


def test_smaller_batches() -> None:
    """The last batch of an epoch would stop the training, or count absent samples."""
    loss = calibrating(9).eval()
    student, teacher = drawn(OWN), drawn(THEIRS, 1)
    first = loss.weights(student, teacher)
    padded = [torch.cat([m, torch.zeros(3, *m.shape[1:])]) for m in (*student, *teacher)]
    whole = loss.weights(padded[:2], padded[2:])
    assert torch.allclose(first, whole[:6], atol=1e-6)
    one = [tuple(m[:1] for m in side) for side in (student, teacher)]
    assert torch.isfinite(loss(*one))
    with pytest.raises(InputError, match=r"got 6 samples.*at most 4"):
        calibrating(4)(student, teacher)


def test_one_sample() -> None:
    """Batch normalisation would stop with an error of PyTorch's, far from its cause."""
    one = [tuple(m[:1] for m in drawn(shapes)) for shapes in (OWN, THEIRS)]
    with pytest.raises(InputError, match="one sample in training"):
        selecting()(*one)
    assert torch.isfinite(selecting().eval()(*one))


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)),
        ((torch.zeros(2, 3),), (torch.zeros(2, 3),)),
        ((torch.zeros(2, 3, 4, 4),), (torch.zeros(3, 3, 4, 4),)),
        ((), ()),
    ],
)
def test_what_is_no_list_of_maps(student: Any, teacher: Any) -> None:
    """A single map would be taken apart sample by sample."""
    setting = Setting(nn.Identity())
    with pytest.raises(InputError, match=r"several maps \(B, C, H, W\) of the same samples"):
        AttentionSelection.build(student, teacher, setting)
    with pytest.raises(InputError, match=r"several maps \(B, C, H, W\) of the same samples"):
        SemanticCalibration.build(student, teacher, setting, batch_size=2)


def test_what_does_not_fit() -> None:
    """Weights would be stretched over layers that they do not name."""
    student, teacher = drawn(OWN), drawn(THEIRS)
    for loss in (selecting(), calibrating()):
        with pytest.raises(InputError, match=r"1 maps of the student.*2 and 3"):
            loss(student[:1], teacher)
    with pytest.raises(InputError, match=r"got weights \(2, 3\).*\(3, 2\)"):
        attention_selection(student, teacher, weights=torch.ones(2, 3))
    with pytest.raises(InputError, match=r"got weights \(3, 2\).*\(2, 3\)"):
        semantic_calibration(drawn(PROJECTED), teacher, weights=torch.ones(3, 2))
    with pytest.raises(InputError, match="with its channels"):
        semantic_calibration(drawn(PROJECTED)[:5], teacher, weights=torch.ones(2, 3))
    with pytest.raises(InputError, match="with its channels"):
        semantic_calibration(teacher[::-1], teacher, weights=torch.ones(1, 3))
