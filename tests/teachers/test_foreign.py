"""Functions, estimators and ensembles teach as modules do."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn

import limbeck as lb
from limbeck.data import Arrays, Normalize
from limbeck.errors import InputError
from limbeck.knowledge import write
from limbeck.teachers import Foreign, Knowing, Returns, Teacher
from limbeck.teachers.contents import contents
from limbeck.testing import check_teacher

X, Y = load_digits(return_X_y=True)
X = X.astype(np.float32)


def batch(count: int = 12) -> dict[str, Any]:
    return {
        "inputs": torch.from_numpy(X[:count].reshape(-1, 1, 8, 8) / 16),
        "raw": torch.from_numpy(X[:count].copy()),
        "targets": torch.from_numpy(Y[:count]),
        "id": torch.arange(count) * 3,
        "view": torch.zeros(count, dtype=torch.int64),
    }


def forest(seed: int = 0, **options: Any) -> RandomForestClassifier:
    return RandomForestClassifier(5, random_state=seed, **options).fit(X[:300], Y[:300])


# -- the contract


@pytest.mark.parametrize(
    "teacher",
    [
        Teacher.from_sklearn(forest(), inputs="raw"),
        Teacher.from_sklearn(SVC().fit(X[:300], Y[:300]), lambda images: images * 16),
        Teacher.from_sklearn(
            HistGradientBoostingClassifier(max_iter=3).fit(X[:200], Y[:200]), inputs="raw"
        ),
        Teacher.from_sklearn(
            make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y), inputs="raw"
        ),
        Teacher.from_callable(forest().predict_proba, returns="probabilities", inputs="raw"),
        Teacher.from_callable(lambda images: images.sum(2).reshape(len(images), -1), layout="NHWC"),
        Teacher.ensemble([nn.Flatten(), Teacher(nn.Flatten())], weights=[1, 3]),
    ],
    ids=["forest", "margins", "boosted", "pipeline", "function", "images", "ensemble"],
)
def test_they_keep_the_contract(teacher: Any, tmp_path: Path) -> None:
    """Stores, distillers and recipes rely on it, whatever the teacher is made of."""
    check_teacher(teacher, batch())
    assert isinstance(teacher, Knowing)
    data = Arrays.of(**{name: batch()[name] for name in ("inputs", "raw", "targets")})
    write(tmp_path / "store", teacher, data, codec="full")
    given = next(iter(lb.data.Loader(data, 12)))
    replayed = Teacher.replay(tmp_path / "store").knowledge(given).logits
    assert torch.allclose(replayed, teacher.knowledge(given).logits)


def test_a_forest_teaches_a_network(tmp_path: Path) -> None:
    """Columns for the trees and pixels for the student must stay the same samples' everywhere."""
    data = lb.data.sources.digits(limit=512)
    raw = lambda split: Arrays.of(  # noqa: E731
        split.ids, inputs=split.column("inputs"), targets=split.column("targets"),
        raw=split.column("inputs").flatten(1) * 16,
    )  # fmt: skip
    train, test = raw(data.train), raw(data.test)
    estimator = RandomForestClassifier(100, min_samples_leaf=3, random_state=0)
    estimator.fit(train.column("raw").numpy(), train.column("targets").numpy())
    teacher = Teacher.from_sklearn(estimator, inputs="raw")
    student = lb.students.zoo.build("mlp", features=64, hidden=(32,), classes=10)
    # Without the label: what the student knows, it has from the forest.
    method = lb.methods.kd(temperature=1, alpha=1.0)
    distiller = lb.Distiller(teacher, student, task=lb.tasks.Classification(10), method=method)
    lb.fit(distiller, train, epochs=30, batch_size=32, listener=lb.Silent())
    right = student(test.column("inputs")).argmax(1) == test.column("targets")
    assert right.float().mean() > 0.85


# -- what is made of the answers


def test_probabilities_become_their_logarithms() -> None:
    """At temperature 1 the student would be taught other probabilities than the teacher's."""
    p = torch.tensor([[0.2, 0.3, 0.5], [0.0, 0.0, 1.0]])
    logits = Returns("probabilities", clip=1e-4)(p)
    assert torch.allclose(logits[0].softmax(0), p[0])
    assert logits[1, 0].item() == pytest.approx(math.log(1e-4))
    known = Teacher.from_callable(lambda x: x.astype(np.float64), returns="probabilities")
    assert torch.allclose(known.knowledge({"inputs": p}).logits[0].exp(), p[0])


