"""Pictures whose labels have a place: made scenes, files of COCO, and labels that move."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scenes import FILES, change, pair, write_coco

import limbeck as lb
from limbeck.data import Arrays, Augmentation, Crop, Cutout, Data, Flip, Loader, ResizedCrop
from limbeck.data.loader import as_float
from limbeck.data.sources import coco, digits, mask_folder
from limbeck.data.sources.scenes import _REGIONS, digit_scenes
from limbeck.errors import InputError
from limbeck.tasks import Detection, Segmentation

pytest.importorskip("pycocotools")


@pytest.fixture(scope="module")
def made() -> tuple[Data, Data]:
    """Scenes with boxes, and with masks."""
    return pair()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scenes as files."""
    return write_coco(tmp_path_factory.mktemp("coco") / "scenes")


@pytest.fixture
def damaged(written: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(written, tmp_path / "scenes"))


def batch_of(data: Arrays) -> dict[str, Any]:
    return next(data.batches([torch.arange(len(data))], 0, 0))


def test_boxes_and_masks_of_a_scene_say_the_same(made: tuple[Data, Data]) -> None:
    """Without it, what is known exactly would be wrong, and every result with it."""
    boxes, masks = (batch_of(data.train) for data in made)
    assert torch.equal(boxes["inputs"], masks["inputs"])
    assert made[1].labels == ("background", *made[0].labels)
    for row, mask in enumerate(masks["targets"].numpy()):
        rest = mask.copy()
        for (left, top, right, bottom), label in zip(
            boxes["targets"][row].int().tolist(), boxes["classes"][row].tolist(), strict=True
        ):
            if label < 0:
                assert (left, top, right, bottom) == (0, 0, 0, 0)
                continue
            inside = mask[top:bottom, left:right] == label + 1
            assert inside.any(0).all() or inside.any(1).all()
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()
            rest[top:bottom, left:right] = 0
        assert not rest.any()


def test_splits_share_neither_digits_nor_regions() -> None:
    """Without it, test scenes could be recognised by what they are made of."""
    single = digits()
    ids = [set(part.ids.tolist()) for part in (single.train, single.validation, single.test)]
    assert not ids[0] & ids[1] | ids[0] & ids[2] | ids[1] & ids[2]
    assert [end for _, end in _REGIONS][:-1] == [start for start, _ in _REGIONS][1:]
    data = digit_scenes(scenes=6)
    assert data.fingerprint() == digit_scenes(scenes=6).fingerprint()
    assert data.fingerprint() != digit_scenes(scenes=6, seed=1).fingerprint()
    numbers = torch.cat([part.ids for part in (data.train, data.validation, data.test)])
    assert len(numbers.unique()) == len(numbers)


def test_files_of_coco_give_back_what_was_written(made: tuple[Data, Data], written: Path) -> None:
    """Without it, boxes could be off by their width, and classes by their numbers."""
    for kind, data in zip(("boxes", "masks"), made, strict=True):
        read = coco(written, targets=kind, test=0.25)
        assert read.labels == data.labels
        assert len(read.train) + len(read.test) == len(data.train)
        known = batch_of(data.train)
        for part in (read.train, read.test):
            found = batch_of(part)
            for row, number in enumerate(found["id"].tolist()):
                assert torch.equal(found["inputs"][row], known["inputs"][number])
                if kind == "masks":
                    assert torch.equal(found["targets"][row], known["targets"][number])
                else:
                    real = known["classes"][number] >= 0
                    count = int(real.sum())
                    assert torch.equal(
                        found["targets"][row, :count], known["targets"][number, real]
                    )
                    assert torch.equal(
                        found["classes"][row, :count], known["classes"][number, real]
                    )


def test_pictures_are_resized_with_their_labels(damaged: Path) -> None:
    """Without it, boxes of one size would be drawn on pictures of another."""
    wide = Image.new("RGB", (128, 64), (9, 9, 9))
    wide.save(damaged / "train2017" / "000000.png")
    change(damaged, "images", 0, width=128)
    polygon = [[100.0, 20.0, 120.0, 20.0, 120.0, 40.0, 100.0, 40.0]]
    file = damaged / "annotations" / FILES["train"]
    found = json.loads(file.read_text(encoding="utf-8"))
    own = {"id": 1, "image_id": 0, "category_id": 5, "bbox": [100, 20, 20, 20], "iscrowd": 0}
    crowd = own | {"id": 2, "bbox": [0, 0, 10, 64], "iscrowd": 1}
    counts = {"size": [64, 128], "counts": [0, 640, 64 * 118]}
    rest = [each for each in found["annotations"] if each["image_id"] != 0]
    found["annotations"] = [
        own | {"segmentation": polygon}, crowd | {"segmentation": counts}, *rest
    ]  # fmt: skip
    file.write_text(json.dumps(found), encoding="utf-8")
    boxes, masks = (
        batch_of(coco(damaged, targets=kind, size=32, test=0.1).train)
        for kind in ("boxes", "masks")
    )
    row = boxes["id"].tolist().index(0)
    assert boxes["targets"][row, 0].tolist() == [25, 5, 30, 10]
    assert boxes["classes"][row].tolist()[:2] == [2, -1]
    mask = masks["targets"][row]
    assert mask.shape == (32, 32)
    assert (mask[16:] == 255).all()  # filled up
    assert (mask[:16, :2] == 255).all()  # the crowd
    assert (mask[5:10, 25:30] == 3).float().mean() > 0.9
    assert int((mask == 3).sum()) <= 30


