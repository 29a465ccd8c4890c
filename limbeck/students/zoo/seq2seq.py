"""A small Transformer that reads one sequence of tokens and writes another.

Letters: B samples, S tokens read, T tokens written, V vocabulary, D features, H heads, R rows.
"""

from __future__ import annotations

import math
from typing import cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.students.zoo._parts import Config, number, whole
from limbeck.students.zoo._search import beams, greedy

__all__ = ["Seq2Seq", "seq2seq"]


def seq2seq(
    vocab: int,
    width: int = 192,
    *,
    depth: int = 3,
    decoder_depth: int = 0,
    heads: int = 4,
    hidden: int = 0,
    source_vocab: int = 0,
    positions: int = 128,
    dropout: float = 0.1,
    start: int,
    end: int,
    padding: int = 0,
) -> Seq2Seq:
    """Return an encoder and a decoder that share their embedding, which also ends the decoder.

    Args:
        vocab: V, how many tokens there are to write, and to read unless ``source_vocab`` says so.
        width: D.
        depth: number of blocks of the encoder.
        decoder_depth: of the decoder; 0 is as many. Fewer make writing faster.
        heads: H; it divides the width.
        hidden: features inside a block's perceptron; 0 is four times the width.
        source_vocab: how many tokens there are to read, which then have an embedding of their own.
        positions: S and T at most.
        dropout: share that training hides, after the embeddings and each part of a block.
        start: the token before the first one written.
        end: the token after the last one.
        padding: the token that fills shorter sequences.

    Source: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, with the norms first
    (Xiong et al. 2020, arXiv:2002.04745) and one embedding (Press, Wolf 2017, arXiv:1608.05859).

    >>> model = seq2seq(100, 8, depth=1, heads=2, start=2, end=3)
    >>> ids = torch.tensor([[5, 6, 0]])
    >>> model(ids, torch.tensor([[1, 1, 0]]), torch.tensor([[2, 7]])).shape
    torch.Size([1, 2, 100])
    """
    return Seq2Seq(
        vocab,
        width,
        depth,
        decoder_depth or depth,
        heads,
        hidden or 4 * width,
        source_vocab,
        positions,
        dropout,
        start,
        end,
        padding,
    )