def test_a_single_column_is_the_second_class() -> None:
    """A sigmoid's answer would be one class of one, and its softmax always 1."""
    z = torch.tensor([-1.5, 0.0, 2.0])
    for answer in (z, z.unsqueeze(1)):
        assert torch.equal(Returns("logits")(answer), torch.stack([0 * z, z], 1))
        two = Returns("probabilities")(answer.sigmoid())
        assert torch.allclose(two.softmax(1)[:, 1], z.sigmoid())
    sure = Returns("probabilities", clip=1e-6)(torch.tensor([0.0, 1.0]))
    assert sure[:, 1].tolist() == pytest.approx([-13.8155, 13.8155], rel=1e-4)


def test_values_pass_unchanged() -> None:
    """A rating would be turned into a class."""
    line = LinearRegression().fit(X[:200], Y[:200])
    found = Teacher.from_sklearn(line, inputs="raw").knowledge(batch()).logits
    assert found.shape == (12, 1), "a column for each number, as students answer"
    assert torch.allclose(found[:, 0], torch.from_numpy(line.predict(X[:12])).float())


@pytest.mark.parametrize(
    ("kind", "answer", "told"),
    [
        ("logits", [[0.5, 0.5], [0.1, 0.9]], "returns='probabilities'"),
        ("probabilities", [[2.0, -1.0]], "from -1 to 2"),
        ("probabilities", [[0.6, 0.7]], "adds up to 1.3"),
        ("probabilities", [[1.5]], "from -0.5 to 1.5"),
    ],
)
def test_answers_that_are_not_what_was_said(kind: Any, answer: Any, told: str) -> None:
    """Probabilities taken for logits teach next to nothing, and no error tells."""
    with pytest.raises(InputError, match=told):
        Returns(kind)(torch.tensor(answer))


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda x: x[:3], r"\(3, 4\) for 5 samples"),
        (lambda x: x.argmax(1), "int64.*not the predicted labels"),
        (lambda x: x.sum(), r"\(1,\) for 5 samples"),
        (lambda x: {"scores": x}, "Known: scores"),
        (lambda x: np.array([str(row) for row in x]), "floating-point"),
    ],
)
def test_answers_that_cannot_be_used(function: Any, told: str) -> None:
    """A row for another sample would be found out by nobody."""
    with pytest.raises(InputError, match=told):
        Teacher.from_callable(function).knowledge({"inputs": torch.randn(5, 4)})


def test_wrong_options() -> None:
    """They would be found out at the first batch, or never."""
    for wrong in ({"returns": "probs"}, {"clip": 0.0}, {"layout": "HWC"}, {"version": ""}):
        with pytest.raises(InputError):
            Teacher.from_callable(np.exp, **wrong)
    with pytest.raises(InputError, match=r"field of the batch: 'rwa'.*did you mean 'raw'"):
        Teacher.from_callable(np.exp, inputs="rwa").knowledge(batch())


# -- memory and inputs


def test_nothing_is_copied_that_need_not_be() -> None:
    """A copy of every batch would cost more than a small model."""
    x, held = torch.randn(5, 4), []

    def ask(rows: np.ndarray) -> np.ndarray:
        held.append(rows)
        held.append(rows * 2)
        return held[-1]

    logits = Teacher.from_callable(ask).knowledge({"inputs": x}).logits
    assert held[0].ctypes.data == x.data_ptr()
    assert logits.data_ptr() == held[1].ctypes.data


def test_the_batch_is_not_handed_out_as_an_answer() -> None:
    """What changes the answer in place would change the samples."""
    x = torch.randn(5, 4)
    known = Teacher.from_callable(lambda rows: rows[:, ::-1][:, ::-1]).knowledge({"inputs": x})
    known.logits.zero_()
    assert x.abs().sum() > 0
    frozen = np.ones((5, 2), np.float32)
    frozen.flags.writeable = False
    Teacher.from_callable(lambda rows: frozen).knowledge({"inputs": x}).logits.zero_()
    assert frozen.sum() == 10


