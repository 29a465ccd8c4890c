"""Losses between maps: channels and positions of convolutional features, without parameters.

Letters: B samples, C channels, H×W positions of a map (N of them), D features, L levels, K tokens.
Maps are (B, C, H, W). The teacher never receives a gradient; all is computed in float32 or better.
Where a side has several tensors, ``student`` and ``teacher`` are tuples of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.losses.geometry import unit
from limbeck.losses.probabilities import divergence, require_positive
from limbeck.losses.spec import Reduction, Setting, Spec, comparable, declare, reduce

__all__ = [
    "Frequency",
    "activation_boundary",
    "block_wise",
    "channel_wise",
    "flow",
    "frequency",
    "neuron_selectivity",
]

_REMEDY = 'Leave adapter="auto", or name one: "linear", "conv1x1", "interpolate", "pool".'
_FREEKD = "Zhang et al. 2023 (FreeKD), arXiv:2311.12079"
_NARROWEST = 1e-3  # least bandwidth σ² of the Gaussian kernel, between vectors of length 1


@declare(Spec("feature", "Huang, Wang 2017 (NST), arXiv:1707.01219", "positions"))
def neuron_selectivity(
    student: Tensor,
    teacher: Tensor,
    *,
    kernel: Literal["polynomial", "linear", "gaussian"] = "polynomial",
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Distance between the distributions of channels: what each channel is selective for.

    $$\frac1{C_t^2} \sum_{i,j} k(t_i, t_j) + \frac1{C_s^2} \sum_{i,j} k(s_i, s_j)
    - \frac2{C_s C_t} \sum_{i,j} k(s_i, t_j)$$

    It is the squared maximum mean discrepancy of the channels, each a vector of its N positions,
    normalised to length 1 (a dead channel stays 0). The numbers of channels may differ. The factor
    λ/2 of the paper's total is left to the weight.

    Args:
        student: maps (B, C, H, W).
        teacher: maps (B, C', H, W); no gradient reaches them.
        kernel: ``polynomial`` is (a·b)², the authors' choice; ``linear`` a·b; ``gaussian``
            exp(−‖a − b‖²/2σ²), with σ² the mean squared distance of the teacher's channels in the
            same sample.
        reduction: mean over samples.

    Raises:
        InputError: a tensor is not (B, C, H, W), or the samples or the sizes H×W differ.

    Source: Huang, Wang 2017, "Like What You Like: Knowledge Distill via Neuron Selectivity
    Transfer", arXiv:1707.01219; code: TuSimple/neuron-selectivity-transfer (without the teacher's
    constant term).

    >>> left, right = torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([[[[0.0, 5.0]]]])
    >>> neuron_selectivity(left, right)  # 1 + 1 − 2·0
    tensor(2.)
    """
    unlike = [student.shape[dim : dim + 1] != teacher.shape[dim : dim + 1] for dim in (0, 2, 3)]
    if student.ndim != 4 or teacher.ndim != 4 or any(unlike):
        raise InputError(
            f"neuron_selectivity got maps {tuple(student.shape)} and {tuple(teacher.shape)}",
            expected="(B, C, H, W) with the same B and H×W",
            remedy='Leave adapter="auto", which resizes the larger map.',
        )
    s_BCN, t_BCN = unit(student.flatten(2)), unit(teacher.flatten(2))
    within = _similar(t_BCN, t_BCN, t_BCN, kernel) + _similar(s_BCN, s_BCN, t_BCN, kernel)
    return reduce(within - 2 * _similar(s_BCN, t_BCN, t_BCN, kernel), None, reduction)


