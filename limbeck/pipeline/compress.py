"""The stages that make a student smaller after it has learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck import export
from limbeck.errors import InputError
from limbeck.pipeline import build, prune, quantize
from limbeck.pipeline.product import Product

if TYPE_CHECKING:
    from limbeck.pipeline.run import Run

__all__ = ["check", "compressed"]


def check(run: Run) -> None:
    """Try a recipe's steps and formats on an untrained student, before anything is trained.

    Raises:
        InputError: a package is missing; a step's options or a format do not fit the student.
    """
    _check_formats(run)
    checks = [found for name in run.recipe.export if (found := export.get(name).check)]
    if not run.recipe.compress and not checks:
        return
    model, plan = prune.untrained(run)
    for refuse in checks:
        refuse(model, build.preprocess(run.recipe, run.recipe.student))
    for step in run.recipe.compress:
        if step.prune is not None:
            model, plan = prune.tried(run, model, plan, step.prune)
        if step.quantize is not None:
            quantize.check(model, step.quantize)


def _check_formats(run: Run) -> None:
    """Refuse to write a network that has lost something as its library would build it whole."""
    pruned = run.recipe.student.prune or any(step.prune for step in run.recipe.compress)
    for name in run.recipe.export if pruned else ():
        if export.get(name).whole:
            raise InputError(
                f"export: {name}, and a student that is pruned",
                expected="a network as its library builds it: such a folder says how many layers "
                "and heads there are in each",
                remedy="Export it as onnx or program; students.load reads a pruned student.",
            )


def compressed(run: Run, student: Product) -> list[Product]:
    """Do a recipe's steps, each with the last network; return all that was made, in order.

    Args:
        run: whose student it is.
        student: that ships.
    """
    network, made = student, list[Product]()
    for step in run.recipe.compress:
        if step.prune is not None:
            network = prune.pruned(run, network, step.prune)
            made.append(network)
        if step.quantize is not None:
            made += quantize.quantized(run, network, step.quantize)
    return list({product.name: product for product in made}.values())
