"""The contract of a method."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.distill import Distiller
from limbeck.methods import Match, Method, as_method
from limbeck.tasks import Classification, Task
from limbeck.teachers import Teacher
from limbeck.testing.findings import Findings

__all__ = ["check_method"]


def check_method(
    method: Method | Match | Iterable[Match],
    *,
    student: nn.Module | None = None,
    teacher: nn.Module | None = None,
    batch: Any = None,
    task: Task | None = None,
) -> None:
    """Check a method on small models: it trains the student and its own modules, and nothing else.

    Args:
        method: a method, a match, or a list of matches.
        student: by default a small convolutional network of three stages.
        teacher: by default a wider one.
        batch: what both take; by default images (8, 3, 16, 16) with 5 classes.
        task: of the batch.

    Raises:
        ContractError: a property does not hold; all breaches are listed.

    >>> from limbeck import methods
    >>> check_method(methods.kd())
    """
    made = as_method(method)
    findings = Findings(f"the method {made.name}")
    with findings.about("a step"):
        student, teacher = student or _tiny(4), teacher or _tiny(6)
        task = task or Classification(5)
        batch = batch if batch is not None else _tiny_batch()
        before = Teacher(teacher).fingerprint()
        distiller = Distiller(teacher, student, task=task, method=made).prepare(batch)
        out = distiller.train()(batch)
        findings.expect(out.loss.ndim == 0 and torch.isfinite(out.loss), "the loss is not finite")
        findings.expect(out.loss.dtype == torch.float32, f"the loss is {out.loss.dtype}")
        out.loss.backward()
        idle = [n for n, p in distiller.named_parameters() if p.requires_grad and p.grad is None]
        findings.expect(
            len(idle) < len(list(student.parameters())), "no gradient reaches the student"
        )
        helpers = [name for name in idle if not name.startswith("student.")]
        findings.expect(not helpers, f"no gradient reaches {helpers}")
        findings.expect(Teacher(teacher).fingerprint() == before, "the teacher changed")
        theirs = {id(p) for p in teacher.parameters()}
        held = any(id(p) in theirs for p in distiller.parameters())
        findings.expect(not held, "the teacher is among the parameters")
        prefixes = {name.partition(".")[0] for name in distiller.state_dict()}
        findings.expect(
            prefixes <= {"student", "alignments", "losses"}, f"its state holds {prefixes}"
        )
        released = distiller.release()
        findings.expect(released is student, "the student that ships is not the student")
    findings.raise_if_any()


def _tiny(width: int) -> nn.Module:
    stages: list[nn.Module] = []
    channels = 3
    for stage in range(3):
        stages += [nn.Conv2d(channels, width << stage, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        channels = width << stage
    return nn.Sequential(*stages, nn.Flatten(), nn.Linear(4 * channels, 5))


def _tiny_batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, 16, 16, generator=generator)
    return images, torch.randint(5, (8,), generator=generator)
