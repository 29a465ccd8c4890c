"""Weights arrive whole or not at all, and a saved student is the student that was saved."""

from __future__ import annotations

import io
import json
import pickle
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from limbeck.data import CIFAR10, IMAGENET, Normalize
from limbeck.data.samples import pixels
from limbeck.errors import InputError
from limbeck.students import Blueprint, load, load_weights, read_weights, save, zoo
from limbeck.students.build import tensors


def small(classes: int = 5) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, classes)
    )


def written(path: Path, state: Any, kind: str) -> Path:
    file = path / f"weights.{kind}"
    save_file(state, file) if kind == "safetensors" else torch.save(state, file)
    return file


def state() -> dict[str, Tensor]:
    model = small()
    model(torch.randn(2, 3, 8, 8))  # moves batch norm's statistics
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


# -- reading


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        *((kind, form) for kind in ("safetensors", "pt", "pth") for form in ("plain", "module.")),
        *(("pt", form) for form in ("state_dict", "model", "state_dict module.")),
    ],
)
def test_forms_of_a_checkpoint(tmp_path: Path, kind: str, form: str) -> None:
    """Half of the world's checkpoints come from data-parallel training, or inside a dictionary."""
    weights = state()
    prefix = "module." if "module." in form else ""
    given = {f"{prefix}{name}": value for name, value in weights.items()}
    wrapped: Any = given
    if form.startswith(("state_dict", "model")):
        wrapped = {form.split()[0]: given, "epoch": 3}
    file = written(tmp_path, wrapped, kind)
    assert same(read_weights(file), weights)
    model = small()
    load_weights(model, file)
    assert same(dict(model.state_dict()), weights)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_model_with_a_part_called_module(tmp_path: Path, prefix: str) -> None:
    """A wrapper's own name would be taken for that of data-parallel training."""

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = small()

    model, other = Wrapper(), Wrapper()
    weights = {f"{prefix}{k}": v for k, v in model.state_dict().items()}
    load_weights(other, written(tmp_path, weights, "safetensors"))
    assert same(dict(other.state_dict()), dict(model.state_dict()))


def test_one_part_called_module(tmp_path: Path) -> None:
    """The prefix would be cut off some names and not off others."""
    model = nn.ModuleDict({"module": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    other = nn.ModuleDict({"module": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    load_weights(other, written(tmp_path, dict(model.state_dict()), "safetensors"))
    assert same(dict(other.state_dict()), dict(model.state_dict()))


class Trap:
    sprung = False

    def __reduce__(self) -> Any:
        return (_spring, ())


def _spring() -> None:
    Trap.sprung = True


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_is_never_run(tmp_path: Path, how: str) -> None:
    """A checkpoint from the internet would run whatever its author liked."""
    file = tmp_path / "weights.pt"
    content = {"weight": torch.zeros(1), "trap": Trap()}
    torch.save(content, file) if how == "torch" else file.write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match="could not be read"):
        read_weights(file)
    assert not Trap.sprung


def test_a_whole_model_is_refused(tmp_path: Path) -> None:
    """torch.save(model) can only be read by running code."""
    file = tmp_path / "model.pt"
    torch.save(small(), file)
    with pytest.raises(InputError, match="nothing but tensors"):
        read_weights(file)


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"a": 1}, {"a": {"b": torch.zeros(1)}}, 3])
def test_something_else(tmp_path: Path, content: Any) -> None:
    """An optimizer's state would be loaded into a model."""
    file = tmp_path / "weights.pt"
    torch.save(content, file)
    with pytest.raises(InputError, match="holds more than tensors"):
        read_weights(file)


@pytest.mark.parametrize("name", ["none.safetensors", "none.pt", "folder.pt"])
def test_no_file(tmp_path: Path, name: str) -> None:
    """A traceback would not name the recipe's mistake."""
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(InputError, match=name):
        read_weights(tmp_path / name)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # of damaged files
@pytest.mark.parametrize("kind", ["safetensors", "pt", "old"])
def test_damaged_files(tmp_path: Path, kind: str) -> None:
    """Damage would surface as whatever the unpickler raises."""
    file = tmp_path / f"weights.{'safetensors' if kind == 'safetensors' else 'pt'}"
    if kind == "old":
        torch.save(state(), file, _use_new_zipfile_serialization=False)
    else:
        written(tmp_path, state(), file.suffix[1:])
    good, chance, refused = file.read_bytes(), random.Random(0), 0
    for number in range(90):
        bad = bytearray(good)
        if number % 3 == 0:
            bad = bad[: chance.randrange(len(bad))]
        elif number % 3 == 1:
            for _ in range(4):
                bad[chance.randrange(min(600, len(bad)))] = chance.randrange(256)
        else:
            bad = bytearray(chance.randbytes(chance.randrange(300)))
        file.write_bytes(bytes(bad))
        try:
            read_weights(file)
        except InputError:
            refused += 1
    assert refused > 45


