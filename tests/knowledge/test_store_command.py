"""``limbeck store`` says what is there, and ends with one message where it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from limbeck import cli
from limbeck.data import Augmentation, Crop
from limbeck.knowledge import Store, write
from tests.knowledge.stored import SMALL, N, Oracle, contents, samples


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    options = {"views": 2, "augment": Augmentation((Crop(2),)), **SMALL}
    write(path, Oracle(), samples(ids=torch.arange(N) * 9), codec="top2", **options)
    return path


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["limbeck", "store", *map(str, words)])
    cli.main()


def test_info(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody would know what a folder of numbers is of, nor what it costs."""
    command(monkeypatch, "info", folder)
    told = capsys.readouterr().out
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert f"{N} samples × 2 views" in told
    assert f"{size / N / 2:.1f} bytes per sample and view, all included ({size:,} bytes" in told
    assert "top2" in told
    assert "Crop(padding=2)" in told
    command(monkeypatch, "info", folder, "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["bytes"], found["files"]) == (size, len(list(folder.iterdir())) - 1)
    assert found["fields"]["logits"] == {
        "codec": "top2", "shape": [3], "jagged": False, "bytes": 2 * 2 + 2 * 1 + 2,
    }  # fmt: skip
    assert found["fingerprints"]["teacher"] == "oracle"


def test_verify(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A store that was copied could not be checked without a program."""
    command(monkeypatch, "verify", folder)
    assert "all as they were written" in capsys.readouterr().out
    file = folder / "00-0001-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    with pytest.raises(SystemExit) as ended:
        command(monkeypatch, "verify", folder)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("limbeck: ")
    assert "00-0001-00001.safetensors is not what was written" in told
    assert len(told.splitlines()) == 1


def test_convert(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The command would call something else than the function."""
    command(monkeypatch, "convert", folder, tmp_path / "a.parquet")
    command(monkeypatch, "convert", tmp_path / "a.parquet", tmp_path / "again")
    assert "Wrote" in capsys.readouterr().out
    assert contents(tmp_path / "again") == contents(folder)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["info", "nothing"], "nothing is not a knowledge store"),
        (["verify", "nothing"], "nothing is not a knowledge store"),
        (["info", "memory://nothing"], "memory://nothing is not a knowledge store"),
        (["info", "nope://x"], "Protocol not known"),
        (["convert", "nothing", "x.parquet"], "nothing is not a knowledge store"),
        (["convert", "nothing.parquet", "x"], "nothing.parquet could not be read"),
    ],
)
def test_wrong_paths(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A typing error would end in a traceback, or in status 1, as if it were our fault."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        command(monkeypatch, *words)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert told in message
    assert "Traceback" not in message


def test_few_bytes_a_sample(tmp_path: Path) -> None:
    """Ids, offsets and headers would double what the answers take."""

    class Wide(Oracle):
        def knowledge(self, batch, taps):
            known = super().knowledge(batch, taps)
            wide = torch.sin(batch["id"].unsqueeze(1) * torch.arange(1000.0)) * 5
            return type(known)({"logits": wide}, known.ids)

    data = samples(3000)
    store = write(tmp_path, Wide(), data, codec="top16", rows_per_shard=1024)
    assert store.size / 3000 <= 72
    assert Store.open(tmp_path).parts("logits")[":indices"].dtype.itemsize == 2
