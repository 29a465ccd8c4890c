"""Files of integers: their numbers against NumPy's, and what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from limbeck import compress
from limbeck.compress import graphs
from limbeck.errors import InputError

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(64, 6)).astype(np.float32)
SIZES = (6, 8, 5, 3)
WEIGHTS = [DRAW.normal(size=(b, a)).astype(np.float32) for a, b in itertools.pairwise(SIZES)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three linear layers with ReLU, written by hand: fc1, fc2, head."""
    make, numbers = onnx.helper, onnx.numpy_helper
    names, nodes, weights, now = ("fc1", "fc2", "head"), [], [], "inputs"
    for place, name in enumerate(names):
        bias = np.full(SIZES[place + 1], 0.1, np.float32)
        weights += [numbers.from_array(WEIGHTS[place], f"{name}.weight")]
        weights += [numbers.from_array(bias, f"{name}.bias")]
        out = "logits" if name == "head" else f"{name}_out"
        words = [now, f"{name}.weight", f"{name}.bias"]
        nodes.append(make.make_node("Gemm", words, [out], name=f"node_{name}", transB=1))
        if name != "head":
            nodes.append(make.make_node("Relu", [out], [f"{name}_relu"], name=f"{name}_relu"))
            now = f"{name}_relu"
    kind = onnx.TensorProto.FLOAT
    sides = [
        make.make_tensor_value_info(n, kind, ["batch", s])
        for n, s in (("inputs", 6), ("logits", 3))
    ]
    graph = make.make_graph(nodes, "hand", sides[:1], sides[1:], weights)
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=9)
    model.metadata_props.add(key="limbeck", value="{}")
    onnx.save(model, str(tmp_path / "float.onnx"))
    return tmp_path / "float.onnx"


def answers(path: Path, x: NDArray[Any] = X) -> NDArray[Any]:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found: NDArray[Any] = session.run(["logits"], {"inputs": x})[0]
    return found


def on_grid(x: NDArray[Any], scale: Any, zero: float, low: int, high: int) -> NDArray[Any]:
    return (np.clip(np.rint(x / scale) + zero, low, high) - zero) * scale


def rounded_input(x: NDArray[Any]) -> NDArray[Any]:
    """Return x on the grid of 256 steps between its least and its greatest, zero among them."""
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    scale = (high - low) / 255
    return on_grid(x, scale, np.rint(-low / scale), 0, 255)


@pytest.mark.parametrize(("bits", "most"), [(8, 127), (4, 7)])
def test_one_layer_computes_what_numpy_does(
    source: Path, tmp_path: Path, bits: Any, most: int
) -> None:
    """Without it, weights could share one scale, or activations could have a range of their own."""
    out = compress.static(
        source, tmp_path / "q.onnx", [{"inputs": X}], bits=bits, keep=["fc2", "head"]
    )
    w = WEIGHTS[0]
    scale = np.abs(w).max(axis=1, keepdims=True) / most
    w = on_grid(w, scale, 0, -most, most)
    assert np.allclose(
        compress.fake_quantize_weight(torch.tensor(WEIGHTS[0]), bits).numpy(), w, atol=1e-6
    )
    hidden = np.maximum(rounded_input(X) @ w.T + 0.1, 0)
    for weight in WEIGHTS[1:]:
        hidden = hidden @ weight.T + 0.1
        hidden = hidden if weight is WEIGHTS[2] else np.maximum(hidden, 0)
    assert np.abs(answers(out) - hidden).max() < 0.02 * np.abs(hidden).max()
    assert np.abs(answers(out) - answers(source)).max() > 0


def test_all_schemes_are_smaller_and_near(source: Path, tmp_path: Path) -> None:
    """Without it, a scheme could write a file that is broken, or that is a copy."""
    samples, wanted = [{"inputs": X}], answers(source)
    made = {
        ranges: compress.static(source, tmp_path / f"{ranges}.onnx", samples, ranges=ranges)
        for ranges in compress.RANGES
    }
    made["dynamic"] = compress.dynamic(source, tmp_path / "dynamic.onnx")
    made["weights"] = compress.weights_only(source, tmp_path / "weights.onnx", bits=8)
    for name, path in made.items():
        apart = np.abs(answers(path) - wanted).max() / np.abs(wanted).max()
        assert 0 < apart < (0.2 if name == "entropy" else 0.05), name
        assert [entry.key for entry in onnx.load(str(path)).metadata_props] == ["limbeck"]


