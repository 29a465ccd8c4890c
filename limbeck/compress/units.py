"""What can be removed from a network without breaking it: channels, hidden features, heads.

A unit is removed from every layer that it reaches at once. Which layers those are,
``torch-pruning`` finds by following the calculation (its dependency graph). Here it is tried out: a
set of layers is only taken if the network without one of its units says the same as the whole
network that ignores that unit.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from limbeck.errors import InputError
from limbeck.imports import needed
from limbeck.knowledge.model import at_rest, call

__all__ = ["Coupled", "coupled", "graph", "head_width"]

_ATTENTION = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
)
_FUSED = "qkv"  # one layer that makes all three, one after another
_HEAD_WIDTHS = ("head_dim", "attention_head_size")
_CLOSE = 1e-3


@dataclass(frozen=True)
class Coupled:
    """Layers that lose their units together.

    Attributes:
        layer: path of the module whose outputs the units are.
        units: of each unit, its places among these outputs: one of a channel, several of a head
            (in each of three parts, where queries, keys and values are one layer).
    """

    layer: str
    units: tuple[tuple[int, ...], ...]

    def group(self, found: Any, model: nn.Module, gone: list[int]) -> Any:
        """Return all that has to be removed with some units, as ``torch-pruning`` says it.

        Args:
            found: the dependency graph of the model.
            model: with the layer in it.
            gone: the numbers of the units.
        """
        prune = needed("torch_pruning", "compress")
        layer = model.get_submodule(self.layer)
        places = sorted(place for unit in gone for place in self.units[unit])
        if isinstance(layer, nn.Linear):
            return found.get_pruning_group(layer, prune.prune_linear_out_channels, places)
        return found.get_pruning_group(layer, prune.prune_conv_out_channels, places)


def graph(model: nn.Module, inputs: Any) -> Any:
    """Return ``torch-pruning``'s dependency graph of a model.

    Args:
        model: all of whose weights have gradients.
        inputs: what it is called with.

    Raises:
        InputError: its calculation cannot be followed.
    """
    prune = needed("torch_pruning", "compress")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Unwrapped parameters")
            return prune.DependencyGraph().build_dependency(
                model,
                example_inputs=inputs,
                forward_fn=call,
                output_transform=lambda said: [t for t in _tensors(said) if t.requires_grad],
                verbose=False,
            )
    except Exception as error:  # Following a calculation of any kind can raise anything.
        raise InputError(
            f"torch-pruning cannot follow {type(model).__name__}: {type(error).__name__}: {error}",
            expected="a network of convolutions, linear layers, norms and attention",
            remedy="Train a smaller student instead, or shrink it.",
        ) from error


def coupled(model: nn.Module, inputs: Any, keep: tuple[str, ...] = ()) -> list[Coupled]:
    """Return the sets of layers from which units can be removed, in the order of the network.

    Left alone are layers that make the answer, such as classifiers; the states between a
    Transformer's blocks, whose norms look at all features at once; and whatever turns out to
    answer otherwise without a unit than by ignoring it.

    Args:
        model: in eval mode, all of its weights with gradients.
        inputs: what it is called with.
        keep: paths of modules whose outputs stay as they are, all within them too.
    """
    found = graph(model, inputs)
    names = {module: name for name, module in model.named_modules()}
    heads = head_width(model)
    sets: list[Coupled] = []
    for group in found.get_all_groups(root_module_types=[nn.modules.conv._ConvNd, nn.Linear]):
        name = names[group[0].dep.target.module]
        reached = {names.get(part.dep.target.module, "") for part in group if _leaves(part)}
        if any(_within(each, kept) for each in reached for kept in keep):
            continue
        width = max((heads.get(each, 1) for each in reached), default=1)
        thirds = 3 if name.rpartition(".")[2] == _FUSED and name in heads else 1
        candidate = Coupled(name, _units(model.get_submodule(name), width, thirds))
        if len(candidate.units) > 1 and _holds(model, inputs, candidate):
            sets.append(candidate)
    order = {name: place for place, name in enumerate(names.values())}
    return sorted(sets, key=lambda each: order[each.layer])


def head_width(model: nn.Module) -> dict[str, int]:
    """Return the features of a head, by the paths of the layers that make queries, keys, values.

    Known are modules with three linear layers of these names and of one size, or one layer
    ``qkv``, which say how wide a head is.

    >>> from limbeck.students import zoo
    >>> head_width(zoo.build("transformer", vocab=10, width=8, depth=1, heads=2, classes=2))
    {'blocks.0.query': 4, 'blocks.0.key': 4, 'blocks.0.value': 4}
    """
    known: dict[str, int] = {}
    for name, module in model.named_modules():
        parts, said = dict(module.named_children()), vars(module)
        width = next((said[key] for key in _HEAD_WIDTHS if isinstance(said.get(key), int)), None)
        for trio in _ATTENTION:
            layers = [parts.get(each) for each in trio]
            sizes = {each.out_features for each in layers if isinstance(each, nn.Linear)}
            if width and len(sizes) == 1 and all(isinstance(each, nn.Linear) for each in layers):
                known |= {f"{name}.{each}" if name else each: width for each in trio}
        fused = parts.get(_FUSED)
        if width and isinstance(fused, nn.Linear) and fused.out_features % (3 * width) == 0:
            known[f"{name}.{_FUSED}" if name else _FUSED] = width
    return known


def _units(layer: nn.Module, width: int, parts: int) -> tuple[tuple[int, ...], ...]:
    """Return a layer's units: channels; heads; or a channel of each of a convolution's groups."""
    size = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    assert isinstance(size, int)
    groups = getattr(layer, "groups", 1)
    if width > 1:
        part = size // parts
        return tuple(
            tuple(start + n for start in range(0, size, part) for n in range(at, at + width))
            for at in range(0, part, width)
        )
    each = size if groups == size else size // groups
    return tuple(tuple(range(at, size, each)) for at in range(each))


def _holds(model: nn.Module, inputs: Any, candidate: Coupled) -> bool:
    """Say whether the model without a unit answers as the whole model that ignores it."""
    unit = [len(candidate.units) // 2]
    ignoring, without = copy.deepcopy(model), copy.deepcopy(model)
    try:
        group = candidate.group(graph(without, inputs), without, unit)
        names = {module: name for name, module in without.named_modules()}
        with torch.no_grad():
            for part in group:
                layer = ignoring.get_submodule(names.get(part.dep.target.module, ""))
                _ignore(layer, part.dep.handler.__name__, part.idxs)
        group.prune()
        with at_rest(ignoring), at_rest(without):
            wanted, came = (_tensors(call(each, inputs)) for each in (ignoring, without))
    except Exception:  # Surgery on a network of any kind can raise anything; it is then left alone.
        return False
    if [t.shape for t in wanted] != [t.shape for t in came]:
        return False
    return all(_alike(a, b) for a, b in zip(wanted, came, strict=True))


def _ignore(module: nn.Module, handler: str, places: list[int]) -> None:
    """Let a dense layer ignore some of its inputs."""
    dense = isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and not (
        getattr(module, "groups", 1) > 1
    )
    if dense and handler == "prune_in_channels":
        weight = module.weight
        assert isinstance(weight, Tensor)
        axis = 0 if getattr(module, "transposed", False) else 1
        weight.index_fill_(axis, torch.tensor(places, device=weight.device), 0.0)


def _alike(a: Tensor, b: Tensor) -> bool:
    if not a.is_floating_point():
        return torch.equal(a, b)
    return bool((a - b).abs().max() <= _CLOSE * a.abs().max().clamp(min=1e-6))


def _tensors(said: Any) -> list[Tensor]:
    if isinstance(said, dict):  # transformers' answers are dictionaries that pytrees do not know
        said = dict(said)
    return [t for t in tree_leaves(said) if isinstance(t, Tensor)]


def _leaves(part: Any) -> bool:
    """Say whether a part of a group is the output side of a layer."""
    return bool(part.dep.handler.__name__ == "prune_out_channels")


def _within(name: str, kept: str) -> bool:
    return name == kept or name.startswith(f"{kept}.")
