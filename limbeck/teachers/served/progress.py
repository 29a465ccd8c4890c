"""How far the asking is, and what it has cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from limbeck.teachers.served.cost import Prices, Usage

__all__ = ["shown"]

_Tell = Callable[[int, int, Usage], None]


@contextmanager
def shown(title: str | None, prices: Prices | None) -> Iterator[_Tell]:
    """Give a function to tell (done, total, used); show a bar, and a line at the end.

    All goes to the standard error output; the bar only to a terminal.

    Args:
        title: of what is asked for; ``None`` shows nothing.
        prices: to tell money too.
    """
    if title is None:
        yield lambda done, total, used: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("  {task.description:<10}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[cost]}", style="dim"),
    )
    last = Usage()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(title, total=None, cost="")

        def tell(done: int, total: int, used: Usage) -> None:
            nonlocal last
            last = used
            bar.update(task, completed=done, total=total, cost=used.told(prices))

        try:
            yield tell
        finally:
            console.print(f"{title}: {last.told(prices)}")
