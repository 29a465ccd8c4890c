"""Detectors of ``transformers``, which answer with a set of boxes.

Letters: B samples, Q queries, C classes, H×W pixels.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

__all__ = ["Queried", "odds"]

_LEAST = 1e-6  # of what is left to other classes, so that odds stay finite


@final
class Queried(nn.Module):
    """A detector with object queries: images (B, 3, H, W) to what each query found.

    It returns ``logits``, as the task ``detection`` wants them, and two parts of them to be
    matched:

    - ``logits`` (B, Q, K + 4): K numbers for the classes, then middle across, middle down, width
      and height of the box, as shares of the picture. K is C where each class is a yes or no by
      itself (Conditional and Deformable DETR, RT-DETR), and C + 1 where they exclude one another
      and the last is no object at all (DETR, YOLOS);
    - ``classes`` (B, Q, C): the logit of each class as a yes or no, for both kinds;
    - ``boxes`` (B, Q, 4).

    Args:
        module: a model of ``transformers`` for object detection.
        classes: C.
    """

    def __init__(self, module: nn.Module, classes: int) -> None:
        super().__init__()
        self.module = module
        self.classes = classes
        self.config: Any = module.config

    def forward(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Return what each query found."""
        found = self.module(pixel_values=images_BCHW)
        scores, boxes = found.logits.float(), found.pred_boxes.float()
        single = scores.shape[2] == self.classes
        return {
            "logits": torch.cat([scores, boxes], dim=2),
            "classes": scores if single else odds(scores.log_softmax(-1))[..., :-1],
            "boxes": boxes,
        }


def odds(log_p: Tensor) -> Tensor:
    """Return log p − log (1 − p), the logit of a yes or no, for the logarithms of probabilities.

    >>> odds(torch.tensor([0.5, 0.3, 0.2]).log()).sigmoid()
    tensor([0.5000, 0.3000, 0.2000])
    """
    return log_p - (-log_p.expm1()).clamp(min=_LEAST).log()
