"""Ranks are those of a sorted list, and what was had is left out of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMRR, RetrievalNormalizedDCG

import limbeck as lb
from limbeck.errors import InputError
from limbeck.tasks import Comparing, Presenting, Recommendation, Separable, Telling, Tokened
from limbeck.tasks.ranks import Ranks
from limbeck.testing import check_task

ITEMS = 40
TASK = Recommendation(ITEMS, tuple(f"thing {n}" for n in range(ITEMS)))


def histories(count: int = 64) -> tuple[Tensor, dict]:
    """Return scores and a batch in which nobody takes an item twice."""
    generator = torch.Generator().manual_seed(0)
    orders = torch.stack([torch.randperm(ITEMS, generator=generator) for _ in range(count)])
    lengths = torch.randint(1, 7, (count, 1), generator=generator)
    mask = torch.arange(6) < lengths
    ids = orders[:, :6].masked_fill(~mask, ITEMS)
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    batch = {"inputs": inputs, "targets": orders[:, 6], "id": torch.arange(count)}
    scores = torch.randn(count, ITEMS, generator=generator)
    scores[torch.arange(count), batch["targets"]] += 1
    return scores, batch


def test_keeps_the_contract() -> None:
    """Accumulated gradients, the control and distributed metrics rely on it."""
    scores, batch = histories(12)
    check_task(TASK, batch, scores)
    for protocol in (Comparing, Presenting, Separable, Telling, Tokened):
        assert isinstance(TASK, protocol)
    assert lb.tasks.get("recommendation") is Recommendation


def test_metrics_are_those_of_sorted_lists() -> None:
    """A rank off by one, or an item that was had in the list, would change every number."""
    scores, batch = histories()
    meter = TASK.meter()
    for rows in torch.arange(len(scores)).split(10):
        meter.update(scores[rows], lb.data.samples.cut(batch, rows))
    ranks = []
    for row, wanted in enumerate(batch["targets"].tolist()):
        had = set(batch["inputs"]["input_ids"][row].tolist())
        free = [n for n in range(ITEMS) if n not in had]
        ordered = sorted(free, key=lambda n: -float(scores[row, n]))
        ranks.append(1 + ordered.index(wanted))
    rank = np.array(ranks, float)
    found = meter.compute().metrics
    assert found["hit_rate_at_10"] == pytest.approx((rank <= 10).mean())
    assert found["ndcg_at_10"] == pytest.approx(((rank <= 10) / np.log2(rank + 1)).mean())
    assert found["mrr"] == pytest.approx((1 / rank).mean())
    wanted = torch.nn.functional.cross_entropy(scores, batch["targets"])
    assert found["loss"] == pytest.approx(float(wanted))


def test_metrics_are_those_of_torchmetrics_where_nothing_is_left_out() -> None:
    """A second oracle, for what nobody here wrote."""
    scores, batch = histories()
    meter = Recommendation(ITEMS, exclude_seen=False).meter()
    meter.update(scores, batch)
    found = meter.compute().metrics
    wanted = torch.nn.functional.one_hot(batch["targets"], ITEMS).flatten()
    lists = torch.arange(len(scores)).repeat_interleave(ITEMS)
    shares = scores.softmax(1)  # it takes what is not positive for what was not found
    for name, metric in (
        ("hit_rate_at_10", RetrievalHitRate(top_k=10)),
        ("ndcg_at_10", RetrievalNormalizedDCG(top_k=10)),
        ("mrr", RetrievalMRR()),
    ):
        theirs = metric(shares.flatten(), wanted, indexes=lists)
        assert found[name] == pytest.approx(float(theirs), rel=1e-5), name


def test_equal_scores_are_worth_the_mean_over_their_orders() -> None:
    """A model that says nothing would be the best of all, or the worst."""
    ranks = Ranks(most=2)
    ranks.update(torch.tensor([[5.0, 1, 1, 1, 0]]), torch.tensor([2]))
    hits, gains, reciprocals, count = ranks.compute().tolist()
    assert count == 1
    assert hits == pytest.approx(1 / 3)
    assert gains == pytest.approx((1 / np.log2(3)) / 3)
    assert reciprocals == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3)


def test_an_item_that_is_taken_again_counts_as_missed_unless_said_otherwise() -> None:
    """A list without what was had could not hold it; to put it back would tell the answer."""
    batch = {
        "inputs": {"input_ids": torch.tensor([[1]]), "attention_mask": torch.ones(1, 1)},
        "seen": torch.tensor([[0, 1]]),
        "targets": torch.tensor([0]),
    }
    scores = torch.tensor([[9.0, 1.0, 0.0]])
    for exclude, wanted in ((True, 0.0), (False, 1.0)):
        meter = Recommendation(3, exclude_seen=exclude).meter()
        meter.update(scores, batch)
        assert meter.compute().metrics["mrr"] == wanted


def test_answers_are_lists_of_names() -> None:
    """A report would tell a shop the numbers of articles, or what a customer has already."""
    batch = {
        "inputs": {"input_ids": torch.tensor([[39, 40]]), "attention_mask": torch.tensor([[1, 0]])},
        "targets": torch.tensor([30]),
    }
    scores = torch.arange(float(ITEMS)).unsqueeze(0)
    told = TASK.told(scores, batch, 0)
    assert told["answer"] == "thing 38"
    assert [name for name, _ in told["shares"]] == [f"thing {n}" for n in range(38, 33, -1)]
    assert (told["right"], told["note"]) == (True, "right one at 9")
    assert TASK.wanted(batch, 0) == "thing 30"
    other = scores.clone()
    other[0, :5] = 100.0  # five others are now first
    same, divergence = TASK.alike(other, scores, batch)
    assert float(same) == pytest.approx(0.5)
    assert float(TASK.apart(other, scores, batch)) == pytest.approx(0.5)
    p, q = (x.double().softmax(1) for x in (scores, other))
    assert float(divergence) == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-4)


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        ([[0, 41]], [[1, 1]], "sample 0 of the batch has item 41"),
        ([[0, 40]], [[1, 1]], "has item 40 in its history"),
        ([[40, 40]], [[0, 0]], "has no history"),
    ],
)
def test_wrong_histories_are_refused(
    ids: list[list[int]], mask: list[list[int]], message: str
) -> None:
    """Foreign memory would be read, or a model be asked about nothing."""
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    with pytest.raises(InputError, match=message):
        TASK.check({"inputs": inputs, "targets": torch.tensor([1])})
