"""Training a model in a stage's folder, and what the stage then holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from limbeck.data import Augmentation, Samples
from limbeck.distill import Distiller, Fitted, OnPolicy, fit, plan
from limbeck.distill.feed import feed, put
from limbeck.files import atomically, read_json, write_json
from limbeck.pipeline import build
from limbeck.pipeline.folder import Finished
from limbeck.progress import Listener
from limbeck.recipe import TrainPart
from limbeck.tasks.measure import measure

if TYPE_CHECKING:
    from limbeck.pipeline.run import Run

__all__ = ["Learner", "Lesson", "scores", "take", "train", "write", "write_weights"]

_TOGETHER = 128  # validation samples at once


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

    @property
    def scores(self) -> dict[str, float]:
        """The metrics of its best epoch on the validation samples."""
        return scores(self.record)

    @classmethod
    def of(cls, stage: Finished) -> Learner:
        """Return what a stage of training left."""
        role, _, seed = stage.name.partition("-")
        best = load_file(stage.path / "best.safetensors")
        file = stage.path / "last.safetensors"
        last = load_file(file) if file.is_file() else best
        return cls(role, int(seed or -1), best, last, read_json(stage.path / "training.json"))


@dataclass(frozen=True)
class Lesson:
    """What a model learns from, and how.

    Attributes:
        part: of the recipe.
        samples: what it is trained on.
        seed: of the training.
        augment: what happens to images.
        views: of each sample, through which epochs cycle; 0 for ever new ones.
        rewrite: what makes batches anew.
    """

    part: TrainPart
    samples: Samples
    seed: int
    augment: Augmentation | None
    views: int = 0
    rewrite: OnPolicy | None = None


def train(run: Run, path: Path, listener: Listener, learner: Distiller, lesson: Lesson) -> str:
    """Train in a stage's folder, resuming from the checkpoint there, and write the result."""
    fitted = fit(
        learner,
        lesson.samples,
        validation=run.data.validation,
        augment=lesson.augment,
        views=lesson.views,
        seed=lesson.seed,
        checkpoint_to=path / "checkpoint.pt",
        rewrite=lesson.rewrite,
        listener=listener,
        **build.training(lesson.part),
    )
    write(run, path, {"best": fitted.best, "last": fitted.last}, _record(fitted, learner))
    best, selection = fitted.history[fitted.best_epoch], run.task.selection
    score = best["validation"][selection]
    return f"{selection} {score:.4f} on validation, epoch {fitted.best_epoch + 1}"


def take(run: Run, path: Path, learner: Distiller) -> str:
    """Write a student as it is in a stage's folder, with what it reaches on validation samples."""
    device, selection = run.here.device, run.task.selection
    student = learner.student.to(device).eval()
    batches = (
        put(run.task.named(batch), device)
        for batch in feed(run.data.validation, _TOGETHER, device).epoch(0)
    )
    answer = partial(learner.answer, student=student)
    found = measure(answer, batches, run.task).metrics
    record = {
        "history": [{"epoch": 0, "steps": 0, "validation": found}],
        "best_epoch": 0,
        "plan": asdict(plan(student, device, "fp32", channels_last=False, compiled=False)),
        "adapters": learner.adapters(),
        "seconds": 0.0,
    }
    write(run, path, {"best": learner.release().state_dict()}, record)
    return f"{selection} {found[selection]:.4f} on validation, as it came"


def scores(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of the best epoch on the validation samples, from a training's record."""
    found: dict[str, float] = record["history"][record["best_epoch"]]["validation"]
    return found


def write(run: Run, path: Path, weights: Mapping[str, Mapping[str, Tensor]], record: Any) -> None:
    """Write sets of weights by name, and the record of the training, in the main process."""
    if run.here.rank:
        return
    for name, found in weights.items():
        write_weights(path / f"{name}.safetensors", found)
    write_json(path / "training.json", record)
    (path / "checkpoint.pt").unlink(missing_ok=True)


def write_weights(file: Path, weights: Mapping[str, Tensor]) -> None:
    """Write tensors under all their names: copies, for safetensors holds none under two."""
    with atomically(file) as draft:
        save_file({k: t.detach().cpu().clone().contiguous() for k, t in weights.items()}, draft)


def _record(fitted: Fitted, learner: Distiller) -> dict[str, Any]:
    return {
        "history": fitted.history,
        "best_epoch": fitted.best_epoch,
        "plan": asdict(fitted.plan),
        "adapters": learner.adapters(),
        "seconds": fitted.seconds,
    }
