"""Pairs of a picture and a text: how models are called with raw ones, and how people see them.

Letters: B pairs, N samples, T tokens, C channels, H×W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor

from limbeck.data.asking import Ask
from limbeck.data.jagged import Texts
from limbeck.data.pictures import Pictures
from limbeck.data.shared import Shared
from limbeck.data.shown import Shown, portrayed
from limbeck.data.tokens import Tokenizer
from limbeck.errors import InputError

__all__ = ["Pairs", "Pictured"]


@final
@dataclass(frozen=True)
class Pairs:
    """The reader of models that look and read: from pictures and texts to tensors.

    Attributes:
        tokenizer: of the texts.
        image: (C, H, W) to which pictures are brought; C is 3.
    """

    tokenizer: Tokenizer
    image: tuple[int, int, int]

    def __call__(self, raw: Sequence[tuple[Any, Any]]) -> dict[str, Tensor]:
        """Return ``image``, (B, C, H, W) from 0 to 1, ``input_ids`` and ``attention_mask``, (B, T).

        Args:
            raw: pairs of a picture (a file, its bytes, or a Pillow image) and a text. What all
                pairs lack, ``None``, is left out, for models that need one of the two alone.

        Raises:
            InputError: it is no list of pairs, some lack what others have, or a file is damaged.
        """
        if not _are_pairs(raw):
            raise InputError(
                f"{type(raw).__name__} {raw!r:.60}", expected="a list of pairs (picture, text)"
            )
        pictures, texts = zip(*raw, strict=True)
        found: dict[str, Tensor] = {}
        if _given(pictures, "picture"):
            found["image"] = Pictures(self.image)(pictures)
        if _given(texts, "text"):
            found |= self.tokenizer(texts)
        return found

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the tokenizer into a folder, and return what :meth:`read` needs to know."""
        return self.tokenizer.save(folder) | {"kind": "pairs", "image": list(self.image)}

    @classmethod
    def read(cls, folder: Path, facts: Mapping[str, Any]) -> Pairs:
        """Return the reader that :meth:`save` wrote."""
        channels, height, width = facts["image"]
        return cls(Tokenizer.read(folder, facts), (channels, height, width))

    def asks(self) -> dict[str, Ask]:
        return {"Picture": Ask("picture"), "Text": Ask("text")}

    def gathered(self, given: Mapping[str, Any]) -> tuple[Any, str]:
        return given["Picture"], given["Text"]


@final
@dataclass(frozen=True, eq=False)
class Pictured:
    """Shows the sample of an id: its picture and, where it says more, its text.

    Attributes:
        ids: (N,) int64.
        pictures: of the samples of these ids.
        texts: by id; ``None`` shows the picture alone.
    """

    ids: Tensor
    pictures: Shared
    texts: Texts | None = None

    def __call__(self, number: int) -> Shown:
        """Return how the sample of that id is shown to a person."""
        place = (self.ids == number).nonzero()
        if not len(place):
            raise InputError(f"picture {number}", expected="the id of a sample")
        found = portrayed(self.pictures.values[self.pictures.rows[int(place[0])]])
        return found if self.texts is None else found | {"caption": self.texts(number)["text"]}


def _are_pairs(raw: Any) -> bool:
    return bool(_is_list(raw) and raw and all(_is_list(each) and len(each) == 2 for each in raw))


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _given(parts: Sequence[Any], what: str) -> bool:
    """Return whether all have that part; refuse a mixture."""
    lacking = [number for number, part in enumerate(parts) if part is None]
    if 0 < len(lacking) < len(parts):
        raise InputError(
            f"pair {lacking[0]} has no {what}, others have one",
            expected=f"a {what} in each pair, or in none",
        )
    return not lacking
