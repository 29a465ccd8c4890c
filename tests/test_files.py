"""A reader never sees half a file, and equal values have equal hashes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from limbeck.files import (
    atomically,
    digest,
    file_digest,
    folder_atomically,
    read_json,
    write_json,
)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_appears_only_when_whole(tmp_path: Path) -> None:
    """A reader that comes while a file is written would read half of it."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomically(path) as draft:
        draft.write_text("ne")
        assert draft != path
        assert path.read_text() == "old"
        draft.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existed", [True, False])
def test_failure_leaves_the_old_file(
    tmp_path: Path, error: type[BaseException], existed: bool
) -> None:
    """A failure, or Ctrl-C, half-way would destroy the last good checkpoint, or leave rubbish."""
    path = tmp_path / "a.txt"
    if existed:
        path.write_text("old")

    def fails() -> None:
        with atomically(path) as draft:
            draft.write_text("half")
            raise error

    with pytest.raises(error):
        fails()
    assert names(tmp_path) == (["a.txt"] if existed else [])
    assert not existed or path.read_text() == "old"


def test_a_folder_changes_only_when_the_new_one_is_whole(tmp_path: Path) -> None:
    """The last good student would be lost with one that could not be written."""
    final = tmp_path / "student"
    for text in ("old", "new"):
        with folder_atomically(final) as draft:
            (draft / text).touch()
        assert names(final) == [text]

    def fails() -> None:
        with folder_atomically(final) as draft:
            (draft / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert names(final) == ["new"]
    assert names(tmp_path) == ["student"]


def test_nothing_written_is_an_error(tmp_path: Path) -> None:
    """A block that forgot to write would pass for one that wrote."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomically(path):
        pass
    assert path.read_text() == "old"


def test_killed_while_writing(tmp_path: Path) -> None:
    """A process that is killed outright would leave half a file under the final name."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    code = f"""
import os, signal
from pathlib import Path
from limbeck.files import atomically
with atomically(Path({str(path)!r})) as draft:
    draft.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_permissions_are_the_usual_ones(tmp_path: Path) -> None:
    """A file made with a temporary name can end up unreadable for colleagues."""
    usual, ours = tmp_path / "usual", tmp_path / "ours"
    usual.write_text("")
    write_json(ours, 1)
    assert stat.S_IMODE(ours.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)


@pytest.mark.parametrize(
    "value",
    [{"a": [1, 2.5, None, True]}, [], "Zürich", {"nested": {"deep": ["x"]}}, 0.1 + 0.2],
)
def test_json_round_trip(tmp_path: Path, value: object) -> None:
    """Numbers would lose digits, or names their accents."""
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_refuses_what_json_lacks(tmp_path: Path, number: float) -> None:
    """NaN makes a file that browsers cannot read; the old one must stay."""
    path = tmp_path / "a.json"
    write_json(path, {"ok": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"loss": number})
    assert read_json(path) == {"ok": 1}
    assert names(tmp_path) == ["a.json"]


def test_json_is_for_humans_too(tmp_path: Path) -> None:
    """A report would be one line of escapes."""
    write_json(tmp_path / "a.json", {"name": "Zürich", "n": 1})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "Zürich" in text
    assert text.count("\n") == 4
    assert json.loads(text)["n"] == 1


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ([1, 2], (1, 2), True),
        ([1, 2], [2, 1], False),
        ({"a": 1}, {"a": 2}, False),
        ({"a": "1"}, {"a": 1}, False),
        ({"a": None}, {}, False),
        (0.1 + 0.2, 0.30000000000000004, True),
        (0.1, 0.10000001, False),
    ],
)
def test_digest(one: object, other: object, equal: bool) -> None:
    """A stage would be redone for nothing, or skipped though something changed."""
    assert (digest(one) == digest(other)) is equal


def test_digest_is_the_same_in_another_process() -> None:
    """Python's own hash of strings differs in every process: every stage would be redone."""
    code = 'from limbeck.files import digest; print(digest({"b": ["x", 1.5], "a": None}))'
    outs = {
        subprocess.check_output(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}
        )
        for seed in ("1", "2")
    }
    assert len(outs) == 1


def test_file_digest_is_sha256(tmp_path: Path) -> None:
    """Checksums could not be compared with sha256sum."""
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert file_digest(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()
    (tmp_path / "empty").write_bytes(b"")
    assert file_digest(tmp_path / "empty").startswith("e3b0c44298fc1c14")
