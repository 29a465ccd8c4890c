"""Pictures with annotations in the format of COCO: boxes, or masks drawn of polygons and RLE.

Letters: N pictures, C channels, H×W pixels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from limbeck.data.samples import Arrays, Samples, pixels
from limbeck.data.sources.placed import (
    BACKGROUND,
    IGNORED_PIXEL,
    Kind,
    Place,
    check_kind,
    check_memory,
    fitted,
    placed,
)
from limbeck.data.sources.tables import SPLITS, folder_of
from limbeck.data.splits import Data, carve
from limbeck.errors import InputError
from limbeck.imports import needed

__all__ = ["coco"]

_SLACK = 1.0  # pixels by which annotators' boxes may reach outside
_LEAST = 1.0  # pixels: boxes that are thinner once they are resized are left out


def coco(
    path: str | Path,
    *,
    targets: Kind = "boxes",
    size: int = 0,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    limit: int | None = None,
) -> Data:
    """Pictures and annotations in the format of COCO, for the tasks detection and segmentation.

    In the folder, or in ``annotations/`` within, lie ``instances_train.json``, and perhaps
    ``instances_val.json`` and ``instances_test.json``; years after the split's name do no harm
    (``instances_train2017.json``). The pictures lie in ``train/`` (or ``train2017/``), in
    ``images/train/``, in ``images/`` or in the folder itself. All are held in memory. Masks need
    the extra ``limbeck[detection]``.

    Pictures are resized to fit, their shape kept, and filled up with black at the right and below.
    Groups of objects (``iscrowd``) are no boxes; in masks their pixels have no label, and neither
    have those that were filled up. Of overlapping objects the smaller is in front.

    Args:
        path: the folder.
        targets: ``boxes``, or ``masks``: a class for each pixel, 0 where there is no object.
        size: H = W after resizing; 0 keeps the size, which must then be the same in all.
        validation: fraction of the training pictures, if there is no file for validation.
        test: fraction of the training pictures, if there is no file for testing.
        seed: of the cuts.
        limit: at most so many training pictures, and half as many of the others; others are not
            read.

    Raises:
        InputError: a folder, file or picture is missing or damaged; an annotation is of an unknown
            category or picture, has a box outside its picture or a mask of another size; classes
            differ between splits; the pictures do not fit in memory.

    Source: Lin et al. 2014, "Microsoft COCO", arXiv:1405.0312; cocodataset.org, "Data format".
    """
    check_kind(targets)
    folder = folder_of(path, "instances_train.json and the pictures")
    files = _files(folder)
    splits = {split: _Annotated.read(file, folder) for split, file in files.items()}
    names = splits["train"].names
    for split, found in splits.items():
        if found.names != names:
            raise InputError(
                f"{files[split].name} has the categories {', '.join(found.names[:8])}",
                expected=f"those of {files['train'].name}: {', '.join(names[:8])}",
            )
    parts = _cut(splits, {"validation": validation, "test": test}, seed, limit)
    sets = {split: found.samples(rows, targets, size) for split, (found, rows) in parts.items()}
    labels = names if targets == "boxes" else (BACKGROUND, *names)
    shape = [*sets["train"].column("inputs").shape[2:]]
    return Data(
        sets["train"],
        sets["validation"],
        sets["test"],
        labels=labels,
        name=folder.name,
        facts={"targets": {"image": shape}},
    )


def _files(folder: Path) -> dict[str, Path]:
    """Return the annotations' file of each split."""
    listed = [*sorted(folder.glob("*.json")), *sorted((folder / "annotations").glob("*.json"))]
    found: dict[str, Path] = {}
    for file in listed:
        stem = re.sub(r"^instances_|_?\d*$", "", file.stem)
        for split, aliases in SPLITS.items():
            if stem in aliases:
                found.setdefault(split, file)
    if "train" not in found:
        raise InputError(
            f"{folder} holds {', '.join(file.name for file in listed[:8]) or 'no annotations'}",
            expected="at least instances_train.json, there or in annotations",
        )
    return found


