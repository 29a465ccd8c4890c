"""What losses between vectors share: the same samples, unit length, centring, distances.

Letters: B samples, D features, M prototypes.
"""

from __future__ import annotations

from torch import Tensor

from limbeck.errors import InputError

__all__ = ["flat", "same_batch", "squared_distances", "unit"]


def same_batch(name: str, student: Tensor, teacher: Tensor) -> None:
    """Refuse student's and teacher's features of different numbers of samples."""
    if student.shape[:1] != teacher.shape[:1] or student.ndim < 2 or teacher.ndim < 2:
        raise InputError(
            f"{name} got the student's features {tuple(student.shape)} and the teacher's "
            f"{tuple(teacher.shape)}",
            expected="the same batch: (B, ...) on both sides",
        )


def flat(features: Tensor) -> Tensor:
    """Return features (B, ...) as (B, D)."""
    return features.flatten(1)


def unit(vectors: Tensor, *, eps: float = 1e-12) -> Tensor:
    """Return vectors of length 1 along the last dimension; shorter ones than ``eps`` stay.

    ``torch.nn.functional.normalize`` divides those by ``eps``, so that the gradient of a dead
    feature vector, all zeros, is 1e12 times too large.

    >>> import torch
    >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    length: Tensor = vectors.norm(dim=-1, keepdim=True)
    return vectors / length.masked_fill(length <= eps, 1.0)


def squared_distances(points_BD: Tensor, others_MD: Tensor) -> Tensor:
    """Return the squared Euclidean distances (B, M).

    >>> import torch
    >>> squared_distances(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 4.0]]))
    tensor([[ 9., 25.]])
    """
    middle = others_MD.mean(0)  # what is common to all would only be lost digits
    points, others = points_BD - middle, others_MD - middle
    products: Tensor = points @ others.T
    return points.square().sum(-1, keepdim=True) - 2 * products + others.square().sum(-1)
