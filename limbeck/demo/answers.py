"""The finished models of a run, asked about one sample.

Letters: B samples, here always 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.data.asking import Asking
from limbeck.data.pictures import Pictures
from limbeck.data.samples import Batch
from limbeck.data.shown import Shown, portrayed, shown
from limbeck.distill.feed import feed, put
from limbeck.errors import InputError
from limbeck.evaluate import taught
from limbeck.evaluate.runtimes import Network, Runner, logits_from
from limbeck.pipeline import opened
from limbeck.tasks import Drawing, Producing, Task, Telling
from limbeck.teachers import Teacher

__all__ = ["Answer", "Playground"]

_REPEATS = 3  # of which the median is shown; one more warms up
_MOST_SHARES = 5


@dataclass(frozen=True)
class Answer:
    """What a model says about one sample.

    Attributes:
        model: its name in the report.
        text: the answer in words.
        shares: answers and their probabilities, the likeliest first; empty if there are none.
        milliseconds: from the prepared sample to the answer.
        drawn: the answer as a picture, if the task draws.
    """

    model: str
    text: str
    shares: tuple[tuple[str, float], ...]
    milliseconds: float
    drawn: Shown | None = None


@final
class Playground:
    """The teacher, the student and what was made of it, side by side.

    Args:
        folder: of a finished run.

    Raises:
        InputError: the folder is no run's, or the run is not finished.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.made = opened(folder)
        self.run = self.made.run

    @property
    def names(self) -> list[str]:
        """The models' names, the teacher's first."""
        return list(self._models)

    def __len__(self) -> int:
        """Return how many test samples there are."""
        return len(self.run.data.test)

    @cached_property
    def asking(self) -> Asking | None:
        """What a person can give instead of a test sample; ``None`` if that is not known."""
        reader: Any = self.run.data.reader
        others = self.run.data.other_readers
        field = self.run.recipe.teacher.inputs
        if field != "inputs" and field not in others:
            return None
        if isinstance(reader, Asking):
            return reader
        inputs = self.sample(0)["inputs"]
        if reader is None and isinstance(inputs, Tensor) and inputs.ndim == 4:
            _, channels, height, width = inputs.shape
            return Pictures((channels, height, width))
        return None

    def sample(self, row: int) -> Batch:
        """Return the test sample at a row, as a batch of one."""
        if not 0 <= row < len(self):
            raise InputError(f"test sample {row}", expected=f"0 to {len(self) - 1}")
        one = self.run.data.test.subset(torch.tensor([row]))
        device = self.run.here.device
        batch: Batch = put(self.run.task.named(next(feed(one, 1, device).epoch(0))), device)
        return batch

    def shown(self, row: int) -> tuple[Shown, str]:
        """Return how the test sample at a row is shown, and its label in words, if it has any."""
        batch, task = self.sample(row), self.run.task
        wanted = task.wanted(batch, 0) if isinstance(task, Telling) else ""
        return shown(self.run.data.test, int(batch["id"][0])), wanted

    def given(self, values: Mapping[str, Any]) -> Batch:
        """Return what a person gave as a batch of one; its labels are those of another sample.

        Args:
            values: by what :attr:`asking` asks for.

        Raises:
            InputError: something is missing, or cannot be read.
        """
        assert self.asking is not None
        raw = self.asking.gathered(values)
        made = {"inputs": self.asking([raw])}
        made |= {field: read([raw]) for field, read in self.run.data.other_readers.items()}
        batch = self.sample(0)
        kept = batch["inputs"]
        if isinstance(kept, Mapping):  # what a decoder is given, say
            made["inputs"] = {**kept, **made["inputs"]}
        device = self.run.here.device
        return {**batch, **put(made, device)}

    @torch.inference_mode()
    def answers(self, batch: Batch) -> list[Answer]:
        """Return what each model says about a batch of one."""
        return [self._answer(name, ask, batch) for name, ask in self._models.items()]

    def _answer(self, name: str, ask: Callable[[Batch], Any], batch: Batch) -> Answer:
        said, spent = ask(batch), []
        for _ in range(_REPEATS):
            began = time.perf_counter()
            said = ask(batch)
            spent.append(time.perf_counter() - began)
        milliseconds = sorted(spent)[_REPEATS // 2] * 1000
        task: Any = self.run.task
        if isinstance(said, str):
            return Answer(name, said, (), milliseconds)
        drawn = task.drawn(said, batch, 0) if isinstance(task, Drawing) else None
        if not isinstance(task, Telling):
            return Answer(name, portrayed(said[0])["text"], (), milliseconds, drawn)
        told = task.told(said, batch, 0)
        shares = tuple((str(what), float(share)) for what, share in told["shares"][:_MOST_SHARES])
        return Answer(name, str(told["answer"]), shares, milliseconds, drawn)

    @cached_property
    def _models(self) -> dict[str, Callable[[Batch], Any]]:
        """What each model is asked with: a batch goes in, logits or a text come out."""
        known = self.made.teacher()
        task: Any = self.run.task
        writes = isinstance(task, Producing)
        found: dict[str, Callable[[Batch], Any]] = {}
        if writes and isinstance(known, Teacher):
            teacher = known
            found["teacher"] = lambda b: taught(task, teacher, b)[0]
        elif not writes:
            found["teacher"] = lambda b: known.knowledge(b, ("logits",)).logits
        student = self.made.student
        for product in [*([student] if student else []), *self.made.products]:
            runner = product.opened()
            if not writes:
                found[product.name] = partial(_logits, task, runner)
            elif isinstance(runner, Network):
                found[product.name] = partial(_text, task, runner.model)
        return found


def _logits(task: Task, runner: Runner, batch: Batch) -> Tensor:
    return logits_from(runner, task.inputs(batch))


def _text(task: Producing, model: nn.Module, batch: Batch) -> str:
    return task.produced(model, batch)[0]
