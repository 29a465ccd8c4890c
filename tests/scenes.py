"""Scenes written to disk as people have them: pictures, and annotations in the format of COCO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from limbeck.data import Data
from limbeck.data.sources.scenes import digit_scenes

FILES = {"train": "instances_train2017.json", "validation": "instances_val2017.json"}
FIRST = 3  # of the categories' numbers, which need not begin at 0


def pair(scenes: int = 12) -> tuple[Data, Data]:
    """Return the same scenes with boxes and with masks."""
    return digit_scenes(scenes=scenes), digit_scenes(scenes=scenes, targets="masks")


def write_coco(root: Path, scenes: int = 12) -> Path:
    """Write scenes composed of digits on photographs, masks as RLE; there are no test pictures."""
    from pycocotools import mask as rle

    boxes, masks = pair(scenes)
    for split, name in FILES.items():
        with_boxes, with_masks = (getattr(data, split) for data in (boxes, masks))
        folder = root / name.removeprefix("instances_").removesuffix(".json")
        folder.mkdir(parents=True)
        found: dict[str, list[Any]] = {"images": [], "annotations": []}
        every = zip(
            with_boxes.ids.tolist(),
            with_boxes.column("inputs"),
            with_masks.column("targets").numpy(),
            strict=True,
        )
        for row, (number, pixels, classes) in enumerate(every):
            file = f"{number:06d}.png"
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / file)
            found["images"].append({"id": number, "file_name": file, "width": 64, "height": 64})
            batch = next(with_boxes.batches([torch.tensor([row])], 0, 0))
            for corners, label in zip(batch["targets"][0], batch["classes"][0], strict=True):
                left, top, right, bottom = map(int, corners)
                inside = np.zeros_like(classes)
                here = (slice(top, bottom), slice(left, right))
                inside[here] = classes[here] == int(label) + 1
                coded = rle.encode(np.asfortranarray(inside))
                found["annotations"].append(
                    {
                        "id": len(found["annotations"]) + 1,
                        "image_id": number,
                        "category_id": int(label) + FIRST,
                        "bbox": [left, top, right - left, bottom - top],
                        "area": int(inside.sum()),
                        "iscrowd": 0,
                        "segmentation": {"size": [64, 64], "counts": coded["counts"].decode()},
                    }
                )
        kinds = [{"id": n + FIRST, "name": label} for n, label in enumerate(boxes.labels)]
        (root / "annotations").mkdir(exist_ok=True)
        told = json.dumps(found | {"categories": kinds[::-1]})
        (root / "annotations" / name).write_text(told, encoding="utf-8")
    return root


def write_masks(root: Path, scenes: int = 12) -> Path:
    """Write the scenes as pictures and masks of the same names; there are no test pictures."""
    data = digit_scenes(scenes=scenes, targets="masks")
    for split in ("train", "validation"):
        samples = getattr(data, split)
        folders = [root / ("val" if split == "validation" else split) / kind
                   for kind in ("images", "masks")]  # fmt: skip
        for folder in folders:
            folder.mkdir(parents=True)
        sides = samples.column("inputs"), samples.column("targets")
        for number, pixels, classes in zip(samples.ids.tolist(), *sides, strict=True):
            picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
            picture.save(folders[0] / f"scene.{number}.jpg")
            mask = Image.fromarray(classes.numpy())
            mask.putpalette([n * 20 % 256 for n in range(33)])
            mask.save(folders[1] / f"scene.{number}.png")
    (root / "classes.txt").write_text("\n".join(data.labels), encoding="utf-8")
    return root


def change(root: Path, what: str, entry: int, **values: Any) -> None:
    """Change an entry of the training annotations."""
    file = root / "annotations" / FILES["train"]
    found = json.loads(file.read_text(encoding="utf-8"))
    found[what][entry] |= values
    file.write_text(json.dumps(found), encoding="utf-8")
