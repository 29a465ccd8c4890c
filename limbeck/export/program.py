"""Programs of ``torch.export``: ``.pt2`` files, which PyTorch runs without the network's code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck.evaluate.runtimes import FACTS
from limbeck.export.capture import captured, quietly
from limbeck.export.operators import refuse_own
from limbeck.export.whole import Signature

__all__ = ["write"]


def write(whole: nn.Module, signature: Signature, path: Path, facts: Mapping[str, Any]) -> None:
    """Write a network as a ``.pt2`` file, which takes its inputs by place.

    Args:
        whole: the network with its preprocessing, in eval mode on the CPU.
        signature: what it takes.
        path: of the file.
        facts: JSON-like, kept in the file beside the program.

    Raises:
        InputError: PyTorch cannot follow the network, or it has an operator of Limbeck's own.
    """
    program = captured(whole, signature)
    refuse_own(program, path.name)
    with quietly():
        torch.export.save(program, path, extra_files={FACTS: json.dumps(facts)})
