"""A Keras model teaches on the backend that KERAS_BACKEND names; run as a script, it prints "ok".

Each backend needs a process of its own: Keras chooses it once, when it is imported.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch

import limbeck as lb
from limbeck.knowledge import write
from limbeck.testing import check_teacher


def network() -> Any:
    layers = keras.layers
    seen = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(seen)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dropout(0.5, name="drop")(x)
    return keras.Model(seen, layers.Dense(10, activation="softmax", name="head")(x))


def check(teacher: Any, model: Any, batch: dict[str, Any]) -> None:
    """The contract, and the model's own probabilities."""
    check_teacher(teacher, batch)
    rows = batch["inputs"].permute(0, 2, 3, 1).numpy()
    found = teacher.knowledge(batch).logits.softmax(1).numpy()
    assert np.abs(found - np.asarray(model.predict_on_batch(rows))).max() < 1e-5


def refused(call: Any, *words: str) -> None:
    with pytest.raises(lb.InputError) as caught:
        call()
    assert all(word in str(caught.value) for word in words), caught.value


def main(folder: Path) -> None:
    keras.utils.set_random_seed(0)
    data = lb.data.sources.digits(limit=64)
    batch = next(iter(lb.data.Loader(data.train, 12)))
    options: dict[str, Any] = {"returns": "probabilities", "layout": "NHWC"}
    model = network()
    teacher = lb.Teacher.from_keras(model, **options)
    check(teacher, model, batch)
    known = teacher.knowledge(batch, ("logits", "conv", "bn"))
    assert known.shapes == {"logits": (12, 10), "conv": (12, 6, 6, 4), "bn": (12, 6, 6, 4)}
    refused(lambda: teacher.knowledge(batch, ("covn",)), "did you mean 'conv'?")
    refused(lambda: lb.Teacher.from_keras(model, layout="NHWC").knowledge(batch), "probabilities")

    model.save(folder / "teacher.keras")
    loaded = lb.Teacher.from_keras(folder / "teacher.keras", **options)
    assert loaded.fingerprint() == teacher.fingerprint()
    check(loaded, model, batch)
    model.get_layer("head").set_weights([w + 0.1 for w in model.get_layer("head").get_weights()])
    assert lb.Teacher.from_keras(model, **options).fingerprint() != loaded.fingerprint()
    refused(lambda: lb.Teacher.from_keras(folder / "none.keras"), "there is no file")
    refused(lambda: lb.Teacher.from_keras("old.h5"), ".keras file")
    (folder / "junk.keras").write_bytes(b"junk")
    refused(lambda: lb.Teacher.from_keras(folder / "junk.keras"), "could not be loaded")

    write(folder / "store", loaded, data.train)
    student = lb.students.zoo.build("mlp", features=64, hidden=(8,), classes=10)
    distiller = lb.Distiller(
        lb.Teacher.replay(folder / "store"), student, task=lb.tasks.Classification(10),
        method=lb.methods.kd(),
    )  # fmt: skip
    lb.fit(distiller, data.train, epochs=1, batch_size=32, listener=lb.Silent())
    if keras.backend.backend() == "tensorflow":
        saved_model(folder, model, batch, options)


def saved_model(folder: Path, model: Any, batch: dict[str, Any], options: Any) -> None:
    model.export(folder / "saved", verbose=False)
    teacher = lb.Teacher.from_saved_model(folder / "saved", **options)
    check(teacher, model, batch)
    assert (teacher.size().parameters or 0) >= model.count_params()
    again = lb.Teacher.from_saved_model(folder / "saved", **options)
    assert again.fingerprint() == teacher.fingerprint()
    refused(lambda: teacher.knowledge(batch, ("conv",)), "Known: logits, output_0")
    for wrong in ({"signature": "train"}, {"output": "scores"}):
        refused(lambda wrong=wrong: lb.Teacher.from_saved_model(folder / "saved", **wrong), "Known")
    refused(lambda: lb.Teacher.from_saved_model(folder), "no saved_model.pb")


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.argv = sys.argv[:1]
    with tempfile.TemporaryDirectory() as made:
        main(Path(made))
    print("ok", keras.backend.backend())
