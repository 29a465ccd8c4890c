"""Embeddings of low rank: a narrow table, and a linear layer that widens what is read from it.

Letters: B samples, T tokens in each, V known tokens, R features of the table, E of what is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from limbeck.errors import InputError

__all__ = ["LowRankEmbedding", "Ranks", "principal", "with_ranks"]

Ranks = Mapping[str, int]
"""R of the embeddings that are of low rank, by their paths."""


@final
class LowRankEmbedding(nn.Module):
    """Tokens (B, T) to features (B, T, E), by a table (V, R) and a linear layer (R, E).

    It has R·(V + E) + E parameters in the place of V·E.

    Args:
        tokens: V.
        features: E.
        rank: R.
        padding: the token whose row does not learn; ``None`` for none.

    Source: Lan et al. 2020, "ALBERT", arXiv:1909.11942, which builds its embeddings so.

    >>> LowRankEmbedding(50, 16, 4)(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 16])
    """

    def __init__(self, tokens: int, features: int, rank: int, padding: int | None = None) -> None:
        super().__init__()
        self.table = nn.Embedding(tokens, rank, padding_idx=padding)
        self.widen = nn.Linear(rank, features)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return features (B, T, E)."""
        found: Tensor = self.widen(self.table(tokens))
        return found


def with_ranks(model: nn.Module, ranks: Ranks) -> nn.Module:
    """Replace embeddings by untrained ones of low rank, in place, and return the model.

    Raises:
        InputError: the model has no embedding of that path.

    >>> with_ranks(nn.Sequential(nn.Embedding(50, 16)), {"0": 4})[0].table
    Embedding(50, 4)
    """
    for path, rank in ranks.items():
        found = dict(model.named_modules()).get(path)
        if not path or not isinstance(found, nn.Embedding):
            raise InputError(
                f"a rank of {rank} for {path!r}, which is no embedding of {type(model).__name__}",
                expected="an embedding of the same model",
            )
        low = LowRankEmbedding(found.num_embeddings, found.embedding_dim, rank, found.padding_idx)
        model.set_submodule(path, low.to(found.weight))
    return model


@torch.no_grad()
def principal(rows: Tensor, rank: int, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the mean of rows and the directions in which they differ most.

    ``mean + (rows − mean)·D·Dᵀ`` are then the rows' best approximation of that rank, by the
    weighted mean of squared distances.

    Args:
        rows: (V, E).
        rank: R, at most E.
        weights: (V,), not negative; by default all are alike.

    Returns:
        The mean (E,) and the directions D (E, R), orthonormal, the strongest first; float64.

    >>> mean, found = principal(torch.tensor([[0.0, 1.0], [2.0, 1.0]]), 1)
    >>> mean.tolist(), found.abs().tolist()
    ([1.0, 1.0], [[1.0], [0.0]])
    """
    rows = rows.double()
    shares = torch.ones(len(rows)).to(rows) if weights is None else weights.to(rows)
    shares = (shares / shares.sum()).unsqueeze(1)
    mean = (shares * rows).sum(dim=0)
    away = rows - mean
    _, directions = torch.linalg.eigh((shares * away).T @ away)
    return mean, directions.flip(1)[:, :rank]
