"""Losses between Transformer blocks, against the authors' numbers, loops and their contract."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from recorded import cases
from recorded_parts import breaches, raw, tensor
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses.blocks import minilm, patient, tinybert
from limbeck.losses.features import cosine_hint
from limbeck.losses.logits import soft_cross_entropy
from limbeck.testing import check_loss

STATES = (6, 5, 8)
SCORES = (6, 3, 5, 5)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def test_patient_as_recorded() -> None:
    """Layers would be averaged instead of summed, or a token other than [CLS] compared."""
    layers, first = cases("patient")
    assert layers.value == pytest.approx(24 * 0.25719162890655495)

    def by_layer(student: Tensor, teacher: Tensor, **_: object) -> Tensor:
        return patient(student.unbind(1), teacher.unbind(1))

    def at_first(student: Tensor, teacher: Tensor, **_: object) -> Tensor:
        return patient(student, teacher, token=0)

    assert not layers.breaches(by_layer)
    assert not first.breaches(at_first)


def test_patient_is_twice_the_cosine_distance_per_layer() -> None:
    """The documented relation to cosine_hint would not hold; masks would be lost in layers."""
    own, theirs = _normal(2, 3, 4, 6, seed=1), _normal(2, 3, 4, 6, seed=2)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]).bool()
    expected = 2 * sum(cosine_hint(s, t, mask=mask) for s, t in zip(own, theirs, strict=True))
    value = patient(own.unbind(0), theirs.unbind(0), mask=mask)
    assert float(value) == pytest.approx(float(expected), rel=1e-9)


def test_patient_with_a_token_keeps_the_mask_of_that_token() -> None:
    """The distiller hands the task's mask (B, N) to a loss that compares [CLS] alone."""
    own, theirs = _normal(3, 4, 6, seed=1), _normal(3, 4, 6, seed=2)
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [1, 0, 0, 0]]).bool()
    value = patient(own, theirs, token=0, mask=mask)
    kept = [0, 2]
    assert torch.isclose(value, patient(own[kept, 0], theirs[kept, 0]))


def test_dead_states_give_a_bounded_gradient() -> None:
    """Dividing by the length of a zero vector gives NaN, or a gradient of 1e12."""
    own = torch.zeros(2, 4, requires_grad=True)
    patient(own, torch.randn(2, 4)).backward()
    assert own.grad.abs().max() <= 2


@pytest.mark.parametrize("shapes", [None, [((STATES,) * 2,) * 2], [(((6, 8),) * 3,) * 2]])
def test_patient_keeps_the_contract(shapes: list | None) -> None:
    """Chunks, masks, half precision or the order of samples would change the value."""
    check_loss(patient, shapes=shapes)


@pytest.mark.parametrize(
    ("student", "teacher", "options", "message"),
    [
        (((2, 4),) * 2, ((2, 4),), {}, "2 tensors of the student and 1"),
        (((2, 4),), ((2, 5),), {}, "the same shape"),
        (((2, 4),), ((2, 4),), {"token": 0}, "token=0"),
        (((2, 3, 4), (2, 4)), ((2, 3, 4), (2, 4)), {}, "the same in each layer"),
        ((), (), {}, "at least one"),
    ],
)
def test_patient_refuses(student: tuple, teacher: tuple, options: dict, message: str) -> None:
    """Layers would be paired wrongly, or rows broadcast over tokens."""
    sides = [tuple(torch.randn(s) for s in side) for side in (student, teacher)]
    if not student:
        sides = [(torch.randn(1, 1),), ()]
    with pytest.raises(InputError, match=message):
        patient(*sides, **options)


def _tinybert_case(number: int) -> tuple[dict, tuple[Tensor, ...], tuple[Tensor, ...], dict]:
    """Return a case's sides, with the teacher's layers chosen as TinyBERT does, and the leaves."""
    case = raw("tinybert")[number]
    given = {key: tensor(value) for key, value in case["inputs"].items()}
    leaves = {
        f"{key}_gradient_{i}": one.requires_grad_(True)
        for key in ("student_attentions", "student_states")
        for i, one in enumerate(given[key])
    }
    part = case["options"]["part"]
    own, theirs, used = [], [], {}
    if "attention" in part:
        own += given["student_attentions"]
        theirs += given["teacher_attentions"][1::2]
        used |= {k: v for k, v in leaves.items() if "attentions" in k}
    if "states" in part:
        own += given["student_states"]
        theirs += given["teacher_states"][::2]
        used |= {k: v for k, v in leaves.items() if "states" in k}
    return case, tuple(own), tuple(theirs), used


@pytest.mark.parametrize("number", [0, 1, 3])
def test_tinybert_as_recorded(number: int) -> None:
    """Heads would be summed, scores compared after the softmax, or a layer left out."""
    case, own, theirs, leaves = _tinybert_case(number)
    assert not breaches(case, tinybert(own, theirs), leaves)
    assert not breaches(case, tinybert(own, theirs, form="code"), leaves)


