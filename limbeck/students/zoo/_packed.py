"""A recurrent layer over sequences of any length, as one operator that a file can hold.

Packing sequences by their lengths looks at values, and without packing PyTorch's exporters write
every step down, so that only sequences of one length fit. While a network is exported this operator
stands there instead; it computes the same.

Letters: B samples, T steps, D features, H units, W directions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

__all__ = ["packed_rnn", "states"]

_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_WAYS = ("", "_reverse")
_KINDS = {4: nn.LSTM, 3: nn.GRU}  # by the number of their gates


def states(
    rnn: nn.LSTM | nn.GRU, x: Tensor, lengths: Tensor | None = None, padding: float = 0.0
) -> Tensor:
    """Return the states of a recurrent network (B, T, W·H), which begin at zero.

    Args:
        rnn: whose batch comes first.
        x: (B, T, D).
        lengths: (B,), how many steps count, from the first on; at least 1. ``None``: all do, which
            is right as well where padding stands at the end and nothing is read backwards.
        padding: the state where none counts.
    """
    fixed = lengths is None and isinstance(x.shape[1], int)  # a size that is free is a symbol
    if fixed or not torch.compiler.is_exporting():
        return _eager(rnn, x, lengths, padding)
    ways = _WAYS[: 2 if rnn.bidirectional else 1]
    found = x
    for layer in range(rnn.num_layers):
        weights = [getattr(rnn, f"{name}_l{layer}{way}") for way in ways for name in _WEIGHTS]
        found = packed_rnn(found, lengths, weights)
    if lengths is None:
        return found
    counts = torch.arange(found.shape[1], device=found.device) < lengths.unsqueeze(1)
    return found.masked_fill(~counts.unsqueeze(2), padding)


@torch.library.custom_op("limbeck::packed_rnn", mutates_args=())
def packed_rnn(x: Tensor, lengths: Tensor | None, weights: list[Tensor]) -> Tensor:
    """Return the states (B, T, W·H) of one layer, zero where no step counts.

    Args:
        x: (B, T, D).
        lengths: (B,), or ``None`` if all steps count.
        weights: of nn.LSTM (G = 4) or nn.GRU (G = 3), those for each direction: (G·H, D), (G·H, H),
            (G·H,), (G·H,).
    """
    gates, size = weights[1].shape[0] // weights[1].shape[1], weights[1].shape[1]
    ways = _WAYS[: len(weights) // len(_WEIGHTS)]
    rnn = _KINDS[gates](x.shape[2], size, batch_first=True, bidirectional=len(ways) == 2)
    names = [f"{name}_l0{way}" for way in ways for name in _WEIGHTS]
    rnn.load_state_dict(dict(zip(names, weights, strict=True)))
    with torch.no_grad():
        return _eager(rnn, x, lengths, 0.0).clone()


@packed_rnn.register_fake
def _(x: Tensor, lengths: Tensor | None, weights: list[Tensor]) -> Tensor:
    ways = len(weights) // len(_WEIGHTS)
    return x.new_empty(x.shape[0], x.shape[1], ways * weights[1].shape[1])


def _eager(rnn: nn.LSTM | nn.GRU, x: Tensor, lengths: Tensor | None, padding: float) -> Tensor:
    """Return the states, packing sequences by their lengths if these are told."""
    if lengths is None:
        every: Tensor = rnn(x)[0]
        return every
    packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
    found, _ = pad_packed_sequence(
        rnn(packed)[0], batch_first=True, padding_value=padding, total_length=x.shape[1]
    )
    return found
