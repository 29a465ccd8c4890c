"""Language modelling: tokens are predicted one by one, and whole texts are written and judged.

Letters: B samples, T places, V vocabulary.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import nn

from limbeck.data import blocks
from limbeck.data.jagged import IGNORED
from limbeck.data.language_tokenizer import LanguageTokenizer
from limbeck.data.samples import Batch, Samples
from limbeck.errors import InputError, unknown
from limbeck.tasks.around import Around
from limbeck.tasks.generating import draw, prompts, write
from limbeck.tasks.reading import Renamed
from limbeck.tasks.task import Quality
from limbeck.tasks.token_prediction import TokenPrediction

__all__ = ["LanguageModelling", "final_number"]

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@final
@dataclass(frozen=True)
class LanguageModelling(Around):
    """The next token of a text, and what a model writes by itself after a prompt.

    Everything about logits is as :class:`limbeck.tasks.TokenPrediction` says. At the end models
    write: answers to prompts, or how plain texts go on after their first tokens. How that is judged
    is a choice:

    ``number``
        ``exact_match`` is the fraction of answers whose number is right: the one after ``####``, as
        GSM8K has it, or else the last one. Reports compare models by it.
    ``text``
        ``exact_match`` is the fraction of answers that are the reference, white space at both ends
        aside. Reports compare models by it.
    ``overlap``
        ``word_overlap`` is the mean F1 of words in common with how the text really goes on, from 0
        to 1: no measure of quality, for there are many good ways to go on. Reports compare models
        by their ``loss``.

    Attributes:
        tokenizer: what turns tokens into text.
        vocab: V; 0 is the tokenizer's.
        asked: how many tokens of a plain text are the prompt; 0 for texts that have prompts.
        judge: by default ``overlap`` for plain texts, ``text`` for answers.
        temperature: at which models write; 0 takes the likeliest token each time.
        teacher_tokenizer: of a teacher that has other tokens; its fields of a batch are
            ``teacher_inputs`` and ``teacher_targets``.
    """

    tokenizer: LanguageTokenizer
    vocab: int = 0
    asked: int = 0
    judge: str = ""
    temperature: float = 0.0
    teacher_tokenizer: LanguageTokenizer | None = None
    name: str = "language_modelling"

    def __post_init__(self) -> None:
        if self.judge and self.judge not in _JUDGES:
            raise unknown("judge", self.judge, _JUDGES)
        if self.temperature < 0:
            raise InputError(f"a temperature of {self.temperature}", expected="0 or more")

    def inner(self) -> TokenPrediction:
        """Return the same task without what models write."""
        return self._tokens

    def for_teacher(self) -> Renamed | None:
        """Return the prediction of the teacher's own tokens; ``None`` if it has the same ones."""
        if self.teacher_tokenizer is None:
            return None
        fields = {"inputs": blocks.TEACHER_INPUTS, "targets": blocks.TEACHER_TARGETS}
        return Renamed(TokenPrediction(self.teacher_tokenizer.vocab), fields)

    @property
    def headline(self) -> str:
        return self.selection if self._judge.metric == "word_overlap" else self._judge.metric

    def produced(self, model: nn.Module, batch: Batch) -> list[str]:
        written = write(
            model,
            prompts(self.inputs(batch), self.targets(batch), self.asked),
            length=self.tokenizer.length,
            end=self.tokenizer.end,
            padding=self.tokenizer.padding,
            temperature=self.temperature,
        )
        return [self.tokenizer.decode(row) for row in written]

    def references(self, batch: Batch) -> list[str]:
        begins = max(0, self.asked - 1)
        rows = self.targets(batch)[:, begins:]
        return [self.tokenizer.decode(row[row != IGNORED]) for row in rows]

    def judged(self, produced: Sequence[str], references: Sequence[str]) -> Quality:
        pairs = zip(produced, references, strict=True)
        values = [self._judge(one, other) for one, other in pairs]
        return Quality({self._judge.metric: sum(values) / max(1, len(values))})

    def closeness(self, produced: str, reference: str) -> float:
        return self._judge(produced, reference)

    def written(
        self,
        model: nn.Module,
        batch: Batch,
        *,
        temperature: float,
        seed: int,
        teacher: nn.Module | None = None,
        share: float = 0.0,
    ) -> Batch:
        """Return a batch of the same prompts, and after them what a model writes.

        All targets are −100; ``counted`` says where it wrote.
        """
        asked = prompts(self.inputs(batch), self.targets(batch), self.asked)
        padding = self.tokenizer.padding
        found, likely = draw(
            model,
            asked,
            length=self.tokenizer.length + 1,
            end=self.tokenizer.end,
            padding=padding,
            temperature=temperature,
            seed=seed,
            teacher=teacher,
            share=share,
        )
        return batch | blocks.counted(list(zip(asked, found, strict=True)), padding, likely)

    def restated(self, samples: Samples, texts: Sequence[str]) -> Samples:
        """Return the samples with what was written after each prompt as what is to be predicted."""
        found = []
        for row, text in zip(torch.arange(len(samples)), texts, strict=True):
            batch = next(samples.batches([row.view(1)], view=0, seed=0))
            asked = prompts(self.inputs(batch), self.targets(batch), self.asked)[0].tolist()
            own = self.tokenizer.continuation(text, ended=not self.asked)
            found.append(([*asked, *own], [False] * len(asked) + [True] * len(own)))
        return blocks.rows_of(self.tokenizer, found, samples.ids.tolist())

    @cached_property
    def _tokens(self) -> TokenPrediction:
        return TokenPrediction(self.vocab or self.tokenizer.vocab)

    @property
    def _judge(self) -> _Judge:
        return _JUDGES[self.judge or ("overlap" if self.asked else "text")]


def final_number(text: str) -> str | None:
    """Return the number after ``####``, or else the last one, in one form; ``None`` without any.

    Source: Cobbe et al. 2021, arXiv:2110.14168, whose answers end so.

    >>> final_number("2 + 2 = 4 #### 1,204.0"), final_number("She has 3 left."), final_number("no")
    ('1204', '3', None)
    """
    _, marked, after = text.rpartition("####")
    found = _NUMBER.findall(after)
    if not found:
        return None
    chosen: str = (found[0] if marked else found[-1]).replace(",", "")
    return chosen.rstrip("0").rstrip(".") if "." in chosen else chosen


@dataclass(frozen=True)
class _Judge:
    metric: str
    score: Callable[[str, str], float]

    def __call__(self, produced: str, reference: str) -> float:
        return self.score(produced, reference)


def _same_number(produced: str, reference: str) -> float:
    found = final_number(produced)
    return float(found is not None and found == final_number(reference))


def _same_text(produced: str, reference: str) -> float:
    return float(produced.strip() == reference.strip())


def _overlap(produced: str, reference: str) -> float:
    """Return the F1 of words in common, each counted as often as it occurs."""
    one, other = (Counter(re.findall(r"\w+", text.lower())) for text in (produced, reference))
    both = (one & other).total()
    return 2 * both / max(1, one.total() + other.total())


_JUDGES: Mapping[str, _Judge] = {
    "number": _Judge("exact_match", _same_number),
    "overlap": _Judge("word_overlap", _overlap),
    "text": _Judge("exact_match", _same_text),
}
