"""A file of answers that grows by a line for each, and is read again after an interruption."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path
from typing import Any

from limbeck.errors import InputError
from limbeck.files import atomically

__all__ = ["Journal", "Row"]

Row = dict[str, Any]


class Journal:
    """Answers by name, in memory and, line by line as JSON, in a file.

    A line is written in one piece as soon as its answer is there. If the process is killed in the
    middle of a line, the rest of it is cut off at the next reading, and its question asked again.

    Args:
        path: the file; ``None`` keeps the answers in memory alone.
        settings: a fingerprint of all that the answers depend on but the prompts; it stands in
            every line.
        key: the names of the fields that tell answers apart.
    """

    def __init__(self, path: str | Path | None, settings: str, key: tuple[str, ...]) -> None:
        self.path = Path(path) if path is not None else None
        self.settings, self.key = settings, key
        self.rows: dict[Hashable, Row] = {}
        self._read = 0
        self._opened: BufferedRandom | None = None

    def __contains__(self, name: Hashable) -> bool:
        return name in self.rows

    def __getitem__(self, name: Hashable) -> Row:
        return self.rows[name]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the file open, and others off; first read what it has gained.

        Raises:
            InputError: the file holds answers to other questions, is no file of answers, or
                another process is writing to it.
        """
        if self.path is None:
            yield
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as opened:
            _lock(opened, self.path)
            self._catch_up(opened)
            self._opened = opened
            try:
                yield
            finally:
                self._opened = None
                os.fsync(opened.fileno())

    def load(self) -> None:
        """Read what the file holds, if there is one."""
        if self.path is not None and self.path.is_file():
            with self.writing():
                pass

    def add(self, row: Row) -> None:
        """Keep an answer."""
        whole = row | {"settings": self.settings}
        if self._opened is not None:
            line = json.dumps(whole, ensure_ascii=False).encode() + b"\n"
            self._opened.write(line)
            self._opened.flush()
            self._read += len(line)
        self.rows[self._name(whole)] = whole

    def sort(self, names: Iterable[Hashable]) -> None:
        """Write the file anew in this order, others after: the same bytes after any history."""
        if self.path is None:
            return
        order = list(dict.fromkeys([*names, *self.rows]))
        text = "".join(
            json.dumps(self.rows[name], ensure_ascii=False) + "\n" for name in order
        ).encode()
        if self.path.read_bytes() != text:
            with atomically(self.path) as draft:
                draft.write_bytes(text)
        self._read = len(text)

    def _name(self, row: Mapping[str, Any]) -> Hashable:
        return tuple(row[field] for field in self.key)

    def _catch_up(self, opened: BufferedRandom) -> None:
        """Read the lines that were not read yet, and cut off one that was not finished."""
        opened.seek(self._read)
        found = opened.read()
        whole = found[: found.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            row = self._parsed(line, number)
            self.rows[self._name(row)] = row
        if len(whole) < len(found):
            opened.truncate(self._read + len(whole))
        self._read += len(whole)

    def _parsed(self, line: bytes, number: int) -> Row:
        try:
            row = json.loads(line)
            self._name(row)
            settings = row["settings"]
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{self.path}, line {number} is not an answer",
                expected="a file that was begun by the same call, or none",
            ) from None
        if settings != self.settings:
            raise InputError(
                f"{self.path} holds answers of another model, or to other questions (model, "
                "revision, prompt, choices or parameters differ)",
                expected="a file that was begun by the same call, or none",
                consequence="Old and new answers would be mixed.",
                remedy="Give another file, or delete this one.",
            )
        return dict(row)


def _lock(opened: BufferedRandom, path: Path) -> None:
    """Refuse a file to which another process writes; the lock ends with the file's closing."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"another process is writing to {path}",
            consequence="Questions would be asked and paid twice.",
            remedy="Wait for it, or give this one a file of its own.",
        ) from None
    except OSError:  # a file system without locks
        return
