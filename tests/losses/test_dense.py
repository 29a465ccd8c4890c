"""Losses of detection and segmentation, against the authors' numbers, loops and their contract."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from recorded import cases
from recorded_parts import breaches, parameter_breaches, parameters, raw, tensor
from scipy.stats import entropy
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.losses.dense import FocalGlobal, focal_global, localization, pair_wise, pixel_wise
from limbeck.losses.spec import Setting, spec_of
from limbeck.testing import check_loss

MAPS = (6, 3, 4, 4)


def test_localization_as_recorded() -> None:
    """The bins would be averaged, T² left out, or the temperature forgotten."""
    [case] = cases("localization")
    assert case.options == {"temperature": 10.0}
    assert not case.breaches(localization)
    assert not replace(case, options={}).breaches(localization)


def test_localization_in_the_head_as_recorded() -> None:
    """A box's quality would weigh its edges in another way than in the authors' head."""
    case = raw("localization")[1]
    student, teacher = (tensor(case["inputs"][side]) for side in ("student", "teacher"))
    weights = tensor(case["inputs"]["weight"])[:, None].expand(2, 4)
    student.requires_grad_(True)
    sides = student.view(2, 4, 17), teacher.view(2, 4, 17)
    # Their .25 × sum over 8 edges / 4 of the mean over 17 bins; ours is the mean over 8 edges.
    value = localization(*sides, weights=weights) * 0.25 * 8 / 4 / 17
    assert not breaches(case, value, {"student_gradient": student})


def test_localization_against_scipy() -> None:
    """The divergence would be taken from the student to the teacher."""
    numbers = np.random.default_rng(1)
    student, teacher = numbers.normal(size=(5, 9)), numbers.normal(size=(5, 9))
    q, p = (np.exp(x / 3) / np.exp(x / 3).sum(1, keepdims=True) for x in (student, teacher))
    value = localization(torch.from_numpy(student), torch.from_numpy(teacher), temperature=3.0)
    assert float(value) == pytest.approx(9 * entropy(p, q, axis=1).mean(), rel=1e-10)


def test_localization_keeps_the_contract() -> None:
    """Extreme logits, masks, chunks or T² would break it."""
    check_loss(localization)
    check_loss(localization, temperature=2.0, shapes=[((6, 4, 17), (6, 4, 17))])


def test_localization_refuses_weights_of_boxes() -> None:
    """One weight per box would be broadcast over the wrong dimension."""
    edges = torch.randn(4, 4, 17)
    with pytest.raises(InputError, match="one weight per edge"):
        localization(edges, edges, weights=torch.ones(4))


def test_pixel_wise_as_recorded() -> None:
    """Classes would be taken for positions, or samples summed."""
    [case] = raw("pixel_wise")
    student, teacher = (tensor(case["inputs"][side]) for side in ("student", "teacher"))
    leaves, factor = {"student_gradient": student.requires_grad_(True)}, case["to_paper"]
    value = pixel_wise(student, teacher, form="cross_entropy")
    assert not breaches(case, value, leaves, factor=factor)
    # The divergence is less by the teacher's entropy, and has the same gradient.
    surprise = entropy(teacher.softmax(1).numpy(), axis=1).mean()
    assert not breaches(case, pixel_wise(student, teacher) + surprise, leaves, factor=factor)


def test_pixel_wise_against_scipy() -> None:
    """Pixels that do not count would enter, or images be weighed by their size."""
    numbers = np.random.default_rng(1)
    student, teacher = (numbers.normal(size=(2, 3, 4, 5)) for _ in range(2))
    mask = numbers.random((2, 4, 5)) < 0.5
    q, p = (np.exp(x / 2) / np.exp(x / 2).sum(1, keepdims=True) for x in (student, teacher))
    pixels = 4 * entropy(p, q, axis=1)
    expected = (pixels[0][mask[0]].mean() + pixels[1][mask[1]].mean()) / 2
    sides = torch.from_numpy(student), torch.from_numpy(teacher)
    value = pixel_wise(*sides, temperature=2.0, mask=torch.from_numpy(mask))
    assert float(value) == pytest.approx(expected, rel=1e-10)
    assert float(pixel_wise(*sides, temperature=2.0)) == pytest.approx(pixels.mean(), rel=1e-10)


@pytest.mark.parametrize("form", ["kl", "cross_entropy"])
def test_pixel_wise_keeps_the_contract(form: str) -> None:
    """Chunks, masks, half precision or T² would break it."""
    spec = replace(spec_of(pixel_wise), zero_at_equal=form == "kl")
    check_loss(pixel_wise, spec=spec, shapes=[(MAPS, MAPS)], form=form)


def test_pixel_wise_leaves_ignored_pixels_out() -> None:
    """Border pixels, and images without a label, are NaN or count as zero."""
    mask = torch.zeros(3, 4, 4, dtype=torch.bool)
    mask[0, :2], mask[2, 1, 1] = True, True
    own, theirs = torch.randn(3, 5, 4, 4), torch.randn(3, 5, 4, 4)
    expected = (
        pixel_wise(own[:1, :, :2], theirs[:1, :, :2])
        + pixel_wise(own[2:, :, 1:2, 1:2], theirs[2:, :, 1:2, 1:2])
    ) / 2
    for side in (own, theirs):
        side.permute(0, 2, 3, 1)[~mask] = torch.nan
    own.requires_grad_(True)
    value = pixel_wise(own, theirs, mask=mask)
    value.backward()
    assert torch.isclose(value, expected, rtol=1e-5)
    assert torch.isfinite(own.grad).all()
    assert pixel_wise(own, theirs, mask=torch.zeros_like(mask)) == 0


def test_pixel_wise_survives_extreme_logits() -> None:
    """A confident teacher (±60,000) gives 0 · ∞."""
    own = (torch.randn(2, 3, 4, 4).sign() * 6e4).requires_grad_(True)
    theirs = torch.full((2, 3, 4, 4), -6e4)
    theirs[:, 0] = 6e4
    value = pixel_wise(own, theirs)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(own.grad).all()


@pytest.mark.parametrize(
    ("own", "theirs"),
    [((2, 3, 4, 4), (2, 3, 4, 2)), ((2, 3, 4, 4), (1, 3, 4, 4)), ((2, 3, 4), (2, 3, 4))],
)
def test_pixel_wise_refuses(own: tuple, theirs: tuple) -> None:
    """Maps of other size or batch would be broadcast."""
    with pytest.raises(InputError, match="pixel_wise got logits"):
        pixel_wise(torch.randn(own), torch.randn(theirs))


@pytest.mark.parametrize("case", cases("pair_wise"), ids=lambda case: case.name)
def test_pair_wise_as_recorded(case: object) -> None:
    """Patches would be of another size, or the gradient run through the length."""
    rows, columns = (int(number) for number in case.options["patches"].split("×"))
    ours = replace(case, options={"patches": (rows, columns), "form": "code"})
    assert not ours.breaches(pair_wise)


@pytest.mark.parametrize("patches", [2, (3, 2)])
def test_pair_wise_against_a_loop(patches: int | tuple[int, int]) -> None:
    """Averages would be taken over the wrong cells, or pairs counted once only."""
    numbers = np.random.default_rng(2)
    student, teacher = numbers.normal(size=(2, 3, 6, 4)), numbers.normal(size=(2, 5, 12, 8))
    rows, columns = (patches, patches) if isinstance(patches, int) else patches
    total = 0.0
    for b in range(2):
        tables = []
        for maps in (student[b], teacher[b]):
            high, wide = maps.shape[1] // rows, maps.shape[2] // columns
            means = [
                maps[:, r * high : (r + 1) * high, c * wide : (c + 1) * wide].mean((1, 2))
                for r in range(rows)
                for c in range(columns)
            ]
            tables.append([[f @ g / math.sqrt((f @ f) * (g @ g)) for g in means] for f in means])
        total += np.square(np.array(tables[0]) - np.array(tables[1])).mean() / 2
    value = pair_wise(torch.from_numpy(student), torch.from_numpy(teacher), patches=patches)
    assert float(value) == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("form", ["paper", "code"])
def test_pair_wise_keeps_the_contract(form: str) -> None:
    """Chunks, half precision or a gradient into the teacher would slip in."""
    if form == "paper":
        check_loss(pair_wise, shapes=[(MAPS, MAPS), (MAPS, (6, 5, 8, 8))])
        check_loss(pair_wise, shapes=[(MAPS, MAPS)], patches=4)
        return
    # The code's gradient is not that of its value: the length is held fixed.
    own = torch.randn(2, 3, 4, 4, requires_grad=True)
    pair_wise(own, torch.randn(2, 3, 4, 4), form="code").backward()
    assert own.grad.abs().sum() > 0


def test_pair_wise_survives_dead_maps() -> None:
    """The length of an empty patch is 0."""
    own = torch.zeros(1, 3, 4, 4, requires_grad=True)
    for form in ("paper", "code"):
        [gradient] = torch.autograd.grad(pair_wise(own, torch.randn(1, 3, 4, 4), form=form), own)
        assert torch.isfinite(gradient).all()
    with pytest.raises(InputError, match="pair_wise got maps"):
        pair_wise(own, torch.randn(2, 3, 4, 4))


def _boxes(case: dict) -> Tensor:
    """Return the recorded boxes of both images, padded to the same number."""
    boxes = [tensor(case["inputs"][f"box{i}"]) for i in range(2)]
    return nn.utils.rnn.pad_sequence(boxes, batch_first=True)


NAMES = {
    "align.": "align.",
    "conv_mask_s.": "student_context.attend.",
    "conv_mask_t.": "teacher_context.attend.",
    "channel_add_conv_s.": "student_context.transform.",
    "channel_add_conv_t.": "teacher_context.transform.",
}


KEYS = ("alpha", "beta", "gamma", "relation")


def _renamed(key: str) -> str:
    prefix = next(prefix for prefix in NAMES if key.startswith(prefix))
    return NAMES[prefix] + key.removeprefix(prefix)


@pytest.mark.parametrize("number", range(6))
def test_focal_global_as_recorded(number: int) -> None:
    """Masks, attentions or contexts would differ from the authors' in scale or place."""
    case = raw("focal_global")[number]
    student, teacher = (tensor(case["inputs"][side]) for side in ("student", "teacher"))
    weights = dict(zip(KEYS, case["options"]["weights"], strict=True))
    options = {**weights, "attention": case["options"]["temperature"], "form": "code"}
    module = FocalGlobal(student.shape[1], teacher.shape[1], image=(64, 64), **options).double()
    module.load_state_dict({_renamed(key): value for key, value in parameters(case).items()})
    value = module(student.requires_grad_(True), teacher, targets=_boxes(case))
    assert not breaches(case, value, {"student_gradient": student})
    if weights["relation"]:
        own = dict(module.named_parameters())
        named = {key: own[_renamed(key)] for key in case["parameter_gradient_checks"]}
        assert not parameter_breaches(case, value, named)


