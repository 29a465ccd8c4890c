"""A run: its stages in the order in which data walks through them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from limbeck import knowledge
from limbeck.data import Arrays, Augmentation, Data, Loader
from limbeck.distill import Distiller, Fitted, Plan, autocast, fit, plan
from limbeck.distill.engine import Place, place
from limbeck.distill.feed import put
from limbeck.files import atomically, digest, read_json, write_json
from limbeck.knowledge import codec
from limbeck.knowledge.model import at_rest, call, logits_of
from limbeck.methods import Method, none
from limbeck.pipeline import build
from limbeck.pipeline.folder import Finished, RunFolder
from limbeck.pipeline.origins import Origin, Trained, origin, preprocess_facts
from limbeck.progress import Console, Listener
from limbeck.recipe import ModelPart, Recipe, TrainPart
from limbeck.students import Blueprint, load_weights
from limbeck.tasks import Reading, Task
from limbeck.teachers import Knowing, Rehearsed, Teacher

__all__ = ["Learner", "Run"]

_STORED_BYTES = 2 * 2**30
_IRRELEVANT = {"trackers", "checkpoint_seconds"}


@dataclass(frozen=True)
class Learner:
    """A trained model as a stage left it.

    Attributes:
        role: ``teacher``, ``student`` or ``control``.
        seed: of its training; −1 for a teacher that came with weights.
        best: its weights after the best epoch.
        last: its weights after the last epoch.
        record: ``history``, ``best_epoch``, ``plan``, ``adapters``, ``seconds``.
    """

    role: str
    seed: int
    best: dict[str, Tensor]
    last: dict[str, Tensor]
    record: Mapping[str, Any]


class Run:
    """A recipe at work in a folder.

    Args:
        recipe: what to do.
        folder: where.
        console: is told how it goes.
    """

    def __init__(self, recipe: Recipe, folder: RunFolder, console: Console) -> None:
        self.recipe, self.folder, self.console = recipe, folder, console

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
    def method(self) -> Method:
        """What the student is to reproduce."""
        return build.method(self.recipe)

    @cached_property
    def augment(self) -> Augmentation | None:
        """What happens to training images."""
        return build.augmentation(self.recipe.data.augment, self.recipe.data.seed)

    @cached_property
    def plans(self) -> dict[str, Blueprint]:
        """How the student is built."""
        parts = {"student": self.recipe.student}
        return {n: build.blueprint(p, self.recipe.teacher, self.data) for n, p in parts.items()}

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
        if not self._varies:
            return 1
        return self.recipe.train.epochs if self.stores else 0

    @property
    def _varies(self) -> bool:
        """Whether a sample may look different in another view; a user's own data set may draw."""
        return self.augment is not None or not isinstance(self.data.train, Arrays)

    @cached_property
    def stores(self) -> bool:
        """Whether the teacher's knowledge is computed once and replayed."""
        stated = self.recipe.knowledge.store
        taps = {tap for match in self.method.matches for tap in match.teachers}
        if stated != "auto":
            return stated and bool(taps)
        views = self.recipe.train.epochs if self._varies else 1
        size = 2 * views * len(self.data.train) * max(1, len(self.data.labels))
        plain = taps == {"logits"} and self.method.views is None
        return plain and size <= _STORED_BYTES

    @cached_property
    def codecs(self) -> dict[str, str]:
        """How each of the teacher's taps is kept."""
        return build.codecs(self.recipe, self.method)

    def check(self) -> None:
        """Build everything and let two samples through, before anything is trained.

        Raises:
            InputError: a name, a tap, a shape or a number of classes is wrong.
        """
        few = next(iter(Loader(self.data.train, min(2, len(self.data.train)))))
        self.task.check(self.task.named(few))
        teacher = self.origin.trial()
        module = teacher.module if isinstance(teacher, Teacher) else None
        student = self._new_student(self.recipe.seeds[0], module)
        first = build.preprocess(self.recipe, self.recipe.student) or nn.Identity()
        with at_rest(student):
            own = logits_of(call(student, first(self.task.inputs(few))))
        theirs = teacher.knowledge(self.task.named(few), ("logits",)).logits
        self.task.check_logits(theirs, "teacher")
        self.task.check_logits(own, "student")
        self._distiller(student, teacher, self.method).prepare(few)
        if self.stores and any(map(codec.keeps_a_part, self.codecs.values())):
            rehearsed = Rehearsed(teacher, self.codecs)
            self._distiller(student, rehearsed, self.method).prepare(few)
        for training in (self.recipe.teacher.train, self.recipe.train):
            build.training(training)

    def teacher(self) -> Finished:
        """Train the teacher, or take the weights that came with it."""
        known = self.origin
        made_from = {"model": known.facts(), "normalize": preprocess_facts(self.recipe)}
        if isinstance(known, Trained) and self.recipe.teacher.weights is None:
            return self._trained_teacher(known, made_from)

        def take(path: Path, listener: Listener) -> str:
            weights, record, told = known.take()
            self._write(path, {"best": weights}, record)
            return told

        return self.stage("teacher", made_from, take)

    def knowledge(self, teacher: Finished) -> Finished | None:
        """Write down what the teacher knows about the training samples, if that pays."""
        if not self.stores:
            return None
        options = self.recipe.knowledge
        taps = tuple(dict.fromkeys(t for match in self.method.matches for t in match.teachers))
        made_from = {
            "teacher": teacher.fingerprint,
            "data": self._data_fingerprint,
            "taps": taps,
            "views": self.views,
            "augment": self.augment.fingerprint() if self.augment else None,
            "precision": self.recipe.train.precision,
            "store": [self.codecs, options.batch_size, options.rows_per_shard],
        }

        def extract(path: Path, listener: Listener) -> str:
            store = knowledge.write(
                path / "store",
                self._planned(self.load_teacher(teacher)),
                self.data.train,
                taps=taps,
                codec=self.codecs,
                views=self.views,
                augment=self.augment,
                batch_size=options.batch_size,
                rows_per_shard=options.rows_per_shard,
                progress=listener.step,
                rank=self.here.rank,
                world=self.here.world,
                barrier=self.folder.barrier,
            )
            views = f"{store.views} view" + "s" * (store.views > 1)
            return f"{len(store):,} samples × {views}, {store.bytes / 1000:,.0f} kB"

        done = self.stage("knowledge", made_from, extract)
        if done.skipped:
            knowledge.Store.open(done.path / "store").verify()
        return done

    def student(self, seed: int, teacher: Finished, known: Finished | None) -> Finished:
        """Train a student with the teacher."""
        made_from = self._student_setting(seed) | {
            "teacher": teacher.fingerprint,
            "knowledge": known.fingerprint if known else "live",
            "method": self.recipe.method,
            "label_weight": self.recipe.label_weight,
        }

        def train(path: Path, listener: Listener) -> str:
            source: Knowing = (
                Teacher.replay(known.path / "store") if known else self.load_teacher(teacher)
            )
            knows = self._teacher_module(teacher) if self.plans["student"].reuse else None
            learner = self._distiller(self._new_student(seed, knows), source, self.method)
            return self._train_student(path, listener, learner, seed)

        return self.stage(f"student-{seed}", made_from, train)

    def control(self, seed: int) -> Finished:
        """Train the same student, from the same weights on the same samples, without a teacher."""

        def train(path: Path, listener: Listener) -> str:
            learner = self._distiller(self._new_student(seed), None, none())
            return self._train_student(path, listener, learner, seed)

        return self.stage(f"control-{seed}", self._student_setting(seed), train)

    def load_teacher(self, stage: Finished) -> Knowing:
        """Return the teacher that a stage left."""
        learner = self.learner(stage)
        return self.origin.load(learner.best, learner.record)

    def learner(self, stage: Finished) -> Learner:
        """Return what a stage of training left."""
        role, _, seed = stage.name.partition("-")
        best = load_file(stage.path / "best.safetensors")
        file = stage.path / "last.safetensors"
        last = load_file(file) if file.is_file() else best
        return Learner(role, int(seed or -1), best, last, read_json(stage.path / "training.json"))

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

        def train(path: Path, listener: Listener) -> str:
            set_seed(seed)
            model = known.plan.model()
            task = Reading(self.task, part.inputs)
            learner = Distiller(None, model, task=task, preprocess=known.first)
            return self._train(path, listener, learner, part.train, seed, augment, views=0)

        setting = self._setting(part.train, augment) | {"seed": seed, "inputs": part.inputs}
        return self.stage("teacher", made_from | setting, train)

    def _teacher_module(self, stage: Finished) -> nn.Module | None:
        known = self.load_teacher(stage)
        return known.module if isinstance(known, Teacher) else None

    def _planned(self, known: Knowing) -> Knowing:
        """Return a teacher that runs where and how is best for it; other frameworks decide."""
        if not isinstance(known, Teacher):
            return known
        chosen = plan(known.module, self.here.device, self.recipe.train.precision)
        known.module.to(self.here.device)
        known.arrange(channels_last=chosen.channels_last, compiled=False)
        return _Planned(known, chosen, self.here.device)

    def _train_student(self, path: Path, listener: Listener, learner: Distiller, seed: int) -> str:
        part = self.recipe.train
        return self._train(path, listener, learner, part, seed, self.augment, views=self.views)

    def _train(
        self,
        path: Path,
        listener: Listener,
        learner: Distiller,
        part: TrainPart,
        seed: int,
        augment: Augmentation | None,
        *,
        views: int,
    ) -> str:
        """Train in a stage's folder, resuming from the checkpoint there, and write the result."""
        fitted = fit(
            learner,
            self.data.train,
            validation=self.data.validation,
            augment=augment,
            views=views,
            seed=seed,
            checkpoint_to=path / "checkpoint.pt",
            listener=listener,
            **build.training(part),
        )
        self._write(path, {"best": fitted.best, "last": fitted.last}, _record(fitted, learner))
        best = fitted.history[fitted.best_epoch]
        score = best["validation"][self.task.selection]
        return f"{self.task.selection} {score:.4f} on validation, epoch {fitted.best_epoch + 1}"

    def _write(self, path: Path, weights: Mapping[str, Mapping[str, Tensor]], record: Any) -> None:
        """Write sets of weights by name, and the record of the training, in the main process."""
        if self.here.rank:
            return
        for name, found in weights.items():
            with atomically(path / f"{name}.safetensors") as draft:
                save_file({k: t.detach().clone().contiguous() for k, t in found.items()}, draft)
        write_json(path / "training.json", record)
        (path / "checkpoint.pt").unlink(missing_ok=True)

    def _new_student(self, seed: int, teacher: nn.Module | None = None) -> nn.Module:
        """Return it untrained; where it reuses a classifier and gets no teacher, with its own."""
        set_seed(seed)
        plan = self.plans["student"]
        model = plan.bare()
        if self.recipe.student.weights is not None:
            load_weights(model, self.recipe.student.weights)
        if plan.reuse is None:
            return model
        ended = plan.reuse.applied(model, teacher)
        return ended if teacher is not None else ended.answer_alone()

    def _distiller(self, student: nn.Module, teacher: Knowing | None, method: Method) -> Distiller:
        first = build.preprocess(self.recipe, self.recipe.student)
        return Distiller(teacher, student, task=self.task, method=method, preprocess=first)

    def _student_setting(self, seed: int) -> dict[str, Any]:
        part = self.recipe.student
        return self._setting(self.recipe.train, self.augment) | {
            "model": build.model_origin(self.plans["student"], part.weights),
            "normalize": self._normalized(part),
            "views": self.views,
            "seed": seed,
        }

    def _setting(self, part: TrainPart, augment: Augmentation | None) -> dict[str, Any]:
        """Return what any training depends on."""
        return {
            "data": self._data_fingerprint,
            "task": self.recipe.task,
            "augment": augment.fingerprint() if augment else None,
            "train": part.model_dump(mode="json", exclude=_IRRELEVANT),
        }

    def _normalized(self, part: ModelPart) -> Any:
        chosen = part.normalize or self.recipe.data.normalize
        return chosen.model_dump() if chosen else None

    @cached_property
    def _data_fingerprint(self) -> str:
        return digest([self.data.fingerprint(), self.recipe.data.limit])


