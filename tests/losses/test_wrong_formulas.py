"""The checks themselves: each of these wrong losses must be caught by one of them.

Every loss is written once more, rightly, as a formula per sample and a way to finish it; the right
one must pass, and every wrong variation of either part must not.

Letters: s student, t teacher, T temperature; p the teacher's probabilities, q the student's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recorded import cases
from torch import Tensor

from limbeck import losses
from limbeck.losses import declare, spec_of
from limbeck.testing import ContractError, check_loss

Formula = Callable[[Tensor, Tensor, Any], Tensor]
SOFT = ("kl", "probability_mse", "soft_cross_entropy")


def finish(values: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    if mask is not None:
        values = torch.where(mask.bool(), values, torch.zeros_like(values))
    if reduction == "none":
        return values
    count = values.numel() if mask is None else mask.bool().sum().clamp(min=1)
    return values.sum() if reduction == "sum" else values.sum() / count


def zeros_where_masked(s: Tensor, t: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    if mask is None:
        return s, t
    silent = ~mask.bool().unsqueeze(-1)
    return s.masked_fill(silent, 0), t.masked_fill(silent, 0)


def made(
    name: str, formula: Formula, finish: Any = finish, clean: Any = zeros_where_masked
) -> Callable[..., Tensor]:
    """Make a loss of the usual form, with what every declared loss gets."""

    def soft(student, teacher, *, temperature=1.0, mask=None, reduction="mean"):
        s, t = clean(student, teacher, mask)
        return finish(formula(s, t, temperature), mask, reduction)

    def plain(student, teacher, *, mask=None, reduction="mean"):
        s, t = clean(student, teacher, mask)
        return finish(formula(s, t, 1.0), mask, reduction)

    return declare(spec_of(losses.get(name)))(soft if name in SOFT else plain)


def log_soft(x: Tensor, T: Any) -> Tensor:
    return F.log_softmax(x / T, dim=-1)


def kl(s: Tensor, t: Tensor, T: Any) -> Tensor:
    return T**2 * (log_soft(t, T).exp() * (log_soft(t, T) - log_soft(s, T))).sum(-1)


def soft_cross_entropy(s: Tensor, t: Tensor, T: Any) -> Tensor:
    return -(T**2) * (log_soft(t, T).exp() * log_soft(s, T)).sum(-1)


def probability_mse(s: Tensor, t: Tensor, T: Any) -> Tensor:
    return T**2 * (log_soft(s, T).exp() - log_soft(t, T).exp()).square().sum(-1)


def logit_mse(s: Tensor, t: Tensor, T: Any) -> Tensor:
    return (s - t).square().sum(-1)


def hard_label(s: Tensor, t: Tensor, T: Any) -> Tensor:
    return -log_soft(s, 1).gather(-1, t.argmax(-1, keepdim=True)).squeeze(-1)


RIGHT: dict[str, Formula] = {
    "hard_label": hard_label,
    "kl": kl,
    "logit_mse": logit_mse,
    "probability_mse": probability_mse,
    "soft_cross_entropy": soft_cross_entropy,
}


def _general(right: Formula) -> dict[str, Formula]:
    """Return what can go wrong in any of them."""
    return {
        "student_detached": lambda s, t, T: right(s.detach(), t, T) + 0 * s.sum(-1),
        "divided_by_C": lambda s, t, T: right(s, t, T) / s.shape[-1],
        "halved": lambda s, t, T: right(s, t, T) / 2,
        "not_even_negative": lambda s, t, T: -right(s, t, T),
        "classes_along_the_batch": lambda s, t, T: (
            right(s.transpose(0, -1), t.transpose(0, -1), T).mean() + 0 * s.sum(-1)
        ),
        "first_class_left_out": lambda s, t, T: right(s[..., 1:], t[..., 1:], T),
        "in_half_precision": lambda s, t, T: right(s.half(), t.half(), T).to(s.dtype),
        "gradient_halved": lambda s, t, T: right(s.detach() / 2 + s / 2, t, T),
        "gradient_of_everything_clipped": lambda s, t, T: right(s.clamp(-1, 1), t, T),
    }


WRONG: dict[str, dict[str, Formula]] = {
    "kl": {
        "T2_dropped": lambda s, t, T: kl(s, t, T) / T**2,
        "T_once": lambda s, t, T: kl(s, t, T) / T,
        "swapped": lambda s, t, T: (
            T**2 * (log_soft(s, T).exp() * (log_soft(s, T) - log_soft(t, T))).sum(-1)
        ),
        "log_of_softmax": lambda s, t, T: (
            T**2
            * ((t / T).softmax(-1) * ((t / T).softmax(-1).log() - (s / T).softmax(-1).log())).sum(
                -1
            )
        ),
        "log_of_softmax_plus_eps": lambda s, t, T: (
            T**2
            * (log_soft(t, T).exp() * (log_soft(t, T) - (log_soft(s, T).exp() + 1e-6).log())).sum(
                -1
            )
        ),
        "raw_logits": lambda s, t, T: (
            T**2 * (log_soft(t, T).exp() * (log_soft(t, T) - s / T)).sum(-1)
        ),
        "probabilities_for_logarithms": lambda s, t, T: (
            T**2 * (log_soft(t, T).exp() * (log_soft(t, T) - log_soft(s, T).exp())).sum(-1)
        ),
        "teacher_raw": lambda s, t, T: T**2 * (t * (log_soft(t, T) - log_soft(s, T))).sum(-1),
        "cross_entropy": soft_cross_entropy,
        "teacher_at_T_1": lambda s, t, T: (
            T**2 * (log_soft(t, 1).exp() * (log_soft(t, 1) - log_soft(s, T))).sum(-1)
        ),
        "student_at_T_1": lambda s, t, T: (
            T**2 * (log_soft(t, T).exp() * (log_soft(t, T) - log_soft(s, 1))).sum(-1)
        ),
        "symmetric": lambda s, t, T: (kl(s, t, T) + kl(t, s, T)) / 2,
        "absolute": lambda s, t, T: (
            T**2 * (log_soft(t, T).exp() * (log_soft(t, T) - log_soft(s, T)).abs()).sum(-1)
        ),
    },
    "soft_cross_entropy": {
        "T2_dropped": lambda s, t, T: soft_cross_entropy(s, t, T) / T**2,
        "swapped": lambda s, t, T: soft_cross_entropy(t, s, T),
        "divergence": kl,
        "log_of_softmax": lambda s, t, T: (
            -(T**2) * ((t / T).softmax(-1) * (s / T).softmax(-1).log()).sum(-1)
        ),
        "raw_logits": lambda s, t, T: -(T**2) * (log_soft(t, T).exp() * s / T).sum(-1),
        "hard": lambda s, t, T: hard_label(s, t, T),
        "teacher_at_T_1": lambda s, t, T: -(T**2) * (log_soft(t, 1).exp() * log_soft(s, T)).sum(-1),
    },
    "probability_mse": {
        "T2_dropped": lambda s, t, T: probability_mse(s, t, T) / T**2,
        "T4": lambda s, t, T: probability_mse(s, t, T) * T**2,
        "of_logits": logit_mse,
        "of_log_probabilities": lambda s, t, T: (
            T**2 * (log_soft(s, T) - log_soft(t, T)).square().sum(-1)
        ),
        "absolute": lambda s, t, T: (
            T**2 * (log_soft(s, T).exp() - log_soft(t, T).exp()).abs().sum(-1)
        ),
        "at_T_1": lambda s, t, T: T**2 * probability_mse(s, t, 1),
        "root": lambda s, t, T: T**2 * (log_soft(s, T).exp() - log_soft(t, T).exp()).norm(dim=-1),
    },
    "logit_mse": {
        "absolute": lambda s, t, T: (s - t).abs().sum(-1),
        "root": lambda s, t, T: (s - t).norm(dim=-1),
        "of_probabilities": probability_mse,
        "centred": lambda s, t, T: logit_mse(s - s.mean(-1, True), t - t.mean(-1, True), T),
        "huber": lambda s, t, T: 2 * F.huber_loss(s, t, reduction="none").sum(-1),
        "swapped_and_detached": lambda s, t, T: (t - s.detach()).square().sum(-1) + 0 * s.sum(-1),
    },
    "hard_label": {
        "students_own": lambda s, t, T: hard_label(s, s, T),
        "swapped": lambda s, t, T: hard_label(t, s, T) + 0 * s.sum(-1),
        "least_likely": lambda s, t, T: hard_label(s, -t, T),
        "next_class": lambda s, t, T: hard_label(s, t.roll(1, -1), T),
        "soft": lambda s, t, T: soft_cross_entropy(s, t, 1.0),
        "log_of_softmax": lambda s, t, T: (
            -s.softmax(-1).log().gather(-1, t.argmax(-1, keepdim=True)).squeeze(-1)
        ),
        "raw_logits": lambda s, t, T: -s.gather(-1, t.argmax(-1, keepdim=True)).squeeze(-1),
        "smoothed": lambda s, t, T: 0.9 * hard_label(s, t, T) - 0.1 * log_soft(s, 1).mean(-1),
    },
}
MUTANTS = [
    (name, mutation, formula)
    for name, right in RIGHT.items()
    for mutation, formula in {**_general(right), **WRONG[name]}.items()
]


def _all_tokens(values: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    """Divide by all tokens, not by those that count."""
    if mask is None or reduction != "mean":
        return finish(values, mask, reduction)
    return finish(values, mask, "sum") / mask.numel()


def _per_sequence(values: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    """Take the mean of the sequences' means, so that short ones weigh more."""
    if mask is None or reduction != "mean":
        return finish(values, mask, reduction)
    kept = torch.where(mask.bool(), values, torch.zeros_like(values))
    return (kept.sum(-1) / mask.sum(-1).clamp(min=1)).mean()


