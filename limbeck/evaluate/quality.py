"""How well models answer, and how much they answer like the teacher.

Letters: B samples, T tokens, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.data.samples import Batch
from limbeck.evaluate.fidelity import Fidelity, alike
from limbeck.tasks.task import Comparing, Quality, Task

__all__ = ["Measured", "alone", "evaluate"]

Answer = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Measured:
    """What was measured of one model.

    Attributes:
        quality: the task's metrics and details.
        fidelity: ``agreement`` and ``kl`` with the reference; empty without one. A divergence that
            two answers do not have is ``None``.
    """

    quality: Quality
    fidelity: Mapping[str, Any]


@contextmanager
def alone() -> Iterator[None]:
    """Let metrics that are made inside count the samples of this process, and wait for no other.

    Without it they are summed over all processes, all of which must then take part.
    """
    from torchmetrics import metric

    known = metric.jit_distributed_available
    metric.jit_distributed_available = lambda: False
    try:
        yield
    finally:
        metric.jit_distributed_available = known


@torch.inference_mode()
def evaluate(
    answers: Mapping[str, Answer],
    batches: Iterable[Any],
    task: Task,
    *,
    reference: Answer | None = None,
    watch: Callable[[Batch, Mapping[str, Tensor]], None] | None = None,
) -> dict[str, Measured]:
    """Measure several models in one pass over the data.

    Args:
        answers: by name, what gives the logits of a batch: models in eval mode. One that stands
            under several names is asked once.
        batches: of the set to measure on, on the models' device; with several processes each brings
            its own part.
        task: what a batch means.
        reference: whose answers the others are compared with, usually the teacher's.
        watch: is shown each batch and all answers to it, by name.

    >>> import limbeck as lb
    >>> data = (torch.eye(3), torch.tensor([0, 1, 1]))
    >>> found = evaluate({"itself": lambda batch: batch["inputs"]}, [data],
    ...                  lb.tasks.Classification(3))
    >>> round(found["itself"].quality.metrics["accuracy"], 4)
    0.6667
    """
    meters = {name: task.meter() for name in answers}
    likeness = {name: Fidelity() for name in answers} if reference else {}
    for found in batches:
        batch = task.named(found)
        if not task.count(batch):
            continue
        said = {answer: answer(batch) for answer in {*answers.values(), *filter(None, [reference])}}
        if watch is not None:
            watch(batch, {name: said[answer] for name, answer in answers.items()})
        for name, answer in answers.items():
            meters[name].update(said[answer], batch)
            if reference is not None:
                likely, pair = likeness[name], (said[answer], said[reference])
                if isinstance(task, Comparing):
                    likely.to(pair[0].device).update(*task.alike(*pair, batch))
                else:
                    likely.to(pair[0].device).update(*alike(*pair), task.mask(batch))
    return {
        name: Measured(meter.compute(), likeness[name].result() if reference else {})
        for name, meter in meters.items()
    }
