"""A recipe's students that write some of their batches themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limbeck.distill import OnPolicy
from limbeck.errors import InputError
from limbeck.teachers import Knowing, Teacher

if TYPE_CHECKING:
    from limbeck.pipeline.run import Run

__all__ = ["check", "facts", "rewrite"]


def rewrite(run: Run, seed: int, teacher: Knowing) -> OnPolicy | None:
    """Return what makes a student's batches anew, or ``None`` if the recipe wants none.

    Raises:
        InputError: the task's models do not write, or the teacher cannot write along.
    """
    part = run.recipe.on_policy
    if part is None:
        return None
    task: Any = run.task
    return OnPolicy(task, **part.model_dump(), seed=seed, teacher=teacher)


def facts(run: Run) -> dict[str, Any]:
    """Return what a student's fingerprint has of it."""
    part = run.recipe.on_policy
    return {} if part is None else {"on_policy": part.model_dump()}


def check(run: Run, teacher: Knowing) -> None:
    """Refuse what cannot judge, or cannot learn from, what a student writes.

    Raises:
        InputError: the teacher's answers are stored, it reads other tokens or is no module, or the
            method needs labels.
    """
    if rewrite(run, 0, teacher) is None:
        for match in run.method.matches:
            if "written" in match.context:
                raise InputError(
                    f"the match {match.name} without on_policy",
                    expected="texts that the student writes",
                    consequence="It would compare single tokens, as reverse_kl does.",
                    remedy="Set on_policy to {fraction: 1, mix: 0.2}.",
                )
        return
    if run.recipe.knowledge.store is True:
        raise InputError(
            "on_policy with knowledge.store",
            expected="a teacher that runs beside the student",
            consequence="Nothing is stored about texts that are yet to be written.",
            remedy="Leave knowledge.store out, or set it to false.",
        )
    if not isinstance(teacher, Teacher) or run.recipe.teacher.inputs != "inputs":
        raise InputError(
            "on_policy with a teacher that is no PyTorch module, or reads a field of its own",
            expected="one that reads the student's tokens",
        )
    for match in run.method.matches:
        if "targets" in match.context:
            raise InputError(
                f"on_policy with the match {match.name}, which needs labels",
                expected="a method that needs the teacher alone, such as jensen_shannon",
                consequence="There are no labels for what a student writes.",
            )
