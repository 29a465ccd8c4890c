"""Folders of ``transformers``, for students that are such models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.errors import InputError
from limbeck.evaluate.runtimes import FACTS, unbarred
from limbeck.export.whole import Signature
from limbeck.files import write_json
from limbeck.imports import needed

__all__ = ["write"]


def write(whole: nn.Module, signature: Signature, path: Path, facts: Mapping[str, Any]) -> None:
    """Write a network as ``save_pretrained`` does, with the labels' names in ``config.json``.

    Args:
        whole: the network, a model of ``transformers``, without preprocessing of its own.
        signature: what it takes.
        path: of the folder.
        facts: JSON-like, kept beside the weights in ``limbeck.json``.

    Raises:
        InputError: the network is no such model, or something must happen to its inputs first.
    """
    transformers = needed("transformers", "text")
    model: Any = getattr(whole, "model", whole)
    if not isinstance(model, transformers.PreTrainedModel):
        raise InputError(
            f"{path.name}: the student is a {type(model).__name__}",
            expected="a model of transformers, for save_pretrained",
            remedy="Export it as onnx or program instead.",
        )
    if getattr(whole, "first", None) is not None:
        raise InputError(
            f"{path.name}: something happens to the inputs before the network",
            expected="a network that takes them as they are: such a folder has no place for it",
            remedy="Export it as onnx or program instead.",
        )
    labels = [str(label) for label in facts.get("labels", [])]
    if labels and getattr(model.config, "num_labels", 0) == len(labels):
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {label: number for number, label in enumerate(labels)}
    with unbarred(transformers):
        model.save_pretrained(path)
    write_json(path / f"{FACTS}.json", facts)
