"""A small Transformer encoder for token sequences.

Letters: B samples, T tokens, C classes, D features, H heads.
"""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.students.zoo._parts import Config, number, whole

__all__ = ["Transformer", "transformer"]

_STD = 0.02


def transformer(
    vocab: int,
    width: int = 128,
    *,
    depth: int = 4,
    heads: int = 4,
    hidden: int = 0,
    positions: int = 128,
    dropout: float = 0.1,
    padding: int = 0,
    classes: int,
) -> Transformer:
    """Return an encoder with learned positions, whose mean state is classified.

    Args:
        vocab: how many tokens there are.
        width: D.
        depth: number of blocks.
        heads: H; it divides the width.
        hidden: features inside a block's perceptron; 0 is four times the width.
        positions: T at most.
        dropout: share that training hides, after the embeddings and each half of a block.
        padding: the token that fills shorter texts.
        classes: number of logits.

    Source: Vaswani et al. 2017, arXiv:1706.03762, with the norms first (Xiong et al. 2020,
    arXiv:2002.04745). Weights begin as N(0, 0.02²), as BERT's.

    >>> model = transformer(100, 8, depth=2, heads=2, positions=16, classes=3)
    >>> model(torch.tensor([[5, 6, 0]]), torch.tensor([[1, 1, 0]])).shape
    torch.Size([1, 3])
    """
    return Transformer(
        vocab, width, depth, heads, hidden or 4 * width, positions, dropout, padding, classes
    )


@final
class Transformer(nn.Module):
    """Tokens (B, T) to logits (B, C).

    Taps: ``stage[i]`` or ``blocks.i`` (B, T, D), ``blocks.i.query``, ``.key`` and ``.value``
    (B, T, D), ``norm`` (B, T, D), ``classifier``. Arguments: see :func:`transformer`.
    """

    def __init__(
        self,
        vocab: int,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        positions: int,
        dropout: float,
        padding: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.config = _config(
            vocab, width, depth, heads, hidden, positions, dropout, padding, classes
        )
        self.embedding = nn.Embedding(vocab, width, padding_idx=padding)
        self.positions = nn.Embedding(positions, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(width, heads, hidden, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, classes)
        self.apply(_begin)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits (B, C)."""
        length = input_ids.shape[1]
        if length > self.positions.num_embeddings:
            raise InputError(
                f"texts of {length} tokens",
                expected=f"at most {self.positions.num_embeddings}, for which there are positions",
            )
        places = torch.arange(length, device=input_ids.device)
        x = self.dropout(self.embedding(input_ids) + self.positions(places))
        keep = attention_mask.bool()[:, None, None, :]
        for block in self.blocks:
            x = block(x, keep)
        weights = attention_mask.unsqueeze(2).to(x.dtype)
        mean = (self.norm(x) * weights).sum(dim=1) / weights.sum(dim=1)
        logits: Tensor = self.classifier(mean)
        return logits


@final
class _Block(nn.Module):
    """Attention and a perceptron, each after a norm and added to what came in."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """Return states (B, T, D); ``keep`` (B, 1, 1, T) says which tokens are looked at."""
        y = self.norm1(x)
        q, k, v = (
            part(y).unflatten(2, (-1, self.head_dim)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
        x = x + self.dropout(self.out(seen.transpose(1, 2).flatten(2)))
        y = self.fc2(F.gelu(self.fc1(self.norm2(x))))
        changed: Tensor = x + self.dropout(y)
        return changed


def _begin(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=_STD)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def _config(
    vocab: int,
    width: int,
    depth: int,
    heads: int,
    hidden: int,
    positions: int,
    dropout: float,
    padding: int,
    classes: int,
) -> Config:
    if whole("width", width) % whole("heads", heads):
        raise InputError(
            f"a width of {width} for {heads} heads", expected="a width that the heads divide"
        )
    args = {
        "vocab": whole("vocab", vocab, least=whole("padding", padding, least=0) + 1),
        "width": width,
        "depth": whole("depth", depth),
        "heads": heads,
        "hidden": whole("hidden", hidden),
        "positions": whole("positions", positions),
        "dropout": number("dropout", dropout, zero=True, below=1),
        "padding": padding,
        "classes": whole("classes", classes),
    }
    return {"build": "transformer", "args": args}
