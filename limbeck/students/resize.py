"""Building a pruned network again: the whole one, cut to the blocks and sizes that were kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from limbeck.errors import InputError

__all__ = ["Layers", "Sizes", "composed", "keep_layers", "resize", "sizes_of"]

Sizes = Mapping[str, Sequence[int]]
"""The shapes of a model's tensors by name, of those that differ from a freshly built one's."""

Layers = Mapping[str, Sequence[int]]
"""Which members stay, by the path of a list of blocks; lists that stay whole are left out."""


def keep_layers(model: nn.Module, layers: Layers) -> nn.Module:
    """Remove members of lists of blocks, in place, and return the model; the rest is renumbered.

    Args:
        model: whole, as it was built.
        layers: of each list, the numbers of the members that stay, ascending.

    Raises:
        InputError: the model has no such list, or too short a one.

    >>> keep_layers(nn.Sequential(nn.ReLU(), nn.Tanh(), nn.ReLU()), {"": [1]})
    Sequential(
      (0): Tanh()
    )
    """
    for path, kept in layers.items():
        owner = dict(model.named_modules()).get(path)
        if not isinstance(owner, (nn.ModuleList, nn.Sequential)) or max(kept) >= len(owner):
            raise InputError(
                f"members {', '.join(map(str, kept))} of {path!r}, which {type(model).__name__} "
                "does not have",
                expected="a list of blocks of the same model",
            )
        for place in sorted(set(range(len(owner))) - set(kept), reverse=True):
            del owner[place]
    return model


def composed(before: Layers, after: Layers) -> dict[str, list[int]]:
    """Return what is left of a whole model's lists if they are cut twice.

    >>> composed({"blocks": [0, 2, 3]}, {"blocks": [1, 2]})
    {'blocks': [2, 3]}
    """
    found = {path: list(kept) for path, kept in before.items()}
    for path, kept in after.items():
        first = found.get(path)
        found[path] = list(kept) if first is None else [first[place] for place in kept]
    return found


def sizes_of(model: nn.Module, whole: nn.Module) -> dict[str, list[int]]:
    """Return the shapes of a pruned model's tensors, where they differ from the whole model's.

    Args:
        model: pruned.
        whole: as it was built.

    Raises:
        InputError: the models' tensors have different names: one is not the other, pruned.
    """
    own, before = model.state_dict(), whole.state_dict()
    if own.keys() != before.keys():
        strange = sorted(own.keys() ^ before.keys())
        raise InputError(
            f"{type(model).__name__} and {type(whole).__name__} differ in {strange[0]}",
            expected="the same model, one of them pruned",
        )
    return {name: list(t.shape) for name, t in own.items() if t.shape != before[name].shape}


def resize(model: nn.Module, sizes: Sizes) -> nn.Module:
    """Cut a model's layers to sizes, in place, and return it; what is cut becomes zero.

    Convolutions, linear layers, norms and embeddings also learn their new numbers of channels. Of
    depthwise convolutions the groups follow the channels.

    Args:
        model: whole, as it was built.
        sizes: by the names of its tensors, as :func:`sizes_of` returns them.

    Raises:
        InputError: the model has no tensor of that name, or one with other dimensions.

    >>> resize(nn.Sequential(nn.Linear(4, 8)), {"0.weight": [3, 4], "0.bias": [3]})
    Sequential(
      (0): Linear(in_features=4, out_features=3, bias=True)
    )
    """
    state = model.state_dict()
    for name, shape in sizes.items():
        if name not in state or state[name].ndim != len(shape):
            known = f"{tuple(state[name].shape)}" if name in state else "nothing"
            raise InputError(
                f"a size of {tuple(shape)} for {name}, where {type(model).__name__} has {known}",
                expected="sizes of the same model",
            )
        path, _, own = name.rpartition(".")
        owner = model.get_submodule(path)
        old = getattr(owner, own)
        new = torch.zeros(*shape, dtype=old.dtype, device=old.device)
        if isinstance(old, nn.Parameter):
            setattr(owner, own, nn.Parameter(new, requires_grad=old.requires_grad))
        else:
            setattr(owner, own, new)
    for path in {name.rpartition(".")[0] for name in sizes}:
        _say_sizes(model.get_submodule(path))
    return model


def _say_sizes(layer: Any) -> None:
    """Let a layer's own numbers follow the shape of its weight."""
    weight = getattr(layer, "weight", None)
    if weight is None:
        return
    if isinstance(layer, _ConvNd):
        one, two = weight.shape[:2]
        if layer.groups == layer.out_channels:
            layer.groups = one
        ways = (one, two * layer.groups) if layer.transposed else (two * layer.groups, one)
        layer.in_channels, layer.out_channels = ways
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = weight.shape
    elif isinstance(layer, _NormBase):
        layer.num_features = len(weight)
    elif isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = tuple(weight.shape)
    elif isinstance(layer, nn.GroupNorm):
        layer.num_channels = len(weight)
    elif isinstance(layer, nn.Embedding):
        layer.num_embeddings, layer.embedding_dim = weight.shape
