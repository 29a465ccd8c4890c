"""Stores to and from Parquet and folders of ``datasets``, without loss.

A table has one row for each sample and view: ``id``, ``view`` and the stored parts of each field,
as TAP + PART, lists of their numbers. What else the index says stands in the metadata: under
``limbeck`` in a Parquet file's schema, as the description of a data set. Such a table gives back
the store, byte for byte; any other with a column ``id`` and lists of numbers makes a new one.

Letters: N samples, V views.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import Tensor

from limbeck.errors import InputError
from limbeck.files import atomically, file_digest
from limbeck.imports import needed
from limbeck.knowledge.columns import write_columns
from limbeck.knowledge.folders import Folder, folder_at, stated, write_json
from limbeck.knowledge.ids import smallest
from limbeck.knowledge.index import INDEX, STATE, ids_name, index_digest, shard_name, shards_of
from limbeck.knowledge.shards import OFFSETS, Part, part_of
from limbeck.knowledge.store import Store

__all__ = ["convert"]

_KEY = b"limbeck"
_TYPES = {
    torch.uint8: pa.uint8(),
    torch.int8: pa.int8(),
    torch.int16: pa.int16(),
    torch.int32: pa.int32(),
    torch.int64: pa.int64(),
    torch.float16: pa.float16(),
    torch.bfloat16: pa.uint16(),  # the same bytes: Arrow has no such type
    torch.float32: pa.float32(),
    torch.float64: pa.float64(),
    torch.bool: pa.uint8(),
}


def convert(
    source: str | Path, target: str | Path, *, codec: str | Mapping[str, str] = "half"
) -> None:
    """Turn a store into a table, or a table into a store.

    Args:
        source: a store; a file ``*.parquet``; or a folder that ``datasets`` saved.
        target: from a store, a file ``*.parquet``, else a new folder for ``datasets``; from a
            table, a new store.
        codec: for a table that is not of a store: how its columns are kept, as in
            :func:`limbeck.knowledge.write`.

    Raises:
        InputError: one of the two cannot be used; a table of a store has been changed since.
    """
    if folder_at(target).names() or (_is_local(target) and Path(target).exists()):
        raise InputError(f"{target} exists already", remedy="Give another name, or delete it.")
    if str(source).endswith(".parquet"):
        _from_table(_parquet(Path(source)), target, codec)
    elif _is_local(source) and (Path(source) / "dataset_info.json").is_file():
        _from_table(_dataset(Path(source)), target, codec)
    elif str(target).endswith(".parquet"):
        _to_parquet(Store.open(source), Path(target))
    else:
        _to_dataset(Store.open(source), Path(target))


def _is_local(path: str | Path) -> bool:
    return isinstance(path, Path) or "://" not in path


# -- from a store


def _to_parquet(store: Store, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    schema = _schema(store)
    with atomically(target) as draft, pq.ParquetWriter(draft, schema) as writer:
        for table in _tables(store, schema):
            writer.write_table(table)


def _to_dataset(store: Store, target: Path) -> None:
    datasets = needed("datasets", "data")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".converting-") as folder:
        file = Path(folder) / "rows.parquet"
        _to_parquet(store, file)
        found = datasets.Dataset.from_parquet(str(file), cache_dir=folder)
        found.info.description = pq.read_schema(file).metadata[_KEY].decode()
        draft = Path(folder) / "saved"
        found.save_to_disk(str(draft))
        shutil.move(draft, target)


def _schema(store: Store) -> pa.Schema:
    columns = [pa.field("id", pa.int64()), pa.field("view", pa.int32())]
    for tap in store.fields:
        for suffix, part in store.parts(tap).items():
            kind = _row_type(part)
            whole = pa.list_(kind) if store.jagged([tap]) else kind
            columns.append(pa.field(f"{tap}{suffix}", whole))
    told = {key: value for key, value in store.index.items() if key not in ("digest", "files")}
    state = {
        f"{tap}/{name}": {**_part(value).stated(), "bytes": _raw(value).hex()}
        for tap in store.fields
        for name, value in store.state(tap).items()
    }
    plain = pa.schema(columns)
    contents = _contents(_tables(store, plain))
    text = json.dumps({"index": told, "state": state, "contents": contents})
    return plain.with_metadata({_KEY: text.encode()})


def _row_type(part: Part) -> pa.DataType:
    size = torch.Size(part.shape).numel()
    return pa.list_(_TYPES[part.dtype], size) if part.shape else _TYPES[part.dtype]


def _tables(store: Store, schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield one table for each shard."""
    size = int(store.index["rows_per_shard"])
    for turn, (segment, view, number, rows) in enumerate(shards_of(store.index)):
        ids = store.ids[segment].all()[number * size : number * size + rows]
        shard = store.shard(turn)
        columns = [pa.array(ids.numpy()), pa.array([view] * rows, pa.int32())]
        for tap in store.fields:
            jagged = store.jagged([tap])
            for suffix, part in store.parts(tap).items():
                flat = _flat(shard.parts[f"{tap}{suffix}"], part)
                if jagged:
                    flat = pa.ListArray.from_arrays(pa.array(list(shard.offsets), pa.int32()), flat)
                columns.append(flat)
        yield pa.Table.from_arrays(columns, schema=schema)


def _flat(stored: memoryview, part: Part) -> pa.Array:
    """Return the rows of a part as Arrow sees them, without copying."""
    kind = _TYPES[part.dtype]
    count = len(stored) // part.dtype.itemsize
    values = pa.Array.from_buffers(kind, count, [None, pa.py_buffer(stored)])
    size = torch.Size(part.shape).numel()
    return pa.FixedSizeListArray.from_arrays(values, size) if part.shape else values


