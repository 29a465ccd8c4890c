"""Shrinking yields a smaller model of the same family, by documented rounding."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from limbeck.errors import InputError
from limbeck.students import zoo
from limbeck.students.shrink import scaled, shrink, shrink_rule

# Those that read texts or hear have tests of their own: test_text_models.py, test_audio_models.py,
# test_seq2seq.py. Models of other libraries have sizes of their own.
TEXT = {"bag", "bilstm", "huggingface", "seq2seq", "textcnn", "transformer"}
LIBRARIES = {"timm", "torchvision"}
VISUAL = {"dual_encoder", "visual_question"}
DENSE = {"detector", "segmenter"}  # test_dense_models.py
SOUND = {"audiocnn", "audiogru", "conv_transformer"}
CLIPS = {"frames", "frames_gru"}  # test_video.py
TREES = {"soft_tree"}  # which has depth alone
RECOMMENDERS = {"fism", "gru4rec", "sasrec"}  # test_recommenders.py


def build(name: str, **args: Any) -> nn.Module:
    least = {"mlp": {"features": 3 * 32 * 32}}.get(name, {})
    return zoo.build(name, **{"classes": 7, **least, **args})


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "args", "depth", "width", "changed"),
    [
        ("resnet56", {}, 0.5, 0.5, {"depth": 32, "widths": [8, 8, 16, 32]}),
        ("resnet20", {"shortcut": "A"}, 0.3, 0.1, {"depth": 8, "widths": [2, 2, 3, 6]}),
        ("wrn_40_2", {"dropout": 0.2}, 0.5, 0.5, {"depth": 22, "width": 1.0}),
        ("vgg13", {}, 0.5, 0.5, {"convs": [1] * 5, "widths": [32, 64, 128, 256, 256]}),
        ("vgg19", {}, 0.75, 1.0, {"convs": [2, 2, 3, 3, 3]}),
        (
            "mobilenet_v2",
            {},
            0.5,
            0.5,
            {"blocks": [1, 1, 2, 2, 2, 2, 1], "width": 0.25, "head": 640},
        ),
        ("shufflenet_v1", {}, 0.5, 0.5, {"blocks": [2, 4, 2], "widths": [120, 240, 480]}),
        ("shufflenet_v1", {}, 1.0, 0.01, {"widths": [36, 48, 60]}),
        (
            "shufflenet_v2",
            {},
            0.5,
            0.25,
            {"blocks": [2, 4, 2], "widths": [30, 58, 116], "head": 256},
        ),
        (
            "cnn",
            {"channels": (8, 5), "hidden": (64, 9, 32)},
            0.6,
            0.5,
            {"channels": [4, 3]} | {"hidden": [5, 16]},
        ),
        ("vit", {}, 0.5, 0.5, {"depth": 3, "heads": 2, "width": 128}),
        ("mlp", {"hidden": (128, 64)}, 0.5, 0.25, {"hidden": [16]}),
        ("mlp", {"hidden": ()}, 0.5, 0.5, {"hidden": []}),
        ("soft_tree", {"features": 9, "depth": 5}, 0.5, 0.5, {"depth": 3}),
        ("frames_gru", {}, 0.5, 0.5, {"channels": [8, 16, 16], "hidden": 16}),
    ],
)
def test_sizes_by_hand(
    name: str, args: dict[str, Any], depth: float, width: float, changed: dict[str, Any]
) -> None:
    """Without it a change of rounding would change every student derived from a teacher."""
    with torch.device("meta"):
        model = build(name, **args)
        smaller = shrink(model, depth=depth, width=width)
    assert smaller.config["args"] == {**model.config["args"], **changed}
    assert type(smaller) is type(model)


@pytest.mark.parametrize(
    "name",
    sorted(
        set(zoo.names()).difference(
            TEXT, SOUND, LIBRARIES, RECOMMENDERS, VISUAL, DENSE, CLIPS, TREES
        )
    ),
)
def test_every_zoo_model_shrinks_to_one_that_runs(name: str) -> None:
    """Without it a family added to the zoo could not be a teacher whose student is derived."""
    with torch.device("meta"):
        model = build(name)
        half = shrink(model, depth=0.5, width=0.5)
    tiny = shrink(model, depth=0.01, width=0.01).eval()
    with torch.no_grad():
        assert tiny(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    assert parameters(tiny) < parameters(half) < parameters(model)


def test_a_model_of_clips_shrinks_as_its_model_of_pictures_does() -> None:
    """Without it the teacher of the recipe video could have no student of its own family."""
    model = zoo.build("frames", model="resnet20", classes=7)
    smaller = shrink(model, depth=0.3, width=0.5).eval()
    assert smaller.config["args"]["args"]["widths"] == [8, 8, 16, 32]
    assert smaller(torch.rand(2, 3, 3, 32, 32)).shape == (2, 7)
    assert parameters(smaller) < parameters(model) / 2


@pytest.mark.parametrize("name", sorted(VISUAL))
def test_both_towers_shrink(name: str) -> None:
    """Without it a model of pictures and texts could have no student of its own family."""
    classes = {"classes": 3} if name == "visual_question" else {}
    smaller = shrink(zoo.build(name, vocab=20, **classes), width=0.5)
    changed = {"channels": [8, 16, 32], "words": 16, "width": 32}
    assert {key: smaller.config["args"][key] for key in changed} == changed


def test_whole_fractions_give_a_new_untrained_model() -> None:
    """Without it a student could share, or begin with, its teacher's weights in silence."""
    model = build("resnet8").eval()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    again = shrink(model)
    assert again.config == model.config
    assert not torch.equal(again.conv1.weight, model.conv1.weight)
    assert again.training
    assert not model.training
    after = model.state_dict()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())


