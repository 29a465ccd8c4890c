"""Making a trained network smaller by removing whole layers: blocks that add to what comes in.

Letters: B samples, L blocks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from limbeck.errors import InputError, unknown
from limbeck.knowledge.model import at_rest, call, logits_of
from limbeck.students.resize import Layers, keep_layers
from limbeck.students.zoo._parts import scaled

__all__ = ["shorten"]

_CLOSE = 1e-4
_INPUTS = "hidden_states"  # what comes in, by its name in transformers


def shorten(
    model: nn.Module,
    inputs: Any,
    *,
    layers: float,
    keep: Sequence[str] = (),
    answers: Callable[[nn.Module], Tensor] | None = None,
) -> tuple[nn.Module, Layers]:
    """Return a copy of a trained network without its least important blocks, and which it kept.

    A block is a member of a list of like modules whose output has the shape of its input: a block
    of a Transformer, a residual block of a ResNet. Its importance is by how much the network's
    answers change if it is skipped, as the mean of squared differences. The least important block
    goes, the others are looked at again without it, and so on. A block is only taken if the
    network without it answers as the network that skips it. The rest keeps its weights: train the
    copy to recover.

    Args:
        model: is not changed.
        inputs: some samples as it is called with; validation samples, not test samples.
        layers: the fraction of the L blocks to keep, above 0 and below 1, to the nearest number, as
            :func:`limbeck.students.shrink` counts.
        keep: paths of modules that stay, and all within them.
        answers: returns a model's answers to the samples, by which changes are judged; by default
            its logits for ``inputs``.

    Raises:
        InputError: ``layers`` lies outside (0, 1), or is so much that all blocks stay; an unknown
            module; the network has no such blocks, or not enough that can be skipped.

    Source: Men et al. 2024, "ShortGPT", arXiv:2403.03853, and Gromov et al. 2024, arXiv:2403.17887,
    remove layers of language models so, by how little their states change; here it is the answers.

    >>> import torch
    >>> from limbeck.students import zoo
    >>> model = zoo.build("vit", depth=4, width=8, heads=2, image=(1, 8, 8))
    >>> shorter, kept = shorten(model, torch.randn(4, 1, 8, 8), layers=0.5)
    >>> len(shorter.blocks), len(kept["blocks"])
    (2, 2)
    """
    if not 0 < layers < 1:
        raise InputError(f"layers is {layers}", expected="a fraction above 0 and below 1")
    names = dict(model.named_modules())
    for name in keep:
        if name not in names:
            raise unknown(f"module of {type(model).__name__} to keep:", name, filter(None, names))
    found = _blocks(model, inputs)
    free = [each for each in found if not any(_within(each.path, name) for name in keep)]
    gone = _count(model, found, free, layers)
    judge = answers or (lambda network: logits_of(call(network, inputs)))
    taken = _least(copy.deepcopy(model), free, gone, judge)
    lists = {each.owner for each in found}
    kept = {
        owner: [n for n in range(len(_members(model, owner))) if (owner, n) not in taken]
        for owner in sorted(lists)
        if any(owner == path for path, _ in taken)
    }
    return keep_layers(copy.deepcopy(model), kept), kept


@dataclass(frozen=True)
class _Block:
    """A block, and its place in a list of blocks."""

    owner: str
    place: int
    alone: bool  # whether it could go by itself

    @property
    def path(self) -> str:
        return f"{self.owner}.{self.place}" if self.owner else str(self.place)


def _blocks(model: nn.Module, inputs: Any) -> list[_Block]:
    """Return the members of all lists of like blocks, and which of them can go."""
    found: list[_Block] = []
    for owner, holder in model.named_modules():
        if not isinstance(holder, (nn.ModuleList, nn.Sequential)) or len(holder) < 2:
            continue
        members = list(holder)
        like = len({type(each) for each in members}) == 1
        inside = any(_within(owner, each.owner) for each in found)
        if like and not inside and all(any(True for _ in each.children()) for each in members):
            fits = [_fits(model, inputs, owner, place) for place in range(len(members))]
            if any(fits):
                found += [_Block(owner, place, alone) for place, alone in enumerate(fits)]
    return found


def _fits(model: nn.Module, inputs: Any, owner: str, place: int) -> bool:
    """Say whether the model without a block answers as the model that skips it."""
    stay = [n for n in range(len(_members(model, owner))) if n != place]
    try:
        without = keep_layers(copy.deepcopy(model), {owner: stay})
        with at_rest(model), _skipping([_members(model, owner)[place]]):
            wanted = logits_of(call(model, inputs))
        with at_rest(without):
            came = logits_of(call(without, inputs))
    except Exception:  # A network of any kind can raise anything; the block then stays.
        return False
    close = _CLOSE * wanted.abs().max().clamp(min=1e-6)
    return wanted.shape == came.shape and bool((wanted - came).abs().max() <= close)


def _count(model: nn.Module, found: list[_Block], free: list[_Block], layers: float) -> int:
    """Return how many blocks have to go, or refuse."""
    can = [each for each in free if each.alone]
    lists = {each.owner for each in found}
    most = sum(
        min(
            sum(each.owner == owner for each in can),
            sum(each.owner == owner for each in found) - 1,
        )
        for owner in lists
    )
    if not most:
        raise InputError(
            f"{type(model).__name__} has no layers that could be removed",
            expected="a list of two or more like blocks that add to what comes in",
            remedy="Prune to parameters or macs instead: that removes channels and heads.",
        )
    gone = len(found) - scaled(len(found), layers)
    if gone == 0:
        raise InputError(
            f"layers is {layers}: all of {len(found)} stay",
            expected=f"at most {1 - 1 / len(found):.3g}",
        )
    if gone > most:
        raise InputError(
            f"layers is {layers}: {gone} of {len(found)} would go",
            expected=f"at most {most}: some change the shape of what comes in, are to be kept, or "
            "are the last of a list",
        )
    return gone


def _least(
    model: nn.Module, free: list[_Block], gone: int, judge: Callable[[nn.Module], Tensor]
) -> set[tuple[str, int]]:
    """Return the blocks that go: one after another, that whose loss changes the answers least."""
    left = {(each.owner, each.place): each for each in free if each.alone}
    out: list[_Block] = []
    with at_rest(model):
        whole = judge(model).float()
        while len(out) < gone:
            changes: dict[tuple[str, int], float] = {}
            for key, each in left.items():
                if sum(one.owner == each.owner for one in out) + 1 == len(_members(model, key[0])):
                    continue  # the last of its list
                skipped = [_members(model, one.owner)[one.place] for one in [*out, each]]
                with _skipping(skipped):
                    changes[key] = float((judge(model).float() - whole).square().mean())
            out.append(left.pop(min(changes, key=lambda key: changes[key])))
    return {(each.owner, each.place) for each in out}


@contextmanager
def _skipping(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Let blocks return what comes in."""

    def skip(block: nn.Module, args: Any, named: Any, output: Any) -> Any:
        came = args[0] if args else named[_INPUTS]
        if not isinstance(output, tuple):
            return came
        return (came, *output[1:])

    hooks = [block.register_forward_hook(skip, with_kwargs=True) for block in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _members(model: nn.Module, owner: str) -> Any:
    return model.get_submodule(owner)


def _within(name: str, kept: str) -> bool:
    return name == kept or name.startswith(f"{kept}.")
