"""The stages in which a student loses channels or layers, and learns again with the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file
from torch import nn

from limbeck import compress
from limbeck.data.samples import seeded
from limbeck.files import read_json
from limbeck.pipeline import ship
from limbeck.pipeline.cut import cut, parameters, read, smaller, told
from limbeck.pipeline.learner import scores
from limbeck.pipeline.product import Product, as_network
from limbeck.progress import Listener
from limbeck.recipe import PrunePart
from limbeck.students import Blueprint, save

if TYPE_CHECKING:
    from limbeck.pipeline.run import Run

__all__ = ["pruned", "tried", "untrained"]


def pruned(run: Run, product: Product, part: PrunePart) -> Product:
    """Remove channels or layers of a network, round by round, each time distilling what is left.

    Each round is a stage. The last one holds ``student/``, for :func:`limbeck.students.load`.

    Args:
        run: whose network it is.
        product: the network.
        part: how many, and how it recovers.
    """
    assert product.network is not None
    before, now = parameters(product.network()), product
    for number in range(1, part.steps + 1):
        name = f"{product.name}-pruned" + (f"-{number}" if number < part.steps else "")
        now = _round(run, product, now, part, name)
    assert now.network is not None
    assert now.plan is not None
    found = replace(read(now.stage.path, now.plan), before=before)
    return replace(now, note=told(found, parameters(now.network()), part))


def untrained(run: Run) -> tuple[nn.Module, Blueprint]:
    """Return the student's network as it ships, with weights that mean nothing, and its plan."""
    plan = replace(run.plans["student"], lora=None)
    with seeded(0):  # what is tried out must not change what is drawn later
        return plan.model().eval(), plan


def tried(
    run: Run, network: nn.Module, plan: Blueprint, part: PrunePart
) -> tuple[nn.Module, Blueprint]:
    """Return an untrained network with as many channels as the trained one will have, or refuse.

    Raises:
        InputError: torch-pruning is missing; a module to keep is not known; too much or nothing
            can be removed.
    """
    with seeded(0):
        return smaller(run, network, plan, part, part.goal()[1], trial=True)


def _round(run: Run, whole: Product, product: Product, part: PrunePart, name: str) -> Product:
    """Do one round.

    Args:
        run: whose network it is.
        whole: the network before the first round.
        product: the network before this one.
        part: what goes in all rounds.
        name: of the stage.
    """
    network, plan = product.network, product.plan
    assert network is not None
    assert plan is not None
    fraction = compress.rounds(part.goal()[1], part.steps)[0]
    made_from = {
        "model": product.stage.fingerprint,
        "prune": part.model_dump(
            mode="json", exclude={"train": {"trackers", "checkpoint_seconds"}}
        ),
    }

    def work(path: Path, listener: Listener) -> str:
        model = cut(run, path, network, plan, part, fraction, whole.network)
        done = run.relearn(path, listener, model, product.seed, part.train)
        if run.here.rank == 0:
            facts = ship.student_facts(run, product.seed, scores(read_json(path / "training.json")))
            save(path / "student", model.cpu(), read(path, plan).plan, facts, run.data.reader)
        return f"{parameters(model):,} parameters, {done}"

    stage = run.stage(name, made_from, work)
    left = read(stage.path, plan).plan

    def recovered() -> nn.Module:
        model = left.model()
        model.load_state_dict(load_file(stage.path / "best.safetensors"))
        return model.eval()

    return as_network(run, name, stage, product.seed, recovered, left)
