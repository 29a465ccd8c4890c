"""Codecs by name."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.errors import InputError, unknown
from limbeck.knowledge.codec.dense import Components, Floats, ScaledIntegers
from limbeck.knowledge.codec.partial import Draws, MostLikely
from limbeck.knowledge.codec.protocol import Codec

__all__ = ["at", "get", "keeps_a_part"]

_PLAIN: dict[str, Codec] = {
    "full": Floats("full", torch.float32),
    "half": Floats("half", torch.float16),
    "int8": ScaledIntegers(),
}
_SIZED = re.compile(r"(?P<kind>top|sample|pca)(?P<size>\d+)(@(?P<temperature>\d+(\.\d+)?))?")
_MOST_DRAWS = 2**15 - 1
_EXAMPLES = (*_PLAIN, "pca32", "sample64", "top16", "top16@4")


def get(name: str, state: Mapping[str, Tensor] | None = None) -> Codec:
    """Return the codec of that name.

    ``full`` and ``half`` keep every value, in float32 and float16. ``int8`` keeps features in 8
    bits, ``pcaD`` in D components of their channels. ``topK`` keeps the K most likely classes of an
    answer, ``sampleN`` N draws from it; a temperature other than 1 stands after an @.

    Args:
        name: as an index keeps it.
        state: what it had learned, from a store.

    Raises:
        InputError: there is no such codec, or its number makes no sense.

    >>> get("half").encode(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))[""].dtype
    torch.float16
    >>> get("top2@4").name, get("top2@4").parts
    ('top2@4', ('', ':indices', ':rest'))
    """
    if name in _PLAIN:
        return _PLAIN[name]
    match = _SIZED.fullmatch(name)
    if match is None or (match["kind"] == "pca" and match["temperature"]):
        raise unknown(
            "codec", name, _EXAMPLES, remedy="The numbers are examples: write those you need."
        )
    size, temperature = int(match["size"]), float(match["temperature"] or 1)
    if size < 1 or temperature <= 0 or (match["kind"] == "sample" and size > _MOST_DRAWS):
        raise InputError(
            f"the codec {name!r}",
            expected=f"1 to {_MOST_DRAWS} draws, 1 class or component and more, "
            "a temperature above 0",
        )
    if match["kind"] == "pca":
        known = state or {}
        return Components(size, known.get("basis"), known.get("mean"))
    return (MostLikely if match["kind"] == "top" else Draws)(size, temperature)


def at(name: str, temperature: float) -> str:
    """Return the name of the codec that keeps a part of an answer at that temperature.

    A name that says a temperature, and one of a codec that needs none, stay as they are.

    >>> at("top16", 4), at("top16@2", 4), at("half", 4)
    ('top16@4', 'top16@2', 'half')
    """
    found = get(name)
    if not isinstance(found, (MostLikely, Draws)) or "@" in name:
        return name
    return type(found)(found.size, temperature).name


def keeps_a_part(name: str) -> bool:
    """Say whether a codec keeps a part of an answer alone, as :class:`limbeck.losses.SparseLogits`.

    >>> keeps_a_part("top16"), keeps_a_part("int8")
    (True, False)
    """
    return isinstance(get(name), (MostLikely, Draws))
