"""Models for images of other libraries, by their names there: timm's and torchvision's.

Letters: B samples, C classes or channels, H×W pixels.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from limbeck.errors import InputError, unknown
from limbeck.imports import needed
from limbeck.students.zoo.one_stage import OneStage

__all__ = ["timm", "torchvision"]


def timm(name: str, *, classes: int = 10, channels_in: int = 3, **settings: Any) -> nn.Module:
    """Return a model of timm, untrained. Needs the extra ``limbeck[vision]``.

    Nothing is downloaded. Name a file of weights as the recipe's ``weights``: safetensors, or a
    checkpoint that holds nothing but tensors, with a head for these classes.

    Args:
        name: of the architecture: ``resnet18``, ``vit_tiny_patch16_224``, ...
        classes: number of logits.
        channels_in: channels of the image.
        settings: of ``timm.create_model``, ``img_size`` for example.

    Raises:
        InputError: timm cannot be imported, or has no such model; near names are listed.

    Source: Wightman 2019, "PyTorch Image Models", github.com/huggingface/pytorch-image-models.
    """
    library = needed("timm", "vision")
    known = library.list_models()
    asked = {"pretrained": False, "num_classes": classes, "in_chans": channels_in, **settings}
    return _made("timm", library.create_model, name, known, asked)


def torchvision(name: str, *, classes: int = 10, **settings: Any) -> nn.Module:
    """Return a model of torchvision, untrained. Needs the extra ``limbeck[vision]``.

    Nothing is downloaded; weights as for :func:`timm`.

    Of its detectors, those that look once, ``fcos_resnet50_fpn``, ``retinanet_resnet50_fpn`` and
    its second version, answer as :class:`limbeck.students.zoo.one_stage.OneStage`, and have a
    class more than is said here, the background, as weights that were trained with torchvision
    have. Its models for segmentation answer at each pixel.

    Args:
        name: of the architecture: ``resnet18``, ``mobilenet_v3_small``, ``vit_b_16``, ...
        classes: number of logits.
        settings: of the model's function, ``image_size`` for example.

    Raises:
        InputError: torchvision cannot be imported, as where its build does not fit PyTorch's, or
            has no such model; near names are listed; or the model is a detector that looks twice.

    Source: github.com/pytorch/vision.
    """
    models = needed("torchvision", "vision").models
    known, detectors = models.list_models(), models.list_models(module=models.detection)
    asked = {"weights": None, "num_classes": classes + (name in detectors), **settings}
    if name in known:
        taken = inspect.signature(models.get_model_builder(name)).parameters
        asked = {key: None for key in taken if key == "weights_backbone"} | asked
    made = _made("torchvision", models.get_model, name, known, asked)
    if name not in detectors:
        return made
    if not isinstance(made, (models.detection.FCOS, models.detection.RetinaNet)):
        raise InputError(
            f"torchvision's {name}",
            expected="a detector that looks once, with a yes or no for each class: "
            "fcos_resnet50_fpn, retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2",
            consequence="The others drop boxes before their last layers: nothing could be learnt "
            "from what they drop.",
        )
    return OneStage(made)


def _made(
    library: str,
    create: Callable[..., nn.Module],
    name: str,
    known: Sequence[str],
    asked: dict[str, Any],
) -> nn.Module:
    if name not in known:
        raise unknown(f"model of {library}:", name, known)
    try:
        return create(name, **asked)
    except Exception as error:  # What a model of theirs raises at wrong settings, nobody knows.
        raise InputError(
            f"{library} could not make {name}: {type(error).__name__}: {error}",
            expected=f"settings that it takes; it got {asked}",
        ) from error
