"""The multilayer perceptron: the smallest student for tables, flattened images and other vectors.

Letters: B samples, C classes, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch import Tensor, nn

from limbeck.students.zoo._parts import Config, whole, wholes

__all__ = ["MLP", "mlp"]


def mlp(features: int, hidden: Sequence[int] = (128, 64), *, classes: int) -> MLP:
    """Return an MLP: linear layers with ReLU between them.

    Args:
        features: numbers in one sample, counted over all of its dimensions.
        hidden: features of each hidden layer; may be empty, which leaves logistic regression.
        classes: number of logits.

    PyTorch's initialisation.

    >>> sum(p.numel() for p in mlp(64, (32,), classes=10).parameters())
    2410
    """
    return MLP(features, hidden, classes)


@final
class MLP(nn.Module):
    """Samples (B, D), or (B, ...) with D numbers each, to logits (B, C).

    Taps: ``fc1``, ``fc1_relu``, ``fc2``, ..., ``classifier``. Arguments: see :func:`mlp`.
    """

    def __init__(self, features: int, hidden: Sequence[int], classes: int) -> None:
        super().__init__()
        self.config = _config(features, hidden, classes)
        self.flatten = nn.Flatten()
        before = features
        for index, after in enumerate(self.config["args"]["hidden"], 1):
            self.add_module(f"fc{index}", nn.Linear(before, after))
            self.add_module(f"fc{index}_relu", nn.ReLU())
            before = after
        self.classifier = nn.Linear(before, classes)

    def forward(self, samples: Tensor) -> Tensor:
        """Return logits (B, C)."""
        x = samples
        for layer in self.children():
            x = layer(x)
        return x


def _config(features: int, hidden: Sequence[int], classes: int) -> Config:
    args = {
        "features": whole("features", features),
        "hidden": wholes("hidden", hidden),
        "classes": whole("classes", classes),
    }
    return {"build": "mlp", "args": args}
