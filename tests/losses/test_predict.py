"""VID, MGD and ReviewKD against recorded numbers, loops in NumPy, torch, and the contract."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from recorded import fill
from recorded_modules import learns, loaded, names
from recorded_parts import breaches, parameter_breaches, raw, tensor
from torch import Tensor, nn

from limbeck.losses import predict
from limbeck.losses.predict import (
    MaskedGenerative,
    Review,
    Variational,
    masked_generative,
    review,
    variational,
)
from limbeck.losses.spec import Setting, spec_of
from limbeck.testing import check_loss

MAPS = [((6, 3, 4, 4), (6, 3, 4, 4))]
POSITIONS = [((6, 3, 4, 4), (6, 5, 4, 4))]
STAGES = (
    ((6, 3, 8, 8), (6, 4, 4, 4), (6, 6, 2, 2), (6, 6)),
    ((6, 2, 8, 8), (6, 5, 4, 4), (6, 7, 2, 2), (6, 8)),
)


def sides(case: dict[str, Any]) -> tuple[Tensor, Tensor]:
    student, teacher = (tensor(case["inputs"][side]) for side in ("student", "teacher"))
    return student.requires_grad_(True), teacher


def stages(seed: int = 0) -> list[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randn(shape, generator=generator) for shape in side) for side in STAGES]


def fusion() -> Review:
    return Review((3, 4, 6, 6), (2, 5, 7, 8))


def test_the_losses_declare_themselves() -> None:
    """A loss of another family, or without a source, would be missing in the catalogue."""
    losses = [getattr(predict, name) for name in predict.__all__]
    assert {spec_of(loss).family for loss in losses} == {"feature"}
    assert all(spec_of(loss).source for loss in losses)


@pytest.mark.parametrize("number", [0, 1])
def test_variational_as_recorded(number: int) -> None:
    """The variance would be a deviation, or the regressor another network."""
    case = raw("variational")[number]
    student, teacher = sides(case)
    loss = Variational(8, 12, initial_variance=case["options"].get("init_pred_var", 1.0))
    if number == 1:
        scale = case["parameters"][0]["constant"]
        assert loss.log_scale.tolist() == pytest.approx([scale] * 12, rel=1e-6)
    recorded = loaded(loss, case)
    value = loss(student, teacher)
    assert not breaches(case, value, {"student_gradient": student}, factor=case["to_paper"])
    named = {recorded[n]: p for n, p in loss.named_parameters()}
    assert not parameter_breaches(case, value, named, factor=case["to_paper"])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_masked_generative_as_recorded(number: int) -> None:
    """The mask would hide the wrong places, or the generator be another network."""
    case = raw("masked_generative")[number]
    student, teacher = sides(case)
    places, drop = case["options"]["mask"], case["options"]["drop"]
    loss = MaskedGenerative(8, teacher.shape[1], drop=drop, places=places)
    recorded = loaded(loss, case)
    shape = [4, teacher.shape[1], 1, 1] if places == "channels" else [4, 1, 6, 6]
    uniform = (torch.from_numpy(fill(shape, 51, 1)) + 1) / 2
    keep = uniform >= drop if places == "channels" else uniform <= 1 - drop
    value = loss(student, teacher, keep=keep)
    assert not breaches(case, value, {"student_gradient": student}, factor=case["to_paper"])
    named = {recorded[n]: p for n, p in loss.named_parameters()}
    assert not parameter_breaches(case, value, named, factor=case["to_paper"])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_hierarchical_loss_as_recorded(number: int) -> None:
    """The sizes would have other weights, above all where the map is small."""
    case = raw("review")[number]
    student, teacher = sides(case)
    value = review(student, teacher)
    assert not breaches(case, value, {"student_gradient": student}, factor=case["to_paper"])


def test_review_as_recorded() -> None:
    """The stages would be fused in another order, or the attention maps exchanged."""
    case = raw("review")[3]
    student, teacher = (tensor(case["inputs"][side]) for side in ("student", "teacher"))
    leaves = {f"student_gradient_{i}": s.requires_grad_(True) for i, s in enumerate(student)}
    loss = Review(case["options"]["in_channels"], case["options"]["out_channels"])
    order = [n for i in (3, 2, 1, 0) for n in names(loss) if n.startswith(f"stages.{i}.")]
    recorded = loaded(loss, case, order)
    value = loss(student, teacher)
    assert not breaches(case, value, leaves, factor=case["to_paper"])
    named = {recorded[n]: p for n, p in loss.named_parameters()}
    assert not parameter_breaches(case, value, named, factor=case["to_paper"])


def test_variational_against_torch() -> None:
    """The halves and logarithms would differ from a Gaussian's likelihood."""
    numbers = np.random.default_rng(1)
    student, teacher = (torch.from_numpy(x) for x in numbers.normal(size=(2, 4, 3, 2, 2)))
    variance = torch.from_numpy(numbers.random(3) + 0.1)
    wide = variance.view(1, 3, 1, 1).expand(4, 3, 2, 2)
    expected = F.gaussian_nll_loss(student, teacher, wide, reduction="sum") / 4
    value = variational(student, teacher, variance=variance)
    assert float(value) == pytest.approx(float(expected), rel=1e-10)


