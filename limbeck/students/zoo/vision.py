"""Models for images of other libraries, by their names there: timm's and torchvision's.

Letters: B samples, C classes or channels, H×W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from limbeck.errors import InputError, unknown
from limbeck.imports import needed

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

    Args:
        name: of the architecture: ``resnet18``, ``mobilenet_v3_small``, ``vit_b_16``, ...
        classes: number of logits.
        settings: of the model's function, ``image_size`` for example.

    Raises:
        InputError: torchvision cannot be imported, as where its build does not fit PyTorch's, or
            has no such model; near names are listed.

    Source: github.com/pytorch/vision.
    """
    models = needed("torchvision", "vision").models
    asked = {"weights": None, "num_classes": classes, **settings}
    return _made("torchvision", models.get_model, name, models.list_models(), asked)


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