def test_tinybert_with_padding_as_recorded() -> None:
    """Padding would be divided by in another way than in the authors' code."""
    case, own, theirs, leaves = _tinybert_case(2)
    added = tensor(case["inputs"]["mask"])
    keys = added[:, 0, 0] == 0
    assert not breaches(case, tinybert(own, theirs, form="code", mask=keys), leaves)
    # Without a mask, scores to which the model added −10000 are recognised.
    marked = [tuple(a + added for a in side) for side in (own, theirs)]
    assert not breaches(case, tinybert(*marked, form="code"), leaves)
    assert tinybert(own, theirs, mask=keys) > case["value"]


def test_tinybert_prediction_as_recorded() -> None:
    """The prediction layer is documented to be soft_cross_entropy."""
    [case] = [c for c in cases("tinybert") if c.options["part"] == "prediction"]
    ours = {**vars(case), "options": {"temperature": 2.0}}
    assert not type(case)(**ours).breaches(soft_cross_entropy)


def test_tinybert_against_a_loop() -> None:
    """Masked queries or keys would be counted, or heads weighted by their tokens."""
    own, theirs = _normal(2, 3, 4, 4, seed=3), _normal(2, 3, 4, 4, seed=4)
    states = _normal(2, 4, 6, seed=5), _normal(2, 4, 6, seed=6)
    lengths = [3, 1]
    per_query, per_token = [], []
    for b, length in enumerate(lengths):
        for i in range(length):
            per_query.append(
                sum(
                    float(own[b, h, i, j] - theirs[b, h, i, j]) ** 2
                    for h in range(3)
                    for j in range(length)
                )
                / (3 * length)
            )
            gaps = [float(states[0][b, i, d] - states[1][b, i, d]) ** 2 for d in range(6)]
            per_token.append(sum(gaps) / 6)
    mask = torch.arange(4)[None] < torch.tensor(lengths)[:, None]
    expected = sum(per_query) / 4 + sum(per_token) / 4
    value = tinybert((own, states[0]), (theirs, states[1]), mask=mask)
    assert float(value) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("low", [-torch.inf, torch.finfo(torch.float32).min, -10000.0])
def test_scores_that_the_model_masked(low: float) -> None:
    """−∞ − (−∞) is NaN: causal and padded attention would poison the gradient."""
    hidden = torch.ones(4, 4).triu(1).bool()
    own = torch.randn(2, 3, 4, 4, requires_grad=True)
    theirs = torch.randn(2, 3, 4, 4).masked_fill(hidden, low)
    value = tinybert(own.masked_fill(hidden, low), theirs)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(own.grad).all()
    assert not own.grad[..., hidden].any()


@pytest.mark.parametrize("form", ["paper", "code"])
def test_tinybert_keeps_the_contract(form: str) -> None:
    """Half precision, the order of samples or a gradient into the teacher would slip in."""
    both = (SCORES, STATES)
    check_loss(tinybert, shapes=[(both, both), ((STATES,), (STATES,))], form=form)
    check_loss(tinybert, shapes=[((*both, STATES), (*both, STATES))], form=form)
    check_loss(tinybert)


def test_tinybert_leaves_masked_tokens_out() -> None:
    """What stands at padding, NaN included, would reach the value or the gradient."""
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]).bool()
    own = [torch.randn(2, 3, 5, 5), torch.randn(2, 5, 8)]
    theirs = tuple(torch.randn_like(t) for t in own)
    expected = tinybert(tuple(own), theirs, mask=mask)
    own[0].transpose(1, 3)[~mask] = torch.nan
    own[0].transpose(1, 2)[~mask] = torch.nan
    own[1][~mask] = torch.nan
    leaves = [t.requires_grad_(True) for t in own]
    value = tinybert(tuple(leaves), theirs, mask=mask)
    value.backward()
    assert torch.equal(value, expected)
    assert all(torch.isfinite(t.grad).all() for t in leaves)
    assert tinybert(tuple(leaves), theirs, mask=torch.zeros_like(mask)) == 0


def test_tinybert_refuses_a_mask_of_another_shape() -> None:
    """A mask over queries and keys would be broadcast over heads."""
    scores = torch.randn(2, 3, 5, 5)
    with pytest.raises(InputError, match="one entry per token"):
        tinybert(scores, scores, mask=torch.ones(2, 4))
    with pytest.raises(InputError, match="the same shape"):
        tinybert(scores, torch.randn(2, 4, 5, 5))


MINILM = {
    "query-query, key-key, value-value, each 1/3": {"weights": [1 / 3] * 3},
    "query-query, key-key, value-value, each 1": {},
    "attention and values (v1), each 1": {"form": "v1"},
}


