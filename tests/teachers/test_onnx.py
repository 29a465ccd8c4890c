"""ONNX models teach through ONNX Runtime."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import limbeck as lb
from limbeck.errors import InputError
from limbeck.knowledge import write
from limbeck.teachers import Teacher
from limbeck.testing import check_teacher

onnx = pytest.importorskip("onnx", reason="no onnx: pip install limbeck[onnx]")
pytest.importorskip("onnxruntime", reason="no onnxruntime: pip install limbeck[onnx]")

RNG = np.random.default_rng(0)
HIDDEN = RNG.normal(size=(64, 7)).astype(np.float32) / 8
HEAD = RNG.normal(size=(7, 10)).astype(np.float32)


def made(
    path: Path, *, rows: Any = "B", softmax: bool = False, outside: bool = False, scale: float = 1
) -> Path:
    """Write a small network: x → hidden (MatMul) → Relu → scores, perhaps → p."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], name="flatten"),
        helper.make_node("MatMul", ["flat", "w1"], ["hidden"], name="first"),
        helper.make_node("Relu", ["hidden"], ["active"], name="relu"),
        helper.make_node("MatMul", ["active", "w2"], ["scores"], name="head"),
    ]
    outputs = ["scores"]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["scores"], ["p"], name="soft"))
        nodes.append(helper.make_node("ArgMax", ["scores"], ["label"], name="top", axis=1))
        outputs = ["label", "p"]
    shapes = {"scores": [rows, 10], "p": [rows, 10], "label": [rows, 1]}
    kinds = {"label": onnx.TensorProto.INT64}
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", kind, [rows, 1, 8, 8])],
        [helper.make_tensor_value_info(n, kinds.get(n, kind), shapes[n]) for n in outputs],
        [
            onnx.numpy_helper.from_array(HIDDEN * scale, "w1"),
            onnx.numpy_helper.from_array(HEAD, "w2"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    options: dict[str, Any] = {}
    if outside:
        options = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    onnx.save(model, str(path), **options)
    return path


def batch(count: int = 6) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {"inputs": torch.rand(count, 1, 8, 8, generator=generator), "id": torch.arange(count)}


def by_hand(count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    hidden = batch(count)["inputs"].numpy().reshape(count, -1) @ HIDDEN
    return hidden, np.maximum(hidden, 0) @ HEAD


@pytest.mark.parametrize("rows", ["B", 1, 4, 8])
def test_it_keeps_the_contract_and_computes_the_model(rows: Any, tmp_path: Path) -> None:
    """A model exported for four samples would fail at the fifth, or answer for the wrong ones."""
    teacher = Teacher.from_onnx(made(tmp_path / "t.onnx", rows=rows))
    check_teacher(teacher, batch(), ("logits", "hidden"))
    known = teacher.knowledge(batch(), ("logits", "hidden", "relu"))
    hidden, scores = by_hand()
    assert known.logits.numpy() == pytest.approx(scores, abs=1e-5)
    assert known["hidden"].numpy() == pytest.approx(hidden, abs=1e-5)
    assert known["relu"].numpy() == pytest.approx(np.maximum(hidden, 0), abs=1e-5)


def test_layers_teach(tmp_path: Path) -> None:
    """Features of another framework would be found only when a distiller asks for them."""
    teacher = Teacher.from_onnx(made(tmp_path / "t.onnx"))
    student = lb.students.zoo.build("mlp", features=64, hidden=(5,), classes=10)
    method = lb.methods.kd() + lb.methods.fitnets(student="fc1", teacher="hidden")
    distiller = lb.Distiller(teacher, student, task=lb.tasks.Classification(10), method=method)
    data = lb.data.sources.digits(limit=256)
    lb.fit(distiller, data.train, epochs=1, batch_size=64, listener=lb.Silent())
    write(tmp_path / "store", teacher, data.train, taps=["logits", "hidden"])


def test_probabilities_and_outputs(tmp_path: Path) -> None:
    """scikit-learn's exports answer with labels first, which are no scores."""
    path = made(tmp_path / "t.onnx", softmax=True)
    teacher = Teacher.from_onnx(path, output="p", returns="probabilities")
    scores = torch.from_numpy(by_hand()[1])
    assert torch.allclose(
        teacher.knowledge(batch()).logits.softmax(1), scores.softmax(1), atol=1e-5
    )
    assert torch.allclose(teacher.knowledge(batch(), ("head",))["head"], scores, atol=1e-5)
    with pytest.raises(InputError, match=r"int64.*output="):
        Teacher.from_onnx(path).knowledge(batch())
    with pytest.raises(InputError, match="returns='probabilities'"):
        Teacher.from_onnx(path, output="p").knowledge(batch())
    with pytest.raises(InputError, match=r"output of t\.onnx: 'probs'.*Known: label, p"):
        Teacher.from_onnx(path, output="probs")


def test_weights_beside_the_file(tmp_path: Path) -> None:
    """Large models keep them there; a graph from memory would not find them."""
    path = made(tmp_path / "t.onnx", outside=True)
    assert (tmp_path / "weights.bin").is_file()
    teacher = Teacher.from_onnx(path)
    known = teacher.knowledge(batch(), ("logits", "hidden"))
    assert known.logits.numpy() == pytest.approx(by_hand()[1], abs=1e-5)
    before = teacher.fingerprint()
    made(tmp_path / "t.onnx", outside=True, scale=2)
    assert Teacher.from_onnx(path).fingerprint() != before


def test_fingerprints_and_size(tmp_path: Path) -> None:
    """The same file in another folder is the same teacher; other weights are another."""
    teacher = Teacher.from_onnx(made(tmp_path / "t.onnx"))
    (tmp_path / "moved").mkdir()
    shutil.copy(tmp_path / "t.onnx", tmp_path / "moved" / "t.onnx")
    assert Teacher.from_onnx(tmp_path / "moved" / "t.onnx").fingerprint() == teacher.fingerprint()
    other = Teacher.from_onnx(made(tmp_path / "u.onnx", scale=2))
    assert other.fingerprint() != teacher.fingerprint()
    assert teacher.size().parameters == 64 * 7 + 7 * 10
    assert teacher.size().bytes == (tmp_path / "t.onnx").stat().st_size


def test_wrong_input_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's own errors name neither the file nor what is there."""
    path = made(tmp_path / "t.onnx")
    with pytest.raises(InputError, match=r"tap of t\.onnx: 'hiden'.*did you mean 'hidden'"):
        Teacher.from_onnx(path).knowledge(batch(), ("hiden",))
    with pytest.raises(InputError, match="no file"):
        Teacher.from_onnx(tmp_path / "none.onnx")
    (tmp_path / "junk.onnx").write_bytes(b"\x00" * 100)
    with pytest.raises(InputError, match="not an ONNX model"):
        Teacher.from_onnx(tmp_path / "junk.onnx")
    pair = (batch()["inputs"], batch()["inputs"])
    with pytest.raises(InputError, match=r"2 inputs for t\.onnx.*1: x"):
        Teacher.from_onnx(path).knowledge({"inputs": pair})
    with pytest.raises(InputError, match=r"wants an input.*'x'.*Known: y"):
        Teacher.from_onnx(path).knowledge({"inputs": {"y": batch()["inputs"]}})
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r'pip install "limbeck\[onnx\]"'):
        Teacher.from_onnx(path)
