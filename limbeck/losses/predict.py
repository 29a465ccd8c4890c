"""Losses whose module predicts the teacher's maps from the student's: VID, MGD, ReviewKD.

Each is a pure function beside a module that owns its parameters. The modules are trained with the
student and dropped with the loss.

Letters: B samples, C channels, H×W positions of a map. Maps are (B, C, H, W). The teacher never
receives a gradient; all is computed in float32 or better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.losses.maps import several
from limbeck.losses.spec import Reduction, Setting, Spec, comparable, declare, reduce
from limbeck.losses.transfer import ConvNorm, per_channel

__all__ = [
    "MaskedGenerative",
    "Review",
    "Variational",
    "masked_generative",
    "review",
    "variational",
]

_REMEDY = "The loss's module brings the channels together; sizes must be equal before."
_VID = "Ahn et al. 2019 (VID), arXiv:1904.05835"
_MGD = "Yang et al. 2022 (MGD), arXiv:2205.01529"
_REVIEW = "Chen et al. 2021 (ReviewKD), arXiv:2104.09044"
_LEAST_VARIANCE = 1e-5
_LEVELS = (4, 2, 1)  # sizes to which the hierarchical context loss averages maps


@declare(Spec("feature", _VID, "shape", zero_at_equal=False))
def variational(
    student: Tensor,
    teacher: Tensor,
    *,
    variance: Tensor,
    features: Literal["sum", "mean"] = "sum",
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Negative log-likelihood of the teacher's features, with one variance per channel.

    $$\sum_{c,h,w} \log \sigma_c + \frac{(t_{chw} - s_{chw})^2}{2 \sigma_c^2}$$

    Minimised, it is a lower bound of the mutual information of the two layers: channels that the
    student cannot predict get a large variance and stop to count. The value may be negative; the
    constant ½ log 2π per feature is left out.

    Args:
        student: the predicted means (B, C, H, W) or (B, C), after a regressor.
        teacher: features of the same shape; no gradient reaches them.
        variance: σ², (C,), positive.
        features: ``sum`` is the paper's formula, in nats; ``mean`` divides by the number of
            features, for which the weight 1 of the CIFAR-100 benchmark (RepDistiller) was chosen.
        reduction: mean over samples.

    Raises:
        InputError: the shapes differ, or there is not one variance per channel.

    Source: Ahn et al. 2019, "Variational Information Distillation for Knowledge Transfer",
    arXiv:1904.05835; compared with HobbitLong/RepDistiller.

    >>> variational(torch.zeros(1, 2), torch.ones(1, 2), variance=torch.ones(2))  # ½ twice
    tensor(1.)
    """
    student, teacher = comparable(student, teacher, None, remedy=_REMEDY)
    variance = per_channel(variance, student, "variance")
    likelihood = ((teacher - student).square() / variance + variance.log()) / 2
    likelihood = likelihood.flatten(1)
    return reduce(likelihood.sum(1) if features == "sum" else likelihood.mean(1), None, reduction)


