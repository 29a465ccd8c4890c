"""Sources that are arrays already: scikit-learn's digits, NumPy files.

Letters: N samples, C channels, H×W pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.data.samples import Arrays
from limbeck.data.sources.split import complete
from limbeck.data.splits import Data
from limbeck.errors import InputError

__all__ = ["digits", "numpy"]


def digits(
    *, validation: float = 0.15, test: float = 0.2, seed: int = 0, limit: int | None = None
) -> Data:
    """Handwritten digits, 1,797 real images of 8×8 pixels in 10 classes, bundled with scikit-learn.

    Args:
        validation: fraction of what is not test data.
        test: fraction of all.
        seed: of both cuts.
        limit: at most so many training samples, and half as many of the others.

    Source: Alpaydin, Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI repository.

    >>> len(digits().test)
    359
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    scaled = torch.from_numpy(images.astype(np.float32) / 16).view(-1, 1, 8, 8)
    everything = Arrays.of(inputs=scaled, targets=torch.from_numpy(labels).long())
    names = tuple(str(digit) for digit in range(10))
    cuts: dict[str, Any] = {"validation": validation, "test": test, "seed": seed, "limit": limit}
    return complete({"train": everything}, names, "digits", **cuts)


def numpy(
    path: str | Path,
    *,
    labels: tuple[str, ...] = (),
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    limit: int | None = None,
) -> Data:
    """Arrays in an ``.npz`` file: ``x_train``, ``y_train``, and so on for ``val`` and ``test``.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W), whole numbers from 0 to 255 or floating;
    other arrays keep their shape. Labels are (N,) whole numbers, or (N, C) zeros and ones for
    several of each sample. Splits that are absent are cut from the training samples. Nothing is
    unpickled.

    Args:
        path: the file.
        labels: the classes' names; by default their numbers.
        validation: fraction of the training samples, if there is no ``x_val``.
        test: fraction of the training samples, if there is no ``x_test``.
        seed: of the cuts.
        limit: at most so many training samples, and half as many of the others.

    Raises:
        InputError: the file is missing, is not an ``.npz``, or lacks the training arrays; images
            are whole numbers outside 0 to 255; a label is no whole number.
    """
    path = Path(path)
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            stored = {name: archive[name] for name in archive.files}
    except Exception as error:  # A damaged archive can raise anything.
        raise InputError(
            f"{path} could not be read as .npz: {error}",
            expected="a file written by numpy.savez with x_train and y_train",
        ) from error
    keys = {"train": "train", "validation": "val", "test": "test"}
    found = {
        split: Arrays.of(inputs=_images(stored[f"x_{key}"]), targets=_labels(stored[f"y_{key}"]))
        for split, key in keys.items()
        if f"x_{key}" in stored and f"y_{key}" in stored
    }
    if "train" not in found:
        raise InputError(f"{path} holds {sorted(stored)}", expected="x_train and y_train")
    cuts: dict[str, Any] = {"validation": validation, "test": test, "seed": seed, "limit": limit}
    return complete(found, labels, path.stem, **cuts)


def _images(array: np.ndarray) -> Tensor:
    """Return (N, C, H, W) for what looks like images, as uint8 if they are whole numbers."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if tensor.ndim == 3:
        tensor = tensor.unsqueeze(1)
    elif tensor.ndim == 4 and tensor.shape[-1] in (1, 3, 4) and tensor.shape[1] not in (1, 3, 4):
        tensor = tensor.permute(0, 3, 1, 2).contiguous()
    if tensor.dtype == torch.uint8 or tensor.is_floating_point() or tensor.ndim != 4:
        return tensor if tensor.dtype == torch.uint8 else tensor.float()
    low, high = int(tensor.min()), int(tensor.max())
    if low < 0 or high > 255:
        raise InputError(
            f"images of whole numbers from {low} to {high}",
            expected="0 to 255, or floating-point numbers",
            remedy="Scale them to floating-point numbers from 0 to 1.",
        )
    return tensor.to(torch.uint8)


def _labels(array: np.ndarray) -> Tensor:
    """Return (N,) int64 class numbers; (N, C) with C above 1, several labels each, as float32."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if tensor.ndim == 2 and tensor.shape[1] > 1:
        return tensor.float()
    if tensor.is_floating_point() and (broken := tensor[tensor != tensor.round()]).numel():
        raise InputError(
            f"the label {broken[0].item():g}",
            expected="whole numbers, those of classes",
            consequence="What stands behind the point would be lost.",
            remedy="To predict numbers, use the source table with data.args.amounts.",
        )
    return tensor.long().flatten()
