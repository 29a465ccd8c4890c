"""``limbeck bench``: finished models side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from limbeck import pipeline
from limbeck.console import folded
from limbeck.errors import InputError
from limbeck.evaluate import Contender, bench, invented, opened
from limbeck.evaluate.runtimes import ENDS
from limbeck.files import write_json
from limbeck.pipeline.measure import contenders
from limbeck.recipe import holds_run

__all__ = ["compare"]

_TOLD = 6  # of what stands in a folder
_NAME = 15  # letters of a name in a line
_WIDE = 1000  # columns, more than any table has
_HEADINGS = ("parameters", "size", "zipped", "p50 ms", "p95 ms", "per s", "memory", "mJ")


def compare(
    places: Sequence[Path],
    *,
    batch: int,
    threads: int | None,
    seconds: float,
    json: Path | None,
    console: Console | None = None,
) -> None:
    """Time runs' models and files in turn, show a table, and write it as JSON if a file is named.

    Args:
        places: folders of runs, and files.
        batch: samples in a batch.
        threads: of PyTorch and of ONNX Runtime; as they are, if not said.
        seconds: about how long each is timed, for one sample and again for a batch.
        json: where to write the figures.
        console: where the table goes.

    Raises:
        InputError: a place is neither a run nor a file that a runtime here reads, or there is no
            folder for the figures.
    """
    if json is not None and not json.absolute().parent.is_dir():
        raise InputError(f"there is no folder {json.parent} for {json.name}")
    if threads is not None:
        torch.set_num_threads(threads)
    several = sum(map(holds_run, places)) > 1
    contenders = {name: one for place in places for name, one in _contenders(place, batch, several)}
    found = bench(contenders, seconds=seconds)
    if json is not None:
        write_json(json, found)
    shown = console or Console(highlight=False)
    table = _table(found)  # as wide as it must be: a number that is cut off is another number
    table.width = Measurement.get(shown, shown.options.update(width=_WIDE), table).maximum
    shown.print(table, crop=False)
    for line in _notes(found):
        shown.print(line)


def _contenders(place: Path, batch: int, several: bool) -> Iterator[tuple[str, Contender]]:
    """Yield the models of a run with its validation samples, or a file with random ones."""
    if not holds_run(place):
        _check(place)
        runner = opened(place)
        yield str(place), Contender(runner, invented(runner, batch), "random", place)
        return
    for name, one in contenders(pipeline.opened(place), batch).items():
        yield f"{place.name}/{name}" if several else name, one


def _check(place: Path) -> None:
    """Refuse what is neither a file nor a model's folder, and say what stands in it."""
    if not place.exists():
        raise InputError(f"there is no {place}", expected="a run's folder, or a file")
    if not place.is_dir() or (place / "config.json").is_file():
        return
    inside = [str(one) for one in sorted(place.iterdir()) if holds_run(one) or one.suffix in ENDS]
    more = ", …" if len(inside) > _TOLD else ""
    raise InputError(
        f"{place} is a folder, and not that of a run",
        expected="one with recipe.yaml, or a file",
        remedy=f"In it: {', '.join(inside[:_TOLD])}{more}" if inside else "",
    )


def _table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("", min_width=_NAME, overflow="fold")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, one in found.items():
        table.add_row(
            folded(name, _NAME),
            "" if one["parameters"] is None else f"{one['parameters']:,}",
            _size(one["size_bytes"]),
            _size(one["zipped_bytes"]),
            f"{one['latency_ms']['p50']:.3g}",
            f"{one['latency_ms']['p95']:.3g}",
            f"{one['throughput_per_s']:,.0f}",
            _size(one["peak_memory_bytes"]),
            "" if one["energy_j"] is None else f"{1000 * one['energy_j']['value']:.3g}",
        )
    return table


def _notes(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what the table does not say: runtimes, threads, the batch, whence the inputs are."""
    batch = next(iter(found.values()))["batch"]
    groups: dict[str, list[str]] = {}
    for name, one in found.items():
        count = one["threads"]
        on = "" if count is None else f", {count} thread{'' if count == 1 else 's'}"
        groups.setdefault(f"{one['runtime']}{on}", []).append(name)
    told = [f"{runtime}: {', '.join(names)}." for runtime, names in groups.items()]
    told.append(f"Timed in turn: p50 and p95 for one sample, the rest in batches of {batch}.")
    sources: dict[str, list[str]] = {}
    for name, one in found.items():
        if one["energy_j"] is not None:
            sources.setdefault(one["energy_j"]["source"], []).append(name)
    for source, names in sources.items():
        whose = f" of {', '.join(names)}" if len(sources) > 1 else ""
        told.append(f"mJ: millijoules for one sample in such a batch{whose}, {source}.")
    random = [name for name, one in found.items() if one["inputs"] == "random"]
    return told + ([f"On random inputs: {', '.join(random)}."] if random else [])


def _size(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1000:,.1f} kB"
