"""What is refused before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from limbeck.data import Loader, with_labels
from limbeck.distill.moved import with_labels_moved
from limbeck.errors import InputError
from limbeck.knowledge import codec
from limbeck.knowledge.model import at_rest, call, logits_of
from limbeck.pipeline import build, compress, policy, produce
from limbeck.pipeline.origins import Trained
from limbeck.teachers import Rehearsed, Teacher

if TYPE_CHECKING:
    from limbeck.pipeline.run import Run

__all__ = ["check"]


def check(run: Run) -> None:
    """Build everything and let two samples through.

    Raises:
        InputError: a name, a tap, a shape, a label or a number of classes is wrong.
    """
    for steps in (run.recipe.data.augment, run.recipe.teacher.augment or ()):
        with_labels_moved(None, build.augmentation(steps, 0), run.task)
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
    _check_answers(run, theirs)
    run.task.check_logits(own, "student")
    _check_labels(run)
    run.distiller(student, teacher, run.method).prepare(few)
    produce.check(run, teacher, few)
    policy.check(run, teacher)
    if run.stores and any(map(codec.keeps_a_part, run.codecs.values())):
        rehearsed = Rehearsed(teacher, run.codecs)
        run.distiller(student, rehearsed, run.method).prepare(few)
    compress.check(run)
    for training in (run.recipe.teacher.train, run.recipe.train):
        build.training(training)


def _check_answers(run: Run, logits: Tensor) -> None:
    """Refuse a teacher whose answers do not fit, or that are matched though they mean others."""
    part = run.recipe.teacher
    matched = [match.name for match in run.method.matches if "logits" in match.teachers]
    if part.answers:
        try:
            run.taught.check_logits(logits, "teacher")
        except InputError as error:
            if matched:
                raise
            raise InputError(
                f"{error}",
                remedy="If it was trained for other classes, set teacher.answers to false: the "
                "method needs its features alone.",
            ) from error
        return
    if matched:
        raise InputError(
            f"teacher.answers is false, and the match {matched[0]} is with its answers",
            expected="a method of features or relations, such as rkd, sp or fitnets",
            consequence="The student would learn its classes in the place of the data's.",
        )
    if isinstance(run.origin, Trained) and part.weights is None:
        raise InputError(
            "teacher.answers is false, and the teacher is yet to be trained on these labels",
            expected="one that was trained for something else",
            remedy="Name its weights: teacher.weights.",
        )


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
