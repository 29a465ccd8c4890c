"""Losses between relations: how the samples of a batch stand to one another.

Letters: B samples, D features (of any shape, flattened). Their value depends on which samples meet
in a batch, so a mask, a chunk or gradient accumulation changes it; across processes,
:func:`limbeck.losses.wrap.gathered` lets them see the whole batch. The teacher never receives a
gradient; all is computed in float32 or better.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses.spec import Spec, declare

__all__ = ["similarity_preserving"]


@declare(Spec("relation", "Tung, Mori 2019, arXiv:1907.09682", per_sample=False))
def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Distance between the two batches' similarity matrices.

    $$\frac1{B^2} \lVert G_s - G_t \rVert_F^2, \qquad
    G = \text{rows of } A A^\top \text{ normalised to length 1}$$

    Student and teacher may have features of any shape: only the B×B similarities are compared.

    Args:
        student: features (B, ...); flattened to (B, D).
        teacher: features (B, ...); flattened to (B, D'). No gradient reaches them.

    Raises:
        InputError: the numbers of samples differ.

    Source: Tung, Mori 2019, "Similarity-Preserving Knowledge Distillation", arXiv:1907.09682.

    >>> import torch
    >>> similarity_preserving(torch.eye(2), torch.ones(2, 3))  # (1, 0) against (1, 1)/√2
    tensor(0.2929)
    """
    if student.shape[0] != teacher.shape[0]:
        raise InputError(
            f"similarity_preserving got {student.shape[0]} samples of the student and "
            f"{teacher.shape[0]} of the teacher",
            expected="the same batch",
        )
    return (_similarities(student) - _similarities(teacher)).square().mean()


def _similarities(features: Tensor) -> Tensor:
    """Return the row-normalised similarity matrix (B, B)."""
    features_BD = features.flatten(1)
    return F.normalize(features_BD @ features_BD.T, dim=1)
