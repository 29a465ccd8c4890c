"""Whether the losses of a method suit a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from torch import Tensor

from limbeck.data.samples import Batch
from limbeck.errors import InputError
from limbeck.methods.match import Match
from limbeck.tasks.task import OtherTokens, Refusing, Task

__all__ = ["check_losses", "taught"]


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


def taught(task: Task, matches: Iterable[Match]) -> Task | None:
    """Return what batches mean to a teacher that has other tokens than the student, if it has.

    Raises:
        InputError: a match compares tokens one by one: its loss has no ``teacher_mask``.
    """
    other = task.for_teacher() if isinstance(task, OtherTokens) else None
    for match in matches if other is not None else ():
        aligned = {*match.context, *match.fields}
        if match.teachers and "teacher_mask" not in aligned:
            raise InputError(
                f"the match {match.name} with a teacher that has other tokens than the student",
                expected="a loss that takes both as they are, as the method uld has it",
                consequence="The n-th token of the one would be compared with the n-th of the "
                "other, which is about other text.",
                remedy="Set method to uld, or take models with one tokenizer.",
            )
    return other
