"""A loss between logits at three levels: of each sample, of samples and of classes.

Letters: B samples, T tokens, C classes, N rows (samples, or unmasked tokens). Logits are (B, C) or
(B, T, C); a ``mask`` is exactly the subset of the rows that it keeps. The teacher never receives a
gradient, and half-precision inputs are computed in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from limbeck.errors import InputError, unknown
from limbeck.losses.probabilities import divergence, kept_rows, log_probabilities
from limbeck.losses.spec import Spec, declare, reduce

__all__ = ["multi_level_logit"]

Level = Literal["instance", "batch", "class"]
_LEVELS: tuple[Level, ...] = ("instance", "batch", "class")


@declare(
    Spec(
        "response",
        "Jin, Wang, Lin 2023, Multi-Level Logit Distillation, CVPR",
        "classes",
        True,
        False,
    )
)
def multi_level_logit(
    student: Tensor,
    teacher: Tensor,
    *,
    temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
    levels: Sequence[Level] = _LEVELS,
    kept: Literal["all", "doubtful"] = "all",
    mask: Tensor | None = None,
) -> Tensor:
    r"""KL, similarities of samples and similarities of classes, at several temperatures.

    $$\sum_T \Big( \frac{T^2}{N} \sum_n \mathrm{KL}(p_n \,\|\, q_n)
    + \frac1N \lVert Q Q^\top - P P^\top \rVert_F^2
    + \frac1C \lVert Q^\top Q - P^\top P \rVert_F^2 \Big)$$

    Q and P are the N×C probabilities at T. The last two terms carry no T², as in the authors' code,
    and are small beside the first.

    Tokens (B, T, C) are rows: the second term compares all unmasked tokens of the batch with one
    another and needs memory for (B·T)² numbers.

    Args:
        student: logits (B, C) or (B, T, C).
        teacher: logits of the same shape; no gradient reaches them.
        temperatures: each T > 0; the terms are added, not averaged.
        levels: which of the three terms to add.
        kept: ``all``, or ``doubtful``: the half of the samples whose largest probability by the
            teacher is lowest, and the half of the classes to which it gives least. N counts those
            samples in the first two terms, C those classes, over all samples, in the third. The
            authors' code means to do this, but multiplies values that are already summed, so that
            there it only halves them.
        mask: (B, T) or (B,), true where a row counts.

    Raises:
        InputError: the shapes differ, a temperature is not positive, a level is unknown, or there
            is none of either.

    Source: Jin, Wang, Lin 2023, "Multi-Level Logit Distillation", CVPR; code:
    Jin-Ying/Multi-Level-Logit-Distillation.

    >>> sure, unsure = torch.tensor([[90.0, 0.0]]), torch.zeros(1, 2)
    >>> multi_level_logit(sure, unsure, temperatures=[1], levels=["batch"])  # (1 − ½)²
    tensor(0.2500)
    """
    for level in levels:
        if level not in _LEVELS:
            raise unknown("level", level, _LEVELS)
    if not temperatures or not levels:
        raise InputError(
            f"there are {len(temperatures)} temperatures and {len(levels)} levels",
            expected="at least one of each",
        )
    rows_N = kept_rows(mask, student)
    samples_N, classes_C = rows_N, None
    if kept == "doubtful":
        samples_N, classes_C = _doubtful(teacher, mask, rows_N)
    terms = []
    for temperature in temperatures:
        log_q, log_p = log_probabilities(student, teacher, temperature, mask)
        if "instance" in levels:
            each = divergence(log_p, log_q).flatten()
            terms.append(temperature**2 * reduce(each, samples_N, "mean"))
        q_NC, p_NC = (x.exp().flatten(0, -2) for x in (log_q, log_p))
        if "batch" in levels:
            terms.append(_apart(_only(q_NC, samples_N), _only(p_NC, samples_N), samples_N))
        if "class" in levels:
            q_CN, p_CN = (_only(_only(x, rows_N).T, classes_C) for x in (q_NC, p_NC))
            terms.append(_apart(q_CN, p_CN, classes_C))
    return torch.stack(terms).sum()


def _doubtful(teacher: Tensor, mask: Tensor | None, rows_N: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return which rows (N,) and which classes (C,) the teacher is less sure of than of others."""
    _, log_p = log_probabilities(teacher, teacher, 1.0, mask)
    p_NC = log_p.exp().flatten(0, -2)
    surest_N, share_C = p_NC.amax(1), _only(p_NC, rows_N).sum(0)
    if rows_N is None:
        return surest_N <= surest_N.median(), share_C <= share_C.median()
    middle = surest_N.masked_fill(~rows_N, torch.nan).nanmedian()
    return rows_N & (surest_N <= middle), share_C <= share_C.median()


def _only(rows: Tensor, keep: Tensor | None) -> Tensor:
    """Put zeros into the rows that are not kept."""
    return rows if keep is None else rows.masked_fill(~keep.unsqueeze(1), 0.0)


def _apart(own: Tensor, theirs: Tensor, keep: Tensor | None) -> Tensor:
    """Return the squared difference of the products of all pairs of rows, per row kept."""
    number = len(own) if keep is None else keep.sum().clamp(min=1)
    return (own @ own.T - theirs @ theirs.T).square().sum() / number
