"""Knowledge: the named tensors that a model yields about one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from limbeck.errors import unknown
from limbeck.losses.sparse import SparseLogits

__all__ = ["Knowledge"]


@dataclass(frozen=True, repr=False)
class Knowledge:
    """What a model, teacher or student, yields about one batch.

    Attributes:
        tensors: by tap name; each has one row per sample, in the batch's order. Of a teacher's
            answer it may be the part that a store keeps,
            :class:`limbeck.losses.SparseLogits`.
        ids: (B,) int64 sample ids, if the batch had any.
        mask: (B, T) or (B,), true where a token (or sample) counts; ``None`` if all do.
        provenance: where it comes from, for messages: a model's class, a store's path.

    >>> known = Knowledge({"logits": torch.zeros(2, 10)}, provenance="ResNet")
    >>> known
    Knowledge(logits (2, 10) float32; from ResNet)
    >>> known["logits"].shape, known.fields
    (torch.Size([2, 10]), ('logits',))
    """

    tensors: Mapping[str, Tensor | SparseLogits]
    ids: Tensor | None = None
    mask: Tensor | None = None
    provenance: str = ""

    def __getitem__(self, field: str) -> Any:
        if field not in self.tensors:
            source = f"knowledge from {self.provenance}" if self.provenance else "this knowledge"
            raise unknown(f"field of {source}:", field, self.tensors)
        return self.tensors[field]

    @property
    def logits(self) -> Any:
        """The model's answer, (B, C) or (B, T, C)."""
        return self["logits"]

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of its tensors."""
        return tuple(self.tensors)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor."""
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def to(self, device: torch.device | str) -> Knowledge:
        """Return the same knowledge on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def detached(self) -> Knowledge:
        """Return the same knowledge without gradients."""
        return self._each(Tensor.detach)

    def every(self, step: int) -> Knowledge:
        """Return every ``step``-th row of the tensors: of several views of each sample, the first.

        >>> Knowledge({"logits": torch.arange(6)}).every(3)["logits"]
        tensor([0, 3])
        """
        if step == 1:
            return self
        return replace(self, tensors={tap: rows[::step] for tap, rows in self.tensors.items()})

    def _each(self, change: Callable[[Tensor], Tensor]) -> Knowledge:
        def apply(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else change(tensor)

        tensors = tree_map(change, dict(self.tensors))
        return replace(self, tensors=tensors, ids=apply(self.ids), mask=apply(self.mask))

    def __repr__(self) -> str:
        parts = [
            f"{name} {tuple(known.shape)} {_kept(known)}" for name, known in self.tensors.items()
        ]
        source = f"; from {self.provenance}" if self.provenance else ""
        return f"Knowledge({', '.join(parts) or 'nothing'}{source})"


def _kept(known: Tensor | SparseLogits) -> str:
    if isinstance(known, SparseLogits):
        return known.codec
    return str(known.dtype).removeprefix("torch.")
