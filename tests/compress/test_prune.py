"""Pruning: what goes, what stays, and that a pruned model comes back from its folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck.compress import prune, rounds
from limbeck.errors import InputError
from limbeck.knowledge.model import call, macs
from limbeck.students import Blueprint, zoo
from limbeck.students.resize import resize, sizes_of

pytest.importorskip("torch_pruning")

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TOKENS = {"input_ids": torch.randint(1, 50, (2, 7)), "attention_mask": torch.ones(2, 7).long()}
MODELS: dict[str, tuple[dict[str, Any], Any]] = {
    "cnn": ({"channels": (8, 16), "hidden": (32,), "image": (3, 16, 16)}, IMAGES),
    "resnet8": ({}, IMAGES),
    "transformer": ({"vocab": 50, "width": 16, "depth": 2, "classes": 3}, TOKENS),
}


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_targets_are_met_and_the_model_comes_back(name: str, tmp_path: Path) -> None:
    """Without it, a target could be missed, or a pruned student could not be loaded."""
    args, inputs = MODELS[name]
    model = zoo.build(name, **args)
    smaller = prune(model, inputs, parameters=0.6)
    assert 0.57 <= size(smaller) / size(model) <= 0.6
    assert call(smaller, inputs).shape == call(model, inputs).shape
    plan = Blueprint(name, args, sizes=sizes_of(smaller, model))
    lb.students.save(tmp_path, smaller, plan, {"normalize": None})
    loaded = lb.students.load(tmp_path).get_submodule("model")
    assert torch.equal(call(loaded, inputs), call(smaller.eval(), inputs))


def test_the_target_may_be_the_work() -> None:
    """Without it, ``macs`` and ``scope`` could be passed over."""
    args, inputs = MODELS["cnn"]
    model = zoo.build("cnn", **args)
    faster = prune(model, inputs, macs=0.6, scope="layer", importance="group_norm")
    assert 0.5 <= (macs(faster, inputs)[0] or 0) / (macs(model, inputs)[0] or 1) <= 0.6
    shares = [
        faster.conv1.out_channels / 8,
        faster.conv2.out_channels / 16,
        faster.fc1.out_features / 32,
    ]
    assert max(shares) - min(shares) < 0.1


def test_channels_that_stay_are_a_multiple() -> None:
    """Without it, a network could do half the work in the same time."""
    args, inputs = MODELS["cnn"]
    smaller = prune(zoo.build("cnn", **args), inputs, parameters=0.6, multiple=4)
    stay = [smaller.conv1.out_channels, smaller.conv2.out_channels, smaller.fc1.out_features]
    assert all(count % 4 == 0 for count in stay)
    assert stay < [8, 16, 32]


def test_the_smallest_units_go_from_every_layer_they_reach() -> None:
    """Without it, other channels could go, or a consumer could lose the wrong ones."""
    first, norm, second = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)
    with torch.no_grad():
        first.weight *= torch.tensor([1.0, 9.0, 2.0, 8.0, 3.0, 7.0]).view(6, 1, 1, 1) / (
            first.weight.abs().sum((1, 2, 3), keepdim=True)
        )
        norm.running_mean.copy_(torch.arange(6.0))
    model = nn.Sequential(first, norm, nn.ReLU(), second, nn.Flatten(), nn.Linear(4 * 196, 2))
    smaller = prune(model.eval(), IMAGES, parameters=0.945, keep=["3"])
    assert torch.equal(smaller[0].weight, first.weight[[1, 3, 5]])
    assert torch.equal(smaller[1].running_mean, torch.tensor([1.0, 3.0, 5.0]))
    assert torch.equal(smaller[3].weight, second.weight[:, [1, 3, 5]])
    assert first.weight.shape[0] == 6  # the model itself is as it was


@pytest.mark.parametrize("importance", ["group_norm", "taylor"])
def test_what_nothing_listens_to_goes_first_and_the_answer_stays(importance: Any) -> None:
    """Without it, importance could be that of other units than those that are removed."""
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].weight[4:] *= 1e-6
        model[0].bias[4:] = 0
        model[2].weight[:, 4:] = 0
    inputs = torch.randn(6, 5)

    def loss(m: nn.Module) -> torch.Tensor:
        return m(inputs).square().sum()

    smaller = prune(model, inputs, parameters=0.55, importance=importance, loss=loss)
    assert smaller[0].out_features == 4
    assert torch.allclose(smaller(inputs), model(inputs), atol=1e-6)


def test_a_transformer_loses_whole_heads_and_keeps_its_states() -> None:
    """Without it, heads could be cut through, which no attention can be built again from."""
    args, inputs = MODELS["transformer"]
    model = zoo.build("transformer", **args)
    smaller = prune(model, inputs, parameters=0.5)
    heads = [block.query.out_features / 4 for block in smaller.blocks]  # 4 features each
    assert all(count in (1, 2, 3, 4) for count in heads)
    assert min(heads) < 4
    for block in smaller.blocks:
        assert block.query.out_features == block.value.out_features == block.out.in_features
        assert block.out.out_features == block.fc2.out_features == 16


@pytest.mark.parametrize("importance", ["magnitude", "group_norm"])
def test_heads_of_one_layer_for_queries_keys_and_values(importance: Any) -> None:
    """Without it, a ViT would keep all heads, or lose parts of several."""
    model = zoo.build("vit", depth=2, width=16, heads=4, image=(3, 16, 16), expansion=0.5)
    rest = [f"blocks.{n}.fc1" for n in (0, 1)]
    with torch.no_grad():  # the third head says nothing, and nothing listens to it
        for block in model.blocks:
            block.qkv.weight.view(3, 4, 4, 16)[:, 2] *= 1e-6
            block.qkv.bias.view(3, 4, 4)[:, 2] = 0
            block.proj.weight[:, 8:12] *= 1e-6
    smaller = prune(model.eval(), IMAGES, parameters=0.875, importance=importance, keep=rest)
    for own, whole in zip(smaller.blocks, model.blocks, strict=True):
        assert own.qkv.out_features == 36
        left = [n for n in range(16) if not 8 <= n < 12]
        assert torch.equal(own.proj.weight, whole.proj.weight[:, left])
        heads = whole.qkv.weight.view(3, 16, 16)[:, left].reshape(36, 16)
        assert torch.equal(own.qkv.weight, heads)
    assert torch.allclose(smaller(IMAGES), model(IMAGES), atol=1e-5)


def test_the_target_may_be_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, the clock could be read the wrong way round, or asked about other networks."""
    args, inputs = MODELS["cnn"]
    model = zoo.build("cnn", **args)
    asked = []

    def clock(whole: nn.Module, smaller: nn.Module) -> tuple[float, float]:
        asked.append(size(smaller))
        return 2.0 + size(whole), 2.0 + size(smaller)

    faster = prune(model, inputs, latency=0.6, clock=clock)
    assert 0.5 < (2 + size(faster)) / (2 + size(model)) <= 0.6
    assert len(asked) <= 8  # each is a measurement
    monkeypatch.setattr(sys.modules["limbeck.compress.prune"], "_SECONDS", 0.02)
    wide = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 1024))  # PyTorch's own time
    assert size(prune(wide, torch.randn(256, 64), latency=0.9)) < size(wide)
    with pytest.raises(InputError, match=r"latency is to be 0\.1 of what it was.*at least 0\.5"):
        prune(model, inputs, latency=0.1, clock=lambda whole, smaller: (2.0, 1.0))


