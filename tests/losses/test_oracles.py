"""Losses against numbers that are not ours: recorded, computed by hand, looped in NumPy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from recorded import ORACLES, Recorded, cases, fill
from torch import Tensor

from limbeck import losses
from limbeck.students.adapters import align

# Their code has an eps that ours has not; each is named in the record's notes.
TOLERANCE = {
    "attention_transfer-4": 5e-6,
    "attention_transfer-5": 5e-6,
    "cosine_hint-0": 1e-7,
    "cosine_hint-2": 1e-7,
}
# The others are compared in the files that are named after their modules.
HERE = (
    "attention_transfer", "cosine_hint", "hard_label", "hint", "kl", "logit_mse",
    "probability_mse", "similarity_preserving", "soft_cross_entropy",
)  # fmt: skip
RECORDED = [case for name in HERE for case in cases(name)]
# No public code: PyTorch's own functions, or enumeration, are their oracles.
UNRECORDED = {
    "block_wise": "torch.nn.functional.mse_loss",
    "ctc_aligned": "all alignments, enumerated",
    "ctc_sequence": "all paths, enumerated",
    "detection": "a loop over places, in NumPy",
    "label_refinement": "torch.nn.functional.cross_entropy(label_smoothing=)",
    "self_supervised_logits": "a part of the record self_supervised",
    "set_detection": "all ways to pair, enumerated",
    "minillm": "all texts, enumerated (test_policy_gradient.py)",
    "sequence_level": "torch.nn.functional.cross_entropy",
}


@pytest.mark.parametrize("name", losses.names())
def test_every_loss_has_a_record(name: str) -> None:
    """A loss without one would be compared with itself alone."""
    assert (ORACLES / f"{name}.json").is_file() == (name not in UNRECORDED)
    tests = [file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("test_*.py")]
    told = [text for text in tests if name in text]
    assert len(told) > 1  # the list of the contract, and its own file


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case.name)
def test_as_recorded(case: Recorded) -> None:
    """Our reading of a formula would differ from its authors' by a scale, a T² or a side."""
    loss = losses.get(case.name.partition("-")[0])
    tolerance = TOLERANCE.get(case.name, 1e-9)
    student, teacher = case.inputs["student"], case.inputs["teacher"]

    def ours(student: Tensor, teacher: Tensor, **options: object) -> Tensor:
        return loss(*alignment(student, teacher), **options)

    alignment = align(tuple(student.shape), tuple(teacher.shape), losses.spec_of(loss).align)
    assert not Recorded.breaches(
        Recorded(**{**vars(case), "tolerance": tolerance}),
        ours if alignment.text else loss,
    )


def test_the_inputs_are_those_recorded() -> None:
    """A slip in regenerating them would compare two mistakes."""
    # Computed from the rule in the README with exact sines to 12 digits.
    assert fill([1], 0, 1.0)[0] == pytest.approx(2 * _fraction(12.9898) - 1, abs=1e-9)
    assert fill([3], 2, 4.0)[2] == pytest.approx(
        4 * (2 * _fraction(3 * 12.9898 + 2 * 78.233) - 1), abs=1e-8
    )
    assert case_of("kl", 0).inputs["student"].dtype == torch.float64


def case_of(name: str, number: int) -> Recorded:
    return cases(name)[number]


def _fraction(angle: float) -> float:
    return (math.sin(angle) * 43758.5453) % 1.0


HALF, THIRD = math.log(2), math.log(3)


