"""Small reference models, by name: students to begin with, and the networks of published tables.

=========================================  ========================================================
name                                       model
=========================================  ========================================================
``resnet8`` ... ``resnet110``              CIFAR ResNet as in the CIFAR-100 distillation benchmark
``resnet8x4``, ``resnet32x4``              the same, four times wider
``wrn_16_1`` ... ``wrn_40_2``              wide ResNet: depth, then width
``vgg8`` ... ``vgg19``                     VGG with batch norm and one linear layer
``mobilenet_v2``                           half width, expansion 6
``shufflenet_v1``, ``shufflenet_v2``       of size 1×
``cnn``, ``mlp``                           plain, without batch norm
``vit``                                    Vision Transformer for small images
``soft_tree``                              a decision tree that gradients train
``resnet``, ``wide_resnet``, ``vgg``       the families, of any size
``bag``                                    text: the mean of static embeddings
``textcnn``, ``bilstm``                    text: convolutions; an LSTM in both directions
``transformer``                            text: a small encoder
``seq2seq``                                translation: an encoder and a decoder
``huggingface``                            texts and pictures: a model of ``transformers``
``timm``, ``torchvision``                  images: a model of theirs, by ``name``
``detector``                               images: boxes, without anchors, after GFL
``segmenter``                              images: a class for each pixel, a small U-Net
``audiocnn``, ``audiogru``                 sound: causal convolutions; gated recurrent units
``conv_transformer``                       sound: convolutions and attention, a teacher
``frames``, ``frames_gru``                 clips: a model of pictures on each frame; a small GRU
``sasrec``, ``gru4rec``, ``fism``          histories of items: attention; GRU; a factorisation
``visual_question``                        pictures and questions to answers
``dual_encoder``                           pictures and texts, embedded in one space
=========================================  ========================================================

The benchmark is that of Tian et al. 2020, "Contrastive Representation Distillation",
arXiv:1910.10699, whose ResNets have convolutional shortcuts (option B). The pretrained CIFAR-10
ResNets of github.com/akamaster/pytorch_resnet_cifar10 have shortcuts without parameters (option A):
``build("resnet20", shortcut="A")`` loads their weights.

A model takes float images (B, C, H, W), samples (B, D) for ``mlp``, or ``input_ids`` and
``attention_mask`` (B, T) for text, or ``waveform`` and ``mask`` (B, S) for sound, and returns
logits (B, C), or (B, T, C) for frames of sound; those of Hugging Face return them in a mapping.
The ``config`` of our own builds them again, untrained:
``build(config["build"], **config["args"])``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.errors import InputError, unknown
from limbeck.students.zoo.audio import Hearing, audiocnn, audiogru, conv_transformer
from limbeck.students.zoo.cnn import CNN, cnn
from limbeck.students.zoo.detector import Detector, detector
from limbeck.students.zoo.huggingface import files as _huggingface_files
from limbeck.students.zoo.huggingface import huggingface
from limbeck.students.zoo.huggingface import portable as _huggingface_portable
from limbeck.students.zoo.mlp import MLP, mlp
from limbeck.students.zoo.mobilenet import MobileNetV2, mobilenet_v2
from limbeck.students.zoo.recommenders import (
    FISM,
    GRU4Rec,
    SASRec,
    fism,
    gru4rec,
    sasrec,
)
from limbeck.students.zoo.resnet import ResNet, benchmark_resnet, resnet
from limbeck.students.zoo.segmenter import Segmenter, segmenter
from limbeck.students.zoo.seq2seq import Seq2Seq, seq2seq
from limbeck.students.zoo.shufflenet import (
    ShuffleNetV1,
    ShuffleNetV2,
    shufflenet_v1,
    shufflenet_v2,
)
from limbeck.students.zoo.text import Bag, BiLSTM, TextCNN, bag, bilstm, textcnn
from limbeck.students.zoo.transformer import Transformer, transformer
from limbeck.students.zoo.tree import SoftTree, soft_tree
from limbeck.students.zoo.vgg import VGG, vgg
from limbeck.students.zoo.video import Frames, FramesGRU, frames, frames_gru
from limbeck.students.zoo.vision import timm, torchvision
from limbeck.students.zoo.visual import (
    DualEncoder,
    VisualQuestion,
    dual_encoder,
    visual_question,
)
from limbeck.students.zoo.vit import ViT, vit
from limbeck.students.zoo.wide_resnet import WideResNet, wide_resnet

__all__ = [
    "CNN",
    "FISM",
    "MLP",
    "VGG",
    "Bag",
    "BiLSTM",
    "Detector",
    "DualEncoder",
    "Frames",
    "FramesGRU",
    "GRU4Rec",
    "Hearing",
    "MobileNetV2",
    "ResNet",
    "SASRec",
    "Segmenter",
    "Seq2Seq",
    "ShuffleNetV1",
    "ShuffleNetV2",
    "SoftTree",
    "TextCNN",
    "Transformer",
    "ViT",
    "VisualQuestion",
    "WideResNet",
    "arguments",
    "audiocnn",
    "audiogru",
    "bag",
    "bilstm",
    "build",
    "cnn",
    "conv_transformer",
    "dual_encoder",
    "files",
    "fism",
    "frames",
    "frames_gru",
    "gru4rec",
    "huggingface",
    "mlp",
    "mobilenet_v2",
    "names",
    "portable",
    "resnet",
    "sasrec",
    "segmenter",
    "seq2seq",
    "shufflenet_v1",
    "shufflenet_v2",
    "soft_tree",
    "textcnn",
    "timm",
    "torchvision",
    "transformer",
    "vgg",
    "visual_question",
    "vit",
    "wide_resnet",
]

_NARROW, _FOUR_TIMES = (16, 16, 32, 64), (32, 64, 128, 256)

_FACTORIES: dict[str, Callable[..., nn.Module]] = {
    "audiocnn": audiocnn,
    "audiogru": audiogru,
    "bag": bag,
    "bilstm": bilstm,
    "cnn": cnn,
    "conv_transformer": conv_transformer,
    "detector": detector,
    "fism": fism,
    "frames": frames,
    "frames_gru": frames_gru,
    "gru4rec": gru4rec,
    "dual_encoder": dual_encoder,
    "huggingface": huggingface,
    "mlp": mlp,
    "mobilenet_v2": mobilenet_v2,
    "resnet": resnet,
    "resnet8": partial(benchmark_resnet, 8, _NARROW),
    "resnet14": partial(benchmark_resnet, 14, _NARROW),
    "resnet20": partial(benchmark_resnet, 20, _NARROW),
    "resnet32": partial(benchmark_resnet, 32, _NARROW),
    "resnet44": partial(benchmark_resnet, 44, _NARROW),
    "resnet56": partial(benchmark_resnet, 56, _NARROW),
    "resnet110": partial(benchmark_resnet, 110, _NARROW),
    "resnet8x4": partial(benchmark_resnet, 8, _FOUR_TIMES),
    "resnet32x4": partial(benchmark_resnet, 32, _FOUR_TIMES),
    "sasrec": sasrec,
    "segmenter": segmenter,
    "seq2seq": seq2seq,
    "shufflenet_v1": shufflenet_v1,
    "shufflenet_v2": shufflenet_v2,
    "soft_tree": soft_tree,
    "textcnn": textcnn,
    "timm": timm,
    "torchvision": torchvision,
    "transformer": transformer,
    "vgg": vgg,
    "vgg8": partial(vgg, (1, 1, 1, 1, 1)),
    "vgg11": partial(vgg, (1, 1, 2, 2, 2)),
    "vgg13": partial(vgg, (2, 2, 2, 2, 2)),
    "vgg16": partial(vgg, (2, 2, 3, 3, 3)),
    "vgg19": partial(vgg, (2, 2, 4, 4, 4)),
    "visual_question": visual_question,
    "vit": vit,
    "wide_resnet": wide_resnet,
    "wrn_16_1": partial(wide_resnet, 16, 1),
    "wrn_16_2": partial(wide_resnet, 16, 2),
    "wrn_40_1": partial(wide_resnet, 40, 1),
    "wrn_40_2": partial(wide_resnet, 40, 2),
}

_PORTABLE: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "huggingface": _huggingface_portable
}
_FILES: dict[str, Callable[[Mapping[str, Any]], list[Path]]] = {"huggingface": _huggingface_files}


def portable(name: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments that build the same model, untrained, without the files it came from."""
    return _PORTABLE.get(name, dict)(args)


