"""Embeddings of low rank: the best there are, by what is read, and models that come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck.compress import factorize
from limbeck.errors import InputError
from limbeck.knowledge.model import call
from limbeck.students import Blueprint, zoo

ARGS: dict[str, Any] = {"vocab": 60, "width": 12, "channels": 4, "classes": 2}


def batch(tokens: list[list[int]]) -> dict[str, torch.Tensor]:
    ids = torch.tensor(tokens)
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def test_the_table_is_the_best_of_its_rank_by_what_is_read() -> None:
    """Without it, frequent tokens would be as blurred as those that nobody writes."""
    torch.manual_seed(0)
    model = zoo.build("textcnn", **ARGS).eval()
    batches = [batch([[5, 5, 7, 0]]), batch([[5, 9, 0, 0]])]
    smaller, ranks = factorize(model, batches, embeddings=0.25)
    assert ranks == {"embedding": 3}
    rows = model.embedding.weight.detach().double().numpy()
    counts = np.ones(60)
    counts[[5, 7, 9]] += [3, 1, 1]  # padding is not read
    mean = (counts[:, None] * rows).sum(0) / counts.sum()
    left, strengths, right = np.linalg.svd(
        np.sqrt(counts)[:, None] * (rows - mean), full_matrices=False
    )
    best = (left[:, :3] * strengths[:3]) @ right[:3] / np.sqrt(counts)[:, None] + mean
    with torch.no_grad():
        found = smaller.embedding(torch.arange(60)).numpy()
    np.testing.assert_allclose(found, best, atol=1e-5)
    assert torch.equal(smaller.classifier.weight, model.classifier.weight)
    assert isinstance(model.embedding, nn.Embedding)


def test_a_table_that_has_that_rank_loses_nothing_and_comes_back(tmp_path: Path) -> None:
    """Without it, the network would change more than its rank forces, or not be loaded again."""
    model = zoo.build("textcnn", **ARGS).eval()
    with torch.no_grad():
        model.embedding.weight.copy_(torch.randn(60, 3) @ torch.randn(3, 12))
    some = batch([[5, 6, 7, 8], [9, 10, 0, 0]])
    smaller, ranks = factorize(model, [some], embeddings=0.25)
    with torch.no_grad():
        assert torch.allclose(call(smaller, some), call(model, some), atol=1e-4)
    lb.students.save(tmp_path, smaller, Blueprint("textcnn", ARGS, ranks=ranks), {})
    loaded = lb.students.load(tmp_path).get_submodule("model")
    with torch.no_grad():
        assert torch.equal(call(loaded, some), call(smaller, some))


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 8)
        self.last = nn.Linear(8, 50, bias=False)
        self.last.weight = self.words.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.last(self.words(tokens))


class _Looks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 8)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.words.weight[tokens]


@pytest.mark.parametrize(
    ("model", "share", "message"),
    [
        (nn.Linear(4, 2), 0.5, "has no embeddings"),
        (nn.Sequential(nn.Embedding(50, 8)), 1.0, "above 0 and below 1"),
        (nn.Sequential(nn.Embedding(4, 4)), 0.75, "fewer parameters than the whole"),
        (_Tied(), 0.5, "are its last.weight too"),
        (_Looks(), 0.5, "cannot do without the table words"),
    ],
)
def test_what_cannot_be_factorized_is_refused(model: nn.Module, share: float, message: str) -> None:
    """Without it, a model could be larger than before, or fail while it learns."""
    with pytest.raises(InputError, match=message):
        factorize(model, [torch.tensor([[1, 2]])], embeddings=share)
