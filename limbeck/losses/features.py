"""Losses between features: what the teacher computes on the way to its answer.

Letters: B samples, C channels, H×W positions of a map, N tokens, D features. Features are (B, D),
(B, N, D) or (B, C, H, W); with tokens, a ``mask`` of shape (B, N) says which count. The teacher
never receives a gradient; all is computed in float32 or better.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses.spec import Reduction, Spec, comparable, declare, reduce

__all__ = ["attention_transfer", "cosine_hint", "hint"]

_REMEDY = 'Leave adapter="auto", or name one: "linear", "conv1x1", "interpolate", "pool".'


@declare(Spec("feature", "Romero et al. 2015 (FitNets), arXiv:1412.6550", "shape"))
def hint(
    student: Tensor,
    teacher: Tensor,
    *,
    features: Literal["sum", "mean"] = "sum",
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Squared distance between a student's layer and a teacher's: FitNets' hint.

    $$\tfrac12 \lVert s - t \rVert^2$$

    Args:
        student: features (B, D), (B, N, D) or (B, C, H, W), after an adapter if shapes differed.
        teacher: features of the same shape; no gradient reaches them.
        features: ``sum`` is the paper's formula. ``mean`` divides the squared distance by the
            number of features and drops the ½: the mean squared error for which the weight 100 of
            the CIFAR-100 benchmark (RepDistiller) was chosen.
        mask: (B, N), true where a token counts.
        reduction: mean over samples (or unmasked tokens).

    Raises:
        InputError: the shapes differ.

    Source: Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550, eq. 3.

    >>> import torch
    >>> hint(torch.zeros(2, 4), torch.ones(2, 4)), hint(torch.zeros(2, 4), torch.ones(2, 4),
    ...                                                 features="mean")
    (tensor(2.), tensor(1.))
    """
    student, teacher = comparable(student, teacher, mask, remedy=_REMEDY)
    own = _own_dims(student)
    squared = (student - teacher).square()
    distance = squared.sum(own) / 2 if features == "sum" else squared.mean(own)
    return reduce(distance, mask, reduction)


@declare(Spec("feature", "Sanh et al. 2019 (DistilBERT), arXiv:1910.01108", "shape"))
def cosine_hint(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""One minus the cosine between a student's features and a teacher's: direction, not length.

    $$1 - \frac{s \cdot t}{\lVert s \rVert \lVert t \rVert}$$

    Tokens (B, N, D) are compared one by one; a map (B, C, H, W) is compared as one vector per
    sample.

    Args:
        student: features (B, D), (B, N, D) or (B, C, H, W), after an adapter if shapes differed.
        teacher: features of the same shape; no gradient reaches them.
        mask: (B, N), true where a token counts.
        reduction: mean over samples (or unmasked tokens); between 0 and 2.

    Raises:
        InputError: the shapes differ.

    Source: Sanh et al. 2019, "DistilBERT", arXiv:1910.01108 (its cosine embedding loss).

    >>> import torch
    >>> cosine_hint(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
    tensor(1.)
    """
    student, teacher = comparable(student, teacher, mask, remedy=_REMEDY)
    if student.ndim == 4:
        student, teacher = student.flatten(1), teacher.flatten(1)
    return reduce(1 - F.cosine_similarity(student, teacher, dim=-1), mask, reduction)


@declare(Spec("feature", "Zagoruyko, Komodakis 2017, arXiv:1612.03928", "positions"))
def attention_transfer(
    student: Tensor,
    teacher: Tensor,
    *,
    power: float = 2.0,
    form: Literal["squared", "norm"] = "squared",
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Distance between spatial attention maps: where the network looks, whatever its channels.

    $$Q = \mathrm{vec}\Big(\tfrac1C \sum_c |F_c|^{p}\Big), \qquad
    d = \frac{Q_s}{\lVert Q_s \rVert} - \frac{Q_t}{\lVert Q_t \rVert}$$

    Args:
        student: maps (B, C, H, W); the number of channels may differ from the teacher's.
        teacher: maps (B, C', H, W); no gradient reaches them.
        power: p, to which absolute activations are raised before they are summed over channels.
        form: ``squared`` is the mean of d² over the H·W positions, as in the authors' code, for
            which the usual weight is 1000; ``norm`` is ‖d‖, as in the paper's eq. 2.
        reduction: mean over samples.

    Raises:
        InputError: a tensor is not (B, C, H, W), or the samples or the sizes H×W differ.

    Source: Zagoruyko, Komodakis 2017, "Paying More Attention to Attention", arXiv:1612.03928;
    code: szagoruyko/attention-transfer.

    >>> import torch
    >>> flat, peak = torch.ones(1, 8, 1, 2), torch.tensor([[[[1.0, 0.0]]]])
    >>> attention_transfer(flat, peak)  # (1, 1)/√2 against (1, 0)
    tensor(0.2929)
    """
    unlike = [student.shape[dim : dim + 1] != teacher.shape[dim : dim + 1] for dim in (0, 2, 3)]
    if student.ndim != 4 or teacher.ndim != 4 or any(unlike):
        raise InputError(
            f"attention_transfer got maps {tuple(student.shape)} and {tuple(teacher.shape)}",
            expected="(B, C, H, W) with the same B and H×W",
            remedy='Leave adapter="auto", which resizes the larger map.',
        )
    difference = _attention(student, power) - _attention(teacher, power)
    if form == "norm":
        return reduce(difference.norm(dim=1), None, reduction)
    return reduce(difference.square().mean(dim=1), None, reduction)


def _attention(maps_BCHW: Tensor, power: float) -> Tensor:
    """Return the normalised attention (B, H·W) of maps (B, C, H, W)."""
    return F.normalize(maps_BCHW.abs().pow(power).mean(dim=1).flatten(1), dim=1)


def _own_dims(features: Tensor) -> tuple[int, ...]:
    """Return the dimensions that belong to one sample (or one token)."""
    return (2,) if features.ndim == 3 else tuple(range(1, features.ndim))
