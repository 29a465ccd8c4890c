"""The knowledge store against the bare file system: writing, random reading, opening.

    python benchmarks/store.py

writes answers over 1000 classes that cost nothing to compute, once with every value in float16 and
once with the 16 most likely classes, into a store of few shards and one of many, and reads random
batches of 256 samples. Beside each stands the same amount of bytes written with one call (and put
on the disk), and the same rows gathered by NumPy from one memory-mapped file. ``cold`` is the first
pass after the files were dropped from the page cache. All is measured in turn, in one process;
warm reading and opening in processor time, which other processes on the machine do not change.

    python benchmarks/store.py --kills 20

instead writes one store undisturbed, and one whose writer is killed 20 times at random moments, and
compares them byte for byte.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.data import Arrays
from limbeck.files import file_digest
from limbeck.knowledge import Knowledge, Store, write

CLASSES, BATCH = 1000, 256


class Table:
    """Answers from a table, so that the teacher costs next to nothing."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.logits = torch.randn(BATCH, CLASSES) * 4

    def knowledge(self, batch: dict[str, Any], taps: Sequence[str]) -> Knowledge:
        return Knowledge({"logits": self.logits[: len(batch["id"])]}, batch["id"])

    def fingerprint(self) -> str:
        return "table"


def samples(rows: int) -> Arrays:
    return Arrays.of(inputs=torch.zeros(rows, 1), targets=torch.zeros(rows))


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    began = clock()
    work()
    return clock() - began


def written(path: Path, codec: str, rows: int) -> tuple[Store, float]:
    """Write a store; return it and the seconds."""
    data, teacher = samples(rows), Table()
    spent = seconds(lambda: write(path, teacher, data, codec=codec, batch_size=BATCH))
    return Store.open(path), spent


