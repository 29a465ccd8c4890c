"""Hugging Face Accelerate under the loop: processes, devices, precision, trackers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object

from limbeck.distill.distiller import Distiller
from limbeck.distill.plan import Plan
from limbeck.errors import InputError

__all__ = ["Engine", "Place", "engine", "place"]


@dataclass(frozen=True)
class Place:
    """Where this process stands: its device, its rank, and how many processes there are."""

    device: torch.device
    rank: int
    world: int


def place() -> Place:
    """Return this process's place, as ``accelerate launch`` or the lack of it set it."""
    state = PartialState()
    return Place(state.device, state.process_index, state.num_processes)


@dataclass(frozen=True)
class Engine:
    """An accelerator with a distiller on it.

    Attributes:
        accelerator: Accelerate's.
        model: the distiller, wrapped for several processes if there are several.
        optimizer: wrapped likewise.
        plan: what was decided for this machine.
    """

    accelerator: Accelerator
    model: torch.nn.Module
    optimizer: Any
    plan: Plan

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value, in the order of ranks."""
        return list(gather_object([value])) if self.accelerator.num_processes > 1 else [value]

    def shares(self, counts: Sequence[int | torch.Tensor]) -> list[float | torch.Tensor]:
        """Return each part's share in a batch's mean, so that parts and processes add up to it.

        Args:
            counts: over how many samples (or tokens) each of this process's parts is a mean.
                Numbers are the same in every process; tensors may differ.
        """
        total = sum(counts)
        if isinstance(total, torch.Tensor):
            total = self.mean(total.float())
        return [count / total for count in counts]

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Return the mean of a tensor over the processes."""
        reduced: torch.Tensor = self.accelerator.reduce(value, reduction="mean")
        return reduced

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send numbers to the trackers."""
        self.accelerator.log(dict(values), step=step)


@contextmanager
def engine(
    distiller: Distiller,
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    *,
    trackers: Sequence[str] = (),
    tracked_at: Path | None = None,
) -> Iterator[Engine]:
    """Put a distiller on an accelerator, and take it off at the end as it was.

    Raises:
        InputError: a tracker is not known or not installed.
    """
    # Accelerate keeps one precision per process; two trainings may differ in it.
    AcceleratorState._reset_state()
    try:
        accelerator = Accelerator(
            mixed_precision=plan.mixed_precision,
            log_with=list(trackers) or None,
            project_dir=str(tracked_at) if tracked_at else None,
            kwargs_handlers=[
                DistributedDataParallelKwargs(find_unused_parameters=not _uses_logits(distiller))
            ],
        )
    except ValueError as error:
        raise InputError(f"trackers {list(trackers)}: {error}") from error
    missing = set(trackers) - {getattr(t, "value", t) for t in accelerator.log_with}
    if missing:
        raise InputError(
            f"the tracker {sorted(missing)[0]} is not installed", remedy="Install its package."
        )
    if trackers:
        accelerator.init_trackers("limbeck")
    distiller.arrange(channels_last=plan.channels_last, compiled=plan.compiled)
    model, wrapped = accelerator.prepare(distiller, optimizer)
    try:
        yield Engine(accelerator, model, wrapped, plan)
    finally:
        accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        distiller.arrange(channels_last=False, compiled=False)
        distiller.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        if trackers:
            accelerator.end_training()


def _uses_logits(distiller: Distiller) -> bool:
    """Whether the loss reaches the student's answer, and so all its parameters."""
    method = distiller.method
    label = 1.0 if method.label_weight is None else method.label_weight
    return bool(label) or any("logits" in match.students for match in method.matches)
