"""Every loss keeps the public contract."""

from __future__ import annotations

import inspect

import pytest
import torch

from limbeck import losses
from limbeck.losses import spec_of
from limbeck.testing import check_loss

LOSSES = [
    "attention_transfer",
    "cosine_hint",
    "hard_label",
    "hint",
    "kl",
    "logit_mse",
    "probability_mse",
    "similarity_preserving",
    "soft_cross_entropy",
]

OPTIONS = {
    "attention_transfer": [{}, {"power": 1.0}, {"power": 4.0}, {"form": "norm"}],
    "hint": [{}, {"features": "mean"}],
    "kl": [{}, {"temperature": 4.0}, {"temperature": 0.5}],
    "probability_mse": [{}, {"temperature": 3.0}],
    "soft_cross_entropy": [{}, {"temperature": 4.0}],
}


def test_the_list_is_the_list() -> None:
    """A loss that fell out of the registry would be checked by nothing below."""
    assert losses.names() == LOSSES
    assert set(LOSSES) <= set(losses.__all__)


@pytest.mark.parametrize(
    ("name", "options"), [(name, o) for name in LOSSES for o in OPTIONS.get(name, [{}])]
)
def test_keeps_the_contract(name: str, options: dict[str, object]) -> None:
    """Masks, chunks, accumulation, half precision or T² would be wrong without a word."""
    check_loss(losses.get(name), **options)


@pytest.mark.parametrize("name", LOSSES)
def test_keeps_the_contract_with_other_numbers(name: str) -> None:
    """One lucky seed would prove nothing."""
    for seed in (1, 17):
        check_loss(losses.get(name), seed=seed)


@pytest.mark.parametrize("name", LOSSES)
def test_says_what_it_is(name: str) -> None:
    """A loss without a paper, or with positional options, would slip into the catalogue."""
    loss = losses.get(name)
    spec = spec_of(loss)
    assert spec.source
    assert spec.family in ("response", "feature", "relation")
    text = inspect.getdoc(loss) or ""
    assert all(part in text for part in ("Args:", "Raises:", "Source:", ">>> "))
    own = list(inspect.signature(loss).parameters.values())
    assert [p.name for p in own[:2]] == ["student", "teacher"]
    assert all(p.kind is p.KEYWORD_ONLY for p in own[2:])
    assert ("reduction" in [p.name for p in own]) == spec.per_sample


@pytest.mark.parametrize("name", LOSSES)
def test_one_class_or_one_sample(name: str) -> None:
    """The last batch of an epoch can hold one sample; a NaN there ruins the run."""
    aligned = spec_of(losses.get(name)).align
    shape = (1, 3, 2, 2) if aligned == "positions" else (1, 3)
    student = torch.randn(shape, requires_grad=True)
    value = losses.get(name)(student, torch.randn(shape))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_zeros_everywhere(name: str) -> None:
    """Dead features (all zero after a ReLU) divide by a norm of zero."""
    shape = (4, 3, 2, 2) if spec_of(losses.get(name)).align == "positions" else (4, 3)
    student = torch.zeros(shape, requires_grad=True)
    value = losses.get(name)(student, torch.zeros(shape))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_does_not_mind_the_layout(name: str) -> None:
    """Channels-last maps and transposed views have other strides: a view() would fail or lie."""
    spec = spec_of(losses.get(name))
    maps = spec.align in ("positions", "none", "shape")
    student, teacher = (torch.randn((4, 3, 2, 2) if maps else (4, 2, 3)) for _ in range(2))
    expected = losses.get(name)(student, teacher)
    if maps:
        moved = [t.to(memory_format=torch.channels_last) for t in (student, teacher)]
    else:
        moved = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in (student, teacher)]
    assert torch.isclose(losses.get(name)(*moved), expected, rtol=1e-6)


@pytest.mark.parametrize("name", [n for n in LOSSES if spec_of(losses.get(n)).align == "classes"])
def test_refuses_other_class_counts(name: str) -> None:
    """Broadcasting would compare ten classes with one."""
    with pytest.raises(ValueError, match="the same shape"):
        losses.get(name)(torch.randn(4, 10), torch.randn(4, 1))


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((4, 3, 2, 2), (1, 3, 2, 2)),
        ((4, 3, 2, 2), (4, 3, 2, 4)),
        ((4, 3, 2, 2), (4, 2, 2)),
        ((4, 6), (4, 6)),
    ],
)
def test_attention_refuses_maps_that_do_not_meet(
    student: tuple[int, ...], teacher: tuple[int, ...]
) -> None:
    """A teacher of one sample would be broadcast over the whole batch."""
    with pytest.raises(ValueError, match="attention_transfer got maps"):
        losses.attention_transfer(torch.randn(student), torch.randn(teacher))


def test_similarity_refuses_another_batch() -> None:
    """Two batches of different size have no similarities in common."""
    with pytest.raises(ValueError, match="the same batch"):
        losses.similarity_preserving(torch.randn(4, 3), torch.randn(5, 3))


@pytest.mark.parametrize(
    "name", ["cosine_hint", "hard_label", "hint", "kl", "probability_mse", "soft_cross_entropy"]
)
@pytest.mark.parametrize("shape", [(2,), (5,), (2, 3), (5, 2), (2, 5, 4)])
def test_refuses_a_mask_of_another_shape(name: str, shape: tuple[int, ...]) -> None:
    """A mask that is broadcast keeps the wrong tokens."""
    with pytest.raises(ValueError, match="one mask entry per sample or token"):
        losses.get(name)(torch.randn(2, 5, 4), torch.randn(2, 5, 4), mask=torch.ones(shape))


@pytest.mark.parametrize("name", ["kl", "probability_mse", "soft_cross_entropy"])
@pytest.mark.parametrize("temperature", [0, 0.0, -1])
def test_refuses_an_impossible_temperature(name: str, temperature: float) -> None:
    """T = 0 gives NaN; a negative one teaches the opposite."""
    with pytest.raises(ValueError, match="temperature"):
        losses.get(name)(torch.randn(2, 3), torch.randn(2, 3), temperature=temperature)


@pytest.mark.parametrize("name", ["kl", "soft_cross_entropy", "probability_mse"])
def test_excluded_classes(name: str) -> None:
    """Teachers that rule classes out (logit −∞) would make the loss or its gradient NaN."""
    student, teacher = torch.randn(4, 5), torch.randn(4, 5)
    teacher[:, 3:] = -torch.inf
    both = student.clone()
    both[:, 4] = -torch.inf
    for logits in (student, both):
        leaf = logits.clone().requires_grad_(True)
        value = losses.get(name)(leaf, teacher, temperature=2.0)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(leaf.grad).all()


def test_unknown_names_get_near_ones() -> None:
    """A typing error in a recipe would end in a KeyError."""
    with pytest.raises(ValueError, match="did you mean 'kl'"):
        losses.get("kll")
