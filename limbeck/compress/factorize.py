"""Making a trained reader smaller by factorizing its embeddings: a table of low rank.

Letters: V tokens, R features of the new table, E of the old one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.knowledge.model import call, logits_of
from limbeck.students.low_rank import LowRankEmbedding, Ranks, principal, with_ranks
from limbeck.students.zoo._parts import scaled

__all__ = ["factorize"]


class _SeenError(Exception):
    """The tokens were seen: what follows need not be computed."""


@torch.no_grad()
def factorize(
    model: nn.Module, batches: Iterable[Any], *, embeddings: float
) -> tuple[nn.Module, Ranks]:
    """Return a copy of a trained network whose embeddings are of low rank, and that rank.

    The table (V, E) becomes a table (V, R) and a linear layer (R, E), the best approximation by
    squared distances in which each token counts as often as it stands in the samples, and once
    more. The rest keeps its weights: train the copy to recover.

    Args:
        model: its first ``nn.Embedding`` is factorized; it is not changed itself.
        batches: samples as it is called with; the first batch is tried on the result.
        embeddings: the fraction of the E features to keep, above 0 and below 1.

    Raises:
        InputError: ``embeddings`` lies outside (0, 1), or saves nothing; the network has no
            embeddings, or uses them elsewhere too, as a language model's last layer does.

    Source: Chen et al. 2018, "GroupReduce", arXiv:1806.06950: low rank weighted by how often words
    occur (there in groups, here in one). Best by squared distances: Eckart, Young 1936.

    >>> from limbeck.students import zoo
    >>> model = zoo.build("textcnn", vocab=100, width=8, channels=4, classes=2)
    >>> some = {"input_ids": torch.tensor([[5, 6]]), "attention_mask": torch.ones(1, 2).long()}
    >>> smaller, ranks = factorize(model, [some], embeddings=0.5)
    >>> ranks, smaller.embedding.table
    ({'embedding': 4}, Embedding(100, 4, padding_idx=0))
    """
    if not 0 < embeddings < 1:
        raise InputError(f"embeddings is {embeddings}", expected="a fraction above 0 and below 1")
    path, table = _table(model)
    tokens, features = table.weight.shape
    rank = scaled(features, embeddings)
    if rank * (tokens + features) >= tokens * features:
        raise InputError(
            f"embeddings of {tokens:,} tokens with {rank} of {features} features",
            expected="fewer parameters than the whole table has",
            remedy="Keep a smaller fraction, or leave embeddings as they are.",
        )
    made = with_ranks(copy.deepcopy(model), {path: rank})
    counts, first = _counts(model, table, batches)
    mean, directions = principal(table.weight, rank, counts + 1)
    low = made.get_submodule(path)
    assert isinstance(low, LowRankEmbedding)
    low.table.weight.copy_((table.weight - mean) @ directions)
    low.widen.weight.copy_(directions)
    low.widen.bias.copy_(mean)
    _check(made, first, path)
    return made, {path: rank}


def _table(model: nn.Module) -> tuple[str, nn.Embedding]:
    named = model.named_modules()
    found = next((each for each in named if isinstance(each[1], nn.Embedding)), None)
    if found is None:
        raise InputError(
            f"{type(model).__name__} has no embeddings", expected="a network that reads tokens"
        )
    path, table = found
    shared = [
        name for name, weight in model.named_parameters(remove_duplicate=False)
        if weight is table.weight and name != f"{path}.weight"
    ]  # fmt: skip
    if shared:
        raise InputError(
            f"the embeddings {path} of {type(model).__name__} are its {shared[0]} too",
            expected="embeddings that are used once",
        )
    return path, table


def _counts(model: nn.Module, table: nn.Embedding, batches: Iterable[Any]) -> tuple[Tensor, Any]:
    """Return how often each token is read, padding left out, and the first batch."""
    counts = torch.zeros(table.num_embeddings, dtype=torch.float64)
    first = None

    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        counts.add_(torch.bincount(inputs[0].flatten().cpu(), minlength=len(counts)))
        raise _SeenError

    hook = table.register_forward_pre_hook(count)
    try:
        for batch in batches:
            first = batch if first is None else first
            try:
                call(model, batch)
            except _SeenError:
                continue
    finally:
        hook.remove()
    if table.padding_idx is not None:
        counts[table.padding_idx] = 0
    return counts, first


def _check(made: nn.Module, batch: Any, path: str) -> None:
    """Refuse a network that needs more of its embeddings than what they return."""
    try:
        logits_of(call(made.eval(), batch))
    except AttributeError as error:
        raise InputError(
            f"{type(made).__name__} cannot do without the table {path}: {error}",
            expected="a network that only reads its embeddings",
        ) from error
