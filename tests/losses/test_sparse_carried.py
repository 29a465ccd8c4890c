"""A part of an answer is carried like a tensor: cut, moved, sent between processes, distilled."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kept import drawn, draws, top
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, Dataset

import limbeck as lb
from limbeck.errors import InputError
from limbeck.losses import SparseLogits


def test_it_is_carried_like_a_tensor() -> None:
    """Rows that were cut from one part and not from another would mix samples."""
    known = top(drawn(4, 5, 9), 3)
    assert (known.shape, known.ndim, len(known)) == ((4, 5, 9), 3, 4)
    assert repr(known) == "SparseLogits((4, 5, 9), top3)"
    assert [leaf.shape for leaf in tree_leaves(known)] == [(4, 5, 3), (4, 5, 3), (4, 5)]
    assert [len(part) for part in known.flatten(0, 1).split(8)] == [8, 8, 4]
    assert [len(part) for part in known[:0].split(8)] == [0]
    few = tree_map(lambda tensor: tensor[:2], {"logits": known})["logits"]
    assert isinstance(few, SparseLogits)
    assert torch.equal(few.dense(), known[:2].dense())
    assert known.to(torch.device("meta"), non_blocking=True).device.type == "meta"
    back = pickle.loads(pickle.dumps(known))
    assert (back.classes, back.temperature) == (9, 1.0)
    assert all(map(torch.equal, tree_leaves(back), tree_leaves(known)))


def test_dense_view() -> None:
    """What is looked at must add up to one, and hold what is kept."""
    logits = drawn(3, 9)
    for known in (top(logits, 4, 2.0), top(logits, 9), draws(logits, 6)):
        assert torch.allclose(known.dense().exp().sum(-1), torch.ones(3, dtype=torch.float64))
    assert torch.allclose(top(logits, 9).dense(), F.log_softmax(logits, -1))
    found = top(logits, 4).dense().topk(4)
    assert torch.equal(found.indices, logits.topk(4).indices)


class _Answers(Dataset[Any]):
    """Batches that hold a part of an answer."""

    def __len__(self) -> int:
        return 6

    def __getitems__(self, rows: list[int]) -> dict[str, Any]:
        return {"id": torch.tensor(rows), "logits": top(drawn(6, 9), 3)[rows]}


def test_workers_can_send_it() -> None:
    """A loader's workers send batches between processes."""
    loader = DataLoader(_Answers(), batch_size=2, num_workers=1, collate_fn=lambda batch: batch)
    for batch in loader:
        expected = top(drawn(6, 9), 3)[batch["id"]]
        assert isinstance(batch["logits"], SparseLogits)
        assert torch.equal(batch["logits"].dense(), expected.dense())


class _Kept:
    """A teacher of whose answers a part is kept."""

    def __init__(self, module: nn.Module, keep: Callable[[Tensor], Any]) -> None:
        self.module, self.keep = module, keep

    def knowledge(self, batch: Any, taps: Any) -> lb.Knowledge:
        with torch.no_grad():
            known = self.keep(self.module(batch["inputs"]))
        return lb.Knowledge({"logits": known}, provenance="a store")

    def fingerprint(self) -> str:
        return "kept"


def test_distiller_takes_it() -> None:
    """Checks before training and the training step go through, with the dense loss."""
    torch.manual_seed(0)
    module, student = nn.Linear(4, 9), nn.Linear(4, 9)
    batch = {"inputs": torch.randn(8, 4), "targets": torch.randint(9, (8,))}
    task, method = lb.tasks.Classification(9), lb.methods.kd(temperature=4.0)

    def stepped(keep: Callable[[Tensor], Any]) -> tuple[Tensor, Tensor]:
        student.zero_grad()
        distiller = lb.Distiller(_Kept(module, keep), student, task=task, method=method)
        out = distiller.prepare(batch)(batch)
        out.loss.backward()
        assert student.weight.grad is not None
        return out.loss.detach(), student.weight.grad.clone()

    dense, part = stepped(lambda x: x), stepped(lambda x: top(x, 9))
    assert all(map(torch.allclose, dense, part))
    assert not torch.isclose(stepped(lambda x: top(x, 3, 4.0))[0], dense[0])
    with pytest.raises(InputError, match='"top3@4"'):
        lb.Distiller(_Kept(module, lambda x: top(x, 3)), student, task=task, method=method).prepare(
            batch
        )
    with pytest.raises(InputError, match=r"\(2, 7\)"):
        lb.Distiller(
            _Kept(nn.Linear(4, 7), lambda x: top(x, 3, 4.0)), student, task=task, method=method
        ).prepare(batch)


def test_knowledge_carries_it() -> None:
    """Moved or cut with the rest, else the loss meets two devices or other rows."""
    known = lb.Knowledge({"logits": top(drawn(4, 9), 3), "layer": drawn(4, 2)}, torch.arange(4))
    assert repr(known) == "Knowledge(logits (4, 9) top3, layer (4, 2) float64)"
    assert known.shapes == {"logits": (4, 9), "layer": (4, 2)}
    moved = known.to("meta")
    assert moved["logits"].device.type == moved["layer"].device.type == "meta"
    assert not known.detached()["logits"].log_p.requires_grad
