"""Vocabularies that differ by padding are compared where both have tokens, and nowhere else."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from limbeck import losses
from limbeck.errors import InputError
from limbeck.losses import SparseLogits, align_vocabulary, vocabulary

DIVERGENCES = ["kl", "reverse_kl", "jensen_shannon", "skewed_kl", "skewed_reverse_kl"]


def with_infinities(logits: Tensor, size: int) -> Tensor:
    """Return logits of ``size`` classes, −∞ from the 200th on."""
    out = torch.full((*logits.shape[:-1], size), -torch.inf, dtype=logits.dtype)
    out[..., :200] = logits[..., :200]
    return out


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize(("own", "theirs"), [(200, 202), (202, 200)])
def test_as_if_the_logits_were_minus_infinity(name: str, own: int, theirs: int) -> None:
    """Mass on padding would be taught, or the gradient be NaN."""
    loss = losses.get(name)
    student = torch.randn(3, own, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, theirs, dtype=torch.float64)
    with pytest.warns(UserWarning, match="padding"):
        value = loss(*align_vocabulary(student, teacher))
    gradient = torch.autograd.grad(value, student)[0]
    expected = loss(with_infinities(student, 202), with_infinities(teacher, 202))
    slope = torch.autograd.grad(expected, student)[0]
    assert gradient.isfinite().all()
    assert torch.isclose(value, expected)
    assert torch.allclose(gradient, slope)
    assert not gradient[:, 200:].any()


def test_equal_vocabularies_are_left_alone() -> None:
    """A warning without a cause is read once and never again."""
    student, teacher = torch.randn(2, 5), torch.randn(2, 5)
    found = align_vocabulary(student, teacher)
    assert found[0].data_ptr() == student.data_ptr()
    assert found[1] is teacher


def test_said_once() -> None:
    """At every step it would bury everything else."""
    vocabulary.__dict__.get("__warningregistry__", {}).clear()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(3):
            align_vocabulary(torch.zeros(1, 151_936), torch.zeros(1, 152_064))
    assert len(said) == 1
    assert "the teacher's last 128" in str(said[0].message)


@pytest.mark.parametrize(("own", "theirs"), [(10, 12), (200, 203), (151_936, 153_000)])
def test_more_than_padding_is_refused(own: int, theirs: int) -> None:
    """With other tokenizers the same place stands for other tokens."""
    with pytest.raises(InputError, match=r"universal_logit"):
        vocabulary.shared_classes(own, theirs)


def test_sparse_answers() -> None:
    """A sparse answer counts the classes that it does not hold."""
    kept = torch.tensor([[0.6, 0.3]]).log()
    rest = torch.tensor([0.1]).log()
    answer = SparseLogits(torch.tensor([[3, 1]]), kept, 202, rest=rest)
    student = torch.randn(1, 200)
    with pytest.warns(UserWarning, match="padding"):
        own, theirs = align_vocabulary(student, answer)
    same = SparseLogits(answer.indices, kept, 200, rest=rest)
    assert theirs.shape == (1, 200)
    assert torch.isclose(losses.kl(own, theirs), losses.kl(student, same))
    beyond = SparseLogits(torch.tensor([[3, 201]]), kept, 202, rest=rest)
    with (
        pytest.warns(UserWarning, match="padding"),
        pytest.raises(InputError, match="has the class 201"),
    ):
        align_vocabulary(student, beyond)