@pytest.mark.parametrize(
    ("what", "values", "message"),
    [
        (
            "annotations",
            {"bbox": [60, 10, 20, 5]},
            r"annotation 1 .* has the box \[60, 10, 20, 5\]",
        ),
        (
            "annotations",
            {"bbox": [10, 10, -2, 5]},
            r"annotation 1 .* has the box \[10, 10, -2, 5\]",
        ),
        ("annotations", {"category_id": 77}, r"annotation 1 .* of the category 77"),
        ("annotations", {"image_id": 99999}, r"annotation 1 .* of the image 99999"),
        ("images", {"file_name": "gone.png"}, r"the picture gone.png, .* is missing"),
        ("images", {"width": 99}, r"64×64 pixels, and .* says 99×64"),
    ],
)
def test_wrong_annotations_are_refused(
    what: str, values: dict[str, Any], message: str, damaged: Path
) -> None:
    """Without it, a detector would learn boxes that are not there."""
    change(damaged, what, 0, **values)
    with pytest.raises(InputError, match=message):
        coco(damaged, test=0.1)


def test_wrong_masks_and_files_are_refused(damaged: Path, tmp_path: Path) -> None:
    """Without it, masks would be laid over other pixels."""
    with pytest.raises(InputError, match=r"data.args.targets is 'mask'"):
        coco(damaged, targets="mask")  # type: ignore[arg-type]
    change(damaged, "annotations", 0, segmentation={"size": [32, 32], "counts": [0, 1024]})
    with pytest.raises(InputError, match=r"annotation 1 .* a mask of 32×32 for a picture of 64×64"):
        coco(damaged, targets="masks", test=0.1)
    change(damaged, "annotations", 0, segmentation=[])
    with pytest.raises(InputError, match=r"annotation 1 .* has no segmentation"):
        coco(damaged, targets="masks", test=0.1)
    (damaged / "annotations" / FILES["train"]).write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"could not be read: KeyError"):
        coco(damaged)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"at least instances_train.json"):
        coco(tmp_path / "empty")


@pytest.mark.parametrize("steps", [(Flip(1.0),), (Crop(6),), (Crop(5), Flip(), Cutout(4))])
def test_labels_follow_the_pixels(steps: tuple[Any, ...], made: tuple[Data, Data]) -> None:
    """Without it, a mirrored picture would keep the boxes and masks of the plain one."""
    boxes, masks = (data.train for data in made)
    task, finder = Segmentation(11), Detection(10, (64, 64))
    # Pictures that show their own mask: after any motion the two must still agree.
    targets = masks.column("targets")
    drawn = Arrays.of(inputs=(targets + 1).unsqueeze(1), targets=targets)
    plain = Augmentation(steps, seed=3)
    batch = next(iter(Loader(drawn, len(drawn), augment=plain.followed(task.moved))))
    shown = (batch["inputs"][:, 0] * 255).round().long() - 1
    labels = batch["targets"].long()
    seen = shown >= 0  # the others were filled up, or cut out
    assert torch.equal(shown[seen], labels[seen])
    assert len(steps) > 2 or (labels[~seen] == 255).all()
    # The same for boxes: all that is seen of a class lies in its boxes.
    both = Arrays.of(boxes.ids, **{**boxes.fields, "inputs": drawn.fields["inputs"]})
    moved = next(iter(Loader(both, len(both), augment=plain.followed(finder.moved))))
    finder.check(moved)
    found = moved["classes"] >= 0
    assert found.sum() > len(both)
    for row, (corners, numbers) in enumerate(zip(moved["targets"], moved["classes"], strict=True)):
        for label in numbers[numbers >= 0].unique():
            rest = shown[row] == label + 1
            assert rest.any()
            for left, top, right, bottom in corners[numbers == label].int().tolist():
                rest[top:bottom, left:right] = False
            # But of a digit most of which is gone, which is no object any more.
            assert int(rest.sum()) < 40