def encoded(codec: str, rows: int) -> float:
    """Return the seconds that the codec alone takes for so many rows."""
    from limbeck.knowledge import codec as codecs

    kept, logits, keys = codecs.get(codec), Table().logits, torch.arange(BATCH)
    few = max(1, rows // BATCH // 10)

    def each() -> None:
        for _ in range(few):
            kept.encode(logits, keys)

    return seconds(each) * rows / BATCH / few


def dumped(path: Path, size: int) -> float:
    """Write so many bytes into one file, and see them onto the disk."""
    block = np.random.default_rng(0).integers(256, size=2**24, dtype=np.uint8).tobytes()

    def dump() -> None:
        with path.open("wb") as file:
            for start in range(0, size, len(block)):
                file.write(block[: size - start])
            file.flush()
            os.fsync(file.fileno())

    return seconds(dump)


def dropped(path: Path) -> None:
    """Ask the system to forget the files of a folder."""
    for file in path.iterdir():
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def batches(rows: int, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(rows, (BATCH,), generator=generator) for _ in range(count)]


def read(
    store: Store, asked: list[Tensor], clock: Callable[[], float] = time.process_time
) -> float:
    """Return the rows per second of random batches from a store."""
    views = torch.zeros(BATCH, dtype=torch.int64)

    def each() -> None:
        for ids in asked:
            store.rows(ids, views, ("logits",))

    return len(asked) * BATCH / seconds(each, clock)


def gathered(file: Path, width: int, asked: list[Tensor]) -> float:
    """Return the rows per second of NumPy on one mapped file of rows so wide."""
    rows = np.memmap(file, np.uint8, "r").reshape(-1, width)
    places = [ids.numpy() for ids in asked]

    def each() -> None:
        for here in places:
            rows[here]

    return len(asked) * BATCH / seconds(each, time.process_time)


def compare(folder: Path, codec: str, rows: int, rounds: int) -> str:
    """Return a line of the table."""
    store, spent = written(folder / "store", codec, rows)
    alone = encoded(codec, rows)
    raw = dumped(folder / "raw", store.bytes)
    width = sum(part.width for part in store.parts("logits").values())
    dumped(folder / "rows", width * rows)
    few = batches(rows, 400)
    dropped(folder / "store")
    cold = read(Store.open(folder / "store"), batches(rows, 20), time.perf_counter)
    read(store, few)
    gathered(folder / "rows", width, few)
    ours, theirs = [], []
    for _ in range(rounds):  # in turn, so that drift of the machine cancels
        ours.append(read(store, few))
        theirs.append(gathered(folder / "rows", width, few))
    fast, limit = statistics.median(ours), statistics.median(theirs)
    shards = len(store.index["files"])
    return (
        f"{codec:<8}{rows:>9,}{shards:>7}{store.size / rows:>9.1f}"
        f"{rows / spent / 1e3:>10.0f}{rows / alone / 1e3:>10.0f}{rows / raw / 1e3:>10.0f}"
        f"{fast / 1e6:>9.2f}{limit / 1e6:>9.2f}{fast / limit:>7.2f}{cold / 1e6:>8.2f}"
    )


def opening(folder: Path, shards: int, rounds: int) -> float:
    """Return the seconds that opening a store of so many shards takes."""
    write(folder, Table(), samples(BATCH), batch_size=BATCH, rows_per_shard=BATCH)
    index = json.loads((folder / "index.json").read_text())
    [(name, told)] = index["files"].items()
    for number in range(1, shards):
        (folder / name.replace("00000.", f"{number:05d}.")).hardlink_to(folder / name)
    index["files"] = {name.replace("00000.", f"{n:05d}."): told for n in range(shards)}
    index["segments"][0]["samples"] = shards * BATCH
    (folder / "index.json").write_text(json.dumps(index, indent=2))
    return statistics.median(
        seconds(lambda: Store.open(folder), time.process_time) for _ in range(rounds)
    )


def writing(path: Path, begun: Any, codec: str, rows: int) -> None:
    torch.set_num_threads(1)
    data = samples(rows)
    begun.release()
    write(path, Table(), data, codec=codec, batch_size=BATCH, rows_per_shard=4096)


def killed(folder: Path, codec: str, rows: int, kills: int) -> str:
    """Kill a writer again and again, let it finish, and return what became of the store."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["limbeck.knowledge"])
    moments, undisturbed = random.Random(0), threading.Semaphore(0)
    spent = seconds(lambda: writing(folder / "whole", undisturbed, codec, rows))
    counts = []
    for _ in range(kills):
        begun = context.Semaphore(0)
        writer = context.Process(target=writing, args=(folder / "cut", begun, codec, rows))
        writer.start()
        begun.acquire()
        time.sleep(moments.uniform(0, 1.5 * spent / kills))
        writer.kill()
        writer.join()
        counts.append(len(list((folder / "cut").glob("0*.json"))))
    done = (folder / "cut" / "index.json").exists()
    writing(folder / "cut", undisturbed, codec, rows)
    Store.open(folder / "cut").verify()
    one, other = (
        {f.name: file_digest(f) for f in (folder / w).iterdir()} for w in ("whole", "cut")
    )
    return (
        f"{codec}, {rows:,} rows in {len(one) - 1} shards, killed {kills} times; finished shards "
        f"after each: {counts}{', then done' if done else ''}\n"
        f"verified; {'equal byte for byte' if one == other else 'DIFFERENT'} to an undisturbed one"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 400_000])
    parser.add_argument("--codecs", nargs="+", default=["half", "top16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; else a temporary one")
    parser.add_argument("--kills", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.kills:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            print(killed(Path(folder), options.codecs[-1], options.rows[-1], options.kills))
        return
    print("rows/s: written and raw in thousands, read and raw in millions; B: bytes a sample\n")
    print(
        f"{'codec':<8}{'rows':>9}{'files':>7}{'B':>9}{'written':>10}{'codec':>10}{'raw':>10}"
        f"{'read':>9}{'raw':>9}{'ratio':>7}{'cold':>8}"
    )
    for codec in options.codecs:
        for rows in options.rows:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                print(compare(Path(folder), codec, rows, options.rounds), flush=True)
    print()
    for shards in (10, 1000, 10_000):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            spent = opening(Path(folder), shards, options.rounds)
        print(f"opening a store of {shards:>6,} shards: {spent * 1e3:6.1f} ms")


if __name__ == "__main__":
    main()
