"""Searching the sequence that a model thinks likeliest: greedily, or with several beams.

Letters: B samples, K beams, T tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Stepping", "beams", "greedy"]


class Stepping(Protocol):
    """A decoder at work: it remembers what it has read."""

    def step(self, tokens: Tensor) -> Tensor:
        """Return the logits (R, V) after one more token for each of R rows, (R,)."""

    def reorder(self, rows: Tensor) -> None:
        """Continue with these rows of what it remembers; a row may be taken several times."""


def greedy(decoder: Stepping, start: Tensor, *, end: int, padding: int, most: int) -> Tensor:
    """Return the likeliest token at each step, until all rows have ended.

    Args:
        decoder: remembers B rows.
        start: the first token of each, (B,) int64.
        end: the token that ends a row; it is returned too.
        padding: what stands after it.
        most: so many tokens after the first one at most.

    Returns:
        (B, T) int64, T at most 1 + ``most``.
    """
    rows, ended = [start], torch.zeros_like(start, dtype=torch.bool)
    for _ in range(most):
        following = decoder.step(rows[-1]).argmax(dim=1).masked_fill(ended, padding)
        rows.append(following)
        ended = ended | (following == end)
        if bool(ended.all()):
            break
    return torch.stack(rows, dim=1)


def beams(
    decoder: Stepping,
    start: Tensor,
    *,
    count: int,
    end: int,
    padding: int,
    most: int,
    length_penalty: float,
) -> Tensor:
    r"""Return the best sequence that a search with K beams finds.

    A sequence's score is the sum of its tokens' log-probabilities, divided by (number of tokens,
    the end among them) to the power of ``length_penalty``. A sample is done when K of its
    candidates have ended; with K = 1 the result is that of :func:`greedy`.

    Args:
        decoder: remembers B rows.
        start: the first token of each, (B,) int64.
        count: K.
        end: the token that ends a sequence.
        padding: what stands after it.
        most: so many tokens after the first one at most.
        length_penalty: 0 compares plain sums, 1 means; larger favours longer sequences.

    Returns:
        (B, T) int64, T at most 1 + ``most``.
    """
    samples, device = len(start), start.device
    decoder.reorder(torch.arange(samples, device=device).repeat_interleave(count))
    first = torch.arange(samples, device=device).unsqueeze(1) * count
    running = start.repeat_interleave(count).view(samples, count, 1)
    scores = torch.full((samples, count), -torch.inf, device=device)
    scores[:, 0] = 0.0  # all beams begin alike: only one may count
    kept = torch.full((samples, count, 1 + most), padding, device=device)
    kept_scores = torch.full_like(scores, -torch.inf)
    for length in range(1, most + 1):
        logits = decoder.step(running[..., -1].flatten()).float()
        likely = logits.log_softmax(dim=1).view(samples, count, -1)
        totals, places = (scores.unsqueeze(2) + likely).flatten(1).topk(2 * count)
        beam, token = places // likely.shape[2], places % likely.shape[2]
        ended = token == end
        done = kept_scores.isfinite().all(dim=1, keepdim=True)
        # Of the 2K best, K at least go on. Only the K best may end, or any ending would be kept.
        among = ended[:, :count] & ~done
        final = (totals[:, :count] / length**length_penalty).masked_fill(~among, -torch.inf)
        whole = torch.cat((_taken(running, beam[:, :count]), token[:, :count, None]), dim=2)
        kept, kept_scores = _best(kept, kept_scores, whole, final, padding)
        rank = ended.long().argsort(dim=1, stable=True)[:, :count]
        beam, token, scores = beam.gather(1, rank), token.gather(1, rank), totals.gather(1, rank)
        running = torch.cat((_taken(running, beam), token.unsqueeze(2)), dim=2)
        if bool(kept_scores.isfinite().all()):
            break
        decoder.reorder((first + beam).flatten())
    # What has not ended by now competes with what has, where fewer than K have.
    open_ = ~kept_scores.isfinite().all(dim=1, keepdim=True)
    final = (scores / (running.shape[2] - 1) ** length_penalty).masked_fill(~open_, -torch.inf)
    kept, _ = _best(kept, kept_scores, running, final, padding)
    best = kept[:, 0]
    filled = (best != padding).any(dim=0).nonzero()
    return best[:, : int(filled.max()) + 1] if len(filled) else best[:, :1]


def _taken(rows: Tensor, beam: Tensor) -> Tensor:
    """Return the rows (B, K, T) that beams (B, K) go on from."""
    return rows.gather(1, beam.unsqueeze(2).expand(-1, -1, rows.shape[2]))


def _best(
    kept: Tensor, scores: Tensor, more: Tensor, theirs: Tensor, padding: int
) -> tuple[Tensor, Tensor]:
    """Return the K best of what is kept, (B, K, 1 + most), and of shorter rows, made as long."""
    filled = F.pad(more, (0, kept.shape[2] - more.shape[2]), value=padding)
    best, rank = torch.cat((scores, theirs), dim=1).topk(kept.shape[1])
    return _taken(torch.cat((kept, filled), dim=1), rank), best
