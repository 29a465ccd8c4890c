"""Losses between relations: how the samples of a batch stand to one another.

Letters: B samples, D features (of any shape, flattened), C channels, N tokens. Except for
:func:`inter_channel`, which relates the channels of each sample, their value depends on which
samples meet in a batch, so a mask, a chunk or gradient accumulation changes it; across processes,
:func:`limbeck.losses.wrap.gathered` lets them see the whole batch. The teacher never receives a
gradient; all is computed in float32 or better.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses.geometry import flat, same_batch, unit
from limbeck.losses.probabilities import require_positive
from limbeck.losses.spec import Spec, declare

__all__ = [
    "correlation_congruence",
    "inter_channel",
    "kernel_alignment",
    "probabilistic_transfer",
    "rkd_angle",
    "rkd_distance",
    "similarity_preserving",
]

_PRECISE = "donot_use_mm_for_euclid_dist"


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

    Source: Tung, Mori 2019, "Similarity-Preserving Knowledge Distillation", arXiv:1907.09682;
    code: HobbitLong/RepDistiller.

    >>> similarity_preserving(torch.eye(2), torch.ones(2, 3))  # (1, 0) against (1, 1)/√2
    tensor(0.2929)
    """
    same_batch("similarity_preserving", student, teacher)
    own, theirs = (unit(f @ f.T) for f in (flat(student), flat(teacher)))
    return (own - theirs).square().mean()


@declare(Spec("relation", "Park, Kim, Lu, Cho 2019 (RKD), arXiv:1904.05068", per_sample=False))
def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Huber loss between the pairwise distances of a batch, each batch in its own unit.

    $$\frac1{B^2} \sum_{i,j} \ell_1\Big(\frac{\lVert s_i - s_j \rVert}{\mu_s} -
    \frac{\lVert t_i - t_j \rVert}{\mu_t}\Big), \quad
    \mu = \text{mean of the distances above 0}$$

    ℓ₁ is the Huber loss with δ = 1. Scale and rotation of either side do not matter, and the widths
    may differ. The usual weight is 25, with 50 for :func:`rkd_angle`.

    Args:
        student: features (B, ...); flattened to (B, D).
        teacher: features (B, ...); flattened to (B, D'). No gradient reaches them. The value is the
            mean over all B² ordered pairs, a sample with itself included.

    Raises:
        InputError: the numbers of samples differ.

    Source: Park, Kim, Lu, Cho 2019, "Relational Knowledge Distillation", arXiv:1904.05068;
    code: lenscloth/RKD.

    >>> line, other = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [2.0], [2.0]])
    >>> rkd_distance(line, other)  # pairs ¾, 1½, ¾ against 1, 1, 0: 2·(1/32 + 1/8 + 9/32)/9
    tensor(0.0972)
    """
    same_batch("rkd_distance", student, teacher)
    own, theirs = (_relative_distances(flat(f)) for f in (student, teacher))
    return F.smooth_l1_loss(own, theirs)


@declare(Spec("relation", "Park, Kim, Lu, Cho 2019 (RKD), arXiv:1904.05068", per_sample=False))
def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Huber loss between the cosines of the angles that three samples of a batch form.

    $$\frac1{B^3} \sum_{i,j,k} \ell_1(\cos \angle s_i s_j s_k - \cos \angle t_i t_j t_k)$$

    ℓ₁ is the Huber loss with δ = 1. It needs B²·D numbers for the differences and B³ for the
    angles: 64 MiB for a batch of 256 in float32, 4 GiB for 1024.

    Args:
        student: features (B, ...); flattened to (B, D).
        teacher: features (B, ...); flattened to (B, D'). No gradient reaches them. The value is the
            mean over all B³ ordered triplets; those with two equal samples at the vertex count as
            0.

    Raises:
        InputError: the numbers of samples differ.

    Source: Park, Kim, Lu, Cho 2019, "Relational Knowledge Distillation", arXiv:1904.05068;
    code: lenscloth/RKD.

    >>> right, line = torch.tensor([[0.0, 0], [1, 0], [0, 1]]), torch.tensor([[0.0], [1], [-1]])
    >>> rkd_angle(right, line)  # cosines 0, √½, √½ against −1, 1, 1; each stands twice
    tensor(0.0434)
    """
    same_batch("rkd_angle", student, teacher)
    own, theirs = (_cosines(flat(f)) for f in (student, teacher))
    return F.smooth_l1_loss(own, theirs)


