"""The contract of a task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from limbeck.data.samples import cut
from limbeck.tasks import Task
from limbeck.testing.findings import Findings

__all__ = ["check_task"]


def check_task(task: Task, batch: Any, logits: Tensor) -> None:
    """Check a task: what it says of a batch, that its loss is a mean, that its meter adds up.

    Args:
        task: the task.
        batch: at least three samples, as its loader gives them.
        logits: what some model answered to them.

    Raises:
        ContractError: a property does not hold; all breaches are listed.

    >>> from limbeck.tasks import Classification
    >>> check_task(Classification(3), (torch.randn(6, 4), torch.arange(6) % 3), torch.randn(6, 3))
    """
    findings = Findings(f"the task {task.name}")
    with findings.about("the batch"):
        named = task.named(batch)
        findings.expect(set(task.named(named)) == set(named), "named() changes a named batch")
        task.inputs(named)
        task.targets(named)
        task.check(named)
        task.check_logits(logits, "model")
    with findings.about("the label loss"):
        leaf = logits.clone().requires_grad_(True)
        whole = task.label_loss(leaf, named)
        whole.backward()
        findings.expect(
            whole.ndim == 0 and torch.isfinite(whole), "the loss is not a finite scalar"
        )
        findings.expect(whole.dtype == torch.float32, f"the loss is {whole.dtype}")
        cuts = (slice(0, 1), slice(1, None))
        parts = [(cut(named, part), logits[part]) for part in cuts]
        counts = [float(task.count(part)) for part, _ in parts]
        mean = sum(task.label_loss(x, b) * n for (b, x), n in zip(parts, counts, strict=True))
        findings.expect(
            torch.isclose(torch.as_tensor(mean) / sum(counts), whole, rtol=1e-5),
            "the loss is not the mean over what count() counts",
        )
        with torch.autocast("cpu", torch.bfloat16):
            inside = task.label_loss(logits, named)
        findings.expect(torch.isclose(inside, whole, rtol=1e-6), "autocast changes the loss")
    with findings.about("the meter"):
        once, pieces = task.meter(), task.meter()
        once.update(logits, named)
        for part, answer in parts:
            pieces.update(answer, part)
        one, other = once.compute().metrics, pieces.compute().metrics
        findings.expect(task.selection in one, f"{task.selection} is not among {sorted(one)}")
        for name, value in one.items():
            close = abs(value - other[name]) <= 1e-5 * max(1.0, abs(value))
            findings.expect(close, f"{name} differs when batches are smaller")
    findings.raise_if_any()
