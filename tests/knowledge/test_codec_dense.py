"""Codecs that give back all numbers: how far off they are, at most."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from limbeck.errors import InputError
from limbeck.knowledge import codec

NO_KEYS = torch.zeros(0, dtype=torch.int64)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def back(found: codec.Codec, field: Tensor) -> Tensor:
    kept = found.encode(field, NO_KEYS)
    values = found.decode(kept, tuple(field.shape[1:]))
    assert isinstance(values, Tensor)
    return values


# -- int8


@pytest.mark.parametrize(
    ("shape", "within"), [((6, 20), (1,)), ((6, 5, 20), (2,)), ((6, 5, 4, 3), (2, 3))]
)
def test_int8_is_off_by_half_a_step(shape: tuple[int, ...], within: tuple[int, ...]) -> None:
    """A step is 1/127 of the largest value of the vector, of the token or of the channel's map."""
    field = drawn(*shape) * torch.logspace(-3, 3, shape[1]).view(-1, *[1] * (len(shape) - 2))
    step = np.abs(field.numpy()).max(within, keepdims=True) / 127
    found = codec.get("int8")
    kept = found.encode(field, NO_KEYS)
    assert kept[":scale"].shape == shape[: -len(within)]
    assert kept[""].dtype == torch.int8
    values = back(found, field)
    assert values.dtype == torch.float32
    off = np.abs(values.numpy() - field.numpy()) / step
    assert off.max() <= 0.5001
    assert off.max() > 0.4
    assert torch.equal(back(found, -field), -values)


def test_int8_keeps_zeros_and_the_largest() -> None:
    """A map that is zero throughout must not become NaN; nothing is cut off."""
    field = torch.tensor([[0.0, 0.0], [0.0, -5.0], [1e30, 1e-30]])
    values = back(codec.get("int8"), field)
    assert torch.allclose(values, torch.tensor([[0.0, 0.0], [0.0, -5.0], [1e30, 0.0]]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["int8", "pca2"])
def test_values_that_are_no_numbers(name: str, value: float) -> None:
    """They would be kept as something else."""
    field = drawn(6, 5)
    found = codec.get(name).fitted(field)
    with pytest.raises(InputError, match="Check the teacher"):
        found.encode(field.fill_diagonal_(value), NO_KEYS)


# -- pca


@pytest.mark.parametrize("shape", [(40, 12), (10, 6, 12), (8, 12, 3, 2)])
def test_components_of_what_has_few(shape: tuple[int, ...]) -> None:
    """Rows that lie in three directions come back whole, but for float16."""
    where = 1 if len(shape) == 4 else -1
    lead = [size for place, size in enumerate(shape) if place != where % len(shape)]
    flat = drawn(*lead, 3) @ drawn(3, 12, seed=1) + drawn(12, seed=2)
    field = flat.movedim(-1, where)
    found = codec.get("pca3").fitted(field)
    kept = found.encode(field, NO_KEYS)
    assert kept[""].dtype == torch.float16
    assert kept[""].shape[where] == 3
    assert back(found, field).shape == shape
    assert (back(found, field) - field).abs().max() < 0.02


@pytest.mark.parametrize(("count", "channels"), [(200, 30), (20, 60)])
def test_components_are_the_best(count: int, channels: int) -> None:
    """No other D directions lose less (Eckart, Young): NumPy's singular values say how much."""
    field = drawn(count, channels) @ drawn(channels, channels, seed=1)
    found = codec.get("pca5").fitted(field)
    centred = field.double().numpy() - field.double().numpy().mean(0)
    tail = np.linalg.svd(centred, compute_uv=False)[5:]
    lost = (back(found, field).double() - field.double()).square().sum()
    assert float(lost) == pytest.approx(float((tail**2).sum()), rel=1e-3)
    basis = found.state["basis"]
    assert torch.allclose(basis @ basis.T, torch.eye(5), atol=1e-5)
    assert (basis.gather(1, basis.abs().argmax(1, keepdim=True)) > 0).all()
    assert torch.equal(codec.get("pca5").fitted(field).state["basis"], basis)


def test_components_from_a_store() -> None:
    """What was learned from the first rows is what later rows, and readers, must use."""
    field, later = drawn(50, 8), drawn(5, 8, seed=1)
    found = codec.get("pca3").fitted(field)
    assert codec.get("pca3").state == {}
    again = codec.get("pca3", found.state)
    assert again.name == "pca3"
    assert torch.equal(back(again, later), back(found, later))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: codec.get("pca3").encode(drawn(2, 8), NO_KEYS), "has not learned"),
        (lambda: codec.get("pca3").decode({"": drawn(2, 3)}, (8,)), "has not learned"),
        (lambda: codec.get("pca8").fitted(drawn(50, 8)), "fewer than there are"),
        (lambda: codec.get("pca3").fitted(drawn(3, 8)), "3 vectors to learn from"),
        (lambda: codec.get("pca3").fitted(drawn(9, 8)).encode(drawn(2, 7), NO_KEYS), "7 channels"),
        (lambda: codec.get("pca3").fitted(drawn(9)), r"shape \(9,\)"),
        (lambda: codec.get("int8").encode(drawn(9), NO_KEYS), r"shape \(9,\)"),
        (lambda: codec.get("pca3").fitted(drawn(9, 8)).encode(1e9 * drawn(2, 8), NO_KEYS), "half"),
    ],
)
def test_refused(call, told: str) -> None:
    """Each would have given back something else than was kept."""
    with pytest.raises(InputError, match=told):
        call()
