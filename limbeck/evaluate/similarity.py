"""How alike two models represent the same samples, layer by layer.

Letters: N samples, D features.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from limbeck.errors import InputError
from limbeck.knowledge.model import at_rest, call
from limbeck.knowledge.stages import penultimate, stages
from limbeck.knowledge.taps import Taps

__all__ = ["cka", "layer_similarity", "natural_taps"]


def cka(first: Tensor, second: Tensor) -> float:
    """Return the linear centred kernel alignment of two sets of features, 0 to 1.

    Args:
        first: features (N, ...) of N samples, flattened to (N, D).
        second: features (N, ...) of the same samples.

    Source: Kornblith et al. 2019, arXiv:1905.00414.

    >>> import torch
    >>> round(cka(torch.eye(4), 3 * torch.eye(4)), 6)
    1.0
    """
    one, two = _centred_gram(first), _centred_gram(second)
    scale = one.norm() * two.norm()
    return float((one * two).sum() / scale) if scale > 0 else 0.0


def natural_taps(model: nn.Module, inputs: Any) -> list[str]:
    """Return the places of a model that are worth comparing: its stages, what enters its head, and
    its answer. Stages that yield several tensors, as a T5's blocks do, are left out.
    """
    few = tree_map(lambda tensor: tensor[:2], inputs)
    found = [stage for stage in stages(model, few) if _yields_a_tensor(model, stage, few)]
    with contextlib.suppress(InputError):
        found.append(penultimate(model, few))
    return [*dict.fromkeys(found), "logits"]


def layer_similarity(
    first: tuple[nn.Module, Any], second: tuple[nn.Module, Any]
) -> dict[str, Sequence[Any]]:
    """Return the alignment of every natural place of one model with every one of another.

    A place that yields several rows of each sample, one for each frame say, counts with their mean.

    Args:
        first: a model in eval mode and its inputs for N samples.
        second: another and its inputs for the same samples.

    Returns:
        ``first`` and ``second``, the taps' names, and ``cka``, a row for each of the first's.
    """
    features = [_features(model, inputs) for model, inputs in (first, second)]
    grid = [[cka(a, b) for b in features[1].values()] for a in features[0].values()]
    return {"first": list(features[0]), "second": list(features[1]), "cka": grid}


def _features(model: nn.Module, inputs: Any) -> dict[str, Tensor]:
    taps = Taps(model, natural_taps(model, inputs))
    taps.prepare(tree_map(lambda tensor: tensor[:2], inputs))
    try:
        with at_rest(model):
            found = taps.capture(lambda: call(model, inputs))[1]
    finally:
        taps.remove()
    count = len(found["logits"])
    return {tap: _by_sample(rows, count) for tap, rows in found.items()}


def _by_sample(rows: Tensor, count: int) -> Tensor:
    if len(rows) == count or len(rows) % count:
        return rows
    grouped: Tensor = rows.unflatten(0, (count, -1))
    return grouped.mean(dim=1)


def _yields_a_tensor(model: nn.Module, tap: str, inputs: Any) -> bool:
    taps = Taps(model, [tap])
    try:
        taps.prepare(inputs)
    except InputError:
        return False
    finally:
        taps.remove()
    return True


def _centred_gram(features: Tensor) -> Tensor:
    """Return the (N, N) similarities with the means of rows and columns taken out, float64."""
    flat = features.detach().flatten(1).double()
    flat = flat - flat.mean(dim=0)
    return flat @ flat.T
