"""A language model behind a server, as a classifier.

Letters: B samples in a batch, N texts, C choices.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limbeck.data.samples import Batch
from limbeck.errors import InputError, unknown
from limbeck.files import digest
from limbeck.imports import portrait
from limbeck.knowledge.record import Knowledge
from limbeck.teachers.served.choices import Scoring
from limbeck.teachers.served.client import Question, Reply
from limbeck.teachers.served.cost import Estimate, estimated
from limbeck.teachers.served.journal import Journal, Row
from limbeck.teachers.served.prompting import Prompting

if TYPE_CHECKING:
    from limbeck.teachers.served.server import Served

__all__ = ["Choosing", "Texts"]

Texts = str | Sequence[str] | Callable[[Batch], Sequence[str]]
"""Where a batch's texts are: a field's name, all texts by the sample's id, or a function."""

_Name = tuple[str, int]


class Choosing:
    """A teacher whose logits are the log-probabilities of choices, (B, C); they sum to 1.

    A text is asked about once, and its answer remembered: in memory, and in the file ``keep``
    if there is one. So a training loop may ask for it in every epoch, and a server that does not
    answer twice in the same way still teaches the same.

    Made by :meth:`limbeck.teachers.Served.classifier`, which says what the arguments are.
    """

    def __init__(
        self,
        server: Served,
        prompting: Prompting,
        choices: tuple[str, ...],
        texts: Texts,
        scoring: Scoring,
        keep: str | Path | None,
    ) -> None:
        if len(set(choices)) < max(2, len(choices)) or not all(map(str.strip, choices)):
            raise InputError(
                f"the choices {list(choices)}", expected="at least two different texts"
            )
        scoring.check(choices, chat=prompting.chat)
        self.server, self.prompting, self.choices = server, prompting, choices
        self.texts, self.scoring = texts, scoring
        self.journal = Journal(keep, self._settings(), ("key", "part"))

    def label(self, texts: Sequence[str], *, show: bool = True) -> Tensor:
        """Return the log-probabilities (N, C) of the choices for N texts.

        Args:
            texts: in any order; those that are equal are asked about once.
            show: a progress bar, and a line at the end, on the standard error output.

        Raises:
            InputError: the server refused, or its answers have no probabilities of the choices.
            UnansweredError: the server failed again and again; what was answered is remembered.
        """
        names = {_key(text): text for text in texts}
        questions: dict[_Name, Question] = {}
        for key, text in names.items():
            bodies = self._bodies(text)
            for part, body in enumerate(bodies):
                if (key, part) not in self.journal:
                    questions[key, part] = self.server.question(body, f"the text {text[:40]!r}")

        def read(name: _Name, reply: Reply) -> Row:
            logprobs = self.scoring.read(reply, self.choices, name[1])
            return {"key": name[0], "part": name[1], "text": names[name[0]], "logprobs": logprobs}

        if questions:
            self.server.collect(questions, self.journal, read, "labels" if show else None)
        raw = torch.tensor([self._logprobs(_key(text)) for text in texts])
        raw = raw.reshape(len(texts), len(self.choices))
        if self.scoring.complete:
            _warn_if_off(raw, self.choices)
        return raw.log_softmax(-1)

    def estimate(self, texts: Sequence[str]) -> Estimate:
        """Return what :meth:`label` would cost, without what is known already."""
        self.journal.load()
        bodies = (
            body
            for key, text in {_key(text): text for text in texts}.items()
            for part, body in enumerate(self._bodies(text))
            if (key, part) not in self.journal
        )
        return estimated(bodies, self.server.count_tokens, self.server.prices)

    def knowledge(self, batch: Batch, taps: Sequence[str] = ("logits",)) -> Knowledge:
        """Return the logits (B, C) of a batch, on the device of its ids or inputs."""
        for tap in taps:
            if tap != "logits":
                raise unknown("tap of a model behind a server:", tap, ["logits"])
        logits = self.label(self._texts(batch), show=False)
        beside = batch.get("id", batch.get("inputs"))
        device = beside.device if isinstance(beside, Tensor) else logits.device
        return Knowledge({"logits": logits.to(device)}, batch.get("id"), provenance=repr(self))

    def fingerprint(self) -> str:
        """Return a hash of model, revision, prompt, choices, parameters, and texts if given.

        The server's address is not in it: the same model may be served elsewhere.
        """
        texts = self.texts if isinstance(self.texts, str) else (
            portrait(self.texts) if callable(self.texts) else digest(list(self.texts))
        )  # fmt: skip
        return digest([self._settings(), texts])

    def __repr__(self) -> str:
        return f"{self.server!r}, choosing from {list(self.choices)}"

    def _settings(self) -> str:
        bodies = self.scoring.bodies({"prompt": ""}, self.choices)
        return self.server.fingerprint(
            "choices", self.prompting.fingerprint(), self.choices, self.scoring.name, bodies
        )

    def _bodies(self, text: str) -> list[dict[str, Any]]:
        fixed = {"temperature": 0, "seed": 0}
        return [b | fixed for b in self.scoring.bodies(self.prompting.body(text), self.choices)]

    def _logprobs(self, key: str) -> list[float]:
        found: list[float] = []
        while len(found) < len(self.choices):
            # One reply holds them all, or reply number c that of choice c.
            found += self.journal[key, len(found)]["logprobs"]
        return found

    def _texts(self, batch: Batch) -> list[str]:
        if callable(self.texts):
            found = list(self.texts(batch))
        elif isinstance(self.texts, str):
            if self.texts not in batch:
                raise unknown("field of the batch with the texts:", self.texts, batch)
            found = list(batch[self.texts])
        else:
            found = [self.texts[place] for place in self._places(batch)]
        rows = len(batch["id"]) if "id" in batch else len(found)
        if len(found) != rows or not all(isinstance(text, str) for text in found):
            raise InputError(
                f"a batch with {len(found)} texts and {rows} ids, or with texts that are none",
                expected="a text (str) for each sample",
                remedy="Give all texts, found by the samples' ids: texts=[...].",
            )
        return found

    def _places(self, batch: Batch) -> list[int]:
        if "id" not in batch:
            raise InputError(
                "a batch without sample ids met a teacher that finds texts by them",
                expected="the field 'id', or (inputs, targets, ids)",
                remedy="Load the data with limbeck.data.Loader, or give the ids as a third item.",
            )
        places: list[int] = batch["id"].tolist()
        wrong = [place for place in places if not 0 <= place < len(self.texts)]  # type: ignore[arg-type]
        if wrong:
            raise InputError(
                f"sample {wrong[0]} has no text",
                expected=f"ids from 0 to {len(self.texts) - 1}, the places of the texts",  # type: ignore[arg-type]
            )
        return places


def _key(text: str) -> str:
    return digest(text)


def _warn_if_off(raw: Tensor, choices: Sequence[str]) -> None:
    """Warn if the model would rather have said something else than one of the choices."""
    covered = raw.exp().sum(-1)
    low = int((covered < 0.5).sum())
    if low and low >= 0.1 * len(raw):
        warnings.warn(
            f"for {low} of {len(raw)} texts the model gives the choices {list(choices)} less than "
            f"half of its probability (mean over all: {float(covered.mean()):.2f}); ask it to "
            "answer with one of them and nothing else",
            stacklevel=3,
        )
