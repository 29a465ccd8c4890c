"""Samples with stable ids, and augmentation as a pure function of (seed, sample id, view)."""

from limbeck.data import sources
from limbeck.data.augment import Augmentation, Crop, Cutout, Flip, operation
from limbeck.data.jagged import Jagged
from limbeck.data.loader import Loader
from limbeck.data.preprocess import CIFAR10, IMAGENET, Normalize
from limbeck.data.samples import Arrays, Batch, Items, Samples, as_samples
from limbeck.data.splits import Data, carve

__all__ = [
    "CIFAR10",
    "IMAGENET",
    "Arrays",
    "Augmentation",
    "Batch",
    "Crop",
    "Cutout",
    "Data",
    "Flip",
    "Items",
    "Jagged",
    "Loader",
    "Normalize",
    "Samples",
    "as_samples",
    "carve",
    "operation",
    "sources",
]
