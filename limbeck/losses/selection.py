"""Which layer of the student learns from which of the teacher: chosen by learned attention.

Letters: B samples, S layers of the student, L layers of the teacher, C channels, H×W positions of a
map, D width of queries and keys. Maps are (B, C, H, W). The modules' parameters are trained with
the student and dropped with the loss. The teacher never receives a gradient; all is computed in
float32 or better.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.losses.geometry import unit
from limbeck.losses.spec import Setting, Spec, declare

__all__ = [
    "AttentionSelection",
    "SemanticCalibration",
    "attention_selection",
    "semantic_calibration",
]

_AFD = Spec(
    "feature", "Ji et al. 2021 (AFD), arXiv:2102.02973", zero_at_equal=False, per_sample=False
)
_SEMCKD = Spec(
    "feature", "Chen et al. 2021 (SemCKD), arXiv:2012.03236", zero_at_equal=False, per_sample=False
)


@declare(_AFD)
def attention_selection(
    student: Sequence[Tensor], teacher: Sequence[Tensor], *, weights: Tensor
) -> Tensor:
    r"""Squared distance between where the layers look, each pair of layers with its weight.

    $$\sum_{l=1}^{L} \sum_{s=1}^{S} \alpha_{ls} \, \frac1{HW}
    \Big\lVert \frac{g_s}{\lVert g_s \rVert} - \frac{g_l}{\lVert g_l \rVert} \Big\rVert_2^2, \qquad
    g = \frac1C \sum_c F_c^2$$

    The student's g is averaged to the size H×W of the teacher's layer. The value is a mean over
    samples. :class:`AttentionSelection` learns the weights.

    Args:
        student: S maps (B, C, H, W) of any channels and sizes.
        teacher: L maps (B, C, H, W) of any channels and sizes; no gradient reaches them.
        weights: α (B, L, S), or (L, S) for all samples; where its gradient goes is the caller's
            affair.

    Raises:
        InputError: something is not a map, or the numbers of samples, layers or weights differ.

    Source: Ji, Heo, Park 2021, "Show, Attend and Distill: Knowledge Distillation via
    Attention-based Feature Matching", arXiv:2102.02973; code:
    clovaai/attention-feature-distillation.

    >>> left, right = torch.tensor([[[[2.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
    >>> attention_selection((left, right), (right,), weights=torch.tensor([[0.25, 0.75]]))
    tensor(0.2500)
    """
    _maps("attention_selection", student, teacher)
    _fitting("attention_selection", weights, (len(teacher), len(student)), len(student[0]))
    total = weights.new_zeros(())
    for layer, target in enumerate(teacher):
        looked = unit(_energy(target).flatten(1)).unsqueeze(1)
        own = [_averaged(_energy(m), target.shape[2], target.shape[3]).flatten(1) for m in student]
        apart_BS = (unit(torch.stack(own, dim=1)) - looked).square().mean(-1)
        total = total + (apart_BS * weights[..., layer, :]).sum(1).mean()
    return total


@declare(_AFD)
class AttentionSelection(nn.Module):
    r"""The loss :func:`attention_selection` with weights that are learned for each sample.

    $$\alpha_{ls} = \mathrm{softmax}_s \big((q_l^\top k_{ls} + p_l^\top p_s) / \sqrt D \big)$$

    Each of the teacher's layers shares its attention out between the student's. Queries come from
    the teacher's channel means, keys from the student's, both through linear layers and batch
    normalisation; p are a position for each layer. In training it needs two samples or more.

    Args:
        student_channels: of each of the student's maps.
        teacher_channels: of each of the teacher's maps.
        width: D of queries, keys and positions.

    Raises:
        InputError: a batch of one sample in training, or what :func:`attention_selection` refuses.

    Source: Ji, Heo, Park 2021, "Show, Attend and Distill: Knowledge Distillation via
    Attention-based Feature Matching", arXiv:2102.02973; code:
    clovaai/attention-feature-distillation. Usual weight 200.

    >>> loss = AttentionSelection([4, 8], [6], width=16)
    >>> student = torch.randn(2, 4, 8, 8), torch.randn(2, 8, 4, 4)
    >>> loss.weights(student, (torch.randn(2, 6, 8, 8),)).shape
    torch.Size([2, 1, 2])
    """

    def __init__(
        self, student_channels: Sequence[int], teacher_channels: Sequence[int], *, width: int = 128
    ) -> None:
        super().__init__()
        self.width = width
        self.teacher_positions = nn.Parameter(torch.empty(len(teacher_channels), width))
        self.student_positions = nn.Parameter(torch.empty(len(student_channels), width))
        nn.init.xavier_normal_(self.teacher_positions)
        nn.init.xavier_normal_(self.student_positions)
        self.keys = nn.ModuleList(_linear(channels, width) for channels in student_channels)
        self.spread = _linear(width, width * len(teacher_channels))
        self.queries = nn.ModuleList(_linear(channels, width) for channels in teacher_channels)

    @classmethod
    def build(
        cls,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        setting: Setting,
        *,
        width: int = 128,
    ) -> Self:
        """Make one for the maps that meet."""
        _maps("AttentionSelection", student, teacher)
        channels = [[m.shape[1] for m in side] for side in (student, teacher)]
        return cls(channels[0], channels[1], width=width)

    def weights(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Return α (B, L, S), which sums to 1 over the student's layers."""
        asked = zip(self.queries, teacher, strict=True)
        held = zip(self.keys, student, strict=True)
        queries_BLD = torch.stack([layer(m.mean((2, 3))) for layer, m in asked], dim=1)
        keys_BSD = torch.stack([layer(m.mean((2, 3))).relu() for layer, m in held], dim=1)
        spread = self.spread(keys_BSD.flatten(0, 1))
        keys_BSLD = spread.view(*keys_BSD.shape[:2], len(self.queries), self.width)
        positions_LS = self.teacher_positions @ self.student_positions.T
        scores_BLS = torch.einsum("bsld,bld->bls", keys_BSLD, queries_BLD) + positions_LS
        return F.softmax(scores_BLS / self.width**0.5, dim=2)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Return the loss with the weights that the attention gives.

        Args:
            student: S maps (B, C, H, W).
            teacher: L maps (B, C, H, W); no gradient reaches them.
        """
        _maps("AttentionSelection", student, teacher)
        _layers("AttentionSelection", student, teacher, (len(self.keys), len(self.queries)))
        if self.training and len(student[0]) < 2:
            raise InputError(
                "AttentionSelection got one sample in training",
                expected="two or more, for its batch normalisation",
                remedy="Use larger batches, and drop the last one if it is not full.",
            )
        value: Tensor = attention_selection(
            student, teacher, weights=self.weights(student, teacher)
        )
        return value


@declare(_SEMCKD)
def semantic_calibration(
    student: Sequence[Tensor], teacher: Sequence[Tensor], *, weights: Tensor
) -> Tensor:
    r"""Mean squared error between projected maps and the teacher's, each pair with its weight.

    $$\frac1S \sum_{s=1}^{S} \sum_{l=1}^{L}
    \alpha_{sl} \, \frac1{CHW} \lVert F_{sl} - F_l \rVert^2$$

    F_sl is the student's layer s, projected to the channels of the teacher's layer l; the larger of
    the two is averaged to the size of the smaller. The value is a mean over samples.
    :class:`SemanticCalibration` has the projections and learns the weights.

    Args:
        student: S·L maps (B, C, H, W): those of the first layer for all of the teacher's, then
            those of the second, ...
        teacher: L maps (B, C, H, W), of those channels; no gradient reaches them.
        weights: α (B, S, L), or (S, L) for all samples; where its gradient goes is the caller's
            affair.

    Raises:
        InputError: something is not a map, or the numbers of samples, maps, channels or weights do
            not fit.

    Source: Chen et al. 2021, "Cross-Layer Distillation with Semantic Calibration",
    arXiv:2012.03236; code: DefangChen/SemCKD.

    >>> one, two = torch.ones(1, 1, 2, 2), torch.full((1, 1, 1, 1), 3.0)
    >>> semantic_calibration((one, one), (one, two), weights=torch.tensor([[0.25, 0.75]]))
    tensor(3.)
    """
    _maps("semantic_calibration", student, teacher)
    layers, rest = divmod(len(student), len(teacher))
    pairs = list(zip(student, [*teacher] * layers, strict=False))
    if rest or any(s.shape[1] != t.shape[1] for s, t in pairs):
        raise InputError(
            f"semantic_calibration got maps {_shapes(student)} and {_shapes(teacher)}",
            expected="for each of the student's layers a map for each of the teacher's, with its "
            "channels",
        )
    _fitting("semantic_calibration", weights, (layers, len(teacher)), len(student[0]))
    apart = [(s - t).square().mean((1, 2, 3)) for s, t in (_same_size(*pair) for pair in pairs)]
    apart_BSL = torch.stack(apart, dim=1).unflatten(1, (layers, len(teacher)))
    value: Tensor = (apart_BSL * weights).sum((1, 2)).mean() / layers
    return value


@declare(_SEMCKD)
class SemanticCalibration(nn.Module):
    r"""The loss :func:`semantic_calibration` with projections, and weights that are learned.

    $$\alpha_{sl} = \mathrm{softmax}_l \big(q_s^\top k_l\big), \qquad
    q_s = \frac{\mathrm{MLP}_s(A_s)}{\lVert \mathrm{MLP}_s(A_s) \rVert}, \quad A_s = F_s F_s^\top$$

    Each of the student's layers shares its attention out between the teacher's. Query and key of a
    sample come from its similarities with the samples of the batch, so the batch's size is built
    into the layers, and the order of the samples has an influence. In a smaller batch the missing
    samples count as similar to none. Each pair of layers has a projection of its own: three
    convolutions and two batch normalisations, often more parameters than the student has.

    Args:
        student_channels: of each of the student's maps.
        teacher_channels: of each of the teacher's maps.
        batch_size: the number of samples that meet, of one process.
        factor: queries and keys have ``batch_size // factor`` entries, at least one.

    Raises:
        InputError: a larger batch, or what :func:`semantic_calibration` refuses.

    Source: Chen et al. 2021, "Cross-Layer Distillation with Semantic Calibration",
    arXiv:2012.03236; code: DefangChen/SemCKD. Usual weight 400.

    >>> loss = SemanticCalibration([4, 8], [6], batch_size=8)
    >>> student = torch.randn(8, 4, 8, 8), torch.randn(8, 8, 4, 4)
    >>> loss.weights(student, (torch.randn(8, 6, 8, 8),)).shape
    torch.Size([8, 2, 1])
    """

    def __init__(
        self,
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        *,
        batch_size: int,
        factor: int = 4,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        width = max(1, batch_size // factor)
        self.keys = nn.ModuleList(_perceptron(batch_size, width) for _ in teacher_channels)
        self.queries = nn.ModuleList(_perceptron(batch_size, width) for _ in student_channels)
        self.projections = nn.ModuleList(
            _projection(own, theirs) for own in student_channels for theirs in teacher_channels
        )

    @classmethod
    def build(
        cls,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        setting: Setting,
        *,
        batch_size: int,
        factor: int = 4,
    ) -> Self:
        """Make one for the maps that meet."""
        _maps("SemanticCalibration", student, teacher)
        channels = [[m.shape[1] for m in side] for side in (student, teacher)]
        return cls(channels[0], channels[1], batch_size=batch_size, factor=factor)

    def weights(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Return α (B, S, L), which sums to 1 over the teacher's layers."""
        asked = zip(self.queries, student, strict=True)
        held = zip(self.keys, teacher, strict=True)
        queries_BSD = torch.stack([unit(layer(self._alike(m))) for layer, m in asked], dim=1)
        keys_BLD = torch.stack([unit(layer(self._alike(m))) for layer, m in held], dim=1)
        return F.softmax(queries_BSD @ keys_BLD.mT, dim=2)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Return the loss with the weights that the attention gives.

        Args:
            student: S maps (B, C, H, W).
            teacher: L maps (B, C, H, W); no gradient reaches them.
        """
        _maps("SemanticCalibration", student, teacher)
        _layers("SemanticCalibration", student, teacher, (len(self.queries), len(self.keys)))
        if len(student[0]) > self.batch_size:
            raise InputError(
                f"SemanticCalibration got {len(student[0])} samples",
                expected=f"at most {self.batch_size}, for which it was built",
                remedy="Build it with batch_size=, the number of samples of one process.",
            )
        pairs = [(own, theirs) for own in student for theirs in teacher]
        fitted = zip(self.projections, pairs, strict=True)
        projected = tuple(project(_same_size(*pair)[0]) for project, pair in fitted)
        value: Tensor = semantic_calibration(
            projected, teacher, weights=self.weights(student, teacher)
        )
        return value

    def _alike(self, maps: Tensor) -> Tensor:
        """Return the inner products with the samples of a full batch (B, batch_size)."""
        features = maps.flatten(1)
        return F.pad(features @ features.T, (0, self.batch_size - len(features)))


def _linear(given: int, made: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(given, made), nn.BatchNorm1d(made))


def _perceptron(given: int, made: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(given, 2 * made), nn.ReLU(), nn.Linear(2 * made, made))


def _projection(own: int, theirs: int) -> nn.Sequential:
    """Return the authors' three convolutions, through twice the teacher's channels."""
    inner = 2 * theirs
    return nn.Sequential(
        nn.Conv2d(own, inner, 1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(),
        nn.Conv2d(inner, inner, 3, padding=1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(),
        nn.Conv2d(inner, theirs, 1, bias=False),
    )


def _energy(maps: Tensor) -> Tensor:
    """Return the mean over channels of the squares (B, 1, H, W)."""
    return maps.square().mean(1, keepdim=True)


def _same_size(own: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Average both maps to the smaller of their sizes."""
    height, width = (min(own.shape[d], theirs.shape[d]) for d in (2, 3))
    return _averaged(own, height, width), _averaged(theirs, height, width)


def _averaged(maps: Tensor, height: int, width: int) -> Tensor:
    """Average maps to a size; those that have it stay."""
    same = maps.shape[2:] == (height, width)
    return maps if same else F.adaptive_avg_pool2d(maps, (height, width))


def _maps(name: str, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    """Refuse what is not some maps of the same samples on each side."""
    several = all(isinstance(side, (tuple, list)) and len(side) for side in (student, teacher))
    if not several or any(m.ndim != 4 or len(m) != len(student[0]) for m in (*student, *teacher)):
        raise InputError(
            f"{name} got {_shapes(student)} and {_shapes(teacher)}",
            expected="on each side several maps (B, C, H, W) of the same samples",
            remedy="Give lists of taps, as in Match(['layer2', 'layer3'], ['layer3'], ...).",
        )


def _layers(
    name: str, student: Sequence[Tensor], teacher: Sequence[Tensor], built: tuple[int, int]
) -> None:
    if (len(student), len(teacher)) != built:
        raise InputError(
            f"{name} got {len(student)} maps of the student and {len(teacher)} of the teacher",
            expected=f"{built[0]} and {built[1]}, for which it was built",
        )


def _fitting(name: str, weights: Tensor, pairs: tuple[int, int], samples: int) -> None:
    if tuple(weights.shape) not in (pairs, (samples, *pairs)):
        raise InputError(
            f"{name} got weights {tuple(weights.shape)}",
            expected=f"{pairs} or {(samples, *pairs)}",
        )


def _shapes(side: Sequence[Tensor]) -> str:
    several = side if isinstance(side, (tuple, list)) else (side,)
    return ", ".join(str(tuple(m.shape)) for m in several) or "nothing"
