"""Small readers of text: a bag of embeddings, a convolutional and a recurrent network.

All are called with ``input_ids`` and ``attention_mask`` and return logits.

Letters: B samples, T tokens, C classes, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.students.zoo._packed import states
from limbeck.students.zoo._parts import Config, number, whole, wholes

__all__ = ["Bag", "BiLSTM", "TextCNN", "bag", "bilstm", "textcnn"]

_EMBEDDING_STD = 0.1


def bag(
    vocab: int,
    width: int = 64,
    *,
    hidden: Sequence[int] = (),
    dropout: float = 0.0,
    padding: int = 0,
    classes: int,
) -> Bag:
    """Return a bag of static embeddings: their mean, then linear layers. It knows no order.

    A token costs the reading of one row, so it is hundreds of times faster than a Transformer.

    Args:
        vocab: how many tokens there are.
        width: D of an embedding.
        hidden: features of layers with ReLU before the last; none leaves a linear model.
        dropout: share of the mean's features that training hides.
        padding: the token that fills shorter texts.
        classes: number of logits.

    Source: Joulin et al. 2017, "Bag of Tricks for Efficient Text Classification",
    arXiv:1607.01759. Embeddings begin as N(0, 0.1²).

    >>> model = bag(100, 8, classes=2)
    >>> model(torch.tensor([[5, 6, 0]]), torch.tensor([[1, 1, 0]])).shape
    torch.Size([1, 2])
    """
    return Bag(vocab, width, hidden, dropout, padding, classes)


@final
class Bag(nn.Module):
    """Tokens (B, T) to logits (B, C). Taps: ``embedding`` (B, D), ``fc1``, ..., ``classifier``."""

    def __init__(
        self,
        vocab: int,
        width: int,
        hidden: Sequence[int],
        dropout: float,
        padding: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.config: Config = {
            "build": "bag",
            "args": {
                **_common(vocab, width, dropout, padding, classes),
                "hidden": wholes("hidden", hidden),
            },
        }
        self.padding = padding
        self.embedding = nn.EmbeddingBag(vocab, width, mode="mean", padding_idx=padding)
        nn.init.normal_(self.embedding.weight, std=_EMBEDDING_STD)
        self.dropout = nn.Dropout(dropout)
        before = width
        for index, after in enumerate(self.config["args"]["hidden"], 1):
            self.add_module(f"fc{index}", nn.Linear(before, after))
            self.add_module(f"fc{index}_relu", nn.ReLU())
            before = after
        self.classifier = nn.Linear(before, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits (B, C)."""
        read = input_ids.masked_fill(attention_mask == 0, self.padding)
        # An exporter would write a bag as a loop over texts.
        x: Tensor = self._mean(read) if torch.compiler.is_exporting() else self.embedding(read)
        for layer in list(self.children())[1:]:
            x = layer(x)
        return x

    def _mean(self, read: Tensor) -> Tensor:
        """Return what the bag does, (B, D), in plain operators."""
        keep = (read != self.padding).unsqueeze(2).float()
        words = F.embedding(read, self.embedding.weight) * keep
        mean: Tensor = words.sum(dim=1) / keep.sum(dim=1).clamp(min=1)
        return mean


def textcnn(
    vocab: int,
    width: int = 128,
    *,
    channels: int = 128,
    kernels: Sequence[int] = (2, 3, 4),
    dropout: float = 0.3,
    padding: int = 0,
    classes: int,
) -> TextCNN:
    """Return a convolutional reader: phrases of a few tokens, and for each filter its best match.

    Args:
        vocab: how many tokens there are.
        width: D of an embedding.
        channels: filters of each kernel.
        kernels: lengths of the phrases, in tokens.
        dropout: share of the filters that training hides.
        padding: the token that fills shorter texts.
        classes: number of logits.

    Source: Kim 2014, "Convolutional Neural Networks for Sentence Classification", arXiv:1408.5882.
    Embeddings begin as N(0, 0.1²).

    >>> model = textcnn(100, 8, channels=4, classes=2)
    >>> model(torch.tensor([[5, 6, 0]]), torch.tensor([[1, 1, 0]])).shape
    torch.Size([1, 2])
    """
    return TextCNN(vocab, width, channels, kernels, dropout, padding, classes)


