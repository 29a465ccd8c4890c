"""Sets of samples with stable ids.

A batch is a mapping. ``inputs`` is what a model is called with (a tensor, or a mapping of named
ones), ``targets`` the labels; ``id`` names each sample whatever the order or epoch, ``view`` the
augmentation that it got. Where samples are mixed with others, ``partner`` has the others' labels
and ``share`` how much of each mixture is the sample's own. A task may use further fields. Images
travel as uint8 and reach the models as float32 from 0 to 1.

Letters: N samples in a set, B in a batch.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils._pytree import tree_flatten_with_path, tree_leaves, tree_map
from torch.utils.data import DataLoader, Dataset, TensorDataset

from limbeck.data.jagged import Jagged
from limbeck.data.random import key
from limbeck.data.shared import Packed
from limbeck.data.shown import Show, Shown, portrayed
from limbeck.errors import InputError, unknown

__all__ = [
    "Arrays",
    "Batch",
    "Items",
    "Samples",
    "as_batch",
    "as_samples",
    "cut",
    "pixels",
    "seeded",
]

Batch = dict[str, Any]


@runtime_checkable
class Samples(Protocol):
    """A set of samples: what a loader reads."""

    @property
    def ids(self) -> Tensor:
        """(N,) int64, unique, the same in every run on the same source."""

    def __len__(self) -> int: ...

    def subset(self, rows: Tensor) -> Samples:
        """Return the samples at ``rows``, in that order, with the ids that they had."""

    def batches(self, rows: Sequence[Tensor], view: int, seed: int) -> Iterator[Batch]:
        """Yield one batch per tensor of rows; images still as stored."""

    def column(self, field: str) -> Any:
        """Return one field of all samples, (N, ...)."""

    def fingerprint(self) -> str:
        """Return a short text that changes when the samples change."""


@dataclass(frozen=True, eq=False)
class Arrays:
    """Samples held in memory as tensors: gathered a batch at a time, without Python per sample.

    Attributes:
        fields: by name, a tensor (N, ...), rows of unequal length as a
            :class:`limbeck.data.Jagged`, which batches pad, values that samples share as a
            :class:`limbeck.data.Shared`, or a mapping of such; in a mapping, the values and the
            mask of a Jagged take its place, under their own names.
        ids: (N,) int64; by default the row number.
        show: how the sample of an id is shown to a person, if not by its inputs.

    >>> data = Arrays.of(inputs=torch.zeros(4, 1, 8, 8), targets=torch.tensor([0, 1, 0, 1]))
    >>> [batch["id"].tolist() for batch in data.batches([torch.tensor([3, 0])], view=0, seed=0)]
    [[3, 0]]
    """

    fields: Mapping[str, Any]
    ids: Tensor
    show: Show | None = None

    @classmethod
    def of(cls, ids: Any = None, /, **fields: Any) -> Arrays:
        """Make a set from tensors or NumPy arrays of equal length, or mappings of them."""
        tensors = tree_map(lambda t: t if isinstance(t, Packed) else torch.as_tensor(t), fields)
        names = [] if ids is None else [torch.as_tensor(ids, dtype=torch.int64)]
        lengths = sorted({tuple(leaf.shape[:1]) for leaf in [*tree_leaves(tensors), *names]})
        if len(lengths) != 1 or not lengths[0]:
            raise InputError(
                f"arrays of lengths {[length[0] if length else 'none' for length in lengths]}",
                expected="one or more, equally long",
            )
        return cls(tensors, names[0] if names else torch.arange(lengths[0][0]))

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, rows: Tensor) -> Arrays:
        """Return the samples at ``rows``."""
        return replace(self, fields=self._at(rows), ids=self.ids[rows])

    def batches(self, rows: Sequence[Tensor], view: int, seed: int) -> Iterator[Batch]:
        """Yield one batch per tensor of rows."""
        for part in rows:
            here = part.to(self.ids.device)
            found = {name: _in_batch(field) for name, field in self._at(here).items()}
            yield found | {"id": self.ids[here], "view": torch.full_like(here, view)}

    def column(self, field: str) -> Any:
        """Return one field of all samples."""
        return _field(self.fields, field)

    def fingerprint(self) -> str:
        """Return a hash of the contents."""
        digest = hashlib.sha256(self.ids.cpu().numpy().tobytes())
        for path, tensor in tree_flatten_with_path(dict(self.fields))[0]:
            if not isinstance(tensor, Tensor):  # a packed field, or a text of an item
                told = tensor.fingerprint() if isinstance(tensor, Packed) else repr(tensor)
                digest.update(f"{path} {told}".encode())
                continue
            digest.update(f"{path} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def to(self, device: torch.device | str) -> Arrays:
        """Return the same samples on another device, where batches are then gathered."""
        moved = tree_map(lambda tensor: tensor.to(device), dict(self.fields))
        return replace(self, fields=moved, ids=self.ids.to(device))

    def shown(self, row: int) -> Shown:
        """Return how the sample at a row is shown to a person."""
        if self.show is not None:
            return self.show(int(self.ids[row]))
        return _shown(next(self.batches([torch.tensor([row])], view=0, seed=0)))

    @property
    def lengths(self) -> Tensor | None:
        """(N,) how long each sample is, if their inputs differ in that."""
        inputs = self.fields.get("inputs")
        parts = inputs.values() if isinstance(inputs, Mapping) else (inputs,)
        found = [part.lengths for part in parts if isinstance(part, Jagged)]
        return torch.stack(found).sum(dim=0) if found else None

    @property
    def nbytes(self) -> int:
        """The size of all fields in memory."""
        return sum(tensor.nbytes for tensor in tree_leaves(dict(self.fields)))

    def _at(self, rows: Tensor) -> dict[str, Any]:
        return {
            name: tree_map(lambda tensor: tensor.index_select(0, rows), field)
            for name, field in self.fields.items()
        }


@dataclass(frozen=True, eq=False)
class Items:
    """Samples read one at a time from any map-style dataset, by worker processes.

    While a sample is read, the generators of PyTorch, NumPy and Python are seeded from (seed, id,
    view): a random transform inside the dataset gives the same result whenever the same view of a
    sample is asked for.

    Attributes:
        dataset: yields (input, target) tuples, or mappings.
        ids: (N,) int64, the dataset's index of each sample.
        inputs: if it yields mappings, the name of the inputs, or several names.
        targets: if it yields mappings, the name of the targets.
        workers: worker processes of the data loader; 0 reads in this process.
        name: what the fingerprint says of the source.
        known: fields known without reading the samples, by the dataset's index; labels, mostly.
    """

    dataset: Dataset[Any]
    ids: Tensor
    inputs: str | tuple[str, ...] = "inputs"
    targets: str = "targets"
    workers: int = 0
    name: str = ""
    known: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: Dataset[Any], **options: Any) -> Items:
        """Make a set of all samples of a dataset that has a length."""
        try:
            count = len(dataset)  # type: ignore[arg-type]
        except TypeError:
            raise InputError(
                f"a dataset of type {type(dataset).__name__} without a length",
                expected="a map-style torch.utils.data.Dataset",
                remedy="Give a DataLoader over it, or collect it into tensors.",
            ) from None
        return cls(dataset, torch.arange(count), **options)

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, rows: Tensor) -> Items:
        """Return the samples at ``rows``."""
        return replace(self, ids=self.ids[rows])

    def batches(self, rows: Sequence[Tensor], view: int, seed: int) -> Iterator[Batch]:
        """Yield one batch per tensor of rows."""
        if not rows:
            return
        loader = DataLoader(
            _Seeded(self, view, seed),
            # A part without rows reads one sample, for its fields, and yields none of it.
            batch_sampler=[self.ids[part if len(part) else slice(1)].tolist() for part in rows],
            num_workers=self.workers,
            # One of its own, so that reading draws nothing from the global one.
            generator=torch.Generator(),
        )
        for part, found in zip(rows, loader, strict=True):
            batch = found if len(part) else tree_map(lambda field: field[:0], found)
            yield batch | {"view": torch.full_like(batch["id"], view)}

    def column(self, field: str) -> Any:
        """Return one field of all samples; reads them all if it is not known."""
        if field in self.known:
            return self.known[field][self.ids]
        rows = torch.arange(len(self)).split(256)
        parts = [_field(batch, field) for batch in self.batches(rows, view=0, seed=0)]
        return tree_map(lambda *columns: torch.cat(columns), *parts)

    def shown(self, row: int) -> Shown:
        """Return how the sample at a row is shown to a person."""
        return _shown(next(self.batches([torch.tensor([row])], view=0, seed=0)))

    def fingerprint(self) -> str:
        """Return a hash of the ids, the source's name and its first sample."""
        first = next(self.batches([torch.arange(min(1, len(self)))], view=0, seed=0))
        text = f"{self.name} {Arrays(first, first['id']).fingerprint()}".encode()
        return hashlib.sha256(text + self.ids.numpy().tobytes()).hexdigest()[:16]


