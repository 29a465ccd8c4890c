"""Sets of boxes: how far two boxes overlap, and the cheapest pairs between two sets.

Letters: N and M boxes, or members of two sets.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cheapest", "corners", "overlap", "overlaps"]

_TINY = 1e-7
_MOST = 1e6  # a cost that is not finite counts as this


def overlaps(one: Tensor, other: Tensor) -> Tensor:
    """Return the intersection over union of all pairs of boxes, (..., N, 4) and (..., M, 4).

    >>> overlaps(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[0.0, 0, 2, 1], [4.0, 4, 5, 5]]))
    tensor([[0.5000, 0.0000]])
    """
    return overlap(one[..., :, None, :], other[..., None, :, :])[0]


def overlap(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return IoU and generalised IoU of boxes x1, y1, x2, y2, pair by pair, (..., 4) each.

    Source: Rezatofighi et al. 2019, arXiv:1902.09630.
    """
    low, high = (
        torch.maximum(one[..., :2], other[..., :2]),
        torch.minimum(one[..., 2:], other[..., 2:]),
    )
    both = (high - low).clamp(min=0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (one, other)]
    either = areas[0] + areas[1] - both
    shared = both / either.clamp(min=_TINY)
    first, last = (
        torch.minimum(one[..., :2], other[..., :2]),
        torch.maximum(one[..., 2:], other[..., 2:]),
    )
    around = (last - first).clamp(min=0).prod(-1)
    return shared, shared - (around - either) / around.clamp(min=_TINY)


def corners(boxes: Tensor) -> Tensor:
    """Return boxes (..., 4) given by middle, width and height as x1, y1, x2, y2.

    >>> corners(torch.tensor([0.5, 0.5, 1.0, 0.5]))
    tensor([0.0000, 0.2500, 1.0000, 0.7500])
    """
    middle, half = boxes[..., :2], boxes[..., 2:].abs() / 2
    return torch.cat([middle - half, middle + half], dim=-1)


def cheapest(costs: Tensor) -> tuple[Tensor, Tensor]:
    """Return pairs of a row and a column, each taken once at most, whose costs add up to the least.

    Args:
        costs: (N, M), on any device; the assignment is found on the CPU, in O(N²M) steps.

    Returns:
        Rows and columns, (min(N, M),) int64 each, on the costs' device.

    Source: Kuhn 1955, "The Hungarian method for the assignment problem"; scipy's
    ``linear_sum_assignment``.

    >>> cheapest(torch.tensor([[1.0, 2.0], [1.0, 9.0]]))
    (tensor([0, 1]), tensor([1, 0]))
    """
    from scipy.optimize import linear_sum_assignment  # it takes a while to import

    finite = costs.detach().float().nan_to_num(_MOST, _MOST, -_MOST).clamp(-_MOST, _MOST)
    rows, columns = linear_sum_assignment(finite.cpu().numpy())
    return (
        torch.from_numpy(rows).to(costs.device),
        torch.from_numpy(columns).to(costs.device),
    )
