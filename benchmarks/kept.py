"""How much memory a training step holds between its forward and its backward pass."""

from __future__ import annotations

from typing import Any

import torch

import limbeck as lb


def kept_for_backward(distiller: lb.Distiller, batch: Any) -> int:
    """Return the bytes of the storages that autograd saves for the backward pass."""
    saved: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = distiller(batch).loss  # keeps them alive: no address comes twice
    total = sum(saved.values())
    del loss
    return total