def _in_batch(field: Any) -> Any:
    """Return a field as a batch has it."""
    if isinstance(field, Packed):
        return field.in_batch()
    if not isinstance(field, Mapping):
        return field
    found: dict[str, Any] = {}
    for name, part in field.items():
        value = _in_batch(part)
        several = isinstance(part, Packed) and isinstance(value, Mapping)
        found |= value if several else {name: value}
    return found


def _shown(batch: Batch) -> Shown:
    """Return how the inputs of the only sample of a batch are shown."""
    inputs = tree_map(lambda t: t[0] if isinstance(t, Tensor) else t, batch.get("inputs"))
    return portrayed(inputs)


def _field(fields: Mapping[str, Any], name: str) -> Any:
    if name not in fields:
        raise unknown("field of the samples:", name, fields)
    return fields[name]


class _Seeded(Dataset[Batch]):
    """The samples of :class:`Items`, their randomness depending on (seed, id, view) alone."""

    def __init__(self, items: Items, view: int, seed: int) -> None:
        self.items, self.view, self.seed = items, view, seed

    def __getitem__(self, index: int) -> Batch:
        with seeded(int(key(self.seed, torch.tensor([index]), self.view))):
            item = self.items.dataset[index]
        batch = as_batch(item, self.items.inputs, self.items.targets)
        tensors = {name: pixels(v) if isinstance(v, Image) else v for name, v in batch.items()}
        return tensors | {"id": torch.tensor(index)}


