"""Losses of dense tasks: where detection and segmentation differ from one answer per image.

Letters: B samples, C channels, H×W positions of a map, K classes, E box edges, N bins or boxes, P
patches on a side. The teacher never receives a gradient; all is computed in float32 or better.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.losses.geometry import unit
from limbeck.losses.logits import kl, soft_cross_entropy
from limbeck.losses.spec import Reduction, Setting, Spec, comparable, declare, reduce

__all__ = ["FocalGlobal", "focal_global", "localization", "pair_wise", "pixel_wise"]

_REMEDY = 'Leave adapter="auto", which brings the student to the teacher\'s channels and size.'
_LIU = "Liu et al. 2019, arXiv:1903.04197"
_FGD = "Yang et al. 2022 (FGD), arXiv:2111.11837"


@declare(Spec("dense", "Zheng et al. 2022 (LD), arXiv:2102.12252", "classes"))
def localization(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 10.0,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Divergence between the distributions of where a box's edge lies.

    $$T^2 \sum_n p_n (\log p_n - \log q_n), \quad p = \mathrm{softmax}(t / T),\;
    q = \mathrm{softmax}(s / T)$$

    Detectors with a general distribution (GFL) predict each edge over N bins; that passes on how
    sure the teacher is of an edge, which a box cannot say. It is :func:`limbeck.losses.kl` over the
    bins of each edge, at the authors' temperature.

    Args:
        student: logits of edges (E, N), or (B, E, N) with the edges of each box or place.
        teacher: logits of the same shape; no gradient reaches them.
        temperature: T > 0, with T² inside; the authors use 10.
        weights: a factor for each edge, (E,) or (B, E), for example the box's quality; the mean
            still divides by the number of edges.
        mask: (B, E), or (E,) for (E, N): true where an edge counts, for example in the main region
            or the valuable one.
        reduction: mean over (unmasked) edges of the sum over bins, in nats. The paper sums the four
            edges of a box: four times this.

    Raises:
        InputError: the shapes differ, or the temperature is not positive.

    Source: Zheng et al. 2022, "Localization Distillation for Dense Object Detection",
    arXiv:2102.12252; code: HikariTJU/LD, which takes the mean over bins (divide by N).

    >>> edge, sure = torch.tensor([[0.0, 0.0]]), torch.tensor([[10.986123, 0.0]])
    >>> localization(edge, sure)  # 100 · KL((¾, ¼) ‖ (½, ½))
    tensor(13.0812)
    """
    values = kl(student, teacher, temperature=temperature, mask=mask, reduction="none")
    if weights is not None:
        if weights.shape != values.shape:
            raise InputError(
                f"localization got weights {tuple(weights.shape)} for edges {tuple(values.shape)}",
                expected="one weight per edge",
            )
        values = values * weights
    return reduce(values, mask, reduction)


