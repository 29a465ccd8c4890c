"""A loss with inputs of one shape, on which the checks call it.

Letters: B samples, T tokens, C classes.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from limbeck.losses.spec import ROWWISE, Spec
from limbeck.testing.findings import Findings

__all__ = ["LossCase", "Side", "first", "has_rows"]

Side = Any  # a tensor, or a tuple of tensors


class LossCase:
    """A loss with inputs of one shape."""

    def __init__(
        self,
        loss: Callable[..., Tensor],
        spec: Spec,
        own: Any,
        theirs: Any,
        seed: int,
        options: Mapping[str, Any],
        findings: Findings,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.loss, self.spec, self.options, self.findings = loss, spec, dict(options), findings
        self.student = _drawn(own, generator)
        self.teacher = _drawn(theirs, generator)
        called = loss.forward if isinstance(loss, nn.Module) else loss
        self.takes = inspect.signature(called).parameters
        self.where = f"at {own}"
        rows = first(self.student)
        self.size = len(rows)
        if "targets" in self.takes and "targets" not in options:
            shape = rows.shape[:-1] if spec.align == "classes" else rows.shape[:1]
            self.options["targets"] = torch.randint(rows.shape[-1], shape, generator=generator)

    def __call__(self, student: Side, teacher: Side, **more: Any) -> Tensor:
        options = {**self.options, **more}
        loss = self.fresh()
        if first(student).dtype == torch.float64:
            options = {k: _doubled(v) for k, v in options.items()}
            loss = loss.double() if isinstance(loss, nn.Module) else loss
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return loss(student, teacher, **options)

    def fresh(self) -> Callable[..., Tensor]:
        """Return the loss; a copy, if it is a module."""
        return copy.deepcopy(self.loss) if isinstance(self.loss, nn.Module) else self.loss

    def rows(self, pick: Any) -> tuple[Side, Side, dict[str, Any]]:
        """Return some of the samples, with their targets."""
        picked = {k: v[pick] for k, v in self.options.items() if has_rows(k, v)}
        student, teacher = (tree_map(lambda t: t[pick], s) for s in (self.student, self.teacher))
        return student, teacher, picked

    def mask(self) -> Tensor | None:
        """Return a mask that keeps some of the samples (or tokens), if the loss takes one here."""
        one = first(self.student)
        rows = one.shape[:2] if one.ndim == 3 else one.shape[:1]
        if isinstance(self.student, tuple) and len(rows) == 2 and not self.spec.per_sample:
            return None  # tokens that are compared with one another, within their samples
        sides = tree_leaves((self.student, self.teacher))
        if "mask" not in self.takes or any(t.shape[: len(rows)] != rows for t in sides):
            return None
        keep = torch.rand(rows, generator=torch.Generator().manual_seed(3)) < 0.6
        keep.view(-1)[0] = True
        return keep

    def expect(self, holds: bool | Tensor, breach: str) -> None:
        self.findings.expect(holds, f"{breach} ({self.where})")

    def gradients(self, student: Side, teacher: Side, **more: Any) -> list[Tensor]:
        """Return the gradient of each of the student's tensors; zeros where there is none."""
        leaf = tree_map(lambda t: t.clone().requires_grad_(True), student)
        self(leaf, teacher, **more).float().backward()
        found = [(t, t.grad) for t in tree_leaves(leaf)]
        return [torch.zeros_like(t) if g is None else g for t, g in found]


def first(side: Side) -> Tensor:
    """Return a side's tensor, or the first of several."""
    found: Tensor = tree_leaves(side)[0]
    return found


def has_rows(name: str, option: Any) -> bool:
    """Say whether an option has an entry for each sample."""
    return name in ROWWISE and isinstance(option, Tensor)


def _drawn(shape: Any, generator: torch.Generator) -> Side:
    if shape and isinstance(shape[0], tuple):
        return tuple(_drawn(one, generator) for one in shape)
    return torch.randn(shape, generator=generator)


def _doubled(option: Any) -> Any:
    floating = isinstance(option, Tensor) and option.is_floating_point()
    return option.double() if floating else option