@pytest.mark.parametrize("hidden", [(64, 512), (512, 64), (7, 7, 7), (3, 90, 4, 80), (1, 200)])
@pytest.mark.parametrize("depth", [0.25, 0.5, 0.8])
def test_fewer_hidden_layers_are_never_more_parameters(
    hidden: tuple[int, ...], depth: float
) -> None:
    """Without it a bottleneck could be what is dropped, and the student outgrow its teacher."""
    for model in (build("mlp", hidden=hidden), build("cnn", channels=(4,), hidden=hidden)):
        smaller = shrink(model, depth=depth)
        assert parameters(smaller) <= parameters(model)
        assert len(smaller.config["args"]["hidden"]) == scaled(len(hidden), depth)


@pytest.mark.parametrize(
    ("count", "fraction", "multiple", "expected"),
    [(5, 0.5, 1, 3), (9, 0.5, 1, 5), (16, 1.0, 1, 16), (2, 0.1, 1, 1), (58, 0.5, 4, 28)],
)
def test_rounding_is_to_the_nearest_halves_up(
    count: int, fraction: float, multiple: int, expected: int
) -> None:
    """Without it Python's rounding of halves to even would make 2 of 5 blocks, and 2 of 3."""
    assert scaled(count, fraction, multiple=multiple) == expected


@pytest.mark.parametrize("fraction", [0, -0.5, 1.01, math.nan, math.inf, "half", None])
@pytest.mark.parametrize("side", ["depth", "width"])
def test_fractions_outside_are_refused(side: str, fraction: Any) -> None:
    """Without it width=2 would yield a student larger than its teacher."""
    with pytest.raises(InputError, match=f"{side} is .*above 0 and at most 1"):
        shrink(build("cnn"), **{side: fraction})


def test_an_unknown_class_is_told_how_to_register() -> None:
    """Without it a user's own model would end in a traceback, with no way on."""
    with pytest.raises(InputError, match=r"shrink Linear.*CNN, .*ResNet.*shrink_rule\.register"):
        shrink(nn.Linear(2, 2), width=0.5)


def test_a_registered_class_is_shrunk_and_checked() -> None:
    """Without it third parties would have to check the fractions themselves, or not at all."""

    class Own(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.size = size

    @shrink_rule.register(Own)
    def _(model: Own, *, depth: float, width: float) -> nn.Module:
        return Own(scaled(model.size, width))

    smaller = shrink(Own(8), width=0.5)
    assert isinstance(smaller, Own)
    assert smaller.size == 4
    with pytest.raises(InputError):
        shrink(Own(8), width=2)