@declare(Spec("relation", "Peng et al. 2019 (CCKD), arXiv:1904.01802", per_sample=False))
def correlation_congruence(
    student: Tensor,
    teacher: Tensor,
    *,
    gamma: float = 0.4,
    order: int = 2,
    form: Literal["kernel", "neighbours"] = "kernel",
) -> Tensor:
    r"""Squared distance between the two batches' matrices of Gaussian correlations.

    $$\frac1{B^2} \lVert K_s - K_t \rVert_F^2, \qquad
    K_{ij} = \sum_{p=0}^{P} e^{-2\gamma} \frac{(2\gamma)^p}{p!} (\hat a_i^\top \hat a_j)^p$$

    K is the Taylor series of exp(−γ‖â_i − â_j‖²) for features â of length 1.

    Args:
        student: features (B, ...); flattened to (B, D).
        teacher: features (B, ...); flattened to (B, D'). No gradient reaches them.
        gamma: γ of the kernel.
        order: P, the last power of the series.
        form: ``kernel`` is the paper's. ``neighbours`` is what the benchmark RepDistiller runs
            under this name, for which the weight 0.02 was chosen: |s − t| of neighbouring samples,
            multiplied, summed over features, mean over the B − 1 neighbours. It needs D = D' and
            depends on the order of the samples.

    Raises:
        InputError: the numbers of samples differ, or with ``neighbours`` the shapes.

    Source: Peng et al. 2019, "Correlation Congruence for Knowledge Distillation",
    arXiv:1904.01802; code: AberHu/Knowledge-Distillation-Zoo, HobbitLong/RepDistiller.

    >>> correlation_congruence(torch.eye(2), torch.ones(2, 1), gamma=0.5, order=1)  # (2/e²)/4
    tensor(0.0677)
    """
    same_batch("correlation_congruence", student, teacher)
    own, theirs = flat(student), flat(teacher)
    if form == "neighbours":
        return _neighbours(own, theirs)
    return (_gaussian(own, gamma, order) - _gaussian(theirs, gamma, order)).square().mean()


@declare(Spec("relation", "Passalis, Tefas 2018 (PKT), arXiv:1803.10837", per_sample=False))
def probabilistic_transfer(
    student: Tensor,
    teacher: Tensor,
    *,
    scale: Literal["sum", "mean"] = "sum",
    diagonal: bool = True,
    eps: float = 1e-7,
) -> Tensor:
    r"""Divergence between the two batches' conditional probabilities of neighbourhood.

    $$\sum_i \sum_j p_{ij} \log \frac{p_{ij}}{q_{ij}}, \qquad
    p_{ij} = \frac{k(t_i, t_j)}{\sum_l k(t_i, t_l)}, \quad
    k(a, b) = \tfrac12 \Big(1 + \frac{a^\top b}{\lVert a \rVert \lVert b \rVert}\Big)$$

    Args:
        student: features (B, ...); flattened to (B, D).
        teacher: features (B, ...); flattened to (B, D'). No gradient reaches them.
        scale: ``sum`` over all pairs is the paper's. ``mean`` over the B² pairs is that of the
            public code, for which the usual weight of 30000 was chosen.
        diagonal: whether a sample is its own neighbour; in the public code it is, in the paper's
            formula it is not.
        eps: added to both probabilities inside the logarithm.

    Raises:
        InputError: the numbers of samples differ.

    Source: Passalis, Tefas 2018, "Learning Deep Representations with Probabilistic Knowledge
    Transfer", arXiv:1803.10837; code: passalis/probabilistic_kt.

    >>> probabilistic_transfer(torch.ones(2, 1), torch.eye(2))  # (⅔, ⅓) against (½, ½), twice
    tensor(0.1133)
    """
    same_batch("probabilistic_transfer", student, teacher)
    q, p = (_neighbourhood(flat(f), diagonal) for f in (student, teacher))
    divergence = p * ((p + eps).log() - (q + eps).log())
    return divergence.sum() if scale == "sum" else divergence.mean()


