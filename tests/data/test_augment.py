"""Augmentation: the same view of a sample is the same picture, wherever it is asked for."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from limbeck.data import Augmentation, Crop, Cutout, Flip, ResizedCrop, operation
from limbeck.data.augment import Draw
from limbeck.data.random import key
from limbeck.data.samples import Batch

ALL = Augmentation((Crop(3), Flip(), Cutout(4)), seed=5)


def pictures(count: int, size: int = 12, channels: int = 3) -> Tensor:
    return torch.arange(count * channels * size * size).view(count, channels, size, size) + 1.0


def batch(images: Tensor, ids: list[int] | Tensor, view: int = 0) -> Batch:
    named = torch.as_tensor(ids)
    return {"inputs": images, "id": named, "view": torch.full_like(named, view)}


def shown(augment: Augmentation, images: Tensor, ids: list[int] | Tensor, view: int = 0) -> Tensor:
    return augment(batch(images, ids, view))["inputs"]


def test_the_batch_does_not_matter() -> None:
    """A teacher's stored answer about one crop would be given for another."""
    images, ids = pictures(20), torch.arange(20) * 7
    whole = shown(ALL, images, ids, view=3)
    order = torch.randperm(20)
    assert torch.equal(shown(ALL, images[order], ids[order], view=3), whole[order])
    for row in (0, 7, 19):
        assert torch.equal(shown(ALL, images[[row]], ids[[row]], view=3)[0], whole[row])


def test_the_process_does_not_matter() -> None:
    """Knowledge is written by one process and replayed by another."""
    code = """
import hashlib, torch
from limbeck.data import *
images = (torch.arange(8 * 3 * 144) % 251).view(8, 3, 12, 12).to(torch.uint8)
augment = Augmentation((Crop(3), Flip(), Cutout(4)), seed=5)
found = augment({"inputs": images, "id": torch.arange(8), "view": torch.full((8,), 2)})["inputs"]
print(hashlib.sha256(found.contiguous().numpy().tobytes()).hexdigest())
"""
    scope: dict[str, object] = {"print": lambda text: scope.update(printed=text)}
    exec(code, scope)
    assert (
        subprocess.check_output([sys.executable, "-c", code], text=True).strip()
        == (scope["printed"])
    )


@pytest.mark.parametrize("change", ["view", "seed", "id"])
def test_what_matters(change: str) -> None:
    """Every epoch would show the same crop, or all samples would move together."""
    images = pictures(1).expand(200, -1, -1, -1)
    one = shown(ALL, images, torch.arange(200))
    other = {
        "view": lambda: shown(ALL, images, torch.arange(200), view=1),
        "seed": lambda: shown(Augmentation(ALL.operations, 6), images, torch.arange(200)),
        "id": lambda: shown(ALL, images, torch.arange(200) + 200),
    }[change]()
    same = (one == other).flatten(1).all(1).float().mean()
    assert same < 0.1


def test_operations_have_their_own_numbers() -> None:
    """Two crops in a row would move the same way."""
    images = pictures(1).expand(300, -1, -1, -1)
    once = shown(Augmentation((Crop(2),)), images, torch.arange(300))
    twice = shown(Augmentation((Crop(2), Crop(2))), images, torch.arange(300))
    assert not torch.equal(once, twice)
    # Both to the same corner happens to one in 25², if independent, not to one in 25.
    far = (twice[:, 0, 4, 4] == images[0, 0, 0, 0]).float().mean()
    assert far < 0.02


def test_other_fields_are_left_alone() -> None:
    """Labels would be cropped."""
    given = batch(pictures(4), [0, 1, 2, 3]) | {"targets": torch.arange(4), "depth": pictures(4)}
    found = Augmentation((Crop(2),), field="depth")(given)
    assert torch.equal(found["inputs"], given["inputs"])
    assert not torch.equal(found["depth"], given["depth"])
    assert torch.equal(found["targets"], given["targets"])
    assert given["depth"][0, 0, 0, 0] == 1  # the batch that came in is as it was


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bfloat16])
def test_dtype_and_layout_are_kept(dtype: torch.dtype) -> None:
    """uint8 pictures would become floats from 0 to 255."""
    images = (pictures(6) % 200).to(dtype)
    found = shown(ALL, images, torch.arange(6))
    assert found.dtype == dtype
    assert found.shape == images.shape
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(shown(ALL, last, torch.arange(6)), found)


