"""A recurrent layer over texts of unequal length, as one operator that a file can hold.

Packing texts by their lengths looks at values, which no exporter can follow. While a network is
exported this operator stands there instead; it computes the same.

Letters: B samples, T tokens, D features, H units.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

__all__ = ["packed_lstm", "states"]

_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_WAYS = ("", "_reverse")


def states(lstm: nn.LSTM, words: Tensor, lengths: Tensor, padding: float) -> Tensor:
    """Return the states of an LSTM in both directions (B, T, 2H).

    Args:
        lstm: whose batch comes first.
        words: (B, T, D).
        lengths: (B,), how many tokens count, from the first on; at least 1.
        padding: the state where none counts.
    """
    if not torch.compiler.is_exporting():
        packed = pack_padded_sequence(words, lengths.cpu(), batch_first=True, enforce_sorted=False)
        found, _ = pad_packed_sequence(lstm(packed)[0], batch_first=True, padding_value=padding)
        return found
    x = words
    for layer in range(lstm.num_layers):
        weights = [getattr(lstm, f"{name}_l{layer}{way}") for way in _WAYS for name in _WEIGHTS]
        x = packed_lstm(x, lengths, weights)
    counts = torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(1)
    return x.masked_fill(~counts.unsqueeze(2), padding)


@torch.library.custom_op("limbeck::packed_lstm", mutates_args=())
def packed_lstm(words: Tensor, lengths: Tensor, weights: list[Tensor]) -> Tensor:
    """Return the states (B, T, 2H) of one layer in both directions, zero where no token counts.

    Args:
        words: (B, T, D).
        lengths: (B,).
        weights: of nn.LSTM, those for each direction: (4H, D), (4H, H), (4H,), (4H,).
    """
    size = weights[1].shape[1]
    lstm = nn.LSTM(words.shape[2], size, batch_first=True, bidirectional=True)
    names = [f"{name}_l0{way}" for way in _WAYS for name in _WEIGHTS]
    lstm.load_state_dict(dict(zip(names, weights, strict=True)))
    with torch.no_grad():
        packed = pack_padded_sequence(words, lengths.cpu(), batch_first=True, enforce_sorted=False)
        length = words.shape[1]
        found, _ = pad_packed_sequence(lstm(packed)[0], batch_first=True, total_length=length)
    return found.clone()


@packed_lstm.register_fake
def _(words: Tensor, lengths: Tensor, weights: list[Tensor]) -> Tensor:
    return words.new_empty(words.shape[0], words.shape[1], 2 * weights[1].shape[1])