@declare(Spec("feature", _VID, "positions", zero_at_equal=False))
class Variational(nn.Module):
    """:func:`variational` with its regressor and its learned variance per channel.

    The regressor is three 1×1 convolutions with ReLUs between them; the variance is
    log(1 + exp(``log_scale``)) + 1e-5.

    Args:
        student_channels: of the student's map, or its features.
        teacher_channels: of the teacher's.
        hidden: channels inside the regressor; by default the teacher's.
        initial_variance: of every channel.
        features: as :func:`variational`.

    Raises:
        InputError: the sizes H×W of the maps differ, or the initial variance is too small.

    Source: Ahn et al. 2019, arXiv:1904.05835; form of the regressor: HobbitLong/RepDistiller.

    >>> loss = Variational(6, 8, initial_variance=5.0)
    >>> loss.variance()[:2]
    tensor([5.0000, 5.0000], grad_fn=<SliceBackward0>)
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        hidden: int | None = None,
        initial_variance: float = 5.0,
        features: Literal["sum", "mean"] = "sum",
    ) -> None:
        super().__init__()
        if initial_variance <= _LEAST_VARIANCE:
            raise InputError(f"initial_variance is {initial_variance}", expected="a number above 0")
        self.features: Literal["sum", "mean"] = features
        inside = hidden or teacher_channels
        scale = math.log(math.expm1(initial_variance - _LEAST_VARIANCE))
        self.log_scale = nn.Parameter(torch.full((teacher_channels,), scale))
        self.regressor = nn.Sequential(
            nn.Conv2d(student_channels, inside, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(inside, inside, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(inside, teacher_channels, 1, bias=False),
        )

    @classmethod
    def build(
        cls,
        student: Tensor,
        teacher: Tensor,
        setting: Setting,
        *,
        hidden: int | None = None,
        initial_variance: float = 5.0,
        features: Literal["sum", "mean"] = "sum",
    ) -> Variational:
        """Return the module for the channels of these maps (or features)."""
        channels = student.shape[1], teacher.shape[1]
        return cls(*channels, hidden=hidden, initial_variance=initial_variance, features=features)

    def variance(self) -> Tensor:
        """Return σ², (C,)."""
        return F.softplus(self.log_scale) + _LEAST_VARIANCE

    def forward(self, student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
        vectors = student.ndim == 2
        mean = self.regressor(student[..., None, None] if vectors else student)
        mean = mean.flatten(1) if vectors else mean
        options: dict[str, Any] = {"features": self.features, "reduction": reduction}
        return variational(mean, teacher, variance=self.variance(), **options)


@declare(Spec("feature", _MGD, "shape", zero_at_equal=False))
def masked_generative(
    student: Tensor,
    teacher: Tensor,
    *,
    keep: Tensor,
    generator: Callable[[Tensor], Tensor],
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Squared distance between the teacher's map and one generated from parts of the student's.

    $$\lVert t - G(m \odot s) \rVert^2$$

    The student need not look like the teacher; what is left of it must suffice to restore the
    teacher. The factor α of the paper (7e-5 for classification, 2e-5 for one-stage detectors) is
    left to the weight.

    Args:
        student: maps (B, C, H, W) with the teacher's channels; see :class:`MaskedGenerative`.
        teacher: maps of the same shape; no gradient reaches them.
        keep: m, 1 where the student's map is kept and 0 where it is hidden, in a shape that
            broadcasts to the maps'. It hides features; it says nothing about samples.
        generator: G, which restores the teacher's map.
        reduction: mean over samples of the sum over features.

    Raises:
        InputError: the shapes differ, or the mask does not fit.

    Source: Yang et al. 2022, "Masked Generative Distillation", arXiv:2205.01529; code: yzd-v/MGD,
    yzd-v/cls_KD.

    >>> maps, half = torch.ones(1, 1, 1, 2), torch.tensor([[1.0, 0.0]])
    >>> masked_generative(maps, maps, keep=half, generator=lambda x: 3 * x)  # (3 − 1)² + (0 − 1)²
    tensor(5.)
    """
    student, teacher = comparable(student, teacher, None, remedy=_REMEDY)
    shape = student.shape[-keep.ndim :]
    if keep.ndim > student.ndim or any(
        k not in (1, n) for k, n in zip(keep.shape, shape, strict=True)
    ):
        raise InputError(
            f"a mask {tuple(keep.shape)} came with maps {tuple(student.shape)}",
            expected="a shape that broadcasts to the maps', (B, 1, H, W) for example",
        )
    restored = generator(student * keep.to(student.dtype))
    error = comparable(restored, teacher, None, remedy="The generator must keep the shape.")
    return reduce((error[0] - error[1]).square().flatten(1).sum(1), None, reduction)