@final
class TextCNN(nn.Module):
    """Tokens (B, T) to logits (B, C). Taps: ``embedding`` (B, T, D), ``convs.i``, ..."""

    def __init__(
        self,
        vocab: int,
        width: int,
        channels: int,
        kernels: Sequence[int],
        dropout: float,
        padding: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.config: Config = {
            "build": "textcnn",
            "args": {
                **_common(vocab, width, dropout, padding, classes),
                "channels": whole("channels", channels),
                "kernels": wholes("kernels", kernels),
            },
        }
        self.embedding = _embedding(vocab, width, padding)
        self.convs = nn.ModuleList(
            nn.Conv1d(width, channels, size, padding=size // 2) for size in kernels
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels * len(self.convs), classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits (B, C)."""
        keep = attention_mask.unsqueeze(2)
        x = (self.embedding(input_ids) * keep).transpose(1, 2)
        length = x.shape[2]
        # An even kernel reaches one place beyond the end. ReLU makes 0 the least that there is.
        maps = [conv(x)[..., :length].relu() * keep.transpose(1, 2) for conv in self.convs]
        best = torch.cat([each.amax(dim=2) for each in maps], dim=1)
        logits: Tensor = self.classifier(self.dropout(best))
        return logits


def bilstm(
    vocab: int,
    width: int = 128,
    *,
    hidden: int = 128,
    layers: int = 1,
    dropout: float = 0.3,
    padding: int = 0,
    classes: int,
) -> BiLSTM:
    """Return a recurrent reader: an LSTM in both directions, and for each unit its largest state.

    Args:
        vocab: how many tokens there are.
        width: D of an embedding.
        hidden: units in each direction.
        layers: how many stand one upon the other.
        dropout: share of the embeddings' features, and of the states', that training hides.
        padding: the token that fills shorter texts.
        classes: number of logits.

    Source: Tang et al. 2019, "Distilling Task-Specific Knowledge from BERT into Simple Neural
    Networks", arXiv:1903.12136, which takes the last states; the largest are those of Conneau et
    al. 2017, arXiv:1705.02364. Embeddings begin as N(0, 0.1²).

    >>> model = bilstm(100, 8, hidden=4, classes=2)
    >>> model(torch.tensor([[5, 6, 0]]), torch.tensor([[1, 1, 0]])).shape
    torch.Size([1, 2])
    """
    return BiLSTM(vocab, width, hidden, layers, dropout, padding, classes)


@final
class BiLSTM(nn.Module):
    """Tokens (B, T) to logits (B, C). Taps: ``embedding`` (B, T, D), ``pooled`` (B, 2·hidden)."""

    def __init__(
        self,
        vocab: int,
        width: int,
        hidden: int,
        layers: int,
        dropout: float,
        padding: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.config: Config = {
            "build": "bilstm",
            "args": {
                **_common(vocab, width, dropout, padding, classes),
                "hidden": whole("hidden", hidden),
                "layers": whole("layers", layers),
            },
        }
        self.embedding = _embedding(vocab, width, padding)
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(width, hidden, layers, batch_first=True, bidirectional=True)
        self.pooled = nn.Dropout(dropout)
        self.classifier = nn.Linear(2 * hidden, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits (B, C)."""
        words = self.dropout(self.embedding(input_ids))
        # A state is above −1, so that is never the largest.
        found = states(self.lstm, words, attention_mask.sum(dim=1), padding=-1.0)
        logits: Tensor = self.classifier(self.pooled(found.amax(dim=1)))
        return logits


def _embedding(vocab: int, width: int, padding: int) -> nn.Embedding:
    embedding = nn.Embedding(vocab, width, padding_idx=padding)
    nn.init.normal_(embedding.weight, std=_EMBEDDING_STD)
    with torch.no_grad():
        embedding.weight[padding].zero_()
    return embedding


def _common(vocab: int, width: int, dropout: float, padding: int, classes: int) -> Config:
    """Return the arguments that all of them have, checked."""
    return {
        "vocab": whole("vocab", vocab, least=whole("padding", padding, least=0) + 1),
        "width": whole("width", width),
        "dropout": number("dropout", dropout, zero=True, below=1),
        "padding": padding,
        "classes": whole("classes", classes),
    }
