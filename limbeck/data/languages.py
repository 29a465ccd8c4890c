"""From sentences of one language to tokens, and from tokens to sentences of another.

Letters: N sentences, B sentences in a batch, S tokens read, T tokens written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor

from limbeck.data.asking import Ask
from limbeck.data.jagged import IGNORED, Jagged
from limbeck.data.tokens import Tokenizer
from limbeck.errors import InputError

__all__ = ["Languages"]

_TARGET_FILE = "target_tokenizer.json"


@final
@dataclass(frozen=True)
class Languages:
    """The tokenizers of a model that translates; it ships with the student.

    Attributes:
        source: of the language that is read.
        target: of the language that is written; it may be the same one.
        start: the token before the first one written.
        end: the token after the last one.

    >>> tokens = Tokenizer.train(["A man.", "Ein Mann."], "bpe-cased", size=300)
    >>> both = Languages.of(tokens, tokens)
    >>> sorted(both(["A man."])), both.written([[2, *tokens.bare(["Ein Mann."])[0], 3, 0]])
    (['attention_mask', 'input_ids'], ['Ein Mann.'])
    """

    source: Tokenizer
    target: Tokenizer
    start: int
    end: int

    @classmethod
    def of(cls, source: Tokenizer, target: Tokenizer, start: int | None = None) -> Languages:
        """Make it from tokenizers.

        Args:
            source: of the language that is read.
            target: of the language that is written.
            start: the token before the first one written, if it is not the tokenizer's own.

        Raises:
            InputError: the tokenizer of the target has no token for the end of a text.
        """
        if target.end is None:
            raise InputError(
                f"{target!r} has no token for the end of a text",
                expected="[EOS], </s> or the like",
                consequence="A model that writes would not know when to stop.",
                remedy="Train one that has: data.args.tokenizer=bpe-cased.",
            )
        own = target.padding if target.start is None else target.start
        return cls(source, target, own if start is None else start, target.end)

    @classmethod
    def read(cls, folder: Path, facts: Mapping[str, Any]) -> Languages:
        """Return what :meth:`save` wrote."""
        source = Tokenizer.read(folder, facts)
        other = folder / _TARGET_FILE
        target = Tokenizer.load(other, facts["length"]) if facts["apart"] else source
        return cls.of(source, target, facts["start"])

    def save(self, folder: Path) -> dict[str, Any]:
        """Write it into a folder, and return what :meth:`read` needs to know."""
        facts = self.source.save(folder)
        apart = self.target is not self.source
        if apart:
            text = json.dumps(json.loads(self.target.model.to_str()), ensure_ascii=False)
            (folder / _TARGET_FILE).write_text(text, encoding="utf-8")
        return facts | {"kind": "translation", "apart": apart, "start": self.start}

    @property
    def length(self) -> int:
        """S and T at most."""
        return self.source.length

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return ``input_ids`` and ``attention_mask`` of sentences to translate, (B, S) each."""
        return self.source(texts)

    def asks(self) -> dict[str, Ask]:
        return {"Text": Ask("text")}

    def gathered(self, given: Mapping[str, Any]) -> Any:
        return given["Text"]

    def inputs(self, texts: Sequence[str]) -> Jagged:
        """Return the tokens of N sentences that are read."""
        return self.source.encode(texts)

    def answers(self, texts: Sequence[str]) -> tuple[Jagged, Jagged]:
        """Return what a decoder is given of N sentences, and what it is to predict.

        The former begins with the start token, the latter ends with the end token, unless the
        sentence was cut; padding of the latter is −100.
        """
        rows = [[*row, self.end][: self.length] for row in self.target.bare(texts)]
        origin = self.target.fingerprint()
        given = Jagged.of(
            [[self.start, *row[:-1]] for row in rows],
            padding=self.target.padding,
            names=("decoder_input_ids", "decoder_attention_mask"),
            origin=origin,
        )
        return given, Jagged.of(rows, padding=IGNORED, names=(), origin=origin)

    def written(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the sentences that a model wrote: tokens up to the first end."""
        bodies = [list(row[1:]) if row and row[0] == self.start else list(row) for row in rows]
        cut = [row[: row.index(self.end)] if self.end in row else row for row in bodies]
        return self.target.decode(cut)