def test_ranges_that_training_found_go_before_those_of_samples(
    source: Path, tmp_path: Path
) -> None:
    """Without it, the file would compute something else than what was trained."""
    out = tmp_path / "q.onnx"
    compress.static(source, out, [{"inputs": X}], learnt={"fc1": (-4.0, 1.0), "head": (0.0, 12.75)})
    numbers = {
        found.name: onnx.numpy_helper.to_array(found)
        for found in onnx.load(str(out)).graph.initializer
    }
    assert float(numbers["inputs_scale"]) == pytest.approx(5 / 255)
    assert float(numbers["fc2_relu_scale"]) == pytest.approx(0.05)


def test_layers_that_are_kept_stay_floats(source: Path, tmp_path: Path) -> None:
    """Without it, mixed precision would be a word."""
    out = compress.static(source, tmp_path / "q.onnx", [{"inputs": X}], keep=["head"])
    kinds = {found.name: found.data_type for found in onnx.load(str(out)).graph.initializer}
    assert kinds["head.weight"] == onnx.TensorProto.FLOAT
    assert "fc1.weight" not in kinds


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([{"inputs": np.zeros((4, 7), np.float32)}], r"shape \(4, 7\). Expected: \(batch, 6\)"),
        ([{"inputs": np.zeros((6,), np.float32)}], r"shape \(6,\). Expected: \(batch, 6\)"),
        ([{"images": X}], "with images. Expected: all inputs of the file: inputs"),
        ([X], "that are a ndarray. Expected: a mapping with an array for each input: inputs"),
        ([{"inputs": np.full((4, 6), np.nan, np.float32)}], "inputs with NaN or infinite numbers"),
        ([], "no calibration samples"),
    ],
)
def test_wrong_calibration_samples_are_refused(
    source: Path, tmp_path: Path, samples: Any, message: str
) -> None:
    """Without it, the error would be one of ONNX Runtime's insides, or there would be none."""
    with pytest.raises(InputError, match=message):
        compress.static(source, tmp_path / "q.onnx", samples)
    assert [file.name for file in tmp_path.iterdir()] == ["float.onnx"]


def test_wrong_files_and_layers_are_refused(source: Path, tmp_path: Path) -> None:
    """Without it, a damaged file would end in a traceback."""
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(source.read_bytes()[:200])
    with pytest.raises(InputError, match=r"damaged.onnx is not an ONNX model"):
        compress.dynamic(damaged, tmp_path / "q.onnx")
    with pytest.raises(InputError, match="there is no file"):
        compress.dynamic(tmp_path / "none.onnx", tmp_path / "q.onnx")
    with pytest.raises(InputError, match="did you mean 'fc2' or 'fc1'"):
        compress.dynamic(source, tmp_path / "q.onnx", keep=["fc3"])
    with pytest.raises(InputError, match="no layer to quantize beside fc1, fc2, head"):
        compress.dynamic(source, tmp_path / "q.onnx", keep=["fc1", "fc2", "head"])
    with pytest.raises(InputError, match="did you mean 'minmax'"):
        compress.static(source, tmp_path / "q.onnx", [{"inputs": X}], ranges="minimax")  # type: ignore[arg-type]


def test_the_layers_that_lose_most_are_kept(source: Path, tmp_path: Path) -> None:
    """Without it, ``keep: auto`` could keep the wrong layers, or more than it must."""
    harm = {"fc1": 0.001, "fc2": 0.3, "head": 0.1}
    kept: dict[Path, Any] = {source: list(harm)}

    def make(path: Path, keep: Any) -> None:
        kept[path] = list(keep)

    def score(path: Path) -> float:
        return 1 - sum(loss for name, loss in harm.items() if name not in kept[path])

    found = compress.mixed(source, tmp_path / "q.onnx", make, score, within=0.05)
    assert (found.keep, found.enough) == (("fc2", "head"), True)
    assert found.drops == pytest.approx(harm)
    assert found.score == pytest.approx(0.999)
    assert compress.mixed(source, tmp_path / "q.onnx", make, score, within=0.5).keep == ()
    assert not compress.mixed(source, tmp_path / "q.onnx", make, score, within=0).enough


def test_layers_go_by_their_modules(source: Path) -> None:
    """Without it, ``keep`` would need the names of an exporter's nodes."""
    found = graphs.layers(graphs.read(source))
    assert {name: node.name for name, node in found.items()} == {
        "fc1": "node_fc1", "fc2": "node_fc2", "head": "node_head",
    }  # fmt: skip


def _activations(path: Path, folder: Path) -> Any:
    """Return all tensors of a file for X, as ONNX Runtime's own comparison collects them."""
    debug = pytest.importorskip("onnxruntime.quantization.qdq_loss_debug")
    opened = folder / f"all-{path.name}"
    debug.modify_model_output_intermediate_tensors(str(path), str(opened))
    return debug.collect_activations(str(opened), iter([{"inputs": X}]))


