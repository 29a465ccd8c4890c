"""The stages that make a student smaller after it has learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.pipeline import prune, quantize
from limbeck.pipeline.product import Product

if TYPE_CHECKING:
    from limbeck.pipeline.run import Run

__all__ = ["check", "compressed"]


def check(run: Run) -> None:
    """Try a recipe's steps on an untrained student, before anything is trained.

    Raises:
        InputError: a package is missing; a step's options do not fit the student.
    """
    if not run.recipe.compress:
        return
    model = prune.untrained(run)
    for step in run.recipe.compress:
        if step.prune is not None:
            model = prune.tried(run, model, step.prune)
        if step.quantize is not None:
            quantize.check(model, step.quantize)


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