@declare(Spec("feature", "Yim, Joo, Bae, Kim 2017 (FSP), CVPR", "shape"))
def flow(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    pooling: Literal["max", "average"] = "max",
    features: Literal["sum", "mean"] = "sum",
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Distance between flow matrices: how a network gets from one layer to the next.

    $$\lVert G_s - G_t \rVert_F^2, \qquad
    G_{ij} = \frac1{HW} \sum_{h,w} F^1_{hwi} F^2_{hwj}$$

    Only the products of the channels of two layers are compared, so that the sizes H×W may differ
    between student and teacher; the numbers of channels may not.

    Args:
        student: two layers' maps (B, C1, H, W) and (B, C2, H', W'), or two layers' tokens
            (B, N, D1) and (B, N, D2).
        teacher: two layers' maps or tokens with the same channels; no gradient reaches them.
        pooling: how the larger of a side's two maps comes to the size of the smaller: ``max`` is
            the paper's, ``average`` that of the CIFAR-100 benchmark (RepDistiller).
        features: ``sum`` over the C1·C2 entries is the paper's formula; ``mean`` is RepDistiller's.
        reduction: mean over samples.

    Raises:
        InputError: a side has not two layers, or the flow matrices have different shapes.

    Source: Yim, Joo, Bae, Kim 2017, "A Gift from Knowledge Distillation", CVPR 2017, eq. 1 and 2
    with λ = 1; compared with HobbitLong/RepDistiller and airaria/TextBrewer.

    >>> ones, twos = torch.ones(1, 1, 2, 2), torch.full((1, 3, 2, 2), 2.0)
    >>> flow((ones, twos), (ones, ones.expand(1, 3, 2, 2)))  # 3 entries, 2 against 1
    tensor(3.)
    """
    if len(student) != 2 or len(teacher) != 2:
        raise InputError(
            f"flow got {len(student)} layers of the student and {len(teacher)} of the teacher",
            expected="two layers on each side",
        )
    own, theirs = _flow_matrix(student, pooling), _flow_matrix(teacher, pooling)
    remedy = "Choose layers with the teacher's channels, or put a convolution on the student's."
    own, theirs = comparable(own, theirs, None, remedy=remedy)
    squared = (own - theirs).square()
    distance = squared.sum((1, 2)) if features == "sum" else squared.mean((1, 2))
    return reduce(distance, None, reduction)


@declare(
    Spec("feature", "Heo et al. 2019 (AB), arXiv:1811.03233", "shape", zero_at_equal=False),
)
def activation_boundary(
    student: Tensor,
    teacher: Tensor,
    *,
    margin: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Squared hinge on whether a neuron is active, not on how strongly.

    $$\sum_i \max(0,\, m - y_i s_i)^2, \qquad y_i = 1 \text{ if } t_i > 0, \text{ else } -1$$

    Features are taken before the activation. Weights of layers and the factor 1/1000 of the
    authors' scripts are left to the weight of the match.

    Args:
        student: features (B, D), (B, N, D) or (B, C, H, W) before their activation, after an
            adapter if shapes differed.
        teacher: features of the same shape; only their signs are used (0 is inactive).
        margin: m > 0, how far the student must be on the right side.
        mask: (B, N), true where a token counts.
        reduction: mean over samples (or unmasked tokens) of the sum over features.

    Raises:
        InputError: the shapes differ.

    Source: Heo, Lee, Yun, Choi 2019, "Knowledge Transfer via Distillation of Activation Boundaries
    Formed by Hidden Neurons", arXiv:1811.03233; code: bhheo/AB_distillation.

    >>> activation_boundary(torch.tensor([[2.0, 0.5]]), torch.tensor([[9.0, -9.0]]))  # 0 + 1.5²
    tensor(2.2500)
    """
    student, teacher = comparable(student, teacher, mask, remedy=_REMEDY)
    missing = (margin - torch.where(teacher > 0, student, -student)).clamp(min=0)
    return reduce(missing.square().flatten(2 if student.ndim == 3 else 1).sum(-1), mask, reduction)


@declare(Spec("feature", "Shu et al. 2021 (CWD), arXiv:2011.13256", "shape"))
def channel_wise(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 4.0,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Kullback–Leibler divergence between where a channel looks in teacher and student.

    $$\frac{T^2}{C} \sum_c \sum_{i} p_{ci} (\log p_{ci} - \log q_{ci}), \qquad
    p_c = \mathrm{softmax}_i(t_{ci} / T),\; q_c = \mathrm{softmax}_i(s_{ci} / T)$$

    Each channel is a distribution over the N positions. Good for dense tasks, on features or on
    maps of logits.

    Args:
        student: maps (B, C, H, W), after an adapter if shapes differed.
        teacher: maps of the same shape; no gradient reaches them.
        temperature: T > 0, with T² inside.
        reduction: mean over samples of the mean over channels of the sum over positions, in nats.

    Raises:
        InputError: the shapes differ or are not (B, C, H, W), or the temperature is not positive.

    Source: Shu, Liu, Gao, Yan, Shen 2021, "Channel-wise Knowledge Distillation for Dense
    Prediction", arXiv:2011.13256; code: irfanICMLL/TorchDistiller.

    >>> flat, peak = torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.0, 1.0986123]]]])
    >>> channel_wise(flat, peak, temperature=1.0)  # (¼, ¾) against (½, ½)
    tensor(0.1308)
    """
    require_positive(temperature)
    student, teacher = comparable(student, teacher, None, remedy=_REMEDY)
    if student.ndim != 4:
        raise InputError(f"channel_wise got {tuple(student.shape)}", expected="maps (B, C, H, W)")
    log_q = F.log_softmax(student.flatten(2) / temperature, dim=-1)
    log_p = F.log_softmax(teacher.flatten(2) / temperature, dim=-1)
    return temperature**2 * reduce(divergence(log_p, log_q).mean(1), None, reduction)


@declare(Spec("feature", "Li et al. 2020 (DNA), arXiv:1911.13053", "shape"))
def block_wise(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    weights: Sequence[float] | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Mean squared error of every block's output, added over the blocks.

    $$\sum_k \frac{w_k}{D_k} \lVert s_k - t_k \rVert^2$$

    Args:
        student: the blocks' outputs, each (B, ...); D is the number of features of one sample.
        teacher: the outputs of as many blocks, of the same shapes; no gradient reaches them.
        weights: w, one for each block; by default 1.
        reduction: mean over samples.

    Raises:
        InputError: the numbers of blocks, of weights, or the shapes of a pair differ.

    Source: Li et al. 2020, "Blockwisely Supervised Neural Architecture Search with Knowledge
    Distillation" (DNA), arXiv:1911.13053.

    >>> block_wise((torch.zeros(2, 3), torch.zeros(2, 5)), (torch.ones(2, 3), 2 * torch.ones(2, 5)))
    tensor(5.)
    """
    own, theirs = several(student), several(teacher)
    factors = [1.0] * len(own) if weights is None else list(weights)
    if not len(own) == len(theirs) == len(factors):
        raise InputError(
            f"block_wise got {len(own)} blocks of the student, {len(theirs)} of the teacher and "
            f"{len(factors)} weights",
            expected="as many of each",
        )
    pairs = [comparable(s, t, None, remedy=_REMEDY) for s, t in zip(own, theirs, strict=True)]
    errors = [(s - t).square().flatten(1).mean(1) for s, t in pairs]
    total = torch.stack([w * e for w, e in zip(factors, errors, strict=True)]).sum(0)
    return reduce(total, None, reduction)


