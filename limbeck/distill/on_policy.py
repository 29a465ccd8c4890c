"""Batches that are made anew before the distiller sees them: those that a student writes itself.

Letters: B samples, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn

from limbeck.data.random import key, uniform
from limbeck.data.samples import Batch
from limbeck.errors import InputError
from limbeck.knowledge.model import at_rest
from limbeck.tasks.task import Writing
from limbeck.teachers.knowing import Knowing
from limbeck.teachers.module import Teacher

__all__ = ["OnPolicy", "Rewrite"]

Rewrite = Callable[[Batch, nn.Module, int], Batch]
"""Makes a batch of a batch, the student as it is, and the number of the step, from 0.

It may draw random numbers from what it gets alone, so that training goes on to the same bits after
an interruption.
"""


@final
@dataclass(frozen=True)
class OnPolicy:
    """Lets the student write some of the batches itself: on-policy distillation.

    Before each step chance decides whether the batch stays as it is, or the student goes on from
    its prompts by itself. The teacher then says what it would have written at each place of the
    student's text; labels count for nothing there. So the student learns to recover from its own
    mistakes, which it never sees in texts that others wrote. It needs a teacher that runs beside
    it, and a method that needs no labels: :func:`limbeck.methods.jensen_shannon` and
    :func:`limbeck.methods.reverse_kl` are usual. No gradient goes through the choice of tokens;
    :func:`limbeck.methods.minillm` adds what it would come to, and wants the teacher to write
    along.

    Attributes:
        task: says what a batch is when a model writes it.
        fraction: of the steps, above 0 and at most 1; λ of the paper.
        temperature: at which the student draws its tokens.
        seed: of all that is drawn.
        teacher: writes along, if ``mix`` is above 0.
        mix: the teacher's share of the distribution from which each token is drawn, from 0 to
            below 1; α of MiniLLM, which takes 0.2.

    Raises:
        InputError: the task's models do not write, the fraction or the share is none, the
            temperature is not positive, or the teacher is no module.

    Source: Agarwal et al. 2024, "On-Policy Distillation of Language Models: Learning from
    Self-Generated Mistakes", arXiv:2306.13649, algorithm 1; ``mix``: Gu et al. 2023,
    arXiv:2306.08543, section 2.2.
    """

    task: Writing
    fraction: float = 0.5
    temperature: float = 1.0
    seed: int = 0
    teacher: Knowing | None = None
    mix: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.task, Writing):
            raise InputError(
                f"on-policy distillation for {type(self.task).__name__}",
                expected="a task whose models write, such as language_modelling",
            )
        if not 0 < self.fraction <= 1 or self.temperature <= 0:
            raise InputError(
                f"a fraction of {self.fraction} at temperature {self.temperature}",
                expected="a fraction above 0 and at most 1, and a temperature above 0",
            )
        if not 0 <= self.mix < 1 or (self.mix and not isinstance(self.teacher, Teacher)):
            raise InputError(
                f"a teacher that writes {self.mix} of each token, {type(self.teacher).__name__}",
                expected="a share from 0 to below 1, and limbeck.Teacher of a PyTorch module",
            )

    def __call__(self, batch: Batch, student: nn.Module, step: int) -> Batch:
        """Return the batch, or what the student writes after its prompts."""
        drawn = key(self.seed, torch.tensor([step]), 0)
        if float(uniform(drawn, 0)) >= self.fraction:
            return batch
        how: dict[str, Any] = {"temperature": self.temperature, "seed": int(drawn) & (2**63 - 1)}
        if self.mix and isinstance(self.teacher, Teacher):
            how |= {"teacher": self.teacher.module, "share": self.mix}
        with at_rest(student):
            return self.task.written(student, batch, **how)
