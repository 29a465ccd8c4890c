"""Maps of features, laid over each other."""

from __future__ import annotations

import torch
from torch import nn

from limbeck.evaluate import aligned, last_features


def test_turned_features_lie_on_each_other() -> None:
    """Without it, equal models could look different, and different ones alike."""
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(80, 5, generator=draw) * torch.tensor([5.0, 3.0, 1.0, 0.5, 0.2])
    turn = torch.linalg.qr(torch.randn(9, 9, generator=draw))[0][:5]
    same = aligned(features, 7 * features @ turn + 2)
    assert same is not None
    assert abs(same.first - same.second).max() < 1e-6
    assert same.disparity < 1e-9
    variances = features.var(0, correction=0)
    assert abs(same.shares[0] - float(variances[:2].sum() / variances.sum())) < 0.02
    assert abs(same.shares[0] - same.shares[1]) < 1e-6
    other = aligned(features, torch.randn(80, 5, generator=draw))
    assert other is not None
    assert other.disparity > 0.5
    assert aligned(features, torch.ones(80, 3)) is None
    assert aligned(features[:2], features[:2]) is None


def test_features_are_what_enters_the_last_layer() -> None:
    """Without it, a map could show the inputs, or the answers."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    x = torch.randn(10, 2, 2)
    found = last_features(model, x.split(4))
    assert found is not None
    tap, features, logits = found
    assert tap == "3:input"
    assert torch.allclose(features, model[:3](x))
    assert torch.allclose(logits, model(x))
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert last_features(nn.Sequential(nn.Conv1d(2, 3, 1)), x.split(4)) is None