@declare(Spec("feature", _FREEKD, "shape"))
def frequency(
    student: Tensor,
    teacher: Tensor,
    *,
    tokens: Tensor | None = None,
    levels: int = 3,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Absolute distance between the high frequencies of two maps, by Haar wavelets.

    $$\sum_l \operatorname{mean}_{k,c,o,h,w} M^l_{khw}
    \lvert \mathcal{H}^l(s)_{cohw} - \mathcal{H}^l(t)_{cohw} \rvert, \qquad
    M^l_k = \sigma\Big(\sum_c e^l_{kc} \sum_o \mathcal{H}^l(t)_{co}\Big)$$

    o runs over the three orientations of a level: edges and texture. The lowest band is not
    compared. The position-aware weights that the paper adds are not in the authors' file, and not
    here.

    Args:
        student: maps (B, C, H, W), after an adapter if shapes differed.
        teacher: maps of the same shape; no gradient reaches them.
        tokens: e, (L, K, C): K tokens for each level, finest first, from which the masks over
            positions are made; without them every position counts fully.
        levels: L, of the transform. Odd sizes are padded with zeros.
        reduction: mean over samples; within one, means as above, as the authors' code has them.

    Raises:
        InputError: the shapes differ, the tokens do not fit, or the map is too small for
            the levels.

    Source: Zhang et al. 2023, "FreeKD: Knowledge Distillation via Semantic Frequency Prompt",
    arXiv:2311.12079; code: Gumpest/FreeKD.

    >>> checks = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]])  # one orientation of three: 2
    >>> frequency(checks, torch.zeros(1, 1, 2, 2), levels=1)
    tensor(0.6667)
    """
    student, teacher = comparable(student, teacher, None, remedy=_REMEDY)
    if levels < 1:
        raise InputError(f"levels is {levels}", expected="at least 1")
    if student.ndim != 4 or min(student.shape[2:]) <= 2 ** (levels - 1):
        raise InputError(
            f"frequency got {tuple(student.shape)} for {levels} levels",
            expected=f"maps (B, C, H, W) larger than {2 ** (levels - 1)}×{2 ** (levels - 1)}",
            remedy="Ask for fewer levels.",
        )
    wanted = levels, student.shape[1]
    if tokens is not None and (tokens.ndim != 3 or (len(tokens), tokens.shape[2]) != wanted):
        raise InputError(
            f"frequency got tokens {tuple(tokens.shape)}",
            expected=f"(levels, tokens, channels): {levels} levels, {student.shape[1]} channels",
        )
    total = student.new_zeros(len(student))
    for level in range(levels):
        student, own_BCOHW = haar(student)
        teacher, theirs_BCOHW = haar(teacher)
        distance_BHW = (own_BCOHW - theirs_BCOHW).abs().mean((1, 2))
        if tokens is not None:
            scores = torch.einsum("kc,bchw->bkhw", tokens[level], theirs_BCOHW.sum(2))
            distance_BHW = scores.sigmoid().mean(1) * distance_BHW
        total = total + distance_BHW.mean((1, 2))
    return reduce(total, None, reduction)


@declare(Spec("feature", _FREEKD, "shape"))
class Frequency(nn.Module):
    """:func:`frequency` with its tokens, which say where in a map the detail matters.

    The tokens are frozen: trained together with the student they would learn to hide everything.
    Train them before, on the teacher's task, as :func:`limbeck.methods.pretrain_prompt` does, or
    leave them as drawn (masks near ½).

    Args:
        channels: C of the teacher's maps.
        tokens: K for each level; with 0 every position counts fully.
        levels: L, of the transform.
        prompt: trained tokens (L, K, C), which are copied; they fix K and L.

    Raises:
        InputError: as :func:`frequency`; or the prompt is of other channels.

    Source: Zhang et al. 2023, arXiv:2311.12079; code: Gumpest/FreeKD.

    >>> Frequency(8, tokens=2, levels=1)(torch.ones(1, 8, 4, 4), torch.zeros(1, 8, 4, 4))
    tensor(0.)
    """

    def __init__(
        self, channels: int, *, tokens: int = 2, levels: int = 3, prompt: Tensor | None = None
    ) -> None:
        super().__init__()
        if prompt is not None and (prompt.ndim != 3 or prompt.shape[2] != channels):
            raise InputError(
                f"a prompt {tuple(prompt.shape)} met maps of {channels} channels",
                expected="(levels, tokens, channels), trained on the tapped map",
            )
        drawn = torch.randn(levels, tokens, channels) / channels**0.5
        given = drawn if prompt is None else prompt.detach().clone()
        self.tokens = nn.Parameter(given, requires_grad=False)
        self.levels = len(given)

    @classmethod
    def build(
        cls,
        student: Tensor,
        teacher: Tensor,
        setting: Setting,
        *,
        tokens: int = 2,
        levels: int | None = 3,
        prompt: Tensor | None = None,
    ) -> Frequency:
        """Return the module for the teacher's channels; ``None`` takes 3 levels, or what fits."""
        if levels is None:
            levels = min(3, max(1, (min(teacher.shape[2:], default=1) - 1).bit_length()))
        return cls(teacher.shape[1], tokens=tokens, levels=levels, prompt=prompt)

    def forward(self, student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
        tokens = self.tokens if self.tokens.numel() else None
        return frequency(student, teacher, tokens=tokens, levels=self.levels, reduction=reduction)


def several(tensors: Any) -> list[Tensor]:
    """Return one tensor or several as a list."""
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def _similar(a_BCN: Tensor, b_BCN: Tensor, teacher_BCN: Tensor, kernel: str) -> Tensor:
    """Return the mean kernel (B,) over all pairs of a channel of a and one of b."""
    products = a_BCN @ b_BCN.mT
    if kernel == "linear":
        return products.mean((1, 2))
    if kernel == "polynomial":
        return products.square().mean((1, 2))
    bandwidth = _distances(teacher_BCN, teacher_BCN).mean((1, 2), keepdim=True)
    distances = _distances(a_BCN, b_BCN)
    return (-distances / (2 * bandwidth.clamp(min=_NARROWEST))).exp().mean((1, 2))


def _distances(a_BCN: Tensor, b_BCN: Tensor) -> Tensor:
    """Return the squared distance (B, C, C') between each channel of a and each of b."""
    squares = a_BCN.square().sum(-1).unsqueeze(2) + b_BCN.square().sum(-1).unsqueeze(1)
    return squares - 2 * a_BCN @ b_BCN.mT


def _flow_matrix(layers: Sequence[Tensor], pooling: str) -> Tensor:
    """Return the flow matrix (B, C1, C2) of two layers."""
    first, second = layers
    if first.ndim == second.ndim == 4:
        size = min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3])
        pool: Any = F.adaptive_max_pool2d if pooling == "max" else F.adaptive_avg_pool2d
        first, second = (
            (maps if maps.shape[2:] == size else pool(maps, size)).flatten(2)
            for maps in (first, second)
        )
    elif first.ndim == second.ndim == 3 and first.shape[1] == second.shape[1]:
        first, second = first.mT, second.mT
    else:
        raise InputError(
            f"flow got layers {tuple(first.shape)} and {tuple(second.shape)} on one side",
            expected="two maps (B, C, H, W), or the same tokens (B, N, D) twice",
        )
    return first @ second.mT / first.shape[2]


def haar(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the low band (B, C, H/2, W/2), and the high ones (B, C, 3, H/2, W/2)."""
    maps = F.pad(maps, (0, maps.shape[3] % 2, 0, maps.shape[2] % 2))
    top, bottom = maps[:, :, 0::2], maps[:, :, 1::2]
    a, b = top[..., 0::2], top[..., 1::2]
    c, d = bottom[..., 0::2], bottom[..., 1::2]
    high = torch.stack([a + b - c - d, a - b + c - d, a - b - c + d], dim=2)
    return (a + b + c + d) / 2, high / 2