@final
class Seq2Seq(nn.Module):
    """Tokens (B, S), and those written so far (B, T), to logits of the next ones (B, T, V).

    Taps: ``encoder.i`` (B, S, D), ``decoder.i`` (B, T, D), ``encoded``, ``norm``. Arguments: see
    :func:`seq2seq`.
    """

    places: Tensor

    def __init__(
        self,
        vocab: int,
        width: int,
        depth: int,
        decoder_depth: int,
        heads: int,
        hidden: int,
        source_vocab: int,
        positions: int,
        dropout: float,
        start: int,
        end: int,
        padding: int,
    ) -> None:
        super().__init__()
        args = {
            **_sizes(vocab, width, heads),
            "depth": whole("depth", depth),
            "decoder_depth": whole("decoder_depth", decoder_depth),
            "hidden": whole("hidden", hidden),
            "source_vocab": whole("source_vocab", source_vocab, least=0),
            "positions": whole("positions", positions),
            "dropout": number("dropout", dropout, zero=True, below=1),
        }
        for name, token in (("start", start), ("end", end), ("padding", padding)):
            if whole(name, token, least=0) >= vocab:
                raise InputError(f"{name} is token {token}", expected=f"one of {vocab} tokens")
            args[name] = token
        self.config: Config = {"build": "seq2seq", "args": args}
        self.start, self.end, self.padding = start, end, padding
        self.embedding = nn.Embedding(vocab, width, padding_idx=padding)
        self.source_embedding = nn.Embedding(source_vocab, width) if source_vocab else None
        self.register_buffer("places", _waves(positions, width), persistent=False)
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.ModuleList(_Reads(width, heads, hidden, dropout) for _ in range(depth))
        self.encoded = nn.LayerNorm(width)
        self.decoder = nn.ModuleList(
            _Writes(width, heads, hidden, dropout) for _ in range(decoder_depth)
        )
        self.norm = nn.LayerNorm(width)
        self.apply(_begin)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        decoder_input_ids: Tensor,
        decoder_attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Return logits (B, T, V).

        Args:
            input_ids: what is read, (B, S).
            attention_mask: (B, S), 0 where that is padding.
            decoder_input_ids: what is written, each token one place late, (B, T).
            decoder_attention_mask: may be left out: padding stands after what is written, and no
                token looks ahead.
        """
        return self.decode(decoder_input_ids, *self.encode(input_ids, attention_mask))

    def decode(self, tokens: Tensor, memory: Tensor, keep: Tensor) -> Tensor:
        """Return the logits (B, T, V) after each token written, given what was read."""
        x = self._embedded(self.embedding, tokens, 0)
        for block in self.blocks():
            x = block(x, block.other.read(memory), keep)
        return self._logits(x)

    def blocks(self) -> list[_Writes]:
        """Return the decoder's blocks."""
        return cast(list[_Writes], list(self.decoder))

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the encoder makes of tokens, (B, S, D), and which count, (B, 1, 1, S)."""
        keep = attention_mask.bool()[:, None, None, :]
        x = self._embedded(self.source_embedding or self.embedding, input_ids, 0)
        for block in self.encoder:
            x = block(x, keep)
        return self.encoded(x), keep

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        *,
        num_beams: int = 1,
        max_new_tokens: int | None = None,
        length_penalty: float = 1.0,
        use_cache: bool = True,
    ) -> Tensor:
        """Return what is written, (B, T) int64: the start, tokens, the end, padding.

        The arguments are called as in ``transformers``.

        Args:
            input_ids: what is read, (B, S).
            attention_mask: (B, S), 0 where that is padding.
            num_beams: 1 takes the likeliest token at each step.
            max_new_tokens: T − 1 at most; by default as many as there are positions for.
            length_penalty: with beams, a sequence's log-probability is divided by its length to
                this power.
            use_cache: remember what was computed for earlier tokens; without it the result is the
                same, later.

        Raises:
            InputError: no beam, or more tokens than there are positions.
        """
        most = len(self.places) - 1 if max_new_tokens is None else max_new_tokens
        if not 0 < most < len(self.places) or num_beams < 1:
            raise InputError(
                f"{most} tokens with {num_beams} beams",
                expected=f"1 to {len(self.places) - 1} tokens, for which there are positions, and "
                "at least one beam",
            )
        read = self.encode(input_ids, attention_mask)
        decoder = _Writing(self, *read) if use_cache else _Rewriting(self, *read)
        first = torch.full_like(input_ids[:, 0], self.start)
        ends = {"end": self.end, "padding": self.padding, "most": most}
        if num_beams == 1:
            return greedy(decoder, first, **ends)
        return beams(decoder, first, count=num_beams, length_penalty=length_penalty, **ends)

    def _embedded(self, embedding: nn.Embedding, tokens: Tensor, start: int) -> Tensor:
        end = start + tokens.shape[1]
        if end > len(self.places):
            raise InputError(
                f"sequences of {end} tokens",
                expected=f"at most {len(self.places)}, for which there are positions",
            )
        scaled = embedding(tokens) * math.sqrt(embedding.embedding_dim)
        x: Tensor = self.dropout(scaled + self.places[start:end])
        return x

    def _logits(self, x: Tensor) -> Tensor:
        return F.linear(self.norm(x), self.embedding.weight)


class _Writing:
    """A decoder at work, which keeps the keys and values of all tokens so far."""

    def __init__(self, model: Seq2Seq, memory: Tensor, keep: Tensor) -> None:
        self.model, self.keep, self.length = model, keep, 0
        self.read = [block.other.read(memory) for block in model.blocks()]
        self.past: list[tuple[Tensor, Tensor] | None] = [None] * len(model.decoder)

    def step(self, tokens: Tensor) -> Tensor:
        x = self.model._embedded(self.model.embedding, tokens.unsqueeze(1), self.length)
        for place, block in enumerate(self.model.blocks()):
            x, self.past[place] = block.step(x, self.read[place], self.keep, self.past[place])
        self.length += 1
        return self.model._logits(x)[:, 0]

    def reorder(self, rows: Tensor) -> None:
        self.keep = self.keep[rows]
        self.read = [(k[rows], v[rows]) for k, v in self.read]
        self.past = [None if pair is None else (pair[0][rows], pair[1][rows]) for pair in self.past]


class _Rewriting:
    """A decoder at work, which computes everything anew for each token."""

    def __init__(self, model: Seq2Seq, memory: Tensor, keep: Tensor) -> None:
        self.model, self.memory, self.keep = model, memory, keep
        self.tokens = keep.new_zeros((len(keep), 0), dtype=torch.int64)

    def step(self, tokens: Tensor) -> Tensor:
        self.tokens = torch.cat((self.tokens, tokens.unsqueeze(1)), dim=1)
        return self.model.decode(self.tokens, self.memory, self.keep)[:, -1]

    def reorder(self, rows: Tensor) -> None:
        self.tokens, self.memory, self.keep = (
            part[rows] for part in (self.tokens, self.memory, self.keep)
        )


@final
class _Attention(nn.Module):
    """Queries (B, T, D) look at keys and values, (B, H, S, D/H) each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values of states (B, S, D)."""
        return self._split(self.key(x)), self._split(self.value(x))

    def forward(
        self, x: Tensor, seen: tuple[Tensor, Tensor], keep: Tensor | None, *, causal: bool = False
    ) -> Tensor:
        """Return (B, T, D); ``keep`` (B, 1, 1, S) says which keys are looked at."""
        query = self._split(self.query(x))
        found = F.scaled_dot_product_attention(query, *seen, attn_mask=keep, is_causal=causal)
        out: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        parts: Tensor = x.unflatten(2, (self.heads, -1))
        return parts.transpose(1, 2)


@final
class _Reads(nn.Module):
    """A block of the encoder: attention and a perceptron, each after a norm and added."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.own = _Attention(width, heads)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """Return states (B, S, D)."""
        y = self.norm1(x)
        x = x + self.dropout(self.own(y, self.own.read(y), keep))
        changed: Tensor = x + self.dropout(self.fc2(F.gelu(self.fc1(self.norm2(x)))))
        return changed


@final
class _Writes(nn.Module):
    """A block of the decoder: it looks back, then at what was read, then a perceptron."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.own, self.other = _Attention(width, heads), _Attention(width, heads)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, read: tuple[Tensor, Tensor], keep: Tensor) -> Tensor:
        """Return states (B, T, D) of all tokens at once."""
        y = self.norm1(x)
        x = x + self.dropout(self.own(y, self.own.read(y), None, causal=True))
        return self._rest(x, read, keep)

    def step(
        self,
        x: Tensor,
        read: tuple[Tensor, Tensor],
        keep: Tensor,
        past: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the state of one more token, (R, 1, D), and all keys and values so far."""
        y = self.norm1(x)
        k, v = self.own.read(y)
        if past is not None:
            k, v = torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)
        x = x + self.dropout(self.own(y, (k, v), None))
        return self._rest(x, read, keep), (k, v)

    def _rest(self, x: Tensor, read: tuple[Tensor, Tensor], keep: Tensor) -> Tensor:
        x = x + self.dropout(self.other(self.norm2(x), read, keep))
        changed: Tensor = x + self.dropout(self.fc2(F.gelu(self.fc1(self.norm3(x)))))
        return changed


def _waves(positions: int, width: int) -> Tensor:
    """Return sines and cosines of each place, (positions, D)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.arange(positions).unsqueeze(1) * rates
    return torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1)[:, :width]


def _begin(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)


def _sizes(vocab: int, width: int, heads: int) -> Config:
    if whole("width", width) % whole("heads", heads):
        raise InputError(
            f"a width of {width} for {heads} heads", expected="a width that the heads divide"
        )
    return {"vocab": whole("vocab", vocab), "width": width, "heads": heads}
