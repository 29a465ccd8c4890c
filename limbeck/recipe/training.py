"""What all parts of a recipe are, and how a model is trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Auto", "Fraction", "Natural", "Part", "TrainPart"]

Auto = Literal["auto"]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Natural = Annotated[int, Field(ge=1)]


class Part(BaseModel):
    """A part of a recipe: immutable, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class TrainPart(Part):
    """How a model is trained: the arguments of :func:`limbeck.fit`.

    Attributes:
        epochs: passes over the training data.
        batch_size: samples per optimizer step, over all processes and accumulated parts.
        optimizer: ``name`` (one of ``torch.optim``) and its arguments.
        schedule: of the learning rate: ``name`` (``one_cycle``, ``cosine``, ``steps``,
            ``constant``) and its arguments.
        accumulate: parts in which a batch goes through the models.
        clip: the largest norm of the gradient.
        ema: the decay of a moving average of the weights.
        patience: stop after so many epochs without a better one.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        channels_last: ``auto``, or whether.
        compile: ``auto``, or whether.
        threads: ``auto``, or how many a processor uses.
        deterministic: only deterministic algorithms.
        trackers: ``tensorboard`` and others that Accelerate knows.
        checkpoint_seconds: how often the state is saved.
    """

    epochs: Natural = 30
    batch_size: Natural = 128
    optimizer: dict[str, Any] = {"name": "adamw", "lr": 1e-3}
    schedule: dict[str, Any] = {"name": "one_cycle"}
    accumulate: Natural = 1
    clip: Annotated[float, Field(gt=0)] | None = None
    ema: Fraction | None = None
    patience: Natural | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool | Auto = "auto"
    compile: bool | Auto = "auto"
    threads: Natural | Auto = "auto"
    deterministic: bool = False
    trackers: tuple[str, ...] = ()
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 30.0
