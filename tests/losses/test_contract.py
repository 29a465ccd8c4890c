"""Every loss keeps the public contract."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from limbeck import losses
from limbeck.losses import spec_of
from limbeck.testing import check_loss

# The names that are fixed, by chapter.
CHAPTERS = {
    "response": (
        "kl reverse_kl jensen_shannon skewed_kl skewed_reverse_kl total_variation "
        "soft_cross_entropy hard_label logit_mse probability_mse dkd nkd universal_self_kd "
        "weighted_soft_label dist logit_standardized_kl multi_level_logit transformed_teacher "
        "weighted_transformed_teacher spherical binary_kl label_refinement virtual_teacher "
        "universal_logit policy"
    ),
    "feature": (
        "hint cosine_hint attention_transfer neuron_selectivity flow activation_boundary "
        "factor_transfer overhaul variational review channel_wise masked_generative "
        "softmax_regression simkd class_activation one_for_all patient tinybert minilm frequency "
        "block_wise attention_selection semantic_calibration"
    ),
    "relation": (
        "similarity_preserving rkd_distance rkd_angle correlation_congruence "
        "probabilistic_transfer inter_channel kernel_alignment"
    ),
    "contrast": "contrastive self_supervised self_supervised_logits prototype affinity_mimic",
    "sequence": "sequence_level ctc_aligned ctc_sequence minillm",
    "ranking": "listwise pairwise_margin ranking_distillation relaxed_ranking",
    "dense": "detection localization focal_global pixel_wise pair_wise set_detection",
}
LOSSES = sorted(name for names in CHAPTERS.values() for name in names.split())

MAPS = (6, 3, 4, 4)
PAIR = ((6, 3, 4, 4), (6, 4, 2, 2))
THREE = ((6, 5, 4, 4), (6, 2, 3, 3), (6, 3, 2, 2))
SHARES = torch.tensor([[0.25, 0.75], [0.5, 0.5], [0.9, 0.1]])
STATES = (6, 3, 4)
EQUAL = [(MAPS, MAPS)]
BOXES = torch.tensor([[[0.0, 0.0, 2.0, 2.0]], [[1.0, 1.0, 4.0, 3.0]]]).repeat(3, 1, 1)
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "affinity_mimic": [{"shapes": [(((6, 5), (6, 5)), ((6, 7), (6, 7)))]}],
    "attention_transfer": [{}, {"power": 1.0}, {"power": 4.0}, {"form": "norm"}],
    "attention_selection": [{"shapes": [(PAIR, THREE)], "weights": SHARES}],
    "block_wise": [{"shapes": [(PAIR, PAIR)]}],
    "channel_wise": [{"shapes": EQUAL}],
    "class_activation": [{"shapes": EQUAL}],
    "ctc_sequence": [{"shapes": [((6, 5), (6, 5))]}],  # a mask of frames is no subset of sequences
    "detection": [{"shapes": [(((6, 4, 3), (6, 16, 5)), ((6, 4, 3), (6, 16, 5)))]}],
    "factor_transfer": [{"shapes": EQUAL}],
    "flow": [{"shapes": [(PAIR, PAIR)]}],
    "focal_global": [{"shapes": EQUAL, "targets": BOXES, "image": (4, 4)}],
    "frequency": [{"shapes": [((6, 3, 8, 8), (6, 3, 8, 8))]}],
    "hint": [{}, {"features": "mean"}],
    "kl": [{}, {"temperature": 4.0}, {"temperature": 0.5}],
    "masked_generative": [
        {"shapes": EQUAL, "keep": torch.tensor([1.0, 0.0, 1.0, 1.0]), "generator": torch.tanh}
    ],
    "minilm": [{"shapes": [((STATES,) * 3, (STATES,) * 3)], "heads": 2}],
    "overhaul": [{"shapes": EQUAL, "margin": torch.full((3,), -0.4)}],
    "pair_wise": [{"shapes": EQUAL}],
    "pixel_wise": [{"shapes": EQUAL}],
    "probability_mse": [{}, {"temperature": 3.0}],
    "prototype": [{"shapes": [((6, 5), (6, 5))], "prototypes": torch.randn(4, 5)}],
    "review": [{"shapes": EQUAL}],
    "set_detection": [
        {"shapes": [(((6, 3, 4), (6, 3, 4)), ((6, queries, 4), (6, queries, 4)))]}
        for queries in (3, 2, 5)
    ],
    "self_supervised": [{"shapes": [((5, 4, 6), (5, 4, 6))]}],
    "self_supervised_logits": [
        {"shapes": [((4, 3, 5), (4, 3, 5))], "targets": torch.tensor([0, 1, 2, 3])}
    ],
    "semantic_calibration": [
        {
            "shapes": [((*THREE, (6, 5, 2, 2), (6, 2, 2, 2), (6, 3, 1, 1)), THREE)],
            "weights": SHARES.T,
        }
    ],
    "soft_cross_entropy": [{}, {"temperature": 4.0}],
    "softmax_regression": [{"shapes": EQUAL, "weight": torch.randn(5, 3)}],
    "universal_logit": [{"shapes": [((6, 5), (6, 7)), ((4, 3, 5), (4, 3, 5))]}],
    "universal_self_kd": [{"shapes": [(((6, 5), (6, 5)), (6, 5))], "targets": torch.arange(6) % 5}],
    "variational": [{"shapes": EQUAL, "variance": torch.rand(3) + 0.5}],
}


def case(name: str, size: int | None = None, scale: float = 1.0) -> tuple[Any, Any, dict[str, Any]]:
    """Return what a loss of any kind can be called with: both sides, and its options.

    Args:
        name: of the loss.
        size: how many samples; by default all that its shapes have.
        scale: of the random numbers.
    """
    usual = {"positions": [(MAPS, MAPS)]}.get(spec_of(losses.get(name)).align, [((6, 5), (6, 5))])
    options = dict(OPTIONS.get(name, [{}])[0])
    shapes = options.pop("shapes", usual)[0]
    generator = torch.Generator().manual_seed(0)

    def drawn(shape: Any) -> Any:
        if isinstance(shape[0], tuple):
            return tuple(drawn(one) for one in shape)
        return (torch.randn(shape, generator=generator) * scale)[:size]

    student, teacher = map(drawn, shapes)
    if "targets" in inspect.signature(losses.get(name)).parameters:
        rows = tree_leaves(student)[0]
        options.setdefault("targets", torch.arange(len(rows)) % rows.shape[-1])
        options["targets"] = options["targets"][:size]
    return student, teacher, options


def labels(name: str, size: int) -> dict[str, torch.Tensor]:
    """Return labels for a loss that takes them."""
    takes = "targets" in inspect.signature(losses.get(name)).parameters
    return {"targets": torch.arange(size) % 3} if takes else {}


def gradients(name: str, student: Any, teacher: Any, options: dict[str, Any]) -> list[torch.Tensor]:
    """Return the value and the gradients of the student's tensors."""
    leaves = tree_map(lambda t: t.clone().requires_grad_(True), student)
    value = losses.get(name)(leaves, teacher, **options)
    value.backward()
    return [value.detach(), *(leaf.grad for leaf in tree_leaves(leaves))]


