"""Texts of unequal length: each answer stands at its own text, and little is padded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from limbeck.data import Arrays
from limbeck.data.jagged import Jagged
from limbeck.data.samples import Batch
from limbeck.knowledge import Knowledge, write

N = 50


class Reader:
    """A teacher that says how long a text is and what it adds up to, and counts what it reads."""

    def __init__(self) -> None:
        self.read = 0

    def knowledge(self, batch: Batch, taps: Sequence[str]) -> Knowledge:
        ids, mask = batch["inputs"]["input_ids"], batch["inputs"]["attention_mask"]
        self.read += ids.numel()
        return Knowledge({"logits": torch.stack([mask.sum(1), (ids * mask).sum(1)], 1).float()})

    def fingerprint(self) -> str:
        return "reader"


def test_texts_of_like_length_are_asked_about_together(tmp_path: Path) -> None:
    """Without it, a teacher would read padding, or say of one text what it said of another."""
    draws = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 40, (N,), generator=draws).tolist()
    words = [torch.randint(1, 9, (length,), generator=draws).tolist() for length in lengths]
    ids = torch.randperm(N, generator=draws) + 7
    data = Arrays({"inputs": Jagged.of(words), "targets": torch.zeros(N, dtype=torch.long)}, ids)
    reader = Reader()
    store = write(tmp_path, reader, data, codec="full", batch_size=5, rows_per_shard=20)
    found = store.rows(ids, torch.zeros(N, dtype=torch.int64), ("logits",))["logits"]
    assert found.tolist() == [[len(row), sum(row)] for row in words]
    assert reader.read < 1.4 * sum(lengths)  # in the order of ids it would be 1.7