@declare(Spec("relation", "Liu et al. 2021 (ICKD), ICCV", "shape", per_sample=False))
def inter_channel(
    student: Tensor,
    teacher: Tensor,
    *,
    form: Literal["plain", "normalized"] = "plain",
) -> Tensor:
    r"""Squared distance between the inner products of the channels: how they vary together.

    $$\frac1{C^2} \lVert G_s - G_t \rVert_F^2, \qquad G = F F^\top, \quad F: C \times HW$$

    Only the C×C products are compared, so the sizes H×W may differ; the channels must not.

    Args:
        student: maps (B, C, H, W), tokens (B, N, C) or features (B, C), after an adapter if the
            channels differed (in the authors' code a 1×1 convolution and batch normalisation).
        teacher: the same, of as many channels; no gradient reaches them.
        form: ``plain`` is the paper's formula. ``normalized`` scales each row of G to length 1 and
            divides by C, as the authors' code does: the scale of the features drops out. Both are
            means over samples.

    Raises:
        InputError: the numbers of samples, dimensions or channels differ.

    Source: Liu et al. 2021, "Exploring Inter-Channel Correlation for Diversity-preserved Knowledge
    Distillation", ICCV; code: ADLab-AutoDrive/ICKD.

    >>> inter_channel(torch.ones(1, 2, 1, 3), torch.zeros(1, 2, 1, 3))  # four products of 3
    tensor(9.)
    """
    channel = 2 if student.ndim == 3 else 1
    fits = student.ndim == teacher.ndim and 2 <= student.ndim <= 4
    if not fits or any(student.shape[dim] != teacher.shape[dim] for dim in (0, channel)):
        raise InputError(
            f"inter_channel got {tuple(student.shape)} and {tuple(teacher.shape)}",
            expected="(B, C, H, W), (B, N, C) or (B, C) with the same B and C",
            remedy='Leave adapter="auto", or name one: "conv1x1", "linear".',
        )
    own, theirs = (_channel_products(f, form == "normalized") for f in (student, teacher))
    squared = (own - theirs).square().sum(-1).mean(-1)
    return squared.mean() if form == "normalized" else squared.mean() / own.shape[-1]


@declare(Spec("relation", "Kornblith et al. 2019 (CKA), arXiv:1905.00414", per_sample=False))
def kernel_alignment(
    student: Tensor,
    teacher: Tensor,
    *,
    form: Literal["biased", "unbiased"] = "biased",
    kernel: Literal["linear", "rbf"] = "linear",
    bandwidth: float = 0.5,
) -> Tensor:
    r"""One minus the centred kernel alignment (CKA) of the two batches.

    $$1 - \frac{\langle \tilde K_s, \tilde K_t \rangle}
    {\lVert \tilde K_s \rVert_F \lVert \tilde K_t \rVert_F}, \qquad
    \tilde K = H K H, \quad H = I - \tfrac1B \mathbf 1 \mathbf 1^\top$$

    K is the linear kernel AAᵀ, or of radial basis functions, exp(−‖aᵢ − aⱼ‖² / 2σ²), with σ a
    fraction of the median distance: the smaller, the more only near samples count. Rotation and
    scale of either side do not matter, and the widths may differ. The paper measures similarity and
    has no loss: this is its decreasing function that is 0 at equality.

    Args:
        student: features (B, ...); flattened to (B, D).
        teacher: features (B, ...); flattened to (B, D'). No gradient reaches them.
        form: ``biased`` is between 0 and 1, and near 0 whenever D is much larger than B.
            ``unbiased`` centres as Székely and Rizzo do, without the diagonal, which removes this;
            it needs at least four samples and can exceed 1.
        kernel: ``linear``, or ``rbf``.
        bandwidth: σ of ``rbf`` divided by the root of the median of all B² squared distances, those
            of samples to themselves among them, as in the authors' notebook, which has 0.5. The
            gradient passes through the median too.

    Raises:
        InputError: the numbers of samples differ, or the bandwidth is not positive.

    Source: Kornblith, Norouzi, Lee, Hinton 2019, "Similarity of Neural Network Representations
    Revisited", arXiv:1905.00414; code: google-research/google-research.

    >>> kernel_alignment(torch.tensor([[1.0], [1.0], [-2.0]]), torch.tensor([[1.0], [-1.0], [0.0]]))
    tensor(1.)
    """
    same_batch("kernel_alignment", student, teacher)
    require_positive(bandwidth, "bandwidth")
    own, theirs = (
        _centred(_gram(flat(f), None if kernel == "linear" else bandwidth), form == "biased")
        for f in (student, teacher)
    )
    return 1 - unit(own.flatten()) @ unit(theirs.flatten())