def test_named_arguments_and_several_tensors() -> None:
    """A function of two arrays would get a dictionary."""
    given = {"a": torch.ones(3, 2), "b": torch.full((3, 2), 2.0)}
    teacher = Teacher.from_callable(lambda a, b: {"logits": a + b, "sum": a})
    known = teacher.knowledge({"inputs": given}, ("logits", "sum"))
    assert known.logits.tolist() == [[3.0, 3.0]] * 3
    assert known["sum"].tolist() == [[1.0, 1.0]] * 3


def test_its_own_resolution_normalisation_and_layout() -> None:
    """A model that wants large images, channels last, would be shown the student's small ones."""
    seen = []

    def ask(images: np.ndarray) -> np.ndarray:
        seen.append(images)
        return images.reshape(len(images), -1)[:, :3] * 2

    first = nn.Sequential(nn.Upsample(scale_factor=4), Normalize((0.5,), (0.25,)))
    teacher = Teacher.from_callable(ask, first, layout="NHWC")
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    task = lb.tasks.Classification(3)
    distiller = lb.Distiller(teacher, student, task=task, method=lb.methods.kd())
    distiller(batch() | {"targets": torch.arange(12) % 3})
    assert seen[0].shape[1:] == (32, 32, 1)
    small = batch()["inputs"][0, 0]
    assert seen[-1][0, ::4, ::4, 0] == pytest.approx((small.numpy() - 0.5) / 0.25)


# -- classes


def test_named_classes_are_put_in_the_tasks_order() -> None:
    """scikit-learn sorts names; the task's third class would be taught as its first."""
    names = np.array(["six", "zero", "one"])
    few = Y < 3
    words = names[Y[few]]  # class 0 is "six", 1 is "zero", 2 is "one"
    model = LogisticRegression(max_iter=2000).fit(X[few], words)
    assert list(model.classes_) == ["one", "six", "zero"]
    teacher = Teacher.from_sklearn(model, inputs="raw", labels=["six", "zero", "one"])
    given = {"raw": torch.from_numpy(X[few][:20])}
    assert teacher.knowledge(given).logits.argmax(1).tolist() == Y[few][:20].tolist()
    with pytest.raises(InputError, match=r"\['one', 'six', 'zero'\].*labels="):
        Teacher.from_sklearn(model)


def test_a_class_that_was_never_seen() -> None:
    """The columns behind it would all be taught as their neighbours."""
    some = Y != 4
    model = forest().fit(X[some], Y[some])
    with pytest.raises(InputError, match="task's classes in order"):
        Teacher.from_sklearn(model)
    teacher = Teacher.from_sklearn(model, inputs="raw", labels=range(10), clip=1e-5)
    logits = teacher.knowledge(batch()).logits
    assert logits.shape == (12, 10)
    assert logits[:, 4].tolist() == pytest.approx([math.log(1e-5)] * 12)
    assert (logits.argmax(1) == batch()["targets"])[batch()["targets"] != 4].all()
    with pytest.raises(InputError, match="never saw the class 4"):
        Teacher.from_sklearn(SVC().fit(X[some], Y[some]), labels=range(10))


@pytest.mark.parametrize("labels", [[0, 1], [1, 0]])
def test_two_classes_from_one_column(labels: list[int]) -> None:
    """A margin of two classes the wrong way round teaches the opposite of everything."""
    few = Y < 2
    teacher = Teacher.from_sklearn(SVC().fit(X[few], Y[few]), inputs="raw", labels=labels)
    said = teacher.knowledge({"raw": torch.from_numpy(X[few][:20])}).logits
    assert [labels[n] for n in said.argmax(1).tolist()] == Y[few][:20].tolist()


@pytest.mark.parametrize(
    ("estimator", "told"),
    [
        (RandomForestClassifier(), "not fitted"),
        (StandardScaler().fit(X), "StandardScaler as an estimator"),
        (RandomForestClassifier(2).fit(X, np.stack([Y, Y], 1)), "2 questions"),
    ],
)
def test_estimators_that_cannot_teach(estimator: Any, told: str) -> None:
    """They would fail in the first step, or teach something else."""
    with pytest.raises(InputError, match=told):
        Teacher.from_sklearn(estimator)


def test_an_estimator_has_only_logits() -> None:
    """Its lack of layers would be a KeyError."""
    with pytest.raises(InputError, match=r"tap of RandomForest.*: 'layer1'.*Known: logits"):
        Teacher.from_sklearn(forest(), inputs="raw").knowledge(batch(), ("layer1",))


