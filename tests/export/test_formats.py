"""Networks written as files: what is inside them, what they refuse, whether they answer alike."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import limbeck as lb
from limbeck import export
from limbeck.errors import InputError
from limbeck.evaluate import Contender, bench, invented, opened
from limbeck.evaluate.runtimes import logits_from
from limbeck.export import Signature, Whole
from limbeck.recipe import load
from limbeck.students.zoo._packed import states
from limbeck.teachers.foreign import Size

TOKENS = [
    {
        "input_ids": torch.arange(1, n + 1).unsqueeze(0),
        "attention_mask": torch.ones(1, n, dtype=torch.int64),
    }
    for n in (4, 7, 9)
]


def written(model: nn.Module, seen: list[Any], file: Path, **options: Any) -> Signature:
    name = {".onnx": "onnx", ".pt2": "program", ".pte": "executorch"}[file.suffix]
    whole, takes = Whole(None, model).eval(), Signature.of(seen)
    facts = {"inputs": takes.shapes(), "parameters": 7, "labels": ["a", "é"]}
    export.get(name).write(whole, takes, file, facts, **options)
    return takes


def test_preprocessing_is_in_the_graph(tmp_path: Path) -> None:
    """Without it, a device would get images that were never normalised, and answer nonsense."""
    linear = nn.Linear(12, 3)
    first = lb.data.Normalize((0.2, 0.5, 0.7), (0.5, 0.25, 2))
    whole = Whole(first, nn.Sequential(nn.Flatten(), linear))
    takes = Signature.of([torch.rand(1, 3, 2, 2)])
    export.get("onnx").write(whole.eval(), takes, tmp_path / "m.onnx", {}, opset=20)
    images = np.random.default_rng(0).random((5, 3, 2, 2), np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    found = session.run(["logits"], {"inputs": images})[0]
    mean, std = np.array([0.2, 0.5, 0.7]), np.array([0.5, 0.25, 2])
    normal = (images - mean[:, None, None]) / std[:, None, None]
    weight, bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()
    assert found == pytest.approx(normal.reshape(5, 12) @ weight.T + bias, abs=1e-5)
    assert onnx.load(str(tmp_path / "m.onnx")).opset_import[0].version == 20


def test_an_opset_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """Without it, a device that knows opset 11 would get a file in opset 18, and no word of it."""
    linear, seen = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), [torch.rand(1, 3, 2, 2)]
    for opset in (5, 99):
        with pytest.raises(InputError, match=f"in opset {opset}. Expected: .* it came to 18"):
            written(linear, seen, tmp_path / "m.onnx", opset=opset)
    assert not list(tmp_path.iterdir())


def check_texts(runner: Any, model: nn.Module, rows: int, length: int, atol: float) -> None:
    """Compare a file with its network on texts, the first of which is one token long."""
    ids = torch.randint(1, 30, (rows, length))
    mask = torch.ones_like(ids)
    mask[0, 1:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    with torch.no_grad():
        assert torch.allclose(logits_from(runner, batch), model.eval()(**batch), atol=atol)


def test_texts_may_have_any_length_and_number(tmp_path: Path) -> None:
    """Without it, a file would take only batches like the one that it was written with."""
    model = lb.students.zoo.build("textcnn", vocab=30, width=8, channels=4, classes=2)
    written(model, TOKENS, tmp_path / "m.onnx")
    runner = opened(tmp_path / "m.onnx")
    for rows, length in ((1, 2), (5, 23)):
        check_texts(runner, model, rows, length, 1e-5)
    assert (runner.facts["labels"], runner.size().parameters) == (["a", "é"], 7)
    assert runner.size().bytes == (tmp_path / "m.onnx").stat().st_size
    text = (tmp_path / "m.onnx").read_bytes()
    assert str(Path(lb.__file__).parent).encode() not in text, "the file tells of this machine"
    random = invented(runner, 3)
    assert random["attention_mask"].min() == 1, "a mask was drawn outside the range that was seen"
    assert (random["input_ids"].shape[0], int(random["input_ids"].max())) <= (3, 9)


def test_an_lstm_knows_lengths_by_itself(tmp_path: Path) -> None:
    """Without it, padding would be read, from its end on by the way back."""
    model = lb.students.zoo.build("bilstm", vocab=30, width=8, hidden=5, layers=2, classes=3)
    written(model, TOKENS, tmp_path / "m.onnx")
    runner = opened(tmp_path / "m.onnx")
    for rows, length in ((1, 1), (5, 23)):
        check_texts(runner, model, rows, length, 1e-6)
    assert [node.op_type for node in onnx.load(str(tmp_path / "m.onnx")).graph.node].count(
        "LSTM"
    ) == 2
    with pytest.raises(InputError, match=r"m\.pt2: the network has the operator .*Export as onnx"):
        written(model, TOKENS, tmp_path / "m.pt2")


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("sasrec", {"width": 8, "positions": 25}),
        ("gru4rec", {"width": 8, "hidden": 6, "layers": 2}),
    ],
)
def test_histories_may_have_any_length_and_number(
    name: str, args: dict[str, int], tmp_path: Path
) -> None:
    """Without it, a recommender could only be asked about the histories it was written with."""
    torch.manual_seed(0)
    model = lb.students.zoo.build(name, classes=30, **args).eval()
    written(model, TOKENS, tmp_path / "m.onnx")
    runner = opened(tmp_path / "m.onnx")
    for rows, length in ((1, 1), (5, 23)):
        ids = torch.randint(30, (rows, length))
        mask = torch.ones_like(ids)
        ids[0, 1:], mask[0, 1:] = 30, 0
        batch = {"input_ids": ids, "attention_mask": mask}
        with torch.no_grad():
            assert torch.allclose(logits_from(runner, batch), model(**batch), atol=1e-6)


class _BothWays(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(1, 5, 2, batch_first=True, bidirectional=True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found = states(self.gru, input_ids.unsqueeze(2).float(), attention_mask.sum(dim=1))
        return found.sum(dim=1)


def test_units_with_gates_are_read_in_both_directions(tmp_path: Path) -> None:
    """Without it, the way back would begin in the silence that fills up a batch of recordings."""
    torch.manual_seed(0)
    model, ids, mask = _BothWays(), torch.randint(1, 4, (3, 12)), torch.ones(3, 12).long()
    written(model, TOKENS, tmp_path / "m.onnx")
    mask[0, 5:] = 0
    found = logits_from(opened(tmp_path / "m.onnx"), {"input_ids": ids, "attention_mask": mask})
    with torch.no_grad():
        rows = [
            model(ids[row : row + 1, :n], mask[row : row + 1, :n]) for row, n in ((0, 5), (1, 12))
        ]
    assert torch.allclose(found[:2], torch.cat(rows), atol=1e-6)


def test_lengths_of_their_own_have_names_of_their_own() -> None:
    """Without it, a source and its translation would have to be equally long."""
    sizes = ((4, 5), (7, 3), (9, 8))
    seen = [
        {"ids": torch.ones(1, n), "mask": torch.ones(1, n), "told": torch.ones(1, 2, k)}
        for n, k in sizes
    ]
    found = Signature.of(seen).free
    assert found == ({0: "batch", 1: "length"},) * 2 + ({0: "batch", 2: "length2"},)


def test_programs_answer_as_the_network(tmp_path: Path) -> None:
    """Without it, inputs given by place could be in the wrong places."""
    model = lb.students.zoo.build("bag", vocab=30, width=8, classes=2)
    takes = written(model, TOKENS, tmp_path / "m.pt2")
    batch = dict(zip(takes.names, takes.example, strict=True))
    runner = opened(tmp_path / "m.pt2")
    turned = dict(reversed(batch.items()))
    assert torch.equal(logits_from(runner, turned), model.eval()(**batch).detach())
    assert runner.facts["parameters"] == 7


@pytest.mark.skipif(
    importlib.util.find_spec("executorch") is None,
    reason="no executorch: pip install limbeck[executorch]",
)
@pytest.mark.skipif(
    "LIMBECK_SLOW" not in os.environ, reason="the import alone takes 5 s: set LIMBECK_SLOW=1"
)
def test_executorch_answers_as_the_network(tmp_path: Path) -> None:
    """Without it, more samples than the file's memory holds would end in its runtime's errors."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    written(model, [torch.rand(1, 2, 2)], tmp_path / "m.pte")
    runner, images = opened(tmp_path / "m.pte"), torch.rand(70, 2, 2)
    assert torch.allclose(logits_from(runner, images), model(images).detach(), atol=1e-5)
    assert (runner.facts["most"], runner.facts["parameters"]) == ({"batch": 32}, 7)
    assert bench({"m": Contender(runner, images, "")}, seconds=0.01)["m"]["batch"] == 70


