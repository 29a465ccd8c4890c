"""What methods compare token by token must not count padding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import limbeck as lb
from limbeck.students import zoo
from limbeck.tasks import Classification, Reading
from limbeck.testing import check_task


def _models() -> tuple[nn.Module, nn.Module]:
    sizes = {"vocab": 30, "width": 8, "heads": 2, "positions": 16, "classes": 2, "dropout": 0.0}
    return zoo.build("transformer", depth=4, **sizes), zoo.build("transformer", depth=2, **sizes)


def _batch(width: int) -> dict[str, object]:
    ids = torch.tensor([[4, 5, 6], [7, 8, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    pad = (0, width - 3)
    inputs = {
        "input_ids": nn.functional.pad(ids, pad), "attention_mask": nn.functional.pad(mask, pad),
    }  # fmt: skip
    return {"inputs": inputs, "targets": torch.tensor([0, 1])}


@pytest.mark.parametrize(
    "method",
    [
        lb.methods.distilbert(),
        lb.methods.pkd(blocks=(2, 4)),
        lb.methods.minilm(
            heads=2,
            student=[f"blocks.1.{part}" for part in ("query", "key", "value")],
            teacher=[f"blocks.3.{part}" for part in ("query", "key", "value")],
        ),
        lb.methods.kd() + lb.methods.fitnets(student="stage[-1]", teacher="stage[-1]"),
    ],
    ids=["distilbert", "pkd", "minilm", "fitnets"],
)
def test_padding_adds_nothing_to_a_loss(method: lb.methods.Method) -> None:
    """Without it, a student would learn what its teacher makes of padding, most of a batch."""
    teacher, student = _models()
    distiller = lb.Distiller(teacher, student, task=Classification(2), method=method).eval()
    with torch.no_grad():
        short, long = distiller(_batch(3)), distiller(_batch(9))
    for name, value in short.terms.items():
        torch.testing.assert_close(long.terms[name], value, msg=name)


class Pooled(nn.Module):
    """A reader whose only feature is one for each text."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = zoo.build("bag", vocab=30, width=8, classes=2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found: Tensor = self.bag(input_ids, attention_mask)
        return found


def test_features_of_whole_texts_need_no_mask() -> None:
    """Without it, a mask of tokens would be laid over samples."""
    method = lb.Match("bag.embedding", "bag.embedding", lb.losses.hint)
    distiller = lb.Distiller(Pooled(), Pooled(), task=Classification(2), method=method)
    assert distiller(_batch(5)).loss.isfinite()


def test_a_teacher_learns_from_a_field_of_its_own() -> None:
    """Without it, it would be trained on the student's tokens."""
    task = Reading(Classification(2), "theirs")
    batch = {
        "inputs": torch.zeros(4, 1),
        "theirs": torch.eye(4),
        "targets": torch.tensor([0, 1, 1, 0]),
    }
    check_task(task, batch, torch.randn(4, 2))
    distiller = lb.Distiller(None, nn.Linear(4, 2), task=task)
    assert distiller(batch).loss.isfinite()
    with pytest.raises(lb.InputError, match="field of the samples: 'theirs' is not known"):
        distiller({name: batch[name] for name in ("inputs", "targets")})
