"""The folder ``export/`` of a run: the files that ship, how to run them, and what they are."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.evaluate.runtimes import disk_size, opened
from limbeck.export import card, script
from limbeck.files import folder_atomically, read_json
from limbeck.pipeline.product import Product

if TYPE_CHECKING:
    from limbeck.pipeline.run import Run

__all__ = ["lay_out"]


def lay_out(run: Run, products: Sequence[Product], report: Mapping[str, Any] | None = None) -> None:
    """Write ``export/`` anew, whole or not at all.

    Args:
        run: whose files they are.
        products: all that was made of the student; networks are passed over.
        report: what ``report.json`` holds, once everything is measured.
    """
    files = [made.file for made in products if made.file is not None]
    if run.here.rank or not files:
        return
    with folder_atomically(run.folder.path / "export") as draft:
        for file in files:
            _copy(file, draft)
        if run.data.reader is not None:
            run.data.reader.save(draft)
        written = _written(run, products, draft, report)
        (draft / "README.md").write_text(written, encoding="utf-8")


def _written(
    run: Run, products: Sequence[Product], draft: Path, report: Mapping[str, Any] | None
) -> str:
    """Write the script, if there is an ONNX file to run, and return the card's text."""
    files = [made.file for made in products if made.file is not None]
    runs = _recommended(products)
    facts = opened(runs or files[0]).facts
    called = None
    if runs is not None:
        text = script(runs.name, facts, run.data.reader, run.task)
        (draft / "run.py").write_text(text, encoding="utf-8")
        called = text.splitlines()[0].partition(": ")[2]
    told = [
        {"name": file.name, "bytes": disk_size(file), "parity": _parity(file)} for file in files
    ]
    return card(run.recipe.name, facts, told, report, called)


def _recommended(products: Sequence[Product]) -> Path | None:
    """Return the ONNX file that the script runs: the last that was made smaller, or the first."""
    found = [each for each in products if each.file is not None and each.file.suffix == ".onnx"]
    smaller = [each for each in found if each.role == "compressed"]
    chosen = smaller[-1:] or found[:1]
    return chosen[0].file if chosen else None


def _parity(file: Path) -> Any:
    known = file.parent / "export.json"
    return read_json(known).get("parity") if known.is_file() else None


def _copy(file: Path, folder: Path) -> None:
    """Copy a file and what belongs to it, weights beside an ONNX file say; or a folder."""
    if file.is_dir():
        shutil.copytree(file, folder / file.name)
        return
    for part in (file, file.with_name(f"{file.name}.data")):
        if part.is_file():
            shutil.copy2(part, folder / part.name)
