"""The stage in which the teacher produces what students learn: texts or labels for samples.

Letters: N training samples, B in a batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from limbeck.data import Samples
from limbeck.data.loader import as_float, by_length
from limbeck.data.samples import Batch
from limbeck.distill import autocast, plan
from limbeck.distill.feed import put
from limbeck.errors import InputError
from limbeck.evaluate import taught
from limbeck.files import read_json, write_json
from limbeck.pipeline import build
from limbeck.pipeline.folder import Finished
from limbeck.progress import Listener
from limbeck.tasks import Producing, Relabelling, Restating
from limbeck.teachers import Knowing, Teacher

if TYPE_CHECKING:
    from limbeck.pipeline.run import Run

__all__ = ["check", "lessons", "name", "produced"]

_PART = 1024  # samples in a file; the stage goes on with the first file that is not there


def check(run: Run, teacher: Knowing, few: Batch) -> None:
    """Let the teacher produce something for a few samples, if the recipe will ask it for all.

    Raises:
        InputError: nobody can produce texts or labels, or learn them.
    """
    if not run.recipe.knowledge.produce:
        return
    if isinstance(run.task, Relabelling):
        made = _said(run, teacher, run.task.named(few))
        run.task.relabelled(run.data.train.subset(torch.arange(len(made))), made)
        return
    if not isinstance(run.task, Producing) or not isinstance(run.task, Restating):
        raise InputError(
            f"knowledge.produce with the task {run.recipe.task.get('name')}",
            expected="a task whose models produce texts or labels that others can learn, as "
            "translation and detection",
            remedy="Leave knowledge.produce out.",
        )
    if run.other_tokens:
        raise InputError(
            "knowledge.produce with a teacher that has other tokens than the student",
            expected="one tokenizer",
            remedy="Leave knowledge.produce out.",
        )
    if not isinstance(teacher, Teacher):
        raise InputError(
            f"knowledge.produce with {type(teacher).__name__}",
            expected="a teacher that is a PyTorch module and writes",
        )
    _said(run, teacher, run.task.named(few))


def name(run: Run) -> str:
    """Return what the teacher produces: so the stage is called, and its files."""
    return "labels" if isinstance(run.task, Relabelling) else "texts"


def produced(run: Run, teacher: Finished) -> Finished | None:
    """Let the teacher produce a text or label for each training sample, if the recipe asks for it.

    It is done once for all seeds, and goes on where it was interrupted.
    """
    if not run.recipe.knowledge.produce:
        return None
    kind = name(run)
    made_from = {
        "teacher": teacher.fingerprint,
        "data": run.data.train.fingerprint(),
        "task": build.task_origin(run.recipe),
        "precision": run.recipe.train.precision,
        "batch_size": run.recipe.knowledge.batch_size,
    }

    def work(path: Path, listener: Listener) -> str:
        known, train = run.load_teacher(teacher), run.data.train
        if isinstance(known, Teacher):
            known.module.to(run.here.device)
        parts = by_length(train).split(_PART)
        for number, rows in enumerate(parts):
            file = path / f"{kind}-{number:05}.json"
            if number % run.here.world != run.here.rank or file.is_file():
                continue
            found: dict[str, list[Any]] = {"rows": rows.tolist(), kind: []}
            batches = train.batches(list(rows.split(run.recipe.knowledge.batch_size)), 0, 0)
            for batch in batches:
                found[kind] += _said(run, known, run.task.named(as_float(batch)))
            write_json(file, found)
            listener.step(min(len(train), (number + 1) * _PART), len(train))
        run.folder.barrier()
        return f"{len(train):,} {kind}"

    return run.stage(kind, made_from, work)


def lessons(run: Run, made: Finished | None) -> Samples:
    """Return what students learn from: the training samples, or what the teacher made of them."""
    if made is None:
        return run.data.train
    said: list[Any] = [None] * len(run.data.train)
    for file in sorted(made.path.glob(f"{name(run)}-*.json")):
        found = read_json(file)
        for row, each in zip(found["rows"], found[name(run)], strict=True):
            said[row] = each
    task: Any = run.task
    if isinstance(task, Relabelling):
        return task.relabelled(run.data.train, said)
    assert isinstance(task, Restating)
    return task.restated(run.data.train, said)


def _said(run: Run, teacher: Knowing, batch: Batch) -> list[Any]:
    """Return what the teacher produces for a batch, in the precision of the student's training."""
    task: Any = run.task
    device = run.here.device
    here = put(batch, device)
    if not isinstance(teacher, Teacher):  # the check has seen that the task takes labels
        return list(task.as_labels(teacher.knowledge(here, ("logits",)).logits, here))
    chosen = plan(teacher.module, device, run.recipe.train.precision)
    with torch.inference_mode(), autocast(chosen, device):
        if isinstance(task, Relabelling):
            return task.as_labels(teacher.knowledge(here, ("logits",)).logits, here)
        return list(taught(task, teacher, here))
