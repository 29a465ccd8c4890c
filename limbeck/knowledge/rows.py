"""Turning a teacher's answers to a batch into rows to store.

Letters: B samples, T tokens of a sample, N tokens that count in the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from limbeck.data.loader import Loader
from limbeck.data.random import key
from limbeck.data.samples import Batch
from limbeck.errors import InputError
from limbeck.imports import portrait
from limbeck.knowledge import codec as codecs
from limbeck.knowledge.folders import Folder, stated, write_json
from limbeck.knowledge.goal import Goal
from limbeck.knowledge.index import STATE, WRITING
from limbeck.knowledge.record import Knowledge
from limbeck.knowledge.shards import OFFSETS, Part
from limbeck.losses.spec import exactly

__all__ = ["Mask", "Rows", "learned", "mask_name", "mask_of"]

Mask = str | Callable[[Batch], Tensor]

_SEED = 0  # of what a codec draws
_LEARNED_FROM = 1024  # samples, at least, that a codec learns from if it must


class _Answers(Protocol):
    def knowledge(self, batch: Batch, taps: Sequence[str]) -> Knowledge: ...


def mask_name(mask: Mask | None) -> str | None:
    """Return what an index says of a mask: a field's name as it is."""
    return mask if mask is None or isinstance(mask, str) else portrait(mask)


def mask_of(batch: Batch, mask: Mask) -> Tensor:
    """Return which tokens of a batch count, (B, T) bool, on the processor.

    Args:
        batch: with that field, or with inputs that have it.
        mask: a field's name or a function of the batch.

    >>> mask_of({"inputs": {"seen": torch.tensor([[1, 0]])}}, "seen")
    tensor([[ True, False]])
    """
    found: Any
    if callable(mask):
        found = mask(batch)
    else:
        inputs = batch.get("inputs")
        found = batch.get(mask, inputs.get(mask) if isinstance(inputs, Mapping) else None)
    if not isinstance(found, Tensor) or found.ndim != 2:
        shown = f"{tuple(found.shape)}" if isinstance(found, Tensor) else "nothing"
        raise InputError(
            f"the batch has {shown} as the mask {mask_name(mask)!r}",
            expected="(samples, tokens), true where a token counts",
        )
    return found.bool().cpu()


class Rows:
    """Asks the teacher, and encodes what it says.

    Args:
        folder: the store's.
        goal: what the store is to become; its codecs are complete, with what they have learned.
        teacher: who is asked.
        mask: which tokens count, if the store has jagged rows.
    """

    def __init__(self, folder: Folder, goal: Goal, teacher: _Answers, mask: Mask | None) -> None:
        self.teacher, self.mask = teacher, mask
        self.size = int(goal.header["rows_per_shard"])
        self.fields: dict[str, Any] = goal.header["fields"]
        told = goal.header["files"].get(STATE)
        states = load_file(folder.file(STATE, told)) if told else {}
        self.codecs = {
            tap: codecs.get(field["codec"], learned_by(tap, states))
            for tap, field in self.fields.items()
        }

    def ask(self, batch: Batch) -> Knowledge:
        """Return what the teacher says."""
        return self.teacher.knowledge(batch, tuple(self.fields))

    def encode(self, batch: Batch, known: Knowledge) -> dict[str, Tensor]:
        """Return the tensors to store, by name; under ``:offsets`` the tokens of each sample.

        Raises:
            InputError: an answer has another shape than those before.
        """
        stored: dict[str, Tensor] = {}
        keys = key(_SEED, batch["id"], batch["view"]).cpu()
        mask = None if self.mask is None else mask_of(batch, self.mask)
        for tap, told in self.fields.items():
            field, row_keys = known[tap].cpu(), keys
            if told["jagged"]:
                assert mask is not None
                _same_tokens(tap, field, mask)
                field, row_keys = field[mask], _token_keys(keys, mask)
                stored[OFFSETS] = mask.sum(1)
            if list(field.shape[1:]) != told["shape"]:
                raise InputError(
                    f"the teacher's {tap!r} has rows of shape {list(field.shape[1:])}, after rows "
                    f"of {told['shape']}",
                    expected="rows of one shape",
                    remedy="Pad the samples to one length; or, if they are texts and this has "
                    "(samples, tokens, ...), name the field that says which tokens count: mask=.",
                )
            with exactly("cpu"):  # a teacher may run in autocast; what it said is kept as it is
                for part, rows in self.codecs[tap].encode(field, row_keys).items():
                    stored[f"{tap}{part}"] = rows.contiguous()
        return stored


