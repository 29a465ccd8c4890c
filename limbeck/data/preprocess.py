"""What a model does to its inputs before it looks at them.

Letters: B samples, C channels, H×W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError

__all__ = ["CIFAR10", "IMAGENET", "Normalize", "Statistics"]

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR10: Statistics = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


class Normalize(nn.Module):
    """Subtract a mean and divide by a standard deviation per channel: (x − mean) / std.

    Args:
        mean: C numbers, in the units of the input (0 to 1 for images).
        std: C numbers, above 0.
        size: the height and width to which images of another size are resized first, bilinearly
            and without aliasing (as Pillow does); ``None`` keeps them.

    >>> Normalize((0.5,), (0.5,))(torch.ones(1, 1, 2, 2)).unique()
    tensor([1.])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], size: int | None = None
    ) -> None:
        super().__init__()
        self.size = size
        if size is not None and size < 1:
            raise InputError(f"size is {size}", expected="a number of pixels, at least 1")
        if len(mean) != len(std) or min(std, default=0.0) <= 0:
            raise InputError(
                f"mean {list(mean)} and std {list(std)}",
                expected="one mean and one std above 0 per channel",
            )
        for name, values in (("mean", mean), ("std", std)):
            shaped = torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(name, shaped, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return normalised images (B, C, H, W)."""
        if not isinstance(images, Tensor):
            raise InputError(
                f"normalisation of inputs that are a mapping of {', '.join(map(str, images))}",
                expected="images alone, (B, C, H, W)",
                remedy="Leave normalize out: models that take several inputs do it themselves.",
            )
        if self.size is not None and images.shape[-2:] != (self.size, self.size):
            wanted = (self.size, self.size)
            images = F.interpolate(images, wanted, mode="bilinear", antialias=True)
        return (images - self.mean) / self.std

    def extra_repr(self) -> str:
        """Show the numbers, which fingerprints rely on."""
        told = f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"
        return told if self.size is None else f"{told}, size={self.size}"
