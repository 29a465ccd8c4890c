"""The stage in which a student begins as its trained teacher, without what matters least in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from safetensors.torch import load_file
from torch import nn

from limbeck.data.samples import seeded
from limbeck.errors import InputError
from limbeck.pipeline.cut import cut, parameters, read, smaller, told
from limbeck.pipeline.folder import Finished
from limbeck.pipeline.origins import Trained, preprocess_facts
from limbeck.progress import Listener
from limbeck.recipe import CutPart
from limbeck.students import Blueprint
from limbeck.teachers import Teacher

if TYPE_CHECKING:
    from limbeck.pipeline.run import Run

__all__ = ["Begun", "begun", "tried"]


@final
@dataclass(frozen=True)
class Begun:
    """What students and controls of all seeds begin as.

    Attributes:
        plan: how it is built.
        stage: that cut it.
    """

    plan: Blueprint
    stage: Finished

    def model(self) -> nn.Module:
        """Return it, with the weights that are left of the teacher's."""
        model = self.plan.model()
        model.load_state_dict(load_file(self.stage.path / "begins.safetensors"))
        return model


def begun(run: Run, teacher: Finished) -> Begun | None:
    """Prune the teacher to what the student begins as, if the recipe says so.

    Args:
        run: whose student it is.
        teacher: the stage that trained it, or took it.
    """
    part = run.recipe.student.prune
    if part is None:
        return None
    plan = _origin(run).plan
    made_from = {
        "model": teacher.fingerprint,
        "data": run.data_fingerprint,
        "prune": part.model_dump(mode="json"),
    }

    def whole() -> nn.Module:
        known = run.load_teacher(teacher)
        assert isinstance(known, Teacher)
        return known.module.cpu()

    def work(path: Path, listener: Listener) -> str:
        left = cut(run, path, whole, plan, part, part.goal()[1])
        return told(read(path, plan), parameters(left), part)

    stage = run.stage("teacher-pruned", made_from, work)
    return Begun(read(stage.path, plan).plan, stage)


def tried(run: Run, part: CutPart) -> Blueprint:
    """Return how a student would be built if the teacher were trained already, or refuse.

    Raises:
        InputError: the teacher is no network that the recipe builds, or gets its inputs otherwise
            than the student; or it cannot be pruned so.
    """
    origin = _origin(run)
    chosen = run.recipe.student.normalize or run.recipe.data.normalize
    same = preprocess_facts(run.recipe) == (chosen and chosen.model_dump(exclude_none=True))
    if not same or run.recipe.teacher.inputs != "inputs":
        raise InputError(
            "student.prune, and a teacher that gets its inputs otherwise than the student",
            expected="the same for both, for the student begins with the teacher's weights",
            remedy="Leave student.normalize, teacher.inputs and teacher.preprocess out.",
        )
    with seeded(0):  # what is tried out must not change what is drawn later
        known = origin.trial()
        return smaller(run, known.module.eval(), origin.plan, part, part.goal()[1], trial=True)[1]


def _origin(run: Run) -> Trained:
    if not isinstance(run.origin, Trained):
        raise InputError(
            "student.prune, and a teacher that is no network which the recipe builds",
            expected="teacher.build: a model of the zoo, or a function of your own",
            remedy="Give the student a build of its own.",
        )
    return run.origin
