"""The parts of a recipe that make a network smaller: a student, or the teacher it begins as."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from limbeck.recipe.training import Auto, Fraction, Natural, Part, TrainPart

__all__ = ["CompressPart", "CutPart", "PrunePart", "QuantizePart", "trained"]

_RECOVERY = 3  # the student's epochs, divided by this, are those after pruning
_ROUNDED = 5  # and by this, those of training with rounded weights
_GOALS = ("parameters", "macs", "latency", "layers")
_RANKING = ("importance", "scope", "multiple")
_SLOWER = 0.1  # of the student's learning rate, for the latter


class CutPart(Part):
    """Fewer channels, features, heads (see :func:`limbeck.compress.prune`), layers or embeddings.

    Attributes:
        parameters: the fraction of the parameters to keep.
        macs: or the fraction of the multiply-accumulates.
        latency: or the fraction of the median time that ONNX Runtime takes for one sample, on this
            machine. What it comes to is measured and told.
        layers: or the fraction of the blocks, whole (see :func:`limbeck.compress.shorten`): those
            stay without which answers to validation samples would change most.
        embeddings: the fraction of its features that the table of tokens keeps, alone or before one
            of those: its rank (see :func:`limbeck.compress.factorize`). The other fraction is then
            of what that leaves.
        importance: what ranks channels: ``magnitude``, ``group_norm`` or ``taylor``.
        scope: ``global`` ranks those of all layers together, ``layer`` takes a like share of each.
        keep: modules that keep their width; of blocks, those that stay.
        multiple: of which the channels that are left are one: 8 suits many runtimes.
    """

    parameters: Fraction | None = None
    macs: Fraction | None = None
    latency: Fraction | None = None
    layers: Fraction | None = None
    embeddings: Fraction | None = None
    importance: Literal["magnitude", "group_norm", "taylor"] = "magnitude"
    scope: Literal["global", "layer"] = "global"
    keep: tuple[str, ...] = ()
    multiple: Natural = 1

    @model_validator(mode="after")
    def _one_goal(self) -> CutPart:
        goals = sum(getattr(self, name) is not None for name in _GOALS)
        if goals > 1 or (goals == 0 and self.embeddings is None):
            raise ValueError(f"give one of {', '.join(_GOALS)}, or embeddings alone")
        goal, idle = self.goal()[0], {"layers": _RANKING, "embeddings": (*_RANKING, "keep")}
        for name in idle.get(goal, ()):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} means nothing for {goal}")
        return self

    def goal(self) -> tuple[str, float]:
        """Return what is to become smaller, and the fraction of it to keep."""
        return next(
            (name, found)
            for name in (*_GOALS, "embeddings")
            if (found := getattr(self, name)) is not None
        )


class PrunePart(CutPart):
    """Fewer channels, features, heads or layers, then distilled again.

    Attributes:
        steps: in how many rounds, each followed by training.
        train: how each round recovers, with the teacher: what differs from the student's training.
            By default a third of its epochs.
    """

    steps: Natural = 1
    train: TrainPart = TrainPart()

    @model_validator(mode="after")
    def _rounds(self) -> PrunePart:
        if self.steps > 1 and self.goal()[0] == "embeddings":
            raise ValueError("steps means nothing for embeddings: they are factorized at once")
        return self


class QuantizePart(Part):
    """Fewer bits: an ONNX file of integers (see :mod:`limbeck.compress`).

    Attributes:
        scheme: ``static`` rounds weights and activations, for convolutions; ``dynamic`` finds the
            ranges of activations as it runs, for Transformers; ``weights`` rounds the weights of
            matrix products alone; ``aware`` first trains with rounded weights and activations,
            with the teacher, and then is ``static``.
        bits: of the weights, 8 or 4; ``dynamic`` has 8.
        calibrate: validation samples from which the ranges of activations are found.
        ranges: how: ``minmax``, ``percentile`` or ``entropy``.
        keep: modules that stay floats; or ``auto``: as few as possible, those that lose most.
        within: for ``auto``: by how much the metric that chooses epochs may be worse than the float
            file's, on validation samples.
        train: for ``aware``: what differs from the student's training. By default a fifth of its
            epochs at a tenth of its learning rate, in fp32.
    """

    scheme: Literal["static", "dynamic", "weights", "aware"] = "static"
    bits: Literal[8, 4] = 8
    calibrate: Natural = 256
    ranges: Literal["minmax", "percentile", "entropy"] = "minmax"
    keep: tuple[str, ...] | Auto = ()
    within: Annotated[float, Field(ge=0)] = 0.005
    train: TrainPart = TrainPart()

    @model_validator(mode="after")
    def _fits_the_scheme(self) -> QuantizePart:
        if self.scheme == "dynamic" and self.bits != 8:
            raise ValueError("the scheme dynamic has weights of 8 bits")
        if self.scheme == "aware" and self.keep == "auto":
            raise ValueError("name the modules to keep: what is trained must be known before")
        calibrated = self.scheme in ("static", "aware")
        means = {
            "calibrate": (calibrated, f"for {self.scheme}, which looks at no samples"),
            "ranges": (calibrated, f"for {self.scheme}, which looks at no samples"),
            "train": (self.scheme == "aware", f"for {self.scheme}: only aware trains"),
            "within": (self.keep == "auto", "without keep: auto"),
        }
        for name, (something, why) in means.items():
            if not something and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} means nothing {why}")
        return self


class CompressPart(Part):
    """A step that makes the student smaller: one of these.

    Attributes:
        prune: remove channels, and train again.
        quantize: write a file of integers.
    """

    prune: PrunePart | None = None
    quantize: QuantizePart | None = None

    @model_validator(mode="after")
    def _one_step(self) -> CompressPart:
        if (self.prune is None) == (self.quantize is None):
            raise ValueError("give either prune or quantize")
        return self

    @model_serializer(mode="wrap")
    def _said(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: part for name, part in dump(self).items() if part is not None}


def trained(steps: Any, train: Any) -> Any:
    """Let steps that train do so as the student does, where they do not say otherwise.

    Args:
        steps: of the recipe, as they were read.
        train: of the student.

    >>> trained([{"prune": {"parameters": 0.5}}], {"epochs": 30})
    [{'prune': {'parameters': 0.5, 'train': {'epochs': 10}}}]
    """
    if not isinstance(steps, (list, tuple)) or not isinstance(train, Mapping):
        return steps
    return [_trained(step, train) for step in steps]


def _trained(step: Any, train: Mapping[str, Any]) -> Any:
    (name, part), *more = step.items() if isinstance(step, Mapping) and step else [("", None)]
    learns = name == "prune" or (isinstance(part, Mapping) and part.get("scheme") == "aware")
    if more or not learns or not isinstance(part, Mapping):
        return step
    epochs, optimizer = (
        train.get("epochs", 30),
        train.get("optimizer", {"name": "adamw", "lr": 1e-3}),
    )
    usual: dict[str, Any] = {**train}
    if isinstance(epochs, int):
        usual["epochs"] = max(1, round(epochs / (_RECOVERY if name == "prune" else _ROUNDED)))
    rate = optimizer.get("lr") if isinstance(optimizer, Mapping) else None
    if name == "quantize":
        usual["precision"] = "fp32"  # bf16 has no room for steps of 8 bits
        if isinstance(rate, (int, float)):
            usual["optimizer"] = {**optimizer, "lr": float(f"{rate * _SLOWER:.6g}")}
    own = part.get("train") or {}
    return {name: {**part, "train": {**usual, **own} if isinstance(own, Mapping) else own}}