def test_focal_global_against_a_loop() -> None:
    """A box would cover other cells than those it touches, or the larger of two would win."""
    numbers = np.random.default_rng(3)
    student, teacher = numbers.normal(size=(2, 1, 2, 4, 4))
    boxes = [(2.0, 1.0, 9.0, 8.0), (8.0, 4.0, 12.0, 16.0)]  # of an image 16 wide and 16 high
    covered = [([0, 1, 2], [0, 1]), ([2], [1, 2, 3])]  # columns and rows of cells 4 wide
    objects = np.zeros((4, 4))
    for columns, rows in covered:
        for y in rows:
            for x in columns:
                objects[y, x] = max(objects[y, x], 1 / (len(columns) * len(rows)))
    background = (objects == 0) / (objects == 0).sum()
    spatial = np.exp(np.abs(teacher[0]).mean(0) / 0.5)
    spatial *= 16 / spatial.sum()
    channel = np.exp(np.abs(teacher[0]).mean((1, 2)) / 0.5)
    channel *= 2 / channel.sum()
    expected = sum(
        (2 * objects[y, x] + 3 * background[y, x])
        * spatial[y, x]
        * channel[c]
        * (student[0, c, y, x] - teacher[0, c, y, x]) ** 2
        for c in range(2)
        for y in range(4)
        for x in range(4)
    )
    sides = torch.from_numpy(student), torch.from_numpy(teacher)
    targets = torch.tensor([boxes])
    value = focal_global(*sides, targets=targets, image=(16, 16), alpha=2.0, beta=3.0, gamma=0.0)
    assert float(value) == pytest.approx(expected, rel=1e-6)  # the boxes are float32


