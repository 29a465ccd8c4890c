"""FreeKD's prompts: the inverse transform, the masks and their likeness."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck.errors import InputError
from limbeck.losses import Frequency
from limbeck.losses.maps import haar
from limbeck.losses.prompts import FrequencyPrompt, alike, haar_inverse
from limbeck.methods import freekd, pretrain_prompt
from limbeck.tasks import Classification
from limbeck.testing import check_method


def maps(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_the_inverse_transform() -> None:
    """Bands would be told again in another place, or with another sign."""
    x = maps(2, 3, 6, 8)
    assert torch.allclose(haar_inverse(*haar(x)), x)
    low = torch.tensor([[[[3.0]]]])
    flat = haar_inverse(low, torch.zeros(1, 1, 3, 1, 1))
    assert torch.equal(flat, torch.full((1, 1, 2, 2), 1.5))


@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
def test_a_prompt_that_lets_all_through_changes_nothing(size: tuple[int, int]) -> None:
    """Levels would be put together in the wrong order, or a border be lost."""
    prompt = FrequencyPrompt(3, tokens=2, levels=2).double()
    with torch.no_grad():
        prompt.low.zero_()
        prompt.tokens.zero_()  # two masks of ½
    x = maps(2, 3, *size)
    told, likeness = prompt(x)
    assert torch.allclose(told, x)
    assert float(likeness.detach()) == pytest.approx(3.0)  # each band's masks are the same


def test_masks_in_numpy() -> None:
    """A mask would be made from another band, or from another token."""
    torch.manual_seed(0)
    prompt = FrequencyPrompt(3, tokens=2, levels=1).double()
    with torch.no_grad():
        prompt.tokens.mul_(100)
        prompt.low.mul_(100)
    x = maps(1, 3, 2, 2)
    a, b, c, d = x[0].flatten(1).numpy().T
    low = (a + b + c + d) / 2
    high = np.stack([a + b - c - d, a - b + c - d, a - b - c + d]) / 2
    masks = {}
    for name, tokens, band in (("low", prompt.low, low), ("high", prompt.tokens[0], high.sum(0))):
        masks[name] = 1 / (1 + np.exp(-(tokens.detach().numpy() @ band)))
    low, high = low * masks["low"].sum(), high * masks["high"].sum()
    expected = (low + high.sum(0)) / 2  # the upper left position
    told, likeness = prompt(x)
    assert np.allclose(told[0, :, 0, 0].detach().numpy(), expected)
    dice = sum(2 * m[0] * m[1] / (m[0] ** 2 + m[1] ** 2) for m in masks.values())
    assert float(likeness.detach()) == pytest.approx(dice)


def test_likeness_against_a_loop() -> None:
    """A mask would be compared with itself."""
    masks = maps(2, 3, 4, 4).sigmoid()
    rows = masks.flatten(2).numpy()
    values = [
        2 * (p @ q) / (p @ p + q @ q)
        for sample in rows
        for i, p in enumerate(sample)
        for j, q in enumerate(sample)
        if i != j
    ]
    assert float(alike(masks)) == pytest.approx(np.mean(values))
    assert float(alike(masks[:, :1])) == 0.0


def test_gradients_by_differences() -> None:
    """Tokens would learn in a wrong direction."""
    torch.manual_seed(0)
    prompt = FrequencyPrompt(2, tokens=2, levels=2).double()
    x, wanted = maps(1, 2, 4, 4), maps(1, 2, 4, 4, seed=1)

    def value(low: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        own = {"low": low, "tokens": tokens}
        told, likeness = torch.func.functional_call(prompt, own, (x,))
        return (told - wanted).square().sum() + likeness

    leaves = tuple(p.detach().clone().requires_grad_(True) for p in (prompt.low, prompt.tokens))
    assert torch.autograd.gradcheck(value, leaves)


def teacher() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.zeros(16, 1, 8, 8)
    images[::2, :, ::2] = 1.0  # stripes, or nothing
    return images, torch.arange(16) % 2


def test_pretraining_lowers_the_teachers_loss() -> None:
    """The student would look where nothing matters."""
    model, task = teacher(), Classification(2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    options = {"tap": "0", "batch_size": 8, "learning_rate": 0.1}
    state = torch.random.get_rng_state()
    fresh = pretrain_prompt(model, data(), task, epochs=0, **options)
    found = pretrain_prompt(model, data(), task, epochs=10, **options)
    again = pretrain_prompt(model, data(), task, epochs=10, **options)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(found, again)
    assert found.shape == (3, 2, 4)
    assert not torch.equal(found, fresh)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    with pytest.raises(InputError, match="maps"):
        pretrain_prompt(model, data(), task, tap="2")


def test_freekd_takes_prompts() -> None:
    """They would be drawn anew, or go to another tap."""
    prompts = [torch.randn(2, 3, 6), torch.randn(1, 2, 12)]
    taps = ["0", "3"]
    method = freekd(student=taps, teacher=taps, prompts=prompts)
    check_method(method)
    loss = Frequency(6, prompt=prompts[0])
    assert (loss.levels, loss.tokens.shape) == (2, (2, 3, 6))
    assert torch.equal(loss.tokens, prompts[0])
    assert not loss.tokens.requires_grad
    with pytest.raises(InputError, match="one for each"):
        freekd(prompts=prompts)
    with pytest.raises(InputError, match="maps of 5 channels"):
        Frequency(5, prompt=prompts[0])
    assert isinstance(method, lb.methods.Method)
