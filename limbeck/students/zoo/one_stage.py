"""Detectors of torchvision that look once, as detectors that answer with a set of boxes.

Letters: B samples, A anchors or places, C classes, H×W pixels.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.students.zoo.queried import odds

__all__ = ["OneStage"]


@final
class OneStage(nn.Module):
    """An FCOS or a RetinaNet of torchvision: images (B, 3, H, W) to a box at each anchor.

    It returns what :class:`limbeck.students.zoo.queried.Queried` does, with an anchor (a place, in
    FCOS) for each query: ``logits`` (B, A, C + 4), ``classes`` (B, A, C) and ``boxes`` (B, A, 4).
    What torchvision does before and after is left out: pictures are not resized nor normalised (a
    recipe says so, with ``normalize``), and no box is dropped. So it needs none of torchvision's
    compiled operators. The probability of a class is that which torchvision ranks boxes by: in FCOS
    the square root of the class's times that of being in the middle.

    Args:
        module: a ``torchvision.models.detection.FCOS`` or ``RetinaNet`` with C + 1 classes, of
            which the first is the background, as torchvision counts; it is left out.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Return the classes and the box of each anchor."""
        model: Any = self.module
        maps = list(model.backbone(images_BCHW).values())
        said = model.head(maps)
        boxes = self._boxes(images_BCHW, maps, said["bbox_regression"].float())
        scores = said["cls_logits"].float()[..., 1:]
        if "bbox_ctrness" in said:
            middle = F.logsigmoid(said["bbox_ctrness"].float())
            scores = odds((F.logsigmoid(scores) + middle) / 2)
        return {"logits": torch.cat([scores, boxes], dim=2), "classes": scores, "boxes": boxes}

    def _boxes(self, images: Tensor, maps: list[Tensor], steps: Tensor) -> Tensor:
        """Return middle, width and height of each anchor's box, as shares of the picture."""
        model: Any = self.module
        size = images.shape[2], images.shape[3]
        lists = import_module("torchvision.models.detection.image_list")
        [anchors] = model.anchor_generator(lists.ImageList(images[:1], [size]), maps)
        flat = anchors.repeat(len(images), 1)
        coder = model.box_coder
        decode = getattr(coder, "decode_single", coder.decode)  # RetinaNet's takes single pictures
        corners = decode(steps.flatten(0, 1), flat).view_as(steps)
        low, high = corners.split(2, dim=2)
        down, across = size
        scale = steps.new_tensor([across, down, across, down])
        return torch.cat([(low + high) / 2, high - low], dim=2) / scale