# -- loading


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s | {"4.weight": torch.zeros(1)}, r"1 that the model lacks \(first: 4\.weight"),
        (lambda s: {k: v for k, v in s.items() if k != "3.bias"}, r"1 missing \(first: 3\.bias"),
        (
            lambda s: s | {"3.weight": torch.zeros(7, 144), "3.bias": torch.zeros(7)},
            r"2 of another shape \(first: 3\.weight, \(7, 144\) for \(5, 144\)",
        ),
        (lambda s: {}, "8 missing"),
        (
            lambda s: {f"net.{k}": v for k, v in s.items()},
            r"8 missing \(first: 0\.weight\); 9 that the model lacks \(first: net\.",
        ),
        (lambda s: {k: v for k, v in s.items() if k != "1.running_mean"}, "missing"),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, change: Any, told: str) -> None:
    """PyTorch's strict=False would leave layers as they were initialised, in silence."""
    file = written(tmp_path, change(state()), "safetensors")
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=told):
        load_weights(model, file)
    assert same(dict(model.state_dict()), before)


def test_old_files_without_counters(tmp_path: Path) -> None:
    """Checkpoints from before PyTorch 0.4.1 have no num_batches_tracked."""
    weights = {k: v for k, v in state().items() if not k.endswith("num_batches_tracked")}
    model = small()
    load_weights(model, written(tmp_path, weights, "pt"))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights.items())


def test_half_precision_files(tmp_path: Path) -> None:
    """The model would become half precision, or refuse."""
    weights = {k: v.half() if v.is_floating_point() else v for k, v in state().items()}
    model = small()
    load_weights(model, written(tmp_path, weights, "safetensors"))
    assert model[0].weight.dtype == torch.float32
    assert torch.equal(model[0].weight, weights["0.weight"].float())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids))


def test_tied_weights(tmp_path: Path) -> None:
    """safetensors refuses shared memory; a tie would be stored twice, or be lost."""
    model, other = Tied(), Tied()
    assert list(tensors(model)) == ["embed.weight"]
    load_weights(other, written(tmp_path, tensors(model), "safetensors"))
    assert other.head.weight is other.embed.weight
    assert torch.equal(other.head.weight, model.head.weight)
    load_weights(other, written(tmp_path, dict(model.state_dict()), "pt"))  # with both names


def test_views_are_not_ties() -> None:
    """Two tensors that begin at the same place, with other shapes, are two tensors."""
    model = nn.Module()
    base = torch.zeros(4, 4)
    model.register_buffer("whole", base)
    model.register_buffer("part", base[:2])
    model.register_buffer("empty", torch.zeros(0))
    model.register_buffer("also_empty", torch.zeros(0))
    assert sorted(tensors(model)) == ["also_empty", "empty", "part", "whole"]


# -- blueprints and folders


@pytest.mark.parametrize(
    ("blueprint", "shape"),
    [
        (Blueprint("resnet8", {"classes": 4}), (2, 3, 32, 32)),
        (Blueprint("resnet20", {"classes": 4}, depth=0.5, width=0.5), (2, 3, 32, 32)),
        (Blueprint("mobilenet_v2", {"classes": 4}, width=0.5), (2, 3, 32, 32)),
        (Blueprint("cnn", {"classes": 4, "image": [1, 8, 8]}), (2, 1, 8, 8)),
        (Blueprint("torch.nn:Linear", {"in_features": 6, "out_features": 4}), (2, 6)),
    ],
)
def test_a_saved_student_is_the_same(
    tmp_path: Path, blueprint: Blueprint, shape: tuple[int, ...]
) -> None:
    """What ships would not be what was measured."""
    model = blueprint.model()
    model.train()(torch.randn(shape))
    save(tmp_path / "student", model, blueprint, {"labels": ["a", "b", "c", "d"]})
    loaded = load(tmp_path / "student", trust_code=":" in blueprint.build)
    assert not any(part.training for part in loaded.modules())
    x = torch.randn(shape)
    assert torch.equal(loaded(x), model.eval()(x))
    facts = json.loads((tmp_path / "student" / "student.json").read_text())
    assert facts["labels"] == ["a", "b", "c", "d"]
    assert sorted(file.name for file in (tmp_path / "student").iterdir()) == [
        "model.safetensors",
        "student.json",
    ]


