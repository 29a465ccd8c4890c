"""Where the files of a store are: a folder of this machine, or any file system that fsspec knows.

Both answer the same few questions, so that a store is written and read in one way. From elsewhere a
file is fetched whole when it is first needed, and kept in a cache under its checksum: the same file
of two stores is fetched once, and a file that has changed is another one.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import fsspec
from fsspec.core import url_to_fs

from limbeck.errors import InputError
from limbeck.files import atomically, file_digest

__all__ = ["Folder", "Local", "Remote", "Stated", "folder_at", "read_json", "stated", "write_json"]

Stated = Mapping[str, Any]  # {"bytes": size, "sha256": 64 hexadecimal digits}


class Folder(Protocol):
    """A flat folder of files."""

    @property
    def name(self) -> str:
        """What messages call it."""

    def names(self) -> set[str]:
        """Return the names of its files; none if it does not exist."""

    def texts(self, names: Sequence[str]) -> list[bytes]:
        """Return the contents of small files."""

    def file(self, name: str, stated: Stated) -> Path:
        """Return a local file with those contents, fetching it if need be."""

    def digest(self, name: str) -> str:
        """Return the SHA-256 of what the file holds now, read anew."""

    def check(self, files: Mapping[str, Stated]) -> None:
        """Refuse files that are missing, cut short or elsewhere, as far as a glance shows it."""

    def writing(self, name: str) -> AbstractContextManager[Path]:
        """Give a local path to write to; the whole file takes the name at the end."""

    def remove(self, names: Sequence[str]) -> None:
        """Delete files."""


@dataclass(frozen=True)
class Local:
    """A folder of this machine."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    def names(self) -> set[str]:
        return {entry.name for entry in self._entries() if entry.is_file()}

    def texts(self, names: Sequence[str]) -> list[bytes]:
        return [(self.path / name).read_bytes() for name in names]

    def file(self, name: str, stated: Stated) -> Path:
        return self.path / name

    def digest(self, name: str) -> str:
        return file_digest(self.path / name)

    def check(self, files: Mapping[str, Stated]) -> None:
        inside = self.path.resolve()
        found = {}
        for entry in self._entries():
            if entry.name in files and entry.is_file():
                found[entry.name] = entry.stat().st_size
                if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(inside):
                    raise InputError(
                        f"{entry.path} is a link that leads out of the store",
                        expected="files inside the folder",
                        consequence="Another file than the store's own would be read.",
                        remedy="Copy the store with its contents: cp -rL.",
                    )
        for name, told in files.items():
            if found.get(name) != told["bytes"]:
                size = f"has {found[name]} bytes" if name in found else "is missing"
                raise InputError(
                    f"{self.path / name} {size}",
                    expected=f"{told['bytes']} bytes",
                    remedy="Copy it again, or delete the store and write it again.",
                )

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        self.path.mkdir(parents=True, exist_ok=True)
        with atomically(self.path / name) as draft:
            yield draft

    def remove(self, names: Sequence[str]) -> None:
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def _entries(self) -> list[os.DirEntry[str]]:
        if not self.path.is_dir():
            return []
        with os.scandir(self.path) as entries:
            return list(entries)


