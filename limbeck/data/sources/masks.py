"""Pictures with masks, as folders of files: the class of each pixel is a number in a PNG.

Letters: N pictures, C channels, H×W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from limbeck.data.samples import Arrays, Samples, pixels
from limbeck.data.sources.encoded import opened
from limbeck.data.sources.images import PICTURES
from limbeck.data.sources.placed import IGNORED_PIXEL, check_memory, fitted, placed
from limbeck.data.sources.split import complete
from limbeck.data.sources.tables import SPLITS, folder_of
from limbeck.data.splits import Data
from limbeck.errors import InputError

__all__ = ["mask_folder"]

Pair: TypeAlias = tuple[Path, Path]
_NAMES = "classes.txt"
_NUMBERED = ("1", "L", "P", "I", "I;16")  # Pillow's modes with one whole number for each pixel


def mask_folder(
    path: str | Path,
    *,
    names: Sequence[str] = (),
    size: int = 0,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    limit: int | None = None,
) -> Data:
    """Pictures and masks as files, for the task ``segmentation``.

    In the folder lie ``images/`` and ``masks/``, with a mask for each picture: a file of the same
    name, but for what follows the last dot. Splits have folders of their own, above or below:
    ``train/images/`` and ``train/masks/``, or ``images/train/`` and ``masks/train/``; without any,
    all are training pictures. In a mask the colour's number (of a palette) or the grey value is the
    class of the pixel, and 255 says that it has none. All pictures are held in memory.

    Pictures are resized to fit, their shape kept, and filled up with black at the right and below,
    where pixels have no label.

    Args:
        path: the folder.
        names: of the classes, in the order of their numbers. By default the lines of
            ``classes.txt`` in the folder; without it, numbers up to the highest in a training mask.
        size: H = W after resizing; 0 keeps the size, which must then be the same in all.
        validation: fraction of the training pictures, if there is no folder for validation.
        test: fraction of the training pictures, if there is no folder for testing.
        seed: of the cuts.
        limit: at most so many training pictures, and half as many of the others; others are not
            read.

    Raises:
        InputError: a folder, a picture or a mask is missing or damaged; a mask has another size
            than its picture, colours in the place of numbers, or a class without a name; the
            pictures do not fit in memory.
    """
    folder = folder_of(path, "images and masks")
    pairs = {split: _pairs(*roots) for split, roots in _roots(folder).items()}
    rows: dict[str, Samples] = {
        split: Arrays.of(targets=torch.zeros(len(found))) for split, found in pairs.items()
    }
    cuts = complete(
        rows, ("",), folder.name, validation=validation, test=test, seed=seed, limit=limit
    )
    known = _known(folder, names)
    train = _read(pairs["train"], cuts.train, size)
    labels = known or _numbers(train, folder)
    sets = {"train": train}
    for split in ("validation", "test"):
        own = pairs.get(split, pairs["train"])
        sets[split] = _read(own, getattr(cuts, split), size, train)
    for split, found in sets.items():
        own = pairs.get(split, pairs["train"])
        _check_classes(found, own, labels)
    return Data(sets["train"], sets["validation"], sets["test"], labels=labels, name=folder.name)


def _roots(folder: Path) -> dict[str, Pair]:
    """Return the folders of pictures and of masks of each split."""
    found: dict[str, Pair] = {}
    for split, aliases in SPLITS.items():
        for name in aliases:
            above = folder / name / "images", folder / name / "masks"
            below = folder / "images" / name, folder / "masks" / name
            for images, masks in (above, below):
                if images.is_dir():
                    found.setdefault(split, (images, masks))
    if not found and (folder / "images").is_dir():
        found["train"] = folder / "images", folder / "masks"
    if "train" not in found:
        listed = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8])
        raise InputError(
            f"{folder} holds {listed or 'nothing'}",
            expected="images and masks, or train/images and train/masks",
        )
    return found


def _pairs(images: Path, masks: Path) -> list[Pair]:
    """Return the pictures in a folder, in the order of their names, each with its mask."""
    if not masks.is_dir():
        raise InputError(f"there is no folder {masks}", expected=f"the masks of {images}")
    pictures = _files(images, PICTURES)
    found = _files(masks, {".png"})
    for one, other, what in ((pictures, found, "mask"), (found, pictures, "picture")):
        missing = sorted(one.keys() - other.keys())
        if missing:
            where = masks if what == "mask" else images
            raise InputError(
                f"{len(missing)} of {len(one)} files in {one[missing[0]].parent} have no {what}, "
                f"{one[missing[0]].name} for example",
                expected=f"a file {missing[0]} in {where}, a PNG if it is a mask",
            )
    if not pictures:
        raise InputError(
            f"{images} holds no pictures", expected=f"files {', '.join(sorted(PICTURES))}"
        )
    return [(pictures[name], found[name]) for name in sorted(pictures)]


def _files(root: Path, suffixes: set[str]) -> dict[str, Path]:
    """Return the files of a folder by their names without the suffix."""
    listed = sorted(root.glob("[!.]*"))
    return {file.stem: file for file in listed if file.suffix.lower() in suffixes}


def _known(folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Return the classes' names, if they are known."""
    file = folder / _NAMES
    if names or not file.is_file():
        return tuple(map(str, names))
    lines = file.read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def _numbers(samples: Arrays, folder: Path) -> tuple[str, ...]:
    """Return names for all classes up to the highest that training masks hold."""
    masks = samples.column("targets")
    highest = int(masks.masked_fill(masks == IGNORED_PIXEL, 0).max())
    if highest == 0:
        raise InputError(
            f"the masks of {folder} hold no class but 0",
            expected="two classes or more, numbered from 0; 255 is none",
            remedy="If they are black and white (0 and 255), write 1 for white.",
        )
    return tuple(map(str, range(highest + 1)))


