"""Losses between the blocks of Transformers: hidden states, attention, relations of tokens.

A side is one tensor, or a tuple of tensors where a loss compares several layers; the value is then
the sum over them. Which layers of the teacher meet which of the student is the match's decision.

Letters: B samples, L layers, H heads, N tokens, D hidden units. A ``mask`` of shape (B, N) says
which tokens count. The teacher never receives a gradient; all is computed in float32 or better.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses.geometry import unit
from limbeck.losses.spec import Reduction, Spec, comparable, declare, reduce

__all__ = ["minilm", "patient", "tinybert"]

_REMEDY = 'Leave adapter="auto", which puts a linear layer in, or pair tensors of equal shape.'
_HEADS = "Give the student as many attention heads as the teacher, or leave attention out."
_MASKED_SCORE = -100.0  # no real attention score is this low: the model masked the position


@declare(Spec("feature", "Sun, Cheng, Gan, Liu 2019 (PKD), arXiv:1908.09355", "shape"))
def patient(
    student: Tensor | Sequence[Tensor],
    teacher: Tensor | Sequence[Tensor],
    *,
    token: int | None = None,
    features: Literal["sum", "mean"] = "sum",
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Squared distance between length-normalised hidden states, summed over layers.

    $$\sum_{l} \Big\lVert \frac{s_l}{\lVert s_l \rVert} - \frac{t_l}{\lVert t_l \rVert}
    \Big\rVert^2$$

    It is patient because it listens to many layers, not to the last alone. The paper compares the
    [CLS] state of each layer: give these as (B, D), or whole sequences with ``token=0``. It is
    twice :func:`limbeck.losses.cosine_hint`, summed over layers. A state of length 0
    has no direction and stays as it is.

    Args:
        student: the states of one layer or a tuple of layers, each (B, D) or (B, N, D); a map
            (B, C, H, W) is taken as one vector.
        teacher: as many tensors, of the same shapes; no gradient reaches them.
        token: the position to compare in (B, N, D), 0 for [CLS]; ``None`` compares every token.
        features: ``sum`` is the paper's formula. ``mean`` divides by the number of layers and by
            that of a state's units, as the authors' code does, for which their weights were chosen.
        mask: (B, N), or (B,) for (B, D): true where a token counts.
        reduction: mean over samples (or over unmasked tokens).

    Raises:
        InputError: the shapes differ, or ``token`` is given for states without tokens.

    Source: Sun, Cheng, Gan, Liu 2019, "Patient Knowledge Distillation for BERT Model Compression",
    arXiv:1908.09355, eq. 7; code: intersun/PKD-for-BERT-Model-Compression.

    >>> patient(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 5.0]]))  # (1, 0) against (0, 1)
    tensor(2.)
    """
    if token is not None and mask is not None and mask.ndim == 2:
        mask = mask[:, token]
    layers = []
    for own, theirs in _pairs("patient", student, teacher):
        if token is not None:
            own, theirs = _at("patient", own, token), _at("patient", theirs, token)
        own, theirs = comparable(own, theirs, mask, remedy=_REMEDY)
        if own.ndim == 4:
            own, theirs = own.flatten(1), theirs.flatten(1)
        squared = (unit(own) - unit(theirs)).square()
        layers.append(squared.sum(-1) if features == "sum" else squared.mean(-1))
    _same_rows("patient", layers)
    stacked = torch.stack(layers)
    return reduce(stacked.sum(0) if features == "sum" else stacked.mean(0), mask, reduction)


@declare(
    Spec("feature", "Jiao et al. 2020 (TinyBERT), arXiv:1909.10351", "shape", per_sample=False)
)
def tinybert(
    student: Tensor | Sequence[Tensor],
    teacher: Tensor | Sequence[Tensor],
    *,
    form: Literal["paper", "code"] = "paper",
    mask: Tensor | None = None,
) -> Tensor:
    r"""Mean squared error of attention scores and hidden states, summed over the tensors given.

    $$\sum_{l} \frac1H \sum_{h} \mathrm{MSE}(A^s_{l,h}, A^t_{l,h}) + \sum_{l}
    \mathrm{MSE}(h^s_l, h^t_l)$$

    A tensor of four dimensions is taken for attention scores, one of three (or two) for hidden
    states or embeddings. Scores are compared before the softmax. Attention needs as many heads in
    the student as in the teacher; states of other width need an adapter. The paper's prediction
    layer is :func:`limbeck.losses.soft_cross_entropy`.

    Positions that the model has masked itself (the teacher's score is −100 or less) never count as
    a difference. The mean is over both sides' kept entries, which differ between sequences, so it
    cannot be taken in chunks.

    Args:
        student: one tensor or a tuple: scores (B, H, N, N), states (B, N, D) or (B, D).
        teacher: as many tensors, of the same shapes; no gradient reaches them.
        form: ``paper`` leaves masked tokens out of every mean, as queries and as keys. ``code`` is
            the authors' code, in which masked keys count as equal and nothing else is left out:
            the divisor is the full size, so padding makes the loss smaller.
        mask: (B, N), true where a token counts, or (B,) for whole samples.

    Returns:
        Per tensor, the mean over unmasked tokens (queries) of the mean over heads and keys, or over
        units; then the sum over tensors.

    Raises:
        InputError: the shapes differ.

    Source: Jiao et al. 2020, "TinyBERT: Distilling BERT for Natural Language Understanding",
    arXiv:1909.10351, eq. 7 to 9; code: huawei-noah/Pretrained-Language-Model.

    >>> scores, states = torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 8)
    >>> tinybert((scores, states), (scores + 1, states + 2))  # 1 + 4
    tensor(5.)
    """
    total = []
    samples = mask if mask is not None and mask.ndim == 1 else None
    for own, theirs in _pairs("tinybert", student, teacher):
        attention = own.ndim == 4
        silent = samples if attention or form == "code" else mask
        own, theirs = comparable(own, theirs, silent, remedy=_HEADS if attention else _REMEDY)
        if attention:
            total.append(_score_error(own, theirs, mask, form))
        else:
            squared = (own - theirs).square().mean(-1)
            each = squared.mean(1) if samples is not None and squared.ndim == 2 else squared
            total.append(reduce(each, silent, "mean"))
    return torch.stack(total).sum()


