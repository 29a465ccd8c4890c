"""What is refused before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from limbeck.data import Loader, with_labels
from limbeck.errors import InputError
from limbeck.knowledge import codec
from limbeck.knowledge.model import at_rest, call, logits_of
from limbeck.pipeline import build, policy, produce
from limbeck.teachers import Rehearsed, Teacher

if TYPE_CHECKING:
    from limbeck.pipeline.run import Run

__all__ = ["check"]


def check(run: Run) -> None:
    """Build everything and let two samples through.

    Raises:
        InputError: a name, a tap, a shape, a label or a number of classes is wrong.
    """
    size = min(2, len(run.data.train))
    few = next(iter(Loader(run.data.train, size, augment=run.augment)))
    run.task.check(run.task.named(few))
    teacher = run.origin.trial()
    module = teacher.module if isinstance(teacher, Teacher) else None
    student = run.new_student(run.recipe.seeds[0], module)
    first = build.preprocess(run.recipe, run.recipe.student) or nn.Identity()
    with at_rest(student):
        own = logits_of(call(student, first(run.task.inputs(few))))
    theirs = teacher.knowledge(run.task.named(few), ("logits",)).logits
    run.task.check_logits(theirs, "teacher")
    run.task.check_logits(own, "student")
    _check_labels(run)
    run.distiller(student, teacher, run.method).prepare(few)
    produce.check(run, teacher, few)
    policy.check(run, teacher)
    if run.stores and any(map(codec.keeps_a_part, run.codecs.values())):
        rehearsed = Rehearsed(teacher, run.codecs)
        run.distiller(student, rehearsed, run.method).prepare(few)
    for training in (run.recipe.teacher.train, run.recipe.train):
        build.training(training)


def _check_labels(run: Run) -> None:
    """Refuse samples without a label where one is needed."""
    for split in ("validation", "test"):
        samples = getattr(run.data, split)
        if missing := len(samples) - len(with_labels(samples)):
            raise InputError(
                f"{missing:,} {split} samples have no label",
                expected="a label for each: models are measured on them",
            )
    unlabelled = len(run.data.train) - len(run.data.labelled)
    for match in run.method.matches:
        if unlabelled and "targets" in match.context:
            raise InputError(
                f"{unlabelled:,} training samples have no label, which the method's match "
                f"{match.name} needs",
                expected="a method that needs only the teacher, such as kd",
                remedy="Choose another method, or leave data.labelled out.",
            )