def _relative_distances(features_BD: Tensor) -> Tensor:
    """Return the distances (B, B) divided by the mean of those above 0."""
    distances = torch.cdist(features_BD, features_BD, compute_mode=_PRECISE)
    mean = distances.sum() / (distances > 0).sum().clamp(min=1)
    return distances / mean.masked_fill(mean == 0, 1.0)


def _cosines(features_BD: Tensor) -> Tensor:
    """Return the cosine of each angle (vertex, one end, other end), shape (B, B, B)."""
    edges = unit(features_BD.unsqueeze(0) - features_BD.unsqueeze(1))
    return edges @ edges.mT


def _gaussian(features_BD: Tensor, gamma: float, order: int) -> Tensor:
    """Return the Taylor series of the Gaussian kernel of features scaled to length 1."""
    directions = unit(features_BD)
    cosines = directions @ directions.T
    series = torch.full_like(cosines, math.exp(-2 * gamma))
    for power in range(1, order + 1):
        factor = math.exp(-2 * gamma) * (2 * gamma) ** power / math.factorial(power)
        series = series + factor * cosines.pow(power)
    return series


def _neighbours(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    if student_BD.shape != teacher_BD.shape:
        raise InputError(
            f"correlation_congruence got {student_BD.shape[1]} features of the student and "
            f"{teacher_BD.shape[1]} of the teacher",
            expected='the same number with form="neighbours"',
            remedy='Use form="kernel", or name an adapter: "linear".',
        )
    gap = (student_BD - teacher_BD).abs()
    return (gap[:-1] * gap[1:]).sum() / max(len(gap) - 1, 1)


def _neighbourhood(features_BD: Tensor, diagonal: bool) -> Tensor:
    """Return each sample's probabilities (B, B) of having the others as neighbours."""
    directions = unit(features_BD)
    kernel = (1 + directions @ directions.T) / 2
    if not diagonal:
        kernel = kernel * (1 - torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device))
    total = kernel.sum(1, keepdim=True)
    return kernel / total.masked_fill(total <= 0, 1.0)


def _channel_products(features: Tensor, normalized: bool) -> Tensor:
    """Return the inner products of channels (B, C, C)."""
    channels = features.mT if features.ndim == 3 else features.unflatten(1, (-1, 1)).flatten(2)
    products = channels @ channels.mT
    return unit(products) if normalized else products


def _gram(features_BD: Tensor, bandwidth: float | None) -> Tensor:
    """Return the kernel (B, B): linear of centred features, or of radial basis functions."""
    if bandwidth is None:
        features = features_BD - features_BD.mean(0)
        return features @ features.T
    squared = torch.cdist(features_BD, features_BD, compute_mode=_PRECISE).square()
    ordered = squared.flatten().sort().values
    median = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return torch.exp(-squared / (2 * bandwidth**2 * median.masked_fill(median <= 0, 1.0)))


def _centred(gram: Tensor, diagonal: bool) -> Tensor:
    """Return the centred kernel (B, B); without its diagonal, it is U-centred."""
    if diagonal:
        rows = gram - gram.mean(0)
        return rows - rows.mean(1, keepdim=True)
    size = len(gram)
    others = 1 - torch.eye(size, dtype=gram.dtype, device=gram.device)
    gram = gram * others
    means = gram.sum(1) / max(size - 2, 1)
    whole = gram.sum() / max((size - 1) * (size - 2), 1)
    return (gram - means - means.unsqueeze(1) + whole) * others