@declare(Spec("feature", _MGD, "positions", zero_at_equal=False))
class MaskedGenerative(nn.Module):
    """:func:`masked_generative` with its generator, two 3×3 convolutions and a ReLU between them.

    A 1×1 convolution comes first where the numbers of channels differ. The mask is drawn anew at
    every call, with PyTorch's generator of the device or with one that is given.

    Args:
        student_channels: of the student's map.
        teacher_channels: of the teacher's map.
        drop: probability that a place is hidden, 0 to 1.
        places: ``positions`` hides all channels at a position, as the paper does; ``channels``
            hides whole channels of a sample, as the authors' code for classification does.

    Raises:
        InputError: the sizes H×W of the maps differ, or ``drop`` is no probability.

    Source: Yang et al. 2022, arXiv:2205.01529; code: yzd-v/MGD, yzd-v/cls_KD.

    >>> loss = MaskedGenerative(6, 8, drop=0.4)
    >>> loss(torch.randn(2, 6, 3, 3), torch.randn(2, 8, 3, 3)).ndim
    0
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        drop: float = 0.5,
        places: Literal["positions", "channels"] = "positions",
    ) -> None:
        super().__init__()
        if not 0 <= drop <= 1:
            raise InputError(f"drop is {drop}", expected="a probability, 0 to 1")
        same = student_channels == teacher_channels
        self.align = nn.Identity() if same else nn.Conv2d(student_channels, teacher_channels, 1)
        self.generation = nn.Sequential(
            nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1),
        )
        self.drop, self.places = drop, places

    @classmethod
    def build(
        cls,
        student: Tensor,
        teacher: Tensor,
        setting: Setting,
        *,
        drop: float = 0.5,
        places: Literal["positions", "channels"] = "positions",
    ) -> MaskedGenerative:
        """Return the module for the channels of these maps."""
        return cls(student.shape[1], teacher.shape[1], drop=drop, places=places)

    def drawn(self, maps_BCHW: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return a random mask, (B, 1, H, W) or (B, C, 1, 1), on the device of the maps."""
        B, C, H, W = maps_BCHW.shape
        shape = (B, 1, H, W) if self.places == "positions" else (B, C, 1, 1)
        device = generator.device if generator else maps_BCHW.device
        uniform = torch.rand(shape, generator=generator, device=device)
        return (uniform >= self.drop).to(maps_BCHW.device)

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        *,
        keep: Tensor | None = None,
        generator: torch.Generator | None = None,
        reduction: Reduction = "mean",
    ) -> Tensor:
        aligned = self.align(student)
        mask = self.drawn(aligned, generator) if keep is None else keep
        return masked_generative(
            aligned, teacher, keep=mask, generator=self.generation, reduction=reduction
        )


