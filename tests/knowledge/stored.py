"""A teacher whose answers tell what it was asked about, for the tests of stores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.data import Arrays, Augmentation, Loader
from limbeck.knowledge import Knowledge, Store, write

__all__ = [
    "SMALL",
    "N",
    "Oracle",
    "Store",
    "contents",
    "expected",
    "pictures",
    "samples",
    "write",
]  # fmt: skip

N = 23
SMALL: dict[str, Any] = {"batch_size": 4, "rows_per_shard": 8}


class Oracle:
    """Answers with numbers from which the sample and the picture can be told; counts its batches.

    ``logits`` holds 0.25 of the sum of the picture's pixels per channel, so that another crop is
    another answer.
    """

    def __init__(self, name: str = "oracle", fails_at: int | None = None) -> None:
        self.name, self.fails_at, self.batches = name, fails_at, 0

    def knowledge(self, batch: dict[str, Any], taps: Sequence[str]) -> Knowledge:
        if self.batches == self.fails_at:
            raise ConnectionError("the teacher is gone")
        self.batches += 1
        images, ids = batch["inputs"], batch["id"]
        own = {
            "logits": images[:, :, ::2].sum((2, 3)) / 4 + ids[:, None] / 8,
            "layer2": images[:, :1, :2, :2] + ids[:, None, None, None],
        }
        return Knowledge({tap: own[tap] for tap in taps}, ids)

    def fingerprint(self) -> str:
        return self.name


def pictures(count: int = N) -> Tensor:
    return torch.arange(count * 48).view(count, 3, 4, 4) % 16 / 16


def samples(count: int = N, ids: Tensor | None = None) -> Arrays:
    return Arrays.of(ids, inputs=pictures(count), targets=torch.arange(count) % 3)


def expected(data: Arrays, view: int = 0, augment: Augmentation | None = None) -> Tensor:
    [batch] = Loader(data, len(data), augment=augment).epoch(view)
    return Oracle().knowledge(batch, ["logits"])["logits"]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