def test_steps_that_do_not_say_where_pixels_go_are_refused() -> None:
    """Without it, boxes would stay where the pixels no longer are."""
    scenes = digit_scenes(scenes=4)
    task = Detection(10, (64, 64))
    distiller = lb.Distiller(None, lb.students.zoo.build("detector", channels=[4, 4, 4]), task=task)
    with pytest.raises(InputError, match=r"ResizedCrop.* for labels that have a place"):
        lb.fit(distiller, scenes.train, augment=Augmentation((ResizedCrop(64),)), epochs=1)
    assert np.array_equal(scenes.train.ids, np.arange(4))


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    """Four pictures of 8×6 pixels with masks of three classes, one of them without any."""
    for kind in ("images", "masks"):
        (tmp_path / "set" / kind).mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (8, 6), (number, 9, 9)).save(tmp_path / "set" / "images" / f"{number}.png")
        classes = np.zeros((6, 8), np.uint8)
        classes[:2], classes[4:] = 1 + number % 2, 255
        write_mask(tmp_path / "set", number, classes)
    return tmp_path / "set"


def write_mask(folder: Path, number: int, classes: np.ndarray) -> None:
    Image.fromarray(classes).save(folder / "masks" / f"{number}.png")


def test_masks_are_read_as_they_are_written(masked: Path) -> None:
    """Without it, a colour could be taken for a class, or a mask belong to another picture."""
    data = mask_folder(masked, validation=0.25, test=0.25)
    assert data.labels == ("0", "1", "2")
    sets = (data.train, data.validation, data.test)
    assert [len(each) for each in sets] == [2, 1, 1]
    for each in sets:
        batch = batch_of(each)
        for number, picture, mask in zip(each.ids, batch["inputs"], batch["targets"], strict=True):
            assert int(picture[0, 0, 0]) == number  # the file's name
            assert mask[:2].unique().tolist() == [1 + number % 2]
            assert mask[2:4].unique().tolist() == [0]
            assert mask[4:].unique().tolist() == [255]
        Segmentation(3).check(as_float(batch))
    larger = batch_of(mask_folder(masked, size=16, names=["sky", "cat", "dog"]).train)
    assert larger["inputs"].shape[2:] == (16, 16)
    assert larger["targets"][:, 12:].unique().tolist() == [255]  # filled up
    assert larger["targets"][:, :4].unique().tolist() == [1, 2]
    palette = Image.open(masked / "masks" / "0.png").convert("P")
    palette.putpalette(bytes(range(256)) * 3)
    indices = np.array(palette)
    palette.save(masked / "masks" / "0.png")
    kept = mask_folder(masked, names=[str(n) for n in range(255)])
    there = torch.cat([each.column("targets") for each in (kept.train, kept.validation, kept.test)])
    assert any(np.array_equal(each, indices) for each in there.numpy())


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("rename", "1 of 4 files in .*images have no mask, 2.png for example"),
        ("size", r"3.png has 4×4 pixels, and 3.png 8×6"),
        ("colour", "3.png is a picture in RGB.*one number for each pixel"),
        ("class", "3.png holds class 7.*Name all classes"),
        ("binary", "hold no class but 0.*write 1 for white"),
        ("other", "pictures of 8×6 and of 9×6|pictures of 9×6 and of 8×6"),
        ("folder", "there is no folder .*masks"),
        ("nothing", "expected: images and masks|images and masks, or train/images"),
    ],
)
def test_wrong_masks_are_named(what: str, message: str, masked: Path) -> None:
    """Without it, a wrong mask among thousands would be looked for by hand."""
    options: dict[str, Any] = {}
    masks = masked / "masks"
    if what == "rename":
        (masks / "2.png").rename(masks / "two.png")
    elif what == "size":
        write_mask(masked, 3, np.zeros((4, 4), np.uint8))
    elif what == "colour":
        Image.new("RGB", (8, 6)).save(masks / "3.png")
    elif what == "class":
        options["names"] = ["sky", "cat", "dog"]
        write_mask(masked, 3, np.full((6, 8), 7, np.uint8))
    elif what == "binary":
        for number in range(4):
            write_mask(masked, number, np.eye(6, 8, dtype=np.uint8) * 255)
    elif what == "other":
        Image.new("RGB", (9, 6)).save(masked / "images" / "3.png")
        write_mask(masked, 3, np.ones((6, 9), np.uint8))
    else:
        shutil.rmtree(masks)
        if what == "nothing":
            shutil.rmtree(masked / "images")
    with pytest.raises(InputError, match=f"(?s){message}"):
        mask_folder(masked, **options)
