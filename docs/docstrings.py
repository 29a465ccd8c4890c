"""From the docstrings' markup to Markdown, before mkdocstrings renders them.

Docstrings name things as Sphinx does (``:func:`limbeck.fit` ``), hold examples as doctests, and a
few tables as reStructuredText. Markdown knows none of these.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import griffe

__all__ = ["Limbeck", "as_markdown"]

_ROLE = re.compile(r":(?:attr|class|exc|func|meth|mod):`([^`]+)`")
_RULE = re.compile(r"\s*=+(\s+=+)+\s*")


class Limbeck(griffe.Extension):
    """Rewrites every docstring of a package once it is loaded."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: Any) -> None:
        """Rewrite the docstrings of a package, its modules, classes and functions."""
        for found in _objects(pkg):
            if found.docstring is not None:
                found.docstring.value = as_markdown(found.docstring.value, _full_name(found))


def as_markdown(text: str, full_name: Callable[[str], str] = str) -> str:
    """Return a docstring as Markdown.

    Args:
        text: as it stands in the source, without its indentation.
        full_name: turns the name in a role into the one that the reference knows.
    """

    def link(match: re.Match[str]) -> str:
        full = full_name(match[1])
        return f"[`{match[1].rpartition('.')[2]}`][{full}]"

    return _ROLE.sub(link, "\n".join(_tables(_fenced(text.splitlines()))))


def _fenced(lines: list[str]) -> Iterator[str]:
    """Put a fence around each doctest, which ends at the next empty line."""
    inside = ""
    for line in lines:
        starts = line.lstrip().startswith(">>>")
        if inside and not line.strip():
            yield inside
            inside = ""
        if starts and not inside:
            inside = line[: len(line) - len(line.lstrip())] + "```"
            yield f"{inside}pycon"
        yield line
    if inside:
        yield inside


def _tables(lines: Iterator[str]) -> Iterator[str]:
    """Turn tables between rules of ``=`` into Markdown's."""
    table: list[str] = []
    for line in lines:
        if _RULE.fullmatch(line) or table:
            table.append(line)
            if len([row for row in table if _RULE.fullmatch(row)]) == 3:
                yield from _table(table)
                table = []
        else:
            yield line
    yield from table


def _table(lines: list[str]) -> Iterator[str]:
    """Return one table; a row whose first cell is empty goes on with the row above it."""
    starts = [match.start() for match in re.finditer(r"=+", lines[0])]
    ends = [*starts[1:], None]
    rows: list[list[str]] = []
    for line in lines:
        if _RULE.fullmatch(line):
            continue
        cells = [line[a:b].strip() for a, b in zip(starts, ends, strict=True)]
        if cells[0]:
            rows.append(cells)
        else:
            rows[-1] = [f"{a} {b}".strip() for a, b in zip(rows[-1], cells, strict=True)]
    indent = lines[0][: starts[0]]
    for number, row in enumerate(rows):
        yield f"{indent}| {' | '.join(row)} |"
        if number == 0:
            yield f"{indent}|{' --- |' * len(row)}"


def _full_name(found: griffe.Object) -> Callable[[str], str]:
    """Return what completes a name in the docstring of ``found``: a member's, or a neighbour's."""

    def complete(name: str) -> str:
        for place in (found, found.parent):
            if isinstance(place, griffe.Class) and name in place.members:
                return f"{place.path}.{name}"
        try:
            return found.resolve(name)
        except griffe.NameResolutionError:
            return name

    return complete


def _objects(found: griffe.Object) -> Iterator[griffe.Object]:
    yield found
    for member in found.members.values():
        if isinstance(member, griffe.Object):
            yield from _objects(member)