def test_variational_by_hand() -> None:
    """log σ would be log σ²."""
    variance = torch.tensor([math.e**2], dtype=torch.float64)
    value = variational(*torch.tensor([[[3.0]], [[1.0]]]).double(), variance=variance)
    assert float(value) == pytest.approx(1 + 4 / (2 * math.e**2), rel=1e-10)


def test_masked_generative_by_hand() -> None:
    """What is hidden would leak, or what is kept be scaled as dropout does."""
    student = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    teacher = torch.zeros(1, 2, 1, 2)
    for keep, expected in (([[[[1.0, 0.0]]]], 10.0), ([[[[0.0]], [[1.0]]]], 25.0)):
        value = masked_generative(
            student, teacher, keep=torch.tensor(keep), generator=nn.Identity()
        )
        assert float(value) == expected


@pytest.mark.parametrize("size", [(8, 8), (5, 5), (4, 4), (2, 2), (1, 1), (8, 6)])
def test_hierarchical_loss_against_a_loop(size: tuple[int, int]) -> None:
    """Cells of an odd map would be cut in another way."""
    numbers = np.random.default_rng(2)
    student, teacher = numbers.normal(size=(2, 3, 2, *size))
    gap, weight, weights = student - teacher, 1.0, 1.0
    total = (gap**2).mean()
    for cells in (4, 2, 1):
        if cells >= min(size):
            continue
        weight /= 2
        weights += weight
        pooled = np.zeros((3, 2, cells, cells))
        for i, j in np.ndindex(cells, cells):
            rows, columns = (
                slice(n * side // cells, -(-(n + 1) * side // cells))
                for n, side in zip((i, j), size, strict=True)
            )
            pooled[:, :, i, j] = gap[:, :, rows, columns].mean((2, 3))
        total += weight * (pooled**2).mean()
    value = review(torch.from_numpy(student), torch.from_numpy(teacher))
    assert float(value) == pytest.approx(total / weights, rel=1e-10)


def test_review_adds_stages() -> None:
    """Stages would be averaged, or the first one alone be counted."""
    own, theirs = ((torch.randn(2, 3, n, n) for n in (8, 4)) for _ in range(2))
    own, theirs = tuple(own), tuple(theirs)
    parts = [review(s, t) for s, t in zip(own, theirs, strict=True)]
    assert float(review(own, theirs)) == pytest.approx(float(sum(parts)), rel=1e-6)


def test_functions_keep_the_contract() -> None:
    """Half precision, parts or the order of samples would change the value."""
    variance = torch.tensor([0.5, 1.0, 2.0])
    check_loss(variational, variance=variance, shapes=[*MAPS, ((6, 3), (6, 3))])
    check_loss(
        masked_generative,
        shapes=MAPS,
        keep=torch.tensor([1.0, 0.0, 1.0, 1.0]),
        generator=torch.tanh,
    )
    two = ((6, 3, 8, 8), (6, 5, 4, 4))
    check_loss(review, shapes=[*MAPS, (two, two)])


def test_modules_keep_the_contract() -> None:
    """Autocast or half precision would reach the networks of a loss."""
    check_loss(Variational(3, 5), shapes=POSITIONS)
    check_loss(Variational(3, 5, hidden=4), shapes=[((6, 3), (6, 5))])
    keep = torch.tensor([1.0, 0.0, 1.0, 1.0])
    check_loss(MaskedGenerative(3, 5), shapes=POSITIONS, keep=keep)
    check_loss(MaskedGenerative(3, 3), shapes=MAPS, keep=keep)
    check_loss(fusion(), shapes=[STAGES])


@pytest.mark.parametrize("make", [lambda: Variational(3, 5), lambda: MaskedGenerative(3, 5)])
def test_modules_learn(make: Any) -> None:
    """Parameters would be kept in a list: never trained, moved or saved."""
    loss, other = make(), make()
    student, teacher = torch.randn(4, 3, 4, 4), torch.randn(4, 5, 4, 4)
    options = {} if isinstance(loss, Variational) else {"keep": torch.ones(1)}
    assert not learns(loss, student, teacher, **options)
    assert not torch.equal(loss(student, teacher, **options), other(student, teacher, **options))
    other.load_state_dict(loss.state_dict())
    assert torch.equal(loss(student, teacher, **options), other(student, teacher, **options))


def test_review_learns() -> None:
    """A stage would be left out of the fusion."""
    loss, other = fusion(), fusion()
    assert not learns(loss, *stages())
    other.load_state_dict(loss.state_dict())
    assert torch.equal(loss.eval()(*stages()), other.eval()(*stages()))


def test_deep_stages_of_the_student_learn_from_shallow_ones_of_the_teacher() -> None:
    """Without the fusion, ReviewKD would be stage by stage."""
    loss = fusion()
    own, theirs = stages()
    leaf = own[3].clone().requires_grad_(True)
    before, after = (
        torch.autograd.grad(loss((*own[:3], leaf), (shallow, *theirs[1:])), leaf)[0]
        for shallow in (theirs[0], -theirs[0])
    )
    assert not torch.allclose(before, after)


def test_variance_grows_where_the_student_cannot_predict() -> None:
    """Every channel would count alike."""
    loss = Variational(3, 2, initial_variance=1.0)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    student = torch.randn(16, 3)
    teacher = torch.stack([torch.zeros(16), 4 * torch.randn(16)], dim=1)
    for _ in range(60):
        optimizer.zero_grad()
        loss(student, teacher).backward()
        optimizer.step()
    quiet, loud = loss.variance().tolist()
    assert quiet < 0.7
    assert loud > 1.5


@pytest.mark.parametrize(("places", "shape"), [("positions", (64, 1, 9, 9)), ("channels", None)])
def test_masks_are_drawn(places: Any, shape: tuple[int, ...] | None) -> None:
    """All samples would share a mask, or the probability be turned round."""
    maps = torch.zeros(64, 20, 9, 9)
    loss = MaskedGenerative(20, 20, drop=0.3, places=places)
    mask = loss.drawn(maps, torch.Generator().manual_seed(1))
    assert mask.shape == (shape or (64, 20, 1, 1))
    assert float(mask.float().mean()) == pytest.approx(0.7, abs=0.05)
    assert not torch.equal(mask[0], mask[1])
    again = loss.drawn(maps, torch.Generator().manual_seed(1))
    assert torch.equal(mask, again)
    assert not torch.equal(loss.drawn(maps), loss.drawn(maps))


def test_drop_has_ends() -> None:
    """Nothing hidden and everything hidden would be off by one place."""
    maps = torch.zeros(8, 2, 5, 5)
    assert MaskedGenerative(2, 2, drop=0.0).drawn(maps).all()
    assert not MaskedGenerative(2, 2, drop=1.0).drawn(maps).any()


def test_a_generator_makes_it_repeatable() -> None:
    """A run could not be resumed where the masks come from nowhere."""
    loss = MaskedGenerative(3, 5)
    student, teacher = torch.randn(4, 3, 4, 4), torch.randn(4, 5, 4, 4)
    first, second, other = (
        loss(student, teacher, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    given = loss.drawn(student, torch.Generator().manual_seed(1))
    assert torch.equal(loss(student, teacher, keep=given), first)


def test_modules_are_built_from_tensors() -> None:
    """A match would have to know the channels of its layers."""
    setting = Setting(nn.Identity())
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 6, 4, 4)
    vid = Variational.build(student, teacher, setting, hidden=5, initial_variance=2.0)
    mgd = MaskedGenerative.build(student, teacher, setting, drop=0.2, places="channels")
    assert vid.variance().tolist() == pytest.approx([2.0] * 6, rel=1e-5)
    assert (mgd.drop, mgd.places) == (0.2, "channels")
    fused = Review.build(*stages(), setting, width=4)
    assert torch.isfinite(fused(*stages()))
    assert all(torch.isfinite(loss(student, teacher)) for loss in (vid, mgd))
    same = MaskedGenerative.build(teacher, teacher, setting)
    assert not list(same.align.parameters())


def test_review_takes_other_sizes() -> None:
    """Maps that are not square, or another size than the teacher's, would be refused."""
    loss = Review((3, 4), (2, 5), width=6)
    own = torch.randn(2, 3, 8, 6), torch.randn(2, 4, 4, 3)
    theirs = torch.randn(2, 2, 16, 12), torch.randn(2, 5, 2, 2)
    value = loss(own, theirs)
    value.backward()
    assert torch.isfinite(value)


@pytest.mark.parametrize("zero", [False, True])
def test_one_sample(zero: bool) -> None:
    """Batch statistics of one pooled feature would stop the run at the last batch."""
    own, theirs = ([t[:1] * (not zero) for t in side] for side in stages())
    own = [t.requires_grad_(True) for t in own]
    value = fusion().train()(own, theirs)
    value.backward()
    assert torch.isfinite(value)
    assert all(torch.isfinite(t.grad).all() for t in own)
    for loss in (Variational(3, 2), MaskedGenerative(3, 2)):
        value = loss(own[0], theirs[0])
        value.backward()
        assert torch.isfinite(value)


ONES = torch.ones(3)


@pytest.mark.parametrize(
    ("loss", "student", "teacher", "message"),
    [
        (lambda s, t: variational(s, t, variance=ONES), (4, 3), (4, 1), "the same shape"),
        (lambda s, t: variational(s, t, variance=ONES), (4, 5), (4, 5), "per channel"),
        (lambda s, t: variational(s, t, variance=ONES), (4, 3, 2), (4, 3, 2), "per channel"),
        (Variational(3, 5), (4, 3, 2, 2), (4, 5, 2, 4), "the same shape"),
        (MaskedGenerative(3, 5), (4, 3, 2, 2), (4, 5, 2, 4), "the same shape"),
        (review, (4, 3, 2, 2), (4, 1, 2, 2), "the same shape"),
        (review, (4, 3), (4, 3), "maps"),
        (lambda s, t: review((s, s), (t,)), (4, 3, 2, 2), (4, 3, 2, 2), "1 on each side"),
        (lambda s, t: fusion()((s,), (t,)), (4, 3, 2, 2), (4, 2, 2, 2), "4 on each side"),
    ],
)
def test_refuses(
    loss: Any, student: tuple[int, ...], teacher: tuple[int, ...], message: str
) -> None:
    """Broadcasting would compare what does not belong together."""
    with pytest.raises(ValueError, match=message):
        loss(torch.randn(student), torch.randn(teacher))


@pytest.mark.parametrize("shape", [(3,), (4, 2, 2, 2), (1, 4, 3, 2, 2), (2, 1, 2, 2)])
def test_refuses_masks_that_do_not_fit(shape: tuple[int, ...]) -> None:
    """A mask would be broadcast over the wrong dimension, or widen the maps."""
    maps = torch.randn(4, 3, 2, 2)
    with pytest.raises(ValueError, match="broadcasts"):
        masked_generative(maps, maps, keep=torch.ones(shape), generator=nn.Identity())


def test_refuses_impossible_options() -> None:
    """A probability of 40 or a variance of 0 would train to nothing."""
    with pytest.raises(ValueError, match="a probability"):
        MaskedGenerative(3, 3, drop=40)
    with pytest.raises(ValueError, match="initial_variance"):
        Variational(3, 3, initial_variance=0.0)
    with pytest.raises(ValueError, match="on each side"):
        Review((3, 4), (3,))
    with pytest.raises(ValueError, match="keep the shape"):
        masked_generative(
            torch.ones(1, 1, 2, 2),
            torch.ones(1, 1, 2, 2),
            keep=torch.ones(1),
            generator=lambda maps: maps[..., :1],
        )
