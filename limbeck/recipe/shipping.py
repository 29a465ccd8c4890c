"""The parts of a recipe that say what is measured, and in which files a student ships."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from limbeck.recipe.training import Natural, Part

__all__ = ["EvaluatePart", "ExportPart", "FormatName"]

FormatName = Literal["onnx", "program", "executorch", "huggingface"]


class EvaluatePart(Part):
    """What is measured at the end.

    Attributes:
        batch_size: of the throughput measurement.
        seconds: how long each model is timed.
    """

    batch_size: Natural = 128
    seconds: Annotated[float, Field(gt=0)] = 2.0


class ExportPart(Part):
    """How a model is written in one format: ``export: {onnx: {opset: 20}}``.

    Attributes:
        tolerance: by how much a logit of the file may differ from the network's, as a share of the
            largest logit, or of 1 if that is smaller. By default 0.001. For 8 bits it is about the
            mean of all differences, by default 0.02.
        opset: the version of ONNX's operators; 18 if none is said. Of ``onnx`` alone.
        bits: 8 writes integers, for which ranges are found from validation samples. Of
            ``executorch`` alone; of ONNX files the step ``quantize`` of ``compress`` makes such.
    """

    tolerance: Annotated[float, Field(ge=0)] | None = None
    opset: Natural | None = None
    bits: Literal[8] | None = None

    @property
    def allowed(self) -> float:
        """The tolerance, stated or by default."""
        if self.tolerance is not None:
            return self.tolerance
        return 1e-3 if self.bits is None else 0.02
