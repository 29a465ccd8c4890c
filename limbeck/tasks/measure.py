"""Measuring a model on a set of samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from limbeck.data.samples import Batch
from limbeck.tasks.task import Quality, Task

__all__ = ["measure"]


@torch.inference_mode()
def measure(answer: Callable[[Batch], Tensor], batches: Iterable[Any], task: Task) -> Quality:
    """Return how well ``answer`` does; across processes, each brings its own part of the batches.

    Args:
        answer: gives the logits of a batch.
        batches: batches on the device on which the model is.
        task: what they mean.
    """
    meter = task.meter()
    for found in batches:
        batch = task.named(found)
        if task.count(batch):
            meter.update(answer(batch), batch)
    return meter.compute()
