"""A knowledge store as a teacher: the answers were computed once and are read again.

Letters: B samples, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.data.augment import Augmentation
from limbeck.data.samples import Batch, Samples
from limbeck.errors import InputError
from limbeck.knowledge.provenance import augmentation, fingerprints, trusted
from limbeck.knowledge.record import Knowledge
from limbeck.knowledge.rows import Mask, mask_of
from limbeck.knowledge.store import Store

__all__ = ["Replay"]


class Replay:
    """Reads from a store what a teacher said about each sample and view.

    Args:
        path: the store's folder, or a URL that fsspec knows.
        mask: which tokens of a batch count, if the store has a row for each token: a field's name,
            or a function of the batch; by default the field that the store was written with.
        trust: what may differ from what the store was made from, on your word: ``data``,
            ``augmentation``, ``teacher``, ... (see :data:`limbeck.knowledge.provenance.SUBJECTS`).
        cache: where files from elsewhere are kept; see :meth:`limbeck.knowledge.Store.open`.

    Raises:
        InputError: there is no finished store; later, a batch without ids, or a sample, a view or a
            tap that the store does not hold.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        mask: Mask | None = None,
        trust: Iterable[str] = (),
        cache: str | Path | None = None,
    ) -> None:
        self.store = Store.open(path, cache=cache)
        self.mask = mask if mask is not None else self.store.index.get("mask")
        self.trust = trusted(trust)

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
        mask = mask_of(batch, self._mask()) if self.store.jagged(taps) else None
        rows = self.store.rows(ids.cpu(), views, tuple(taps), mask)
        known = Knowledge(rows, ids=ids, mask=mask, provenance=str(self.store.path))
        return known if ids.device.type == "cpu" else known.to(ids.device)

    def check(
        self,
        samples: Samples | None = None,
        augment: Augmentation | None = None,
        teacher: Any = None,
    ) -> None:
        """Refuse to teach about other samples, or other views of them, than the store is about.

        :func:`limbeck.fit` calls it before the first step.

        Args:
            samples: what a student is to be trained on; some of the store's will do, but only if
                all are there is it found out that they have changed.
            augment: what the student's loader does to them.
            teacher: who should have said what the store holds; ``None`` if that is not known.

        Raises:
            InputError: a sample is not in the store, or something differs that is not trusted.
        """
        expected = fingerprints(teacher) if teacher is not None else {}
        if samples is not None:
            expected["augmentation"] = augmentation(samples, augment)
            if "data" not in self.trust:
                self.store.check_samples(samples)
        self.store.check(expected, self.trust)

    def fingerprint(self) -> str:
        """Return the fingerprint of the teacher whose answers these are."""
        return str(self.store.index["fingerprints"]["teacher"])

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

    def _mask(self) -> Mask:
        if self.mask is None or (isinstance(self.mask, str) and " " in self.mask):
            raise InputError(
                f"the store {self.store.path} was written with a function that says which tokens "
                f"count ({self.mask})",
                expected="the same one, or a field of the batch",
                remedy="Give it: Teacher.replay(path, mask=...).",
            )
        return self.mask
