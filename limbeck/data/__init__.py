"""Samples with stable ids, and augmentation as a pure function of (seed, sample id, view)."""

from limbeck.data import sources
from limbeck.data.augment import Augmentation, Crop, Cutout, Flip, operation
from limbeck.data.jagged import Jagged
from limbeck.data.loader import Loader
from limbeck.data.mix import CutMix, Mixup
from limbeck.data.preprocess import CIFAR10, IMAGENET, Normalize
from limbeck.data.resize import ResizedCrop
from limbeck.data.samples import Arrays, Batch, Items, Samples, as_samples
from limbeck.data.shared import Shared
from limbeck.data.splits import UNLABELLED, Data, carve, repeated, with_labels

__all__ = [
    "CIFAR10",
    "IMAGENET",
    "UNLABELLED",
    "Arrays",
    "Augmentation",
    "Batch",
    "Crop",
    "CutMix",
    "Cutout",
    "Data",
    "Flip",
    "Items",
    "Jagged",
    "Loader",
    "Mixup",
    "Normalize",
    "ResizedCrop",
    "Samples",
    "Shared",
    "as_samples",
    "carve",
    "operation",
    "repeated",
    "sources",
    "with_labels",
]
