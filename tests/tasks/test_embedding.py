"""Embeddings: neighbours against a count by hand, the contrastive loss against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck.errors import InputError
from limbeck.evaluate import evaluate
from limbeck.tasks import Comparing, Embedding


def by_hand(embeddings: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Precision at 1 and mean average precision at R, one query after another."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    firsts, averages = [], []
    for query in range(len(labels)):
        others = [n for n in range(len(labels)) if n != query]
        wanted = sum(labels[n] == labels[query] for n in others)
        if labels[query] < 0 or not wanted:
            continue
        ranked = sorted(others, key=lambda n: -(unit[n] @ unit[query]))
        hits = [labels[n] == labels[query] for n in ranked[:wanted]]
        firsts.append(labels[ranked[0]] == labels[query])
        precisions = [sum(hits[: i + 1]) / (i + 1) for i in range(wanted) if hits[i]]
        averages.append(sum(precisions) / wanted)
    return float(np.mean(firsts)), float(np.mean(averages))


@pytest.mark.parametrize("parts", [1, 3])
def test_neighbours_as_counted_by_hand(parts: int) -> None:
    """Off by one, the sample itself would be its nearest, and everything right."""
    embeddings, labels = torch.randn(60, 5), torch.randint(-1, 7, (60,))
    meter = Embedding().meter()
    for found, told in zip(embeddings.chunk(parts), labels.chunk(parts), strict=True):
        meter.update(found, {"inputs": found, "targets": told})
    metrics = meter.compute().metrics
    first, mean = by_hand(embeddings.double().numpy(), labels.numpy())
    assert metrics["precision_at_1"] == pytest.approx(first)
    assert metrics["map_at_r"] == pytest.approx(mean)


def test_the_label_loss_as_numpy_computes_it() -> None:
    embeddings, labels = torch.randn(7, 4), torch.tensor([0, 1, 0, 2, 1, 0, -1])
    unit = embeddings.double().numpy()
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    losses = []
    for i in range(7):
        others = [n for n in range(7) if n != i]
        total = sum(np.exp(unit[i] @ unit[n] / 0.2) for n in others)
        positives = [n for n in others if labels[n] == labels[i] >= 0]
        logs = [np.log(np.exp(unit[i] @ unit[p] / 0.2) / total) for p in positives]
        losses.append(-np.mean(logs) if logs else 0.0)
    loss = Embedding(temperature=0.2).label_loss(embeddings, {"targets": labels})
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-5)


def test_an_encoder_turned_in_space_agrees_with_itself() -> None:
    """Agreement by the largest number would depend on the axes, which mean nothing."""
    task, embeddings = Embedding(), torch.randn(12, 6)
    turned = embeddings @ torch.linalg.qr(torch.randn(6, 6)).Q * 3
    assert isinstance(task, Comparing)
    batch = (embeddings, torch.arange(12) % 3)
    found = evaluate(
        {"turned": lambda _: turned}, [batch], task, reference=lambda batch: batch["inputs"]
    )
    assert found["turned"].fidelity["agreement"] == 1
    assert found["turned"].fidelity["kl"] == pytest.approx(0, abs=1e-6)


def test_wrong_input() -> None:
    meter = Embedding().meter()
    meter.update(torch.randn(3, 2), {"targets": torch.arange(3)})
    with pytest.raises(InputError, match="no two samples had the same label"):
        meter.compute()
    with pytest.raises(InputError, match=r"the student gives \(4,\)"):
        Embedding().check_logits(torch.randn(4), "student")
