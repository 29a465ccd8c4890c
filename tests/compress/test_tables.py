"""Embeddings of 8 bits: rows against NumPy's, and tables that something else reads too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from limbeck import compress
from limbeck.compress.tables import rounded, tables
from limbeck.evaluate.runtimes import logits_from, opened
from limbeck.export import Signature, Whole, get
from limbeck.students import zoo

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

DRAW = np.random.default_rng(0)
# Rows of very different sizes: with one scale for all of them the small ones would be zero.
TABLE = (DRAW.normal(size=(50, 8)) * np.logspace(-4, 1, 50)[:, None]).astype(np.float32)
TABLE[3] = 0
IDS = DRAW.integers(0, 50, size=(2, 7))


def written(also_read: bool) -> Any:
    """Return a model that looks rows up and, perhaps, multiplies them with the same table."""
    make, kind = onnx.helper, onnx.TensorProto
    nodes = [make.make_node("Gather", ["words.weight", "ids"], ["rows"], name="look")]
    if also_read:
        nodes.append(make.make_node("Transpose", ["words.weight"], ["turned"], name="turn"))
    graph = make.make_graph(
        nodes,
        "hand",
        [make.make_tensor_value_info("ids", kind.INT64, ["batch", "tokens"])],
        [make.make_tensor_value_info("rows", kind.FLOAT, ["batch", "tokens", 8])],
        [onnx.numpy_helper.from_array(TABLE, "words.weight")],
    )
    return make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=9)


def test_rows_have_scales_of_their_own() -> None:
    """Without it, rare words, whose rows are short, would all become the same."""
    model = rounded(written(also_read=False))
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found = session.run(None, {"ids": IDS})[0]
    step = np.abs(TABLE).max(axis=1, keepdims=True) / 127
    assert np.all(np.abs(found - TABLE[IDS]) <= 0.501 * step[IDS])
    assert np.abs(found - TABLE[IDS]).max() > 0
    whole = len(written(also_read=False).SerializeToString())
    assert whole - len(model.SerializeToString()) > 50 * (8 * 3 - 4) - 400


def test_a_table_that_something_else_reads_stays() -> None:
    """Without it, a classifier that shares its words' table would lose its weight."""
    model = written(also_read=True)
    assert tables(model) == {}
    before = model.SerializeToString()
    assert rounded(model).SerializeToString() == before


@pytest.mark.parametrize("name", ["bag", "textcnn"])
def test_readers_of_texts_become_a_quarter(name: str, tmp_path: Path) -> None:
    """Without it, the bulk of a small reader would stay floats, or a bag could not be written."""
    torch.manual_seed(0)
    model = zoo.build(name, vocab=900, width=16, classes=3, dropout=0.0).eval()
    ids = torch.randint(1, 900, (6, 9))
    mask = (torch.arange(9) < torch.tensor([[9], [1], [4], [9], [2], [7]])).long()
    batch = {"input_ids": ids * mask, "attention_mask": mask}
    few = {key: value[:2, :5] for key, value in batch.items()}
    source = tmp_path / "float.onnx"
    get("onnx").write(Whole(None, model).eval(), Signature.of([batch, few]), source, {})
    wanted = model(**batch).detach()
    assert torch.allclose(logits_from(opened(source), batch), wanted, atol=1e-5)
    samples = [{key: value.numpy() for key, value in batch.items()}]
    out = tmp_path / "made.onnx"
    for make in (
        lambda keep: compress.static(source, out, samples, keep=keep),
        lambda keep: compress.dynamic(source, out, keep=keep),
        lambda keep: compress.weights_only(source, out, bits=8, keep=keep),
    ):
        make(())
        apart = (logits_from(opened(out), batch) - wanted).abs().max()
        assert 0 < apart < 0.05 * wanted.abs().max()
        small = out.stat().st_size
        make(["embedding"])
        assert out.stat().st_size - small > 900 * (16 * 3 - 4) - 3000
