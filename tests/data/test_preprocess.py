"""Normalisation is what its formula says, and is part of no checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck.data import CIFAR10, IMAGENET, Normalize
from limbeck.errors import InputError


@pytest.mark.parametrize("statistics", [CIFAR10, IMAGENET])
def test_against_a_loop(statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
    """Mean and deviation would be exchanged, or a channel be given another's."""
    images = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    found = Normalize(*statistics).double()(images).numpy()
    for channel, (mean, std) in enumerate(zip(*statistics, strict=True)):
        expected = (images[:, channel].numpy() - mean) / std
        assert np.allclose(found[:, channel], expected, atol=1e-6)


def test_published_statistics() -> None:
    """A digit wrong costs pretrained models accuracy, in silence."""
    assert IMAGENET == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert all(0.2 < std < 0.3 for std in CIFAR10[1])


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5,), (0.0,)), ((0.5,), (-1.0,)), ((0.5, 0.5), (1.0,)), ((), ())]
)
def test_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """A deviation of 0 gives infinite inputs."""
    with pytest.raises(ValueError, match="one mean and one std above 0"):
        Normalize(mean, std)


def test_shows_its_numbers_and_keeps_none() -> None:
    """Fingerprints rely on the first; a student's checkpoint must fit without the second."""
    one, other = Normalize((0.5,), (0.25,)), Normalize((0.5,), (0.125,))
    assert repr(one) != repr(other)
    assert "0.25" in repr(one)
    assert not one.state_dict()
    assert not list(one.parameters())


def test_images_of_another_size_are_resized_as_pillow_does_it() -> None:
    """A model would be shown aliased images, or ones of a size that it was not made for."""
    from PIL import Image

    pixels = torch.randint(256, (1, 1, 30, 24), dtype=torch.uint8)
    found = Normalize((0.0,), (1.0,), size=12)(pixels / 255)[0, 0]
    image = Image.fromarray(pixels[0, 0].numpy()).resize((12, 12), Image.Resampling.BILINEAR)
    assert (found - torch.from_numpy(np.asarray(image).copy()) / 255).abs().max() < 1 / 255
    same = torch.rand(2, 1, 12, 12)
    assert torch.equal(Normalize((0.0,), (1.0,), size=12)(same), same)
    assert "size=12" in repr(Normalize((0.0,), (1.0,), size=12))
    assert "size" not in repr(Normalize((0.0,), (1.0,)))
    with pytest.raises(InputError, match="size is 0"):
        Normalize((0.0,), (1.0,), size=0)
