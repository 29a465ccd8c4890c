"""Whether the losses of a method suit a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from torch import Tensor

from limbeck.data.samples import Batch
from limbeck.methods.match import Match
from limbeck.tasks.task import Refusing, Task

__all__ = ["check_losses"]


def check_losses(
    task: Task, matches: Iterable[Match], made: Iterable[Callable[..., Tensor]], batch: Batch
) -> None:
    """Let a task that is particular about it refuse losses between two answers.

    Args:
        task: asked only if it is :class:`limbeck.tasks.Refusing`.
        matches: of the method.
        made: their losses, ready to be called.
        batch: two samples.

    Raises:
        InputError: the task refuses one.
    """
    if not isinstance(task, Refusing):
        return
    for match, loss in zip(matches, made, strict=True):
        if {*match.students, *match.teachers} != {"logits"} or match.fields or match.taps:
            continue
        reads_labels = "targets" in match.context
        compare = partial(
            match.compare, context={"ids": batch.get("id"), "progress": 0.0}, made=loss
        )
        task.check_loss(match.name, match.spec, None if reads_labels else compare)
