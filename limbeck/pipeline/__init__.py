"""From a recipe to a finished run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from limbeck.distill.engine import place
from limbeck.errors import InputError
from limbeck.pipeline.compare import compare, ratio
from limbeck.pipeline.folder import RunFolder, run_folder
from limbeck.pipeline.layout import lay_out
from limbeck.pipeline.learner import Learner
from limbeck.pipeline.measure import measure
from limbeck.pipeline.publish import publish, rebuild_page
from limbeck.pipeline.run import Run
from limbeck.pipeline.walk import Made, opened, walk
from limbeck.progress import Console, Silent
from limbeck.recipe import Recipe, load

__all__ = [
    "STAGES",
    "Learner",
    "Made",
    "Run",
    "RunFolder",
    "compare",
    "evaluate",
    "opened",
    "ratio",
    "report",
    "run",
]

STAGES = ("teacher", "knowledge", "distill", "compress", "export", "evaluate", "report")


def run(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    replace: bool = False,
    reuse: str | Path | None = None,
    until: str = "report",
    console: Console | None = None,
) -> Path:
    """Do what a recipe says, and return the run's folder.

    Stages that are done are skipped; one that was interrupted goes on where it was.

    Args:
        recipe: what to do.
        out: the folder; by default ``runs/NAME``.
        resume: there must be something to go on with.
        replace: stages of another recipe in the folder may be overwritten.
        reuse: another run, whose stages are taken over where they are the same.
        until: stop after ``teacher``, ``knowledge``, ``distill``, ``compress``, ``export``,
            ``evaluate`` or ``report``.
        console: is told how it goes.
    """
    here = place()
    path = Path(out) if out is not None else Path("runs") / recipe.name
    folder = RunFolder(path, main=here.rank == 0, barrier=_barrier(here.world))
    running = Run(recipe, folder, (console or Silent()) if here.rank == 0 else Silent())
    folder.claim(recipe, resume=resume, replace=replace)
    running.check()
    folder.begin(recipe)
    if reuse is not None:
        folder.reuse(Path(reuse))
    made = Made(running)
    for done in walk(made):
        if done == "export":
            lay_out(running, made.products)
        if done == until:
            return path
    measured = measure(running, made.trained, made.products)
    if until == "evaluate":
        return path
    publish(running, made.trained, measured, made.products)
    return path


def evaluate(folder: str | Path, *, console: Console | None = None) -> Path:
    """Measure the models of a run again, and write its report anew."""
    path = run_folder(folder)
    recipe = load(str(path))
    here = place()
    if here.rank == 0:
        shutil.rmtree(path / "stages" / "evaluate", ignore_errors=True)
    return run(recipe, path, resume=True, console=console)


def report(folder: str | Path) -> Path:
    """Write the page of a finished run anew, and return its path."""
    path = run_folder(folder)
    if not (path / "report.json").is_file():
        raise InputError(
            f"the run in {path} is not finished", remedy=f"Finish it: limbeck run {path} --resume."
        )
    return rebuild_page(path)


def _barrier(world: int) -> Callable[[], None]:
    """Return what waits for all processes."""
    if world == 1:
        return lambda: None
    from accelerate.utils import wait_for_everyone

    return lambda: wait_for_everyone()
