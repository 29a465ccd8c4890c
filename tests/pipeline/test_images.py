"""Recipes of images: across families, with mixtures, with several labels."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pictures import photographs
from safetensors.torch import load_file

import limbeck as lb
from limbeck import pipeline
from limbeck.errors import InputError
from limbeck.files import read_json
from limbeck.recipe import load

QUICK = (
    "train.epochs=1", "train.batch_size=16", "seeds=[0]", "evaluate.seconds=0.02",
    "evaluate.batch_size=8", "control=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def few(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first rows of CIFAR-10, so that nothing else has to be read."""
    folder = tmp_path_factory.mktemp("few")
    for split in ("train", "test"):
        file = data_root / "cifar10" / f"{split}.parquet"
        if not file.is_file():
            pytest.skip("no cifar10 in the folder of real data")
        rows = next(pq.ParquetFile(file).iter_batches(64))
        pq.write_table(pa.Table.from_batches([rows]), folder / f"{split}.parquet")
    return folder


@pytest.mark.parametrize(
    ("recipe", "changes", "built"),
    [
        ("mobilenet", ["method=[kd, rkd]", "knowledge={views: 1, store: true}"], "mobilenet_v2"),
        ("mobilenet", ["student={build: shufflenet_v2, args: {widths: [24, 48, 96], head: 64}}",
                       "data.augment=[{crop: 4}, flip, {mixup: 0.2}, {cutmix: 1.0}]"],
         "shufflenet_v2"),
        ("vit", ["method=[kd, rkd]", "knowledge.views=1"], "vit"),
    ],
)  # fmt: skip
def test_recipes_across_families_run_at_tiny_scale(
    recipe: str, changes: list[str], built: str, few: Path, data_root: Path, tmp_path: Path
) -> None:
    """Without it, the recipes that need data and weights could break unseen."""
    weights = data_root / "checkpoints_cifar10_resnet" / "resnet20.safetensors"
    given = [f"data.path={few}", f"teacher.weights={weights}", "teacher.build=resnet20"]
    out = pipeline.run(load(recipe, [*given, *QUICK, *changes]), tmp_path / "run")
    report = read_json(out / "report.json")
    assert report["models"]["teacher"]["quality"]["accuracy"]["mean"] > 0.7
    assert read_json(out / "student" / "student.json")["build"] == built
    with torch.no_grad():
        assert lb.students.load(out / "student")(torch.rand(2, 3, 32, 32)).shape == (2, 10)


MIXED = ("data.args.pictures=64", "data.augment=[{crop: 1}, {mixup: 1.0}]", "knowledge.views=2")


def test_several_labels_mixed_and_stored_are_as_if_the_teacher_ran_beside(tmp_path: Path) -> None:
    """Without it, stored answers could be about other mixtures than the student is shown."""
    changes = [
        *QUICK, *MIXED, "teacher.train.epochs=1", "train.epochs=3", "knowledge.codec=full",
        "student.args={channels: [4, 4], hidden: [8]}", "teacher.args={channels: [8, 8]}",
        "knowledge.batch_size=16",
    ]  # fmt: skip
    stored = pipeline.run(load("multilabel", changes), tmp_path / "stored")
    live = pipeline.run(load("multilabel", [*changes, "knowledge.store=false"]), tmp_path / "live")
    assert (stored / "stages" / "knowledge" / "store").is_dir()
    assert not (live / "stages" / "knowledge").exists()
    one, other = (
        load_file(r / "stages" / "student-0" / "last.safetensors") for r in (stored, live)
    )
    for name, weights in one.items():
        torch.testing.assert_close(weights, other[name], rtol=1e-4, atol=1e-5)
    report = read_json(stored / "report.json")
    assert report["selection"]["metric"] == "mAP"
    assert "mAP" in (stored / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.augment=[{mixup: 0.2}, flip]"], "stands after one that mixes"),
        (["data.augment=[{mixup: 0}]"], "mixup is 0"),
        (["data.augment=[{resized_crop: 0}]"], "resized_crop of 0 pixels"),
        (["task.name=classification"], r"labels of type torch.float32 and shape \(2, 10\)"),
        (["student.args={classes: 3}"], "Build the student with 10 classes"),
    ],
)
def test_wrong_recipes_are_refused_before_training(
    changes: list[str], message: str, tmp_path: Path
) -> None:
    """Without it, minutes of training could pass before a wrong key is found."""
    recipe = load("multilabel", ["data.args.pictures=16", *changes])
    running = pipeline.Run(recipe, pipeline.RunFolder(tmp_path / "run"), lb.Silent())
    with pytest.raises(InputError, match=f"(?s){message}"):
        running.check()


FOLDER = """
name: photographs
data:
  source: image_folder
  path: {path}
  args: {{size: 40}}
  validation: 0.2
  test: 0.2
  augment: [{{resized_crop: 32}}, flip]
  normalize: {{mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25], size: 32}}
teacher:
  build: resnet8
  normalize: {{mean: [0.4, 0.4, 0.4], std: [0.2, 0.2, 0.2], size: 24}}
student: {{build: vit, args: {{depth: 1, width: 12, heads: 2, patch: 8}}}}
method: {{name: kd, temperature: 2, alpha: 0.5}}
"""


def test_each_model_sees_pictures_in_the_size_that_it_wants(tmp_path: Path) -> None:
    """Without it, a network for one size would be trained on it and validated on another."""
    path = photographs(tmp_path / "pictures")
    (tmp_path / "r.yaml").write_text(FOLDER.format(path=path))
    out = pipeline.run(load(str(tmp_path / "r.yaml"), [*QUICK]), tmp_path / "run")
    facts = read_json(out / "student" / "student.json")
    assert facts["args"]["image"] == [3, 32, 32]
    assert facts["normalize"]["size"] == 32
    student = lb.students.load(out / "student")
    large = torch.rand(2, 3, 48, 48)
    small = torch.nn.functional.interpolate(large, (32, 32), mode="bilinear", antialias=True)
    with torch.no_grad():
        torch.testing.assert_close(student(large), student(small))
        assert student.preprocess(large).shape == (2, 3, 32, 32)
    running = pipeline.Run(load(str(out)), pipeline.RunFolder(out), lb.Silent())
    teacher = running.origin.load(load_file(out / "stages" / "teacher" / "best.safetensors"), {})
    assert teacher.prepared({"inputs": large}).shape == (2, 3, 24, 24)
