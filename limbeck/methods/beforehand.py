"""What the loops share that prepare a method before the student's training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

__all__ = ["placed"]


def placed(batch: Any, device: torch.device | str | None) -> Any:
    """Return a batch on a device; ``None`` leaves it where it is."""
    if device is None:
        return batch
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, batch)