def test_images_without_a_box() -> None:
    """An image without objects is background alone, also in a batch where none has a box."""
    own, theirs = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    padding = torch.tensor([[0.0, 0, 0, 0], [5, 5, 5, 9], [torch.nan] * 4])
    options = {"image": (16, 16), "gamma": 0.0}
    values = [
        focal_global(own, theirs, targets=boxes, **options)
        for boxes in (torch.zeros(2, 0, 4), torch.zeros(2, 1, 4).long(), padding.expand(2, 3, 4))
    ]
    assert values[0] > 0
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])


def test_an_object_that_fills_the_image() -> None:
    """Without background, its weight would be 0 / 0."""
    own = torch.randn(1, 3, 4, 4, requires_grad=True)
    boxes = torch.tensor([[[0.0, 0, 16, 16]]])
    value = focal_global(own, torch.randn(1, 3, 4, 4), targets=boxes, image=(16, 16))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(own.grad).all()


def test_an_image_that_is_not_square() -> None:
    """Height and width would be exchanged: (height, width) of the image, x before y in a box."""
    own, theirs = torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4)
    theirs[..., 0, 3] = 1.0
    options = {"image": (20, 40), "alpha": 1.0, "beta": 0.0, "gamma": 0.0, "attention": 1e6}
    upper_right = torch.tensor([[[30.0, 0.0, 40.0, 10.0]]])
    value = focal_global(own, theirs, targets=upper_right, **options)
    assert float(value) == pytest.approx(1.0, rel=1e-5)
    lower_left = torch.tensor([[[0.0, 10.0, 10.0, 20.0]]])
    assert focal_global(own, theirs, targets=lower_left, **options) == 0


