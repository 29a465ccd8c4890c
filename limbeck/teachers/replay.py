"""A knowledge store as a teacher: the answers were computed once and are read again.

Letters: B samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from limbeck.data.samples import Batch
from limbeck.errors import InputError
from limbeck.knowledge.record import Knowledge
from limbeck.knowledge.store import Store

__all__ = ["Replay"]


class Replay:
    """Reads from a store what a teacher said about each sample and view.

    Args:
        path: the store's folder.

    Raises:
        InputError: there is no finished store; later, a batch without ids, or a sample, a view or a
            tap that the store does not hold.
    """

    def __init__(self, path: str | Path) -> None:
        self.store = Store.open(path)

    def knowledge(self, batch: Batch, taps: Sequence[str] = ("logits",)) -> Knowledge:
        """Return the stored tensors of a batch, float32, on the device of its ids."""
        if "id" not in batch:
            raise InputError(
                "a batch without sample ids met a teacher that reads from a store",
                expected="the field 'id', or (inputs, targets, ids)",
                remedy="Load the data with limbeck.data.Loader, or give the ids as a third item.",
            )
        ids: Tensor = batch["id"]
        views = batch.get("view", torch.zeros_like(ids)).cpu()
        self._refuse_unseen(views)
        rows = self.store.rows(ids.cpu(), views, tuple(taps))
        known = Knowledge(rows, ids=ids, provenance=str(self.store.path))
        return known if ids.device.type == "cpu" else known.to(ids.device)

    def _refuse_unseen(self, views: Tensor) -> None:
        """Refuse a view that was never shown to the teacher, unless all views are the same."""
        augmented = self.store.index["fingerprints"].get("augmentation", "none") != "none"
        if augmented and len(views) and int(views.max()) >= self.store.views:
            raise InputError(
                f"view {int(views.max())} of a sample met the store {self.store.path}, which holds "
                f"{self.store.views} views of each",
                consequence="The student would see another crop than the teacher saw.",
                remedy=f"Let the loader cycle through them: views={self.store.views}.",
            )

    def fingerprint(self) -> str:
        """Return the fingerprint of the teacher whose answers these are."""
        return str(self.store.index["fingerprints"]["teacher"])
