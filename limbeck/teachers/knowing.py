"""What makes a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from limbeck.data.samples import Batch
from limbeck.knowledge.record import Knowledge

__all__ = ["Knowing"]


@runtime_checkable
class Knowing(Protocol):
    """Anything that can teach."""

    def knowledge(self, batch: Batch, taps: Sequence[str]) -> Knowledge:
        """Return the tapped tensors of a batch, without gradients, rows in the batch's order."""

    def fingerprint(self) -> str:
        """Return a short text that changes when the answers would."""
