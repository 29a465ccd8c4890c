"""Losses of a teacher's answer of which a part is kept: exact where possible, else refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from kept import drawn, draws, slope, top
from torch import Tensor

from limbeck import losses
from limbeck.errors import InputError
from limbeck.losses import SparseLogits, Spec, declare, spec_of
from limbeck.losses.schedules import linear
from limbeck.losses.sparse import reduced
from limbeck.losses.wrap import chunked, gathered, masked, scheduled, weighted
from limbeck.testing import ContractError, check_loss
from limbeck.testing.waiting import never_waiting

ALLOWED = {
    "kl": "linear",
    "soft_cross_entropy": "linear",
    "hard_label": "top",
    "jensen_shannon": "merged",
    "reverse_kl": "merged",
    "skewed_kl": "merged",
    "skewed_reverse_kl": "merged",
    "total_variation": "merged",
}
MERGED = [name for name, kind in ALLOWED.items() if kind != "top"]
DIVERGENCES = [name for name in MERGED if name != "soft_cross_entropy"]


def at(name: str, temperature: float) -> dict[str, float]:
    return {} if name == "hard_label" else {"temperature": temperature}


# -- what is declared


def test_which_losses_take_a_part_of_an_answer() -> None:
    """A loss of all logits that took a part would compare numbers that mean other things."""
    found = {name: spec_of(losses.get(name)).partial for name in losses.names()}
    assert {name: kind for name, kind in found.items() if kind != "refused"} == ALLOWED


def test_a_false_claim_is_noticed() -> None:
    """A loss of raw logits that claims to need probabilities alone."""

    @declare(Spec("response", "an example", "classes", partial="merged"))
    def claims(student: Tensor, teacher: Tensor, *, mask: Any = None, reduction: Any = "mean"):
        return losses.logit_mse(student, teacher, mask=mask, reduction=reduction)

    with pytest.raises(ContractError, match="it needs more of the teacher than probabilities"):
        check_loss(claims, compiled=False)


# -- all classes kept: the same as dense


@pytest.mark.parametrize("kept_at", [1.0, 3.0])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("shape", [(6, 7), (2, 3, 7)])
@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_all_classes_in_another_order(
    name: str, shape: tuple[int, ...], temperature: float, kept_at: float
) -> None:
    """With nothing left out, value and gradient are the dense ones at any temperature."""
    loss, options = losses.get(name), at(name, temperature)
    student, teacher = drawn(*shape), drawn(*shape, seed=1)
    known = top(teacher, shape[-1], kept_at)
    assert torch.isclose(
        loss(student, known, **options), loss(student, teacher, **options), rtol=1e-6
    )
    assert torch.allclose(
        slope(loss, student, known, **options), slope(loss, student, teacher, **options), atol=1e-9
    )


# -- some kept: exact on the merged classes


def merged_value(name: str, student: Any, teacher: Any, kept: Sequence[int], t: float) -> float:
    """Merge by hand, in NumPy, a row at a time."""

    def mix(a: Any, b: Any, share: float) -> Any:
        return share * a + (1 - share) * b

    def kl(a: Any, b: Any) -> float:
        return float(sum(x * np.log(x / y) for x, y in zip(a, b, strict=True)))

    pair = []
    for row in (student, teacher):
        p = np.exp(row / t - np.max(row / t))
        p = p / p.sum()
        pair.append(np.array([*(p[c] for c in kept), sum(np.delete(p, list(kept)))]))
    q, p = pair
    return {
        "kl": lambda: t**2 * kl(p, q),
        "reverse_kl": lambda: t**2 * kl(q, p),
        "soft_cross_entropy": lambda: -(t**2) * float((p * np.log(q)).sum()),
        "jensen_shannon": lambda: t**2 * (kl(p, mix(p, q, 0.5)) + kl(q, mix(p, q, 0.5))) / 2,
        "skewed_kl": lambda: t**2 * kl(p, mix(p, q, 0.1)),
        "skewed_reverse_kl": lambda: t**2 * kl(q, mix(q, p, 0.1)),
        "total_variation": lambda: t * float(np.abs(p - q).sum()) / 2,
    }[name]()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("name", MERGED)
def test_others_count_as_one_class(name: str, temperature: float) -> None:
    """Without the mass of the others, or T², the value would be another."""
    student, teacher = drawn(5, 12), drawn(5, 12, seed=1)
    known = top(teacher, 3, temperature)
    found = losses.get(name)(student, known, temperature=temperature, reduction="none")
    for row in range(5):
        kept = np.argsort(-teacher[row].numpy())[:3]
        expected = merged_value(name, student[row].numpy(), teacher[row].numpy(), kept, temperature)
        assert float(found[row]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("known", [top(drawn(3, 9, seed=1), 4, 2.0), draws(drawn(3, 9), 5, 2.0)])
@pytest.mark.parametrize("name", MERGED)
def test_gradient_is_the_slope(name: str, known: SparseLogits) -> None:
    """A gradient that missed the classes left out would leave their logits where they are."""
    if known.entropy is not None and ALLOWED[name] != "linear":
        return
    loss, student = losses.get(name), drawn(3, 9, seed=2).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda s: loss(s, known, temperature=2.0), student)


@pytest.mark.parametrize("size", [1, 4, 11])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_merging_never_adds_to_a_divergence(name: str, size: int) -> None:
    """The inequality of data processing; kept classes that were normalised anew would break it."""
    student, teacher = drawn(20, 12), drawn(20, 12, seed=1)
    loss = losses.get(name)
    part = loss(student, top(teacher, size), reduction="none")
    assert (part <= loss(student, teacher, reduction="none") + 1e-12).all()
    assert (part >= 0).all()


def test_hard_label_from_the_most_likely_class() -> None:
    """The others together may weigh more than the best one: they must not become the label."""
    student, teacher = drawn(50, 40), drawn(50, 40, seed=1) / 4
    known = top(teacher, 3)
    assert known.rest is not None
    assert (known.rest > known.log_p[:, 0]).any()
    for value in (losses.hard_label, lambda s, t: slope(losses.hard_label, s, t)):
        assert torch.allclose(value(student, known), value(student, teacher))


def test_classes_that_both_exclude() -> None:
    """Padding of a vocabulary, −∞ in both, must not turn gradients into NaN."""
    student, teacher = drawn(4, 8), drawn(4, 8, seed=1)
    student[:, 6:] = teacher[:, 6:] = -torch.inf
    for size in (3, 6, 7, 8):
        for name in sorted(ALLOWED):
            loss, known = losses.get(name), top(teacher, size)
            assert torch.isfinite(slope(loss, student, known)).all(), (name, size)
            if size >= 6 and name != "total_variation":
                dense = losses.get(name)(student, teacher)
                assert torch.isclose(loss(student, known), dense, rtol=1e-9), (name, size)


# -- draws


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("name", ["kl", "soft_cross_entropy"])
def test_draws_are_right_on_average(name: str, temperature: float) -> None:
    """Value and gradient: the mean over draws is the dense one, within its standard error.

    So few of so many classes, kept as the most likely and normalised anew, are far from it; and
    without the entropies the value is.
    """
    loss, count, classes, size = losses.get(name), 4000, 30, 8
    student, teacher = drawn(1, classes), drawn(1, classes, seed=1)
    own = student.expand(count, -1)
    known = draws(teacher.expand(count, -1), size, temperature)
    options: dict[str, Any] = {"temperature": temperature, "reduction": "none"}
    values, slopes = loss(own, known, **options), slope(loss, own, known, **options)
    dense = loss(student, teacher, temperature=temperature)
    dense_slope = slope(loss, student, teacher, temperature=temperature)[0]
    error = values.std() / count**0.5
    assert abs(values.mean() - dense) < 4 * error
    errors = slopes.std(0) / count**0.5
    off = (slopes.mean(0) - dense_slope) / errors
    assert off.abs().max() < 4
    assert off.square().mean() < 2
    # The same number of classes, the most likely, as if there were no others.
    best = teacher.topk(size).indices
    few = torch.full_like(teacher, -torch.inf).scatter(-1, best, teacher.gather(-1, best))
    biased = slope(loss, student, few, temperature=temperature)[0]
    assert ((biased - dense_slope) / errors).abs().max() > 15
    # The mass of the others as one class: better, and not right either.
    part = slope(loss, student, top(teacher, size, temperature), temperature=temperature)[0]
    assert ((part - dense_slope) / errors).abs().max() > 5
    assert (part - dense_slope).norm() < (biased - dense_slope).norm()


def test_draws_need_the_teachers_entropy() -> None:
    """Without it the KL would be too large by what a few draws lack of entropy."""
    count = 2000
    student, teacher = drawn(1, 30), drawn(1, 30, seed=1)
    known = draws(teacher.expand(count, -1), 8)
    own = known.log_p.exp()
    none = SparseLogits(
        known.indices, known.log_p, 30, entropy=torch.special.entr(own).sum(-1)
    )  # as if the draws were all that the teacher said
    values = losses.kl(student.expand(count, -1), none, reduction="none")
    error = values.std() / count**0.5
    assert values.mean() - losses.kl(student, teacher) > 20 * error


def test_a_draw_of_every_class_in_its_share_is_dense() -> None:
    """Draws that happen to be exact must give the value itself, duplicates of no class counted."""
    teacher = torch.tensor([[0.5, 0.25, 0.25, 0.0]], dtype=torch.float64).log()
    shares = torch.tensor([[0.5, 0.25, 0.25, 0.0]], dtype=torch.float64)
    entropy = torch.special.entr(shares).sum(-1)
    indices = torch.tensor([[0, 1, 2, 0]])
    known = SparseLogits(indices, shares.log(), 4, entropy=entropy)
    student = drawn(1, 4)
    for name in ("kl", "soft_cross_entropy"):
        loss = losses.get(name)
        assert torch.isclose(loss(student, known), loss(student, teacher), rtol=1e-12)
        assert torch.allclose(slope(loss, student, known), slope(loss, student, teacher))


# -- what is around a loss


@pytest.mark.parametrize("known", ["top", "draws", "all"])
@pytest.mark.parametrize("name", ["kl", "soft_cross_entropy", "hard_label"])
def test_masks_and_chunks(name: str, known: str) -> None:
    """Sequences: a mask is the subset, chunks change nothing, and nothing masked leaks."""
    if known == "draws" and name == "hard_label":
        return
    loss, student, teacher = losses.get(name), drawn(4, 5, 9), drawn(4, 5, 9, seed=1)
    flat = teacher.flatten(0, 1)
    part = {"top": top(flat, 3), "draws": draws(flat, 6), "all": top(flat, 9)}[known]
    whole = part._each(lambda tensor: tensor.unflatten(0, (4, 5)))
    keep = torch.rand(4, 5, generator=torch.Generator().manual_seed(3)) < 0.6
    expected = loss(student[keep], whole[keep])
    dirty = student.masked_fill(~keep.unsqueeze(-1), torch.nan)
    for form in (loss, masked(loss), chunked(loss, 3), weighted(chunked(loss, 4), 1.0)):
        assert torch.isclose(form(student, whole, mask=keep), expected)
        assert torch.isfinite(slope(form, dirty, whole, mask=keep)).all()
        assert torch.isclose(form(dirty, whole, mask=keep), expected)
        assert form(student, whole, mask=torch.zeros_like(keep)) == 0
    plain = loss(student, whole)
    each = loss(student, whole, reduction="none")
    assert each.shape == (4, 5)
    assert torch.isclose(each.mean(), plain)
    assert torch.isclose(chunked(loss, 3)(student, whole), plain)
    assert torch.isclose(gathered(loss)(student, whole), plain)
    assert torch.allclose(slope(chunked(loss, 3), student, whole), slope(loss, student, whole))


def test_wrappers_hand_it_on() -> None:
    """A wrapper that took the loss's place would compare at its own temperature, which is none."""
    student, teacher = drawn(4, 9), drawn(4, 9, seed=1)
    known, every = top(teacher, 3, 2.0), top(teacher, 9)
    plain = losses.kl(student, known, temperature=2.0)
    assert torch.isclose(weighted(losses.kl, 3.0)(student, known, temperature=2.0), 3 * plain)
    assert torch.isclose(
        scheduled(losses.kl, temperature=linear(1.0, 3.0))(student, known, progress=0.5), plain
    )
    learned = losses.LearnedTemperature(losses.kl)
    assert torch.isclose(
        learned(student, every, progress=0.5), learned(student, teacher, progress=0.5)
    )
    with pytest.raises(InputError, match="a temperature that is learned"):
        learned(student, known, progress=0.5)
    unsure = losses.UncertaintyWeighted(losses.kl)
    assert torch.isclose(unsure(student, every), unsure(student, teacher))


