"""What a person at a terminal sees of a run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console as Rich
from rich.table import Table
from rich.text import Text

from limbeck.progress import Bar, Listener, Silent

__all__ = ["Terminal", "folded", "table_of_methods", "table_of_ways"]

_NAME = (14, 17)  # letters of a model's name that leave room for the figures, loosely and tightly
_WIDE = 110  # columns of a terminal that shows any name in one line


class Terminal:
    """Shows the stages of a run: a bar while one works, a line when it is done."""

    def __init__(self, rich: Rich | None = None) -> None:
        self.rich = rich or Rich(highlight=False)

    @contextmanager
    def stage(self, name: str) -> Iterator[Listener]:
        """Show a bar, where there is a terminal."""
        if not self.rich.is_terminal:
            yield Silent()
            return
        with Bar.shown(name, self.rich) as bar:
            yield bar

    def done(self, name: str, seconds: float, note: str, *, skipped: bool) -> None:
        """Show a line."""
        line = Text.assemble(("✓ ", "green"), f"{name:<10} ")
        line.append("done before" if skipped else f"{seconds:6.1f} s", style="dim")
        self.rich.print(line.append(f"  {note}" if note else ""))

    def note(self, text: str) -> None:
        """Show something worth knowing."""
        self.rich.print(Text(f"  {text}", style="yellow"))

    def begin(self, name: str, about: str, folder: Path) -> None:
        """Show what is run, and where."""
        self.rich.print(Text.assemble((name, "bold"), f"  {about}"))
        self.rich.print(Text(f"  in {folder}", style="dim"))

    def result(self, report: Mapping[str, Any], page: Path) -> None:
        """Show the table, the verdict, and where the page is."""
        self.rich.print(_table(report, self.rich.width))
        self.rich.print(Text(str(report["verdict"])))
        self.rich.print(Text.assemble("\nReport: ", (str(page), "bold")))


def table_of_ways(summary: Mapping[str, Any], rich: Rich) -> None:
    """Show what ways to make a model smaller came to, and the best for each budget."""
    from limbeck.report.comparison import told
    from limbeck.report.metrics import is_share

    metric = summary["selection"]["metric"]
    scale = 100 if is_share(metric) else 1
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for heading in (f"{metric} %" if scale == 100 else metric, "file", "latency", "per second"):
        table.add_column(heading, justify="right", no_wrap=True)
    for model in sorted(summary["models"], key=lambda model: -model["size_bytes"]):
        table.add_row(
            model["way"],
            _spread(model["score"], scale),
            f"{model['size_bytes'] / 1000:,.0f} kB",
            f"{model['latency_ms']:.2f} ms",
            f"{model['throughput_per_s']:,.0f}",
        )
    rich.print(table)
    for best in summary["best"]:
        rich.print(Text(told(best, metric)))


def table_of_methods(entries: Mapping[str, Mapping[str, Any]], rich: Rich | None = None) -> None:
    """Show the methods, family by family."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    for family in dict.fromkeys(str(entry["family"]) for entry in entries.values()):
        table.add_row(Text(family.upper(), style="bold cyan"))
        for entry in entries.values():
            if entry["family"] == family:
                facts = f"needs {entry['needs']} · cost {entry['cost']} · {entry['source']}"
                told = Text(f"{entry['summary']}\n").append(facts.removesuffix(" · "), style="dim")
                table.add_row(str(entry["name"]), told)
    console = rich or Rich(highlight=False)
    console.print(table)
    console.print("\nlimbeck methods NAME explains one, with its formula and what to cite.")


def folded(name: str, longest: int) -> str:
    """Return a name in lines, broken at its signs, so that a narrow table keeps it legible.

    >>> folded("student-pruned-int8.onnx", 16).splitlines()
    ['student-pruned-', 'int8.onnx']
    """
    lines = [""]
    for part in re.findall(r"[^-/]*[-/]?", name):
        fits = len(lines[-1] + part) <= longest or not lines[-1]
        lines = [*lines[:-1], lines[-1] + part] if fits else [*lines, part]
    return "\n".join(lines)


def _table(report: Mapping[str, Any], width: int) -> Table:
    from limbeck.report.metrics import is_share  # the report's room draws, which takes a while

    metric = report["selection"]["metric"]
    longest = max(map(len, report["models"]))
    room = longest if longest <= _NAME[0] or width > _WIDE else _NAME[1]
    table = Table(box=None, padding=(0, 2 if room <= _NAME[0] else 1, 0, 0))
    table.add_column("", min_width=min(room, longest), overflow="fold")
    share = is_share(metric)
    for heading in (
        f"{metric} %" if share else metric,
        "agreement %",
        "parameters",
        "size",
        "latency",
        "per second",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, model in report["models"].items():
        cost = model["cost"]
        table.add_row(
            folded(name, room),
            _spread(model["quality"].get(metric), 100 if share else 1),
            _percent(model["fidelity"].get("agreement")),
            "" if cost["parameters"] is None else f"{cost['parameters']:,}",
            "" if cost["size_bytes"] is None else f"{cost['size_bytes'] / 1000:,.0f} kB",
            f"{cost['latency_ms']['p50']:.2f} ms",
            f"{cost['throughput_per_s']:,.0f}",
        )
    return table


def _spread(found: Mapping[str, Any] | None, scale: int) -> str:
    if found is None:
        return ""
    digits = 2 if scale == 100 else 3
    around = f" ± {found['std'] * scale:.{digits}f}" if found["std"] is not None else ""
    return f"{found['mean'] * scale:.{digits}f}{around}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value * 100:.1f}"
