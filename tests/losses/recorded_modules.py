"""Putting recorded parameters into modules of ours, and the checks that all loss modules share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from recorded_parts import tensor
from torch import Tensor, nn


def loaded(module: nn.Module, case: Mapping[str, Any], order: Sequence[str] = ()) -> dict[str, str]:
    """Give a module the recorded parameters; return the recorded name of each of its own.

    Args:
        module: made double here.
        case: the record's case.
        order: names of the module's tensors in the order of the record; by default its own.
    """
    own = list(order) or names(module)
    given = case["parameters"]
    assert len(own) == len(given)
    state = module.double().state_dict()
    for name, one in zip(own, given, strict=True):
        values = (
            torch.full(one["shape"], one["constant"], dtype=torch.float64)
            if "constant" in one
            else tensor(one)
        )
        assert state[name].shape == values.shape, (name, one["key"])
        state[name] = values
    module.load_state_dict(state)
    return {name: one["key"] for name, one in zip(own, given, strict=True)}


def names(module: nn.Module) -> list[str]:
    """Return the names of a module's tensors but counters, in order."""
    return [name for name in module.state_dict() if not name.endswith("num_batches_tracked")]


def learns(loss: nn.Module, student: Any, teacher: Any, **options: Any) -> list[str]:
    """Return what is wrong with a module's learning: gradients, a step, a copy of its state."""
    found = []
    trained = {name: p for name, p in loss.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in loss.named_parameters()}
    optimizer = torch.optim.SGD(loss.parameters(), lr=1e-4)
    first = loss(student, teacher, **options)
    first.backward()
    found += [f"{name} gets no gradient" for name, p in trained.items() if p.grad is None]
    found += [f"{n}'s gradient is not finite" for n, p in trained.items() if not _finite(p.grad)]
    optimizer.step()
    for name, p in loss.named_parameters():
        if torch.equal(p, before[name]) == (name in trained):
            found.append(f"{name} {'stays' if name in trained else 'changes'}")
    if not loss(student, teacher, **options) < first:
        found.append("a step does not make the loss smaller")
    return found


def _finite(gradient: Tensor | None) -> bool:
    return gradient is None or bool(torch.isfinite(gradient).all())
