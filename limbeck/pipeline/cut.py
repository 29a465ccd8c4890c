"""Cutting a trained network: what goes, and what is left of it until it learns again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from limbeck import compress
from limbeck.data.splits import some
from limbeck.distill.feed import feed, put
from limbeck.files import read_json, write_json
from limbeck.knowledge.model import call, logits_of
from limbeck.methods import none
from limbeck.pipeline import build, ship
from limbeck.pipeline.clock import Clock
from limbeck.pipeline.learner import write_weights
from limbeck.recipe import CutPart
from limbeck.students import Blueprint
from limbeck.students.resize import composed, sizes_of

if TYPE_CHECKING:
    from limbeck.pipeline.run import Run

__all__ = ["Cut", "cut", "parameters", "read", "smaller", "told"]

_JUDGED = 256  # labelled training samples whose loss ranks channels; validation samples, layers
_TOGETHER = 64  # of the latter at once
_WEIGHTS = "begins.safetensors"


@dataclass(frozen=True)
class Cut:
    """A network after a cut.

    Attributes:
        plan: how it is built.
        before: how many parameters there were.
        latency: ``before`` and ``after``, medians in milliseconds for one sample, and the
            ``runtime``; empty unless a latency was the goal.
    """

    plan: Blueprint
    before: int
    latency: Mapping[str, Any]


def cut(
    run: Run,
    path: Path,
    whole: Callable[[], nn.Module],
    plan: Blueprint,
    part: CutPart,
    fraction: float,
    first: Callable[[], nn.Module] | None = None,
) -> nn.Module:
    """Cut a network in a stage's folder, once, and return what is left of it.

    A measured latency is never the same twice: what was decided stands in the folder, for a stage
    that is resumed, for all processes and for :func:`read`.

    Args:
        run: whose network it is.
        path: of the stage.
        whole: returns the network.
        plan: how that is built.
        part: what goes.
        fraction: how much of the goal stays.
        first: returns the network with which a latency is compared at the end, if not ``whole``.
    """
    if run.here.rank == 0 and not (path / _WEIGHTS).is_file():
        network = whole()
        made, new = smaller(run, network, plan, part, fraction)
        latency: dict[str, Any] = {}
        if part.latency is not None:  # once more: the choice was by the most favourable try
            clock = Clock(run)
            before, after = clock(network if first is None else first(), made)
            latency = {"before": before, "after": after, "runtime": clock.runtime}
        found = {"sizes": new.sizes, "layers": new.layers, "ranks": new.ranks}
        write_json(
            path / "cut.json", found | {"before": parameters(network), "latency_ms": latency}
        )
        write_weights(path / _WEIGHTS, made.state_dict())
    run.folder.barrier()
    left = read(path, plan).plan.model()
    left.load_state_dict(load_file(path / _WEIGHTS))
    return left


def read(path: Path, plan: Blueprint) -> Cut:
    """Return what :func:`cut` left in a stage's folder.

    Args:
        path: of the stage.
        plan: how the network was built that was cut.
    """
    found = read_json(path / "cut.json")
    left = replace(plan, sizes=found["sizes"], layers=found["layers"], ranks=found.get("ranks", {}))
    return Cut(left, found["before"], found["latency_ms"])


def told(found: Cut, after: int, part: CutPart) -> str:
    """Return a cut in a few words."""
    words = [f"{found.before:,} to {after:,} parameters"]
    if found.latency:
        before, now, runtime = (found.latency[key] for key in ("before", "after", "runtime"))
        words.append(f"{before:.3g} to {now:.3g} ms in {runtime}")
    if found.plan.ranks:
        words.append("embeddings of rank " + ", ".join(map(str, found.plan.ranks.values())))
    if (goal := part.goal()[0]) != "embeddings":
        words.append("layers by what they change" if goal == "layers" else part.importance)
    return ", ".join(words)


def smaller(
    run: Run,
    network: nn.Module,
    plan: Blueprint,
    part: CutPart,
    fraction: float,
    *,
    trial: bool = False,
) -> tuple[nn.Module, Blueprint]:
    """Return a network without what goes, and how it is built.

    Args:
        run: whose network it is.
        network: trained.
        plan: how it is built.
        part: what goes.
        fraction: how much of the goal stays.
        trial: whether weights mean nothing yet. Work then stands for time, which never shrinks by
            more; that the network can be written as ONNX is tried.

    Raises:
        InputError: see :func:`limbeck.compress.prune`, :func:`limbeck.compress.shorten` and
            :func:`limbeck.compress.factorize`.
    """
    goal, _ = part.goal()
    if part.embeddings is not None and not plan.ranks:
        network, ranks = compress.factorize(
            network, _read(run, trial=trial), embeddings=part.embeddings
        )
        plan = replace(plan, ranks=ranks)
    if goal == "embeddings":
        made = network
    elif goal == "layers":
        answers = None if trial else _answers(run)
        made, kept = compress.shorten(
            network, _inputs(run), layers=fraction, keep=part.keep, answers=answers
        )
        plan = replace(plan, layers=composed(plan.layers, kept))
    else:
        options: dict[str, Any] = {goal: fraction}
        if goal == "latency":
            clock = Clock(run)
            options = {"macs": fraction} if trial else options | {"clock": clock}
            if trial:
                clock.written(network)
        made = compress.prune(
            network,
            _inputs(run),
            **options,
            importance=part.importance,
            scope=part.scope,
            keep=part.keep,
            multiple=part.multiple,
            loss=_loss(run) if part.importance == "taylor" else None,
        )
    return made, replace(plan, sizes=sizes_of(made, replace(plan, sizes={}).model()))


def parameters(network: nn.Module) -> int:
    """Return how many numbers a network learns."""
    return sum(weight.numel() for weight in network.parameters())


def _first(run: Run) -> Callable[[Any], Any]:
    return build.preprocess(run.recipe, run.recipe.student) or nn.Identity()


def _inputs(run: Run) -> Any:
    """Return two validation samples as the network is called with them."""
    return _first(run)(run.task.inputs(next(ship.validation(run, 2, 2))))


def _read(run: Run, *, trial: bool) -> Iterator[Any]:
    """Yield what the network is called with for all training samples; of a trial, for two."""
    if trial:
        yield _inputs(run)
        return
    first = _first(run)
    for batch in feed(run.data.train, _JUDGED, torch.device("cpu")).epoch(0):
        yield first(run.task.inputs(run.task.named(batch)))


def _answers(run: Run) -> Callable[[nn.Module], Tensor]:
    """Return what gives a network's logits for validation samples, those that count."""
    batches, first = list(ship.validation(run, _JUDGED, _TOGETHER)), _first(run)

    def answers(network: nn.Module) -> Tensor:
        found = []
        for batch in batches:
            logits = logits_of(call(network, first(run.task.inputs(batch))))
            mask = run.task.mask(batch)
            fits = mask is not None and mask.shape == logits.shape[: mask.ndim]
            found.append((logits[mask.bool()] if fits and mask is not None else logits).flatten())
        return torch.cat(found)

    return answers


def _loss(run: Run) -> Callable[[nn.Module], Tensor]:
    """Return what gives a network's loss on labelled training samples."""
    judged = some(run.data.labelled, _JUDGED)
    batch = put(next(feed(judged, _JUDGED, torch.device("cpu")).epoch(0)), torch.device("cpu"))

    def loss(model: nn.Module) -> Tensor:
        judge = run.distiller(model, None, none())
        value: Tensor = judge(batch).loss
        judge.release()
        return value

    return loss
