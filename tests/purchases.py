"""A small shop for tests: who bought what and when, and what things are called."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ITEMS = 30


def bought(person: int) -> list[int]:
    """Return what a person bought: each thing follows the one before it by the same rule."""
    first, count = person % ITEMS, 4 + person % 5
    return [(first + 7 * step) % ITEMS for step in range(count)]


def write_shop(folder: Path, persons: int = 40) -> Path:
    """Write ``interactions.parquet``, not in order, and ``items.parquet`` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"user_id": person, "item_id": 100 + item, "timestamp": 1000 + 10 * step}
        for step in reversed(range(8))
        for person in range(persons)
        for item in bought(person)[step : step + 1]
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "interactions.parquet")
    things = [{"item_id": 100 + n, "description": f"thing {n} "} for n in range(ITEMS)]
    pq.write_table(pa.Table.from_pylist(things), folder / "items.parquet")
    return folder
