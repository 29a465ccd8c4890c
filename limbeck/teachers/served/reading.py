"""A language model behind a server, token by token.

Letters: B samples, T tokens, K tokens known at each place, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limbeck.data.samples import Batch
from limbeck.errors import InputError, unknown
from limbeck.files import digest
from limbeck.knowledge.record import Knowledge
from limbeck.losses.sparse import SparseLogits
from limbeck.teachers.served.choices import FLOOR
from limbeck.teachers.served.client import Reply
from limbeck.teachers.served.journal import Journal, Row

if TYPE_CHECKING:
    from limbeck.teachers.served.server import Served

__all__ = ["Reading"]

_ANOTHER_WAY = (
    "Use a server that answers with token ids (vLLM and its prompt_logprobs), or train on the "
    "model's texts (Served.generate), which needs no common vocabulary."
)


class Reading:
    """A teacher whose logits are the K most likely tokens at each place, (B, T, V).

    Place t holds what the model expects after token t, as a student's logits do. After the last
    token of a sequence nothing is known: the mask is false there, and the answer uniform. A
    sequence is asked about once, and its answer remembered.

    Made by :meth:`limbeck.teachers.Served.reader`, which says what the arguments are.
    """

    def __init__(
        self,
        server: Served,
        classes: int,
        top: int,
        ids: str,
        mask: str | None,
        keep: str | Path | None,
    ) -> None:
        if not 0 < top < classes:
            raise InputError(f"top is {top}", expected=f"from 1 to {classes - 1}")
        self.server, self.classes, self.top = server, classes, top
        self.ids, self.mask = ids, mask
        self.journal = Journal(keep, self.fingerprint(), ("key",))

    def score(
        self, ids: Tensor, mask: Tensor | None = None, *, show: bool = True
    ) -> tuple[SparseLogits, Tensor]:
        """Return what the model expects at each place, and where that is known, (B, T).

        Args:
            ids: (B, T) token ids, of the model's own vocabulary.
            mask: (B, T), true where there is a token; the tokens of a row come first.
            show: a progress bar, and a line at the end, on the standard error output.

        Raises:
            InputError: the server refused, or does not answer with ids of tokens.
            UnansweredError: the server failed again and again; what was answered is remembered.
        """
        rows = self._sequences(ids, mask)
        sequences = {digest(row): row for row in rows}
        questions = {
            (key,): self.server.question(
                {"prompt": row, "max_tokens": 1, "temperature": 0, "prompt_logprobs": self.top},
                f"a sequence of {len(row)} tokens",
            )
            for key, row in sequences.items()
            if (key,) not in self.journal and len(row) > 1
        }

        def read(name: tuple[str], reply: Reply) -> Row:
            places = self._places(reply, len(sequences[name[0]]))
            tokens, logprobs = ([[pair[n] for pair in place] for place in places] for n in (0, 1))
            return {"key": name[0], "tokens": tokens, "logprobs": logprobs}

        if questions:
            self.server.collect(questions, self.journal, read, "sequences" if show else None)
        return self._laid_out(rows, ids.shape[1])

    def knowledge(self, batch: Batch, taps: Sequence[str] = ("logits",)) -> Knowledge:
        """Return the sparse logits (B, T, V) of a batch, and a mask where they are known."""
        for tap in taps:
            if tap != "logits":
                raise unknown("tap of a model behind a server:", tap, ["logits"])
        for field in (self.ids, *([self.mask] if self.mask else [])):
            if field not in batch:
                raise unknown("field of the batch:", field, batch)
        ids: Tensor = batch[self.ids]
        known, mask = self.score(ids, batch[self.mask] if self.mask else None, show=False)
        return Knowledge({"logits": known}, batch.get("id"), mask, repr(self)).to(ids.device)

    def fingerprint(self) -> str:
        """Return a hash of model, revision and parameters; the server's address is not in it."""
        return self.server.fingerprint("tokens", self.classes, self.top)

    def __repr__(self) -> str:
        return f"{self.server!r}, token by token"

    def _sequences(self, ids: Tensor, mask: Tensor | None) -> list[list[int]]:
        if ids.ndim != 2 or ids.is_floating_point():
            raise InputError(
                f"token ids of type {ids.dtype} and shape {tuple(ids.shape)}",
                expected="integers (B, T)",
            )
        if mask is None:
            whole: list[list[int]] = ids.tolist()
            return whole
        kept = mask.bool()
        if kept.shape != ids.shape or bool((kept[:, 1:] & ~kept[:, :-1]).any()):
            raise InputError(
                f"a mask of shape {tuple(mask.shape)} for tokens of shape {tuple(ids.shape)}, or "
                "one that is not true for the first tokens of each row",
                expected="padding on the right",
            )
        return [row[here].tolist() for row, here in zip(ids, kept, strict=True)]

    def _places(self, reply: Reply, length: int) -> list[list[tuple[int, float]]]:
        """Return the K most likely tokens after each token but the last."""
        table = reply["choices"][0].get("prompt_logprobs") or reply.get("prompt_logprobs")
        if not isinstance(table, list):
            raise InputError(
                "the server's answer has no prompt_logprobs",
                consequence="The model's most likely tokens in the prompt are not known, or only "
                "as texts, which need not be tokens of the student's.",
                remedy=_ANOTHER_WAY,
            )
        if len(table) != length:
            raise InputError(
                f"the server answers about {len(table)} tokens",
                expected=f"the {length} that were sent",
                consequence="Answers would be given to the wrong tokens.",
            )
        return [self._most_likely(place) for place in table[1:]]

    def _most_likely(self, place: Mapping[str, Any] | None) -> list[tuple[int, float]]:
        try:
            pairs = [(int(token), float(each["logprob"])) for token, each in (place or {}).items()]
        except (ValueError, TypeError, KeyError):
            raise InputError(
                f"the server answers with tokens that are no ids: {next(iter(place or {}))!r}",
                consequence="A text need not be a token of the student's vocabulary.",
                remedy=_ANOTHER_WAY,
            ) from None
        # The token that stands there comes too, even if it is not among the most likely.
        best = sorted(pairs, key=lambda pair: -pair[1])[: self.top]
        if len(best) < self.top or not all(0 <= token < self.classes for token, _ in best):
            raise InputError(
                f"the server answers with {len(best)} tokens at a place, ids up to "
                f"{max((token for token, _ in best), default=0)}",
                expected=f"{self.top} tokens of a vocabulary of {self.classes}",
                remedy="Ask for fewer (top=...), or give the model's vocabulary size as classes.",
            )
        return best

    def _laid_out(self, rows: list[list[int]], length: int) -> tuple[SparseLogits, Tensor]:
        """Return everything known as (B, T, K), uniform where nothing is."""
        shape = (len(rows), length, self.top)
        indices = torch.arange(self.top).expand(shape).clone()
        log_p = torch.full(shape, 1 / self.classes, dtype=torch.float64).log()
        mask = torch.zeros(shape[:2], dtype=torch.bool)
        for number, row in enumerate(rows):
            if len(row) > 1:
                known = self.journal[(digest(row),)]
                indices[number, : len(row) - 1] = torch.tensor(known["tokens"])
                log_p[number, : len(row) - 1] = torch.tensor(known["logprobs"]).double()
                mask[number, : len(row) - 1] = True
        log_p = log_p.clamp_min(FLOOR)
        rest = (1 - log_p.exp().sum(-1)).clamp_min(1e-12).log()
        return SparseLogits(indices, log_p.float(), self.classes, rest=rest.float()), mask
