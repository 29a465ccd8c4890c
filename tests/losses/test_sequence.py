"""Sequence losses against PyTorch's own, and against alignments that are enumerated one by one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import rel_entr, softmax
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses import sequence, spec_of
from limbeck.losses.logits import hard_label, kl
from limbeck.losses.wrap import chunked
from limbeck.testing import check_loss


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape) * 2)


MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()


@pytest.mark.parametrize("masked", [False, True])
def test_sequence_level_is_cross_entropy(masked: bool) -> None:
    """Tokens would be shifted by one, or the padding counted."""
    student = numbers(3, 4, 7).requires_grad_(True)
    ids = torch.randint(7, (3, 4), generator=torch.Generator().manual_seed(0))
    given = ids.masked_fill(~MASK, -100) if masked else ids
    value = sequence.sequence_level(student, given, mask=MASK if masked else None)
    expected = F.cross_entropy(student.transpose(1, 2), given)  # −100 is its own sign for padding
    assert torch.isclose(value, expected, rtol=1e-12)
    gradients = [torch.autograd.grad(v, student)[0] for v in (value, expected)]
    assert torch.allclose(*gradients, rtol=1e-10)


def test_sequence_level_adds_up_to_the_sequence() -> None:
    """The paper's objective is −log of the probability of the whole sequence."""
    student, ids = numbers(1, 3, 4), torch.tensor([[2, 0, 3]])
    chance = math.prod(
        softmax(row)[pick] for row, pick in zip(student[0].numpy(), ids[0], strict=True)
    )
    value = sequence.sequence_level(student, ids, reduction="sum")
    assert float(value) == pytest.approx(-math.log(chance), rel=1e-12)


def test_sequence_level_takes_logits_of_a_decoded_output() -> None:
    """A cached or parallel teacher gives logits; ids and logits must mean the same."""
    student, teacher = numbers(3, 4, 7), numbers(3, 4, 7, seed=1)
    values = [sequence.sequence_level(student, t, mask=MASK) for t in (teacher, teacher.argmax(-1))]
    assert torch.equal(*values)
    assert torch.equal(values[0], hard_label(student, teacher, mask=MASK))
    pieces = chunked(sequence.sequence_level, 5)(student, teacher.argmax(-1), mask=MASK)
    assert torch.isclose(pieces, values[0])


@pytest.mark.parametrize("shape", [(3, 5), (3,), (3, 4, 1)])
def test_sequence_level_refuses_other_lengths(shape: tuple[int, ...]) -> None:
    """A longer output of the teacher would be cut in silence."""
    with pytest.raises(InputError, match="one id for each token"):
        sequence.sequence_level(numbers(3, 4, 7), torch.zeros(shape, dtype=torch.int64))


def _labelled(teacher: np.ndarray, blank: int, context: int) -> list[bool]:
    """Enumerate all alignments of one sequence; mark the frames near a label of the likeliest."""
    frames, classes = teacher.shape
    chances = softmax(teacher, axis=1)
    paths = itertools.product(range(classes), repeat=frames)
    best = max(paths, key=lambda path: math.prod(chances[t][c] for t, c in enumerate(path)))
    spikes = [t for t, c in enumerate(best) if c != blank]
    return [any(abs(t - spike) <= context for spike in spikes) for t in range(frames)]


def _expected(
    student: Tensor, teacher: Tensor, mask: Tensor, blank: int, context: int, temperature: float
) -> float:
    total, blank = 0.0, blank % student.shape[-1]
    for s, t, keep in zip(student.numpy(), teacher.numpy(), mask.numpy(), strict=True):
        length = int(keep.sum())
        for frame, counts in enumerate(_labelled(t[:length], blank, context)):
            p, q = softmax(t[frame] / temperature), softmax(s[frame] / temperature)
            total += counts * temperature**2 * rel_entr(p, q).sum()
    return total / int(mask.sum())


@pytest.mark.parametrize("blank", [0, 2, -1])
@pytest.mark.parametrize("context", [0, 1, 2])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_ctc_against_enumerated_alignments(blank: int, context: int, temperature: float) -> None:
    """Blanks would be counted, labels left out, or the padding would reach into the sequence."""
    teacher = numbers(4, 6, 3, seed=blank % 3)
    teacher[:, :, blank] += 2.5  # most frames are blank
    student = numbers(4, 6, 3, seed=9)
    mask = torch.arange(6) < torch.tensor([[6], [4], [1], [5]])
    expected = _expected(student, teacher, mask, blank, context, temperature)
    options = {"blank": blank, "context": context, "temperature": temperature}
    teacher[~mask] = student[~mask] = torch.nan
    value = sequence.ctc_aligned(student, teacher, mask=mask, **options)
    assert float(value) == pytest.approx(expected, rel=1e-10)
    assert expected > 0


def test_ctc_learns_the_transcript_of_the_teacher() -> None:
    """What it is for: the likelihood of the teacher's transcript (PyTorch's CTC) must rise."""
    teacher = torch.full((1, 8, 4), -2.0)
    for frame, label in enumerate([0, 3, 0, 0, 1, 0, 2, 0]):
        teacher[0, frame, label] = 4.0
    student = torch.zeros(1, 8, 4, requires_grad=True)

    def unlikelihood() -> float:
        log_q = F.log_softmax(student.detach(), -1).transpose(0, 1)
        whole = torch.tensor([[3, 1, 2]])
        return float(F.ctc_loss(log_q, whole, torch.tensor([8]), torch.tensor([3])))

    before = unlikelihood()
    for _ in range(50):
        loss = sequence.ctc_aligned(student, teacher, context=1)
        (gradient,) = torch.autograd.grad(loss, student)
        student.data -= 4 * gradient
    assert unlikelihood() < 0.1 * before


