"""The zoo's networks are those of the published tables, and can be rebuilt, tapped and split."""

from __future__ import annotations

import io
import json
import math
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.students import zoo

# Those that read texts or hear have tests of their own: test_text_models.py, test_seq2seq.py,
# test_audio_models.py.
TEXT = {"bag", "bilstm", "huggingface", "seq2seq", "textcnn", "transformer"}
SOUND = {"audiocnn", "audiogru", "conv_transformer"}
LIBRARIES = {"timm", "torchvision"}  # test_vision.py
RECOMMENDERS = {"fism", "gru4rec", "sasrec"}  # test_recommenders.py
CLIPS = {"frames", "frames_gru"}  # test_video_models.py
VISUAL = {"dual_encoder", "visual_question"}  # test_visual_models.py
DENSE = {"detector", "segmenter"}  # test_dense_models.py
NAMES = sorted(set(zoo.names()) - TEXT - SOUND - LIBRARIES - RECOMMENDERS - VISUAL - CLIPS - DENSE)
ORACLE = json.loads((Path(__file__).parents[1] / "oracles" / "zoo.json").read_text())

# github.com/HobbitLong/RepDistiller at b84f547c5db6a35318d4671d7d5c4de74c822403, 100 classes; equal
# to those of github.com/megvii-research/mdistiller at a08d46f10d6102bd6e3f258ca5ac880b020ea259.
PARAMETERS = {
    "resnet8": 83_892,
    "resnet14": 181_108,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "wrn_16_1": 180_916,
    "wrn_16_2": 703_284,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
    "vgg8": 3_965_028,
    "vgg11": 9_277_284,
    "vgg13": 9_462_180,
    "vgg16": 14_774_436,
    "vgg19": 20_086_692,
    "mobilenet_v2": 812_836,
    "shufflenet_v1": 949_258,
    "shufflenet_v2": 1_355_528,
}

# One small model of each family; the other names differ from it in sizes alone.
SMALL: dict[str, dict[str, Any]] = {
    "cnn": {"channels": (4, 5), "hidden": (6,)},
    "mlp": {"features": 3 * 32 * 32, "hidden": [5]},
    "mobilenet_v2": {"width": 0.3, "blocks": (1, 2, 1, 2, 1, 1, 1), "head": 16},
    "resnet": {"depth": 14, "widths": (4, 4, 6, 9)},
    "shufflenet_v1": {"widths": (36, 48, 72), "blocks": (2, 1, 2)},
    "shufflenet_v2": {"widths": (8, 10, 12), "blocks": (2, 1, 2), "head": 16},
    "soft_tree": {"features": 3 * 32 * 32, "depth": 2},
    "vgg": {"convs": (1, 2), "widths": (4, 6), "pools": 1},
    "vit": {"depth": 2, "width": 12, "heads": 3, "patch": 8},
    "wide_resnet": {"depth": 16, "width": 0.3, "dropout": 0.1},
}


def small(name: str, **args: Any) -> nn.Module:
    return zoo.build(name, **{"classes": 7, **SMALL.get(name, {}), **args})


def data_root() -> Path:
    """The folder of downloaded data and checkpoints; its tests are skipped where it is absent."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    return Path(os.environ.get("LIMBECK_DATA") or beside)


def chirp(count: int, phase: float) -> Tensor:
    place = torch.arange(count, dtype=torch.float64) % 10007
    return torch.sin(0.7 * place * place + phase)


def fill(model: nn.Module, scale: float) -> None:
    """Fill every tensor by the formula written in the oracle's file."""
    named = [
        (name, tensor)
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    ]
    for index, (name, tensor) in enumerate(named):
        values = chirp(tensor.numel(), index).reshape(tensor.shape)
        if tensor.ndim > 1:
            values = values * scale * math.sqrt(2 / tensor[0].numel())
        elif name.endswith(("weight", "running_var")):
            values = 1 + values / 2
        else:
            values = values / 10
        tensor.copy_(values)