def test_half_precision_and_autocast() -> None:
    """Half-precision students are widened before classes are added up."""
    student, teacher = drawn(4, 50).bfloat16(), drawn(4, 50, seed=1)
    known = top(teacher.float(), 5)
    exact = losses.kl(student.float(), known)
    assert losses.kl(student, known).dtype == torch.float32
    assert torch.equal(losses.kl(student, known), exact)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(losses.kl(student, known), exact)


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_nothing_waits_for_the_device(name: str) -> None:
    """On the meta device there are no values: whoever looks at one fails."""
    teacher = drawn(4, 9).float()
    mask = torch.ones(4, dtype=torch.bool, device="meta")
    for known in (top(teacher, 3), top(teacher, 9), draws(teacher, 5)):
        if known.entropy is not None and ALLOWED[name] != "linear":
            continue
        there, student = known.to("meta"), torch.empty(4, 9, device="meta", requires_grad=True)
        with never_waiting():
            losses.get(name)(student, there, mask=mask).backward()
        assert student.grad is not None


def test_it_compiles() -> None:
    """A break in the graph would make a compiled step slower than none."""
    student, teacher = drawn(4, 9), drawn(4, 9, seed=1)
    compiled = torch.compile(losses.kl, fullgraph=True, backend="aot_eager")
    for known in (top(teacher, 3), draws(teacher, 5)):
        assert torch.allclose(slope(compiled, student, known), slope(losses.kl, student, known))