def test_ctc_with_all_frames_near_is_kl() -> None:
    """Left-out frames count as 0 in the mean: with none left out it must be the plain KL."""
    student, teacher = numbers(2, 5, 4), numbers(2, 5, 4, seed=1)
    teacher[:, 2, 3] = 9.0
    value = sequence.ctc_aligned(student, teacher, context=4)
    assert torch.isclose(value, kl(student, teacher), rtol=1e-12)
    silent = torch.tensor([9.0, 0, 0, 0]).expand(2, 5, 4)
    assert float(sequence.ctc_aligned(student, silent, context=4)) == 0


def test_ctc_leaves_left_out_frames_alone() -> None:
    """A gradient in the teacher's silent frames would tie the student to their timing."""
    student = numbers(1, 4, 3).requires_grad_(True)
    teacher = torch.zeros(1, 4, 3)
    teacher[0, :, 0], teacher[0, 2, 1] = 3.0, 9.0
    sequence.ctc_aligned(student, teacher).backward()
    assert student.grad.abs().sum(-1).gt(0).tolist() == [[False, False, True, False]]


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 5, 3), {"blank": 3}, "blank is 3"),
        ((2, 5, 3), {"blank": -4}, "blank is -4"),
        ((2, 5, 3), {"context": -1}, "context is -1"),
        ((5, 3), {"context": 1}, "no neighbours"),
        ((2, 5, 3), {"temperature": 0.0}, "temperature"),
    ],
)
def test_ctc_refuses(shape: tuple[int, ...], options: dict[str, float], message: str) -> None:
    """A blank outside the vocabulary keeps every frame; single frames have no context."""
    with pytest.raises(InputError, match=message):
        sequence.ctc_aligned(torch.randn(shape), torch.randn(shape), **options)


def test_ctc_refuses_chunks_with_context() -> None:
    """Chunks would cut the neighbours off and change the value."""
    logits = torch.randn(2, 5, 3)
    with pytest.raises(InputError, match="no neighbours"):
        chunked(sequence.ctc_aligned, 4)(logits, logits, context=1)


@pytest.mark.parametrize("blank", [0, -1])
def test_ctc_sequence_over_all_paths(blank: int) -> None:
    """A transcript with the teacher's repetitions, or of padding, would be learnt."""
    student, teacher = torch.randn(4, 4, 3), 3 * torch.randn(4, 4, 3)
    teacher[0] = 9 * torch.eye(3)[[1, 1, blank, 1]]
    mask = torch.arange(4) < torch.tensor([[4], [3], [1], [4]])
    total = 0.0
    for row, frames in enumerate((4, 3, 1, 4)):
        shares = student[row, :frames].double().softmax(-1)
        wanted = _read(teacher[row, :frames].argmax(-1).tolist(), blank % 3)
        paths = itertools.product(range(3), repeat=frames)
        reading = [path for path in paths if _read(path, blank % 3) == wanted]
        total -= math.log(
            sum(math.prod(float(shares[t, c]) for t, c in enumerate(path)) for path in reading)
        )
    value = sequence.ctc_sequence(student, teacher, blank=blank, mask=mask)
    assert float(value) == pytest.approx(total / 12, rel=1e-5)


def test_ctc_sequence_with_other_frames() -> None:
    """A teacher with twice as many frames would be refused, or its padding be heard."""
    student, teacher = torch.randn(2, 5, 3), torch.randn(2, 3, 3)
    slower = teacher.repeat_interleave(2, 1)
    one, other = (sequence.ctc_sequence(student, each) for each in (teacher, slower))
    torch.testing.assert_close(one, other)
    mask = torch.ones(2, 5)
    for wrong in ((student, teacher, {"mask": mask}), (student, teacher, {"blank": 3})):
        with pytest.raises(InputError, match=r"frames|blank is 3"):
            sequence.ctc_sequence(*wrong[:2], **wrong[2])


def _read(path: Sequence[int], blank: int) -> list[int]:
    return [symbol for symbol, _ in itertools.groupby(path) if symbol != blank]


@pytest.mark.parametrize("name", ["ctc_aligned", "sequence_level"])
def test_refuses_other_vocabularies(name: str) -> None:
    """Broadcasting would compare ten classes with one."""
    with pytest.raises(InputError, match="the same shape"):
        getattr(sequence, name)(torch.randn(4, 10), torch.randn(4, 1))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ctc_aligned", {}),
        ("ctc_aligned", {"blank": 3, "temperature": 2.0}),
        ("ctc_aligned", {"blank": -1}),
        ("sequence_level", {}),
    ],
)
def test_keeps_the_contract(name: str, options: dict[str, float]) -> None:
    """Masks, chunks, accumulation, half precision or T² would be wrong without a word."""
    for seed in (0, 5):
        check_loss(getattr(sequence, name), seed=seed, compiled=False, **options)
    assert spec_of(getattr(sequence, name)).family == "sequence"
