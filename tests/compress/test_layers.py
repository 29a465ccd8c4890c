"""Removing blocks: which go, that the rest is what it was, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck.compress import shorten
from limbeck.errors import InputError
from limbeck.knowledge.model import call
from limbeck.students import Blueprint, zoo
from limbeck.students.resize import keep_layers, sizes_of

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TOKENS = {"input_ids": torch.randint(1, 50, (2, 7)), "attention_mask": torch.ones(2, 7).long()}
MODELS: dict[str, tuple[dict[str, Any], Any]] = {
    "transformer": ({"vocab": 50, "width": 8, "depth": 4, "heads": 2, "classes": 3}, TOKENS),
    "vit": ({"depth": 4, "width": 8, "heads": 2, "image": (3, 16, 16)}, IMAGES),
}


@pytest.mark.parametrize("name", MODELS)
def test_blocks_that_change_little_go_and_the_model_comes_back(name: str, tmp_path: Path) -> None:
    """Without it, a block that matters could go, or a shorter student could not be loaded."""
    args, inputs = MODELS[name]
    model = zoo.build(name, **args).eval()
    last = ("out", "fc2") if name == "transformer" else ("proj", "fc2")
    with torch.no_grad():
        for place in (0, 2):  # these add next to nothing to what comes in
            for layer in last:
                model.blocks[place].get_submodule(layer).weight *= 1e-4
                model.blocks[place].get_submodule(layer).bias.zero_()
    shorter, kept = shorten(model, inputs, layers=0.5)
    assert kept == {"blocks": [1, 3]}
    assert torch.equal(shorter.blocks[0].fc1.weight, model.blocks[1].fc1.weight)
    assert torch.allclose(call(shorter, inputs), call(model, inputs), atol=1e-4)
    assert len(model.blocks) == 4
    left = keep_layers(zoo.build(name, **args), kept)
    plan = Blueprint(name, args, layers=kept, sizes=sizes_of(shorter, left))
    lb.students.save(tmp_path, shorter, plan, {"normalize": None})
    loaded = lb.students.load(tmp_path).get_submodule("model")
    assert torch.equal(call(loaded, inputs), call(shorter, inputs))


def test_only_blocks_that_keep_the_shape_go() -> None:
    """Without it, a network could be cut where what comes out does not fit what follows."""
    model = zoo.build("resnet20")
    shorter, kept = shorten(model, IMAGES, layers=0.5)
    assert kept.keys() <= {"layer1", "layer2", "layer3"}
    assert all(kept.get(f"layer{n}", [0])[0] == 0 for n in (2, 3))  # the first halves the image
    assert sum(len(shorter.get_submodule(f"layer{n}")) for n in (1, 2, 3)) == 5
    assert shorter.eval()(IMAGES).shape == (4, 10)


class _Gated(nn.Module):
    """Two blocks, of which the second is told the number of all: it cannot be without the first."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Sequential(nn.Linear(3, 3)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = x + part(x) * len(self.parts)
        return x


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("vit", {"layers": 1.0}, "above 0 and below 1"),
        ("vit", {"layers": 0.9}, "all of 4 stay"),
        ("vit", {"layers": 0.5, "keep": ["blok"]}, "did you mean 'blocks'"),
        ("vit", {"layers": 0.25, "keep": ["blocks.1", "blocks.2"]}, "at most 2"),
        (nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), {"layers": 0.5}, "no layers that could"),
        (_Gated(), {"layers": 0.5}, "no layers that could"),
    ],
)
def test_wrong_wishes_are_refused(model: Any, options: dict[str, Any], message: str) -> None:
    """Without it, nothing would go, or something that was to stay."""
    args, inputs = MODELS["vit"]
    network = zoo.build("vit", **args) if model == "vit" else model
    with pytest.raises(InputError, match=message):
        shorten(network, inputs if model == "vit" else torch.randn(2, 3), **options)