def test_the_teacher_stays_small() -> None:
    """Spread out to 150,000 classes, a batch of answers would not fit beside the student's."""
    known = top(drawn(2, 3, 500), 4)
    own, theirs = reduced(drawn(2, 3, 500, seed=1), known, "merged")
    assert own.shape == theirs.shape == (2, 3, 5)


def test_no_gradient_into_the_teacher() -> None:
    """A gradient there would train it, or keep its graph alive."""
    known = top(drawn(2, 9).requires_grad_(True), 3)
    student = drawn(2, 9, seed=1)
    assert known.log_p.requires_grad
    assert not losses.kl(student, known).requires_grad


# -- refusals


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda s, t: losses.kl(s, top(t, 3), temperature=4.0), 'codec "top3@4"'),
        (lambda s, t: losses.kl(s, top(t, 3, 4.0)), 'codec "top3", or .* temperature to 4'),
        (lambda s, t: losses.kl(s, draws(t, 5, 2.0), temperature=4), 'codec "sample5@4"'),
        (lambda s, t: losses.reverse_kl(s, draws(t, 5)), '"top5", .* or with "half"'),
        (lambda s, t: losses.hard_label(s, draws(t, 5)), '"top5", .* or with "half"'),
        (lambda s, t: losses.logit_mse(s, top(t, 3)), 'again with codec "half"'),
        (lambda s, t: losses.logit_mse(s, draws(t, 3)), 'again with codec "half"'),
        (lambda s, t: losses.dist(s, top(t, 3)), "dist met a teacher's answer over 9 classes"),
        (lambda s, t: losses.dkd(s, top(t, 9), targets=torch.zeros(4, dtype=torch.int64)), "half"),
        (lambda s, t: losses.similarity_preserving(s, top(t, 3)), "half"),
        (lambda s, t: losses.ConfidenceWeighted(losses.kl, form="maximum")(s, top(t, 9)), "half"),
        (lambda s, t: losses.block_wise((s, s), (top(t, 3), t)), "block_wise met"),
        (lambda s, t: losses.kl(top(s, 3), t), "the student's answer is SparseLogits"),
        (lambda s, t: losses.kl(s[:, :8], top(t, 3)), "the same shape"),
        (lambda s, t: losses.kl(s[:3], top(t, 3)), "the same shape"),
        (lambda s, t: losses.kl(s, top(t, 3), temperature=0.0), "temperature"),
    ],
)  # fmt: skip
def test_refused(call: Callable[[Tensor, Tensor], Any], told: str) -> None:
    """What is kept is not enough: a silent answer would be a wrong one."""
    with pytest.raises(InputError, match=told):
        call(drawn(4, 9), drawn(4, 9, seed=1))
