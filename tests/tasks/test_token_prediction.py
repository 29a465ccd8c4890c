"""Token prediction: means are over tokens, not over sequences; wrong batches are refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from limbeck import tasks
from limbeck.data import Arrays, Jagged
from limbeck.errors import InputError
from limbeck.tasks import Task, TokenPrediction
from limbeck.testing import check_task

V = 7


def answers(seed: int = 0) -> tuple[dict[str, Any], Tensor]:
    """Return five sequences of unequal length with prompts that do not count, and logits."""
    generator = torch.Generator().manual_seed(seed)
    lengths, prompts = [6, 3, 5, 1, 6], [2, 0, 4, 0, 5]
    targets = torch.randint(V, (5, 6), generator=generator)
    for row, (length, prompt) in enumerate(zip(lengths, prompts, strict=True)):
        targets[row, :prompt] = targets[row, length:] = -100
    tokens = torch.randint(V, (5, 6), generator=generator)
    mask = torch.arange(6) < torch.tensor(lengths).unsqueeze(1)
    inputs = {"input_ids": tokens, "attention_mask": mask.long()}
    logits = 3 * torch.randn(5, 6, V, generator=generator)
    return {"inputs": inputs, "targets": targets}, logits


def by_hand(targets: Tensor, logits: Tensor) -> tuple[float, float, int]:
    """Return loss, accuracy and count, place by place in NumPy."""
    losses, right = [], 0
    for row, place in np.argwhere(targets.numpy() >= 0):
        scores = logits[row, place].double().numpy()
        wanted = int(targets[row, place])
        losses.append(np.log(np.exp(scores).sum()) - scores[wanted])
        right += int(scores.argmax()) == wanted
    return float(np.mean(losses)), right / len(losses), len(losses)


@pytest.mark.parametrize("vocab", [0, V])
def test_keeps_the_contract(vocab: int) -> None:
    """Accumulated gradients and distributed metrics rely on it."""
    batch, logits = answers()
    task = TokenPrediction(vocab)
    check_task(task, batch, logits)
    check_task(task, (batch["inputs"]["input_ids"], batch["targets"]), logits)
    assert isinstance(task, Task)
    assert tasks.get("token_prediction") is TokenPrediction


def test_numbers_against_a_loop() -> None:
    """A mean over sequences of their means would favour short ones; padding must not count."""
    batch, logits = answers()
    task = TokenPrediction(V)
    loss, accuracy, count = by_hand(batch["targets"], logits)
    assert count == 4 + 3 + 1 + 1 + 1
    assert int(task.count(batch)) == count
    assert float(task.label_loss(logits, batch)) == pytest.approx(loss, rel=1e-6)
    meter = task.meter()
    for rows in (slice(0, 2), slice(2, 5)):
        meter.update(logits[rows], {"inputs": {}, "targets": batch["targets"][rows]})
    found = meter.compute()
    assert found.metrics["loss"] == pytest.approx(loss, rel=1e-6)
    assert found.metrics["perplexity"] == pytest.approx(math.exp(loss), rel=1e-6)
    assert found.metrics["token_accuracy"] == pytest.approx(accuracy)
    assert found.details == {"tokens": count}
    half = task.meter()
    half.update(logits.bfloat16(), batch)
    rounded = by_hand(batch["targets"], logits.bfloat16().float())[0]
    assert half.compute().metrics["loss"] == pytest.approx(rounded, rel=1e-6)


def test_what_does_not_count_gets_no_gradient() -> None:
    """Without it, students would learn to predict padding and their own prompts."""
    batch, logits = answers()
    leaf = logits.requires_grad_(True)
    TokenPrediction(V).label_loss(leaf, batch).backward()
    assert leaf.grad is not None
    silent = batch["targets"] < 0
    assert (leaf.grad[silent] == 0).all()
    assert (leaf.grad[~silent].abs().sum(-1) > 0).all()


def test_processes_add_up() -> None:
    """Each process has other lengths: a mean of their means would be another number."""
    batch, logits = answers()
    loss, accuracy, count = by_hand(batch["targets"], logits)
    task = TokenPrediction(V)
    here, there = task.meter(), task.meter()
    for meter, rows in ((here, slice(0, 1)), (there, slice(1, 5))):
        meter.update(logits[rows], {"inputs": {}, "targets": batch["targets"][rows]})
    sums: Any = here._sums  # type: ignore[attr-defined]
    other = there._sums.sums  # type: ignore[attr-defined]
    sums.distributed_available_fn = lambda: True
    sums.dist_sync_fn = lambda tensor, group=None: [tensor, other]
    found = here.compute()
    assert found.metrics["loss"] == pytest.approx(loss, rel=1e-6)
    assert found.metrics["token_accuracy"] == pytest.approx(accuracy)
    assert found.details == {"tokens": count}


def test_places_without_a_target_can_count_for_a_teacher() -> None:
    """What a student wrote itself has no label, but the teacher's opinion of it is a mean."""
    logits = answers()[1]
    task, counted = TokenPrediction(V), torch.zeros(5, 6, dtype=torch.bool)
    counted[0, :4] = True
    own = {"inputs": {}, "targets": torch.full((5, 6), -100), "counted": counted}
    assert int(task.count(own)) == 4
    assert torch.equal(task.mask(own), counted)
    assert float(task.label_loss(logits, own)) == 0.0


def test_targets_of_unequal_length_are_padded_with_what_counts_for_nothing() -> None:
    """Padded with 0, they would be taken for a token."""
    data = Arrays.of(
        inputs=Jagged.of([[1, 2, 3], [4]]),
        targets=Jagged.of([[2, 3, 5], [6]], padding=-100, names=()),
    )
    batch = next(data.batches([torch.arange(2)], view=0, seed=0))
    assert batch["targets"].tolist() == [[2, 3, 5], [6, -100, -100]]
    TokenPrediction(V).check(batch)


def test_a_batch_that_cannot_be_meant_is_refused() -> None:
    """Without it, a device would report an illegal address instead of a sample."""
    batch, logits = answers()
    task, targets = TokenPrediction(V), batch["targets"]

    def refused(message: str, **changes: Any) -> None:
        with pytest.raises(InputError, match=message):
            task.check(batch | {"id": torch.arange(5) + 10} | changes)

    refused("int64", targets=targets.int())
    refused("int64", targets=targets[0])
    refused("sample 11 has the target 7 at place 2", targets=targets.clone().index_put_(
        (torch.tensor(1), torch.tensor(2)), torch.tensor(V)))  # fmt: skip
    refused("sample 10 has the target -1 at place 0", targets=torch.full_like(targets, -1))
    refused("all targets of 5 sequences are -100", targets=torch.full_like(targets, -100))
    refused("sample 10 holds negative inputs", inputs=torch.full((5, 6), -100))
    refused("sample 10 holds NaN", inputs=torch.full((5, 6, 3), math.nan))
    with pytest.raises(InputError, match=r"Expected: \(B, T, V\)"):
        task.check_logits(logits[:, 0], "student")
    with pytest.raises(InputError, match="V of at least 7"):
        task.check_logits(logits[..., :5], "teacher")
    task.check_logits(torch.zeros(5, 6, V + 1), "teacher")
    with pytest.raises(InputError, match="as many places as the model's inputs"):
        task.label_loss(logits[:, :5], batch)
    with pytest.raises(InputError, match="no tokens to measure"):
        task.meter().compute()