def _read(pairs: Sequence[Pair], rows: Samples, size: int, like: Arrays | None = None) -> Arrays:
    """Return the pictures at some rows with their masks, as large as others if they have a size."""
    chosen = [pairs[row] for row in rows.ids.tolist()]
    first = opened(chosen[0][0], 0)
    shape = (size, size) if size else (first.height, first.width)
    if like is not None:
        shape = (like.column("inputs").shape[2], like.column("inputs").shape[3])
    check_memory(len(chosen), shape)
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda pair: _sample(pair, shape, resized=bool(size)), chosen))
    pictures, masks = (torch.stack(side) for side in zip(*made, strict=True))
    return placed(rows.ids, pictures, masks, kind="masks")


def _sample(pair: Pair, shape: tuple[int, int], *, resized: bool) -> tuple[Tensor, Tensor]:
    """Return a picture (3, H, W) and its mask (H, W), uint8."""
    image, mask = pair
    picture, classes = opened(image, 0).convert("RGB"), _classes(mask)
    if classes.size != picture.size:
        raise InputError(
            f"{mask} has {classes.width}×{classes.height} pixels, and {image.name} "
            f"{picture.width}×{picture.height}",
            expected="a class for each pixel of the picture",
        )
    if not resized and (picture.height, picture.width) != shape:
        raise InputError(
            f"pictures of {shape[1]}×{shape[0]} and of {picture.width}×{picture.height} ({image})",
            expected="one size",
            remedy="Set data.args.size, to which all are resized.",
        )
    told = fitted(classes, shape, Image.Resampling.NEAREST, fill=IGNORED_PIXEL)
    return pixels(fitted(picture, shape, Image.Resampling.BILINEAR)), pixels(told)[0]


def _classes(file: Path) -> Image.Image:
    """Return a mask with the class of each pixel as its grey value."""
    found = opened(file, 0)
    if found.mode not in _NUMBERED:
        raise InputError(
            f"{file} is a picture in {found.mode}",
            expected="one number for each pixel: a palette's index, or a grey value",
            consequence="Colours do not say which class they mean.",
        )
    numbers = np.array(found)
    if numbers.min() < 0 or numbers.max() > IGNORED_PIXEL:
        raise InputError(f"{file} holds the number {numbers.max()}", expected="0 to 255")
    return Image.fromarray(numbers.astype(np.uint8))


def _check_classes(samples: Arrays, pairs: Sequence[Pair], labels: Sequence[str]) -> None:
    """Refuse masks that hold a class without a name."""
    masks: Tensor = samples.column("targets")
    wrong = ((masks >= len(labels)) & (masks != IGNORED_PIXEL)).flatten(1)
    if wrong.any():
        row = int(wrong.any(1).nonzero()[0])
        number = int(masks[row].flatten()[wrong[row]].max())
        raise InputError(
            f"{pairs[int(samples.ids[row])][1]} holds class {number}",
            expected=f"0 to {len(labels) - 1} ({', '.join(labels[:8])}), or 255 for none",
            remedy=f"Name all classes, one a line, in {_NAMES}, or set data.args.names.",
        )