def test_margins_of_pairs_are_refused() -> None:
    """Forty-five pairs of ten classes would be taken for forty-five classes."""
    model = SVC(decision_function_shape="ovo").fit(X[:300], Y[:300])
    with pytest.raises(InputError, match="45 columns for 10 classes"):
        Teacher.from_sklearn(model, inputs="raw", labels=list(range(9, -1, -1))).knowledge(batch())


# -- ensembles


def two() -> list[Teacher]:
    return [Teacher(nn.Linear(4, 3).double().float()) for _ in range(2)]


def test_means_by_hand() -> None:
    """A mean of logits in place of probabilities is another teacher."""
    members, x = two(), {"inputs": torch.randn(5, 4)}
    one, other = (member.knowledge(x).logits for member in members)
    both = Teacher.ensemble(members, weights=[1, 3]).knowledge(x, ("logits", "logits[1]"))
    expected = 0.25 * one.softmax(1) + 0.75 * other.softmax(1)
    assert torch.allclose(both.logits.exp(), expected)
    assert torch.equal(both["logits[1]"], other)
    mean = Teacher.ensemble(members, mean="logits").knowledge(x).logits
    assert torch.allclose(mean, (one + other) / 2)
    alone = Teacher.ensemble(members, weights=[1, 0]).knowledge(x).logits
    assert torch.allclose(alone.softmax(1), one.softmax(1))


def test_members_of_all_kinds() -> None:
    """An ensemble is most useful where a forest and a network err differently."""
    members = [
        Teacher.from_sklearn(forest(), inputs="raw"),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        Teacher.ensemble([nn.Sequential(nn.Flatten(), nn.Linear(64, 10))]),
    ]
    check_teacher(Teacher.ensemble(members), batch(), ("logits", "logits[0]"))


def test_ensembles_that_make_no_sense() -> None:
    """Weights that do not fit would be cut, or wrap around."""
    for wrong in ({"weights": [1]}, {"weights": [1, -1]}, {"weights": [0, 0]}, {"mean": "median"}):
        with pytest.raises(InputError):
            Teacher.ensemble(two(), **wrong)
    with pytest.raises(InputError, match="0 teachers"):
        Teacher.ensemble([])
    x = {"inputs": torch.randn(5, 4)}
    with pytest.raises(InputError, match=r"Known: logits, logits\[0\], logits\[1\]"):
        Teacher.ensemble(two()).knowledge(x, ("logits[2]",))
    with pytest.raises(InputError, match="shapes"):
        Teacher.ensemble([nn.Linear(4, 3), nn.Linear(4, 5)]).knowledge(x)


# -- fingerprints


class Model:
    """A user's own class, with weights, and no repr."""

    def __init__(self, weight: float) -> None:
        self.weight = np.full((4, 3), weight, np.float32)
        self.itself = self

    def ask(self, rows: np.ndarray) -> np.ndarray:
        return rows @ self.weight


MODEL = Model(1.0)


def by_name(rows: np.ndarray) -> np.ndarray:
    return MODEL.ask(rows)


def test_fingerprints_differ_where_answers_do() -> None:
    """A store of one forest's answers would be replayed for another's."""
    probabilities = {"returns": "probabilities", "inputs": "raw"}
    makes = {
        "forest": Teacher.from_sklearn(forest(), inputs="raw"),
        "other trees": Teacher.from_sklearn(forest(1), inputs="raw"),
        "more trees": Teacher.from_sklearn(forest(max_depth=2), inputs="raw"),
        "other field": Teacher.from_sklearn(forest()),
        "clip": Teacher.from_sklearn(forest(), inputs="raw", clip=1e-3),
        "order": Teacher.from_sklearn(forest(), inputs="raw", labels=[*range(9, -1, -1)]),
        "preprocess": Teacher.from_sklearn(forest(), Normalize((0.5,), (0.5,)), inputs="raw"),
        "otherwise": Teacher.from_sklearn(forest(), Normalize((0.5,), (0.4,)), inputs="raw"),
        "method": Teacher.from_callable(forest().predict_proba, **probabilities),
        "other method": Teacher.from_callable(forest(1).predict_proba, **probabilities),
        "layout": Teacher.from_callable(forest().predict_proba, layout="NHWC", **probabilities),
        "mine": Teacher.from_callable(Model(1.0).ask),
        "mine, other": Teacher.from_callable(Model(2.0).ask),
        "partial": Teacher.from_callable(partial(Model(1.0).ask)),
        "version": Teacher.from_callable(Model(1.0).ask, version="1"),
        "version 2": Teacher.from_callable(Model(1.0).ask, version="2"),
        "ensemble": Teacher.ensemble([Teacher.from_sklearn(forest())]),
        "ensemble of logits": Teacher.ensemble([Teacher.from_sklearn(forest())], mean="logits"),
    }
    prints = {name: teacher.fingerprint() for name, teacher in makes.items()}
    assert len(set(prints.values())) == len(prints)
    again = Teacher.from_sklearn(forest(), inputs="raw")
    again.knowledge(batch())
    assert again.fingerprint() == prints["forest"]
    assert Teacher.from_callable(Model(1.0).ask).fingerprint() == prints["mine"]


