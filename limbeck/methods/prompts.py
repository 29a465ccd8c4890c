"""What FreeKD learns of its teacher beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data.augment import Augmentation
from limbeck.data.loader import Loader
from limbeck.data.samples import Samples, as_samples, seeded
from limbeck.errors import InputError
from limbeck.knowledge.model import call, logits_of
from limbeck.knowledge.taps import Taps
from limbeck.losses.prompts import FrequencyPrompt
from limbeck.methods.beforehand import placed
from limbeck.tasks.task import Task
from limbeck.teachers.module import Teacher

__all__ = ["pretrain_prompt"]


def pretrain_prompt(
    teacher: Teacher | nn.Module,
    samples: Samples | Any,
    task: Task,
    *,
    tap: str = "stage[-1]",
    tokens: int = 2,
    levels: int = 3,
    apart: float = 1.0,
    epochs: int = 5,
    batch_size: int = 64,
    learning_rate: float = 0.01,
    augment: Augmentation | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> Tensor:
    """Return tokens (L, K, C) for :func:`freekd`, trained on the teacher's own task.

    The tapped map is replaced by one told through the tokens' masks, and the label loss of what the
    frozen teacher then answers, plus ``apart`` times the likeness of the masks, trains the tokens,
    by Adam. The masks are the authors'; of this training they publish neither code nor settings, so
    loop and defaults are ours. The same arguments give the same tokens; PyTorch's generators stay
    untouched.

    Args:
        teacher: a teacher, or a module that needs no preprocessing.
        samples: what it is shown, with labels.
        task: of the samples.
        tap: the output of a module of the teacher, maps (B, C, H, W).
        tokens: K.
        levels: L, of the transform.
        apart: weight of the likeness of masks.
        epochs: over the samples.
        batch_size: at most the number of samples.
        learning_rate: constant.
        augment: of the samples, best as in the student's training.
        device: where it runs; by default where the samples are.
        seed: of the first tokens and of the order.

    Raises:
        InputError: the tap is not a module's map.

    Source: Zhang et al. 2023, arXiv:2311.12079; code of the masks: Gumpest/FreeKD.

    >>> from limbeck.tasks import Classification
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(256, 2))
    >>> data = torch.randn(8, 1, 8, 8), torch.arange(8) % 2
    >>> pretrain_prompt(model, data, Classification(2), tap="0", epochs=1, batch_size=4).shape
    torch.Size([3, 2, 4])
    """
    knows = teacher if isinstance(teacher, Teacher) else Teacher(teacher)
    options: dict[str, Any] = {"shuffle": True, "seed": seed, "augment": augment}
    loader = Loader(as_samples(samples), batch_size, **options)
    first = task.named(placed(next(iter(loader)), device))
    maps: Tensor = knows.knowledge(first, (tap,))[tap]
    if maps.ndim != 4:
        raise InputError(f"the tap {tap!r} gives {tuple(maps.shape)}", expected="maps (B, C, H, W)")
    with seeded(seed):
        prompt = FrequencyPrompt(maps.shape[1], tokens=tokens, levels=levels).to(maps.device)
    optimizer = torch.optim.Adam(prompt.parameters(), learning_rate)
    with _told(knows.module.get_submodule(_place(knows, first, tap)), prompt) as likeness:
        for epoch in range(epochs):
            for found in loader.epoch(epoch):
                batch = task.named(placed(found, device))
                loss = task.label_loss(_answer(knows, batch), batch)
                optimizer.zero_grad()
                (loss + apart * likeness.pop()).backward()
                optimizer.step()
    return prompt.tokens.detach()


@contextmanager
def _told(module: nn.Module, prompt: FrequencyPrompt) -> Iterator[list[Tensor]]:
    """Replace what a module puts out by what the prompt tells; the masks' likeness is noted."""
    likeness: list[Tensor] = []

    def replaced(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        told: Tensor
        told, alike = prompt(output)
        likeness.append(alike)
        return told

    handle = module.register_forward_hook(replaced)
    try:
        yield likeness
    finally:
        handle.remove()


def _answer(teacher: Teacher, batch: Any) -> Tensor:
    """Return the teacher's logits, with a gradient to what was put into it."""
    return logits_of(call(teacher.module, _shown(teacher, batch)))


def _shown(teacher: Teacher, batch: Any) -> Any:
    """Return what the teacher's module is called with."""
    inputs = teacher.inputs(batch) if callable(teacher.inputs) else batch[teacher.inputs]
    return teacher.preprocess(inputs) if teacher.preprocess else inputs


def _place(teacher: Teacher, batch: Any, tap: str) -> str:
    """Return the module whose output a tap of the teacher is."""
    taps = Taps(teacher.module, [tap])
    taps.prepare(_shown(teacher, batch))
    place = taps.resolved[tap]
    taps.remove()
    if place.side != "output" or place.path:
        raise InputError(f"the tap {tap!r}", expected="the output of a module, to be replaced")
    return place.module
