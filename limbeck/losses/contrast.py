"""Losses that tell samples apart: contrast with other samples, affinity of images and texts.

Letters: B samples, K negatives, D features, N samples of the data set. Their value depends on which
samples meet; the teacher never receives a gradient; all is computed in float32 or better. Their τ
is not the temperature of softened answers: there is no τ² inside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.losses.geometry import flat, same_batch, unit
from limbeck.losses.spec import Setting, Spec, declare
from limbeck.losses.wrap import processes

__all__ = [
    "Contrastive",
    "affinity_mimic",
    "contrastive",
]

_CRD = "Tian, Krishnan, Isola 2020 (CRD), arXiv:1910.10699"


@declare(Spec("contrast", _CRD, "shape", zero_at_equal=False, per_sample=False))
def contrastive(
    student: Tensor,
    teacher: Tensor,
    *,
    negatives: Tensor | None = None,
    n_data: int | None = None,
    tau: float = 0.07,
    form: Literal["nce", "info_nce"] = "nce",
) -> Tensor:
    r"""Noise-contrastive estimation: a student's sample belongs to the teacher's same sample.

    $$-\log h(s, t^+) - \sum_{k=1}^K \log (1 - h(s, t^-_k)), \qquad
    h(s, t) = \frac{e^{\hat s^\top \hat t / \tau}}{e^{\hat s^\top \hat t / \tau} + K / M}$$

    This is the paper's objective in one direction, without parameters; :class:`Contrastive` has the
    embeddings, the memories and the other direction. With τ = 0.07 and few negatives h is close to
    1 for any pair that is not opposite: prefer ``info_nce`` within a batch.

    Args:
        student: features or embeddings (B, ...), scaled to length 1 here.
        teacher: the same samples', of the same shape; no gradient reaches them.
        negatives: other samples' of the teacher, (B, K, D) or (K, D) for all; by default the
            batch's other samples.
        n_data: M, the size of the data set; by default the number of candidates, K + 1.
        tau: τ > 0; it is not squared.
        form: ``nce`` is the paper's. ``info_nce`` is the cross-entropy of finding the right one
            among the K + 1 candidates. Both are means over samples.

    Raises:
        InputError: the shapes differ, or the negatives' do not fit.

    Source: Tian, Krishnan, Isola 2020, "Contrastive Representation Distillation",
    arXiv:1910.10699, eq. 18 and 19; InfoNCE: van den Oord, Li, Vinyals 2018, arXiv:1807.03748.

    >>> contrastive(torch.eye(2), torch.eye(2), tau=1.0, form="info_nce")  # log(1 + 1/e)
    tensor(0.3133)
    """
    if student.shape != teacher.shape or student.ndim < 2:
        raise InputError(
            f"contrastive got {tuple(student.shape)} and {tuple(teacher.shape)}",
            expected="features of the same shape (B, ...)",
            remedy='Leave adapter="auto", or use Contrastive, which has embeddings.',
        )
    own, theirs = unit(flat(student)), unit(flat(teacher))
    scores = _candidates(own, theirs, negatives) / tau
    if form == "info_nce":
        return -F.log_softmax(scores, dim=1)[:, 0].mean()
    count = scores.shape[1] - 1
    return _nce(scores, count / (n_data or count + 1), eps=0.0)


@declare(Spec("contrast", _CRD, zero_at_equal=False, per_sample=False, whole_batch=True))
class Contrastive(nn.Module):
    r"""Contrastive representation distillation: embeddings, memories, both directions.

    $$\mathcal L(f(s), \text{bank}_t) + \mathcal L(g(t), \text{bank}_s)$$

    𝓛 is that of :func:`contrastive` with scores e^{·/τ}/Z. The student's and the teacher's features
    go through a linear layer each (both are trained) to length 1. Each is compared with the other
    side's memory, which holds an embedding for every sample of the data set: at the sample's own
    place and at K others drawn with the device's default generator. The constants Z are set from
    the first batch, as in the authors' code; the memories move after use, in training mode.

    Across processes each sees the samples of all, so that the memories and the constants are equal
    everywhere; each draws its own negatives.

    Args:
        student_features: the student's width D, all dimensions but the first multiplied.
        teacher_features: the teacher's width.
        n_data: N, the number of samples of the data set: ids are from 0 to N − 1.
        labels: (N,) the class of every sample: negatives are then drawn from other classes, as for
            the published results on CIFAR-100. By default any other sample is a negative.
        embedding: width of the embeddings.
        negatives: K, for each sample.
        tau: τ of the scores.
        momentum: the share of the old in a memory's new entry.

    Raises:
        InputError: there is no negative to draw, or labels are not one for each sample.

    Source: Tian, Krishnan, Isola 2020, "Contrastive Representation Distillation",
    arXiv:1910.10699; code: HobbitLong/RepDistiller. Usual weight 0.8.

    >>> crd = Contrastive(8, 12, n_data=20, negatives=4)
    >>> crd(torch.randn(2, 8), torch.randn(2, 12), ids=torch.tensor([3, 17])).shape
    torch.Size([])
    """

    student_bank: Tensor
    teacher_bank: Tensor
    log_constants: Tensor
    by_class: Tensor
    first: Tensor
    size: Tensor

    def __init__(
        self,
        student_features: int,
        teacher_features: int,
        n_data: int,
        *,
        labels: Tensor | Sequence[int] | None = None,
        embedding: int = 128,
        negatives: int = 16384,
        tau: float = 0.07,
        momentum: float = 0.5,
    ) -> None:
        super().__init__()
        self.n_data, self.negatives, self.tau, self.momentum = n_data, negatives, tau, momentum
        self.student_embedding = nn.Linear(student_features, embedding)
        self.teacher_embedding = nn.Linear(teacher_features, embedding)
        bound = math.sqrt(3 / embedding)  # entries of a length near 1, as in the authors' code
        for side in ("student", "teacher"):
            self.register_buffer(f"{side}_bank", torch.empty(n_data, embedding))
            getattr(self, f"{side}_bank").uniform_(-bound, bound)
        self.register_buffer("log_constants", torch.full((2,), -torch.inf))
        for name, places in zip(
            ("by_class", "first", "size"), _places(n_data, labels), strict=True
        ):
            self.register_buffer(name, places, persistent=False)

    @classmethod
    def build(
        cls,
        student: Tensor,
        teacher: Tensor,
        setting: Setting,
        *,
        n_data: int,
        labels: Tensor | Sequence[int] | None = None,
        embedding: int = 128,
        negatives: int = 16384,
        tau: float = 0.07,
        momentum: float = 0.5,
    ) -> Self:
        """Make one for the features that meet."""
        widths = flat(student).shape[1], flat(teacher).shape[1]
        more = {"embedding": embedding, "negatives": negatives}
        return cls(*widths, n_data, labels=labels, tau=tau, momentum=momentum, **more)

    def forward(
        self, student: Tensor, teacher: Tensor, *, ids: Tensor, negatives: Tensor | None = None
    ) -> Tensor:
        """Return the mean over samples of both directions, summed over the negatives.

        Args:
            student: features (B, ...).
            teacher: features (B, ...); no gradient reaches them.
            ids: (B,) int64, each sample's place in the data set.
            negatives: (B, K) ids, instead of drawn ones.

        Raises:
            InputError: the numbers of samples or of ids differ.
        """
        same_batch("Contrastive", student, teacher)
        if ids.shape != student.shape[:1]:
            raise InputError(
                f"Contrastive got ids {tuple(ids.shape)} for {len(student)} samples",
                expected="one id for each sample",
            )
        candidates = torch.cat(
            [ids.unsqueeze(1), self._draw(ids) if negatives is None else negatives], dim=1
        )
        own = unit(self.student_embedding(flat(student)))
        theirs = unit(self.teacher_embedding(flat(teacher)))
        # All N scores and copies of the memories, which move before the backward pass, cost less
        # than gathering B·K of their rows while N is below B·K.
        pairs = ((own, self.teacher_bank.clone()), (theirs, self.student_bank.clone()))
        scores = torch.stack([(e @ b.T).gather(1, candidates) / self.tau for e, b in pairs])
        constants = self._constants(scores.detach()).view(2, 1, 1)
        noise = (candidates.shape[1] - 1) / self.n_data
        if self.training:
            _renew(self.student_bank, ids, own.detach(), self.momentum)
            _renew(self.teacher_bank, ids, theirs.detach(), self.momentum)
        return _nce((scores - constants).flatten(0, 1), noise, eps=1e-7) * 2

    def _draw(self, ids: Tensor) -> Tensor:
        """Draw K negatives for each id; which ones does not depend on the order of the ids."""
        first, size = self.first[ids].unsqueeze(1), self.size[ids].unsqueeze(1)
        shape = len(ids), self.negatives
        uniform = torch.rand(shape, dtype=torch.float64, device=ids.device)[ids.argsort().argsort()]
        # rand is below 1, but the product can round up to the number of others.
        others = self.n_data - size
        drawn = torch.minimum((uniform * others).long(), others - 1)
        return self.by_class[drawn + size * (drawn >= first)]

    def _constants(self, scores: Tensor) -> Tensor:
        """Return log Z of both directions; the first batch sets them."""
        rows = scores.flatten(1)
        seen = rows.logsumexp(1) - math.log(rows.shape[1]) + math.log(self.n_data)
        seen = _mean_of_processes(seen)  # their negatives differ
        self.log_constants.copy_(
            torch.where(self.log_constants.isinf(), seen.to(self.log_constants), self.log_constants)
        )
        return self.log_constants.clone()


@declare(
    Spec(
        "contrast",
        "Wu et al. 2023 (TinyCLIP), arXiv:2309.12314",
        zero_at_equal=False,
        per_sample=False,
    )
)
def affinity_mimic(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    *,
    student_scale: float | Tensor = 100.0,
    teacher_scale: float | Tensor = 100.0,
    form: Literal["cross_entropy", "kl"] = "cross_entropy",
    normalize: bool = True,
) -> Tensor:
    r"""Cross-entropy between the image-to-text affinities of two models, and text-to-image.

    $$-\tfrac1{2B} \sum_{i,j} \Big(p^{I \to T}_{ij} \log q^{I \to T}_{ij}
    + p^{T \to I}_{ij} \log q^{T \to I}_{ij}\Big), \quad
    p^{I \to T}_i = \mathrm{softmax}_j (\alpha_t \, \hat u_i^\top \hat w_j)$$

    u are the teacher's features of images, w of texts, α_t its scale; q is the same of the student.
    The two may have features of different widths.

    Args:
        student: features of images (B, D) and of texts (B, D).
        teacher: features of images (B, D') and of texts (B, D'); no gradient reaches them.
        student_scale: α_s, the inverse temperature; a tensor if it is learned. CLIP models end near
            100 and begin at 1/0.07.
        teacher_scale: α_t.
        form: ``cross_entropy`` as in TinyCLIP; ``kl``, less the teacher's entropy, as in CLIP-KD's
            contrastive relational distillation: the gradients are equal.
        normalize: scale the features to length 1; false if they have it already.

    Raises:
        InputError: images and texts differ in number or, on one side, in width.

    Source: Wu et al. 2023, "TinyCLIP", arXiv:2309.12314; code: wkcn/TinyCLIP. Yang et al. 2024,
    "CLIP-KD", arXiv:2307.12732; code: winycg/CLIP-KD.

    >>> same = torch.ones(2, 3), torch.ones(2, 3)
    >>> affinity_mimic(same, same)  # log 2
    tensor(0.6931)
    """
    shapes = [tuple(t.shape) for t in (*student, *teacher)]
    fits = len(shapes) == 4 and all(len(shape) == 2 for shape in shapes)
    fits = fits and len({shape[0] for shape in shapes}) == 1
    if not fits or shapes[0] != shapes[1] or shapes[2] != shapes[3]:
        raise InputError(
            f"affinity_mimic got features {', '.join(map(str, shapes))}",
            expected="images (B, D) and texts (B, D) on each side",
        )
    own = _affinities(student, student_scale, normalize)
    theirs = _affinities(teacher, teacher_scale, normalize)
    total = own.new_zeros(())
    for s, t in ((own, theirs), (own.T, theirs.T)):
        log_q, log_p = F.log_softmax(s, dim=1), F.log_softmax(t, dim=1)
        gap = log_q if form == "cross_entropy" else log_q - log_p
        total = total - (log_p.exp() * gap).sum(1).mean() / 2
    return total


def _candidates(own_BD: Tensor, theirs_BD: Tensor, negatives: Tensor | None) -> Tensor:
    """Return the cosines (B, 1 + K) with the positive and the negatives."""
    if negatives is None:
        scores, size = own_BD @ theirs_BD.T, len(own_BD)
        # All off the diagonal, row by row: the diagonal ends each stretch of B + 1 entries.
        others = scores.flatten()[1:].view(size - 1, size + 1)[:, :-1].reshape(size, size - 1)
        return torch.cat([scores.diagonal().unsqueeze(1), others], dim=1)
    size, width = own_BD.shape
    own_negatives = negatives.ndim == 3 and negatives.shape[::2] == own_BD.shape
    if not own_negatives and (negatives.ndim != 2 or negatives.shape[1] != width):
        raise InputError(
            f"contrastive got negatives {tuple(negatives.shape)} for {size} samples of {width} "
            "features",
            expected="(B, K, D), or (K, D) for all",
        )
    others = unit(negatives.detach().to(own_BD)) @ own_BD.unsqueeze(-1)
    positive = (own_BD * theirs_BD).sum(1, keepdim=True)
    return torch.cat([positive, others.squeeze(-1)], dim=1)


def _nce(log_ratios: Tensor, noise: float, *, eps: float) -> Tensor:
    """Return −log h of the first column and −log(1 − h) of the others, summed; mean over rows.

    Args:
        log_ratios: (B, 1 + K), logarithms of P.
        noise: K/M, above 0; h = P/(P + K/M + eps).
    """
    count = log_ratios.shape[1] - 1
    log_noise = math.log(max(noise, 1e-12) + eps)
    positive = F.softplus(log_noise - log_ratios[:, 0])
    negative = torch.logaddexp(log_ratios[:, 1:], torch.full_like(log_ratios[:, 1:], log_noise))
    return (positive + negative.sum(1) - count * math.log(max(noise, 1e-12))).mean()


def _places(n_data: int, labels: Tensor | Sequence[int] | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the ids sorted by class, and for each id where its class begins and its size."""
    ids = torch.arange(n_data)
    if labels is None:
        labels = ids
    classes = torch.as_tensor(labels)
    if classes.shape != (n_data,):
        raise InputError(
            f"Contrastive got labels {tuple(classes.shape)} for {n_data} samples",
            expected="one label for each sample",
        )
    found, index, counts = classes.unique(return_inverse=True, return_counts=True)
    if len(found) < 2:
        raise InputError(
            "Contrastive has no negative to draw", expected="two samples, of two classes"
        )
    first = counts.cumsum(0) - counts
    return index.argsort(stable=True), first[index], counts[index]


def _mean_of_processes(values: Tensor) -> Tensor:
    """Return the mean over all processes; alone, the values themselves."""
    if processes() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / processes()


@torch.no_grad()
def _renew(bank: Tensor, ids: Tensor, entries: Tensor, momentum: float) -> None:
    """Move the memory's entries towards new ones, and keep them at length 1."""
    mixed = momentum * bank[ids] + (1 - momentum) * entries.to(bank)
    bank.index_copy_(0, ids, unit(mixed))


def _affinities(features: tuple[Tensor, Tensor], scale: float | Tensor, normalize: bool) -> Tensor:
    """Return the scaled similarities (B, B) of images with texts."""
    images, texts = (unit(f) for f in features) if normalize else features
    return scale * images @ texts.T