def _cut(
    splits: Mapping[str, _Annotated], fractions: Mapping[str, float], seed: int, limit: int | None
) -> dict[str, tuple[_Annotated, torch.Tensor]]:
    """Return which pictures of which file belong to each split."""
    rest: Samples = Arrays.of(targets=torch.zeros(len(splits["train"].images)))
    found: dict[str, tuple[_Annotated, Samples]] = {}
    for split in ("test", "validation"):
        if split in splits:
            count = len(splits[split].images)
            found[split] = splits[split], Arrays.of(targets=torch.zeros(count))
        else:
            rest, off = carve(rest, fractions[split], seed=seed)
            found[split] = splits["train"], off
    found["train"] = splits["train"], rest
    sets = {split: samples for split, (_, samples) in found.items()}
    if limit is not None:
        few = Data(sets["train"], sets["validation"], sets["test"]).limited(limit)
        sets = {"train": few.train, "validation": few.validation, "test": few.test}
    return {split: (found[split][0], samples.ids) for split, samples in sets.items()}


@dataclass(frozen=True)
class _Annotated:
    """One file of annotations.

    Attributes:
        file: where it is.
        folders: where its pictures may be.
        names: of the categories, in the order of their numbers.
        classes: the class of each category's number.
        images: entries of pictures, in the order of their numbers.
        marks: by a picture's number, entries of annotations.
    """

    file: Path
    folders: tuple[Path, ...]
    names: tuple[str, ...]
    classes: Mapping[int, int]
    images: Sequence[Mapping[str, Any]]
    marks: Mapping[int, list[Mapping[str, Any]]]

    @classmethod
    def read(cls, file: Path, folder: Path) -> _Annotated:
        """Read a file and check what can be checked without its pictures."""
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            kinds = sorted(found["categories"], key=lambda each: each["id"])
            images = sorted(found["images"], key=lambda each: each["id"])
            marks: dict[int, list[Mapping[str, Any]]] = {each["id"]: [] for each in images}
            classes = {each["id"]: number for number, each in enumerate(kinds)}
            for mark in found["annotations"]:
                _check(mark, marks, classes, file)
                marks[mark["image_id"]].append(mark)
            names = tuple(str(each["name"]) for each in kinds)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{file} could not be read: {type(error).__name__}: {error}",
                expected="JSON with images, annotations and categories, as COCO has them",
            ) from error
        if not images or not kinds:
            raise InputError(f"{file} has {len(images)} images and {len(kinds)} categories")
        split = re.sub(r"^instances_", "", file.stem)
        places = (split, split.rstrip("0123456789_"), f"images/{split}", "images", ".")
        return cls(file, tuple(folder / place for place in places), names, classes, images, marks)

    def samples(self, rows: torch.Tensor, kind: Kind, size: int) -> Samples:
        """Return the pictures at some rows of the file, with their boxes or masks."""
        entries = [self.images[row] for row in rows.tolist()]
        first = self._picture(entries[0])
        shape = (size, size) if size else (first.height, first.width)
        check_memory(len(entries), shape)
        with ThreadPoolExecutor(2) as pool:
            made = list(
                pool.map(lambda entry: self._sample(entry, kind, shape, bool(size)), entries)
            )
        pictures = torch.stack([picture for picture, _ in made])
        labels: Any = [label for _, label in made]
        return placed(rows, pictures, torch.stack(labels) if kind == "masks" else labels, kind=kind)

    def _sample(
        self, entry: Mapping[str, Any], kind: Kind, shape: tuple[int, int], resized: bool
    ) -> tuple[torch.Tensor, Any]:
        picture = self._picture(entry)
        if not resized and (picture.height, picture.width) != shape:
            raise InputError(
                f"{self.file.name} names pictures of {shape[0]}×{shape[1]} and of "
                f"{picture.height}×{picture.width} ({entry['file_name']})",
                expected="one size",
                remedy="Set data.args.size, to which all are resized.",
            )
        scale = min(shape[0] / picture.height, shape[1] / picture.width) if resized else 1.0
        shown = pixels(fitted(picture, shape, Image.Resampling.BILINEAR))
        marks = self.marks[entry["id"]]
        if kind == "boxes":
            return shown, self._boxes(marks, picture, scale)
        classes = Image.fromarray(self._mask(marks, picture))
        filled = fitted(classes, shape, Image.Resampling.NEAREST, fill=IGNORED_PIXEL)
        return shown, pixels(filled)[0]

    def _picture(self, entry: Mapping[str, Any]) -> Image.Image:
        """Return a picture in colour."""
        name = str(entry.get("file_name"))
        file = next((f for folder in self.folders if (f := folder / name).is_file()), None)
        if file is None:
            raise InputError(
                f"the picture {name}, which {self.file.name} names, is missing",
                expected=f"it in {self.folders[0]} or in {self.folders[-2]}",
            )
        try:
            with Image.open(file) as opened:
                found = opened.convert("RGB")
        except Exception as error:  # A damaged image can raise anything.
            raise InputError(f"{file} could not be decoded: {error}") from error
        stated = (entry.get("width", found.width), entry.get("height", found.height))
        if stated != found.size:
            raise InputError(
                f"{file} has {found.width}×{found.height} pixels, and {self.file.name} says "
                f"{stated[0]}×{stated[1]}",
                expected="the picture that was annotated",
                consequence="Boxes and masks would lie elsewhere.",
            )
        return found

    def _boxes(
        self, marks: Sequence[Mapping[str, Any]], picture: Image.Image, scale: float
    ) -> list[Place]:
        """Return the boxes of a picture that is resized."""
        found: list[Place] = []
        for mark in marks:
            left, top, width, height = map(float, mark["bbox"])
            right, bottom = left + width, top + height
            if min(left, top) < -_SLACK or (
                right > picture.width + _SLACK or bottom > picture.height + _SLACK
            ):
                raise InputError(
                    f"annotation {mark['id']} of {self.file.name} has the box {mark['bbox']} in a "
                    f"picture of {picture.width}×{picture.height}",
                    expected="x, y, width and height in pixels, within the picture",
                )
            sides = [
                scale * min(max(0.0, value), float(most))
                for value, most in zip((left, top, right, bottom), picture.size * 2, strict=True)
            ]
            real = min(sides[2] - sides[0], sides[3] - sides[1]) >= _LEAST
            if real and not mark.get("iscrowd"):
                found.append((*sides, float(self.classes[mark["category_id"]])))
        return found

    def _mask(self, marks: Sequence[Mapping[str, Any]], picture: Image.Image) -> np.ndarray:
        """Return the class of each pixel, (H, W) uint8."""
        needed("faster_coco_eval", "detection")
        rle = import_module("faster_coco_eval.core.mask")
        classes = np.zeros((picture.height, picture.width), np.uint8)
        drawn = []
        for mark in marks:
            shape = mark.get("segmentation")
            if not shape:
                raise InputError(
                    f"annotation {mark['id']} of {self.file.name} has no segmentation",
                    expected="polygons or RLE",
                    remedy="Boxes alone are for the task detection, data.args.targets=boxes.",
                )
            if isinstance(shape, dict) and list(shape["size"]) != [picture.height, picture.width]:
                raise InputError(
                    f"annotation {mark['id']} of {self.file.name} has a mask of "
                    f"{'×'.join(map(str, shape['size']))} for a picture of "
                    f"{picture.height}×{picture.width}",
                    expected="a mask of the picture's size",
                )
            coded = shape
            if isinstance(shape, list) or isinstance(shape["counts"], list):
                coded = rle.frPyObjects(shape, picture.height, picture.width)
            merged = rle.merge(coded) if isinstance(coded, list) else coded
            drawn.append((bool(mark.get("iscrowd")), rle.decode(merged).astype(bool), mark))
        for crowd, inside, mark in sorted(drawn, key=lambda each: (not each[0], -each[1].sum())):
            classes[inside] = IGNORED_PIXEL if crowd else 1 + self.classes[mark["category_id"]]
        return classes


def _check(
    mark: Mapping[str, Any],
    marks: Mapping[int, Any],
    classes: Mapping[int, int],
    file: Path,
) -> None:
    """Refuse an annotation of nothing known."""
    for what, known in (("image", marks), ("category", classes)):
        if mark[f"{what}_id"] not in known:
            raise InputError(
                f"annotation {mark.get('id')} of {file.name} is of the {what} {mark[f'{what}_id']}",
                expected=f"one of the {len(known)} that the file lists",
            )
    if len(mark["bbox"]) != 4 or min(mark["bbox"][2:]) < 0:
        raise InputError(
            f"annotation {mark.get('id')} of {file.name} has the box {mark['bbox']}",
            expected="x, y, width and height in pixels",
        )