@declare(Spec("feature", _REVIEW, "shape"))
def review(
    student: Tensor | Sequence[Tensor],
    teacher: Tensor | Sequence[Tensor],
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Hierarchical context loss: squared errors of a map at several sizes, added over stages.

    $$\sum_k \frac{\sum_l w_l \operatorname{mse}(\mathrm{pool}_l\, s_k, \mathrm{pool}_l\, t_k)}
    {\sum_l w_l}$$

    The sizes l are the full one with weight 1, then averages of 4×4, 2×2 and 1×1 cells, as far as
    they are smaller than the map, with half the weight of the one before.

    Args:
        student: fused maps (B, C, H, W) of one stage or several; see :class:`Review`.
        teacher: maps of as many stages and of the same shapes; no gradient reaches them.
        reduction: mean over samples of the sum over stages; within a stage, means over features.

    Raises:
        InputError: the numbers of stages or the shapes of a pair differ, or one is not a map.

    Source: Chen, Liu, Zhao, Jia 2021, "Distilling Knowledge via Knowledge Review",
    arXiv:2104.09044; code: dvlab-research/ReviewKD.

    >>> plus = torch.tensor([[[[2.0, 0.0], [0.0, 0.0]]]])
    >>> review(plus, torch.zeros(1, 1, 2, 2))  # (1·4/4 + ½·(½)²) / 1½
    tensor(0.7500)
    """
    own, theirs = several(student), several(teacher)
    if len(own) != len(theirs):
        raise _stages(len(own), len(theirs), len(theirs))
    stages = [
        _hierarchical(*comparable(s, t, None, remedy=_REMEDY))
        for s, t in zip(own, theirs, strict=True)
    ]
    return reduce(torch.stack(stages).sum(0), None, reduction)


@declare(Spec("feature", _REVIEW, zero_at_equal=False, per_sample=False))
class Review(nn.Module):
    """:func:`review` with the attention-based fusion of each stage with the deeper ones.

    From the deepest stage to the shallowest, a stage of the student is brought to a common width,
    mixed with what came from below by two learned attention maps, and projected to the teacher's
    channels. So the shallow stages of the teacher also teach the deep ones of the student.

    Args:
        student_channels: of the student's stages, from shallow to deep; the last may be the pooled
            feature, (B, C) or (B, C, 1, 1).
        teacher_channels: of the teacher's stages.
        width: of the fusion; by default that of the student's last stage, at most 512.

    Raises:
        InputError: the numbers of stages differ.

    Source: Chen, Liu, Zhao, Jia 2021, arXiv:2104.09044; code: dvlab-research/ReviewKD.

    >>> loss = Review((4, 6), (5, 7))
    >>> own = torch.randn(2, 4, 8, 8), torch.randn(2, 6, 4, 4)
    >>> loss(own, (torch.randn(2, 5, 8, 8), torch.randn(2, 7, 4, 4))).ndim
    0
    """

    def __init__(
        self,
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        *,
        width: int | None = None,
    ) -> None:
        super().__init__()
        own, theirs = list(student_channels), list(teacher_channels)
        if len(own) != len(theirs) or not own:
            raise _stages(len(own), len(theirs), max(1, len(theirs)))
        middle = width or min(512, own[-1])
        last = len(own) - 1
        self.stages = nn.ModuleList(
            _Fusion(here, middle, there, fuse=number < last)
            for number, (here, there) in enumerate(zip(own, theirs, strict=True))
        )

    @classmethod
    def build(
        cls,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        setting: Setting,
        *,
        width: int | None = None,
    ) -> Review:
        """Return the module for the channels of these stages."""
        own, theirs = several(student), several(teacher)
        return cls([s.shape[1] for s in own], [t.shape[1] for t in theirs], width=width)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        own, theirs = [_map(s) for s in several(student)], [_map(t) for t in several(teacher)]
        if not len(own) == len(theirs) == len(self.stages):
            raise _stages(len(own), len(theirs), len(self.stages))
        fused: list[Tensor] = []
        deeper: Tensor | None = None
        for stage, maps, target in reversed(list(zip(self.stages, own, theirs, strict=True))):
            projected, deeper = stage(maps, deeper, target.shape[2:])
            fused.append(projected)
        return review(fused[::-1], theirs)


class _Fusion(nn.Module):
    """One stage of :class:`Review`; without ``fuse`` it is the deepest, which has none below."""

    def __init__(self, channels: int, width: int, out: int, *, fuse: bool) -> None:
        super().__init__()
        first = nn.Conv2d(channels, width, 1, bias=False)
        last = nn.Conv2d(width, out, 3, padding=1, bias=False)
        for conv in (first, last):
            nn.init.kaiming_uniform_(conv.weight, a=1)
        self.reduce, self.project = ConvNorm(first, width), ConvNorm(last, out)
        self.attention = nn.Conv2d(2 * width, 2, 1) if fuse else None

    def forward(
        self, maps: Tensor, deeper: Tensor | None, size: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return the map for the teacher's stage, and what the next shallower stage gets."""
        maps = self.reduce(maps)
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, list(maps.shape[2:]), mode="nearest")
            share = self.attention(torch.cat([maps, deeper], dim=1)).sigmoid()
            maps = maps * share[:, :1] + deeper * share[:, 1:]
        if maps.shape[2:] != tuple(size):
            maps = F.interpolate(maps, list(size), mode="nearest")
        return self.project(maps), maps


def _hierarchical(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the hierarchical context loss (B,) of one stage."""
    if student.ndim != 4:
        raise InputError(f"review got {tuple(student.shape)}", expected="maps (B, C, H, W)")
    difference = student - teacher  # averaging is linear: one map to pool instead of two
    total, weight, weights = difference.square().flatten(1).mean(1), 1.0, 1.0
    for size in _LEVELS:
        if size < min(student.shape[2:]):
            weight /= 2
            weights += weight
            pooled = F.adaptive_avg_pool2d(difference, size)
            total = total + weight * pooled.square().flatten(1).mean(1)
    return total / weights


def _map(features: Tensor) -> Tensor:
    """Return a map; a vector becomes one of a single position."""
    return features[..., None, None] if features.ndim == 2 else features


def _stages(own: int, theirs: int, expected: int) -> InputError:
    return InputError(
        f"review got {own} stages of the student and {theirs} of the teacher",
        expected=f"{expected} on each side",
    )
