"""CTC: the loss of all paths, the metrics of the field, and what is refused."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from limbeck import losses, tasks
from limbeck.errors import InputError
from limbeck.tasks import CTC, Task, Telling
from limbeck.tasks.ctc import decode
from limbeck.testing import check_task

LENGTHS = (50, 31, 20, 45)
TASK = CTC(4, ("-", "a", "b", "c"), frame=10)


def answers() -> tuple[dict[str, Any], Tensor]:
    """Return four samples of 5, 4, 2 and 5 frames, and logits."""
    mask = (torch.arange(50) < torch.tensor(LENGTHS).unsqueeze(1)).long()
    targets = torch.tensor([[1, 2, 3], [3, 3, -100], [2, -100, -100], [1, 1, 2]])
    batch = {"inputs": {"waveform": torch.randn(4, 50), "mask": mask}, "targets": targets}
    return batch, 2 * torch.randn(4, 5, 4)


def _read(path: tuple[int, ...]) -> list[int]:
    return [symbol for symbol, _ in itertools.groupby(path) if symbol]


def test_keeps_the_contract() -> None:
    """Accumulated gradients and distributed metrics rely on it."""
    check_task(TASK, *answers())
    assert isinstance(TASK, Task)
    assert isinstance(TASK, Telling)
    assert tasks.get("ctc") is CTC


def test_the_loss_is_that_of_all_paths() -> None:
    """Padding, a blank of another number, or a mean over symbols would pass unseen."""
    batch, logits = answers()
    total, frames = 0.0, (5, 4, 2, 5)
    for row, count in enumerate(frames):
        scores = logits[row, :count].double().numpy()
        shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        wanted = [each for each in batch["targets"][row].tolist() if each > 0]
        total -= math.log(
            sum(
                math.prod(shares[place, symbol] for place, symbol in enumerate(path))
                for path in itertools.product(range(4), repeat=count)
                if _read(path) == wanted
            )
        )
    assert float(TASK.label_loss(logits, batch)) == pytest.approx(total / sum(frames), rel=1e-5)
    assert int(TASK.count(batch)) == sum(frames)


def test_metrics_by_hand() -> None:
    """Rates that are means of samples' rates, or that count blanks, are not those of the field."""
    batch, _ = answers()
    paths = torch.tensor([[1, 0, 2, 2, 3], [3, 0, 0, 0, 1], [1, 3, 2, 2, 2], [1, 0, 1, 3, 2]])
    logits = 9.0 * torch.eye(4)[paths]
    # said: abc, c (the fifth frame is padding), ac (two frames), aacb; wanted: abc, cc, b, aab
    assert decode(logits, TASK.mask(batch)) == [[1, 2, 3], [3], [1, 3], [1, 1, 3, 2]]
    meter = TASK.meter()
    meter.update(logits, batch)
    found = meter.compute().metrics
    # none, one left out, one replaced and one inserted, one inserted: 4 of 9 symbols
    assert found["symbol_error_rate"] == pytest.approx(4 / 9)
    assert found["word_error_rate"] == pytest.approx(4 / 9)
    assert found["sequence_accuracy"] == 0.25
    assert TASK.apart(logits, logits.roll(1, 0), batch).tolist()[0] > 0
    assert TASK.apart(logits, logits, batch).tolist() == [0, 0, 0, 0]
    told = TASK.told(logits, batch, 3)
    assert (told["answer"], told["right"], TASK.wanted(batch, 3)) == ("a a c b", False, "a a b")


def test_words_of_characters() -> None:
    """A character error would count as a word error, or spaces not divide words."""
    task = CTC(4, ("-", "a", "b", " "), separator="")
    batch = {"inputs": {"mask": torch.ones(1, 6)}, "targets": torch.tensor([[1, 2, 3, 1]])}
    meter = task.meter()
    meter.update(9 * torch.eye(4)[torch.tensor([[1, 0, 2, 3, 2, 0]])], batch)  # ab b for ab a
    found = meter.compute().metrics
    assert (found["word_error_rate"], found["symbol_error_rate"]) == (0.5, 0.25)


def test_frame_losses_leave_padding_out() -> None:
    """A student would learn what the teacher says about silence that nobody recorded."""
    batch, logits = answers()
    other, mask = torch.randn(4, 5, 4), TASK.mask(batch)
    rows = losses.kl(logits[mask], other[mask])
    torch.testing.assert_close(losses.kl(logits, other, mask=mask), rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": torch.tensor([1, 2, 3, 1])}, "the task classification"),
        ({"targets": torch.tensor([[4]] * 4)}, "has the symbol 4.*1 to 3"),
        ({"targets": torch.tensor([[0]] * 4)}, "class 0 is blank"),
        ({"targets": torch.tensor([[2, 2]] * 4)}, "sample 2 .* has 2 frames .* need 3"),
        ({"inputs": {"mask": torch.full((4, 50), torch.nan)}}, "NaN"),
        ({"inputs": torch.zeros(4, 50)}, "inputs without 'mask'"),
    ],
)
def test_wrong_batches_are_refused(change: dict[str, Any], message: str) -> None:
    """Infinite losses, foreign memory, or labels taken for transcripts."""
    batch, _ = answers()
    with pytest.raises(InputError, match=f"(?s){message}"):
        TASK.check(batch | change)


def test_models_of_other_frames_are_refused() -> None:
    """Frames of a teacher would be compared with those of other moments."""
    batch, logits = answers()
    with pytest.raises(InputError, match=r"same frames, and set task\.frame"):
        TASK.label_loss(logits.repeat_interleave(2, 1), batch)
    with pytest.raises(InputError, match="frames: true"):
        TASK.check_logits(logits[:, 0], "student")
    with pytest.raises(InputError, match="blank and a symbol"):
        CTC(1)
    with pytest.raises(InputError, match="frames of 0 values"):
        CTC(3, frame=0)
