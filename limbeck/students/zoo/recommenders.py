"""Recommenders: what a person had so far, in, a score for every item there is, out.

All are called with ``input_ids`` and ``attention_mask``, as texts are, and score items by their
inner product with what they make of the history: one table of embeddings serves both ends, and
nearly all weights are in it. The place after the last item, number N, is the padding.

Letters: B persons, T items of a history, N items there are, D features, H heads.
"""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.students.zoo._packed import states
from limbeck.students.zoo._parts import Config, number, whole

__all__ = ["FISM", "GRU4Rec", "SASRec", "fism", "gru4rec", "sasrec"]

_STD = 0.02


def sasrec(
    width: int = 64,
    *,
    depth: int = 2,
    heads: int = 1,
    positions: int = 50,
    dropout: float = 0.2,
    classes: int,
) -> SASRec:
    """Return a Transformer in which each item of a history looks at those before it.

    Args:
        width: D.
        depth: number of blocks.
        heads: H; it divides the width.
        positions: T at most.
        dropout: share that training hides: of the embeddings, the attention's result and the
            perceptron's.
        classes: N.

    Source: Kang, McAuley 2018, "Self-Attentive Sequential Recommendation", arXiv:1808.09781. Places
    are counted from the last item, as the paper's padding at the front has it. Weights begin as
    N(0, 0.02²). The paper learns from one drawn item beside each right one; how a model is trained
    here is the task's affair.

    >>> model = sasrec(8, positions=5, classes=100)
    >>> model(torch.tensor([[5, 6, 100]]), torch.tensor([[1, 1, 0]])).shape
    torch.Size([1, 100])
    """
    return SASRec(width, depth, heads, positions, dropout, classes)


