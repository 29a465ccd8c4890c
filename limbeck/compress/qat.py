"""Training a network as if its weights and activations were integers already.

A layer's weight w and what goes into it, x, are rounded on the way through, while gradients pass
as if they were not (straight-through). The scales are those with which
:func:`limbeck.compress.static` writes the file, so the file computes what was trained. Names of
modules stay, so that taps, adapters and losses work as before: a teacher may teach.

Why not ``torchao`` or PyTorch's quantization of exported graphs: the first knows linear layers
alone, the second turns a network into a flat graph in which there are no layers left to tap.

Letters: B samples, C output channels.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from limbeck.compress.quantize import Ranges
from limbeck.errors import InputError, unknown

__all__ = ["FakeQuantization", "fake_quantize_weight"]

_KINDS = (nn.Conv1d, nn.Conv2d, nn.Linear)
_ORIGINAL = "parametrizations.weight.original"
_RANGE = "inputs_range"
_SLOWEST = 0.01  # share of a new batch's range in the average, at least


def fake_quantize_weight(weight: Tensor, bits: int = 8) -> Tensor:
    """Return a weight (C, ...) rounded as a file keeps it, with a scale for each output channel.

    s·round(w/s), s = max|w| / (2ᵇ⁻¹ − 1): from −127 to 127, or from −7 to 7. The gradient is 1.

    Args:
        weight: of a convolution or a linear layer.
        bits: 8 or 4.

    >>> fake_quantize_weight(torch.tensor([[1.0, -0.6, 0.1]]), bits=4)
    tensor([[ 1.0000, -0.5714,  0.1429]])
    """
    high = 2 ** (bits - 1) - 1
    most = weight.detach().flatten(1).abs().amax(1).float()
    scale = (most / high).clamp(min=torch.finfo(torch.float32).tiny)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight.float(), scale, zero, 0, -high, high)


@final
class FakeQuantization:
    """A network whose layers are rounded as it is trained; and how to get it back.

    Its convolutions and linear layers round their weights, with a scale for each output channel,
    and what goes into them to 8 bits, with a moving average of the range that training shows.

    Args:
        model: trained; it is copied. Batch norms stay: a norm of its own for each channel moves
            no weight of a channel to another step of its grid.
        bits: of the weights, 8 or 4.
        keep: paths of modules that stay as they are, all within them too.

    Attributes:
        model: the copy, to be trained by any loop. Before its first training batch it rounds
            weights alone, for it has seen no range yet.

    Raises:
        InputError: other bits, an unknown module, or no layer to round.

    Source: Jacob et al. 2018, arXiv:1712.05877; straight-through: Bengio et al. 2013,
    arXiv:1308.3432.

    >>> rounded = FakeQuantization(nn.Sequential(nn.Linear(4, 3)))
    >>> _ = rounded.model(torch.linspace(-1, 1, 8).view(2, 4))
    >>> rounded.ranges(), [*rounded.plain().state_dict()]
    ({'0': (-1.0, 1.0)}, ['0.weight', '0.bias'])
    """

    def __init__(self, model: nn.Module, *, bits: int = 8, keep: Sequence[str] = ()) -> None:
        if bits not in (8, 4):
            raise InputError(f"weights of {bits} bits", expected="8 or 4")
        names = dict(model.named_modules())
        for name in keep:
            if name not in names:
                raise unknown(
                    f"module of {type(model).__name__} to keep:", name, filter(None, names)
                )
        self.model, self._whole = copy.deepcopy(model), copy.deepcopy(model)
        self._seen: dict[str, _Range] = {}
        for name, layer in list(self.model.named_modules()):
            if isinstance(layer, _KINDS) and not any(_within(name, kept) for kept in keep):
                parametrize.register_parametrization(layer, "weight", _Rounded(bits))
                self._seen[name] = seen = _Range().to(layer.weight.device)
                layer.add_module(_RANGE, seen)
                layer.register_forward_pre_hook(seen.round_inputs)
        if not self._seen:
            raise InputError(
                f"{type(model).__name__} has no layer to round",
                expected="convolutions (1d, 2d) or linear layers"
                + (f" beside {', '.join(keep)}" if keep else ""),
            )

    def ranges(self) -> Ranges:
        """Return the smallest and largest number that went into each layer, by its path.

        Layers that no training batch went through are left out.
        """
        found = {name: seen for name, seen in self._seen.items() if int(seen.batches)}
        return {name: (float(seen.low), float(seen.high)) for name, seen in found.items()}

    def plain(self) -> nn.Module:
        """Return a copy without rounding, with the weights before it, in eval mode."""
        state = self.model.state_dict()
        for name in self._seen:
            state[f"{name}.weight"] = state.pop(f"{name}.{_ORIGINAL}")
            for own in ("low", "high", "batches"):
                del state[f"{name}.{_RANGE}.{own}"]
        model = copy.deepcopy(self._whole).to(next(self.model.parameters()).device)
        model.load_state_dict(state)
        return model.eval()


@final
class _Rounded(nn.Module):
    """Rounds a weight whenever it is read."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, weight: Tensor) -> Tensor:
        return fake_quantize_weight(weight, self.bits).to(weight.dtype)


@final
class _Range(nn.Module):
    """Follows the range of what goes into a layer, and rounds it to 8 bits."""

    low: Tensor
    high: Tensor
    batches: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def round_inputs(self, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Stand before a layer, as a hook."""
        return (self(inputs[0]), *inputs[1:])

    def forward(self, x: Tensor) -> Tensor:
        """Return x rounded; in training, learn its range first."""
        if self.training:
            self._follow(x.detach().float())
        scale = ((self.high - self.low) / 255).clamp(min=torch.finfo(torch.float32).tiny)
        zero = torch.round(-self.low / scale).to(torch.int32)
        rounded = torch.fake_quantize_per_tensor_affine(x.float(), scale, zero, 0, 255).to(x.dtype)
        return torch.where(self.batches > 0, rounded, x)

    def _follow(self, x: Tensor) -> None:
        """Average the ranges of batches; zero is always within, for it must be exact."""
        self.batches += 1
        share = (1 / self.batches).clamp(min=_SLOWEST)
        self.low += share * (x.amin().clamp(max=0) - self.low)
        self.high += share * (x.amax().clamp(min=0) - self.high)


def _within(name: str, kept: str) -> bool:
    return name == kept or name.startswith(f"{kept}.")
