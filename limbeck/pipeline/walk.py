"""The stages of a run in their order: done one after another, or found done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from limbeck.pipeline import ship
from limbeck.pipeline.compress import compressed
from limbeck.pipeline.folder import Finished, RunFolder, run_folder
from limbeck.pipeline.product import Product
from limbeck.pipeline.run import Run
from limbeck.progress import Silent
from limbeck.recipe import load
from limbeck.teachers import Knowing

__all__ = ["Made", "opened", "walk"]


@dataclass
class Made:
    """What a run has made so far.

    Attributes:
        run: the run.
        trained: the stages that trained models, the teacher's first.
        student: the one that ships; ``None`` as long as there is none.
        products: what was made of it, smaller networks and files.
    """

    run: Run
    trained: list[Finished] = field(default_factory=list)
    student: Product | None = None
    products: list[Product] = field(default_factory=list)

    def teacher(self) -> Knowing:
        """Return the teacher."""
        return self.run.load_teacher(self.trained[0])


def walk(made: Made) -> Iterator[str]:
    """Do the stages that make models, and tell the name of each group when it is done."""
    run = made.run
    teacher = run.teacher()
    made.trained = [teacher]
    yield "teacher"
    run.begin(teacher)
    texts = run.texts(teacher)
    known = run.knowledge(teacher, texts)
    yield "knowledge"
    for seed in run.recipe.seeds:
        made.trained.append(run.student(seed, teacher, known, texts))
        if run.recipe.control:
            made.trained.append(run.control(seed))
    yield "distill"
    made.student = ship.shipped(run, made.trained)
    made.products = compressed(run, made.student)
    yield "compress"
    files = ship.exports(run, [made.student, *made.products])
    made.products = list({each.name: each for each in [*made.products, *files]}.values())
    yield "export"


def opened(folder: str | Path) -> Made:
    """Return what a finished run made; nothing is trained or written.

    Raises:
        InputError: the folder is no run's, the run is not finished, or its data or code are no
            longer what they were.
    """
    path = run_folder(folder)
    made = Made(Run(load(str(path)), RunFolder(path, closed=True), Silent()))
    for _ in walk(made):
        pass
    return made
