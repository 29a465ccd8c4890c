"""Codecs that give back all numbers of a field: as they are, in 8 bits, or from few components.

Letters: B rows, T tokens, C channels, H×W positions, N vectors, D components.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.errors import InputError
from limbeck.knowledge.codec.protocol import Codec, Field, finite, whole

__all__ = ["Components", "Floats", "ScaledIntegers"]

_MOST_VECTORS = 65536  # from which components are learned


@dataclass(frozen=True)
class Floats:
    """Every value, in one floating-point format."""

    name: str
    dtype: torch.dtype
    parts: tuple[str, ...] = ("",)

    @property
    def state(self) -> dict[str, Tensor]:
        return {}

    def fitted(self, field: Field) -> Codec:
        return self

    def encode(self, field: Field, keys: Tensor) -> dict[str, Tensor]:
        values = whole(field, self.name)
        return {"": finite(values.to(self.dtype), values, self.name)}

    def decode(self, parts: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        return parts[""].float()


@dataclass(frozen=True)
class ScaledIntegers:
    """Whole numbers from −127 to 127, times a float32 scale for each vector or map.

    The scale is the largest absolute value over 127, so that nothing is cut off and 0 stays 0; an
    error is at most half a scale. There is one for each vector (B, C), for each token (B, T, C),
    and for each channel of each sample's maps (B, C, H, W): channels differ in size by orders.
    """

    name: str = "int8"
    parts: tuple[str, ...] = ("", ":scale")

    @property
    def state(self) -> dict[str, Tensor]:
        return {}

    def fitted(self, field: Field) -> Codec:
        return self

    def encode(self, field: Field, keys: Tensor) -> dict[str, Tensor]:
        values = whole(field, self.name, least=2).float()
        scale = finite(values.abs().amax(_within(values), keepdim=True) / 127, values, self.name)
        steps = values / torch.where(scale > 0, scale, 1.0)
        kept = steps.round().clamp(-127, 127).to(torch.int8)
        return {"": kept.contiguous(), ":scale": scale.squeeze(_within(values)).contiguous()}

    def decode(self, parts: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        steps, scale = parts[""], parts[":scale"]
        return steps * scale.view(*scale.shape, *[1] * (steps.ndim - scale.ndim))


@dataclass(frozen=True)
class Components:
    """The D directions in which the first rows vary most; of each vector, where it lies on them.

    A row comes back with all its C channels, as the nearest vector to it that the directions allow.
    They are float32, the coordinates float16. Channels are the last dimension, or the first of maps
    (B, C, H, W).

    Attributes:
        size: D.
        basis: (D, C), orthonormal rows, the most important first; ``None`` before it is learned.
        mean: (C,), of the vectors.
    """

    size: int
    basis: Tensor | None = None
    mean: Tensor | None = None
    parts: tuple[str, ...] = ("",)

    @property
    def name(self) -> str:
        return f"pca{self.size}"

    @property
    def state(self) -> dict[str, Tensor]:
        learned = {"basis": self.basis, "mean": self.mean}
        return {name: tensor for name, tensor in learned.items() if tensor is not None}

    def fitted(self, field: Field) -> Codec:
        values = whole(field, self.name, least=2)
        vectors = finite(values, values, self.name).movedim(_channels(values), -1).flatten(0, -2)
        count, channels = vectors.shape
        if self.size >= channels:
            raise InputError(
                f"{self.name} got {channels} channels",
                expected=f"more than {self.size}, to keep fewer than there are",
                remedy='Use codec "half", or fewer components.',
            )
        if count <= self.size:
            raise InputError(
                f"{self.name} got {count} vectors to learn from",
                expected=f"more than {self.size}",
                remedy="Write in larger batches, or keep fewer components.",
            )
        chosen = vectors[:: -(-count // _MOST_VECTORS)].double()
        mean = chosen.mean(0)
        basis = _directions(chosen - mean, self.size)
        return Components(self.size, basis.float(), mean.float())

    def encode(self, field: Field, keys: Tensor) -> dict[str, Tensor]:
        basis, mean = self._learned()
        values = whole(field, self.name, least=2).float()
        where = _channels(values)
        vectors = values.movedim(where, -1)
        if vectors.shape[-1] != len(mean):
            raise InputError(
                f"{self.name} got {vectors.shape[-1]} channels",
                expected=f"{len(mean)}, as in the rows from which it learned",
            )
        places = (vectors - mean.to(values.device)) @ basis.to(values.device).T
        return {"": finite(places.movedim(-1, where).half(), values, "half")}

    def decode(self, parts: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        basis, mean = self._learned()
        places = parts[""].float()
        where = _channels(places)
        vectors = places.movedim(where, -1) @ basis.to(places.device) + mean.to(places.device)
        return vectors.movedim(-1, where).contiguous()

    def _learned(self) -> tuple[Tensor, Tensor]:
        if self.basis is None or self.mean is None:
            raise InputError(
                f"the codec {self.name} has not learned its components",
                expected="fitted(field) first, or the state from a store",
            )
        return self.basis, self.mean


def _within(values: Tensor) -> tuple[int, ...]:
    """Return the dimensions that share a scale."""
    return (2, 3) if values.ndim == 4 else (values.ndim - 1,)


def _channels(values: Tensor) -> int:
    return 1 if values.ndim == 4 else values.ndim - 1


def _directions(centred_NC: Tensor, size: int) -> Tensor:
    """Return the first principal directions (D, C), each with its largest entry above zero."""
    count, channels = centred_NC.shape
    if count >= channels:
        basis = torch.linalg.eigh(centred_NC.T @ centred_NC).eigenvectors.flip(-1).T[:size]
    else:
        basis = torch.linalg.svd(centred_NC, full_matrices=False).Vh[:size]
    largest = basis.gather(-1, basis.abs().argmax(-1, keepdim=True))
    return torch.where(largest < 0, -basis, basis).contiguous()
