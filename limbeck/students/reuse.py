"""A student that answers through its teacher's classifier.

Letters: B samples, C channels, H×W positions of a map, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self, final

from torch import Tensor, nn

from limbeck.data.samples import seeded
from limbeck.errors import InputError
from limbeck.knowledge.model import at_rest, call, logits_of
from limbeck.knowledge.taps import Taps
from limbeck.losses.heads import FrozenClassifier, projector

__all__ = ["Reuse", "Reused", "reuse_classifier"]


@dataclass(frozen=True)
class Reuse:
    """How a student ends in a teacher's classifier, in words that JSON can keep.

    :meth:`between` finds it out; the teacher is not needed to build the student again.

    Attributes:
        maps: path of the student's module after which the projector stands.
        head: path of the student's last linear layer, in whose place the teacher's stands.
        teacher_head: path of the teacher's.
        student_channels: of the maps that enter the projector.
        teacher_channels: of those that leave it.
        size: (H, W) to which larger maps are averaged first; ``None`` if they are not.
        factor: by how much the projector's inner width is smaller than the teacher's channels.
        features: what the classifier takes.
        classes: what it tells apart.
    """

    maps: str
    head: str
    teacher_head: str
    student_channels: int
    teacher_channels: int
    size: tuple[int, int] | None
    factor: int
    features: int
    classes: int

    @classmethod
    def between(
        cls,
        student: nn.Module,
        teacher: nn.Module,
        sample: Any,
        *,
        factor: int = 2,
        student_maps: str = "stage[-1]",
        teacher_maps: str = "stage[-1]",
    ) -> Self:
        """Return how this student ends in this teacher's classifier; weights do not matter.

        Arguments and errors are those of :func:`reuse_classifier`.
        """
        own = _ending(student, student_maps, sample, "student")
        theirs = _ending(teacher, teacher_maps, sample, "teacher")
        larger = any(a > b for a, b in zip(own.maps.shape[2:], theirs.maps.shape[2:], strict=True))
        height, width = theirs.maps.shape[2:]
        found = cls(
            own.place,
            own.head,
            theirs.head,
            own.maps.shape[1],
            theirs.maps.shape[1],
            (height, width) if larger else None,
            factor,
            theirs.classifier.in_features,
            theirs.classifier.out_features,
        )
        with seeded(0):  # what is tried out here must not change what is drawn later
            _check(found.applied(student, teacher), theirs, sample)
        return found

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> Self:
        """Return what :meth:`facts` wrote."""
        size = facts["size"]
        return cls(**{**facts, "size": None if size is None else (size[0], size[1])})

    def facts(self) -> dict[str, Any]:
        """Return it as JSON keeps it."""
        return asdict(self)

    def applied(self, student: nn.Module, teacher: nn.Module | None = None) -> Reused:
        """Return a copy of a student with a new projector before its end, and the classifier.

        Args:
            student: one for which this was found out.
            teacher: the teacher, whose classifier is copied and frozen. Without it the classifier
                stays empty until weights are loaded, or until :meth:`Reused.answer_alone`.
        """
        device = next(student.parameters()).device
        frozen = FrozenClassifier(self.features, self.classes)
        if teacher is not None:
            classifier = teacher.get_submodule(self.teacher_head)
            assert isinstance(classifier, nn.Linear)
            frozen.reuse(classifier)
        resize = nn.Identity() if self.size is None else nn.AdaptiveAvgPool2d(self.size)
        project = projector(self.student_channels, self.teacher_channels, self.factor)
        model, projected = copy.deepcopy(student), nn.Identity()
        stage = model.get_submodule(self.maps)
        _put(model, self.head, frozen)
        _put(model, self.maps, _Projecting(stage, resize, project, projected))
        return Reused(model, projected).to(device).train(student.training)


@final
class Reused(nn.Module):
    """A student with a projector after its last maps, and the teacher's classifier at its end.

    :func:`reuse_classifier` makes it. It is called as the student was, and ships as a whole: the
    projector is a part of what was trained, as in the paper.

    Attributes:
        projected: does nothing; a place to tap what leaves the projector, (B, C, H, W).
        student: the student, its classifier replaced.
    """

    def __init__(self, student: nn.Module, projected: nn.Identity) -> None:
        super().__init__()
        self.projected = projected  # first, so that the tap has this name wherever it stands
        self.student = student

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return what the student returns: logits (B, K), or whatever holds them."""
        return self.student(*inputs, **named)

    def answer_alone(self) -> Self:
        """Put a new classifier of its own in the teacher's place, and return self.

        It is trained with the rest: the control of a student that has the teacher's. Its weights
        have the same names.
        """
        for path, part in list(self.student.named_modules()):
            if isinstance(part, FrozenClassifier):
                classes, features = part.weight.shape
                _put(self.student, path, nn.Linear(features, classes).to(part.weight.device))
        return self