@final
class SASRec(nn.Module):
    """Histories (B, T) to scores (B, N).

    Taps: ``dropout`` (B, T, D), what is read, ``stage[i]`` or ``blocks.i`` (B, T, D), ``norm``
    (B, D), the last item's state. Arguments: see :func:`sasrec`.
    """

    def __init__(
        self, width: int, depth: int, heads: int, positions: int, dropout: float, classes: int
    ) -> None:
        super().__init__()
        if whole("width", width) % whole("heads", heads):
            raise InputError(
                f"a width of {width} for {heads} heads", expected="a width that the heads divide"
            )
        self.config: Config = {
            "build": "sasrec",
            "args": {
                **_common(width, dropout, classes),
                "depth": whole("depth", depth),
                "heads": heads,
                "positions": whole("positions", positions),
            },
        }
        self.positions = nn.Embedding(positions, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.items = _Items(classes, width, biased=False)
        nn.init.normal_(self.positions.weight, std=_STD)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return scores (B, N)."""
        length = input_ids.shape[1]
        if length > self.positions.num_embeddings:
            raise InputError(
                f"histories of {length} items",
                expected=f"at most {self.positions.num_embeddings}, for which there are positions",
            )
        places = torch.arange(length, device=input_ids.device)
        last = attention_mask.sum(dim=1, keepdim=True) - 1
        x = self.items.read(input_ids) * self.norm.weight.numel() ** 0.5
        x = self.dropout(x + self.positions((last - places).clamp(min=0)))
        for block in self.blocks:
            x = block(x)
        scores: Tensor = self.items(self.norm(_last(x, attention_mask)))
        return scores


@final
class _Block(nn.Module):
    """Attention to items before, and a perceptron, each after a norm and added to what came in."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return states (B, T, D); padding stands at the end, where no item looks."""
        y = self.norm1(x)
        q, k, v = (
            part(y).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.dropout(self.out(seen.transpose(1, 2).flatten(2)))
        y = self.fc2(self.dropout(F.relu(self.fc1(self.norm2(x)))))
        changed: Tensor = x + self.dropout(y)
        return changed


def gru4rec(
    width: int = 64,
    *,
    hidden: int = 0,
    layers: int = 1,
    dropout: float = 0.2,
    classes: int,
) -> GRU4Rec:
    """Return a recurrent reader of histories: gated recurrent units, item after item.

    Args:
        width: D of an embedding.
        hidden: units of a layer; 0 is the width.
        layers: how many stand one upon the other.
        dropout: share of the embeddings' features, and of the states', that training hides.
        classes: N.

    Source: Hidasi, Karatzoglou, Baltrunas, Tikk 2016, "Session-based Recommendations with Recurrent
    Neural Networks", arXiv:1511.06939; one table for both ends is Hidasi, Karatzoglou 2018,
    arXiv:1706.03847. Embeddings begin as N(0, 0.02²).

    >>> model = gru4rec(8, classes=100)
    >>> model(torch.tensor([[5, 6, 100]]), torch.tensor([[1, 1, 0]])).shape
    torch.Size([1, 100])
    """
    return GRU4Rec(width, hidden or width, layers, dropout, classes)


@final
class GRU4Rec(nn.Module):
    """Histories (B, T) to scores (B, N). Taps: ``dropout`` (B, T, D), ``projection`` (B, D)."""

    def __init__(self, width: int, hidden: int, layers: int, dropout: float, classes: int) -> None:
        super().__init__()
        self.config: Config = {
            "build": "gru4rec",
            "args": {
                **_common(width, dropout, classes),
                "hidden": whole("hidden", hidden),
                "layers": whole("layers", layers),
            },
        }
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(width, hidden, layers, batch_first=True)
        self.hidden = nn.Dropout(dropout)
        self.projection = nn.Linear(hidden, width)
        self.items = _Items(classes, width)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return scores (B, N)."""
        # Padding stands at the end, after the state that is taken.
        found = states(self.gru, self.dropout(self.items.read(input_ids)))
        scores: Tensor = self.items(self.projection(self.hidden(_last(found, attention_mask))))
        return scores


def fism(width: int = 64, *, dropout: float = 0.2, classes: int) -> FISM:
    """Return a factorisation in which a person is the sum of their items: the smallest of all.

    A person u with items j is x = (1 / √|u|) Σ e_j, and an item's score b_i + e_i · W x. Order does
    not count. Plain matrix factorisation keeps a vector for each person, so that it knows nothing
    of a new one; here a person is what they had.

    Args:
        width: D.
        dropout: share of x that training hides.
        classes: N.

    Source: Kabbur, Ning, Karypis 2013, "FISM: Factored Item Similarity Models for Top-N Recommender
    Systems", KDD, 10.1145/2487575.2487589, with α = 1/2. The paper has a second table for the items
    of the history; here it is the first one times W, which halves the size. Embeddings begin as
    N(0, 0.02²), W as the identity.

    >>> model = fism(8, classes=100)
    >>> model(torch.tensor([[5, 6, 100]]), torch.tensor([[1, 1, 0]])).shape
    torch.Size([1, 100])
    """
    return FISM(width, dropout, classes)


@final
class FISM(nn.Module):
    """Histories (B, T) to scores (B, N). Taps: ``dropout`` (B, D), x, and ``projection`` (B, D)."""

    def __init__(self, width: int, dropout: float, classes: int) -> None:
        super().__init__()
        self.config: Config = {"build": "fism", "args": _common(width, dropout, classes)}
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(width, width, bias=False)
        self.items = _Items(classes, width)
        nn.init.eye_(self.projection.weight)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return scores (B, N)."""
        total = self.items.read(input_ids).sum(dim=1)  # the padding's embedding is zero
        person = total / attention_mask.sum(dim=1, keepdim=True).sqrt()
        scores: Tensor = self.items(self.projection(self.dropout(person)))
        return scores


@final
class _Items(nn.Module):
    """The table of N embeddings, from which histories are read and by which states are scored."""

    def __init__(self, classes: int, width: int, *, biased: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes + 1, width) * _STD)
        self.bias = nn.Parameter(torch.zeros(classes)) if biased else None
        with torch.no_grad():
            self.weight[classes].zero_()

    def read(self, input_ids: Tensor) -> Tensor:
        """Return the embeddings of items, (B, T, D); that of the padding, number N, stays zero.

        Raises:
            InputError: there is an item beyond N; on a GPU, CUDA says so.
        """
        most = len(self.weight) - 1
        looking = not torch.compiler.is_compiling() and input_ids.device.type == "cpu"
        if looking and input_ids.numel() and int(input_ids.max()) > most:
            raise InputError(
                f"a history with item {int(input_ids.max())} for a recommender of {most} items",
                expected=f"0 to {most - 1}, and {most} as padding",
                remedy="Leave classes out of the model's args: a recipe takes it from the data.",
            )
        return F.embedding(input_ids, self.weight, padding_idx=len(self.weight) - 1)

    def forward(self, state: Tensor) -> Tensor:
        """Return the score of each item, (B, N), for states (B, D)."""
        return F.linear(state, self.weight[:-1], self.bias)


def _last(found: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the state of the last item of each history, (B, D), from (B, T, D)."""
    last = (attention_mask.sum(dim=1) - 1).clamp(min=0)
    return found[torch.arange(found.shape[0], device=found.device), last]


def _common(width: int, dropout: float, classes: int) -> Config:
    """Return the arguments that all of them have, checked."""
    return {
        "width": whole("width", width),
        "dropout": number("dropout", dropout, zero=True, below=1),
        "classes": whole("classes", classes, least=2),
    }