@pytest.mark.parametrize("name", sorted(ORACLE["models"]))
def test_logits_are_those_of_the_authors_networks(name: str) -> None:
    """Without it a wrong stride, shortcut, shuffle or order of layers would pass unseen: the same
    parameters, a different network, and published accuracies that are never reached.

    Verified on 2026-11-20 besides: with random weights copied tensor by tensor from RepDistiller
    (commit in the oracle's file), all 21 of its networks that the zoo has gave the same logits, in
    train mode within 2e-6 and in eval mode within 2e-6 of their standard deviation, and the same
    gradients. Rolling any of some sixty tensors in each of the models here by one place moved the
    recorded logits by at least 1e-2.
    """
    expected = ORACLE["models"][name]
    model = zoo.build(name, classes=10).eval()
    with torch.no_grad():
        fill(model, expected["scale"])
        logits = model(chirp(2 * 3 * 32 * 32, 0.5).reshape(2, 3, 32, 32).float())
    torch.testing.assert_close(logits, torch.tensor(expected["logits"]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_parameter_counts_are_the_benchmarks(name: str) -> None:
    """Without it a student could be larger than its namesake in a published table."""
    with torch.device("meta"):
        model = zoo.build(name, classes=100)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


def test_every_network_is_checked() -> None:
    """Without it a name added to the zoo would have no oracle, and an empty list would pass."""
    with torch.device("meta"):
        families = {small(name).config["build"] for name in NAMES}
    assert families == set(SMALL)
    general = {"cnn", "mlp", "resnet", "soft_tree", "vgg", "vit", "wide_resnet"}
    assert set(PARAMETERS) == set(NAMES) - general
    assert {"resnet8x4", "wrn_16_2", "vgg8", "mobilenet_v2", "shufflenet_v2"} <= set(
        ORACLE["models"]
    )


@pytest.mark.parametrize("name", NAMES)
def test_config_builds_the_same_model_again(name: str) -> None:
    """Without it a student saved today could not be rebuilt from its run folder tomorrow."""
    with torch.device("meta"):
        model = small(name)
        config = json.loads(json.dumps(model.config))
        again = zoo.build(config["build"], **config["args"])
    assert config == model.config == again.config
    assert type(again) is type(model)
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    assert {key: tensor.shape for key, tensor in again.state_dict().items()} == shapes


@pytest.mark.parametrize("name", [*SMALL, "resnet8"])
def test_every_module_can_be_tapped(name: str) -> None:
    """Without it a ReLU in place, or a module used twice, would hand a match the wrong tensor."""
    model = small(name)
    seen: dict[str, list[tuple[Tensor, int, Tensor]]] = {
        key: [] for key, _ in model.named_modules()
    }

    def hook(key: str) -> Any:
        return lambda module, args, out: seen[key].append((out, out._version, out.clone()))

    for key, module in model.named_modules():
        module.register_forward_hook(hook(key))
    logits = model(torch.rand(2, 3, 32, 32))
    assert logits.shape == (2, 7)
    assert logits.dtype == torch.float32
    assert {key: len(outputs) for key, outputs in seen.items()} == dict.fromkeys(seen, 1)
    for [(tensor, version, copy)] in seen.values():
        assert tensor._version == version
        assert torch.equal(tensor, copy)


@pytest.mark.parametrize("name", sorted(set(SMALL) - {"cnn", "mlp", "soft_tree", "vit"}))
def test_other_channels_and_sizes(name: str) -> None:
    """Without it grey images, or images larger than CIFAR's, would fail only in a user's hands."""
    model = small(name, channels_in=1).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 1, 48, 40)).shape == (1, 7)


def test_pretrained_resnet20_is_as_accurate_as_published() -> None:
    """Without it the padded shortcut could be wrong in a way that loads, runs and costs accuracy.

    The files have no ``num_batches_tracked``; PyTorch fills it with 0 because they carry no version
    of the batch norm either, so they load strictly. Published error on 10,000 images: 8.27 %.
    """
    weights = data_root() / "checkpoints_cifar10_resnet" / "resnet20.safetensors"
    table = data_root() / "cifar10" / "test.parquet"
    if not (weights.exists() and table.exists()):
        pytest.skip(f"no {weights.name} and {table.name} in {data_root()}; set LIMBECK_DATA")
    model = zoo.build("resnet20", shortcut="A")
    model.load_state_dict(load_file(weights), strict=True)
    rows = pq.read_table(table).slice(0, 1000)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    images = torch.stack([_pixels(entry["bytes"]) for entry in rows["img"].to_pylist()])
    with torch.no_grad():
        answers = model.eval()((images - mean) / std).argmax(1)
    errors = (answers != torch.tensor(rows["label"].to_pylist())).float().mean()
    assert errors < 0.11