def test_crop_against_a_loop() -> None:
    """Height and width would be exchanged, or the window be off by one."""
    images, ids = pictures(50, size=6)[..., :5], torch.arange(50)
    draw = Draw(key(0, ids, 0), stream=2)
    found = Crop(2)(images, draw).numpy()
    down, right = draw.integers(5, 0).tolist(), draw.integers(5, 1).tolist()
    for n in range(50):
        for c in range(3):
            for y in range(6):
                for x in range(5):
                    from_y, from_x = y + down[n] - 2, x + right[n] - 2
                    inside = 0 <= from_y < 6 and 0 <= from_x < 5
                    expected = images[n, c, from_y, from_x].item() if inside else 0.0
                    assert found[n, c, y, x] == expected


def test_crop_reaches_every_place_equally() -> None:
    """The outermost places would never be drawn."""
    draw = Draw(key(1, torch.arange(9000), 0), stream=0)
    for index in (0, 1):
        counts = np.bincount(draw.integers(9, index).numpy(), minlength=9)
        assert len(counts) == 9
        assert ((counts - 1000) ** 2 / 1000).sum() < 32  # 8 degrees of freedom


def test_flip_against_a_loop() -> None:
    """Pictures would be turned upside down, or all of them mirrored."""
    images, draw = pictures(40), Draw(key(0, torch.arange(40), 0), stream=0)
    found, mirrored = Flip(0.3)(images, draw), (draw.uniform() < 0.3).tolist()
    assert 2 <= sum(mirrored) <= 25
    for n in range(40):
        expected = np.fliplr(images[n].permute(1, 2, 0).numpy()) if mirrored[n] else None
        if expected is None:
            assert torch.equal(found[n], images[n])
        else:
            assert np.array_equal(found[n].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize(("probability", "share"), [(0.0, 0.0), (0.25, 0.25), (1.0, 1.0)])
def test_flip_probability(probability: float, share: float) -> None:
    """A probability of 1 would leave some as they are."""
    images = pictures(1).expand(4000, -1, -1, -1)[..., :2, :2]
    found = shown(Augmentation((Flip(probability),)), images, torch.arange(4000))
    moved = (found != images).flatten(1).any(1).double().mean()
    assert float(moved) == pytest.approx(share, abs=0.03 if 0 < share < 1 else 0)


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9])
def test_cutout_cuts_a_square_of_its_size(size: int) -> None:
    """An even size would cut a square one pixel too small (DeVries, Taylor 2017 cut size²)."""
    images = torch.ones(300, 2, 24, 20)
    found = shown(Augmentation((Cutout(size),)), images, torch.arange(300))
    gone = found[:, 0] == 0
    assert torch.equal(found[:, 1] == 0, gone)
    tall, wide = gone.any(2).sum(1), gone.any(1).sum(1)
    assert torch.equal(tall * wide, gone.flatten(1).sum(1))  # a rectangle without holes
    assert tall.max() == size
    assert wide.max() == size
    whole = (tall == size) & (wide == size)
    assert whole.float().mean() > 0.3  # the rest is cut by the edge
    assert gone.flatten(1).any(1).all()


def test_cutout_is_centred() -> None:
    """The square would lie on one side of the pixel that was drawn."""
    images = torch.ones(4000, 1, 16, 16)
    gone = shown(Augmentation((Cutout(5),)), images, torch.arange(4000)) == 0
    often = gone.float().mean(0)[0]
    assert torch.allclose(often, often.flip(0), atol=0.05)
    assert torch.allclose(often, often.flip(1), atol=0.05)


def test_nothing_to_do_changes_nothing() -> None:
    """A loader without operations would still copy or scale."""
    images = pictures(3)
    assert torch.equal(shown(Augmentation(), images, [0, 1, 2]), images)


class Brighten:
    """An operation of a user's own."""

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        return images * (1 + draw.uniform().float().view(-1, 1, 1, 1))


def brighten(images: Tensor, draw: Draw) -> Tensor:
    return images + draw.uniform().float().view(-1, 1, 1, 1)