@declare(
    Spec(
        "feature",
        "Wang et al. 2020 (MiniLM), arXiv:2002.10957; Wang et al. 2021 (v2), arXiv:2012.15828",
        per_sample=False,
    )
)
def minilm(
    student: Tensor | Sequence[Tensor],
    teacher: Tensor | Sequence[Tensor],
    *,
    heads: int,
    form: Literal["v2", "v1"] = "v2",
    weights: Sequence[float] | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Divergence between the relations of tokens: which token attends to, or resembles, which.

    $$\sum_r \frac{w_r}{H N} \sum_{h, i} \mathrm{KL}\big(R^t_{r,h,i} \,\Vert\, R^s_{r,h,i}\big),
    \quad R_{r,h} = \mathrm{softmax}\Big(\frac{A_{r,h} B_{r,h}^\top}{\sqrt{D_h}}\Big)$$

    The relations r are pairs (A, B). ``v2`` relates every given tensor to itself: give (queries,
    keys, values) for the paper's three relations, or one tensor alone. ``v1`` needs the three and
    takes the attention distribution (queries, keys) and the value relation (values, values). The
    widths of student and teacher may differ, and no adapter is needed: both are split into the same
    number of heads. One layer of each is enough: the last of the student, and in v2 a late one of
    a large teacher.

    Args:
        student: projected queries, keys and values, each (B, N, D), before they are split into
            heads.
        teacher: as many tensors (B, N, D'); no gradient reaches them.
        heads: H, the number of relation heads (12 for BERT-base's attention heads, 48 in v2); in
            ``v1`` it is the number of attention heads, the same in both models.
        form: ``v2`` or ``v1``.
        weights: a factor for each relation, by default 1.
        mask: (B, N), true where a token counts, as query and as key.

    Returns:
        Mean over samples (that have a token) of the mean over heads and unmasked queries of the KL
        over unmasked keys, in nats; then the weighted sum over relations.

    Raises:
        InputError: samples, tokens or the number of tensors differ, or a width is not a multiple of
            ``heads``.

    Source: Wang et al. 2020, "MiniLM", arXiv:2002.10957; Wang et al. 2021, "MiniLMv2",
    arXiv:2012.15828; compared with bloomberg/minilmv2.bb.

    >>> near = torch.tensor([[[0.0], [0.0]]])  # every token relates to both alike: (½, ½)
    >>> far = torch.tensor([[[1.0481471], [0.0]]])  # ¾, ¼ for the first token, ½, ½ for the second
    >>> minilm(near, far, heads=1)  # half of KL((¾, ¼) ‖ (½, ½))
    tensor(0.0654)
    """
    pairs = _pairs("minilm", student, teacher)
    if form == "v1" and len(pairs) != 3:
        raise InputError(
            f"minilm got {len(pairs)} tensors of each side",
            expected="queries, keys and values for v1",
        )
    related = [(0, 1), (2, 2)] if form == "v1" else [(each, each) for each in range(len(pairs))]
    weights = [1.0] * len(related) if weights is None else weights
    if len(weights) != len(related):
        raise InputError(
            f"minilm got {len(weights)} weights",
            expected=f"one for each of {len(related)} relations",
        )
    split = [_in_heads(own, theirs, heads, mask) for own, theirs in pairs]
    total = []
    for (first, second), weight in zip(related, weights, strict=True):
        log_q = _relation(split[first][0], split[second][0], mask)
        log_p = _relation(split[first][1], split[second][1], mask)
        total.append(weight * _relation_divergence(log_q, log_p, mask))
    return torch.stack(total).sum()


def _pairs(
    loss: str, student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Pair the tensors of both sides; a single one counts as a side of one."""
    own = [student] if isinstance(student, Tensor) else list(student)
    theirs = [teacher] if isinstance(teacher, Tensor) else list(teacher)
    if len(own) != len(theirs) or not own:
        raise InputError(
            f"{loss} got {len(own)} tensors of the student and {len(theirs)} of the teacher",
            expected="as many of each, at least one",
            remedy="Choose a layer of the teacher for each layer of the student.",
        )
    return list(zip(own, theirs, strict=True))


def _at(loss: str, states: Tensor, token: int) -> Tensor:
    """Return the state of one token (B, D)."""
    if states.ndim != 3:
        raise InputError(
            f"{loss} got token={token} with states of shape {tuple(states.shape)}",
            expected="states (B, N, D)",
            remedy="Leave token out if the states are those of [CLS] already.",
        )
    return states[:, token]


def _same_rows(loss: str, layers: Sequence[Tensor]) -> None:
    if len({layer.shape for layer in layers}) > 1:
        shapes = ", ".join(str(tuple(layer.shape)) for layer in layers)
        raise InputError(
            f"{loss} got layers with samples and tokens {shapes}", expected="the same in each layer"
        )


def _score_error(
    student: Tensor, teacher: Tensor, mask: Tensor | None, form: Literal["paper", "code"]
) -> Tensor:
    """Return the mean squared difference of attention scores (B, H, N, N)."""
    keep = teacher > _MASKED_SCORE
    tokens = None if mask is None else _tokens_kept(mask, teacher)
    if tokens is not None:
        keep = keep & tokens[:, None, None, :]
    if form == "code":
        samples = mask if mask is not None and mask.ndim == 1 else None
        return reduce(_difference(student, teacher, keep).square().mean((1, 2, 3)), samples, "mean")
    if tokens is not None:
        keep = keep & tokens[:, None, :, None]
    squared = _difference(student, teacher, keep).square()
    keys = keep.sum((1, 3))  # over heads too
    rows = squared.sum((1, 3)) / keys.clamp(min=1)
    return reduce(rows, keys > 0, "mean")


def _tokens_kept(mask: Tensor, scores: Tensor) -> Tensor:
    """Return the mask as (B, N); one of (B,) holds for all tokens of a sample."""
    wanted = (scores.shape[0], scores.shape[-1])
    if mask.shape == wanted[:1]:
        return mask.bool()[:, None].expand(wanted)
    if mask.shape != wanted:
        raise InputError(
            f"a mask of shape {tuple(mask.shape)} came with scores {tuple(scores.shape)}",
            expected=f"one entry per token, {wanted}",
        )
    return mask.bool()


def _difference(student: Tensor, teacher: Tensor, keep: Tensor) -> Tensor:
    return student.masked_fill(~keep, 0.0) - teacher.masked_fill(~keep, 0.0)


def _in_heads(
    student: Tensor, teacher: Tensor, heads: int, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return both sides as (B, H, N, D / H), zero where masked."""
    if student.ndim != 3 or teacher.ndim != 3 or student.shape[:2] != teacher.shape[:2]:
        raise InputError(
            f"minilm got {tuple(student.shape)} and {tuple(teacher.shape)}",
            expected="(B, N, D) with the same samples and tokens",
        )
    for tensor in (student, teacher):
        if heads < 1 or tensor.shape[-1] % heads:
            raise InputError(
                f"a width of {tensor.shape[-1]} cannot be split into {heads} heads",
                expected="a number of heads that divides both widths",
            )
    if mask is not None:
        if mask.shape != student.shape[:2]:
            raise InputError(
                f"a mask of shape {tuple(mask.shape)} came with {tuple(student.shape)}",
                expected="one entry per token, (B, N)",
            )
        silent = ~mask.bool()[..., None]
        student, teacher = student.masked_fill(silent, 0.0), teacher.masked_fill(silent, 0.0)
    own, theirs = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (student, teacher))
    return own, theirs


def _relation(first: Tensor, second: Tensor, mask: Tensor | None) -> Tensor:
    """Return log softmax(A Bᵀ / √D) over the unmasked keys, (B, H, N, N)."""
    scores = first @ second.transpose(-1, -2) / first.shape[-1] ** 0.5
    if mask is not None:
        lowest = torch.finfo(scores.dtype).min / 2  # −∞ would make a fully masked row NaN
        scores = scores.masked_fill(~mask.bool()[:, None, None, :], lowest)
    return F.log_softmax(scores, dim=-1)


def _relation_divergence(log_q: Tensor, log_p: Tensor, mask: Tensor | None) -> Tensor:
    """Return KL(p ‖ q) averaged over heads, unmasked queries and samples."""
    if mask is None:
        return (log_p.exp() * (log_p - log_q)).sum(-1).mean((1, 2)).mean()
    keys = mask.bool()[:, None, None, :]
    rows = (log_p.exp() * (log_p - log_q).masked_fill(~keys, 0.0)).sum(-1).mean(1)  # (B, N)
    lengths = mask.bool().sum(1)
    each = rows.masked_fill(~mask.bool(), 0.0).sum(1) / lengths.clamp(min=1)
    return reduce(each, lengths > 0, "mean")