def _pixels(data: bytes) -> Tensor:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(image.height, image.width, 3).permute(2, 0, 1).float() / 255


def test_weights_without_counters_load_strictly() -> None:
    """Without it foreign checkpoints would need strict=False, which hides what else is missing."""
    source, target = zoo.build("resnet8"), zoo.build("resnet8")
    plain = {key: value for key, value in source.state_dict().items() if "num_batches" not in key}
    assert len(plain) < len(source.state_dict())
    target.load_state_dict(plain, strict=True)
    assert torch.equal(source.linear.weight, target.linear.weight)


def test_option_a_takes_every_second_position_and_pads_channels() -> None:
    """Without it all zero channels could stand on one side, where pretrained weights fail."""
    shortcut = zoo.resnet(8, widths=(1, 1, 4, 4)).layer2[0].shortcut
    image = torch.arange(16.0).view(1, 1, 4, 4)
    zero = [[0.0, 0.0], [0.0, 0.0]]
    expected = torch.tensor([[zero, [[0.0, 2.0], [8.0, 10.0]], zero, zero]])
    assert torch.equal(shortcut(image), expected)
    assert not list(shortcut.parameters())


def test_benchmark_names_have_option_b_and_the_family_option_a() -> None:
    """Without it a comparison with the CIFAR-100 table would use the other shortcut in silence."""
    assert zoo.build("resnet20").config["args"]["shortcut"] == "B"
    assert zoo.build("resnet").config["args"]["shortcut"] == "A"
    assert len(list(zoo.build("resnet20").layer2[0].shortcut.parameters())) == 3


def test_cnn_by_hand() -> None:
    """Without it the names that recipes tap, or the order of ReLU and pooling, could change."""
    model = zoo.cnn((4, 8), (16, 12), image=(1, 9, 6), classes=5)
    assert [name for name, _ in model.named_children()] == [
        *("conv1", "conv1_relu", "pool1", "conv2", "conv2_relu", "pool2", "flatten"),
        *("fc1", "fc1_relu", "fc2", "fc2_relu", "classifier"),
    ]
    assert model.fc1.weight.shape == (16, 8 * 2 * 1)
    assert model(torch.rand(3, 1, 9, 6)).shape == (3, 5)
    assert model.conv1.padding == (1, 1)


@pytest.mark.parametrize("name", ["cnn", "mlp"])
def test_samples_do_not_meet_in_plain_models(name: str) -> None:
    """Without it training in two processes would differ from training in one."""
    model = small(name).train()
    images = torch.rand(6, 3, 32, 32)
    together, apart = model(images), torch.cat([model(images[:2]), model(images[2:])])
    torch.testing.assert_close(together, apart)
    assert not list(model.buffers())


def test_vit_is_pytorchs_transformer_on_patches() -> None:
    """Without it heads or queries and keys could be mixed up, and the model would still train."""
    torch.manual_seed(0)
    model = zoo.vit(depth=2, width=12, heads=3, patch=8, image=(1, 16, 24), classes=5).eval()
    kept = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
    layers = [nn.TransformerEncoderLayer(12, 3, 48, **kept).eval() for _ in range(2)]
    names = {
        "qkv.": "self_attn.in_proj_", "proj.": "self_attn.out_proj.", "fc1.": "linear1.",
        "fc2.": "linear2.", "norm": "norm",
    }  # fmt: skip
    images = torch.rand(2, 1, 16, 24)
    with torch.no_grad():
        for block, layer in zip(model.blocks, layers, strict=True):
            weights = {}
            for name, tensor in block.state_dict().items():
                ours = next(part for part in names if name.startswith(part))
                weights[name.replace(ours, names[ours])] = tensor.normal_()
            layer.load_state_dict(weights)
        rows = [images[:, :, y : y + 8, x : x + 8] for y in (0, 8) for x in (0, 8, 16)]
        kernel = model.patches.weight.flatten(1)
        tokens = torch.stack([patch.flatten(1) @ kernel.T for patch in rows], 1)
        x = tokens + model.patches.bias + model.positions
        for layer in layers:
            x = layer(x)
        expected = model.head(model.norm(x).mean(1))
        torch.testing.assert_close(model(images), expected, atol=1e-4, rtol=1e-4)


