"""A plain convolutional network: the smallest student for images, and one without batch norm.

Letters: B samples, C channels or classes, H×W positions.

Every sample is computed by itself, so a batch split over several processes trains exactly as it
does in one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.students.zoo._parts import Config, whole, wholes

__all__ = ["CNN", "cnn"]


def cnn(
    channels: Sequence[int] = (32,),
    hidden: Sequence[int] = (128,),
    image: Sequence[int] = (3, 32, 32),
    classes: int = 10,
) -> CNN:
    """Return a CNN: 3×3 convolutions with ReLU and max-pooling, then linear layers with ReLU.

    Args:
        channels: channels of each convolution; may be empty.
        hidden: features of each hidden linear layer; may be empty.
        image: channels, height and width of the image. The linear layers depend on the size.
        classes: number of logits.

    Raises:
        InputError: the image is too small to be halved so often.

    PyTorch's initialisation.

    >>> sum(p.numel() for p in cnn((8,), (16,), (1, 8, 8), 10).parameters())
    2314
    """
    return CNN(channels, hidden, image, classes)


@final
class CNN(nn.Module):
    """Images (B, C, H, W) of one size to logits (B, C).

    Taps: ``conv1``, ``conv1_relu``, ``pool1``, ``conv2``, ..., ``flatten``, ``fc1``, ``fc1_relu``,
    ..., ``classifier``. Arguments: see :func:`cnn`.
    """

    def __init__(
        self, channels: Sequence[int], hidden: Sequence[int], image: Sequence[int], classes: int
    ) -> None:
        super().__init__()
        self.config = _config(channels, hidden, image, classes)
        args = self.config["args"]
        before, height, width = args["image"]
        for index, after in enumerate(args["channels"], 1):
            self.add_module(f"conv{index}", nn.Conv2d(before, after, 3, padding=1))
            self.add_module(f"conv{index}_relu", nn.ReLU())
            self.add_module(f"pool{index}", nn.MaxPool2d(2))
            before, height, width = after, height // 2, width // 2
        self.flatten = nn.Flatten()
        before *= height * width
        for index, after in enumerate(args["hidden"], 1):
            self.add_module(f"fc{index}", nn.Linear(before, after))
            self.add_module(f"fc{index}_relu", nn.ReLU())
            before = after
        self.classifier = nn.Linear(before, classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return logits (B, C)."""
        x = images_BCHW
        for layer in self.children():
            x = layer(x)
        return x


def _config(
    channels: Sequence[int], hidden: Sequence[int], image: Sequence[int], classes: int
) -> Config:
    convolutions, shape = wholes("channels", channels), wholes("image", image, length=3)
    if min(shape[1:]) >> len(convolutions) < 1:
        raise InputError(
            f"an image of {shape[1]}×{shape[2]} halved {len(convolutions)} times is empty",
            expected="at most one entry of channels for each time that the image can be halved",
        )
    args = {
        "channels": convolutions,
        "hidden": wholes("hidden", hidden),
        "image": shape,
        "classes": whole("classes", classes),
    }
    return {"build": "cnn", "args": args}
