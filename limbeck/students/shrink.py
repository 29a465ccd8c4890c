"""A smaller model of the same family: the student that a teacher suggests.

A model class says by a rule how it shrinks; the zoo's families have theirs here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import singledispatch
from typing import Any

from torch import nn

from limbeck.errors import InputError
from limbeck.students import zoo
from limbeck.students.zoo._parts import scaled
from limbeck.students.zoo.huggingface import shrunk as huggingface_shrunk
from limbeck.students.zoo.shufflenet import STEM

__all__ = ["scaled", "shrink", "shrink_rule"]


def shrink(model: nn.Module, *, depth: float = 1.0, width: float = 1.0) -> nn.Module:
    """Return a new, untrained model of the same family with fewer layers and fewer channels.

    Counts are rounded to the nearest, halves up, and never to nothing: 9 blocks at ``depth=0.5``
    are 5, and a stage keeps at least one block. What is fixed by the data stays: the image's
    channels and size, the features of a sample, the classes.

    ================  ================================  ========================================
    family            depth                             width
    ================  ================================  ========================================
    ``ResNet``        blocks of each stage              stem and stages
    ``WideResNet``    blocks of each stage              stages (the stem keeps its 16)
    ``VGG``           convolutions of each block        blocks
    ``MobileNetV2``   blocks of each stage              stem, stages and head
    ``ShuffleNetV1``  units of each stage               stages, to multiples of 4·groups that still
                                                        grow (the stem keeps its 24)
    ``ShuffleNetV2``  units of each stage               stages, to even numbers, and head (the stem
                                                        keeps its 24)
    ``ViT``           blocks                            width, with fewer heads of the same size
    ``CNN``           hidden layers; the convolutions   convolutions and hidden layers
                      stay, since without one the
                      linear layers would grow
    ``MLP``           hidden layers                     hidden layers
    ``Bag``           hidden layers                     embeddings and hidden layers
    ``TextCNN``       stays: it has one layer           embeddings and filters
    ``BiLSTM``        layers                            embeddings and units
    ``Transformer``   blocks                            heads, each as wide as before, and the
                                                        hidden features
    ``Hearing``       blocks                            width, to even numbers; with attention,
                                                        fewer heads of the same size
    ``SASRec``        blocks                            width, with fewer heads of the same size
    ``GRU4Rec``       layers                            embeddings and units
    ``FISM``          stays: it has one layer           embeddings
    ``SoftTree``      depth                             stays
    ``Frames``        those of its model of pictures    those of its model of pictures
    ``FramesGRU``     stays                             convolutions and units
    two towers        stay                              both of them, and what they make together
    ``Segmenter``     stays                             all levels
    ``Detector``      stays                             all levels, neck and head
    Hugging Face      layers, spread evenly: they are   heads, each as wide as before, and the
                      copied, and so is all else        hidden features; nothing is copied then
    ================  ================================  ========================================

    Of hidden layers the widest go first, which never makes the model larger.

    Args:
        model: the model to be smaller than; it is not changed and its weights are not copied.
        depth: fraction of the layers to keep, in (0, 1].
        width: fraction of the channels to keep, in (0, 1].

    Raises:
        InputError: a fraction lies outside (0, 1], or there is no rule for the model's class.

    >>> shrink(zoo.build("resnet56"), depth=0.5, width=0.5).config["args"]["widths"]
    [8, 8, 16, 32]

    A class of your own needs a rule, registered once; it receives fractions that were checked:

    >>> class Tiny(nn.Linear): ...
    >>> @shrink_rule.register
    ... def _(model: Tiny, *, depth: float, width: float) -> nn.Module:
    ...     return Tiny(scaled(model.in_features, width), model.out_features)
    >>> shrink(Tiny(8, 2), width=0.25)
    Tiny(in_features=2, out_features=2, bias=True)
    """
    _check("depth", depth)
    _check("width", width)
    transformers = sys.modules.get("transformers")
    if transformers is not None and isinstance(model, transformers.PreTrainedModel):
        return huggingface_shrunk(model, depth=depth, width=width)
    return shrink_rule(model, depth=depth, width=width)


@singledispatch
def shrink_rule(model: object, *, depth: float, width: float) -> nn.Module:
    """Return the smaller model; one implementation for each class, found by ``model``'s.

    Register yours with ``@shrink_rule.register``, as shown at :func:`shrink`, and call
    :func:`shrink`, which checks the fractions.
    """
    known = sorted(kind.__name__ for kind in shrink_rule.registry if kind is not object)
    raise InputError(
        f"there is no rule to shrink {type(model).__name__}",
        expected=f"one of {', '.join(known)}",
        remedy="Build the smaller model yourself, or register a rule: "
        "'from limbeck.students.shrink import shrink_rule', then '@shrink_rule.register' above a "
        f"function (model: {type(model).__name__}, *, depth: float, width: float) that returns it.",
    )


@shrink_rule.register
def _resnet(model: zoo.ResNet, *, depth: float, width: float) -> nn.Module:
    args = model.config["args"]
    blocks = scaled((args["depth"] - 2) // 6, depth)
    return _again(model, depth=6 * blocks + 2, widths=_all(args["widths"], width))


@shrink_rule.register
def _wide_resnet(model: zoo.WideResNet, *, depth: float, width: float) -> nn.Module:
    args = model.config["args"]
    blocks = scaled((args["depth"] - 4) // 6, depth)
    return _again(model, depth=6 * blocks + 4, width=args["width"] * width)


@shrink_rule.register
def _vgg(model: zoo.VGG, *, depth: float, width: float) -> nn.Module:
    args = model.config["args"]
    return _again(model, convs=_all(args["convs"], depth), widths=_all(args["widths"], width))


@shrink_rule.register
def _mobilenet_v2(model: zoo.MobileNetV2, *, depth: float, width: float) -> nn.Module:
    args = model.config["args"]
    blocks, head = _all(args["blocks"], depth), scaled(args["head"], width)
    return _again(model, blocks=blocks, width=args["width"] * width, head=head)


@shrink_rule.register
def _shufflenet_v1(model: zoo.ShuffleNetV1, *, depth: float, width: float) -> nn.Module:
    args = model.config["args"]
    step = 4 * args["groups"]
    widths: list[int] = []
    for count in args["widths"]:
        least = (widths[-1] if widths else STEM) + step
        widths.append(max(least, scaled(count, width, multiple=step)))
    return _again(model, blocks=_all(args["blocks"], depth), widths=widths)


@shrink_rule.register
def _shufflenet_v2(model: zoo.ShuffleNetV2, *, depth: float, width: float) -> nn.Module:
    args = model.config["args"]
    widths, head = _all(args["widths"], width, multiple=2), scaled(args["head"], width)
    return _again(model, blocks=_all(args["blocks"], depth), widths=widths, head=head)


@shrink_rule.register
def _vit(model: zoo.ViT, *, depth: float, width: float) -> nn.Module:
    args = model.config["args"]
    return _again(model, depth=scaled(args["depth"], depth), **_heads(args, width))


@shrink_rule.register
def _cnn(model: zoo.CNN, *, depth: float, width: float) -> nn.Module:
    args = model.config["args"]
    hidden = _all(_narrowest(args["hidden"], depth), width)
    return _again(model, channels=_all(args["channels"], width), hidden=hidden)


@shrink_rule.register
def _soft_tree(model: zoo.SoftTree, *, depth: float, width: float) -> nn.Module:
    return _again(model, depth=scaled(model.config["args"]["depth"], depth))


@shrink_rule.register
def _frames(model: zoo.Frames, *, depth: float, width: float) -> nn.Module:
    inside: Any = shrink(model.model, depth=depth, width=width)
    return zoo.Frames(inside.config["build"], inside.config["args"])


@shrink_rule.register
def _frames_gru(model: zoo.FramesGRU, *, depth: float, width: float) -> nn.Module:
    args = model.config["args"]
    return _again(
        model, channels=_all(args["channels"], width), hidden=scaled(args["hidden"], width)
    )


@shrink_rule.register
def _two_towers(
    model: zoo.VisualQuestion | zoo.DualEncoder, *, depth: float, width: float
) -> nn.Module:
    args = model.config["args"]
    changes = {name: scaled(args[name], width) for name in ("words", "width")}
    return _again(model, channels=_all(args["channels"], width), **changes)


@shrink_rule.register
def _segmenter(model: zoo.Segmenter, *, depth: float, width: float) -> nn.Module:
    return _again(model, channels=_all(model.config["args"]["channels"], width))


@shrink_rule.register
def _detector(model: zoo.Detector, *, depth: float, width: float) -> nn.Module:
    args = model.config["args"]
    return _again(model, channels=_all(args["channels"], width), neck=scaled(args["neck"], width))


@shrink_rule.register
def _mlp(model: zoo.MLP, *, depth: float, width: float) -> nn.Module:
    return _again(model, hidden=_all(_narrowest(model.config["args"]["hidden"], depth), width))


@shrink_rule.register
def _bag(model: zoo.Bag, *, depth: float, width: float) -> nn.Module:
    args = model.config["args"]
    kept = _narrowest(args["hidden"], depth) if args["hidden"] else []
    return _again(model, width=scaled(args["width"], width), hidden=_all(kept, width))


@shrink_rule.register
def _textcnn(model: zoo.TextCNN, *, depth: float, width: float) -> nn.Module:
    args = model.config["args"]
    features, channels = _all([args["width"], args["channels"]], width)
    return _again(model, width=features, channels=channels)


@shrink_rule.register
def _bilstm(model: zoo.BiLSTM, *, depth: float, width: float) -> nn.Module:
    args = model.config["args"]
    features, hidden = _all([args["width"], args["hidden"]], width)
    return _again(model, width=features, hidden=hidden, layers=scaled(args["layers"], depth))


@shrink_rule.register
def _sasrec(model: zoo.SASRec, *, depth: float, width: float) -> nn.Module:
    args = model.config["args"]
    size = args["width"] // args["heads"]
    wide = scaled(args["width"], width, multiple=size if args["heads"] > 1 else 1)
    heads = wide // size if args["heads"] > 1 else 1
    return _again(model, depth=scaled(args["depth"], depth), width=wide, heads=heads)


@shrink_rule.register
def _gru4rec(model: zoo.GRU4Rec, *, depth: float, width: float) -> nn.Module:
    args = model.config["args"]
    layers, hidden = scaled(args["layers"], depth), scaled(args["hidden"], width)
    return _again(model, layers=layers, width=scaled(args["width"], width), hidden=hidden)


@shrink_rule.register
def _fism(model: zoo.FISM, *, depth: float, width: float) -> nn.Module:
    return _again(model, width=scaled(model.config["args"]["width"], width))


@shrink_rule.register
def _transformer(model: zoo.Transformer, *, depth: float, width: float) -> nn.Module:
    args = model.config["args"]
    return _again(
        model,
        depth=scaled(args["depth"], depth),
        **_heads(args, width),
        hidden=scaled(args["hidden"], width),
    )


@shrink_rule.register
def _seq2seq(model: zoo.Seq2Seq, *, depth: float, width: float) -> nn.Module:
    args = model.config["args"]
    return _again(
        model,
        depth=scaled(args["depth"], depth),
        decoder_depth=scaled(args["decoder_depth"], depth),
        **_heads(args, width),
        hidden=scaled(args["hidden"], width),
    )


@shrink_rule.register
def _hearing(model: zoo.Hearing, *, depth: float, width: float) -> nn.Module:
    args = model.config["args"]
    changes = {"depth": scaled(args["depth"], depth)}
    if "heads" not in args:
        return _again(model, **changes, width=scaled(args["width"], width, multiple=2))
    return _again(model, **changes, **_heads(args, width))


def _heads(args: Mapping[str, Any], width: float) -> dict[str, int]:
    """Return fewer heads, each as wide as before, and the width of all together."""
    heads = scaled(args["heads"], width)
    return {"heads": heads, "width": heads * (args["width"] // args["heads"])}


def _again(model: Any, **changes: Any) -> nn.Module:
    """Return a new model like ``model`` but for ``changes``."""
    return zoo.build(model.config["build"], **{**model.config["args"], **changes})


def _all(counts: list[int], fraction: float, *, multiple: int = 1) -> list[int]:
    return [scaled(count, fraction, multiple=multiple) for count in counts]


def _narrowest(hidden: list[int], fraction: float) -> list[int]:
    """Return that fraction of the layers, the narrowest of them, in their order."""
    kept = scaled(len(hidden), fraction)
    places = sorted(range(len(hidden)), key=hidden.__getitem__)[:kept]
    return [hidden[place] for place in sorted(places)]


def _check(name: str, fraction: Any) -> None:
    if not isinstance(fraction, int | float) or not 0 < fraction <= 1:
        raise InputError(
            f"{name} is {fraction!r}",
            expected="a fraction of what the model has, above 0 and at most 1",
        )