@pytest.mark.parametrize(
    ("name", "student", "teacher", "options", "expected"),
    [
        # KL((¾, ¼) ‖ (½, ½)) = ¾·log 3 − log 2
        ("kl", [[0.0, 0.0]], [[THIRD, 0.0]], {}, 0.75 * THIRD - HALF),
        # KL((½, ½) ‖ (¾, ¼)) = log 2 − ½·log 3: the other way round is another number
        ("kl", [[THIRD, 0.0]], [[0.0, 0.0]], {}, 2 * HALF - 0.5 * THIRD - HALF),
        # the same at T = 2 after doubling the logits, four times as much
        ("kl", [[0.0, 0.0]], [[2 * THIRD, 0.0]], {"temperature": 2}, 4 * (0.75 * THIRD - HALF)),
        # −(¾·log ½ + ¼·log ½)
        ("soft_cross_entropy", [[0.0, 0.0]], [[THIRD, 0.0]], {}, HALF),
        ("soft_cross_entropy", [[0.0] * 4], [[9.0] * 4], {"temperature": 3}, 9 * 2 * HALF),
        ("hard_label", [[0.0, 0.0], [THIRD, 0.0]], [[0.0, 1.0], [0.0, 9.0]], {}, 1.5 * HALF),
        ("logit_mse", [[1.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [3.0, 0.0]], {}, 7.0),
        ("probability_mse", [[0.0, 0.0]], [[THIRD, 0.0]], {}, 2 / 16),
        ("probability_mse", [[0.0, 0.0]], [[2 * THIRD, 0.0]], {"temperature": 2}, 4 * 2 / 16),
        ("hint", [[1.0, 2.0, 2.0]], [[0.0, 0.0, 0.0]], {}, 4.5),
        ("hint", [[1.0, 2.0, 2.0]], [[0.0, 0.0, 0.0]], {"features": "mean"}, 3.0),
        ("cosine_hint", [[1.0, 0.0]], [[1.0, 1.0]], {}, 1 - math.sqrt(0.5)),
        ("cosine_hint", [[2.0, 0.0]], [[-5.0, 0.0]], {}, 2.0),
        # maps |F|²: (9, 16)/‖·‖ against (1, 0), mean over two positions
        (
            "attention_transfer",
            [[[[3.0, 4.0]]]],
            [[[[1.0, 0.0]]]],
            {},
            ((9 / math.hypot(9, 16) - 1) ** 2 + (16 / math.hypot(9, 16)) ** 2) / 2,
        ),
        (
            "attention_transfer",
            [[[[3.0, 4.0]]]],
            [[[[1.0, 0.0]]]],
            {"power": 1.0, "form": "norm"},
            math.hypot(3 / 5 - 1, 4 / 5),
        ),
        # rows of the student's Gram matrix (1, 0), (0, 1); the teacher's (1, 1)/√2
        (
            "similarity_preserving",
            [[1.0, 0.0], [0.0, 1.0]],
            [[1.0], [1.0]],
            {},
            (2 * (1 - math.sqrt(0.5)) ** 2 + 2 * 0.5) / 4,
        ),
    ],
)
def test_by_hand(
    name: str, student: list, teacher: list, options: dict[str, object], expected: float
) -> None:
    """A value that a reader can check on paper would be off by a factor."""
    tensors = (torch.tensor(rows, dtype=torch.float64) for rows in (student, teacher))
    value = losses.get(name)(*tensors, **options)
    assert float(value) == pytest.approx(expected, rel=1e-9)


def _softmax(row: np.ndarray, temperature: float) -> np.ndarray:
    powers = np.exp((row - row.max()) / temperature)
    return powers / powers.sum()


def _rows(array: np.ndarray, mask: np.ndarray | None) -> list[np.ndarray]:
    rows = array.reshape(-1, array.shape[-1])
    keep = np.ones(len(rows), bool) if mask is None else mask.ravel()
    return [row for row, kept in zip(rows, keep, strict=True) if kept]


def _loop(name: str, student: np.ndarray, teacher: np.ndarray, mask: np.ndarray | None, t: float):
    total = 0.0
    pairs = list(zip(_rows(student, mask), _rows(teacher, mask), strict=True))
    for s, u in pairs:
        q, p = _softmax(s, t), _softmax(u, t)
        for c in range(len(s)):
            if name == "kl":
                total += t * t * p[c] * math.log(p[c] / q[c])
            elif name == "soft_cross_entropy":
                total -= t * t * p[c] * math.log(q[c])
            elif name == "probability_mse":
                total += t * t * (q[c] - p[c]) ** 2
            elif name == "logit_mse":
                total += (s[c] - u[c]) ** 2
            elif name == "hint":
                total += (s[c] - u[c]) ** 2 / 2
        if name == "hard_label":
            total -= math.log(q[max(range(len(u)), key=lambda c: u[c])])
        if name == "cosine_hint":
            total += 1 - s @ u / math.sqrt((s @ s) * (u @ u))
    return total / len(pairs)


SOFT = ["kl", "probability_mse", "soft_cross_entropy"]
LOOPED = [(name, t) for name in SOFT for t in (1.0, 3.5)]
LOOPED += [(name, 1.0) for name in ("cosine_hint", "hard_label", "hint", "logit_mse")]


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize(("name", "temperature"), LOOPED)
def test_against_a_loop(name: str, temperature: float, tokens: bool) -> None:
    """Vectorised code would sum over the wrong dimension, or count masked tokens."""
    numbers = np.random.default_rng(3)
    shape = (3, 4, 7) if tokens else (5, 7)
    student, teacher = (numbers.normal(size=shape) * 2 for _ in range(2))
    mask = numbers.random((3, 4)) < 0.6 if tokens else None
    options = {"temperature": temperature} if name in SOFT else {}
    given = {} if mask is None else {"mask": torch.from_numpy(mask)}
    value = losses.get(name)(
        torch.from_numpy(student), torch.from_numpy(teacher), **options, **given
    )
    expected = _loop(name, student, teacher, mask, temperature)
    assert float(value) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("form", ["squared", "norm"])
def test_attention_against_a_loop(power: float, form: str) -> None:
    """Channels and positions would be mixed up by a reshape."""
    numbers = np.random.default_rng(4)
    student, teacher = numbers.normal(size=(3, 4, 2, 5)), numbers.normal(size=(3, 6, 2, 5))
    total = 0.0
    for b in range(3):
        unit = []
        for maps in (student[b], teacher[b]):
            grid = [
                sum(abs(maps[c][h][w]) ** power for c in range(len(maps)))
                for h in range(2)
                for w in range(5)
            ]
            unit.append([g / math.sqrt(sum(x * x for x in grid)) for g in grid])
        squares = [(x - y) ** 2 for x, y in zip(*unit, strict=True)]
        total += math.sqrt(sum(squares)) if form == "norm" else sum(squares) / 10
    value = losses.attention_transfer(
        torch.from_numpy(student), torch.from_numpy(teacher), power=power, form=form
    )
    assert float(value) == pytest.approx(total / 3, rel=1e-9)


def test_similarity_against_a_loop() -> None:
    """Rows and columns would be normalised the other way round."""
    numbers = np.random.default_rng(5)
    student, teacher = numbers.normal(size=(5, 2, 3)), numbers.normal(size=(5, 9))
    grams = []
    for features in (student.reshape(5, -1), teacher):
        gram = [[float(features[i] @ features[j]) for j in range(5)] for i in range(5)]
        grams.append([[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in gram])
    expected = sum((grams[0][i][j] - grams[1][i][j]) ** 2 for i in range(5) for j in range(5)) / 25
    value = losses.similarity_preserving(torch.from_numpy(student), torch.from_numpy(teacher))
    assert float(value) == pytest.approx(expected, rel=1e-9)


def test_hint_sums_over_a_map_and_per_token() -> None:
    """A map is one thing per sample; tokens count one by one."""
    maps = losses.hint(torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4))
    tokens = losses.hint(torch.zeros(2, 16, 3), torch.ones(2, 16, 3))
    assert (float(maps), float(tokens)) == (24.0, 1.5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_labels_have_the_gradient_of_kl(temperature: float) -> None:
    """The two are documented to differ by a constant; a recipe may swap them."""
    teacher = torch.randn(4, 6, dtype=torch.float64)
    gradients = []
    for loss in (losses.kl, losses.soft_cross_entropy):
        student = torch.linspace(-3, 3, 24, dtype=torch.float64).view(4, 6).requires_grad_(True)
        loss(student, teacher, temperature=temperature).backward()
        gradients.append(student.grad)
    assert torch.allclose(*gradients, rtol=1e-10)


def test_kl_at_a_high_temperature_is_logit_matching() -> None:
    """Hinton et al. 2015, section 2.1: with T² inside, T → ∞ gives Σ(s − t)²/(2C), centred."""
    student, teacher = (torch.randn(5, 8, dtype=torch.float64) for _ in range(2))
    centred = [x - x.mean(1, keepdim=True) for x in (student, teacher)]
    limit = (centred[0] - centred[1]).square().sum(1).mean() / (2 * 8)
    value = losses.kl(student, teacher, temperature=1e4)
    assert float(value) == pytest.approx(float(limit), rel=1e-3)
