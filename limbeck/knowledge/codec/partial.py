"""Codecs that keep a part of an answer over many classes: the most likely, or some drawn at random.

Letters: B rows, T tokens, C classes, K places, N rows (samples, or all their tokens).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.data.random import uniform
from limbeck.errors import InputError
from limbeck.knowledge.codec.protocol import Codec, Field, whole
from limbeck.losses.sparse import SparseLogits

__all__ = ["Draws", "MostLikely"]

_FIRST_STREAM = 2**20  # of random numbers; those before belong to augmentation
_AT_ONCE = 2**20  # logits that are worked on at a time: they stay near the processor
_BLOCK = 128  # classes whose mass is added up before it is cumulated
_NOTHING = -1e4  # the exponential of it is 0, its product with 0 too
_BELOW_ONE = 1 - 2**-52


@dataclass(frozen=True)
class MostLikely:
    """The K most likely classes, their log-probabilities in float16, and the mass of all others.

    A row is K·(2 + index) + 2 bytes, where an index takes 1 byte up to 256 classes, 2 up to 65,536,
    else 4. Comparisons on K + 1 classes are exact but for rounding; what the teacher says within
    the others is lost, so that the student's gradient has a bias there.

    Attributes:
        size: K.
        temperature: at which the mass is counted.
    """

    size: int
    temperature: float = 1.0
    parts: tuple[str, ...] = ("", ":indices", ":rest")

    @property
    def name(self) -> str:
        return f"top{self.size}{_softened(self.temperature)}"

    @property
    def state(self) -> dict[str, Tensor]:
        return {}

    def fitted(self, field: Field) -> Codec:
        return self

    def encode(self, field: Field, keys: Tensor) -> dict[str, Tensor]:
        if isinstance(field, SparseLogits):
            log_p, indices, rest = self._of_part(field)
        else:
            logits = _answers(field, self.name)
            _require(self.size, logits.shape[-1], self.name)
            log_p, indices, rest = _by_chunks(logits.flatten(0, -2), self._most_likely)
        lead = field.shape[:-1]
        return {
            "": log_p.half().view(*lead, self.size),
            ":indices": _narrow(indices, field.shape[-1]).view(*lead, self.size),
            ":rest": rest.half().view(lead),
        }

    def decode(self, parts: dict[str, Tensor], shape: tuple[int, ...]) -> SparseLogits:
        indices = _wide(parts[":indices"], shape[-1])
        rest = None if self.size == shape[-1] else parts[":rest"].float()
        return SparseLogits(indices, parts[""].float(), shape[-1], self.temperature, rest=rest)

    def _most_likely(self, logits_NC: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor]:
        softened = _soft(logits_NC, self.temperature)
        best = softened.topk(self.size)
        others = softened.scatter(-1, best.indices, -torch.inf).logsumexp(-1)
        total = torch.logaddexp(best.values.logsumexp(-1), others)
        return best.values - total.unsqueeze(-1), best.indices, others - total

    def _of_part(self, field: SparseLogits) -> tuple[Tensor, Tensor, Tensor]:
        """Keep what a teacher gave who never gives all."""
        known = field.indices.shape[-1]
        if field.entropy is not None or field.temperature != self.temperature or known < self.size:
            raise InputError(
                f"the codec {self.name} got {field}",
                expected=f"all logits, or the {self.size} most likely classes at temperature "
                f"{self.temperature:g}",
                remedy=f'Use codec "{field.codec}".',
            )
        best = field.log_p.topk(self.size)
        rest = field.log_p.scatter(-1, best.indices, -torch.inf).logsumexp(-1)
        if field.rest is not None:
            rest = torch.logaddexp(rest, field.rest)
        return best.values, field.indices.gather(-1, best.indices), rest


@dataclass(frozen=True)
class Draws:
    """Classes drawn from the teacher's answer, with how often each was drawn, and the entropy.

    Their shares are the teacher's probabilities on average over draws, and so the gradient of a
    loss that is linear in them is right on average. Each draw comes from its own slice of the
    cumulated probabilities, which spreads them more evenly than independent ones. Random numbers
    come from the row's key and the token's place alone. A row is draws·(1 + index) + 4 bytes, and
    draws·(2 + index) + 4 above 255 draws.

    Source: Anshumann et al. 2025, "Sparse Logit Sampling: Accelerating Knowledge Distillation in
    LLMs", arXiv:2503.16870, who draw independently.

    Attributes:
        size: draws for each row.
        temperature: of the answer that is drawn from.
    """

    size: int
    temperature: float = 1.0
    parts: tuple[str, ...] = ("", ":indices", ":entropy")

    @property
    def name(self) -> str:
        return f"sample{self.size}{_softened(self.temperature)}"

    @property
    def state(self) -> dict[str, Tensor]:
        return {}

    def fitted(self, field: Field) -> Codec:
        return self

    def encode(self, field: Field, keys: Tensor) -> dict[str, Tensor]:
        logits = _answers(field, self.name)
        lead = logits.shape[:-1]
        streams = _FIRST_STREAM + torch.arange(lead[1:].numel(), device=logits.device) * self.size
        row_keys = keys.to(logits.device).unsqueeze(1).expand(-1, len(streams)).flatten()
        row_streams = streams.expand(len(keys), -1).flatten()

        def draw(logits_NC: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor]:
            rows = slice(first, first + len(logits_NC))
            return self._drawn(logits_NC, row_keys[rows], row_streams[rows])

        counts, indices, entropy = _by_chunks(logits.flatten(0, -2), draw)
        count_type = torch.uint8 if self.size <= 255 else torch.int16
        return {
            "": counts.to(count_type).view(*lead, self.size),
            ":indices": _narrow(indices, logits.shape[-1]).view(*lead, self.size),
            ":entropy": entropy.view(lead),
        }

    def decode(self, parts: dict[str, Tensor], shape: tuple[int, ...]) -> SparseLogits:
        indices = _wide(parts[":indices"], shape[-1])
        log_p = (parts[""].float() / self.size).log()
        entropy = parts[":entropy"]
        return SparseLogits(indices, log_p, shape[-1], self.temperature, entropy=entropy)

    def _drawn(
        self, logits_NC: Tensor, keys_N: Tensor, streams_N: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return counts (N, K), classes (N, K) and entropies (N,)."""
        softened = _soft(logits_NC, self.temperature)
        z_NC = (softened - softened.amax(-1, keepdim=True)).clamp_(min=_NOTHING)
        mass_NC = z_NC.exp()
        draws = torch.arange(self.size, device=keys_N.device)
        numbers = uniform(keys_N.unsqueeze(1), streams_N.unsqueeze(1) + draws)
        drawn = _found(mass_NC, (draws + numbers) / self.size)
        fresh = torch.zeros_like(drawn)
        fresh[:, 1:] = drawn[:, 1:] != drawn[:, :-1]
        slots = fresh.cumsum(-1)
        counts = torch.zeros_like(drawn).scatter_add_(-1, slots, torch.ones_like(drawn))
        # A place without a draw repeats the first class: no class without a draw seems known.
        indices = drawn[:, :1].repeat(1, self.size).scatter_(-1, slots, drawn)
        total = mass_NC.sum(-1)
        return counts, indices, total.log() - torch.linalg.vecdot(mass_NC, z_NC) / total