def test_preprocessing_is_part_of_it(tmp_path: Path) -> None:
    """The student would be fed pixels from 0 to 1 where it wants normalised ones."""
    plan = Blueprint("resnet8", {"classes": 4})
    model = plan.model().eval()
    mean, std = CIFAR10
    save(tmp_path, model, plan, {"normalize": {"mean": list(mean), "std": list(std)}})
    x = torch.rand(2, 3, 32, 32)
    by_hand = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    loaded = load(tmp_path)
    assert torch.allclose(loaded(x), model(by_hand), atol=1e-5)
    assert torch.equal(loaded.model(x), model(x))


def test_saving_over_a_student(tmp_path: Path) -> None:
    """A second save would leave the first's weights."""
    plan = Blueprint("cnn", {"classes": 4, "image": [1, 8, 8]})
    for _ in range(2):
        model = plan.model().eval()
        save(tmp_path, model, plan, {})
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(load(tmp_path)(x), model(x))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "damaged"),
        ("{", "damaged"),
        ("[]", "damaged"),
        ("{}", "damaged: KeyError: 'build'"),
        (
            '{"build": "resnet9", "args": {}, "depth": 1.0, "width": 1.0}',
            "did you mean 'resnet' or 'resnet8'",
        ),
        ('{"build": "resnet8", "args": {"n": 1}, "depth": 1.0, "width": 1.0}', "n"),
        ('{"build": "math:pi", "args": {}, "depth": 1.0, "width": 1.0}', "math:pi failed"),
        ('{"build": "builtins:dict", "args": {}, "depth": 1.0, "width": 1.0}', "returned a dict"),
    ],
)
def test_a_damaged_description(tmp_path: Path, text: str, told: str) -> None:
    """A folder that was edited or cut short would end in a KeyError."""
    (tmp_path / "student.json").write_text(text)
    with pytest.raises(InputError, match=told):
        load(tmp_path, trust_code=True)


def test_code_is_run_only_if_trusted(tmp_path: Path) -> None:
    """A folder from somebody else would run any function on this machine."""
    plan = {"build": "os:abort", "args": {}, "depth": 1.0, "width": 1.0}
    (tmp_path / "student.json").write_text(json.dumps(plan))
    with pytest.raises(InputError, match=r"is built by os:abort.*trust_code=True"):
        load(tmp_path)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    """A run's folder in place of its student."""
    with pytest.raises(InputError, match=r"holds no student\.json"):
        load(tmp_path)


def test_a_folder_with_other_weights(tmp_path: Path) -> None:
    """Weights of another width would be found out by a matrix product."""
    plan = Blueprint("resnet8", {"classes": 4})
    save(tmp_path, plan.model(), plan, {})
    save_file(tensors(zoo.build("resnet8", classes=7)), tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"linear\.weight, \(7, 64\) for \(4, 64\)"):
        load(tmp_path)


def test_a_real_checkpoint(data_root: Path) -> None:
    """Names, shortcuts, pixel scale or normalisation could be wrong together and agree."""
    file = data_root / "checkpoints_cifar10_resnet" / "resnet20.safetensors"
    pictures = data_root / "cifar10" / "test.parquet"
    if not (file.is_file() and pictures.is_file()):
        pytest.skip("no pretrained ResNet-20, or no CIFAR-10, in the folder of real data")
    model = zoo.build("resnet20", classes=10, shortcut="A").eval()
    load_weights(model, file)
    rows = next(pq.ParquetFile(pictures).iter_batches(batch_size=200)).to_pydict()
    images, labels = (
        next(v for k, v in rows.items() if ("label" in k) == y) for y in (False, True)
    )
    decoded = [pixels(Image.open(io.BytesIO(image["bytes"]))) for image in images]
    with torch.inference_mode():
        found = model(Normalize(*IMAGENET)(torch.stack(decoded) / 255)).argmax(1)
    # 8.27 % are wrong of all 10,000; of 200 at most 30 with near certainty.
    assert (found == torch.tensor(labels)).sum() >= 170