def reuse_classifier(
    student: nn.Module,
    teacher: nn.Module,
    sample: Any,
    *,
    factor: int = 2,
    student_maps: str = "stage[-1]",
    teacher_maps: str = "stage[-1]",
) -> Reused:
    """Return a student that ends in its teacher's classifier: what :func:`simkd` trains.

    After the student's last maps comes a projector to the teacher's channels; what follows (an
    average over positions, as a rule) remains the student's own, and in place of its last linear
    layer stands a copy of the teacher's, frozen. Maps larger than the teacher's are averaged to
    their size first. The projector ships with the student: I·(S + 9·I + C) weights from S channels
    to the teacher's C with an inner width I = C / factor.

    Args:
        student: a trained or untrained convolutional network. It is copied, not changed.
        teacher: a trained one, with as many classes as the new student shall have.
        sample: what both are called with; a batch of one is enough.
        factor: by how much the projector's inner width is smaller than the teacher's channels.
            2 is that of the authors' code.
        student_maps: the module whose maps (B, C, H, W) enter the projector.
        teacher_maps: the teacher's module whose maps they are to become; give the same tap to
            :func:`simkd`.

    Raises:
        InputError: one of the places does not yield maps, or the student's end makes something else
            of the teacher's maps than the teacher does: a layer with weights or an activation
            stands between the maps and the classifier of one of them.

    Source: Chen et al. 2022, "Knowledge Distillation with the Reused Teacher Classifier",
    arXiv:2203.14001; code: DefangChen/SimKD.

    >>> import torch
    >>> from limbeck.students import zoo
    >>> student, teacher = zoo.build("resnet8", classes=3), zoo.build("resnet20", classes=3)
    >>> reused = reuse_classifier(student, teacher, torch.zeros(1, 3, 32, 32))
    >>> reused(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 3])
    """
    plan = Reuse.between(
        student,
        teacher,
        sample,
        factor=factor,
        student_maps=student_maps,
        teacher_maps=teacher_maps,
    )
    return plan.applied(student, teacher)


@dataclass(frozen=True)
class _Ending:
    """Where a network's last maps and its classifier are, and what they yield on the sample."""

    place: str
    head: str
    classifier: nn.Linear
    maps: Tensor
    logits: Tensor


@final
class _Projecting(nn.Module):
    """A stage of the student, and after it the projector."""

    def __init__(
        self, stage: nn.Module, resize: nn.Module, projector: nn.Module, projected: nn.Module
    ) -> None:
        super().__init__()
        self.stage, self.resize = stage, resize
        self.projector, self.projected = projector, projected

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.projected(self.projector(self.resize(self.stage(*inputs, **named))))


def _ending(model: nn.Module, tap: str, sample: Any, whose: str) -> _Ending:
    taps = Taps(model, [tap, "penultimate", "logits"])
    taps.prepare(sample)
    with at_rest(model):
        _, found = taps.capture(lambda: call(model, sample))
    place, head = taps.resolved[tap], taps.resolved["penultimate"]
    taps.remove()
    if found[tap].ndim != 4 or place.side != "output" or place.path:
        raise InputError(
            f"the {whose}'s {tap!r} yields {tuple(found[tap].shape)}",
            expected="the output of a module with maps (B, C, H, W), for a convolutional projector",
            remedy=f'Name another with {whose}_maps="...".',
        )
    classifier = model.get_submodule(head.module)
    assert isinstance(classifier, nn.Linear)
    return _Ending(place.module, head.module, classifier, found[tap], found["logits"])


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in another's place."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _check(reused: Reused, theirs: _Ending, sample: Any) -> None:
    """Refuse a student that would not answer as the teacher does, were its maps the teacher's."""
    wrong = InputError(
        "the student's end does not make the teacher's logits out of the teacher's maps",
        expected="nothing between the maps and the last linear layer but an average over positions",
        consequence="However well the maps are matched, the student would answer something else.",
        remedy="Name the modules where that holds with student_maps and teacher_maps, or train "
        "with another method.",
    )
    with at_rest(reused):
        try:
            call(reused, sample)
            place = reused.projected.register_forward_hook(lambda *_: theirs.maps)
            try:
                answer = logits_of(call(reused, sample))
            finally:
                place.remove()
        except RuntimeError as error:  # shapes that do not meet
            raise wrong from error
    scale = theirs.logits.abs().amax().clamp(min=1e-6)
    same = answer.shape == theirs.logits.shape
    if not same or not (answer - theirs.logits).abs().amax() <= 0.01 * scale:
        raise wrong