@pytest.mark.parametrize("own", [Brighten(), brighten])
def test_own_operations(own: object) -> None:
    """The protocol would need more than a call."""
    augment = Augmentation((Flip(), own))
    images = pictures(5)
    assert torch.equal(
        shown(augment, images, torch.arange(5)), shown(augment, images, torch.arange(5))
    )


def test_fingerprints() -> None:
    """Old knowledge would be replayed against other crops."""
    base = Augmentation((Crop(4), Flip()), seed=0)
    others = [
        Augmentation((Crop(3), Flip()), seed=0),
        Augmentation((Flip(), Crop(4)), seed=0),
        Augmentation((Crop(4), Flip()), seed=1),
        Augmentation((Crop(4), Flip(0.4)), seed=0),
        Augmentation((Crop(4),), seed=0),
        Augmentation((Crop(4), Flip()), seed=0, field="other"),
        Augmentation((Crop(4), brighten), seed=0),
    ]
    texts = [base.fingerprint(), *(augment.fingerprint() for augment in others)]
    assert len(set(texts)) == len(texts)
    assert base.fingerprint() == Augmentation([Crop(4), Flip()], seed=0).fingerprint()
    assert "0x" not in Augmentation((brighten,)).fingerprint()  # no address: another process's


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("crop", (4,), Crop(4)),
        ("flip", (), Flip()),
        ("flip", (0.3,), Flip(0.3)),
        ("cutout", (6,), Cutout(6)),
    ],
)
def test_by_name(name: str, options: tuple[float, ...], expected: object) -> None:
    """A recipe's ``crop: 4`` would pad by something else."""
    assert operation(name, *options) == expected


@pytest.mark.parametrize("name", ["crop", "cutout"])
@pytest.mark.parametrize("pixels", [0, -1, 2.5])
def test_impossible_sizes(name: str, pixels: float) -> None:
    """Half a pixel would fail at the first batch, none at all do nothing."""
    with pytest.raises(ValueError, match="whole number of pixels"):
        operation(name, pixels)


def test_by_a_wrong_name() -> None:
    """A typing error in a recipe would end in a KeyError."""
    with pytest.raises(ValueError, match="did you mean 'crop'"):
        operation("corp", 4)
    with pytest.raises(ValueError, match="at most one number"):
        operation("crop", 4, 5)


def test_a_resized_crop_is_a_part_of_the_image() -> None:
    """A network for ImageNet would be trained on stretched, aliased or always the same parts."""
    side, keys = 40, key(0, torch.arange(400), 0)
    down = torch.arange(side).view(1, 1, side, 1).expand(400, 1, side, side)
    across = down.transpose(2, 3)
    found = operation("resized_crop", 24)(torch.cat([down, across], 1).float(), Draw(keys, 0))
    assert found.shape == (400, 2, 24, 24)
    heights = (found[:, 0, -1, 0] - found[:, 0, 0, 0]) * 24 / 23
    widths = (found[:, 1, 0, -1] - found[:, 1, 0, 0]) * 24 / 23
    areas = heights * widths / side**2
    assert 0.06 < float(areas.min()) < 0.14
    assert 0.85 < float(areas.max()) < 1.1
    # Uniform but for sides that are cut to the image's.
    assert abs(float(areas.mean()) - 0.52) < 0.04
    noise = torch.randint(256, (1, 3, 40, 40), dtype=torch.uint8)
    draw = Draw(key(0, torch.tensor([3]), 0), 0)
    ratio, above, before = (float(draw.uniform(index)) for index in (1, 2, 3))
    ratio = (4 / 3) ** (2 * ratio - 1)  # of width to height
    rows, columns = (min(40, round(40 * side**0.5)) for side in (1 / ratio, ratio))
    top, left = int(above * (41 - rows)), int(before * (41 - columns))
    image = Image.fromarray(noise[0].permute(1, 2, 0).numpy())
    part = image.crop((left, top, left + columns, top + rows))
    wanted = np.asarray(part.resize((16, 16), Image.Resampling.BILINEAR)).astype(int)
    small = ResizedCrop(16, smallest=1.0)(noise, draw)[0].permute(1, 2, 0)
    assert np.abs(small.numpy().astype(int) - wanted).max() <= 1
