"""Stages and the penultimate layer are found where one would name them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.knowledge import Taps, penultimate, stages
from limbeck.students import zoo

ZOO = {
    "mobilenet_v2": ["layer2", "layer3", "layer5", "relu2"],
    "resnet": ["layer1", "layer2", "layer3"],
    "shufflenet_v1": ["relu1", "layer1", "layer2", "layer3"],
    "shufflenet_v2": ["relu1", "layer1", "layer2", "relu2"],
    "vgg": ["block1", "block2", "block3", "block5"],
    "wide_resnet": ["layer1", "layer2", "relu"],  # the last stage ends with batch norm and ReLU
    "cnn": ["conv1_relu", "pool1"],
    "mlp": ["fc1", "fc2"],
    "vit": [f"blocks.{number}" for number in range(6)],
}


@pytest.mark.parametrize("name", ZOO)
def test_stages_of_the_zoo(name: str) -> None:
    """`stage[-1]` of teacher and student would be different things in different families."""
    more = {"features": 3 * 32 * 32} if name == "mlp" else {}
    model, images = zoo.build(name, classes=10, **more), torch.zeros(1, 3, 32, 32)
    found = stages(model, images)
    assert found == ZOO[name]
    modules = dict(model.named_modules())
    outputs = {}
    for stage in found:
        modules[stage].register_forward_hook(
            lambda module, args, out, stage=stage: outputs.update({stage: out.shape})
        )
    model.eval()(images)
    sizes = [outputs[stage][2:] for stage in found]
    if name not in ("mlp", "vit"):
        assert len(set(sizes)) == len(sizes)  # one for each resolution
        assert [s.numel() for s in sizes] == sorted((s.numel() for s in sizes), reverse=True)


def test_every_network_of_images_has_stages() -> None:
    """A network without any could not be used with feature methods."""
    for name in zoo.names():
        if not {"image", "channels_in"} & set(zoo.arguments(name)):
            continue
        if name.startswith(("resnet110", "wrn_40", "timm", "torchvision")):
            continue
        if name.startswith(("detector", "segmenter", "frames")):  # no classifier of pictures
            continue
        model = zoo.build(name, classes=3)
        assert len(stages(model, torch.zeros(1, 3, 32, 32))) >= 2
        assert penultimate(model, torch.zeros(1, 3, 32, 32)).endswith(":input")


@pytest.mark.parametrize(
    ("name", "last"),
    [("resnet8", "linear:input"), ("cnn", "classifier:input"), ("vgg8", "linear:input")],
)
def test_penultimate_is_what_the_classifier_sees(name: str, last: str) -> None:
    """CRD and others need exactly this vector: one layer earlier is another method."""
    model, images = zoo.build(name, classes=3).eval(), torch.randn(2, 3, 32, 32)
    assert penultimate(model, images) == last
    taps = Taps(model, ["penultimate", "logits"])
    taps.prepare(images)
    _, found = taps.capture(lambda: model(images))
    classifier = dict(model.named_modules())[last.removesuffix(":input")]
    assert torch.allclose(classifier(found["penultimate"]), found["logits"])


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return x + self.linear(self.norm(x)), None


class Transformer(nn.Module):
    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(Block(8) for _ in range(depth))
        self.extra = nn.ModuleList(Block(8) for _ in range(2))
        self.head = nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x, _ = block(x)
        return self.head(x.mean(1))


def test_blocks_of_a_transformer() -> None:
    """Layers that never ran, or the parts inside a block, would be taken for stages."""
    ids = torch.zeros(1, 5, dtype=torch.long)
    assert stages(Transformer(), ids) == [f"blocks.{n}" for n in range(4)]
    assert penultimate(Transformer(), ids) == "head:input"


def test_blocks_of_pytorchs_own_transformer() -> None:
    """Its fast path in eval mode skips the parts of a layer."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    assert stages(model, torch.zeros(1, 5, 8)) == ["layers.0", "layers.1", "layers.2"]
    taps = Taps(model, ["layers.1.linear1"])
    taps.prepare(torch.zeros(1, 5, 8))
    assert taps.capture(lambda: model.eval()(torch.zeros(2, 5, 8)))[1][
        "layers.1.linear1"
    ].shape == (
        2,
        5,
        16,
    )


def test_a_stack_of_linear_layers() -> None:
    """The classifier itself would be a stage."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    assert stages(model, torch.zeros(1, 4)) == ["0", "2"]


def test_nothing_to_find() -> None:
    """A model without linear layers has no penultimate one; an IndexError would not say so."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InputError, match="Sequential has no linear layer"):
        penultimate(model, torch.zeros(1, 1, 8, 8))
    assert stages(nn.Flatten(), torch.zeros(1, 4)) == []


def test_looking_changes_nothing() -> None:
    """The dry run would move batch norm's statistics, switch modes or leave hooks behind."""
    model = zoo.build("resnet8", classes=3).train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    stages(model, torch.randn(2, 3, 32, 32, generator=torch.Generator()))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(part.training for part in model.modules())
    assert not any(part._forward_hooks for part in model.modules())
    assert torch.equal(torch.get_rng_state(), random)