def test_noise_is_what_onnx_runtime_finds(source: Path, tmp_path: Path) -> None:
    """Without it, a layer that suffers could be shown as one that does not."""
    debug = pytest.importorskip("onnxruntime.quantization.qdq_loss_debug")
    made = compress.static(source, tmp_path / "q.onnx", [{"inputs": X}])
    parts = [{"inputs": X[:40]}, {"inputs": X[40:]}]
    found = {each.layer: each for each in compress.noise(source, made, parts)}
    weights = debug.compute_weight_error(debug.create_weight_matching(str(source), str(made)))
    pairs = debug.create_activation_matching(
        _activations(made, tmp_path), _activations(source, tmp_path)
    )
    theirs = debug.compute_activation_error({n: p for n, p in pairs.items() if "float" in p})
    assert list(found) == ["fc1", "fc2", "head"]
    for name in ("fc1", "fc2"):
        wanted = theirs[f"{name}_relu"]["xmodel_err"]
        assert found[name].activations == pytest.approx(wanted, abs=1e-3)
    for name, each in found.items():
        assert each.weights == pytest.approx(weights[f"{name}.weight"], abs=1e-3)
    head = found["head"].activations
    error = answers(made) - answers(source)
    wanted = 10 * np.log10(np.square(answers(source)).sum() / np.square(error).sum())
    assert head == pytest.approx(wanted, abs=1e-3)


def test_a_product_whose_weight_lies_the_other_way_is_rounded_too(tmp_path: Path) -> None:
    """Without it, ``x @ weight`` of a network of one's own would be no layer to quantize."""
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    weight = onnx.numpy_helper.from_array(WEIGHTS[0].T.copy(), "weight")  # (6, 8)
    bias = onnx.numpy_helper.from_array(np.ones(8, np.float32), "bias")
    node = make.make_node("Gemm", ["inputs", "weight", "bias"], ["logits"], name="own")
    sides = [
        make.make_tensor_value_info(n, kind, ["batch", s])
        for n, s in (("inputs", 6), ("logits", 8))
    ]
    graph = make.make_graph([node], "hand", sides[:1], sides[1:], [weight, bias])
    opset = [make.make_opsetid("", 18)]
    onnx.save(make.make_model(graph, opset_imports=opset, ir_version=9), str(tmp_path / "m.onnx"))
    made = compress.weights_only(tmp_path / "m.onnx", tmp_path / "q.onnx", bits=8)
    assert answers(made) == pytest.approx(X @ WEIGHTS[0].T + 1, abs=0.1)


@pytest.mark.parametrize("bits", [8, 4])
def test_noise_of_weights_in_blocks(source: Path, tmp_path: Path, bits: Literal[8, 4]) -> None:
    """Without it, weights of four bits were told to be not rounded at all."""
    made = compress.weights_only(source, tmp_path / "q.onnx", bits=bits)
    found = {each.layer: each for each in compress.noise(source, made, [{"inputs": X}])}
    model, whole = onnx.load(str(made)), onnx.load(str(source))
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in whole.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "MatMulNBits"]:
        name = node.input[1].removesuffix(f".weight_Q{bits}")
        size = next(fact.i for fact in node.attribute if fact.name == "K")
        ends = [
            onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None)
            for n in (node.input[0], node.output[0])
        ]
        alone = onnx.helper.make_graph([node], "alone", ends[:1], ends[1:], model.graph.initializer)
        file = onnx.helper.make_model(alone, opset_imports=model.opset_import, ir_version=10)
        session = runtime.InferenceSession(file.SerializeToString())
        rounded = session.run(None, {node.input[0]: np.eye(size, dtype=np.float32)})[0]  # (K, N)
        plain = weights[f"{name}.weight"].T
        wanted = 10 * np.log10(np.square(plain).sum() / np.square(plain - rounded).sum())
        assert found[name].weights == pytest.approx(wanted, abs=0.01)


@pytest.mark.parametrize("scheme", ["dynamic", "weights_only"])
def test_noise_of_other_schemes(source: Path, tmp_path: Path, scheme: str) -> None:
    """Without it, files for Transformers would have no such panel."""
    made = getattr(compress, scheme)(source, tmp_path / "q.onnx", keep=["fc1"])
    found = {each.layer: each for each in compress.noise(source, made, [{"inputs": X}])}
    assert found["fc1"].activations == 120
    assert found["fc1"].weights is None
    for name in ("fc2", "head"):
        noisy = found[name].activations
        assert noisy is not None
        assert 5 < noisy < 60