def _answers(field: Field, name: str) -> Tensor:
    """Return logits that a softmax can take: a −∞ is a class without mass, and stays one.

    Raises:
        InputError: classes are not the last of two or three dimensions, or a row holds NaN, +∞, or
            nothing but −∞.
    """
    logits = whole(field, name, least=2)
    if logits.ndim > 3:
        raise InputError(
            f"the codec {name} got a field of shape {tuple(logits.shape)}",
            expected="answers (B, C) or (B, T, C), classes last",
            remedy='Use codec "half" or "int8" for this field.',
        )
    largest = logits.amax(-1)
    if not torch.isfinite(largest).all():
        raise InputError(
            f"the teacher's output has a row whose largest value is "
            f"{float(largest[~torch.isfinite(largest)][0])}",
            expected="logits: finite, or −∞ for some of the classes",
            remedy="Check the teacher's weights and preprocessing.",
        )
    return logits


def _require(size: int, classes: int, name: str) -> None:
    if size > classes:
        raise InputError(
            f"the codec {name} got {classes} classes",
            expected=f"at least {size}",
            remedy='Use codec "half", which keeps them all.',
        )


def _soft(logits: Tensor, temperature: float) -> Tensor:
    return logits.float() if temperature == 1 else logits.float() / temperature


def _found(mass_NC: Tensor, shares_NK: Tensor) -> Tensor:
    """Return the class (N, K) in which a share, 0 to 1, of the cumulated mass lies.

    First the block of classes is found, then the place in it: only sums of blocks are cumulated
    over all classes. Shares stay below the end by more than a rounding, so that what is found has
    mass.
    """
    blocks_NMB = F.pad(mass_NC, (0, -mass_NC.shape[-1] % _BLOCK)).unflatten(-1, (-1, _BLOCK))
    ends_NM = blocks_NMB.sum(-1, dtype=torch.float64).cumsum(-1)
    wanted_NK = shares_NK.clamp(max=_BELOW_ONE) * ends_NM[:, -1:]
    which_NK = torch.searchsorted(ends_NM, wanted_NK, right=True)
    before_NK = F.pad(ends_NM, (1, 0)).gather(1, which_NK)
    rows = torch.arange(len(mass_NC), device=mass_NC.device).unsqueeze(1)
    inner_NKB = blocks_NMB[rows, which_NK].cumsum(-1, dtype=torch.float64)
    left_NK = torch.minimum(wanted_NK - before_NK, inner_NKB[..., -1] * _BELOW_ONE)
    inside_NK1 = torch.searchsorted(inner_NKB, left_NK.unsqueeze(-1), right=True)
    return which_NK * _BLOCK + inside_NK1.squeeze(-1)


def _by_chunks(
    logits_NC: Tensor, work: Callable[[Tensor, int], tuple[Tensor, Tensor, Tensor]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Work on some rows at a time; ``work`` gets them and the number of the first."""
    size = max(_AT_ONCE // logits_NC.shape[-1], 1)
    starts = range(0, max(len(logits_NC), 1), size)
    found = [work(logits_NC[start : start + size], start) for start in starts]
    whole_parts = tuple(torch.cat(part) for part in zip(*found, strict=True))
    return cast(tuple[Tensor, Tensor, Tensor], whole_parts)


def _narrow(indices: Tensor, classes: int) -> Tensor:
    """Return indices in as few bytes as hold them; the upper half of 16 bits stands below zero."""
    if classes <= 2**8:
        return indices.to(torch.uint8)
    return indices.to(torch.int16 if classes <= 2**16 else torch.int32)


def _wide(stored: Tensor, classes: int) -> Tensor:
    indices = stored.long()
    return indices & 0xFFFF if stored.dtype == torch.int16 else indices


def _softened(temperature: float) -> str:
    return "" if temperature == 1 else f"@{temperature:g}"
