"""The training loop: epochs of steps over a distiller, on Hugging Face Accelerate.

The same arguments give the same result for any number of processes: ``batch_size`` is that of all
together. Training can be stopped at any step and goes on from its checkpoint to the same bits.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from limbeck.data.augment import Augmentation
from limbeck.data.loader import Loader
from limbeck.data.samples import Batch
from limbeck.distill import optim
from limbeck.distill.distiller import Distilled, Distiller
from limbeck.distill.engine import engine, place
from limbeck.distill.feed import Feed, at_once, check_stored, feed, inspected, pieces, put
from limbeck.distill.interrupt import Interrupt, interruptible
from limbeck.distill.moved import with_labels_moved
from limbeck.distill.on_policy import Rewrite
from limbeck.distill.plan import Plan, plan
from limbeck.distill.state import State, Weights
from limbeck.errors import InputError
from limbeck.progress import Bar, Listener, Silent
from limbeck.tasks.measure import measure

__all__ = ["Fitted", "fit"]

_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Fitted:
    """What training came to.

    Attributes:
        history: one record per epoch: ``epoch``, ``steps``, ``lr``, ``train`` (mean of the loss
            and its terms), ``validation`` (metrics, if there was validation data), ``selection``
            (the metric that chooses), ``seconds``.
        best: the student's weights after the best epoch by the validation data; the distiller's
            student has them.
        last: the student's weights after the last epoch.
        best_epoch: which epoch that was, from 0.
        plan: precision, layout and compilation, with reasons.
        seconds: of training in all, interruptions left out.
    """

    history: list[dict[str, Any]]
    best: Weights
    last: Weights
    best_epoch: int
    plan: Plan
    seconds: float


def fit(
    distiller: Distiller,
    train: Any,
    *,
    validation: Any = None,
    epochs: int = 30,
    batch_size: int = 128,
    optimizer: optim.MakeOptimizer = optim.optimizer("adamw", lr=1e-3),
    schedule: optim.MakeSchedule = optim.one_cycle(),
    augment: Augmentation | None = None,
    views: int = 0,
    accumulate: int = 1,
    clip: float | None = None,
    ema: float | None = None,
    patience: int | None = None,
    seed: int = 0,
    precision: str = "auto",
    channels_last: bool | Literal["auto"] = "auto",
    compiled: bool | Literal["auto"] = "auto",
    threads: int | Literal["auto"] = "auto",
    deterministic: bool = False,
    trackers: Sequence[str] = (),
    checkpoint_to: str | Path | None = None,
    checkpoint_seconds: float = 30.0,
    rewrite: Rewrite | None = None,
    listener: Listener | None = None,
) -> Fitted:
    """Train a distiller's student, and leave it with its best weights.

    Args:
        distiller: what to train; its adapters are made if they are not yet.
        train: tensors (inputs, targets), a data set, a set made by :mod:`limbeck.data`, or a
            DataLoader.
        validation: the same, measured after each epoch; it chooses the best epoch.
        epochs: passes over the training data.
        batch_size: samples per optimizer step, all processes and accumulated parts together.
        optimizer: makes the optimizer from the parameters.
        schedule: makes the learning-rate schedule from the optimizer and the number of steps.
        augment: applied to training batches.
        views: epoch e shows view e mod ``views`` of each sample; 0: always a new one.
        accumulate: parts in which a batch goes through the models.
        clip: the largest norm of the gradient; ``None`` leaves it.
        ema: the decay of an exponential moving average of the student, which is then what is
            validated and kept; ``None`` for none.
        patience: stop after so many epochs without a better one.
        seed: of the order of samples and of dropout.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``; losses are float32 anyway.
        channels_last: memory layout of convolutions; ``auto`` decides.
        compiled: ``torch.compile`` for both models; ``auto`` decides.
        threads: that a processor uses; ``auto`` takes one where a step is too short to share.
        deterministic: only deterministic algorithms, which can be slower on a GPU.
        trackers: names that Accelerate knows: ``tensorboard``, ``wandb``, ...
        checkpoint_to: a file; if it exists, training goes on from it.
        checkpoint_seconds: how often it is written.
        rewrite: makes a batch of each training batch before the distiller sees it, with the student
            as it is: :class:`limbeck.distill.OnPolicy`; it needs a teacher that runs beside it.
        listener: is told how it goes; by default a progress bar on a terminal.

    Raises:
        InputError: something given cannot be used; the loss became NaN or infinite.
        KeyboardInterrupt: after Ctrl-C, once the step is over and the checkpoint written.

    >>> import limbeck as lb
    >>> data = (torch.randn(64, 4), torch.randint(3, (64,)))
    >>> distiller = lb.Distiller(None, torch.nn.Linear(4, 3), task=lb.tasks.Classification(3))
    >>> len(lb.fit(distiller, data, epochs=2, batch_size=32, listener=lb.Silent()).history)
    2
    """
    if epochs < 1 or accumulate < 1 or (ema is not None and not 0 < ema < 1):
        raise InputError(
            f"{epochs} epochs, accumulated over {accumulate}, ema {ema}",
            expected="at least 1 of the first two, and a decay between 0 and 1",
        )
    here = place()
    train, augment = with_labels_moved(train, augment, distiller.task)
    part: dict[str, Any] = {"rank": here.rank, "world": here.world}
    order: dict[str, Any] = {"seed": seed, "augment": augment, "views": views}
    source = feed(train, batch_size, here.device, shuffle=True, **order, **part)
    check_stored(distiller.teacher, train, augment, rewritten=rewrite is not None)
    size = at_once(source, distiller.task, batch_size)
    checks = (
        None if validation is None else feed(validation, size, here.device, ordered=True, **part)
    )
    total = epochs * source.steps
    known = all(inspected(given, distiller.task) for given in (source, checks) if given)
    torch.manual_seed(seed + here.rank)
    distiller.to(here.device)
    first = put(next(source.epoch(0)), here.device)
    work = distiller.prepare(first).work(first) // accumulate
    wanted = (precision, channels_last, compiled, threads)
    chosen = plan(distiller.student, here.device, *wanted, steps=total, work=work)
    made = optimizer([p for p in distiller.parameters() if p.requires_grad])
    file = None if checkpoint_to is None else Path(checkpoint_to)
    folder = None if file is None else file.parent
    with (
        _settings(deterministic, chosen.threads),
        engine(distiller, made, chosen, trackers=trackers, tracked_at=folder) as started,
        _shown(listener, here.rank) as shown,
        interruptible() as interrupt,
    ):
        state = State(distiller, started, schedule(made, total), ema)
        if file is not None and file.is_file():
            state.load(file)
        anywhere = here.world == 1 and isinstance(source, Loader)
        saving = _Saving(file, checkpoint_seconds, anywhere)
        loop = _Loop(
            state, source, checks, saving, shown, interrupt, total, accumulate, clip, rewrite,
            known=known,
        )  # fmt: skip
        return loop.run(epochs, patience)


@dataclass(frozen=True)
class _Saving:
    """Where and when the state is saved.

    At any step, if one process trains on batches whose order is known; else at the ends of epochs.
    """

    file: Path | None
    every: float
    anywhere: bool


class _Loop:
    """Epochs of steps. Everything that changes is in ``state``."""

    def __init__(
        self,
        state: State,
        source: Feed,
        checks: Feed | None,
        saving: _Saving,
        shown: Listener,
        interrupt: Interrupt,
        total: int,
        accumulate: int,
        clip: float | None,
        rewrite: Rewrite | None,
        *,
        known: bool,
    ) -> None:
        self.known, self.rewrite = known, rewrite
        self.state, self.distiller, self.engine = state, state.distiller, state.engine
        self.source, self.checks, self.saving = source, checks, saving
        self.shown, self.interrupt = shown, interrupt
        self.total, self.accumulate, self.clip = total, accumulate, clip
        self.task = self.distiller.task
        self._saved = self._looked = time.monotonic()

    def run(self, epochs: int, patience: int | None) -> Fitted:
        """Train from where the state is to the end, and give the student its best weights."""
        state = self.state
        while state.epoch < epochs and not self._stale(patience):
            self._epoch()
            self._close_epoch()
        last = state.weights()
        self.distiller.student.load_state_dict(state.best)
        self.distiller.release().eval()
        return Fitted(
            state.history, state.best, last, state.best_epoch, self.engine.plan, state.seconds
        )

    def _epoch(self) -> None:
        """Take the remaining steps of the current epoch."""
        state = self.state
        self.distiller.train()
        for found in self.source.epoch(state.epoch, state.step):
            batch = self._put(self._checked(found))
            if self.rewrite is not None:
                number = state.epoch * self.source.steps + state.step
                batch = self.rewrite(batch, self.distiller.student, number)
            self._step(batch)
            state.step += 1
            if time.monotonic() - self._looked > _LOOK_SECONDS:
                self._look()
            due = time.monotonic() - self._saved > self.saving.every
            if self.saving.anywhere and (due or self.interrupt.requested):
                self._save()
            if self.interrupt.requested:
                raise KeyboardInterrupt

    def _step(self, batch: Batch) -> None:
        """Compute the gradient of one batch, in parts if asked, and move the weights."""
        engine, state = self.engine, self.state
        self.distiller.progress = (state.epoch * self.source.steps + state.step) / self.total
        parts = pieces(batch, self.accumulate)
        shares = engine.shares([self.task.count(part) for part in parts])
        for part, share in zip(parts, shares, strict=True):
            unfinished = part is not parts[-1]
            with engine.accelerator.no_sync(engine.model) if unfinished else nullcontext():
                out: Distilled = engine.model(part)
                engine.accelerator.backward(out.loss * share)
            self._count(out, share)
        if self.clip is not None:
            engine.accelerator.clip_grad_norm_(self.distiller.parameters(), self.clip)
        engine.optimizer.step()
        state.scheduler.step()
        engine.optimizer.zero_grad()
        if state.average is not None:
            state.average.update_parameters(self.distiller.student)

    def _count(self, out: Distilled, share: float | Tensor) -> None:
        """Add a part's loss and terms to the epoch's sums, without waiting for the device."""
        for name, value in (("loss", out.loss.detach()), *out.terms.items()):
            before = self.state.sums.get(name)
            self.state.sums[name] = value * share if before is None else before + value * share

    def _look(self) -> None:
        """Show how far it is, and stop if the loss is no longer a number."""
        state = self.state
        self._looked = time.monotonic()
        self.shown.step(state.epoch * self.source.steps + state.step, self.total)
        if not math.isfinite(float(state.sums["loss"])):
            bad = [name for name, value in state.sums.items() if not math.isfinite(float(value))]
            rate = state.scheduler.get_last_lr()[0]
            raise InputError(
                f"the loss became NaN or infinite in epoch {state.epoch + 1}, by step {state.step} "
                f"of {self.source.steps} (terms: {', '.join(bad)}; learning rate {rate:.3g}, "
                f"{self.engine.plan.precision})",
                consequence="The weights are lost from there on; the last checkpoint is kept.",
                remedy="Lower the learning rate, clip the gradient (clip: 1.0), or train in fp32.",
            )

    def _close_epoch(self) -> None:
        """Validate, remember the best, keep the record, and begin the next epoch."""
        state = self.state
        self._look()
        means = {name: float(self.engine.mean(value)) for name, value in state.sums.items()}
        train = {name: value / self.source.steps for name, value in means.items()}
        validation = dict(self._validate())
        steps = (state.epoch + 1) * self.source.steps
        record = {
            "epoch": state.epoch,
            "steps": steps,
            "lr": state.scheduler.get_last_lr()[0],
            "train": train,
            "validation": validation,
            "selection": self.task.selection,
            "seconds": state.seconds,
        }
        state.history.append(record)
        if self._is_best():
            state.best, state.best_epoch = state.weights(), state.epoch
        state.epoch, state.step, state.sums = state.epoch + 1, 0, {}
        parts = {"train": train, "validation": validation}
        flat = {f"{part}/{name}": v for part, found in parts.items() for name, v in found.items()}
        self.engine.log(flat, step=steps)
        self.shown.epoch(record)
        if not self.saving.anywhere or time.monotonic() - self._saved > self.saving.every:
            self._save()

    def _validate(self) -> Mapping[str, float]:
        if self.checks is None:
            return {}
        student = self.state.student.eval()

        def answer(batch: Batch) -> Tensor:
            with self.engine.accelerator.autocast():
                return self.distiller.answer(batch, student)

        batches = (self._put(self._checked(found)) for found in self.checks.epoch(0))
        return measure(answer, batches, self.task).metrics

    def _checked(self, found: Any) -> Batch:
        """Name a batch's fields, and refuse it in the first epoch if it cannot be meant."""
        batch = self.task.named(found)
        if not self.known and self.state.epoch == 0:
            self.task.check(batch)
        return batch

    def _is_best(self) -> bool:
        """Whether the newest epoch is at least as good as any before; without validation, it is.

        Of equally good epochs the last is kept: it has learnt longer, at lower rates.
        """
        scores = self._scores()
        return not scores or scores[-1] == max(scores)

    def _stale(self, patience: int | None) -> bool:
        """Whether no epoch was strictly better for as long as ``patience`` allows."""
        scores = self._scores()
        if patience is None or not scores:
            return False
        return len(scores) - 1 - scores.index(max(scores)) >= patience

    def _scores(self) -> list[float]:
        """Return the validation score of each epoch, such that more is better."""
        sign, name = (1 if self.task.higher_is_better else -1), self.task.selection
        records = [record["validation"] for record in self.state.history]
        return [sign * found[name] for found in records if found]

    def _put(self, batch: Batch) -> Batch:
        layout = self.engine.plan.channels_last
        placed: Batch = put(batch, self.engine.accelerator.device, channels_last=layout)
        return placed

    def _save(self) -> None:
        if self.saving.file is not None:
            self.state.save(self.saving.file)
        self._saved = time.monotonic()


@contextmanager
def _settings(deterministic: bool, threads: int) -> Iterator[None]:
    """Set what PyTorch keeps for the whole process, and put it back."""
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    torch.use_deterministic_algorithms(deterministic or before[0])
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.set_num_threads(before[1])


@contextmanager
def _shown(listener: Listener | None, rank: int) -> Iterator[Listener]:
    """Choose what is told how training goes: in one process only, a bar on a terminal."""
    if rank != 0:
        yield Silent()
    elif listener is not None:
        yield listener
    elif sys.stderr.isatty():
        with Bar.shown() as bar:
            yield bar
    else:
        yield Silent()
