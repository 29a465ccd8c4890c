"""Models that look and read: what padding must not change, and modalities that are missing."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.knowledge.stages import penultimate, stages
from limbeck.students import zoo

SMALL = {"vocab": 20, "channels": (4, 6), "words": 5, "width": 8}
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("visual_question", {"reader": "gru", "classes": 3}),
    ("visual_question", {"reader": "bag", "classes": 3}),
    ("dual_encoder", {"reader": "gru"}),
    ("dual_encoder", {"reader": "bag"}),
]


def _model(name: str, args: dict[str, Any]) -> nn.Module:
    return zoo.build(name, **SMALL | args)


def _batch(lengths: list[int], width: int) -> dict[str, Tensor]:
    ids = torch.randint(1, 20, (len(lengths), width))
    mask = (torch.arange(width) < torch.tensor(lengths).unsqueeze(1)).long()
    image = torch.rand(len(lengths), 3, 16, 16)
    return {"image": image, "input_ids": ids * mask, "attention_mask": mask}


@pytest.mark.parametrize(("name", "args"), KINDS)
def test_padding_and_neighbours_change_nothing(name: str, args: dict[str, Any]) -> None:
    """Without it, an answer would depend on which other samples are in the batch."""
    model, batch = _model(name, args).eval(), _batch([6, 3, 1], 6)
    with torch.no_grad():
        together = model(**batch)
        garbled = batch | {"input_ids": batch["input_ids"] + 9 * (1 - batch["attention_mask"])}
        torch.testing.assert_close(model(**garbled), together)
        for row, length in enumerate((6, 3, 1)):
            alone = {name: t[row : row + 1] for name, t in batch.items()}
            alone |= {k: alone[k][:, :length] for k in ("input_ids", "attention_mask")}
            torch.testing.assert_close(model(**alone)[0], together[row])


@pytest.mark.parametrize(("name", "args"), KINDS)
def test_every_weight_learns_and_the_config_builds_it_again(
    name: str, args: dict[str, Any]
) -> None:
    """Without it, a part could be left out of the forward pass, or of the blueprint."""
    model = _model(name, args).train()
    out = model(**_batch([5, 6, 2, 4], 6))
    (out * torch.randn_like(out)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    config = json.loads(json.dumps(model.config))
    again = zoo.build(config["build"], **config["args"])
    assert {k: t.shape for k, t in again.state_dict().items()} == {
        k: t.shape for k, t in model.state_dict().items()
    }


@pytest.mark.parametrize("kept", ["image", "question"])
def test_a_modality_that_is_left_out_is_not_looked_at(kept: str) -> None:
    """Without it, "question only" could still see the picture."""
    args = {"classes": 3, "modalities": [kept]}
    model, batch = _model("visual_question", args).eval(), _batch([4, 2], 4)
    theirs = ("image",) if kept == "image" else ("input_ids", "attention_mask")
    alone = {name: batch[name] for name in theirs}
    other = _batch([4, 2], 4) | alone
    torch.testing.assert_close(model(**other), model(**alone))
    assert sum(p.numel() for p in model.parameters()) < sum(
        p.numel() for p in _model("visual_question", {"classes": 3}).parameters()
    )
    missing = {name: tensor for name, tensor in batch.items() if name not in theirs}
    with pytest.raises(InputError, match="the model got no"):
        model(**missing)


def test_embeddings_of_one_tower_are_those_of_both() -> None:
    """Without it, a search over stored embeddings would compare other vectors."""
    model, batch = _model("dual_encoder", {}).eval(), _batch([4, 2], 4)
    both = model(**batch)
    torch.testing.assert_close(both.norm(dim=2), torch.ones(2, 2))
    torch.testing.assert_close(model(image=batch["image"]), both[:, :1])
    words = {name: batch[name] for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(model(**words), both[:, 1:])
    with pytest.raises(InputError, match="no picture and no text"):
        model()


def test_stages_and_the_last_features_are_found() -> None:
    """Without it, feature methods would need the names of layers."""
    model, batch = _model("visual_question", {"classes": 3}), _batch([4, 2], 4)
    assert stages(model, batch) == ["looking.stages.0", "looking.stages"]
    assert penultimate(model, batch) == "classifier:input"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"modalities": ["sound"]}, "a list of image and question"),
        ({"reader": "grue"}, "did you mean 'gru'"),
        ({"channels": 8}, "a list of whole numbers"),
    ],
)
def test_wrong_arguments(args: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _model("visual_question", {"classes": 3} | args)