def test_a_global_model_is_seen_through_its_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual way to write it: a function that names a model beside it."""
    before = Teacher.from_callable(by_name).fingerprint()
    monkeypatch.setattr(sys.modules[__name__], "MODEL", Model(2.0))
    assert Teacher.from_callable(by_name).fingerprint() != before
    monkeypatch.setattr(sys.modules[__name__], "MODEL", Model(1.0))
    assert Teacher.from_callable(by_name).fingerprint() == before


def test_fingerprints_are_the_same_in_another_process() -> None:
    """A store could never be resumed: an address in memory is another one each time."""
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
from tests.teachers.test_foreign import *
boosted = HistGradientBoostingClassifier(max_iter=3, random_state=0).fit(X[:200], Y[:200])
teachers = [Teacher.from_sklearn(forest()), Teacher.from_sklearn(boosted),
            Teacher.from_callable(by_name), Teacher.from_callable(Model(3.0).ask),
            Teacher.from_callable(lambda x: MODEL.ask(x) + len({{"a", "b", "c"}}))]
print([teacher.fingerprint() for teacher in teachers])
"""
    prints = {
        subprocess.check_output(
            [sys.executable, "-c", code], text=True, env=os.environ | {"PYTHONHASHSEED": seed}
        )
        for seed in ("1", "2")
    }
    assert len(prints) == 1


def test_what_cannot_be_told_needs_a_name(tmp_path: Path) -> None:
    """A client's open connection says nothing of the model behind it."""
    with (tmp_path / "connection").open("w") as connection:
        ask = lambda rows: (connection.name, rows)[1]  # noqa: E731
        with pytest.raises(InputError, match=r"TextIOWrapper.*version="):
            Teacher.from_callable(ask).fingerprint()
        assert Teacher.from_callable(ask, version="mine 3").fingerprint()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ([1, 2], [2, 1], False),
        ({"x", "y", "z"}, {"z", "y", "x"}, True),
        ([1], ["1"], False),
        (np.zeros(3), np.zeros(3, np.float32), False),
        (np.zeros((2, 3)), np.zeros((3, 2)), False),
        (np.arange(4).reshape(2, 2), np.asfortranarray(np.arange(4).reshape(2, 2)), True),
        (np.array(["a", None], object), np.array(["a", None], object), True),
        (torch.ones(2), torch.ones(2, dtype=torch.bfloat16), False),
        ([[0.0]] * 2, [[0.0], [0.0]], True),
        (nn.Linear, nn.Conv2d, False),
        (Model(1.0), Model(1.0), True),
    ],
)
def test_contents(one: object, other: object, same: bool) -> None:
    """Two models would pass for one, or one for two."""
    assert (contents(one) == contents(other)) is same


def test_bytes_between_fields_do_not_count() -> None:
    """A tree's nodes are padded with whatever lay in memory."""
    kind = np.dtype([("a", np.int8), ("b", np.float64)], align=True)
    memory = [bytearray([fill] * 32) for fill in (1, 2)]
    nodes = [np.frombuffer(part, kind) for part in memory]
    for array in nodes:
        array["a"], array["b"] = 3, 4.0
    assert memory[0] != memory[1]
    assert contents(nodes[0]) == contents(nodes[1])


def test_it_says_what_it_is() -> None:
    """A message would name a class that says nothing."""
    teacher = Teacher.from_sklearn(forest(), inputs="raw")
    assert repr(teacher) == "Foreign(RandomForestClassifier, returns='probabilities')"
    assert isinstance(teacher, Foreign)
    assert repr(teacher.knowledge(batch())).endswith("from RandomForestClassifier)")
