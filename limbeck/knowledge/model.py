"""Calling any model, reading its answer, counting its arithmetic.

Letters: B samples, T tokens, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from limbeck.errors import InputError

__all__ = ["at_rest", "call", "describe", "logits_of", "macs"]


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Run a model in eval mode and without gradients, then put every module's mode back."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Let no weight ask for a gradient: a view of one, without a graph, confuses the counter."""
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in learning:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in learning:
            weight.requires_grad_(True)


def call(model: Callable[..., Any], inputs: Any) -> Any:
    """Call a model with a tensor, a tuple of arguments, or a mapping of named ones.

    >>> call(lambda a, b: a + b, (1, 2)), call(lambda a, b: a + b, {"a": 1, "b": 2})
    (3, 3)
    """
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple):
        return model(*inputs)
    return model(inputs)


def logits_of(output: Any) -> Tensor:
    """Return the logits in what a model returned: itself, an entry of it, or its first item.

    The entry is ``logits``, as Hugging Face calls them, or ``out``, as torchvision does.

    >>> logits_of({"logits": torch.zeros(1, 2), "loss": None}).shape
    torch.Size([1, 2])
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        found = output.get("logits", output.get("out"))
    else:
        found = output[0] if isinstance(output, Sequence) and output else None
    if isinstance(found, Tensor):
        return found
    raise InputError(
        f"the model returned {describe(output)}",
        expected="logits: a tensor, a mapping with 'logits' or 'out', or a tuple that begins with "
        "a tensor",
    )


def describe(value: Any) -> str:
    """Say what kind of value it is, for messages."""
    if isinstance(value, Mapping):
        return f"a mapping with {', '.join(map(repr, value))}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def macs(model: nn.Module, inputs: Any) -> tuple[int | None, float | None]:
    """Count multiply-accumulates of one call, and the share of the weights that were counted.

    Convolutions, matrix products and attention are counted, element-wise operations are not.

    Returns:
        The count and the coverage; ``None`` for both if the model has no matrix at all.

    >>> macs(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 8, 8))
    (13824, 1.0)
    """
    with at_rest(model), _frozen(model), FlopCounterMode(display=False) as counter:
        call(model, inputs)
    counted = counter.get_flop_counts()
    root = type(model).__name__
    total = seen = 0
    for name, module in model.named_modules():
        own = sum(p.numel() for p in module.parameters(recurse=False) if p.ndim > 1)
        here = sum(counted.get(f"{root}.{name}" if name else root, {}).values())
        total += own
        seen += own if here else 0
    flops = int(counter.get_total_flops())
    return (flops // 2, seen / total) if total else (None, None)
