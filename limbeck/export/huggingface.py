"""Folders of ``transformers``, for students that are such models."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.errors import InputError
from limbeck.evaluate.runtimes import FACTS, unbarred
from limbeck.export.whole import Signature
from limbeck.files import write_json
from limbeck.imports import needed

__all__ = ["check", "write"]


def check(model: nn.Module, first: nn.Module | None) -> None:
    """Refuse a network for which such a folder has no place.

    Args:
        model: the network.
        first: what happens to its inputs before; ``None`` if nothing does.

    Raises:
        InputError: the network is no model of ``transformers``, or something must happen to its
            inputs first.
    """
    known = sys.modules.get("transformers.modeling_utils")  # such a model has imported it
    if known is None or not isinstance(model, known.PreTrainedModel):
        raise InputError(
            f"export: huggingface, and the student is a {type(model).__name__}",
            expected="a model of transformers, for save_pretrained",
            remedy="Export it as onnx or program instead.",
        )
    if first is not None:
        raise InputError(
            "export: huggingface, and something happens to the inputs before the network",
            expected="a network that takes them as they are: such a folder has no place for it",
            remedy="Export it as onnx or program instead.",
        )


def write(whole: nn.Module, signature: Signature, path: Path, facts: Mapping[str, Any]) -> None:
    """Write a network as ``save_pretrained`` does, with the labels' names in ``config.json``.

    Args:
        whole: the network, a model of ``transformers``, without preprocessing of its own.
        signature: what it takes.
        path: of the folder.
        facts: JSON-like, kept beside the weights in ``limbeck.json``.

    Raises:
        InputError: see :func:`check`.
    """
    model: Any = getattr(whole, "model", whole)
    check(model, getattr(whole, "first", None))
    transformers = needed("transformers", "text")
    labels = [str(label) for label in facts.get("labels", [])]
    if labels and getattr(model.config, "num_labels", 0) == len(labels):
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {label: number for number, label in enumerate(labels)}
    with unbarred(transformers):
        model.save_pretrained(path)
    write_json(path / f"{FACTS}.json", facts)
