"""Learning from texts that were drawn: which tokens led where the teacher would not go.

Letters: B texts, T places, V vocabulary. p is the teacher's distribution of a token, q the
student's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses.spec import Spec, comparable, declare, reduce

__all__ = ["minillm"]

_EXCLUDED = -1e30  # stands for the logarithm of 0: finite, so that no gradient is NaN


@declare(
    Spec(
        "sequence",
        "Gu, Dong, Wei, Huang 2023 (MiniLLM), arXiv:2306.08543",
        "classes",
        per_sample=False,
        slope=False,
    )
)
def minillm(
    student: Tensor,
    teacher: Tensor,
    *,
    written: Tensor | None = None,
    likelihood: Tensor | None = None,
    normalized: bool = True,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Reverse divergence of whole texts, KL(q ‖ p), by the gradient of a policy that writes them.

    A token is judged by itself and by what came after it. Of texts y that were drawn from p̃,

    $$\nabla = \sum_t w_t \Big[ \nabla \mathrm{KL}(q_t \| p_t)
    - R_{t+1} \nabla \log q_t(y_t) \Big], \quad
    w_t = \frac{q_t(y_t)}{\tilde p_t(y_t)}, \quad
    R_{t+1} = \frac{1}{n_t} \sum_{t' > t} \log \frac{p_{t'}(y_{t'})}{q_{t'}(y_{t'})}$$

    with as many later tokens nₜ: the paper's single-step decomposition, its weights for texts that
    the teacher helped to write, and its normalisation by length. No gradient goes through w and R.
    Each text is used once, so that the paper's clipping has nothing to do; its code also centres R
    over a batch, which this does not.

    With p̃ = q and without the normalisation the mean over all texts is the gradient of the
    divergence itself. With another p̃ it is not quite, for w leaves out the tokens before t.

    Args:
        student: logits (B, T, V), or (B, V) for single tokens.
        teacher: logits of the same shape; no gradient reaches them.
        written: the token that was drawn at each place, (B, T) int64; anything where ``mask`` is
            false. Without it nobody wrote these texts, and the divergence of single tokens is all.
        likelihood: log p̃(y), the logarithm of the probability with which each was drawn, (B, T).
        normalized: whether R is a mean over later tokens, or their sum.
        mask: (B, T), true where a token was drawn.

    Returns:
        The mean over unmasked tokens of w·KL(q ‖ p), in nats. Its gradient is the one above,
        divided by the number of unmasked tokens, and not the slope of this value.

    Raises:
        InputError: the shapes do not fit, or one of ``written`` and ``likelihood`` is missing.

    Source: Gu, Dong, Wei, Huang 2023, "MiniLLM: Knowledge Distillation of Large Language Models",
    arXiv:2306.08543, section 2.2; code: microsoft/LMOps.

    >>> known = torch.tensor([[[0.0, 1.0986], [0.0, 0.0]]])  # (¼, ¾), then (½, ½)
    >>> minillm(torch.zeros(1, 2, 2), known)  # half of KL = 0.1438
    tensor(0.0719)
    """
    student, teacher = comparable(student, teacher, mask, remedy="Both need the same vocabulary.")
    log_q = F.log_softmax(student, -1).clamp(min=_EXCLUDED)
    log_p = F.log_softmax(teacher, -1).clamp(min=_EXCLUDED)
    terms = log_q.exp() * (log_q - log_p)
    single = torch.where(log_p > _EXCLUDED, terms, torch.zeros_like(terms)).sum(-1)
    if written is None and likelihood is None:
        return reduce(single, mask, "mean")
    if written is None or likelihood is None or written.shape != single.shape:
        pair = [None if given is None else tuple(given.shape) for given in (written, likelihood)]
        raise InputError(
            f"minillm got logits {tuple(student.shape)}, written {pair[0]}, likelihood {pair[1]}",
            expected="a token and the logarithm of its probability at each place, or neither",
        )
    counts = torch.ones_like(written, dtype=torch.bool) if mask is None else mask.bool()
    ids = written.masked_fill(~counts, 0).unsqueeze(-1)
    own, theirs = (x.gather(-1, ids).squeeze(-1) for x in (log_q, log_p))
    weight = (own.detach() - likelihood.to(own)).masked_fill(~counts, 0.0).exp()
    rewards = (theirs - own.detach()).masked_fill(~counts, 0.0)
    later = _after(rewards)
    if normalized:
        later = later / _after(counts.to(later)).clamp(min=1)
    long = weight * later * (own - own.detach())  # worth nothing, and with the gradient wanted
    return reduce(weight * single - long, mask, "mean")


def _after(values: Tensor) -> Tensor:
    """Return for each place the sum of the values at later ones, (B, T)."""
    return values.flip(-1).cumsum(-1).flip(-1) - values
