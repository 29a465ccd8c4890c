"""The stage in which the teacher's knowledge is written down, once for all students.

Letters: B samples in a batch, T places of a sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limbeck import knowledge
from limbeck.data import Loader
from limbeck.distill import Plan, autocast, plan
from limbeck.distill.feed import put
from limbeck.pipeline import produce
from limbeck.pipeline.folder import Finished
from limbeck.progress import Listener
from limbeck.tasks import Task
from limbeck.teachers import Knowing, Teacher

if TYPE_CHECKING:
    from limbeck.pipeline.run import Run

__all__ = ["counting", "extracted", "pays"]

_STORED_BYTES = 2 * 2**30


def pays(run: Run) -> bool:
    """Return whether the teacher's knowledge is computed once and replayed."""
    stated = run.recipe.knowledge.store
    taps = {tap for match in run.method.matches for tap in match.teachers}
    if run.recipe.on_policy is not None:
        return False
    if stated != "auto":
        return stated and bool(taps)
    views = run.recipe.train.epochs if run.varies else 1
    size = 2 * views * len(run.data.train) * _places(run) * _classes(run)
    plain = taps == {"logits"} and run.method.views is None
    return plain and size <= _STORED_BYTES


def extracted(run: Run, teacher: Finished, texts: Finished | None) -> Finished | None:
    """Write down what the teacher knows about what the students learn, if that pays."""
    if not run.stores:
        return None
    options = run.recipe.knowledge
    taps = tuple(dict.fromkeys(t for match in run.method.matches for t in match.teachers))
    made_from = {
        "teacher": teacher.fingerprint,
        "data": run.data_fingerprint,
        "taps": taps,
        "views": run.views,
        "augment": run.augment.fingerprint() if run.augment else None,
        "precision": run.recipe.train.precision,
        "store": [run.codecs, options.batch_size, options.rows_per_shard],
        **({} if texts is None else {"texts": texts.fingerprint}),
    }

    def work(path: Path, listener: Listener) -> str:
        store = knowledge.write(
            path / "store",
            _planned(run, run.load_teacher(teacher)),
            produce.lessons(run, texts),
            taps=taps,
            codec=run.codecs,
            mask=counting(run),
            views=run.views,
            augment=run.augment,
            batch_size=options.batch_size,
            rows_per_shard=options.rows_per_shard,
            progress=listener.step,
            rank=run.here.rank,
            world=run.here.world,
            barrier=run.folder.barrier,
        )
        views = f"{store.views} view" + "s" * (store.views > 1)
        return f"{len(store):,} samples × {views}, {store.bytes / 1000:,.0f} kB"

    done = run.stage("knowledge", made_from, work)
    if done.skipped:
        knowledge.Store.open(done.path / "store").verify()
    return done


def counting(run: Run) -> _Counting | None:
    """Return what says which answers of a sequence are kept, if samples have several."""
    few = run.taught.named(next(iter(Loader(run.data.train, 1))))
    mask = run.taught.mask(few)
    return None if mask is None or mask.ndim < 2 else _Counting(run.taught)


def _classes(run: Run) -> int:
    """Return how many numbers there are in an answer: of classes, or of tokens."""
    facts = run.data.facts
    fields = ["targets", run.recipe.teacher.inputs] if run.other_tokens else ["targets"]
    tokens = [int(facts.get(field, {}).get("vocab", 0)) for field in fields]
    return max(1, len(run.data.labels), *tokens)


def _places(run: Run) -> float:
    """Return how many answers a sample has: one, or the mean of those that count in a few."""
    few = run.taught.named(next(iter(Loader(run.data.train, min(32, len(run.data.train))))))
    mask, samples = run.taught.mask(few), len(run.taught.targets(few))
    if mask is None or mask.ndim < 2:
        return max(1.0, float(run.taught.count(few)) / samples)
    return float(mask.sum() / len(mask))


def _planned(run: Run, known: Knowing) -> Knowing:
    """Return a teacher that runs where and how is best for it; other frameworks decide."""
    if not isinstance(known, Teacher):
        return known
    chosen = plan(known.module, run.here.device, run.recipe.train.precision)
    known.module.to(run.here.device)
    known.arrange(channels_last=chosen.channels_last, compiled=False)
    return _Planned(known, chosen, run.here.device)


class _Counting:
    """Says which answers of a batch of sequences count, (B, T), as the task does."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __call__(self, batch: Any) -> Tensor:
        mask = self.task.mask(self.task.named(batch))
        assert mask is not None
        return mask

    def __repr__(self) -> str:
        return f"the mask of the task {self.task.name}"


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
