"""Data of one's own: a function that returns (train, test), or (train, validation, test).

Each may be a pair of arrays (inputs, targets), or any ``torch.utils.data.Dataset``.
"""

from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def make(test: float = 0.25) -> tuple[Any, Any]:
    images, labels = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(
        images.astype(np.float32) / 16, labels, test_size=test, random_state=0, stratify=labels
    )
    return (x, y), (x_test, y_test)