@declare(Spec("dense", _LIU, "positions"))
def pixel_wise(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    form: Literal["kl", "cross_entropy"] = "kl",
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Divergence from the teacher's classes to the student's at each pixel of a segmentation.

    $$\frac{T^2}{H W} \sum_{i} \mathrm{KL}(p_i \,\Vert\, q_i), \quad
    p_i = \mathrm{softmax}(t_i / T),\; q_i = \mathrm{softmax}(s_i / T)$$

    Args:
        student: logits (B, K, H, W).
        teacher: logits of the same shape; no gradient reaches them.
        temperature: T > 0, with T² inside; the paper uses 1.
        form: ``kl``, or ``cross_entropy`` as in the authors' code, which adds the teacher's entropy
            and has the same gradient.
        mask: (B, H, W), true where a pixel counts, or (B,) for whole images.
        reduction: mean over samples (that have a pixel) of the mean over unmasked pixels of the sum
            over classes, in nats.

    Raises:
        InputError: the shapes differ, or the temperature is not positive.

    Source: Liu et al. 2019, "Structured Knowledge Distillation for Semantic Segmentation",
    arXiv:1903.04197, eq. 1; code: irfanICMLL/structure_knowledge_distillation, whose value is the
    sum over samples.

    >>> maps = torch.tensor([[1.0986123, 0.0]]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    >>> pixel_wise(torch.zeros(1, 2, 4, 4), maps)  # KL((¾, ¼) ‖ (½, ½)) at each pixel
    tensor(0.1308)
    """
    if student.ndim != 4 or student.shape != teacher.shape:
        raise InputError(
            f"pixel_wise got logits {tuple(student.shape)} and {tuple(teacher.shape)}",
            expected="(B, classes, H, W), the same on both sides",
            remedy="Bring both models' logits to one size, and give them the same classes.",
        )
    divergence = kl if form == "kl" else soft_cross_entropy
    sides = (logits.flatten(2).transpose(1, 2) for logits in (student, teacher))
    pixels = None if mask is None or mask.ndim == 1 else mask.flatten(1).bool()
    values = divergence(*sides, temperature=temperature, mask=pixels, reduction="none")
    if pixels is None:
        return reduce(values.mean(1), mask, reduction)
    counts = pixels.sum(1)
    return reduce(values.sum(1) / counts.clamp(min=1), counts > 0, reduction)


@declare(Spec("dense", _LIU))
def pair_wise(
    student: Tensor,
    teacher: Tensor,
    *,
    patches: int | tuple[int, int] = 2,
    form: Literal["paper", "code"] = "paper",
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Distance between the similarities of all pairs of an image's regions.

    $$\frac1{P^4} \sum_{i, j} (a^s_{ij} - a^t_{ij})^2, \quad a_{ij} =
    \frac{f_i \cdot f_j}{\lVert f_i \rVert \lVert f_j \rVert}$$

    Regions are the P×P patches to which a map is pooled. Channels and sizes of student and teacher
    may differ. A patch that is zero everywhere is similar to none.

    Args:
        student: maps (B, C, H, W).
        teacher: maps (B, C', H', W'); no gradient reaches them.
        patches: P, or (rows, columns). The authors use 2; the number of pairs grows with P⁴.
        form: ``paper`` averages over each patch. ``code`` is the authors' code, which takes the
            maximum and lets no gradient through the length.
        reduction: mean over samples of the mean over pairs.

    Raises:
        InputError: a tensor is not (B, C, H, W), or the numbers of samples differ.

    Source: Liu et al. 2019, "Structured Knowledge Distillation for Semantic Segmentation",
    arXiv:1903.04197, eq. 2; code: irfanICMLL/structure_knowledge_distillation.

    >>> same = torch.ones(1, 2, 1, 2)  # both patches alike: all similarities 1
    >>> unlike = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # similar to themselves alone
    >>> pair_wise(same, unlike, patches=(1, 2))  # two of four pairs differ by 1
    tensor(0.5000)
    """
    if student.ndim != 4 or teacher.ndim != 4 or len(student) != len(teacher):
        raise InputError(
            f"pair_wise got maps {tuple(student.shape)} and {tuple(teacher.shape)}",
            expected="(B, C, H, W) with the same samples",
        )
    own, theirs = (_similarities(maps, patches, form) for maps in (student, teacher))
    return reduce((own - theirs).square().mean((1, 2)), None, reduction)


@declare(Spec("dense", _FGD, "shape"))
def focal_global(
    student: Tensor,
    teacher: Tensor,
    *,
    targets: Tensor,
    image: tuple[int, int],
    contexts: tuple[Tensor, Tensor] | None = None,
    alpha: float = 0.001,
    beta: float = 0.0005,
    gamma: float = 0.001,
    relation: float = 0.000005,
    attention: float = 0.5,
    form: Literal["paper", "code"] = "paper",
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Distance between a detector's features, weighted by objects, scale and attention.

    $$\sum_{c, i} \Big(\frac{\alpha\, [i \in r]}{|r|} + \frac{\beta\, [i \notin \cup r]}
    {|\overline{\cup r}|}\Big) A^S_i A^C_c (s_{ci} - t_{ci})^2 + \gamma \big(\lVert A^S_s - A^S
    \rVert_1 + \lVert A^C_s - A^C \rVert_1\big) + \lambda \lVert s + g_s - t - g_t \rVert^2$$

    Objects and background are weighed apart, each object by the inverse of its size, since small
    ones would drown. A are the teacher's attentions: spatial H·W·softmax of the mean |t| over
    channels, and channel C·softmax of the mean |t| over positions. g are global contexts, one
    vector per image, which restore the relation of pixels that the first part separates;
    :class:`FocalGlobal` computes them.

    Args:
        student: maps (B, C, H, W) of one level of the neck, with the teacher's channels.
        teacher: maps of the same shape; no gradient reaches them.
        targets: labelled boxes (B, N, 4), x1 y1 x2 y2 in pixels; rows with x2 ≤ x1 are padding.
        image: (height, width) of the image in pixels.
        contexts: g of the student and of the teacher, each (B, C); ``None`` leaves the last term
            out.
        alpha: weight of objects.
        beta: weight of the background.
        gamma: weight of the attentions' difference.
        relation: λ, weight of the global part. The four defaults are those of the loss in the
            authors' code, for one-stage detectors with anchors.
        attention: temperature of the attentions' softmax.
        form: which cells a box covers, from the cell of its upper left corner. ``paper`` ends with
            the last cell that it touches; ``code`` ends, as the authors' code does, one cell
            further, and counts it even outside the map.
        reduction: mean over samples of the sum over channels and positions.

    Raises:
        InputError: the shapes differ, or the boxes do not have four numbers each.

    Source: Yang et al. 2022, "Focal and Global Knowledge Distillation for Detectors",
    arXiv:2111.11837, eq. 2 to 10; code: yzd-v/FGD.

    >>> own, theirs = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    >>> box = torch.tensor([[[0.0, 0.0, 4.0, 8.0]]])  # the left half of an image of 8×8
    >>> focal_global(own, theirs, targets=box, image=(8, 8), alpha=1.0, beta=3.0, gamma=0.0)
    tensor(4.)
    """
    student, teacher = comparable(student, teacher, None, remedy=_REMEDY)
    if student.ndim != 4 or targets.ndim != 3 or targets.shape[::2] != (len(student), 4):
        raise InputError(
            f"focal_global got maps {tuple(student.shape)} and boxes {tuple(targets.shape)}",
            expected="maps (B, C, H, W) and boxes (B, N, 4)",
            remedy="Pad each image's boxes with zeros to the same number.",
        )
    objects = _object_weights(
        targets.to(student.dtype), image, student.shape[2:], inclusive=form == "code"
    )
    background = (objects == 0).to(student.dtype)
    background = background / background.sum((1, 2), keepdim=True).clamp(min=1)
    spatial, channel = _attentions(teacher, attention)
    own_spatial, own_channel = _attentions(student, attention)
    focus = (alpha * objects + beta * background) * spatial
    squared = (student - teacher).square()
    value = torch.einsum("bchw,bhw,bc->b", squared, focus, channel)
    apart = (own_spatial - spatial).abs().sum((1, 2)) + (own_channel - channel).abs().sum(1)
    value = value + gamma * apart
    if contexts is not None:
        own, theirs = (context[:, :, None, None] for context in contexts)
        value = value + relation * (student + own - teacher - theirs).square().sum((1, 2, 3))
    return reduce(value, None, reduction)


@declare(Spec("dense", _FGD, "positions", zero_at_equal=False))
class FocalGlobal(nn.Module):
    """:func:`focal_global` with its global context blocks, and a convolution where channels differ.

    A block pools a map by learned attention into one vector and passes that through two 1×1
    convolutions (GcNet). Both sides have one; both learn.

    Args:
        student_channels: of the student's maps.
        teacher_channels: of the teacher's.
        image: (height, width) of the images in pixels; ``None`` to be told them with each batch.
        alpha: weight of objects.
        beta: weight of the background.
        gamma: weight of the attentions' difference.
        relation: weight of the global part.
        attention: temperature of the attentions' softmax.
        form: ``paper`` or ``code``, see the function.

    >>> loss = FocalGlobal(3, 4, image=(32, 32))
    >>> boxes = torch.tensor([[[4.0, 4.0, 20.0, 30.0]]])
    >>> loss(torch.randn(1, 3, 8, 8), torch.randn(1, 4, 8, 8), targets=boxes).shape
    torch.Size([])
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        image: tuple[int, int] | None = None,
        alpha: float = 0.001,
        beta: float = 0.0005,
        gamma: float = 0.001,
        relation: float = 0.000005,
        attention: float = 0.5,
        form: Literal["paper", "code"] = "paper",
    ) -> None:
        super().__init__()
        self.align: nn.Module = nn.Identity()
        if student_channels != teacher_channels:
            self.align = nn.Conv2d(student_channels, teacher_channels, kernel_size=1)
        self.student_context = _GlobalContext(teacher_channels)
        self.teacher_context = _GlobalContext(teacher_channels)
        self.image, self.attention = image, attention
        self.weights = {"alpha": alpha, "beta": beta, "gamma": gamma, "relation": relation}
        self.form: Literal["paper", "code"] = form

    @classmethod
    def build(
        cls,
        student: Tensor,
        teacher: Tensor,
        setting: Setting,
        *,
        image: tuple[int, int] | None = None,
        alpha: float = 0.001,
        beta: float = 0.0005,
        gamma: float = 0.001,
        relation: float = 0.000005,
        attention: float = 0.5,
        form: Literal["paper", "code"] = "paper",
    ) -> FocalGlobal:
        """Return the module for the channels of these maps."""
        return cls(
            student.shape[1],
            teacher.shape[1],
            image=image,
            alpha=alpha,
            beta=beta,
            gamma=gamma,
            relation=relation,
            attention=attention,
            form=form,
        )

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        *,
        targets: Tensor,
        images: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> Tensor:
        """Return the loss of maps (B, C, H, W) and boxes (B, N, 4) in pixels.

        Args:
            student: the student's maps.
            teacher: the teacher's.
            targets: the boxes.
            images: (B, ..., height, width), whose size counts if none was said before.
            reduction: as for :func:`focal_global`.

        Raises:
            InputError: nobody said how large the images are.
        """
        size = self.image if images is None else (images.shape[-2], images.shape[-1])
        if size is None:
            raise InputError("FocalGlobal got boxes in pixels", expected="image, or images")
        maps = self.align(student)
        return focal_global(
            maps,
            teacher,
            targets=targets,
            image=size,
            contexts=(self.student_context(maps), self.teacher_context(teacher)),
            attention=self.attention,
            form=self.form,
            reduction=reduction,
            **self.weights,
        )


class _GlobalContext(nn.Module):
    """Attention pooling of a map (B, C, H, W), then a bottleneck: one vector (B, C) per image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 2, 1)
        self.attend = nn.Conv2d(channels, 1, kernel_size=1)
        self.transform = nn.Sequential(
            nn.Conv2d(channels, inner, kernel_size=1),
            nn.LayerNorm([inner, 1, 1]),
            nn.ReLU(),
            nn.Conv2d(inner, channels, kernel_size=1),
        )
        nn.init.kaiming_normal_(self.attend.weight, mode="fan_in")
        for parameter in self.transform[3].parameters():  # nothing is added at first
            nn.init.zeros_(parameter)

    def forward(self, maps: Tensor) -> Tensor:
        attention_BN = self.attend(maps).flatten(1).softmax(1)
        pooled_BC = torch.einsum("bcn,bn->bc", maps.flatten(2), attention_BN)
        context: Tensor = self.transform(pooled_BC[:, :, None, None])
        return context.flatten(1)


def _similarities(
    maps: Tensor, patches: int | tuple[int, int], form: Literal["paper", "code"]
) -> Tensor:
    """Return the cosines (B, P², P²) of all pairs of patches."""
    pool = F.adaptive_avg_pool2d if form == "paper" else F.adaptive_max_pool2d
    vectors = pool(maps, patches).flatten(2).transpose(1, 2)
    if form == "code":
        vectors = vectors / (vectors.detach().norm(dim=-1, keepdim=True) + 1e-8)  # theirs
    else:
        vectors = unit(vectors)
    return vectors @ vectors.mT


def _attentions(maps: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the spatial attention (B, H, W) and that of channels (B, C); their means are 1."""
    size, channels = maps.shape[2:], maps.shape[1]
    strength = maps.abs()
    spatial = F.softmax(strength.mean(1).flatten(1) / temperature, 1).unflatten(1, size)
    return size.numel() * spatial, channels * F.softmax(strength.mean((2, 3)) / temperature, 1)


def _object_weights(
    boxes: Tensor, image: tuple[int, int], size: torch.Size, *, inclusive: bool
) -> Tensor:
    """Return (B, H, W): 1 / the number of cells of the smallest box over a cell, 0 outside."""
    real = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
    boxes = boxes.masked_fill(~real[..., None], 0.0)
    across, columns = _covered(boxes[..., 0::2] * size[1] / image[1], size[1], inclusive)
    down, rows = _covered(boxes[..., 1::2] * size[0] / image[0], size[0], inclusive)
    inside = down[..., :, None] & across[..., None, :] & real[..., None, None]
    weights = inside / (rows * columns).clamp(min=1)[..., None, None]
    return F.pad(weights, (0, 0, 0, 0, 0, 1)).amax(1)  # one more box of nothing, if there is none


def _covered(ends: Tensor, size: int, inclusive: bool) -> tuple[Tensor, Tensor]:
    """Return which of ``size`` cells lie between two ends (B, N, 2), and how many it spans."""
    first, last = ends[..., 0].floor(), ends[..., 1].ceil() + (1 if inclusive else 0)
    cells = torch.arange(size, device=ends.device, dtype=ends.dtype)
    return (cells >= first[..., None]) & (cells < last[..., None]), last - first
