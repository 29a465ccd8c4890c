"""MiniLLM's gradient, against the enumeration of all texts of a tiny language."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from limbeck import losses
from limbeck.errors import InputError

WORDS, LENGTH = 3, 3
TEXTS = np.array(list(itertools.product(range(WORDS), repeat=LENGTH)))
BEFORE = WORDS ** np.arange(LENGTH)  # the first row of a table for each length of what was written


def rows(text: np.ndarray) -> list[int]:
    """Return, for each token, the row of the table that holds the logits after those before it."""
    found, prefix = [], 0
    for place in range(LENGTH):
        found.append(int(BEFORE[:place].sum()) + prefix)
        prefix = prefix * WORDS + int(text[place])
    return found


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def tables() -> tuple[np.ndarray, np.ndarray]:
    """Return the logits of student and teacher after everything that can have been written."""
    generator = np.random.default_rng(3)
    shape = (int(BEFORE.sum()), WORDS)
    return generator.normal(size=shape), generator.normal(size=shape) * 1.5


def likelihood(table: np.ndarray) -> np.ndarray:
    """Return the probability of each text."""
    p = softmax(table)
    return np.array([np.prod([p[r, y] for r, y in zip(rows(t), t, strict=True)]) for t in TEXTS])


def divergence(own: np.ndarray, theirs: np.ndarray) -> float:
    q, p = likelihood(own), likelihood(theirs)
    return float((q * np.log(q / p)).sum())


def by_hand(text: np.ndarray, own: np.ndarray, theirs: np.ndarray, share: float) -> np.ndarray:
    """Return the paper's gradient (equation 7) of one text, by the student's logits."""
    q, p = (softmax(table[rows(text)]) for table in (own, theirs))
    found = np.zeros((LENGTH, WORDS))
    for t in range(LENGTH):
        y = text[t]
        w = q[t, y] / (share * p[t, y] + (1 - share) * q[t, y])
        ratio = np.log(q[t] / p[t])
        single = q[t] * (ratio - (q[t] * ratio).sum())
        later = [np.log(p[u, text[u]] / q[u, text[u]]) for u in range(t + 1, LENGTH)]
        long = (np.eye(WORDS)[y] - q[t]) * (np.mean(later) if later else 0.0)
        found[t] = w * (single - long)
    return found


def gradient(
    texts: np.ndarray, own: np.ndarray, theirs: np.ndarray, drawn: Tensor, **options: bool
) -> Tensor:
    """Return the loss's gradient by the logits of each text, times how many tokens there are."""
    places = torch.tensor([rows(text) for text in texts])
    student = torch.tensor(own)[places].requires_grad_()
    mask = torch.ones(places.shape, dtype=torch.bool)
    losses.minillm(
        student, torch.tensor(theirs)[places], written=torch.tensor(texts), likelihood=drawn,
        mask=mask, **options,
    ).backward()  # fmt: skip
    assert student.grad is not None
    return student.grad * mask.sum()


def drawn(share: float) -> Tensor:
    """Return the logarithm of the mixture's probability of each token of each text."""
    own, theirs = tables()
    mixed = share * softmax(theirs) + (1 - share) * softmax(own)
    found = [[mixed[r, y] for r, y in zip(rows(t), t, strict=True)] for t in TEXTS]
    return torch.tensor(np.log(found))


def test_its_mean_is_the_gradient_of_the_divergence() -> None:
    """A sign, or a token that is judged by what came before it, would lead elsewhere in silence."""
    own, theirs = tables()
    each = gradient(TEXTS, own, theirs, drawn(0.0), normalized=False).numpy()
    mean = np.zeros_like(own)
    for text, weight, found in zip(TEXTS, likelihood(own), each, strict=True):
        np.add.at(mean, rows(text), weight * found)
    measured = np.zeros_like(own)
    for place in np.ndindex(own.shape):
        step = np.zeros_like(own)
        step[place] = 1e-5
        measured[place] = (divergence(own + step, theirs) - divergence(own - step, theirs)) / 2e-5
    assert np.abs(measured).max() > 0.05
    assert mean == pytest.approx(measured, abs=1e-8)


def test_texts_that_the_teacher_helped_to_write() -> None:
    """Weights or normalisation other than the paper's would be another method under its name."""
    own, theirs = tables()
    found = gradient(TEXTS, own, theirs, drawn(0.2))
    expected = np.stack([by_hand(text, own, theirs, 0.2) for text in TEXTS])
    assert found.numpy() == pytest.approx(expected, abs=1e-9)


def test_prompts_and_padding_do_not_count() -> None:
    """The teacher's opinion of a prompt, or of padding, would count as what a token led to."""
    own, theirs = tables()
    alone = gradient(TEXTS[:4], own, theirs, drawn(0.2)[:4])
    places = torch.tensor([rows(text) for text in TEXTS[:4]])
    student, teacher = (
        torch.nn.functional.pad(torch.tensor(t)[places], (0, 0, 2, 1), value=float("nan"))
        for t in (own, theirs)
    )
    student.requires_grad_()
    mask = torch.zeros(4, LENGTH + 3, dtype=torch.bool)
    mask[:, 2:-1] = True
    wrote = torch.full((4, LENGTH + 3), -100).masked_scatter(mask, torch.tensor(TEXTS[:4]))
    likely = torch.full(mask.shape, torch.nan, dtype=torch.float64)
    likely[mask] = drawn(0.2)[:4].flatten()
    losses.minillm(student, teacher, written=wrote, likelihood=likely, mask=mask).backward()
    assert student.grad is not None
    assert torch.allclose(student.grad[:, 2:-1] * mask.sum(), alone)
    assert not student.grad[~mask].any()


def test_texts_that_nobody_wrote() -> None:
    """Where the student does not write, the method must be the divergence of single tokens."""
    student, teacher = torch.randn(2, 4, 5), torch.randn(2, 4, 5)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    assert torch.isclose(
        losses.minillm(student, teacher, mask=mask),
        losses.reverse_kl(student, teacher, mask=mask),
    )
    with pytest.raises(InputError, match="or neither"):
        losses.minillm(student, teacher, written=torch.zeros(2, 4, dtype=torch.int64))