def _twice(values: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    """Divide by the token count twice."""
    value = finish(values, mask, reduction)
    return value / values.numel() if reduction == "mean" else value


def _forgets(values: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    return finish(values, None, reduction)


def _inverted(values: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    return finish(values, None if mask is None else ~mask.bool(), reduction)


def _multiplied(values: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    """Multiply by the mask: NaN times zero is NaN."""
    return finish(values if mask is None else values * mask, mask, reduction)


def _adds_up(values: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    """Give the sum where the mean is asked for."""
    return finish(values, mask, "sum" if reduction == "mean" else reduction)


def _empty_is_nan(values: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    """Divide by zero where nothing counts."""
    if mask is None or reduction != "mean":
        return finish(values, mask, reduction)
    return values[mask.bool()].mean()


def _leaves_out_the_reduction(values: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    return finish(values, mask, "mean")


ENDINGS = [
    _adds_up,
    _all_tokens,
    _empty_is_nan,
    _forgets,
    _inverted,
    _leaves_out_the_reduction,
    _per_sequence,
    _twice,
]


def caught(loss: Callable[..., Tensor], name: str) -> bool:
    """Say whether the contract or a record notices."""
    try:
        check_loss(loss, compiled=False)
    except ContractError:
        return True
    return any(case.breaches(loss) for case in cases(name))


@pytest.mark.parametrize("name", RIGHT)
def test_the_right_ones_pass(name: str) -> None:
    """Checks that refuse everything would catch every mutant below, for nothing."""
    loss = made(name, RIGHT[name])
    check_loss(loss, compiled=False)
    assert [case.breaches(loss) for case in cases(name)] == [[]] * len(cases(name))


@pytest.mark.parametrize(("name", "mutation", "formula"), MUTANTS)
def test_wrong_formulas_are_caught(name: str, mutation: str, formula: Formula) -> None:
    """A slip of the kind that other tools shipped would pass all our checks."""
    assert caught(made(name, formula), name)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", RIGHT)
def test_wrong_reductions_are_caught(name: str, ending: Any) -> None:
    """Masks and means go wrong without changing the formula."""
    assert caught(made(name, RIGHT[name], ending), name)


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_masked_may_not_leak(name: str) -> None:
    """Padding can hold NaN: multiplied by a mask of zeros it is still NaN."""
    wrong = made(name, RIGHT[name], _multiplied, clean=lambda s, t, mask: (s, t))
    assert caught(wrong, name)


@pytest.mark.parametrize("name", RIGHT)
def test_protections_are_missed(name: str) -> None:
    """Without the teacher's detachment, or float32 inside, the contract must break."""

    def bare(student: Tensor, teacher: Tensor) -> Tensor:
        return RIGHT[name](student, teacher, 1.0).mean()

    with pytest.raises(ContractError) as caught:
        check_loss(bare, spec=spec_of(losses.get(name)), compiled=False)
    told = str(caught.value)
    assert "bfloat16" in told
    # The argmax has no gradient to cut.
    assert name == "hard_label" or "a gradient reaches the teacher" in told