@dataclass(frozen=True)
class Remote:
    """A folder that fsspec reaches; ``url`` is ``s3://bucket/store``, ``memory://store``, ..."""

    url: str
    cache: Path

    @property
    def name(self) -> str:
        return self.url

    @property
    def _there(self) -> tuple[fsspec.AbstractFileSystem, str]:
        """The file system, which fsspec keeps one of for each process, and the folder in it."""
        system, root = url_to_fs(self.url)
        return system, root.rstrip("/")

    def names(self) -> set[str]:
        system, root = self._there
        try:
            found = system.ls(root, detail=True, refresh=True)
        except FileNotFoundError:
            return set()
        return {str(entry["name"]).rpartition("/")[2] for entry in found if entry["type"] == "file"}

    def texts(self, names: Sequence[str]) -> list[bytes]:
        system, root = self._there
        paths = [f"{root}/{name}" for name in names]
        found = system.cat(paths) if paths else {}
        return [found[path] for path in paths]

    def file(self, name: str, stated: Stated) -> Path:
        sha256, size = str(stated["sha256"]), int(stated["bytes"])
        kept = self.cache / f"{sha256}{Path(name).suffix}"
        if kept.is_file() and kept.stat().st_size == size:
            return kept
        self.cache.mkdir(parents=True, exist_ok=True)
        system, root = self._there
        with atomically(kept) as draft:
            try:
                system.get_file(f"{root}/{name}", str(draft))
            except FileNotFoundError:
                raise InputError(f"{self.url}/{name} is missing") from None
            if draft.stat().st_size != size or file_digest(draft) != sha256:
                raise InputError(
                    f"{self.url}/{name} is not what was written: it has "
                    f"{draft.stat().st_size} bytes, or its checksum differs",
                    expected=f"{size} bytes",
                    remedy="Delete the store and write it again.",
                )
        return kept

    def digest(self, name: str) -> str:
        system, root = self._there
        try:
            with system.open(f"{root}/{name}", "rb") as opened:
                return hashlib.file_digest(opened, "sha256").hexdigest()
        except FileNotFoundError:
            raise InputError(f"{self.url}/{name} is missing") from None

    def check(self, files: Mapping[str, Stated]) -> None:
        """Do nothing: asking about each of many files takes long; each is checked when fetched."""

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            draft = Path(folder) / name
            yield draft
            system, root = self._there
            try:
                system.put_file(str(draft), f"{root}/{name}")
            except FileNotFoundError:  # where folders have to be made first
                system.makedirs(root, exist_ok=True)
                system.put_file(str(draft), f"{root}/{name}")

    def remove(self, names: Sequence[str]) -> None:
        system, root = self._there
        if names:
            system.rm([f"{root}/{name}" for name in names])


def folder_at(path: str | Path, cache: str | Path | None = None) -> Folder:
    """Return the folder that a path or a URL names.

    Args:
        path: a local path, ``file://...``, or any URL that fsspec knows.
        cache: where files from elsewhere are kept; by default ``limbeck/knowledge`` in the user's
            cache folder (``XDG_CACHE_HOME``, else ``~/.cache``).

    Raises:
        InputError: fsspec does not know the kind of URL, or lacks the package for it.

    >>> folder_at("file:///tmp/store").name, folder_at("memory://store").name
    ('/tmp/store', 'memory://store')
    """
    if isinstance(path, Path) or "://" not in path:
        return Local(Path(path))
    try:
        system, root = url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise InputError(
            f"the file system of {path} cannot be used: {error}",
            expected="a folder, or a URL that fsspec knows",
            remedy="See `python -c 'import fsspec; print(fsspec.available_protocols())'`.",
        ) from None
    if "file" in (system.protocol if isinstance(system.protocol, tuple) else (system.protocol,)):
        return Local(Path(root))
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    kept = Path(cache) if cache is not None else usual / "limbeck" / "knowledge"
    return Remote(path.rstrip("/"), kept)


def stated(file: Path) -> dict[str, Any]:
    """Return what an index says of a file: its size and its checksum."""
    return {"bytes": file.stat().st_size, "sha256": file_digest(file)}


def read_json(folder: Folder, name: str) -> Any:
    """Read a JSON file of a folder.

    Raises:
        InputError: it is not valid JSON.
    """
    try:
        return json.loads(folder.texts([name])[0])
    except ValueError as error:
        raise InputError(f"{folder.name}/{name} is not valid JSON: {error}") from error


def write_json(folder: Folder, name: str, value: Any) -> None:
    """Write a value as indented JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with folder.writing(name) as draft:
        draft.write_text(text + "\n", encoding="utf-8")