@pytest.mark.skipif(
    importlib.util.find_spec("executorch") is None,
    reason="no executorch: pip install limbeck[executorch]",
)
@pytest.mark.skipif(
    "LIMBECK_SLOW" not in os.environ, reason="the import alone takes 5 s: set LIMBECK_SLOW=1"
)
def test_executorch_computes_with_integers(tmp_path: Path) -> None:
    """Without it, a file could be called one of integers and hold floats, or answer nonsense."""
    draws = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 3))
    images = torch.rand(90, 8, 8, generator=draws)
    written(model, [images[:1]], tmp_path / "floats.pte")
    written(model, [images[:1]], tmp_path / "m.pte", calibrate=[*images[:64].split(32), images[:3]])
    sizes = [(tmp_path / name).stat().st_size for name in ("m.pte", "floats.pte")]
    assert sizes[0] < 0.5 * sizes[1]
    found, wanted = logits_from(opened(tmp_path / "m.pte"), images), model(images).detach()
    apart = (found - wanted).abs().max()
    assert 0 < apart < 0.05 * wanted.abs().max()


class _Eigen(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x @ x.mT).real


class _Chooses(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


def test_what_stands_in_the_way_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without it, one would have to find the operator in pages of the exporter's own words."""
    seen = [torch.rand(1, 3, 3)]
    with pytest.raises(InputError, match=r"m\.onnx: ONNX has no form of the operator aten\.linalg"):
        written(_Eigen(), seen, tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"cannot follow _Chooses: .*data-dependent.*test_formats"):
        written(_Chooses(), seen, tmp_path / "m.onnx")
    with pytest.raises(InputError, match="input 'pair' is a tuple"):
        Signature.of([{"pair": (torch.zeros(1, 2), torch.zeros(1, 3))}])
    assert not list(tmp_path.iterdir())
    assert not "".join(capsys.readouterr()), "PyTorch's graphs stand around the one message"


def test_damaged_files_are_told(tmp_path: Path) -> None:
    """Without it, a broken download would end in a traceback of the runtime's."""
    kinds = {".onnx": "an ONNX model", ".pt2": "a program of torch.export"}
    for suffix, kind in kinds.items():
        (tmp_path / f"m{suffix}").write_bytes(b"nonsense" * 9)
        with pytest.raises(InputError, match=f"m{suffix} is not {kind}"):
            opened(tmp_path / f"m{suffix}")
    with pytest.raises(InputError, match=r"kind of file '\.bin' is not known"):
        opened(tmp_path / "m.bin")
    with pytest.raises(InputError, match="no file"):
        opened(tmp_path / "none.onnx")


class _Says:
    """A finished model that answers with what it is given, and something more."""

    runtime, threads = "none", None
    facts: Mapping[str, Any] = {}

    def __init__(self, more: Tensor) -> None:
        self.more = more

    def prepared(self, inputs: Any) -> Any:
        return inputs

    def run(self, prepared: Any) -> Any:
        return prepared + self.more

    def size(self) -> Size:
        return Size()


def test_parity_by_hand() -> None:
    """Without it, a deviation could be averaged away, or an answer that is no number pass."""
    logits = torch.tensor([[4.0, 0.0], [0.0, 1.0]])
    more = torch.tensor([[0.0, 0.5], [1.5, 0.0]])
    batch = {"inputs": logits, "targets": torch.tensor([0, 1])}
    task = lb.tasks.Classification(2)
    same = torch.zeros(2, 2)
    found = export.compared(_Says(same), _Says(more), [batch], task)
    assert (found.samples, found.largest, found.mean, found.scale) == (2, 1.5, 0.5, 4.0)
    assert (found.agreement, found.network, found.file) == (0.5, 1.0, 0.5)
    found.require(1.5 / 4, "m.onnx")
    with pytest.raises(InputError, match=r"m\.onnx answers otherwise .* up to 1\.5, 0\.375 of"):
        found.require(0.37, "m.onnx")
    found.require(0.5 / 4, "m.pte", on_average=True)
    with pytest.raises(InputError, match=r"on average by 0\.5, 0\.125 of"):
        found.require(0.12, "m.pte", on_average=True)
    with pytest.raises(InputError, match="none could not run the model: The size of tensor"):
        export.compared(_Says(same), _Says(torch.zeros(3, 7)), [batch], task)
    broken = export.compared(_Says(same), _Says(more * torch.nan), [batch], task)
    with pytest.raises(InputError, match="up to inf"):
        broken.require(1e9, "m.onnx")


def test_recipes_name_formats() -> None:
    """Without it, a misspelt format would be found when everything is trained."""
    listed = load("digits", ["export=[onnx, {program: {tolerance: 0.1}}]"]).export
    assert {n: one.allowed for n, one in listed.items()} == {"onnx": 1e-3, "program": 0.1}
    whole = load("digits", ["export={executorch: {bits: 8}}"]).export["executorch"]
    assert (whole.bits, whole.allowed) == (8, 0.02)
    assert load("digits", ["export={onnx: {opset: 20}}"]).export["onnx"].opset == 20
    for wrong, told in {
        "export=[onx]": "export.onx is 'onx'.*'onnx', 'program'",
        "export={onnx: {opst: 9}}": "did you mean 'opset'",
        "export={program: {opset: 9}}": "opsets are of onnx",
        "export={onnx: {bits: 8}}": "integers for onnx are made by compress",
    }.items():
        with pytest.raises(InputError, match=told):
            load("digits", [wrong])
    assert export.names() == ("onnx", "program", "executorch", "huggingface")
