"""Readers: from what users have (texts, say) to what a model is called with.

Data that is prepared once, when it is loaded, says here how: so that the student, which ships
alone, can be called with the same raw things.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from limbeck.data.columns import Columns
from limbeck.data.histories import Histories
from limbeck.data.language_tokenizer import LanguageTokenizer
from limbeck.data.languages import Languages
from limbeck.data.pairs import Pairs
from limbeck.data.tokens import Tokenizer
from limbeck.data.waves import Waves
from limbeck.errors import unknown

__all__ = ["Answering", "Reader", "Spanning", "Writer", "load"]


@runtime_checkable
class Reader(Protocol):
    """Prepares raw samples as the training data was prepared."""

    def __call__(self, raw: Any, /) -> Any:
        """Return the model's inputs for a list of raw samples."""

    def save(self, folder: Path, /) -> dict[str, Any]:
        """Write what is needed into a folder; return JSON with ``kind``, by which it is read."""


@runtime_checkable
class Answering(Protocol):
    """A reader whose models answer in units that are not the users': standardised numbers, say."""

    def answered(self, answers: Tensor, /) -> Tensor:
        """Return a model's answers, (B, K), as users want them."""


@runtime_checkable
class Spanning(Protocol):
    """A reader of texts that can say from where in a text each of its tokens comes."""

    def spans(self, text: str, /) -> list[tuple[int, int]]:
        """Return the first character of each token and the one after the last, in their order."""


@runtime_checkable
class Writer(Protocol):
    """A reader whose models write: it also turns what they write into texts."""

    def written(self, rows: Sequence[Sequence[int]], /) -> list[str]:
        """Return the texts that tokens stand for, up to the end of each."""


_KINDS: dict[str, Callable[[Path, Mapping[str, Any]], Reader]] = {
    "histories": Histories.read,
    "language": LanguageTokenizer.read,
    "pairs": Pairs.read,
    "speech": Waves.read,
    "table": Columns.of,
    "text": Tokenizer.read,
    "translation": Languages.read,
}


def load(folder: Path, facts: Mapping[str, Any]) -> Reader:
    """Return the reader that ``save`` wrote into a folder."""
    kind = str(facts.get("kind"))
    if kind not in _KINDS:
        raise unknown("kind of reader", kind, _KINDS)
    return _KINDS[kind](folder, facts)
