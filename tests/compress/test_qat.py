"""Training with rounded weights: the file computes what was trained, and a teacher can teach."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck.compress import FakeQuantization, static
from limbeck.errors import InputError
from limbeck.evaluate.runtimes import logits_from, opened
from limbeck.export import Signature, Whole, get

IMAGES = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(96, 16), nn.ReLU(), nn.Linear(16, 3),
    )  # fmt: skip


def test_the_file_computes_what_was_trained(tmp_path: Path) -> None:
    """Without it, scales could differ in training and in the file, or batch norm move them."""
    pytest.importorskip("onnxscript")
    model = network()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([2.0, -0.5, 1.0, 3.0, -2.0, 0.1]))
        for weight in (model[5].weight, model[7].weight):
            weight[::2] *= 20  # rows of very different size: one scale would not do
    aware = FakeQuantization(model)
    for _ in range(3):
        aware.model.train()(IMAGES)
    aware.model.eval()
    source = tmp_path / "float.onnx"
    takes = Signature.of([IMAGES[:1], IMAGES[:1]])
    get("onnx").write(Whole(None, aware.plain()).eval(), takes, source, {})
    static(source, tmp_path / "q.onnx", [{"inputs": IMAGES[:8].numpy() / 2}], learnt=aware.ranges())
    with torch.no_grad():
        trained, floats = aware.model(IMAGES), aware.plain()(IMAGES)
    file = logits_from(opened(tmp_path / "q.onnx"), IMAGES)
    # What is left comes from biases, which the file rounds too, and from ties.
    assert (file - trained).abs().max() < 0.3 * (floats - trained).abs().max()
    assert (file - trained).abs().max() < 0.005 * trained.abs().max()


def test_a_teacher_teaches_a_network_that_rounds() -> None:
    """Without it, taps would not find their layers, or nothing would be learnt through rounding."""
    student, targets = network(), torch.randint(3, (64,))
    aware = FakeQuantization(student, bits=4, keep=["7"])
    before = {name: weight.clone() for name, weight in aware.plain().state_dict().items()}
    method = lb.methods.kd() + lb.methods.at(student=["0"], teacher=["0"])
    learner = lb.Distiller(network(), aware.model, task=lb.tasks.Classification(3), method=method)
    lb.fit(
        learner, (IMAGES, targets), epochs=2, batch_size=32, precision="fp32", listener=lb.Silent()
    )
    after = aware.plain().state_dict()
    assert after.keys() == student.state_dict().keys()
    assert all(not torch.equal(after[f"{n}.weight"], before[f"{n}.weight"]) for n in (0, 5, 7))
    assert aware.ranges().keys() == {"0", "5"}  # the last one is kept
    row = aware.model[0].weight[0].unique()
    assert torch.allclose((row / row.abs().max() * 7).round(), row / row.abs().max() * 7, atol=1e-4)
    assert len(row) < len(after["0.weight"][0].unique()) == 9
    assert not hasattr(student[0], "parametrizations")


def test_wrong_bits_and_layers_are_refused() -> None:
    """Without it, nothing would be rounded, without a word."""
    with pytest.raises(InputError, match="weights of 3 bits"):
        FakeQuantization(network(), bits=3)
    with pytest.raises(InputError, match="module of Sequential to keep: '9'"):
        FakeQuantization(network(), keep=["9"])
    with pytest.raises(InputError, match="no layer to round"):
        FakeQuantization(nn.Sequential(nn.ReLU()))
