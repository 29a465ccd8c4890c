"""Maps of what two models make of the same samples, laid over each other.

Letters: N samples, B samples in a batch, C classes, D features.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from limbeck.errors import InputError
from limbeck.knowledge.model import at_rest, call
from limbeck.knowledge.stages import penultimate
from limbeck.knowledge.taps import Taps

__all__ = ["Aligned", "aligned", "last_features"]

_MOST = 32  # principal components that are laid over each other
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Aligned:
    """Two sets of features of the same N samples, seen in one plane.

    Attributes:
        first: (N, 2), along the first two principal components.
        second: (N, 2), along the same directions once its features are turned and mirrored to come
            as near to the first's as they can. Both are centred, and equally wide before the cut.
        shares: of the variance of each set of features, what the plane shows, 0 to 1.
        disparity: what no turn, mirror and scale takes away, 0 (the same) to 1 (nothing in common).
    """

    first: _Floats
    second: _Floats
    shares: tuple[float, float]
    disparity: float


def aligned(first: Tensor, second: Tensor) -> Aligned | None:
    """Return two sets of features laid over each other, in the plane that shows most of the first.

    Both are cut to their first 32 principal components. A map of each one's own first two would
    show two planes that need not have anything to do with each other.

    Args:
        first: (N, D) features.
        second: (N, D') features of the same samples.

    Returns:
        The maps; ``None`` if there are fewer than three samples, or all features of one are equal.

    Source: Procrustes analysis, Gower 1975, "Generalized Procrustes Analysis".

    >>> corners = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
    >>> turned = aligned(corners, corners @ torch.tensor([[0.0, 3.0], [-3.0, 0.0]]))
    >>> round(abs(turned.disparity), 6), [round(share, 6) for share in turned.shares]
    (0.0, [1.0, 1.0])
    """
    from scipy.spatial import procrustes

    if len(first) < 3:
        return None
    (one, kept), (other, other_kept) = (_components(features) for features in (first, second))
    if not (np.ptp(one) > 0 and np.ptp(other) > 0):
        return None
    *found, disparity = procrustes(one, other)
    maps = [each / max(float(np.linalg.norm(each)), np.finfo(float).tiny) for each in found]
    shares = [float(np.square(each[:, :2]).sum()) for each in maps]
    told = (shares[0] * kept, shares[1] * other_kept)
    return Aligned(maps[0][:, :2], maps[1][:, :2], told, float(disparity))


def last_features(
    model: nn.Module, batches: Iterable[Any], first: Callable[[Any], Any] | None = None
) -> tuple[str, Tensor, Tensor] | None:
    """Return what enters the last linear layer of a model, and its answers.

    Features of several places or tokens count with their mean.

    Args:
        model: is run in eval mode.
        batches: inputs of B samples each.
        first: what happens to inputs first.

    Returns:
        The tap, features (N, D) and logits (N, C), both float32 on the CPU; ``None`` if the model
        has no linear layer that runs once for each sample.
    """
    found: dict[str, list[Tensor]] = {"features": [], "logits": []}
    taps = None
    try:
        for inputs in batches:
            given = inputs if first is None else first(inputs)
            if taps is None:
                few = tree_map(lambda t: t[:2] if isinstance(t, Tensor) else t, given)
                with contextlib.suppress(InputError):
                    taps = Taps(model, [penultimate(model, few), "logits"])
                    taps.prepare(few)
                if taps is None or not taps.resolved:
                    return None
            with at_rest(model):
                captured = taps.capture(partial(call, model, given))[1]
            features, logits = captured.values()
            if len(features) != len(logits):
                return None
            found["features"].append(_flat(features).float().cpu())
            found["logits"].append(logits.float().cpu())
    finally:
        if taps is not None:
            taps.remove()
    if taps is None:
        return None
    return taps.names[0], torch.cat(found["features"]), torch.cat(found["logits"])


def _flat(features: Tensor) -> Tensor:
    """Return features (B, D) of (B, D), (B, T, D) or (B, D, H, W)."""
    if features.ndim == 3:
        return features.mean(1)
    return features.flatten(2).mean(2) if features.ndim > 3 else features


def _components(features: Tensor) -> tuple[_Floats, float]:
    """Return principal components, (N, 32), zeros where there are fewer, and their share."""
    from sklearn.decomposition import PCA

    whole = features.double().numpy()
    count = min(_MOST, *whole.shape)
    if not np.ptp(whole, axis=0).any():
        return np.zeros((len(whole), _MOST)), 0.0
    fitted = PCA(count, svd_solver="full").fit(whole)
    found: _Floats = fitted.transform(whole)
    share = float(fitted.explained_variance_ratio_.sum())
    return np.pad(found, ((0, 0), (0, _MOST - count))), share