def test_a_shortcut_that_pads_channels_keeps_the_stream() -> None:
    """Without it, a network could be cut where it cannot be followed, and answer something else."""
    model = zoo.build("resnet8", shortcut="A")
    smaller = prune(model, IMAGES, parameters=0.7)
    assert smaller.layer3[0].conv2.out_channels == 64
    assert smaller.layer3[0].conv1.out_channels < 64


def test_depthwise_convolutions_are_built_again() -> None:
    """Without it, their groups would stay as many as before, and the weights would not fit."""

    def make() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
        )  # fmt: skip

    model = make()
    smaller = prune(model, IMAGES, parameters=0.5)
    again = resize(make(), sizes_of(smaller, model))
    again.load_state_dict(smaller.state_dict())
    assert again[2].groups == smaller[2].groups < 8
    assert torch.equal(again(IMAGES), smaller(IMAGES))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parameters": 0.5, "importance": "magnitud"}, "did you mean 'magnitude'"),
        ({"parameters": 0.5, "importance": "taylor"}, "without a loss"),
        ({"parameters": 0.5, "scope": "all"}, "Known: global, layer"),
        ({"parameters": 0.5, "keep": ["conv9"]}, "did you mean 'conv2' or 'conv1'"),
        ({"parameters": 0.5, "keep": ["conv1", "conv2", "fc1"]}, "no units that could be removed"),
        (
            {"parameters": 0.5, "macs": 0.5},
            "parameters and macs. Expected: parameters, macs or latency",
        ),
        ({"parameters": 1.5}, "parameters is 1.5"),
        ({"parameters": 0.001}, "for each layer keeps a unit"),
    ],
)
def test_wrong_wishes_are_refused(options: dict[str, Any], message: str) -> None:
    """Without it, a typing error would end in a traceback of torch-pruning, or be ignored."""
    args, inputs = MODELS["cnn"]
    with pytest.raises(InputError, match=message):
        prune(zoo.build("cnn", **args), inputs, **options)


def test_what_cannot_be_followed_is_refused() -> None:
    """Without it, the error would be one of torch-pruning's insides."""
    with pytest.raises(InputError, match="cannot follow ShuffleNetV2"):
        prune(zoo.build("shufflenet_v2"), torch.zeros(2, 3, 32, 32), parameters=0.5)


def test_sizes_of_another_model_are_refused() -> None:
    """Without it, a student of another build would come back with weights of wrong shapes."""
    with pytest.raises(InputError, match="where Linear has"):
        resize(nn.Linear(2, 2), {"weight": [2]})
    with pytest.raises(InputError, match="Expected: the same model"):
        sizes_of(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))


def test_rounds_multiply_to_the_whole() -> None:
    """Without it, gradual pruning could end elsewhere than one-shot pruning."""
    first, second, third = rounds(0.3, 3)
    assert first * second * third == pytest.approx(0.3)
    with pytest.raises(InputError, match="0 steps"):
        rounds(0.3, 0)
