"""Recipes whose teacher is no PyTorch module: from a file, fitted, or an object of the user's."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import limbeck as lb
from limbeck import pipeline
from limbeck.files import read_json
from limbeck.recipe import Recipe, load, parse

TINY = str(Path(__file__).with_name("tiny.yaml"))
OWN = '''
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
import limbeck as lb

def data():
    """Samples of two fields: pixels, and what the trees read."""
    x, y = load_digits(return_X_y=True)
    x, y = x[:600].astype(np.float32), y[:600]
    pixels = x.reshape(-1, 1, 8, 8) / 16
    return {name: {"inputs": pixels[part], "targets": y[part], "raw": x[part] - 8}
            for name, part in (("train", slice(0, 400)), ("test", slice(400, 600)))}

def fit(x, y, trees=20):
    assert x.shape[1:] == (64,) and x.min() == -8, "these are not the raw columns"
    return RandomForestClassifier(trees, random_state=0).fit(x, y)

def restless(x, y):
    return RandomForestClassifier(3, random_state=np.random.RandomState(None)).fit(
        x.reshape(len(x), -1), y)

def unfit(x, y):
    return {"a": 1}

def ready():
    x, y = load_digits(return_X_y=True)
    return RandomForestClassifier(20, random_state=0).fit(x / 16, y)

def pair():
    known = lb.Teacher.from_sklearn(ready())
    weak = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    return lb.Teacher.ensemble([known, weak])

def eight(images):
    return images * 8

def keras_model(width=4):
    import keras
    layers = keras.layers
    seen = keras.Input((1, 8, 8))
    x = layers.Conv2D(width, 3, activation="relu")(layers.Permute((2, 3, 1))(seen))
    return keras.Model(seen, layers.Dense(10)(layers.Dropout(0.2)(layers.Flatten()(x))))
'''


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module of the user's in the current folder."""
    import sys

    (tmp_path / "their_teachers.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("their_teachers", None)


def changed(teacher: str, *more: str) -> Recipe:
    return load(TINY, [f"teacher={teacher}", "train.epochs=2", *more])


@pytest.mark.parametrize(
    ("teacher", "least"),
    [
        ('{build: "sklearn.ensemble:RandomForestClassifier", args: {n_estimators: 30}}', 0.8),
        ('{build: "their_teachers:ready"}', 0.9),
        ('{build: "their_teachers:pair"}', 0.5),
    ],
)
@pytest.mark.usefixtures("theirs")
def test_an_estimator_or_object_teaches(teacher: str, least: float, tmp_path: Path) -> None:
    """A recipe could teach from PyTorch alone."""
    folder = pipeline.run(changed(teacher), tmp_path / "run")
    report = read_json(folder / "report.json")
    found = report["models"]["teacher"]
    assert found["quality"]["accuracy"]["mean"] > least
    assert found["fidelity"]["agreement"] == 1
    assert found["cost"]["parameters"] is None
    assert found["cost"]["peak_memory_bytes"] is None
    assert found["cost"]["latency_ms"]["p50"] > 0
    assert found["cost"].keys() == report["models"]["student"]["cost"].keys()
    assert "not measured" in (folder / "report.html").read_text()
    details = read_json(folder / "details.json")
    assert details["maps"] is None
    if details["examples"]["groups"] and "traced" in details["examples"]:
        assert details["examples"]["traced"]["unseen"] == ["teacher"]
    assert (folder / "student" / "model.safetensors").is_file()


@pytest.mark.usefixtures("theirs")
def test_a_fitted_teacher_reads_its_own_columns(tmp_path: Path) -> None:
    """The trees would be fitted to what the student reads, or be asked about something else."""
    teacher = '{fit: "their_teachers:fit", inputs: raw, args: {trees: 40}}'
    recipe = changed(teacher, 'data={build: "their_teachers:data"}')
    folder = pipeline.run(recipe, tmp_path / "run")
    stage = read_json(folder / "stages" / "teacher" / "training.json")
    assert stage["fingerprint"]
    report = read_json(folder / "report.json")
    assert report["models"]["teacher"]["quality"]["accuracy"]["mean"] > 0.75
    # A new process would fit it again; the stages that are done stay so.
    pipeline.evaluate(folder)
    again = read_json(folder / "report.json")
    assert again["models"]["teacher"]["quality"] == report["models"]["teacher"]["quality"]
    assert [s["skipped"] for s in again["stages"]] == [True] * (len(again["stages"]) - 1) + [False]


@pytest.mark.usefixtures("theirs")
def test_a_teacher_that_comes_out_otherwise_is_refused(tmp_path: Path) -> None:
    """What it said before and what it says now would be mixed, and nobody would know."""
    recipe = changed('{fit: "their_teachers:restless"}')
    pipeline.run(recipe, tmp_path / "run", until="teacher")
    with pytest.raises(lb.InputError, match=r"came out otherwise.*random_state"):
        pipeline.run(recipe, tmp_path / "run")


@pytest.mark.usefixtures("theirs")
def test_its_own_preprocessing(tmp_path: Path) -> None:
    """A fitted teacher would see other numbers than those it was fitted to."""
    name = "sklearn.ensemble:RandomForestClassifier"
    plain = f'{{build: "{name}", args: {{n_estimators: 20}}}}'
    scaled = f'{{build: "{name}", args: {{n_estimators: 20}}, preprocess: "their_teachers:eight"}}'
    scores, prints = [], []
    for number, teacher in enumerate((plain, scaled)):
        folder = pipeline.run(changed(teacher, "control=false"), tmp_path / str(number))
        report = read_json(folder / "report.json")
        scores.append(report["models"]["teacher"]["quality"]["accuracy"]["mean"])
        stage = read_json(folder / "stages" / "teacher" / "stage.json")
        prints.append(stage["fingerprint"])
    assert scores[0] == pytest.approx(scores[1], abs=0.05)
    assert prints[0] != prints[1]


@pytest.mark.parametrize(
    ("teacher", "told"),
    [
        ('{fit: "their_teachers:fit"}', "these are not the raw columns"),
        ('{fit: "their_teachers:unfit"}', "returned a dict"),
        ('{fit: "their_teachers:fitt"}', "did you mean 'fit'"),
        ('{build: "their_teachers:eight", args: {images: 2}}', "returned a int"),
        ('{build: "their_teachers:ready", weights: w.safetensors}', "RandomForestClassifier"),
        ('{build: "their_teachers:ready", inputs: rwa}', "field of the batch: 'rwa'"),
        ('{build: "their_teachers:pair", inputs: raw}', "Ensemble with teacher.inputs"),
        ("{build: cnn, inputs: raw}", "field of the samples: 'raw'"),
        ("{onnx: nowhere.onnx}", "no file nowhere.onnx"),
        ("{keras: nowhere.keras}", "no file nowhere.keras"),
        ("{onnx: a.onnx, build: cnn}", "give one of build, onnx"),
        ("{onnx: a.onnx, weights: b}", "weights means nothing for a teacher from onnx"),
        ('{fit: "a:b", layout: NHWC}', "layout means nothing for a teacher from fit"),
        ("{fit: sklearn.ensemble:RandomForestClassifier}", "a class. Expected: a function"),
    ],
)
@pytest.mark.usefixtures("theirs")
def test_wrong_teachers_are_told_before_training(teacher: str, told: str, tmp_path: Path) -> None:
    """They would be found out after the student was built, or by its accuracy."""
    for file, package in (("onnx", "onnxruntime"), ("keras", "keras")):
        if f"nowhere.{file}" in teacher and importlib.util.find_spec(package) is None:
            pytest.skip(f"no {package}")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    with pytest.raises(lb.InputError) as error:
        pipeline.run(changed(teacher), tmp_path / "run", until="teacher")
    assert told in str(error.value)


@pytest.mark.usefixtures("theirs")
def test_features_and_shrinking_need_a_module(tmp_path: Path) -> None:
    """A forest has no layers to match or to make smaller."""
    teacher = '{build: "sklearn.ensemble:RandomForestClassifier"}'
    features = "method=[kd, {name: fitnets, student: conv1, teacher: conv1, weight: 1}]"
    with pytest.raises(lb.InputError, match=r"fitted teacher: 'conv1'.*Known: logits"):
        pipeline.run(changed(teacher, features), tmp_path / "run")
    with pytest.raises(lb.InputError, match="returned a RandomForestClassifier"):
        pipeline.run(changed(teacher, "student={shrink: {width: 0.5}}"), tmp_path / "run")
    fit = '{fit: "their_teachers:unfit"}'
    with pytest.raises(lb.InputError, match="no function builds"):
        pipeline.run(changed(fit, "student={shrink: {width: 0.5}}"), tmp_path / "run")


def test_a_resolved_recipe_can_be_read_again() -> None:
    """A run with such a teacher could not be resumed."""
    import yaml

    for teacher in ("{onnx: a.onnx, returns: probabilities}", '{fit: "a:b", inputs: raw}'):
        recipe = changed(teacher)
        assert parse(yaml.safe_load(recipe.as_yaml())) == recipe


def test_an_onnx_file_teaches(tmp_path: Path) -> None:
    """The file's own weights, and a changed file, must be what a run is known by."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    digits = lb.data.sources.digits(limit=256)
    x, y = digits.train.column("inputs").flatten(1).numpy(), digits.train.column("targets").numpy()
    model = LogisticRegression(max_iter=500).fit(x, y)
    helper = onnx.helper

    def save(scale: float) -> None:
        kind = onnx.TensorProto.FLOAT
        weights = {"w": model.coef_.T * scale, "b": model.intercept_ * scale}
        parts = [onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()]
        graph = helper.make_graph(
            [
                helper.make_node("Flatten", ["x"], ["flat"]),
                helper.make_node("Gemm", ["flat", "w", "b"], ["scores"]),
            ],
            "linear",
            [helper.make_tensor_value_info("x", kind, ["B", 1, 8, 8])],
            [helper.make_tensor_value_info("scores", kind, ["B", 10])],
            parts,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        made.ir_version = 9
        onnx.save(made, str(tmp_path / "t.onnx"))

    save(1.0)
    recipe = changed(f"{{onnx: {tmp_path / 't.onnx'}}}")
    folder = pipeline.run(recipe, tmp_path / "run")
    found = read_json(folder / "report.json")["models"]["teacher"]
    assert found["quality"]["accuracy"]["mean"] > 0.8
    assert found["cost"]["parameters"] == 650
    assert found["cost"]["size_bytes"] == (tmp_path / "t.onnx").stat().st_size
    before = read_json(folder / "stages" / "student-0" / "stage.json")["fingerprint"]
    save(3.0)
    pipeline.run(recipe, folder)
    assert read_json(folder / "stages" / "student-0" / "stage.json")["fingerprint"] != before


@pytest.mark.usefixtures("theirs")
def test_keras_models_teach_and_learn(tmp_path: Path) -> None:
    """A Keras student could not be rebuilt: its layers have other names each time."""
    pytest.importorskip("h5py")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "torch":
        pytest.skip("Keras runs on another backend in this process")
    student = 'student={build: "their_teachers:keras_model", args: {width: 2}}'
    teacher = '{build: "their_teachers:keras_model", train: {epochs: 20}}'
    folder = pipeline.run(changed(teacher, student, "train.epochs=4"), tmp_path / "run")
    report = read_json(folder / "report.json")["models"]
    assert report["teacher"]["quality"]["accuracy"]["mean"] > 0.5
    assert report["teacher"]["cost"]["parameters"] == 40 + 144 * 10 + 10
    shipped = lb.students.load(folder / "student", trust_code=True)
    test = lb.data.sources.digits().limited(256).test
    right = shipped(test.column("inputs")).argmax(1) == test.column("targets")
    values = report["student"]["quality"]["accuracy"]["values"]
    assert float(right.float().mean()) == pytest.approx(values[0], abs=1e-6)
