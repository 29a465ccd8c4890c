"""Tables of pictures and texts: rows joined with the pictures that they are about.

Letters: N rows, M pictures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.data.jagged import Texts
from limbeck.data.pairs import Pairs, Pictured
from limbeck.data.random import key as hashed
from limbeck.data.samples import Arrays, Items
from limbeck.data.shared import Shared
from limbeck.data.sources.encoded import Encoded, in_memory
from limbeck.data.sources.split import complete
from limbeck.data.sources.tables import SPLITS, SUFFIXES, column_of, holds_images, joined
from limbeck.data.splits import Data
from limbeck.data.tokens import KINDS, Tokenizer
from limbeck.errors import InputError, unknown

__all__ = ["Cuts", "Reading", "Rows", "assembled", "read"]


@dataclass(frozen=True)
class Rows:
    """The rows of a split, and the pictures that they are about.

    Attributes:
        table: an Arrow table of N rows.
        pictures: (N,) int64, the picture of each, from 0 to M − 1.
        images: M encoded pictures.
        place: where they are from, for messages.
    """

    table: Any
    pictures: Tensor
    images: Sequence[bytes]
    place: str


@dataclass(frozen=True)
class Cuts:
    """How splits are made that are not there, and how many samples are used.

    Attributes:
        validation: fraction of the training pictures.
        test: fraction of the training pictures.
        seed: of both cuts.
        limit: at most so many training samples, and half as many of the others.
    """

    validation: float
    test: float
    seed: int
    limit: int | None


@dataclass(frozen=True)
class Reading:
    """How pictures and texts become tensors.

    Attributes:
        tokenizer: a file or a folder, or a kind to train on the training texts.
        vocab: the most tokens that a trained tokenizer has.
        length: the most tokens of a text.
        size: pictures are resized to this height and width; 0 keeps them.
    """

    tokenizer: str | Path
    vocab: int
    length: int
    size: int


def read(folder: Path, image: str, key: str) -> dict[str, Rows]:
    """Return the rows of each split, joined with their pictures.

    A split is one table, or a table of rows and a table of pictures that share a column, the
    picture's id. The files' names hold the split's: ``train.parquet``, ``questions-train.parquet``.

    Args:
        folder: with the tables.
        image: the pictures' column; by default ``image``, or the one that holds images.
        key: the column that joins the two tables; by default the only one that both have.

    Raises:
        InputError: there is no training table, none with pictures, no such column, an id twice, a
            row without a picture.
    """
    files = [file for file in sorted(folder.iterdir()) if file.suffix in SUFFIXES]
    found = {}
    for split, names in SPLITS.items():
        parts = [f for f in files if set(re.split(r"[-_.]", f.name)) & set(names)]
        if parts:
            found[split] = _rows([joined([part]) for part in parts], image, key, split, folder)
    if "train" not in found:
        listed = ", ".join(file.name for file in files[:8]) or "no table"
        raise InputError(
            f"{folder} holds {listed}",
            expected="at least train.parquet, or questions-train.parquet and images-train.parquet",
        )
    return found


def _rows(tables: Sequence[Any], image: str, key: str, split: str, folder: Path) -> Rows:
    place = f"{split} in {folder}"
    with_images = [t for t in tables if any(holds_images(field.type) for field in t.schema)]
    others = [t for t in tables if not any(t is each for each in with_images)]
    if not with_images:
        raise InputError(
            f"no table of {place} holds pictures",
            expected="a column of encoded images: bytes, or a struct with bytes",
        )
    held = _one(with_images, place)
    column = column_of(held.schema, image, "image", holds_images)
    stored = [row["bytes"] if isinstance(row, dict) else row for row in held[column].to_pylist()]
    if None in stored:
        raise InputError(f"row {stored.index(None)} of the pictures of {place} has no picture")
    if not others:
        numbers: dict[bytes, int] = {}
        rows = [numbers.setdefault(each, len(numbers)) for each in stored]
        return Rows(held, torch.tensor(rows), list(numbers), place)
    table = _one(others, place)
    name = _key(table, held, key, place)
    return Rows(table, _joined(table[name], held[name], name, place), stored, place)


def _one(tables: Sequence[Any], place: str) -> Any:
    import pyarrow

    try:
        return pyarrow.concat_tables(tables)
    except pyarrow.ArrowException as error:
        raise InputError(f"the tables of {place} differ: {error}") from error


def _key(table: Any, held: Any, key: str, place: str) -> str:
    """Return the column that joins rows and pictures."""
    both = [name for name in table.schema.names if name in held.schema.names]
    if key and key not in both:
        raise unknown(f"column of both tables of {place}:", key, both)
    if not key and len(both) != 1:
        raise InputError(
            f"the tables of {place} share the columns {', '.join(both) or 'none'}",
            expected="one, the picture's id",
            remedy="Name it: data.args.key.",
        )
    return key or both[0]


def _joined(asked: Any, held: Any, name: str, place: str) -> Tensor:
    """Return the picture of each row, (N,)."""
    numbers: dict[Any, int] = {}
    for number, each in enumerate(held.to_pylist()):
        if numbers.setdefault(each, number) != number:
            raise InputError(
                f"two pictures of {place} have the {name} {each}", expected="a picture for each"
            )
    wanted = asked.to_pylist()
    missing = [row for row, each in enumerate(wanted) if each not in numbers]
    if missing:
        raise InputError(
            f"row {missing[0]} of {place} is about {name} {wanted[missing[0]]}, "
            f"and there is no such picture ({len(missing):,} rows of {len(wanted):,} have none)",
            expected="a picture for each row",
            remedy="Add the pictures, or take the rows out.",
        )
    return torch.tensor([numbers[each] for each in wanted], dtype=torch.int64)


def assembled(
    rows: Mapping[str, Rows],
    texts: Mapping[str, Sequence[str]],
    targets: Mapping[str, Tensor],
    labels: tuple[str, ...],
    name: str,
    reading: Reading,
    cuts: Cuts,
    *,
    text_shown: bool,
) -> Data:
    """Return data whose inputs are pictures and tokens; no picture is in two splits.

    A batch's inputs are ``image`` (B, 3, H, W), and ``input_ids`` and ``attention_mask`` (B, T).

    Args:
        rows: of each split that there is.
        texts: a text for each row.
        targets: (N,) int64, a label for each row.
        labels: the classes' names.
        name: of the data.
        reading: how tensors are made.
        cuts: what is cut.
        text_shown: whether people see a sample's text beside its picture.

    Raises:
        InputError: pictures differ in size, one is damaged, or they do not fit into memory.
    """
    found = {
        split: Arrays.of(targets=targets[split], picture=each.pictures)
        for split, each in rows.items()
    }
    origin = {split: split if split in rows else "train" for split in SPLITS}
    for split, fraction in (("test", cuts.test), ("validation", cuts.validation)):
        if split not in found:
            found["train"], found[split] = _cut(found["train"], fraction, cuts.seed)
    options: dict[str, Any] = {"validation": 0.1, "test": 0.1, "seed": cuts.seed}
    data = complete(found, labels, name, limit=cuts.limit, **options)
    learnt = [texts["train"][row] for row in data.train.ids.tolist()]
    tokenizer = _tokenizer(reading, learnt)
    known = {split: Texts.of(each) if text_shown else None for split, each in texts.items()}

    def filled(split: str, samples: Any) -> Arrays:
        here = origin[split]
        pictures = _pictures(rows[here], samples.column("picture"), reading.size)
        read = tokenizer.encode([texts[here][row] for row in samples.ids.tolist()])
        fields = {"inputs": {"image": pictures, "text": read}, "targets": samples.column("targets")}
        shows = Pictured(samples.ids, pictures, known[here])
        return Arrays(fields, samples.ids, shows)

    train = filled("train", data.train)
    shape = train.fields["inputs"]["image"].values.shape[1:]
    vocab = {"vocab": tokenizer.vocab, "padding": tokenizer.padding, "positions": reading.length}
    return replace(
        data,
        train=train,
        validation=filled("validation", data.validation),
        test=filled("test", data.test),
        facts={"inputs": {**vocab, "image": list(shape)}},
        reader=Pairs(tokenizer, (shape[0], shape[1], shape[2])),
    )


def _cut(samples: Any, fraction: float, seed: int) -> tuple[Any, Any]:
    """Cut off the samples of a fraction of the pictures, chosen by a hash of their numbers."""
    about = samples.column("picture")
    pictures = about.unique()
    if not 0 < fraction < 1 or len(pictures) < 2:
        raise InputError(
            f"a fraction of {fraction} to cut off {len(pictures)} pictures",
            expected="a number above 0 and below 1, and at least two pictures",
        )
    count = min(max(1, round(len(pictures) * fraction)), len(pictures) - 1)
    gone = torch.isin(about, pictures[hashed(seed, pictures, 0).argsort()[:count]])
    return tuple(samples.subset(where.nonzero().squeeze(1)) for where in (~gone, gone))


def _pictures(rows: Rows, wanted: Tensor, size: int) -> Shared:
    """Return the pictures of samples, each decoded once."""
    used, places = wanted.unique(return_inverse=True)
    dataset = Encoded(rows.images, torch.zeros(len(rows.images)), size, "RGB", rows.place)
    decoded = in_memory(Items(dataset, used, name=rows.place))
    if not isinstance(decoded, Arrays):
        raise InputError(
            f"the {len(used):,} pictures of {rows.place} take more than 2 GiB",
            expected="pictures that fit into memory",
            remedy="Make them smaller, data.args.size, or use fewer samples, data.limit.",
        )
    return Shared(decoded.fields["inputs"], places)


def _tokenizer(reading: Reading, texts: Sequence[str]) -> Tokenizer:
    if str(reading.tokenizer) in KINDS:
        kind, size, length = str(reading.tokenizer), reading.vocab, reading.length
        return Tokenizer.train(texts, kind, size=size, length=length)
    return Tokenizer.load(reading.tokenizer, reading.length)
