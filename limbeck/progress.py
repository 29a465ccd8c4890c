"""Showing how far long work is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

__all__ = ["Bar", "Console", "Listener", "Silent", "summary"]


class Listener(Protocol):
    """What is told how training goes on."""

    def step(self, done: int, total: int) -> None:
        """Hear that ``done`` of ``total`` steps are over; called a few times a second at most."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Hear what an epoch came to: see :class:`limbeck.distill.Fitted`."""


class Console(Protocol):
    """What is told how a run goes on."""

    @contextmanager
    def stage(self, name: str) -> Iterator[Listener]:
        """Hear that a stage begins; what is yielded hears of its steps."""

    def done(self, name: str, seconds: float, note: str, *, skipped: bool) -> None:
        """Hear that a stage is done, or was done before."""

    def note(self, text: str) -> None:
        """Hear something worth knowing."""


class Silent:
    """Shows nothing; a listener and a console."""

    def step(self, done: int, total: int) -> None:
        """Ignore it."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Ignore it."""

    @contextmanager
    def stage(self, name: str) -> Iterator[Listener]:
        """Ignore it."""
        yield self

    def done(self, name: str, seconds: float, note: str, *, skipped: bool) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""


class Bar:
    """A progress bar on a terminal, with the last epoch's numbers beside it."""

    def __init__(self, progress: Any, title: str) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=None, numbers="")

    @classmethod
    @contextmanager
    def shown(cls, title: str = "training", console: Any = None) -> Iterator[Bar]:
        """Show a bar while the block runs, then take it away."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("  {task.description:<10}"),
            BarColumn(bar_width=30),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[numbers]}", style="dim"),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            yield cls(progress, title)

    def step(self, done: int, total: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=done, total=total)

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Show the epoch's loss and validation metrics."""
        self._progress.update(self._task, numbers=summary(record))


def summary(record: Mapping[str, Any]) -> str:
    """Return an epoch in a few words.

    >>> summary({"epoch": 2, "train": {"loss": 0.5}, "selection": "accuracy",
    ...          "validation": {"accuracy": 0.91, "loss": 0.3}})
    'epoch 3 · loss 0.500 · accuracy 0.910'
    """
    parts = [f"epoch {record['epoch'] + 1}", f"loss {record['train']['loss']:.3f}"]
    if record["validation"]:
        parts.append(f"{record['selection']} {record['validation'][record['selection']]:.3f}")
    return " · ".join(parts)
