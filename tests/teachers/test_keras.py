"""Keras models teach on every backend, and learn on PyTorch's."""

from __future__ import annotations

import copy
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck.errors import InputError
from limbeck.knowledge.keras import KerasModule, as_module
from limbeck.teachers import Teacher

SCRIPT = Path(__file__).with_name("keras_teaches.py")
ROOT = Path(__file__).parents[2]


def missing(*packages: str) -> str:
    """Return the reason for which a test is skipped, or nothing."""
    lacks = [name for name in packages if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(lacks)}" if lacks else ""


@pytest.mark.parametrize("backend", ["torch", "jax", "tensorflow"])
def test_it_teaches_on_every_backend(backend: str) -> None:
    """Each backend answers with arrays of its own kind; a fault in one is not seen in another."""
    if reason := missing("keras", backend):
        pytest.skip(reason)
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    own = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": paths}
    told = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | own,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr[-3000:]
    assert told.stdout.strip().endswith(f"ok {backend}")


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ImportError from the depths does not say what to install."""
    for package, extra, make in (
        ("keras", "keras", lambda: Teacher.from_keras("teacher.keras")),
        ("tensorflow", "tensorflow", lambda: Teacher.from_saved_model("saved")),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(InputError, match=rf'pip install "limbeck\[{extra}\]"'):
            make()


@pytest.fixture
def keras() -> Any:
    """Keras on PyTorch, in this process."""
    if reason := missing("keras"):
        pytest.skip(reason)
    os.environ.setdefault("KERAS_BACKEND", "torch")
    module = importlib.import_module("keras")
    if module.backend.backend() != "torch":
        pytest.skip(f"Keras runs on {module.backend.backend()} in this process")
    module.utils.set_random_seed(0)
    return module


def network(keras: Any, width: int = 4) -> Any:
    layers = keras.layers
    inner = keras.Sequential(
        [keras.Input((6, 6, width)), layers.Flatten(), layers.Dense(16, name="inside")],
        name="part",
    )
    seen = keras.Input((1, 8, 8))
    x = layers.Permute((2, 3, 1))(seen)
    x = layers.Conv2D(width, 3, activation="relu")(x)
    x = inner(layers.BatchNormalization(name="bn", momentum=0.9)(x))
    return keras.Model(seen, layers.Dense(10)(layers.Dropout(0.5)(x)))


def test_layers_are_modules_and_keep_their_names(keras: Any) -> None:
    """Keras numbers its layers over the whole process: weights would not fit the next model."""
    network(keras)
    one, other = KerasModule(network(keras)), KerasModule(network(keras))
    assert list(one.state_dict()) == list(other.state_dict())
    assert {"conv2d", "bn", "part.inside", "dense", "dropout"} <= dict(one.named_modules()).keys()
    assert "part.inside.kernel" in one.state_dict()
    trained = sum(p.numel() for p in one.parameters())
    assert trained == sum(v.value.numel() for v in one.model.trainable_variables)
    other.load_state_dict(one.state_dict())
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(one.eval()(x), other.eval()(x))


def test_train_and_eval_reach_the_layers(keras: Any) -> None:
    """Keras itself ignores .train(): dropout would be off, and batch norm frozen, all along."""
    model, x = KerasModule(network(keras)), torch.rand(8, 1, 8, 8)
    before = model.state_dict()["bn.moving_mean"].clone()
    assert not torch.equal(model(x), model(x))
    assert not torch.equal(model.state_dict()["bn.moving_mean"], before)
    model.eval()
    after = model.state_dict()["bn.moving_mean"].clone()
    assert torch.equal(model(x), model(x))
    assert torch.equal(model.state_dict()["bn.moving_mean"], after)


def test_weights_stay_the_keras_models_own(keras: Any) -> None:
    """After .to() or load_state_dict the model would compute with the old ones."""
    model, x = KerasModule(network(keras)).eval(), torch.rand(3, 1, 8, 8)
    twin = copy.deepcopy(model)
    model.to(torch.float64).to(torch.float32)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.mul_(0.5)
    assert torch.allclose(model.model(x, training=False), model(x))
    assert not torch.allclose(twin(x), model(x))
    moved = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    assert {id(variable.value) for variable in model.model.variables} == moved


def test_a_keras_student_learns_from_a_teacher(keras: Any, tmp_path: Path) -> None:
    """Handed over as it is, it would train without dropout, untapped, and not be restored."""
    data = lb.data.sources.digits(limit=512)
    torch.manual_seed(0)
    teacher = lb.students.zoo.build("cnn", channels=(16,), hidden=(32,), image=(1, 8, 8))
    task = lb.tasks.Classification(10)
    alone = lb.Distiller(None, teacher, task=task)
    options = {"batch_size": 32, "optimizer": lb.distill.optim.optimizer("adamw", lr=1e-2)}
    lb.fit(alone, data.train, epochs=15, listener=lb.Silent(), **options)
    method = lb.methods.kd() + lb.methods.fitnets(student="part.inside", teacher="fc1", weight=0.1)
    distiller = lb.Distiller(teacher, network(keras), task=task, method=method)
    assert isinstance(distiller.student, KerasModule)
    fitted = lb.fit(
        distiller, data.train, validation=data.validation, epochs=15, listener=lb.Silent(),
        checkpoint_to=tmp_path / "c.pt", **options,
    )  # fmt: skip
    assert fitted.history[fitted.best_epoch]["validation"]["accuracy"] > 0.85
    student = distiller.student.model  # Keras's own object has learnt
    images, labels = data.test.column("inputs"), data.test.column("targets")
    with torch.no_grad():
        said = student(images, training=False)
    assert (said.argmax(1) == labels).float().mean() > 0.85


def test_a_moving_average_of_a_keras_student(keras: Any) -> None:
    """The average is a copy: with shared weights it would be the student itself."""
    data = lb.data.sources.digits(limit=128)
    task = lb.tasks.Classification(10)
    distiller = lb.Distiller(None, network(keras), task=task)
    lb.fit(distiller, data.train, epochs=2, batch_size=32, ema=0.9, listener=lb.Silent())


def test_a_keras_module_is_an_ordinary_teacher(keras: Any) -> None:
    """Penultimate features, cost and similarity need a PyTorch module."""
    teacher = Teacher.from_keras(network(keras))
    assert isinstance(teacher, Teacher)
    given = {"inputs": torch.rand(4, 1, 8, 8)}
    assert teacher.knowledge(given, ("part.inside",))["part.inside"].shape == (4, 16)
    assert teacher.work({"inputs": given["inputs"][:1]}) > 0
    plain = nn.Linear(2, 2)
    assert as_module(plain) is plain
    with pytest.raises(InputError, match="no weights yet"):
        KerasModule(keras.Sequential([keras.layers.Dense(3)]))
