"""Recommenders: what padding must not change, what order means, and what a table is for."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.students import shrink, zoo

ITEMS = 50
NAMES = ("fism", "gru4rec", "sasrec")


def _model(name: str, **args: Any) -> nn.Module:
    torch.manual_seed(0)
    model = zoo.build(name, **{"width": 8, "classes": ITEMS} | args)
    for parameter in model.parameters():  # embeddings begin so small that all is nearly equal
        nn.init.normal_(parameter, std=0.5)
    with torch.no_grad():
        model.items.weight[ITEMS].zero_()  # the padding stays so
    return model.eval()


def _batch(lengths: list[int], width: int) -> dict[str, Tensor]:
    mask = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
    ids = torch.randint(ITEMS, (len(lengths), width)).masked_fill(~mask, ITEMS)
    return {"input_ids": ids, "attention_mask": mask.long()}


@pytest.mark.parametrize("name", NAMES)
def test_padding_and_neighbours_change_nothing(name: str) -> None:
    """Without it, what a person is recommended would depend on who else is asked about."""
    model, batch = _model(name), _batch([7, 3, 1], 7)
    with torch.no_grad():
        together = model(**batch)
        assert together.shape == (3, ITEMS)
        for row, length in enumerate((7, 3, 1)):
            alone = model(**{k: t[row : row + 1, :length] for k, t in batch.items()})
            torch.testing.assert_close(alone[0], together[row])


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_learns_and_the_config_builds_it_again(name: str) -> None:
    """Without it, a part could be left out of the forward pass, or of the blueprint."""
    model = _model(name, dropout=0.0).train()
    model(**_batch([5, 6, 2, 4], 6)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    config = json.loads(json.dumps(model.config))
    again = zoo.build(config["build"], **config["args"])
    assert {k: t.shape for k, t in again.state_dict().items()} == {
        k: t.shape for k, t in model.state_dict().items()
    }


@pytest.mark.parametrize(
    ("name", "ordered"), [("fism", False), ("gru4rec", True), ("sasrec", True)]
)
def test_order_counts_where_it_should(name: str, ordered: bool) -> None:
    """Without it, attention without places would pass for a reader of sequences."""
    model, batch = _model(name), _batch([5], 5)
    turned = batch | {"input_ids": batch["input_ids"].flip(1)}
    with torch.no_grad():
        assert torch.allclose(model(**batch), model(**turned), atol=1e-5) != ordered


def test_scores_are_those_of_the_formula() -> None:
    """Without it, an item's score could come from another item's embedding."""
    model, batch = _model("fism"), _batch([4, 2], 4)
    table, w, b = model.items.weight, model.projection.weight, model.items.bias
    with torch.no_grad():
        found = model(**batch)
        for row, length in enumerate((4, 2)):
            x = sum(table[n] for n in batch["input_ids"][row, :length].tolist()) / length**0.5
            wanted = torch.stack([b[i] + table[i] @ (w @ x) for i in range(ITEMS)])
            torch.testing.assert_close(found[row], wanted)


def test_an_item_looks_at_those_before_it_alone() -> None:
    """Without it, the causal mask could be missing, or look the other way."""
    model, batch = _model("sasrec", depth=2), _batch([6, 6], 6)
    states: list[Tensor] = []
    model.blocks[-1].register_forward_hook(lambda _, __, out: states.append(out))
    changed = batch | {"input_ids": batch["input_ids"].clone()}
    changed["input_ids"][:, 3] = (changed["input_ids"][:, 3] + 1) % ITEMS
    with torch.no_grad():
        model(**batch)
        model(**changed)
    same = torch.isclose(states[0], states[1], atol=1e-6).all(dim=2)
    assert same[:, :3].all()
    assert not same[:, 3:].any()


def test_histories_longer_than_there_are_places_are_refused() -> None:
    """Without it, an index error would come from deep inside."""
    with pytest.raises(InputError, match="histories of 7 items"):
        _model("sasrec", positions=6)(**_batch([7], 7))
    with pytest.raises(InputError, match="heads divide"):
        zoo.build("sasrec", width=8, heads=3, classes=5)


@pytest.mark.parametrize(
    ("name", "args", "wanted"),
    [
        ("fism", {}, {"width": 2}),
        ("gru4rec", {"layers": 2, "hidden": 12}, {"width": 2, "layers": 1, "hidden": 3}),
        ("sasrec", {"depth": 3}, {"width": 2, "depth": 2, "heads": 1}),
        ("sasrec", {"heads": 4}, {"width": 2, "depth": 1, "heads": 1}),
    ],
)
def test_they_shrink(name: str, args: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Without it, a student could not be derived from its teacher, or keep the teacher's table."""
    small = shrink(_model(name, **args), depth=0.5, width=0.25)
    assert {key: small.config["args"][key] for key in wanted} == wanted
    assert small(**_batch([3], 3)).shape == (1, ITEMS)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_item_is_named(name: str) -> None:
    """Without it, a recommender for fewer items would end in an IndexError."""
    with pytest.raises(InputError, match="item 51 for a recommender of 50 items"):
        _model(name)(torch.tensor([[51]]), torch.tensor([[1]]))
