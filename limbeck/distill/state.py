"""The state of a training: all that changes from step to step, in memory and on disk."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from limbeck.distill.distiller import Distiller
from limbeck.distill.engine import Engine
from limbeck.errors import InputError
from limbeck.files import atomically

__all__ = ["State", "Weights"]

Weights = dict[str, Tensor]


class State:
    """Where a training is.

    Saved and restored, it goes on to the same bits as if it had never stopped: weights, optimizer,
    schedule, average, random generators and the sums of the running epoch are all part of it.

    Args:
        distiller: what is trained.
        engine: what it is trained on.
        scheduler: of the learning rate.
        ema: the decay of the student's moving average; ``None`` for none.

    Attributes:
        epoch: the current one, from 0.
        step: how many of its steps are over.
        sums: of the loss and its terms over those steps, on the device.
        history: a record of each finished epoch.
        best: the weights after the best epoch.
        best_epoch: which that was; −1 before the first.
        seconds: of training so far, interruptions left out.
    """

    def __init__(
        self, distiller: Distiller, engine: Engine, scheduler: LRScheduler, ema: float | None
    ) -> None:
        self.distiller, self.engine, self.scheduler = distiller, engine, scheduler
        self.average: AveragedModel | None = None
        if ema is not None:
            averaging = get_ema_multi_avg_fn(ema)
            self.average = AveragedModel(
                distiller.student, multi_avg_fn=averaging, use_buffers=True
            )
        self.epoch, self.step = 0, 0
        self.sums: dict[str, Tensor] = {}
        self.history: list[dict[str, Any]] = []
        self.best: Weights = {}
        self.best_epoch = -1
        self._before, self._since = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._since

    @property
    def student(self) -> nn.Module:
        """What is validated and kept: the student, or its average."""
        return self.distiller.student if self.average is None else self.average.module

    def weights(self) -> Weights:
        """Return a copy of the kept student's weights, on the CPU."""
        return {
            name: t.detach().cpu().contiguous().clone()
            for name, t in self.student.state_dict().items()
        }

    def save(self, path: Path) -> None:
        """Write everything; a kill leaves the old file or the new. Every process must call it."""
        kept = {
            "distiller": self.distiller.state_dict(),
            "optimizer": self.engine.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "random": self.engine.gather(_random_state()),
            "progress": (self.epoch, self.step, self.best_epoch, self.seconds),
            "sums": self.sums,
            "history": self.history,
            "best": self.best,
        }
        if self.engine.accelerator.is_main_process:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomically(path) as draft:
                torch.save(kept, draft)

    def load(self, path: Path) -> None:
        """Go back to what was written.

        Raises:
            InputError: the file is damaged, holds more than data, or is of another training.
        """
        try:
            kept = torch.load(path, map_location="cpu", weights_only=True)
            self.distiller.load_state_dict(kept["distiller"])
            self.engine.optimizer.load_state_dict(kept["optimizer"])
            self.scheduler.load_state_dict(kept["scheduler"])
            if self.average:
                self.average.load_state_dict(kept["average"])
        except (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
            raise InputError(
                f"the checkpoint {path} is damaged or of another training: "
                f"{str(error).splitlines()[0] if str(error) else type(error).__name__}",
                remedy="Delete it; training then begins again.",
            ) from error
        self.epoch, self.step, self.best_epoch, self._before = kept["progress"]
        device = self.engine.accelerator.device
        self.sums = {name: value.to(device) for name, value in kept["sums"].items()}
        self.history, self.best = kept["history"], kept["best"]
        states = kept["random"]
        _set_random_state(states[self.engine.accelerator.process_index % len(states)])
        self._since = time.monotonic()


def _random_state() -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all())]


def _set_random_state(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) - 1 == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states[1:])