@pytest.mark.parametrize("number", range(3))
def test_minilm_as_recorded(number: int) -> None:
    """Heads would be summed, padding counted, or the KL taken the other way round."""
    case = raw("minilm")[number]
    given = {key: tensor(value) for key, value in case["inputs"].items()}
    own, theirs = (
        tuple(given[f"{side}_{part}"] for part in ("query", "key", "value"))
        for side in ("student", "teacher")
    )
    parts = ("query", "key", "value")
    leaves = {f"student_{part}_gradient": given[f"student_{part}"] for part in parts}
    for leaf in leaves.values():
        leaf.requires_grad_(True)
    options = MINILM[case["options"]["relations"]]
    heads = case["options"]["heads"]
    value = minilm(own, theirs, heads=heads, mask=given["mask"], **options)
    assert not breaches(case, value, leaves)
    if given["mask"].all():
        assert torch.isclose(minilm(own, theirs, heads=heads, **options), value, rtol=1e-12)


def test_minilm_against_a_loop() -> None:
    """Heads would be interleaved instead of blocks, or scaled by the whole width."""
    own, theirs = _normal(1, 3, 4, seed=7), _normal(1, 3, 6, seed=8)

    def relation(states: Tensor, head: int, width: int) -> list[list[float]]:
        part = states[0, :, head * width : (head + 1) * width].tolist()
        rows = []
        for first in part:
            scores = [
                sum(x * y for x, y in zip(first, second, strict=True)) / math.sqrt(width)
                for second in part
            ]
            powers = [math.exp(s) for s in scores]
            rows.append([p / sum(powers) for p in powers])
        return rows

    expected = 0.0
    for head in range(2):
        q, p = relation(own, head, 2), relation(theirs, head, 3)
        for i in range(3):
            expected += sum(p[i][j] * math.log(p[i][j] / q[i][j]) for j in range(3)) / 6
    assert float(minilm(own, theirs, heads=2)) == pytest.approx(expected, rel=1e-10)


def test_minilm_keeps_the_contract() -> None:
    """Half precision, the order of samples or a gradient into the teacher would slip in."""
    three = (STATES,) * 3
    wide = ((6, 5, 12),) * 3
    for form in ("v2", "v1"):
        check_loss(minilm, shapes=[(three, three), (three, wide)], heads=2, form=form)
    check_loss(minilm, shapes=[((STATES,), ((6, 5, 4),))], heads=4)


def test_minilm_leaves_masked_tokens_out() -> None:
    """NaN at padding, or a sample without a token, would make everything NaN."""
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    own, theirs = torch.randn(3, 5, 8), torch.randn(3, 5, 8)
    expected = (
        minilm(own[:1, :3], theirs[:1, :3], heads=2) + minilm(own[2:], theirs[2:], heads=2)
    ) / 2
    own[~mask] = torch.nan
    theirs[~mask] = torch.nan
    own.requires_grad_(True)
    value = minilm(own, theirs, heads=2, mask=mask)
    value.backward()
    assert torch.isclose(value, expected, rtol=1e-5)
    assert torch.isfinite(own.grad).all()
    assert minilm(own, theirs, heads=2, mask=torch.zeros_like(mask)) == 0


@pytest.mark.parametrize(
    ("own", "theirs", "options", "message"),
    [
        ((2, 5, 8), (2, 4, 8), {"heads": 2}, "same samples and tokens"),
        ((2, 8), (2, 8), {"heads": 2}, "B, N, D"),
        ((2, 5, 8), (2, 5, 9), {"heads": 2}, "a width of 9"),
        ((2, 5, 8), (2, 5, 8), {"heads": 0}, "0 heads"),
        ((2, 5, 8), (2, 5, 8), {"heads": 2, "form": "v1"}, "queries, keys and values"),
        ((2, 5, 8), (2, 5, 8), {"heads": 2, "weights": [1, 1]}, "2 weights"),
        ((2, 5, 8), (2, 5, 8), {"heads": 2, "mask": torch.ones(2, 4)}, "one entry per token"),
    ],
)
def test_minilm_refuses(own: tuple, theirs: tuple, options: dict, message: str) -> None:
    """Tokens would be split across heads, or samples broadcast."""
    with pytest.raises(InputError, match=message):
        minilm(torch.randn(own), torch.randn(theirs), **options)


def test_one_sample_and_zeros() -> None:
    """A batch of one, or dead layers, would divide by zero."""
    sides = torch.zeros(1, 3, 4, requires_grad=True), torch.zeros(1, 3, 4)
    for value in (patient(*sides), tinybert(*sides), minilm(*sides, heads=2)):
        [gradient] = torch.autograd.grad(value, sides[0])
        assert value == 0
        assert torch.isfinite(gradient).all()