def cut(batch: Any, rows: slice | Tensor) -> Any:
    """Return some samples of a batch: of its tensors, and of its lists, of texts for example.

    >>> cut({"inputs": torch.arange(3), "text": ["a", "b", "c"]}, slice(0, 2))
    {'inputs': tensor([0, 1]), 'text': ['a', 'b']}
    """

    def some(leaf: Any) -> Any:
        if isinstance(leaf, list):
            return leaf[rows] if isinstance(rows, slice) else [leaf[row] for row in rows.tolist()]
        return leaf[rows] if isinstance(leaf, Tensor) else leaf

    return tree_map(some, batch, is_leaf=lambda part: isinstance(part, list))


def as_batch(
    found: Any, inputs: str | tuple[str, ...] = "inputs", targets: str = "targets"
) -> Batch:
    """Return a batch (or one sample) of any usual form as a mapping with the usual names.

    Args:
        found: a tuple (inputs, targets) or (inputs, targets, ids), or a mapping.
        inputs: in a mapping, the name of the inputs; several names make a mapping of them.
        targets: in a mapping, the name of the targets.

    >>> sorted(as_batch({"text": 1, "mask": 2, "label": 3}, inputs=("text", "mask"),
    ...                 targets="label").items())
    [('inputs', {'text': 1, 'mask': 2}), ('targets', 3)]
    """
    if isinstance(found, (tuple, list)) and len(found) in (2, 3):
        return dict(zip(("inputs", "targets", "id"), found, strict=False))
    if not isinstance(found, Mapping):
        raise InputError(
            f"a batch of type {type(found).__name__}",
            expected="(inputs, targets), (inputs, targets, ids), or a mapping",
        )
    wanted = (inputs,) if isinstance(inputs, str) else inputs
    for name in (*wanted, targets):
        if name not in found:
            raise unknown("field of the batch:", name, found)
    used = {*wanted, targets, "inputs", "targets"}
    picked = found[inputs] if isinstance(inputs, str) else {name: found[name] for name in inputs}
    rest = {name: value for name, value in found.items() if name not in used}
    return {"inputs": picked, "targets": found[targets], **rest}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the CPU generators of PyTorch, NumPy and Python, then put their states back."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def pixels(image: Image) -> Tensor:
    """Return a Pillow image's pixels as (C, H, W) uint8.

    >>> from PIL import Image
    >>> pixels(Image.new("RGB", (4, 2))).shape
    torch.Size([3, 2, 4])
    """
    array = np.array(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    return torch.from_numpy(array.reshape(image.height, image.width, -1)).permute(2, 0, 1)


def _single(value: Any) -> Any:
    """Turn NumPy's other floats into float32, which models compute in; leave tensors alone."""
    other = isinstance(value, np.ndarray) and value.dtype in (np.float64, np.float16)
    return value.astype(np.float32) if other else value


def as_samples(source: Any) -> Samples:
    """Make a set of samples from what users have.

    Takes a set of samples, a map-style dataset, a tuple (inputs, targets) or (inputs, targets,
    ids) of tensors or NumPy arrays, or a mapping of them; ``id`` names the samples. NumPy's float64
    and float16 become float32.

    >>> len(as_samples((torch.zeros(5, 3), torch.zeros(5, dtype=torch.int64))))
    5
    >>> as_samples((np.zeros((5, 3), np.float16), np.zeros(5, int))).column("inputs").dtype
    torch.float32
    """
    if isinstance(source, Samples):
        return source
    if isinstance(source, TensorDataset):
        source = source.tensors
    if isinstance(source, (Mapping, tuple)):
        fields = tree_map(_single, as_batch(source))
        return Arrays.of(fields.pop("id", None), **fields)
    if isinstance(source, Dataset):
        return Items.of(source)
    raise InputError(
        f"data of type {type(source).__name__}",
        expected="tensors or arrays (inputs, targets), a mapping of them, a map-style dataset, or "
        "a set made by limbeck.data",
    )
