"""The stages in which a student loses channels, and learns again with the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from limbeck import compress
from limbeck.data.samples import seeded
from limbeck.distill.feed import feed, put
from limbeck.files import read_json, write_json
from limbeck.methods import none
from limbeck.pipeline import build, ship
from limbeck.pipeline.learner import scores
from limbeck.pipeline.product import Product, as_network
from limbeck.progress import Listener
from limbeck.recipe import PrunePart
from limbeck.students import Blueprint, save
from limbeck.students.resize import sizes_of

if TYPE_CHECKING:
    from limbeck.pipeline.run import Run

__all__ = ["pruned", "tried", "untrained"]

_JUDGED = 256  # labelled training samples whose loss ranks channels, for taylor


def pruned(run: Run, product: Product, part: PrunePart) -> Product:
    """Remove channels of a network, round by round, each time distilling what is left.

    Each round is a stage. The last one holds ``student/``, for :func:`limbeck.students.load`.

    Args:
        run: whose network it is.
        product: the network.
        part: how many channels, and how it recovers.
    """
    before = _size(product.network) if product.network else 0
    now = product
    for number in range(1, part.steps + 1):
        name = f"{product.name}-pruned" + (f"-{number}" if number < part.steps else "")
        now = _round(run, now, part, name)
    after = _size(now.network) if now.network else 0
    return replace(now, note=f"{before:,} to {after:,} parameters, {part.importance}")


def untrained(run: Run) -> nn.Module:
    """Return the student's network as it ships, with weights that mean nothing."""
    with seeded(0):  # what is tried out must not change what is drawn later
        return _whole(run).model().eval()


def tried(run: Run, model: nn.Module, part: PrunePart) -> nn.Module:
    """Return an untrained network with as many channels as the trained one will have, or refuse.

    Raises:
        InputError: torch-pruning is missing; a module to keep is not known; too much or nothing
            can be removed.
    """
    with seeded(0):
        return _smaller(run, model, part.model_copy(update={"steps": 1}))


def _round(run: Run, product: Product, part: PrunePart, name: str) -> Product:
    made_from = {
        "model": product.stage.fingerprint,
        "prune": part.model_dump(
            mode="json", exclude={"train": {"trackers", "checkpoint_seconds"}}
        ),
    }

    def work(path: Path, listener: Listener) -> str:
        assert product.network is not None
        model = _smaller(run, product.network(), part)
        sizes = sizes_of(model, untrained(run))
        told = run.relearn(path, listener, model, product.seed, part.train)
        if run.here.rank == 0:
            write_json(path / "sizes.json", sizes)
            found = scores(read_json(path / "training.json"))
            facts = ship.student_facts(run, product.seed, found)
            plan = replace(_whole(run), sizes=sizes)
            save(path / "student", model.cpu(), plan, facts, run.data.reader)
        return f"{sum(p.numel() for p in model.parameters()):,} parameters, {told}"

    stage = run.stage(name, made_from, work)

    def network() -> nn.Module:
        model = replace(_whole(run), sizes=read_json(stage.path / "sizes.json")).model()
        model.load_state_dict(load_file(stage.path / "best.safetensors"))
        return model.eval()

    return as_network(run, name, stage, product.seed, network)


def _smaller(run: Run, model: nn.Module, part: PrunePart) -> nn.Module:
    """Return a network without the channels that one round removes."""
    goal = "parameters" if part.parameters is not None else "macs"
    fraction = compress.rounds(getattr(part, goal), part.steps)[0]
    return compress.prune(
        model,
        _inputs(run),
        **{goal: fraction},
        importance=part.importance,
        scope=part.scope,
        keep=part.keep,
        multiple=part.multiple,
        loss=_loss(run) if part.importance == "taylor" else None,
    )


def _whole(run: Run) -> Blueprint:
    """Return how the student is built as it ships, before it lost anything."""
    return replace(run.plans["student"], lora=None)


def _inputs(run: Run) -> Any:
    """Return two validation samples as the network is called with them."""
    batch = next(ship.validation(run, 2, 2))
    first = build.preprocess(run.recipe, run.recipe.student)
    inputs = run.task.inputs(batch)
    return inputs if first is None else first(inputs)


def _loss(run: Run) -> Callable[[nn.Module], Tensor]:
    """Return what gives a network's loss on labelled training samples."""
    labelled = run.data.labelled
    some = labelled.subset(torch.arange(min(_JUDGED, len(labelled))))
    batch = put(next(feed(some, _JUDGED, torch.device("cpu")).epoch(0)), torch.device("cpu"))

    def loss(model: nn.Module) -> Tensor:
        judge = run.distiller(model, None, none())
        value: Tensor = judge(batch).loss
        judge.release()
        return value

    return loss


def _size(network: Callable[[], nn.Module]) -> int:
    return sum(weight.numel() for weight in network().parameters())
