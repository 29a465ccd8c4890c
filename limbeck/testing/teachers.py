"""The contract of a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from limbeck.data.samples import cut
from limbeck.teachers import Knowing, Teacher
from limbeck.testing.findings import Findings, size_of

__all__ = ["check_teacher"]


def check_teacher(teacher: Knowing, batch: Any, taps: Sequence[str] = ("logits",)) -> None:
    """Check a teacher: rows, gradients, repeatability, order.

    Args:
        teacher: anything with ``knowledge(batch, taps)`` and ``fingerprint()``.
        batch: at least two samples, as its loader gives them.
        taps: what it is asked for.

    Raises:
        ContractError: a property does not hold; all breaches are listed.

    >>> from torch import nn
    >>> check_teacher(Teacher(nn.Linear(4, 3)), {"inputs": torch.randn(5, 4)})
    """
    findings = Findings(f"the teacher {type(teacher).__name__}")
    with findings.about("knowledge"):
        first, again = (teacher.knowledge(batch, tuple(taps)) for _ in range(2))
        size = size_of(batch)
        missing = [tap for tap in taps if tap not in first.tensors]
        findings.expect(not missing, f"it does not yield {missing}")
        for name, known in first.tensors.items():
            findings.expect(len(known) == size, f"{name} has {len(known)} rows for {size} samples")
            for tensor, other in zip(tree_leaves(known), tree_leaves(again[name]), strict=True):
                findings.expect(not tensor.requires_grad, f"{name} carries a gradient")
                findings.expect(
                    not tensor.is_inference(), f"{name} cannot be used in a backward pass"
                )
                findings.expect(torch.equal(tensor, other), f"{name} differs when asked again")
        # The order reversed, and one sample alone: together no mixing of rows passes.
        for order in (torch.arange(size - 1, -1, -1), torch.tensor([size - 1])):
            turned = teacher.knowledge(cut(batch, order), tuple(taps))
            for name, known in first.tensors.items():
                pairs = zip(tree_leaves(turned[name]), tree_leaves(known[order]), strict=True)
                same = all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs)
                findings.expect(same, f"{name} does not follow the order of the batch")
    with findings.about("fingerprint"):
        same = teacher.fingerprint() == teacher.fingerprint() != ""
        findings.expect(same, "its fingerprint is empty or differs when asked again")
    if isinstance(teacher, Teacher):
        _check_frozen(teacher, batch, taps, findings)
    findings.raise_if_any()


def _check_frozen(teacher: Teacher, batch: Any, taps: Sequence[str], findings: Findings) -> None:
    before = teacher.fingerprint()
    teacher.module.train()
    teacher.knowledge(batch, tuple(taps))
    modes = [part.training for part in teacher.module.modules()]
    findings.expect(not any(modes), "after .train() it answers in training mode")
    frozen = not any(p.requires_grad for p in teacher.module.parameters())
    findings.expect(frozen, "its parameters want gradients")
    findings.expect(teacher.fingerprint() == before, "answering changed its weights or statistics")
