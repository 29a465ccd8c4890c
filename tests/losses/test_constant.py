"""Students that have learned nothing yet: logits that are all equal, or nearly."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from limbeck import losses
from limbeck.losses import dist, logit_standardized_kl, spherical


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("size", [0.0, 3.0])
@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (dist, {}),
        (logit_standardized_kl, {}),
        (logit_standardized_kl, {"correction": 0}),
        *((spherical, {"form": form}) for form in ("norm", "deviation", "layer_norm")),
    ],
)
def test_constant_logits_have_a_bounded_gradient(
    loss: Callable[..., Tensor], options: dict[str, Any], size: float, temperature: float
) -> None:
    """An output layer that begins at zero would get a gradient of a million at the first step."""
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(8, 10, generator=generator)
    noise = torch.randn(8, 10, generator=generator)
    largest = []
    for spread in (0.0, 1e-6, 1e-3, 1.0):
        student = (size + spread * noise).requires_grad_(True)
        loss(student, teacher, temperature=temperature, **options).backward()
        assert student.grad is not None
        largest.append(float(student.grad.abs().max()))
    assert max(largest[:3]) < 300 * max(largest[3], 0.01)  # 1/0.01, with room; was a million


@pytest.mark.parametrize("name", ["dist", "logit_standardized_kl", "spherical"])
def test_differences_of_a_hundredth_count_as_they_are(name: str) -> None:
    """The bound for constant logits would change ordinary values."""
    generator = torch.Generator().manual_seed(0)
    teacher, noise = (torch.randn(6, 9, generator=generator).double() for _ in range(2))
    own = (noise - noise.mean(1, keepdim=True)) / noise.std(1, keepdim=True)
    one, other = (losses.get(name)(own * spread, teacher) for spread in (0.02, 0.04))
    if name == "dist":  # is linear there, but for what softmax bends
        assert torch.isclose(one, other, rtol=0.02)
    else:
        assert torch.isclose(one, other, rtol=1e-4)
    assert not torch.isclose(losses.get(name)(own * 1e-5, teacher), one, rtol=1e-2)


def test_dist_shrinks_below_a_hundredth_and_not_above() -> None:
    """The correlation would jump where the bound sets in, or be cut for certain answers."""
    pattern = torch.tensor([[1.0, -1.0, 0.0, 0.0]], dtype=torch.float64)
    teacher = 3 * pattern
    for spread, share in ((0.1, 1.0), (0.02, 1.0), (1e-3, 0.1), (1e-4, 0.01)):
        scaled = spread * pattern / math.sqrt(0.5)  # of deviation `spread`
        full = 1 - float(dist(0.1 * pattern / math.sqrt(0.5), teacher, gamma=0.0))
        found = 1 - float(dist(scaled, teacher, gamma=0.0))
        assert found == pytest.approx(share * full, rel=0.4 if share < 1 else 0.05)
