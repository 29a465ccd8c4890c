"""What all checks share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map

from limbeck.errors import InputError

__all__ = ["ContractError", "Findings", "size_of"]


class ContractError(AssertionError):
    """What was checked does not keep the contract; the message lists every breach."""


class Findings:
    """Collects breaches, so that all are told at once."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.breaches: list[str] = []

    def expect(self, holds: bool | Tensor, breach: str) -> None:
        if not bool(holds):
            self.breaches.append(breach)

    @contextmanager
    def about(self, topic: str) -> Iterator[None]:
        """Turn an exception into a breach."""
        try:
            yield
        except Exception as error:
            self.breaches.append(f"{topic}: {type(error).__name__}: {error}")

    def raise_if_any(self) -> None:
        if self.breaches:
            listed = "\n  - ".join(dict.fromkeys(self.breaches))
            raise ContractError(f"{self.what} breaks its contract:\n  - {listed}")


def size_of(batch: Any) -> int:
    """Return the number of samples of a batch: at least two."""
    sizes: list[int] = []
    tree_map(lambda leaf: sizes.append(len(leaf)) if isinstance(leaf, Tensor) else None, batch)
    if not sizes or sizes[0] < 2:
        raise InputError("a batch without two samples", expected="at least two")
    return sizes[0]
