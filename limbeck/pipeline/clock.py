"""How long networks take as files: what pruning to a latency goes by."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, final

from torch import nn

from limbeck.evaluate import timings
from limbeck.evaluate.runtimes import OnnxFile
from limbeck.export import Whole, get
from limbeck.pipeline import build, ship

if TYPE_CHECKING:
    from limbeck.pipeline.run import Run

__all__ = ["Clock"]


@final
class Clock:
    """Times two networks in turn, for one validation sample, in the runtime that users ship.

    That is ONNX Runtime, which comes with Limbeck, on as many threads as PyTorch uses; what happens
    to the inputs first is inside the files.

    Args:
        run: whose networks they are.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._takes = run, ship.signature(run)
        self._sample = run.task.inputs(next(ship.validation(run, 1, 1)))
        self._whole: tuple[nn.Module, OnnxFile] | None = None
        self.runtime = ""

    def __call__(self, whole: nn.Module, smaller: nn.Module) -> tuple[float, float]:
        """Return the medians of both, in milliseconds.

        Raises:
            InputError: one of them cannot be written as ONNX.
        """
        if self._whole is None or self._whole[0] is not whole:
            self._whole = whole, self.written(whole)
        files = {"whole": self._whole[1], "smaller": self.written(smaller)}
        found = timings(
            {name: file.run for name, file in files.items()},
            None,
            own={name: (file.prepared(self._sample),) for name, file in files.items()},
            seconds=self._run.recipe.evaluate.seconds,
        )
        return found["whole"].p50_ms, found["smaller"].p50_ms

    def written(self, network: nn.Module) -> OnnxFile:
        """Return a network as a file in its runtime; the file itself is gone."""
        first = build.preprocess(self._run.recipe, self._run.recipe.student)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "timed.onnx"
            get("onnx").write(Whole(first, network).eval(), self._takes, path, {})
            found = OnnxFile(path)
            self.runtime = found.runtime
            found.run(found.prepared(self._sample))
        return found
