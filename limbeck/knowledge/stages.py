"""Where a model's stages are: found by watching it run once.

Letters: B samples, C channels, H×W positions, N tokens, D features.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.knowledge.model import at_rest, call

__all__ = ["penultimate", "stages"]


def stages(model: nn.Module, inputs: Any) -> list[str]:
    """Return the names of the modules at which a model's stages end, in order.

    In a convolutional network a stage is all that happens at one resolution: the last of the
    outermost modules whose output has that height and width, 1×1 left out. In a Transformer it is
    one block of the longest run of like modules. In a stack of linear layers it is each hidden one.

    >>> import torch
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3),
    ...                       nn.Flatten(), nn.Linear(8, 2))
    >>> stages(model, torch.zeros(1, 1, 8, 8))
    ['1', '2']
    """
    trace = _trace(model, inputs)
    blocks = _blocks(model, {name for name, _, out in trace if out.ndim == 3})
    if blocks:  # before maps are looked for: images become tokens by a convolution
        return blocks
    ends: dict[tuple[int, ...], str] = {}
    for name, _, out in trace:
        size = tuple(out.shape[2:])
        if out.ndim == 4 and size != (1, 1):
            inner = size in ends and name.count(".") > ends[size].count(".")
            ends[size] = ends[size] if inner else name
    if ends:
        return list(ends.values())
    blocks = _blocks(model, {name for name, _, _ in trace})
    if blocks:
        return blocks
    hidden = [name for name, module, _ in trace if isinstance(module, nn.Linear)]
    return hidden[:-1]


def penultimate(model: nn.Module, inputs: Any) -> str:
    """Return the tap of what enters the last linear layer that runs.

    >>> import torch
    >>> penultimate(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 4))
    '2:input'
    """
    linear = [name for name, module, _ in _trace(model, inputs) if isinstance(module, nn.Linear)]
    if not linear:
        raise InputError(
            f"{type(model).__name__} has no linear layer, so 'penultimate' is nowhere",
            remedy="Name a module instead.",
        )
    return f"{linear[-1]}:input"


def _trace(model: nn.Module, inputs: Any) -> list[tuple[str, nn.Module, Tensor]]:
    """Return the submodules in the order in which they finish, with their tensor outputs."""
    seen: list[tuple[str, nn.Module, Tensor]] = []

    def noting(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
                output = output[0]
            if isinstance(output, Tensor):
                seen.append((name, module, output))

        return hook

    named = [(name, module) for name, module in model.named_modules() if name]
    handles = [module.register_forward_hook(noting(name)) for name, module in named]
    try:
        with at_rest(model):
            call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _blocks(model: nn.Module, ran: set[str]) -> list[str]:
    """Return the longest run (two or more) of like modules in one list."""
    best: list[str] = []
    for name, holder in model.named_modules():
        if not isinstance(holder, (nn.ModuleList, nn.Sequential)):
            continue
        prefix = f"{name}." if name else ""
        children = [(f"{prefix}{key}", type(child)) for key, child in holder.named_children()]
        kinds = {kind for _, kind in children}
        inside = [key for key, _ in children if key in ran]
        composite = all(any(True for _ in child.children()) for child in holder.children())
        if len(kinds) == 1 and composite and len(inside) > max(1, len(best)):
            best = inside
    return best