def test_mlp_flattens() -> None:
    """Without it images would have to be flattened by whoever calls."""
    model = zoo.mlp(12, (), classes=3)
    rows = torch.rand(2, 3, 4)
    assert torch.equal(
        model(rows), rows.flatten(1) @ model.classifier.weight.T + model.classifier.bias
    )


@pytest.mark.parametrize("name", ["resnet20", "wrn_16_2", "vgg8", "mobilenet_v2"])
def test_initialisation_is_the_sources(name: str) -> None:
    """Without it deep students would start with PyTorch's smaller weights and train worse."""
    torch.manual_seed(0)
    model = zoo.build(name)
    ratios = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 1000:
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            ratios.append(module.weight.detach().std().item() / math.sqrt(2 / fan_out))
    assert len(ratios) >= 4
    assert ratios == pytest.approx([1.0] * len(ratios), abs=0.1)
    if name in ("vgg8", "mobilenet_v2"):
        assert model.linear.weight.detach().std().item() == pytest.approx(0.01, rel=0.1)
    assert name == "resnet20" or not model.linear.bias.any()


def test_unknown_name_lists_near_ones() -> None:
    """Without it a typing error would end in a traceback instead of a suggestion."""
    with pytest.raises(InputError, match=r"'resnet21' is not known; did you mean .*'resnet20'"):
        zoo.build("resnet21")


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("mlp", {"classes": 3}, r"'features'.*Expected: features, hidden=\(128, 64\), classes\."),
        ("resnet20", {"depth": 8}, r"'depth'.*Expected: classes=10, shortcut='B', channels_in=3"),
        ("cnn", {"chanels": (3,)}, r"'chanels'.*Expected: channels=\(32,\)"),
        ("resnet", {"depth": 21}, r"depth is 21.*6n \+ 2"),
        ("resnet", {"depth": 2}, r"depth is 2.*at least 8"),
        ("resnet", {"widths": (16, 32, 64)}, r"widths has 3 entries.*4 whole numbers"),
        ("resnet", {"widths": (16, 8, 32, 64)}, r"shortcut 'A'.*shortcut='B'"),
        ("resnet", {"shortcut": "C"}, r"shortcut 'C' is not known.*A, B"),
        ("wide_resnet", {"depth": 20}, r"depth is 20.*6n \+ 4"),
        ("wide_resnet", {"width": 0}, r"width is 0.*above 0"),
        ("wide_resnet", {"width": math.inf}, r"width is inf.*finite"),
        ("wide_resnet", {"dropout": 1.0}, r"dropout is 1\.0.*below 1"),
        ("vgg", {"convs": (2, 2), "pools": 2}, r"widths has 5 entries.*2 whole numbers"),
        ("vgg", {"convs": ()}, r"convs is empty"),
        ("vgg8", {"pools": 6}, r"pools is 6.*at most the 5 blocks"),
        ("shufflenet_v1", {"groups": 4}, r"groups is 4.*1, 2, 3 or 6"),
        ("shufflenet_v1", {"widths": (240, 240, 960)}, r"multiples of 12, growing"),
        ("shufflenet_v1", {"widths": (24, 48, 96)}, r"the first above 24"),
        ("shufflenet_v2", {"widths": (15, 30, 60)}, r"even"),
        ("mobilenet_v2", {"blocks": "1233331"}, r"blocks is '1233331'.*list of 7"),
        ("cnn", {"channels": (4, 4), "image": (1, 8, 3)}, r"8×3 halved 2 times"),
        ("cnn", {"channels": (4, 0)}, r"channels\[1\] is 0"),
        ("vit", {"width": 64}, r"width 64 with 3 heads.*multiple"),
        ("vit", {"patch": 5}, r"patches of 5 pixels.*32×32.*divides"),
        ("mlp", {"features": 4, "classes": True}, r"classes is True.*whole number"),
        ("mlp", {"features": 4.0, "classes": 2}, r"features is 4\.0"),
    ],
)
def test_wrong_arguments_are_refused(name: str, args: dict[str, Any], message: str) -> None:
    """Without it a wrong recipe would fail late, deep inside PyTorch, or build another network."""
    with pytest.raises(InputError, match=message):
        zoo.build(name, **args)
