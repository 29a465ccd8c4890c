"""How a loss runs: compiled, under ``torch.func``, and without waiting for its device."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from limbeck.testing.case import LossCase, has_rows
from limbeck.testing.waiting import WaitingError, never_waiting

__all__ = ["compiles", "transforms", "waits_for_nothing"]

Loss = Callable[..., Any]


def compiles(case: LossCase) -> None:
    """One graph of ``torch.compile`` gives what plain calls give, and leaves the same memory.

    The ``aot_eager`` backend traces the forward and the backward pass; the kernels stay.
    """
    if case.spec.uncompiled:
        return
    for mask in _masks(case):
        torch.compiler.reset()  # losses share code: each would search the traces of all others
        plain, traced = _step(case, lambda loss: loss, mask), _step(case, _one_graph, mask)
        same = all(
            torch.allclose(one.float(), other.float(), rtol=1e-4, atol=1e-6, equal_nan=True)
            for one, other in zip(plain, traced, strict=True)
        )
        case.expect(same, "torch.compile changes the value, a gradient or what is remembered")


def transforms(case: LossCase) -> None:
    """``torch.func.grad`` gives the gradient; ``vmap`` over samples, the value of each.

    PyTorch transforms nothing that changes what it holds, so a module with a memory is left out.
    """
    loss, options = case.fresh(), case.options
    remembers = isinstance(loss, nn.Module) and any(True for _ in loss.buffers())
    if case.spec.unmapped or remembers:
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = torch.func.grad(lambda own: loss(own, case.teacher, **options))(case.student)
    wanted = case.gradients(case.student, case.teacher)
    pairs = zip(tree_leaves(found), wanted, strict=True)
    same = all(torch.allclose(one, other, rtol=1e-4, atol=1e-6) for one, other in pairs)
    case.expect(same, "torch.func.grad gives another gradient than backward()")
    if not case.spec.per_sample:
        return
    rows = {name: option for name, option in options.items() if has_rows(name, option)}
    rest = {name: option for name, option in options.items() if name not in rows}

    def one(student: Any, teacher: Any, own: dict[str, Tensor]) -> Tensor:
        single = tree_map(lambda t: t.unsqueeze(0), (student, teacher, own))
        value: Tensor = loss(*single[:2], reduction="none", **single[2], **rest)
        return value.squeeze(0)

    each = torch.func.vmap(one, randomness="same")(case.student, case.teacher, rows)
    together = case(case.student, case.teacher, reduction="none")
    same = each.shape == together.shape and torch.allclose(each, together, rtol=1e-4, atol=1e-6)
    case.expect(same, "torch.func.vmap gives other values than the batch")


def waits_for_nothing(case: LossCase) -> None:
    """Nothing of the forward or the backward pass waits for the device.

    A module inside a wrapper cannot be moved to ``meta`` from here; check the module itself.
    """
    hidden = inspect.unwrap(case.loss)
    if case.spec.waits or (isinstance(hidden, nn.Module) and hidden is not case.loss):
        return
    loss = case.fresh()
    if isinstance(loss, nn.Module):
        loss = loss.to("meta")
        for name, held in vars(loss).items():  # a student's own head, held aside, moves with it
            if isinstance(held, tuple):
                object.__setattr__(loss, name, _on_meta(held))
    student, teacher, options = _on_meta((case.student, case.teacher, case.options))
    student = tree_map(lambda t: t.requires_grad_(True), student)
    for mask in _on_meta(_masks(case)):
        try:
            with never_waiting():
                loss(student, teacher, **options, **mask).backward()
        except WaitingError as error:
            case.expect(False, str(error))


def _masks(case: LossCase) -> list[dict[str, Tensor]]:
    """Return the further arguments of a step without a mask, and of one with it."""
    keep = case.mask()
    return [{}] if keep is None or "mask" in case.options else [{}, {"mask": keep}]


def _one_graph(loss: Loss) -> Loss:
    compiled: Loss = torch.compile(loss, fullgraph=True, backend="aot_eager")
    return compiled


def _step(
    case: LossCase, prepared: Callable[[Loss], Loss], more: dict[str, Tensor]
) -> list[Tensor]:
    """Return the value, all gradients, and the state of a module after it."""
    loss = case.fresh()
    student = tree_map(lambda t: t.clone().requires_grad_(True), case.student)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        value = prepared(loss)(student, case.teacher, **case.options, **more)
        value.backward()
    module = loss if isinstance(loss, nn.Module) else nn.Module()
    leaves = [*tree_leaves(student), *module.parameters()]
    gradients = [torch.zeros_like(t) if t.grad is None else t.grad for t in leaves]
    return [value.detach(), *gradients, *module.buffers()]


def _on_meta(things: Any) -> Any:
    """Return the same with its tensors and modules on ``meta``."""
    return tree_map(lambda t: t.to("meta") if isinstance(t, (Tensor, nn.Module)) else t, things)