def _some_boxes() -> Tensor:
    corners = torch.rand(6, 3, 2, generator=torch.Generator().manual_seed(1)) * 20
    return torch.cat([corners, corners + 8], -1)


@pytest.mark.parametrize("form", ["paper", "code"])
def test_focal_global_keeps_the_contract(form: str) -> None:
    """Chunks, half precision or a gradient into the teacher would slip in."""
    options = {"targets": _some_boxes(), "image": (32, 32), "form": form}
    check_loss(focal_global, shapes=[(MAPS, MAPS)], **options)


def test_focal_global_module_keeps_the_contract_and_learns() -> None:
    """The contexts would see the teacher's gradient cut off from their own parameters."""
    torch.manual_seed(0)
    module = FocalGlobal(3, 5, image=(32, 32), relation=0.1)
    check_loss(module, shapes=[(MAPS, (6, 5, 4, 4))], targets=_some_boxes())
    student, teacher = torch.randn(MAPS), torch.randn(6, 5, 4, 4)
    kept = {key: value.clone() for key, value in module.state_dict().items()}
    optimizer = torch.optim.SGD(module.parameters(), lr=0.001)
    before = module(student, teacher, targets=_some_boxes()).detach()
    for _ in range(5):
        optimizer.zero_grad()
        module(student, teacher, targets=_some_boxes()).backward()
        optimizer.step()
    assert module(student, teacher, targets=_some_boxes()) < before
    changed = {k.split(".")[0] for k, v in module.state_dict().items() if not v.equal(kept[k])}
    assert changed == {"align", "student_context", "teacher_context"}
    other = FocalGlobal(3, 5, image=(32, 32), relation=0.1)
    other.load_state_dict(module.state_dict())
    values = [m(student, teacher, targets=_some_boxes()) for m in (module, other)]
    assert torch.equal(*values)


def test_focal_global_is_built_for_the_maps_that_meet() -> None:
    """A recipe knows the image's size, not the channels."""
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    setting = Setting(nn.Identity())
    made = FocalGlobal.build(student, teacher, setting, image=(32, 32), alpha=0.5)
    assert made.weights["alpha"] == 0.5
    assert torch.isfinite(made(student, teacher, targets=_some_boxes()[:2]))


def test_focal_global_refuses() -> None:
    """Boxes of one image would be taken for all, or a channel be broadcast."""
    maps, options = torch.randn(2, 3, 4, 4), {"image": (16, 16)}
    with pytest.raises(InputError, match="focal_global got maps"):
        focal_global(maps, maps, targets=torch.zeros(1, 2, 4), **options)
    with pytest.raises(InputError, match="focal_global got maps"):
        focal_global(maps, maps, targets=torch.zeros(2, 4), **options)
    with pytest.raises(InputError, match="the same shape"):
        focal_global(maps, maps[:, :1], targets=torch.zeros(2, 1, 4), **options)