class _Planned:
    """A teacher that runs where and how a plan says."""

    def __init__(self, teacher: Teacher, chosen: Plan, device: torch.device) -> None:
        self.teacher, self.plan, self.device = teacher, chosen, device

    def knowledge(self, batch: Any, taps: Any) -> knowledge.Knowledge:
        moved = put(batch, self.device, channels_last=self.plan.channels_last)
        with autocast(self.plan, self.device):
            return self.teacher.knowledge(moved, taps)

    def fingerprint(self) -> str:
        return self.teacher.fingerprint()

    def fingerprints(self) -> Mapping[str, str]:
        return self.teacher.fingerprints()


class _Logged:
    """Passes on what it hears, and writes epochs into the run's log."""

    def __init__(self, listener: Listener, folder: RunFolder, stage: str) -> None:
        self.listener, self.folder, self.name = listener, folder, stage

    def step(self, done: int, total: int) -> None:
        self.listener.step(done, total)

    def epoch(self, record: Mapping[str, Any]) -> None:
        self.folder.log("epoch", stage=self.name, **record)
        self.listener.epoch(record)


def _record(fitted: Fitted, learner: Distiller) -> dict[str, Any]:
    return {
        "history": fitted.history,
        "best_epoch": fitted.best_epoch,
        "plan": {
            "precision": fitted.plan.precision,
            "channels_last": fitted.plan.channels_last,
            "compiled": fitted.plan.compiled,
            "threads": fitted.plan.threads,
            "why": list(fitted.plan.why),
        },
        "adapters": learner.adapters(),
        "seconds": fitted.seconds,
    }