def _contents(tables: Iterator[pa.Table]) -> str:
    """Return a digest of all rows, however they are cut into pieces."""
    digests: dict[str, Any] = {}
    for table in tables:
        for name in table.column_names:
            for chunk in table.column(name).chunks:
                for depth, level in enumerate(_levels(chunk)):
                    digests.setdefault(f"{name} {depth}", hashlib.sha256()).update(level)
    told = sorted((name, digest.hexdigest()) for name, digest in digests.items())
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _levels(chunk: pa.Array) -> Iterator[bytes]:
    """Yield the bytes of an array's numbers; of lists, first how long each is."""
    while pa.types.is_nested(chunk.type):
        if not pa.types.is_fixed_size_list(chunk.type):
            yield _lengths(chunk).numpy().tobytes()
        chunk = chunk.flatten()
    yield bytes(_numbers(chunk))


def _lengths(lists: pa.Array) -> Tensor:
    """Return how long each list is, int64."""
    found = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    return torch.from_numpy(found.astype("int64"))


def _numbers(values: pa.Array) -> memoryview:
    """Return the bytes of a flat array without nulls."""
    width = values.type.bit_width // 8
    data = memoryview(values.buffers()[1]) if len(values) else memoryview(b"")
    return data[values.offset * width : (values.offset + len(values)) * width]


def _part(value: Tensor) -> Part:
    return Part(value.dtype, tuple(value.shape))


def _raw(value: Tensor) -> bytes:
    return value.contiguous().flatten().view(torch.uint8).numpy().tobytes()


# -- from a table


@dataclass(frozen=True)
class _Table:
    """Rows to read, from wherever; ``told`` is what stood in the metadata."""

    name: str
    rows: pa.Table
    told: Mapping[str, Any] | None
    fingerprint: str


def _parquet(file: Path) -> _Table:
    try:
        rows = pq.read_table(file, memory_map=True)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{file} could not be read: {error}", expected="a Parquet file") from error
    text = (rows.schema.metadata or {}).get(_KEY)
    return _Table(str(file), rows, json.loads(text) if text else None, file_digest(file)[:16])


def _dataset(folder: Path) -> _Table:
    found = needed("datasets", "data").load_from_disk(str(folder))
    rows = found.with_format("arrow")[:]
    try:
        told = json.loads(found.info.description)
    except ValueError:
        told = None
    usable = isinstance(told, dict) and "index" in told
    return _Table(str(folder), rows, told if usable else None, str(found._fingerprint))


def _from_table(table: _Table, target: str | Path, codec: str | Mapping[str, str]) -> None:
    if table.told is None:
        write_columns(table.rows, target, table.name, table.fingerprint, codec)
        return
    rows, told = table.rows.combine_chunks(), table.told
    expected = sum(count for *_, count in shards_of(told["index"]))
    if rows.num_rows != expected or _contents(iter([rows])) != told["contents"]:
        raise InputError(
            f"the rows of {table.name} are not those that were written from a store",
            consequence="The store would claim to hold what a teacher has said.",
            remedy="Take them as what they are: drop the metadata 'limbeck' from the schema (the "
            "description of a data set) first.",
        )
    folder = folder_at(target)
    files = _shards(folder, rows, told["index"])
    state = {
        name: torch.frombuffer(bytearray.fromhex(kept["bytes"]), dtype=part_of(kept).dtype).view(
            part_of(kept).shape
        )
        for name, kept in told["state"].items()
    }
    first = _ids(folder, rows, told["index"])
    if state:
        first[STATE] = _saved(folder, STATE, state)
    index = {**told["index"], "files": first | files}
    write_json(folder, INDEX, index | {"digest": index_digest(index)})


def _shards(folder: Folder, rows: pa.Table, index: Mapping[str, Any]) -> dict[str, Any]:
    """Write all shards; return what the index is to say of them."""
    files, start = {}, 0
    for segment, view, number, count in shards_of(index):
        here = rows.slice(start, count)
        tensors: dict[str, Tensor] = {}
        for tap, told in index["fields"].items():
            for suffix, part in told["parts"].items():
                column = here.column(f"{tap}{suffix}").combine_chunks()
                if told.get("jagged"):
                    tensors[OFFSETS] = _offsets(column)
                    column = column.flatten()
                tensors[f"{tap}{suffix}"] = _rows(column, part_of(part))
        name = shard_name(segment, view, number)
        files[name] = _saved(folder, name, tensors)
        start += count
    return files


def _rows(column: pa.Array, part: Part) -> Tensor:
    flat = column.flatten() if part.shape else column
    raw = bytearray(_numbers(flat))
    if not raw:
        return torch.empty((0, *part.shape), dtype=part.dtype)
    return torch.frombuffer(raw, dtype=part.dtype).view(-1, *part.shape)


def _offsets(column: pa.Array) -> Tensor:
    lengths = _lengths(column)
    total = torch.cat((lengths.new_zeros(1), lengths)).cumsum(0)
    return total.to(torch.int32 if int(total[-1]) < 2**31 else torch.int64)


def _ids(folder: Folder, rows: pa.Table, index: Mapping[str, Any]) -> dict[str, Any]:
    """Write the ids of the segments that have a file of them."""
    ids = torch.from_numpy(rows.column("id").to_numpy().copy())
    files, start = {}, 0
    for number, told in enumerate(index["segments"]):
        if told.get("first") is None:
            own = smallest(ids[start : start + told["samples"]])[1]
            files[ids_name(number)] = _saved(folder, ids_name(number), {"ids": own.contiguous()})
        start += told["samples"] * index["views"]
    return files


def _saved(folder: Folder, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    with folder.writing(name) as draft:
        save_file(tensors, draft)
        return stated(draft)
