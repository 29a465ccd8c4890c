"""torchvision's random transforms show a student what the teacher saw, to the bit."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from limbeck.data import Items, Loader
from limbeck.errors import InputError
from limbeck.knowledge import Knowledge, write
from limbeck.teachers import Replay

N = 12


@pytest.fixture(scope="module")
def v2() -> Any:
    """The transforms, also where torchvision's compiled operators do not fit this PyTorch."""
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        pytest.skip("torchvision is not installed")
    try:
        return importlib.import_module("torchvision.transforms.v2")
    except RuntimeError:  # operator torchvision::nms does not exist
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        names = Path(found.origin).with_name("_meta_registrations.py").read_text()
        library = torch.library.Library("torchvision", "DEF")
        for name in dict.fromkeys(re.findall(r'"(?:torchvision::)?(\w+)"\)', names)):
            library.define(f"{name}() -> Tensor")
        return importlib.import_module("torchvision.transforms.v2")


class Pictures(Dataset[Any]):
    """Pictures that are cropped, flipped and tinted anew whenever they are read."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = np.random.RandomState(index).randint(256, size=(20, 20, 3), dtype=np.uint8)
        return self.transform(Image.fromarray(pixels)), index % 3


class Seeing:
    """Repeats the picture it was shown, every pixel of it."""

    def knowledge(self, batch: dict[str, Any], taps: Any) -> Knowledge:
        return Knowledge({"logits": batch["inputs"].flatten(1)}, batch["id"])

    def fingerprint(self) -> str:
        return "seeing"


@pytest.fixture
def pictures(v2: Any) -> Items:
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResizedCrop(12, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.4, 0.4, 0.4),
            v2.RandomErasing(p=0.5),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    return Items.of(Pictures(transform))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than there are cores
@pytest.mark.parametrize("workers", [0, 2])
def test_the_student_sees_what_the_teacher_saw(
    tmp_path: Path, pictures: Items, workers: int
) -> None:
    """Cached answers would be replayed against new random crops, as torchdistill does."""
    options = {"codec": "full", "batch_size": 4, "rows_per_shard": 8}
    write(tmp_path, Seeing(), pictures, views=3, **options)
    read = Items.of(pictures.dataset, workers=workers)
    replay = Replay(tmp_path)
    replay.check(read)
    seen = []
    for epoch in (0, 1, 2, 5):  # the last shows view 2 again
        loader = Loader(read, 5, shuffle=True, seed=epoch, views=3)
        batches = list(loader.epoch(epoch))
        for batch in batches:
            assert torch.equal(replay.knowledge(batch).logits, batch["inputs"].flatten(1))
        rows = torch.cat([batch["inputs"] for batch in batches])
        seen.append(rows[torch.cat([batch["id"] for batch in batches]).argsort()][:4])
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("views", [1, 2])
def test_views_that_the_teacher_never_saw(tmp_path: Path, pictures: Items, views: int) -> None:
    """The transforms are inside the data set: nothing else would tell that crops are new."""
    write(tmp_path, Seeing(), pictures, views=views, codec="full")
    [batch] = Loader(pictures, N).epoch(views)
    with pytest.raises(InputError, match=f"view {views} of a sample.*views={views}"):
        Replay(tmp_path).knowledge(batch)


def test_transforms_that_draw_nothing(tmp_path: Path, v2: Any) -> None:
    """A data set that always shows the same would be refused from the second epoch on."""
    still = v2.Compose([v2.ToImage(), v2.CenterCrop(12), v2.ToDtype(torch.float32, scale=True)])
    data = Items.of(Pictures(still))
    write(tmp_path, Seeing(), data, codec="full")
    for epoch in range(3):
        for batch in Loader(data, 5, shuffle=True).epoch(epoch):
            rows = Replay(tmp_path).knowledge(batch).logits
            assert torch.equal(rows, batch["inputs"].flatten(1))
