"""A finished model of a run, whatever it is: a network, a network made smaller, a file.

What measures, publishes and shows models treats all of them alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from limbeck.evaluate.runtimes import Network, Runner, opened
from limbeck.pipeline import build
from limbeck.pipeline.folder import Finished
from limbeck.students import Blueprint

if TYPE_CHECKING:
    from limbeck.pipeline.run import Run

__all__ = ["Product", "as_file", "as_network"]


@dataclass(frozen=True)
class Product:
    """A finished model that is measured beside teacher, student and control.

    Made by :func:`as_network` and :func:`as_file`.

    Attributes:
        name: its own in the report: ``student-pruned``, ``student.onnx``.
        role: ``student``, ``compressed`` or ``exported``.
        stage: that made it; its fingerprint goes into those of stages that use it.
        seed: of the student that it comes from.
        opened: returns it ready to run, its preprocessing included.
        network: returns the bare network with its weights, in eval mode on the CPU, to be made
            smaller, trained or exported; ``None`` for a file.
        plan: how that network is built; ``None`` for a file.
        file: on the disk; ``None`` for a network.
        note: a few words on how it was made.
        floats: of a file of integers, the float file that it was made of.
    """

    name: str
    role: str
    stage: Finished
    seed: int
    opened: Callable[[], Runner]
    network: Callable[[], nn.Module] | None = None
    plan: Blueprint | None = None
    file: Path | None = None
    note: str = ""
    floats: Path | None = None


def as_network(
    run: Run,
    name: str,
    stage: Finished,
    seed: int,
    network: Callable[[], nn.Module],
    plan: Blueprint,
    *,
    role: str = "compressed",
    note: str = "",
) -> Product:
    """Return a network as a finished model; it sees the student's preprocessing."""

    def open_it() -> Runner:
        first = build.preprocess(run.recipe, run.recipe.student)
        where = run.here.device
        return Network(network().to(where), None if first is None else first.to(where))

    return Product(name, role, stage, seed, open_it, network=network, plan=plan, note=note)


def as_file(
    file: Path,
    stage: Finished,
    seed: int,
    *,
    role: str = "exported",
    note: str = "",
    floats: Path | None = None,
) -> Product:
    """Return a file that takes a task's inputs as a finished model, under the file's name."""
    known: dict[str, Any] = {"file": file, "note": note, "floats": floats}
    return Product(file.name, role, stage, seed, lambda: opened(file), **known)
