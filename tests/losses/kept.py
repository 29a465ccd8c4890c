"""Answers of which a part is kept, made without the codecs: nothing rounded, drawn by PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.losses import SparseLogits

__all__ = ["drawn", "draws", "slope", "top"]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(shape, generator=generator, dtype=torch.float64)


def top(logits: Tensor, size: int, temperature: float = 1.0) -> SparseLogits:
    """Keep the most likely classes, with nothing rounded."""
    log_p = F.log_softmax(logits / temperature, -1)
    best = log_p.topk(size)
    if size == logits.shape[-1]:
        order = torch.randperm(size, generator=torch.Generator().manual_seed(1))
        return SparseLogits(best.indices[..., order], best.values[..., order], size, temperature)
    rest = log_p.scatter(-1, best.indices, -torch.inf).logsumexp(-1)
    return SparseLogits(best.indices, best.values, logits.shape[-1], temperature, rest=rest)


def draws(logits: Tensor, size: int, temperature: float = 1.0, seed: int = 0) -> SparseLogits:
    """Draw independently, by PyTorch's own sampler, and count in a loop."""
    generator = torch.Generator().manual_seed(seed)
    log_p = F.log_softmax(logits / temperature, -1)
    picks = torch.multinomial(log_p.exp(), size, replacement=True, generator=generator)
    indices, counts = picks.clone(), torch.zeros(picks.shape, dtype=torch.float64)
    for row, picked in enumerate(picks.tolist()):
        found = sorted(set(picked))
        indices[row] = torch.tensor(found + [found[0]] * (size - len(found)))
        counts[row, : len(found)] = torch.tensor([float(picked.count(c)) for c in found])
    entropy = torch.special.entr(log_p.exp()).sum(-1)
    shares = (counts / size).log()
    return SparseLogits(indices, shares, logits.shape[-1], temperature, entropy=entropy)


def slope(loss: Callable[..., Tensor], student: Tensor, *rest: Any, **options: Any) -> Tensor:
    leaf = student.clone().requires_grad_(True)
    loss(leaf, *rest, **options).sum().backward()
    assert leaf.grad is not None
    return leaf.grad