def learned_by(tap: str, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what the codec of one tap has learned, of what all have, named TAP/NAME."""
    prefix = f"{tap}/"
    return {k.removeprefix(prefix): t for k, t in states.items() if k.startswith(prefix)}


def learned(
    folder: Folder, goal: Goal, teacher: _Answers, loader: Loader, mask: Mask | None
) -> list[Knowledge]:
    """Look at the first rows: note their shapes, and let codecs learn what they must.

    Returns:
        What the teacher said about the first batches.
    """
    taps = tuple(goal.header["fields"])
    chosen = {tap: codecs.get(told["codec"]) for tap, told in goal.header["fields"].items()}
    said: list[Knowledge] = []
    batches: list[Batch] = []
    wanting, fields = list(taps), {tap: list[Any]() for tap in taps}
    for batch in loader.epoch(0):
        said.append(teacher.knowledge(batch, taps))
        batches.append(batch)
        shown = None if mask is None else mask_of(batch, mask)
        for tap in wanting:
            field = said[-1][tap].cpu()
            jagged = shown is not None and _is_jagged(field, shown)
            fields[tap].append(field[shown] if jagged else field)
        wanting = [tap for tap in wanting if chosen[tap].fitted(fields[tap][0]) is not chosen[tap]]
        seen = len(said) * loader.batch_size
        if not wanting or seen >= min(_LEARNED_FROM, goal.header["rows_per_shard"]):
            break
    first = None if mask is None else mask_of(batches[0], mask)
    states: dict[str, Tensor] = {}
    for tap, codec in chosen.items():
        seen_rows = fields[tap]
        few = fields[tap][0][:2]
        with exactly("cpu"):
            fitted = codec.fitted(seen_rows[0] if len(seen_rows) == 1 else torch.cat(seen_rows))
            parts = fitted.encode(few, torch.zeros(len(few), dtype=torch.int64))
        states |= {f"{tap}/{name}": value.contiguous() for name, value in fitted.state.items()}
        goal.header["fields"][tap] |= {
            "shape": list(few.shape[1:]),
            "jagged": _is_jagged(said[0][tap], first),
            "parts": {p: Part(t.dtype, tuple(t.shape[1:])).stated() for p, t in parts.items()},
        }
    if states:
        with folder.writing(STATE) as draft:
            save_file(states, draft)
            goal.header["files"] |= {STATE: stated(draft)}
    goal.header["learned"] = True
    write_json(folder, WRITING, goal.header)
    return said


def _is_jagged(field: Any, mask: Tensor | None) -> bool:
    """Say whether a field has something for each token: (B, T, ...) where the mask is (B, T)."""
    return mask is not None and field.ndim >= 3 and tuple(field.shape[:2]) == mask.shape


def _same_tokens(tap: str, field: Any, mask: Tensor) -> None:
    if field.shape[:2] != mask.shape:
        raise InputError(
            f"the teacher's {tap!r} is {tuple(field.shape)}, and the mask {tuple(mask.shape)}",
            expected="the same samples and tokens",
        )


def _token_keys(keys: Tensor, mask: Tensor) -> Tensor:
    """Return a key for each token that counts, (N,), whatever stands between them."""
    places = mask.cumsum(1)[mask] - 1
    return key(_SEED, keys.unsqueeze(1).expand(mask.shape)[mask], places)
