"""A run's folder, and the stages in it: fingerprinted, atomic, skipped when done, resumed when cut.

A stage works in ``stages/.NAME`` and becomes ``stages/NAME`` when it is done. Its fingerprint says
from what it was made; another fingerprint means that it has to be made again.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from limbeck.errors import InputError
from limbeck.files import atomically, digest, read_json, write_json
from limbeck.recipe import Recipe, differences, holds_run, load

__all__ = ["Finished", "RunFolder", "run_folder"]


def run_folder(path: str | Path) -> Path:
    """Return the folder of a run, or refuse it.

    Raises:
        InputError: it is no run's.
    """
    folder = Path(path)
    if not holds_run(folder):
        raise InputError(f"{folder} is not the folder of a run", expected="one with recipe.yaml")
    return folder


@dataclass(frozen=True)
class Finished:
    """A stage that is done.

    Attributes:
        name: of the stage.
        path: its folder.
        fingerprint: of what it was made from; stages that use it put it into theirs.
        seconds: how long it took, or took when it was made.
        skipped: whether it was there already.
    """

    name: str
    path: Path
    fingerprint: str
    seconds: float
    skipped: bool


@dataclass
class RunFolder:
    """The folder of one run. With several processes, the main one writes and all wait.

    Attributes:
        path: the folder.
        main: whether this process writes.
        barrier: waits for all processes.
        closed: whether its stages can only be found done.
        finished: the stages that are done, in order.
    """

    path: Path
    main: bool = True
    barrier: Callable[[], None] = lambda: None
    closed: bool = False
    finished: list[Finished] = field(default_factory=list)

    def claim(self, recipe: Recipe, *, resume: bool = False, replace: bool = False) -> None:
        """Make sure that the folder may be taken for a recipe; nothing is written yet.

        What is exported may be another: that loses no stage.

        Args:
            recipe: what is run.
            resume: there must be something to go on with.
            replace: stages of another recipe may be overwritten.

        Raises:
            InputError: the folder holds results of another recipe, or is no run's at all.
        """
        kept = self.path / "recipe.yaml"
        if resume and not kept.is_file():
            raise InputError(
                f"there is no run in {self.path} to resume", remedy="Leave --resume out to begin."
            )
        if kept.is_file() and not replace and self._has_results():
            changes = differences(load(str(kept)), recipe)
            changes = [change for change in changes if not change.startswith("export")]
            if changes:
                shown = "; ".join(changes[:5]) + (" …" if len(changes) > 5 else "")
                raise InputError(
                    f"{self.path} holds a run of another recipe ({shown})",
                    consequence="Its results would be lost.",
                    remedy=f"Add --out FOLDER (with --reuse {self.path} to take over the stages "
                    "that are the same), or --replace.",
                )
        elif not kept.is_file() and self.path.is_dir() and any(self.path.iterdir()):
            raise InputError(
                f"{self.path} is not empty and holds no run", remedy="Add --out FOLDER."
            )

    def begin(self, recipe: Recipe) -> None:
        """Make the folder, and write the recipe into it."""
        self.barrier()
        if self.main:
            (self.path / "stages").mkdir(parents=True, exist_ok=True)
            with atomically(self.path / "recipe.yaml") as draft:
                draft.write_text(recipe.as_yaml(), encoding="utf-8")
        self.barrier()

    def stage(
        self, name: str, made_from: Mapping[str, Any], work: Callable[[Path], None]
    ) -> Finished:
        """Do a stage, or find it done.

        Args:
            name: of the stage; its folder's name.
            made_from: everything that its result depends on, JSON-like.
            work: writes the result into the folder that it gets. Interrupted, it is called again
                with the folder as it left it. Every process calls it.

        Returns:
            The finished stage.
        """
        final, draft = self.path / "stages" / name, self.path / "stages" / f".{name}"
        fingerprint = digest({"stage": name, **made_from})
        known = self._done(final, fingerprint)
        self.barrier()
        if known is None and self.closed:
            raise InputError(
                f"the run in {self.path} is not finished: its stage {name} is not done, "
                "or was made from something else",
                remedy=f"Finish it: limbeck run {self.path} --resume.",
            )
        if known is None:
            if self.main:
                self._open(draft, fingerprint, made_from)
            self.barrier()
            began = time.monotonic()
            work(draft)
            self.barrier()
            if self.main:
                self._close(draft, final, fingerprint, time.monotonic() - began)
            self.barrier()
            known = self._done(final, fingerprint)
            assert known is not None
            done = Finished(name, final, fingerprint, known, skipped=False)
        else:
            done = Finished(name, final, fingerprint, known, skipped=True)
        self.finished.append(done)
        return done

    def reuse(self, other: Path) -> None:
        """Take over another run's finished stages; those made from something else are not used."""
        if not (other / "stages").is_dir():
            raise InputError(f"{other} holds no run to take stages from")
        if self.main:
            for stage in sorted((other / "stages").glob("[!.]*")):
                place = self.path / "stages" / stage.name
                if not place.exists() and stage.is_dir():
                    half = place.with_name(".half")  # until all of it is there
                    shutil.rmtree(half, ignore_errors=True)
                    shutil.copytree(stage, half)
                    half.rename(place)
        self.barrier()

    def log(self, event: str, **facts: Any) -> None:
        """Add a line to ``log.jsonl``."""
        if self.main and not self.closed:
            line = {
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "event": event,
                **facts,
            }
            with (self.path / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")

    def _has_results(self) -> bool:
        return any((self.path / "stages").glob("[!.]*"))

    def _done(self, final: Path, fingerprint: str) -> float | None:
        """Return the seconds of a stage that is done, or ``None`` if it is not, or another."""
        if not (final / "stage.json").is_file():
            return None
        found = read_json(final / "stage.json")
        return float(found["seconds"]) if found.get("fingerprint") == fingerprint else None

    def _open(self, draft: Path, fingerprint: str, made_from: Mapping[str, Any]) -> None:
        """Make the working folder, or keep the one of an interrupted stage of the same kind."""
        note = draft / "stage.json"
        if note.is_file() and read_json(note).get("fingerprint") == fingerprint:
            return
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir(parents=True)
        write_json(note, {"fingerprint": fingerprint, "seconds": None, "made_from": made_from})

    def _close(self, draft: Path, final: Path, fingerprint: str, seconds: float) -> None:
        note = read_json(draft / "stage.json")
        write_json(draft / "stage.json", note | {"fingerprint": fingerprint, "seconds": seconds})
        if final.exists():
            shutil.rmtree(final)
        draft.rename(final)