def test_the_list_is_the_list() -> None:
    """A loss that fell out of the registry would be checked by nothing below."""
    assert losses.names() == LOSSES
    assert set(LOSSES) <= set(losses.__all__)
    assert len(LOSSES) >= 60


@pytest.mark.parametrize("family", CHAPTERS)
def test_losses_stand_in_their_chapters(family: str) -> None:
    """A loss in another chapter would not be found there."""
    names = CHAPTERS[family].split()
    assert {spec_of(losses.get(name)).family for name in names} == {family}


@pytest.mark.parametrize(
    ("name", "number"), [(n, i) for n in LOSSES for i in range(len(OPTIONS.get(n, [{}])))]
)
def test_keeps_the_contract(name: str, number: int) -> None:
    """Masks, chunks, accumulation, half precision or T² would be wrong without a word."""
    check_loss(losses.get(name), **OPTIONS.get(name, [{}])[number])


@pytest.mark.parametrize("name", LOSSES)
def test_keeps_the_contract_with_other_numbers(name: str) -> None:
    """One lucky seed would prove nothing."""
    for seed in (1, 17):
        check_loss(losses.get(name), seed=seed, compiled=False, **OPTIONS.get(name, [{}])[0])


@pytest.mark.parametrize("name", LOSSES)
def test_says_what_it_is(name: str) -> None:
    """A loss without a paper, or with positional options, would slip into the catalogue."""
    loss = losses.get(name)
    spec = spec_of(loss)
    assert spec.source
    assert spec.family in CHAPTERS
    text = inspect.getdoc(loss) or ""
    assert all(part in text for part in ("Args:", "Raises:", "Source:", ">>> "))
    own = list(inspect.signature(loss).parameters.values())
    assert [p.name for p in own[:2]] == ["student", "teacher"]
    assert all(p.kind is p.KEYWORD_ONLY for p in own[2:])
    assert ("reduction" in [p.name for p in own]) == spec.per_sample


@pytest.mark.parametrize("name", LOSSES)
def test_one_sample(name: str) -> None:
    """The last batch of an epoch can hold one sample; a NaN there ruins the run."""
    assert all(torch.isfinite(t).all() for t in gradients(name, *case(name, size=1)))


@pytest.mark.parametrize("name", LOSSES)
def test_zeros_everywhere(name: str) -> None:
    """Dead features (all zero after a ReLU) divide by a norm of zero."""
    assert all(torch.isfinite(t).all() for t in gradients(name, *case(name, scale=0.0)))


@pytest.mark.parametrize("name", LOSSES)
def test_does_not_mind_the_layout(name: str) -> None:
    """Channels-last maps and transposed views have other strides: a view() would fail or lie."""
    student, teacher, options = case(name)
    expected = losses.get(name)(student, teacher, **options)

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim == 4:
            return tensor.to(memory_format=torch.channels_last)
        return tensor.transpose(0, 1).contiguous().transpose(0, 1)

    other = losses.get(name)(*tree_map(moved, (student, teacher)), **options)
    assert torch.isclose(other, expected, rtol=1e-6)


@pytest.mark.parametrize("name", [n for n in LOSSES if spec_of(losses.get(n)).align == "classes"])
def test_refuses_other_class_counts(name: str) -> None:
    """Broadcasting would compare ten classes with one."""
    with pytest.raises(ValueError, match="the same shape"):
        losses.get(name)(torch.randn(4, 10), torch.randn(4, 1), **labels(name, 4))


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


@pytest.mark.parametrize("name", ["dkd", "dist"])
def test_with_compiled_kernels(name: str) -> None:
    """The contract only traces; the kernels that are then generated could guard otherwise."""
    student, teacher, options = case(name)
    torch.compiler.reset()
    compiled = torch.compile(losses.get(name), fullgraph=True)
    plain = gradients(name, student, teacher, options)
    leaf = student.clone().requires_grad_(True)
    value = compiled(leaf, teacher, **options)
    value.backward()
    for found, expected in zip((value.detach(), leaf.grad), plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
