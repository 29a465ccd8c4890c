"""Normalisation is what its formula says, and is part of no checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck.data import CIFAR10, IMAGENET, Normalize


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
