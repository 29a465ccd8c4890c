"""Random numbers that are a pure function of (seed, sample id, view, stream).

Nothing is drawn in sequence: any sample's numbers can be computed at any time, on any process, in
any batch, and come out the same. The mixing is splitmix64 (Steele, Lea, Flood 2014, "Fast
splittable pseudorandom number generators").

Letters: B samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["key", "permutation", "uniform"]

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def key(seed: int, ids: Tensor, views: Tensor | int) -> Tensor:
    """Return one well-mixed 64-bit integer per sample, (B,) int64, on the ids' device.

    >>> bool(key(0, torch.arange(3), 0)[2] == key(0, torch.tensor([2]), 0)[0])
    True
    """
    mixed = _mix(ids + _signed(_GOLDEN * (seed + 1)))
    step = (views + 1) * _GOLDEN
    return _mix(mixed + (_signed(step) if isinstance(step, int) else step))


def uniform(keys: Tensor, stream: Tensor | int) -> Tensor:
    """Return one number in [0, 1) per key, (B,) float64, exact to 53 bits; streams are independent.

    A tensor of streams gives a number for each pair of a key and a stream, as they broadcast.

    >>> float(uniform(key(0, torch.tensor([7]), 0), stream=0))
    0.609394524568175
    """
    step = (stream + 1) * _GOLDEN
    mixed = _mix(keys + (_signed(step) if isinstance(step, int) else step))
    return _shift(mixed, 11).double() * 2.0**-53


def permutation(count: int, seed: int, epoch: int) -> Tensor:
    """Return the order of ``count`` samples in an epoch, (count,) int64.

    >>> sorted(permutation(4, seed=0, epoch=3).tolist())
    [0, 1, 2, 3]
    """
    generator = torch.Generator().manual_seed(
        int(key(seed, torch.tensor([epoch]), 0)) & (2**63 - 1)
    )
    return torch.randperm(count, generator=generator)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _signed(x: int) -> int:
    """Wrap a whole number to 64 bits with a sign, as the tensors do."""
    return (x + 2**63) % 2**64 - 2**63


def _shift(x: Tensor, by: int) -> Tensor:
    """Shift right, filling with zeros (PyTorch's own shift copies the sign)."""
    return (x >> by) & ((1 << (64 - by)) - 1)