def files(name: str, args: Mapping[str, Any]) -> list[Path]:
    """Return the files that a model is made from; most are made from their arguments alone."""
    return _FILES[name](args) if name in _FILES else []


def names() -> list[str]:
    """Return the names of all models, sorted.

    >>> names()[:3]
    ['audiocnn', 'audiogru', 'bag']
    """
    return sorted(_FACTORIES)


def arguments(name: str) -> list[str]:
    """Return the names of the arguments that the model of that name takes.

    >>> arguments("mlp")
    ['features', 'hidden', 'classes']
    """
    if name not in _FACTORIES:
        raise unknown("zoo model", name, _FACTORIES)
    return list(inspect.signature(_FACTORIES[name]).parameters)


def build(name: str, /, **args: Any) -> nn.Module:
    """Return a new, untrained model of that name.

    Args:
        name: one of :func:`names`.
        args: the arguments of its factory, such as ``classes``.

    Raises:
        InputError: the name is unknown (near ones are listed), an argument is unknown or missing
            (all are listed), or a value does not fit.

    >>> build("resnet8x4", classes=100).config["args"]["widths"]
    [32, 64, 128, 256]
    """
    arguments(name)
    factory = _FACTORIES[name]
    signature = inspect.signature(factory)
    try:
        signature.bind(**args)
    except TypeError as error:
        raise InputError(f"zoo model {name!r}: {error}", expected=_listed(signature)) from error
    return factory(**args)


def _listed(signature: inspect.Signature) -> str:
    """Return the parameters with their defaults, as one would write them."""
    return ", ".join(
        parameter.name
        if parameter.default is parameter.empty
        else f"{parameter.name}={parameter.default!r}"
        for parameter in signature.parameters.values()
    )
