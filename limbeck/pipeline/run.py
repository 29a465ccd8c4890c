"""A run: its stages in the order in which data walks through them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed
from torch import nn

from limbeck.data import Arrays, Augmentation, Data, Samples, repeated
from limbeck.data.samples import seeded
from limbeck.distill import Distiller
from limbeck.distill.engine import Place, place
from limbeck.errors import InputError
from limbeck.files import digest
from limbeck.methods import Method, none
from limbeck.pipeline import begin, build, check, extract, policy, produce
from limbeck.pipeline.folder import Finished, RunFolder
from limbeck.pipeline.learner import Learner, Lesson, take, train, write
from limbeck.pipeline.origins import Origin, Trained, origin, preprocess_facts
from limbeck.progress import Console, Listener
from limbeck.recipe import ModelPart, Recipe, TrainPart
from limbeck.students import Blueprint, inherit_embeddings, load_weights
from limbeck.tasks import OtherTokens, Task, as_taught
from limbeck.teachers import Knowing, Teacher

__all__ = ["Run"]

_IRRELEVANT = {"trackers", "checkpoint_seconds"}


class Run:
    """A recipe at work in a folder.

    Args:
        recipe: what to do.
        folder: where.
        console: is told how it goes.
    """

    def __init__(self, recipe: Recipe, folder: RunFolder, console: Console) -> None:
        self.recipe, self.folder, self.console = recipe, folder, console
        self._begun: begin.Begun | None = None

    @cached_property
    def here(self) -> Place:
        """Where this process stands."""
        return place()

    @cached_property
    def data(self) -> Data:
        """The samples."""
        return build.data(self.recipe)

    @cached_property
    def task(self) -> Task:
        """What a batch means."""
        return build.task(self.recipe, self.data)

    @cached_property
    def taught(self) -> Task:
        """What a batch means to the teacher."""
        return as_taught(self.task, self.recipe.teacher.inputs)

    @property
    def other_tokens(self) -> bool:
        """Whether the teacher has other tokens than the student."""
        return isinstance(self.task, OtherTokens) and self.task.for_teacher() is not None

    @property
    def comparable(self) -> bool:
        """Whether the teacher's answers are about the same as the student's, one by one."""
        return self.recipe.teacher.answers and not self.other_tokens

    @cached_property
    def method(self) -> Method:
        """What the student is to reproduce."""
        return build.method(self.recipe) if self.recipe.learns else none()

    @cached_property
    def augment(self) -> Augmentation | None:
        """What happens to training images."""
        return build.augmentation(self.recipe.data.augment, self.recipe.data.seed)

    @property
    def plans(self) -> dict[str, Blueprint]:
        """How the student is built; of one that begins as its teacher only known when that is."""
        return {"student": self._planned if self._begun is None else self._begun.plan}

    @cached_property
    def _planned(self) -> Blueprint:
        part = self.recipe.student
        if part.prune is not None:
            return begin.tried(self, part.prune)
        return build.blueprint(self.recipe, part, self.data)

    @cached_property
    def origin(self) -> Origin:
        """Where the teacher comes from."""
        return origin(self.recipe, self.data)

    @cached_property
    def views(self) -> int:
        """How many augmented views of each sample training cycles through; 0: ever new ones."""
        stated = self.recipe.knowledge.views
        if stated != "auto":
            return stated
        if not self.varies:
            return 1
        return self.recipe.train.epochs if self.stores else 0

    @property
    def varies(self) -> bool:
        """Whether a sample may look different in another view; a user's own data set may draw."""
        return self.augment is not None or not isinstance(self.data.train, Arrays)

    @cached_property
    def stores(self) -> bool:
        """Whether the teacher's knowledge is computed once and replayed."""
        return extract.pays(self)

    @cached_property
    def codecs(self) -> dict[str, str]:
        """How each of the teacher's taps is kept."""
        return build.codecs(self.recipe, self.method)

    def check(self) -> None:
        """Build everything and let two samples through, before anything is trained.

        Raises:
            InputError: a name, a tap, a shape, a label or a number of classes is wrong.
        """
        check.check(self)

    def teacher(self) -> Finished:
        """Train the teacher, or take the weights that came with it."""
        known = self.origin
        made_from = {"model": known.facts(), "normalize": preprocess_facts(self.recipe)}
        if isinstance(known, Trained) and self.recipe.teacher.weights is None:
            return self._trained_teacher(known, made_from)

        def take(path: Path, listener: Listener) -> str:
            weights, record, told = known.take()
            write(self, path, {"best": weights}, record)
            return told

        return self.stage("teacher", made_from, take)

    def begin(self, teacher: Finished) -> None:
        """Let students begin as the teacher without what matters least in it, if they are to."""
        self._begun = begin.begun(self, teacher)

    def texts(self, teacher: Finished) -> Finished | None:
        """Let the teacher produce what the students learn, if the recipe says so."""
        return produce.produced(self, teacher)

    def knowledge(self, teacher: Finished, texts: Finished | None = None) -> Finished | None:
        """Write down what the teacher knows about what the students learn, if that pays."""
        return extract.extracted(self, teacher, texts)

    def student(
        self, seed: int, teacher: Finished, known: Finished | None, texts: Finished | None = None
    ) -> Finished:
        """Train a student with the teacher, or take one that is trained already."""
        lesson_from = {
            "teacher": teacher.fingerprint,
            "knowledge": known.fingerprint if known else "live",
            "method": self.recipe.method,
            "label_weight": self.recipe.label_weight,
            **({} if texts is None else {"texts": texts.fingerprint}),
            **policy.facts(self),
        }
        if self.recipe.student.trained:
            return self._taken_student(seed, lesson_from)
        made_from = self._student_setting(seed) | lesson_from

        def work(path: Path, listener: Listener) -> str:
            knows = self._teacher_module(teacher) if self.plans["student"].reuse else None
            source = self._source(teacher, known)
            learner = self.distiller(self.new_student(seed, knows), source, self.method)
            lesson = self._lesson(seed, produce.lessons(self, texts))
            lesson = replace(lesson, rewrite=policy.rewrite(self, seed, source))
            return train(self, path, listener, learner, lesson)

        return self.stage(f"student-{seed}", made_from, work)

    def relearn(
        self, path: Path, listener: Listener, student: nn.Module, seed: int, part: TrainPart
    ) -> str:
        """Train what was made of a trained student in a stage's folder, as that one was trained.

        The teacher, what it knows and the method are the same; adapters are made anew. Afterwards
        the student has its best weights.

        Args:
            path: of the stage.
            listener: is told how it goes.
            student: with the weights to begin with.
            seed: of the order of samples.
            part: how long and how fast.
        """
        done = {stage.name: stage for stage in self.folder.finished}
        source = self._source(done["teacher"], done.get("knowledge"))
        lesson = self._lesson(seed, produce.lessons(self, done.get(produce.name(self))))
        lesson = replace(lesson, part=part, rewrite=policy.rewrite(self, seed, source))
        set_seed(seed)
        learner = self.distiller(student, source, self.method)
        return train(self, path, listener, learner, lesson)

    def control(self, seed: int) -> Finished:
        """Train the same student, from the same weights on the same samples, without a teacher."""

        def work(path: Path, listener: Listener) -> str:
            learner = self.distiller(self.new_student(seed), None, none())
            lesson = self._lesson(seed, repeated(self.data.labelled, len(self.data.train)))
            return train(self, path, listener, learner, lesson)

        return self.stage(f"control-{seed}", self._student_setting(seed), work)

    def load_teacher(self, stage: Finished) -> Knowing:
        """Return the teacher that a stage left."""
        learner = Learner.of(stage)
        return self.origin.load(learner.best, learner.record)

    def stage(
        self, name: str, made_from: Mapping[str, Any], work: Callable[[Path, Listener], str]
    ) -> Finished:
        """Do a stage, or find it done, and tell the console and the log.

        Args:
            name: of the stage.
            made_from: all that its result depends on.
            work: does it in the folder that it gets, and returns a few words on the result.
        """
        notes = [""]

        def told(path: Path) -> None:
            self.folder.log("stage begins", stage=name)
            with self.console.stage(name) as listener:
                notes[0] = work(path, _Logged(listener, self.folder, name))

        done = self.folder.stage(name, made_from, told)
        self.folder.log("stage done", stage=name, seconds=done.seconds, skipped=done.skipped)
        self.console.done(name, done.seconds, notes[0], skipped=done.skipped)
        return done

    def _trained_teacher(self, known: Trained, made_from: dict[str, Any]) -> Finished:
        part, seed = self.recipe.teacher, self.recipe.seeds[0]
        steps = self.recipe.data.augment if part.augment is None else part.augment
        augment = build.augmentation(steps, self.recipe.data.seed)

        def work(path: Path, listener: Listener) -> str:
            set_seed(seed)
            model = known.plan.model()
            learner = Distiller(None, model, task=self.taught, preprocess=known.first)
            lesson = Lesson(part.train, self.data.labelled, seed, augment)
            return train(self, path, listener, learner, lesson)

        setting = self._setting(part.train, augment) | {"seed": seed, "inputs": part.inputs}
        return self.stage("teacher", made_from | setting, work)

    def _taken_student(self, seed: int, lesson_from: Mapping[str, Any]) -> Finished:
        """Take the weights that came with the student.

        What is made of it may learn again; stages that do so go by the fingerprint of this one.
        """
        made_from = {
            "data": self.data_fingerprint,
            "task": build.task_origin(self.recipe),
            **self._student_origin(),
        }
        if self.recipe.learns:
            augment = self.augment.fingerprint() if self.augment else None
            made_from |= {**lesson_from, "augment": augment, "views": self.views}

        def work(path: Path, listener: Listener) -> str:
            return take(self, path, self.distiller(self.new_student(seed), None, none()))

        return self.stage(f"student-{seed}", made_from, work)

    def _source(self, teacher: Finished, known: Finished | None) -> Knowing:
        """Return the teacher: replayed from what was written down, or beside the student."""
        if known is None:
            return self.load_teacher(teacher)
        return Teacher.replay(known.path / "store", mask=extract.counting(self))

    def _teacher_module(self, stage: Finished) -> nn.Module | None:
        known = self.load_teacher(stage)
        return known.module if isinstance(known, Teacher) else None

    def _lesson(self, seed: int, samples: Samples) -> Lesson:
        """Return how a student or its control learns from samples."""
        return Lesson(self.recipe.train, samples, seed, self.augment, self.views)

    def new_student(self, seed: int, teacher: nn.Module | None = None) -> nn.Module:
        """Return it untrained; where it reuses a classifier and gets no teacher, with its own.

        One that is to begin as its teacher does, as soon as that is there.
        """
        set_seed(seed)
        if self._begun is not None:
            return self._begun.model()
        plan = self.plans["student"]
        if self.recipe.student.prune is not None:
            return plan.model()
        model = plan.bare()
        if self.recipe.student.embeddings:
            inherit_embeddings(model, self._untaught())
        if self.recipe.student.weights is not None:
            load_weights(model, self.recipe.student.weights)
        if plan.lora is not None:
            return plan.lora.applied(model)
        if plan.reuse is None:
            return model
        ended = plan.reuse.applied(model, teacher)
        return ended if teacher is not None else ended.answer_alone()

    def _untaught(self) -> nn.Module:
        """Return the teacher as it is before it is trained here."""
        with seeded(0):  # what it draws must not change what the student draws later
            found = self.origin.trial()
        if not isinstance(found, Teacher) or self.recipe.teacher.inputs != "inputs":
            raise InputError(
                "student.embeddings with a teacher of another framework or another tokenizer",
                expected="a PyTorch module that reads the student's tokens",
                remedy="Leave data.args.tokenizer and teacher.inputs out.",
            )
        return found.module

    def distiller(self, student: nn.Module, teacher: Knowing | None, method: Method) -> Distiller:
        """Return what turns batches into the student's loss."""
        first = build.preprocess(self.recipe, self.recipe.student)
        return Distiller(teacher, student, task=self.task, method=method, preprocess=first)

    def _student_setting(self, seed: int) -> dict[str, Any]:
        return self._setting(self.recipe.train, self.augment) | {
            **self._student_origin(),
            "views": self.views,
            "seed": seed,
            **({"embeddings": self.origin.facts()} if self.recipe.student.embeddings else {}),
            **({} if self._begun is None else {"begins": self._begun.stage.fingerprint}),
        }

    def _student_origin(self) -> dict[str, Any]:
        """Return how the student is built, with which weights, and what it sees."""
        part = self.recipe.student
        return {
            "model": build.model_origin(self.plans["student"], part.weights),
            "normalize": self._normalized(part),
        }

    def _setting(self, part: TrainPart, augment: Augmentation | None) -> dict[str, Any]:
        """Return what any training depends on."""
        return {
            "data": self.data_fingerprint,
            "task": build.task_origin(self.recipe),
            "augment": augment.fingerprint() if augment else None,
            "train": part.model_dump(mode="json", exclude=_IRRELEVANT),
        }

    def _normalized(self, part: ModelPart) -> Any:
        chosen = part.normalize or self.recipe.data.normalize
        return chosen.model_dump(exclude_none=True) if chosen else None

    @cached_property
    def data_fingerprint(self) -> str:
        """What changes when the samples do."""
        return digest([self.data.fingerprint(), self.recipe.data.limit])


class _Logged:
    """Passes on what it hears, and writes epochs into the run's log."""

    def __init__(self, listener: Listener, folder: RunFolder, stage: str) -> None:
        self.listener, self.folder, self.name = listener, folder, stage

    def step(self, done: int, total: int) -> None:
        self.listener.step(done, total)

    def epoch(self, record: Mapping[str, Any]) -> None:
        self.folder.log("epoch", stage=self.name, **record)
        self.listener.epoch(record)
