"""Models of timm and torchvision as teacher and student, where the two can be imported."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import photographs
from safetensors.torch import save_file

import limbeck as lb
from limbeck import pipeline
from limbeck.errors import InputError
from limbeck.files import read_json
from limbeck.recipe import load
from limbeck.students import zoo


@pytest.fixture(scope="module")
def libraries() -> None:
    """Both, if they can be imported.

    torchvision's build must fit PyTorch's. Where it does not, its operators can be declared before
    anything else is imported::

        python -c "import sys; sys.path.insert(0, 'benchmarks'); import foreign_torchvision as f;
        f.declare_operators(); import pytest; pytest.main(['tests/students/test_vision.py'])"
    """
    try:
        importlib.import_module("torchvision")
        importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:  # operator torchvision::nms does not exist
        pytest.skip(f"timm or torchvision cannot be imported: {error}")


QUICK = """
name: photographs
data:
  source: image_folder
  path: {path}
  args: {{size: 40}}
  validation: 0.2
  test: 0.2
  augment: [{{resized_crop: 32}}, flip, {{mixup: 0.2}}]
  normalize: {{mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25], size: 32}}
teacher: {teacher}
student: {student}
method: {{name: kd, temperature: 2, alpha: 0.5}}
train: {{epochs: 1, batch_size: 8, precision: fp32}}
evaluate: {{seconds: 0.02, batch_size: 8}}
control: false
"""
MODELS = {
    "torchvision teaches timm": (
        "{build: torchvision, args: {name: resnet18}, weights: WEIGHTS, "
        "normalize: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], size: 48}}",
        "{build: timm, args: {name: mobilenetv3_small_050}}",
    ),
    "a Transformer learns": (
        "{build: timm, args: {name: resnet10t}}",
        "{build: timm, args: {name: vit_tiny_patch16_224, img_size: 32, depth: 2, embed_dim: 48}}",
    ),
}


@pytest.mark.parametrize("pair", sorted(MODELS))
@pytest.mark.usefixtures("libraries")
def test_they_teach_and_learn_from_folders_of_pictures(pair: str, tmp_path: Path) -> None:
    """Without it, names, weights, sizes or taps of the two libraries could stop fitting unseen."""
    teacher, student = MODELS[pair]
    save_file(
        zoo.build("torchvision", name="resnet18", classes=2).state_dict(),
        tmp_path / "w.safetensors",
    )
    path = photographs(tmp_path / "pictures")
    filled = QUICK.format(
        path=path,
        teacher=teacher.replace("WEIGHTS", str(tmp_path / "w.safetensors")),
        student=student,
    )
    (tmp_path / "r.yaml").write_text(filled)
    out = pipeline.run(load(str(tmp_path / "r.yaml"), []), tmp_path / "run")
    report = read_json(out / "report.json")
    assert 0 <= report["models"]["student"]["quality"]["accuracy"]["mean"] <= 1
    shipped = lb.students.load(out / "student").eval()
    with torch.no_grad():
        assert shipped(torch.rand(2, 3, 50, 50)).shape == (2, 2)  # resized by itself


@pytest.mark.usefixtures("libraries")
def test_layers_of_theirs_can_be_matched() -> None:
    """Without it, methods of features and relations would be for the zoo's models alone."""
    teacher = zoo.build("torchvision", name="resnet18", classes=3)
    student = zoo.build("timm", name="mobilenetv3_small_050", classes=3)
    method = lb.methods.kd() + lb.methods.rkd() + lb.methods.sp()
    distiller = lb.Distiller(teacher, student, task=lb.tasks.Classification(3), method=method)
    out = distiller.prepare(batch := (torch.rand(4, 3, 64, 64), torch.arange(4) % 3))(batch)
    assert {"kl", "rkd_distance penultimate"} <= out.terms.keys()
    assert torch.isfinite(out.loss)


@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_wrong_names_and_settings_are_explained(library: str) -> None:
    """Without it, a typing error would end in another library's traceback."""
    with pytest.raises(InputError, match=f"model of {library}: 'resnet1' is not known.*resnet18"):
        zoo.build(library, name="resnet1")
    with pytest.raises(InputError, match=f"{library} could not make resnet18: TypeError"):
        zoo.build(library, name="resnet18", colour="red")


def test_a_library_that_does_not_load_is_named(monkeypatch: Any) -> None:
    """Without it, a build that does not fit PyTorch's would end in a RuntimeError of its own."""
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r'pip install "limbeck\[vision\]"'):
        zoo.build("timm", name="resnet18")


@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize("name", ["fcos_resnet50_fpn", "retinanet_resnet50_fpn"])
def test_detectors_that_look_once_answer_with_sets(name: str) -> None:
    """Without it, their boxes could be read at another scale, or another class's score be taken."""
    detection = importlib.import_module("torchvision.models.detection")
    model, pictures = (
        zoo.build("torchvision", name=name, classes=3).eval(),
        torch.rand(2, 3, 64, 96),
    )
    task = lb.tasks.Detection(3, (64, 96))
    with torch.no_grad():
        said = model(pictures)
        logits = said["logits"]
        inner = model.module
        heads = inner.head(list(inner.backbone(pictures).values()))
        # torchvision's own way, without what its compiled operators do: suppression.
        boxes = importlib.import_module("torchvision.ops.boxes")
        boxes.batched_nms, kept = lambda found, *_: torch.arange(len(found)), boxes.batched_nms
        try:
            inner.score_thresh, inner.detections_per_img = 0.0, 10**6
            inner.transform = detection.transform.GeneralizedRCNNTransform(
                64, 96, [0.0] * 3, [1.0] * 3, fixed_size=(96, 64)
            )
            theirs = inner(list(pictures))
        finally:
            boxes.batched_nms = kept
    assert heads["cls_logits"].shape[1] == logits.shape[1]
    task.check_logits(logits, "model")
    places = task._queries.boxes(logits)
    scores = task._queries.scores(logits)
    for row in range(2):
        ours = sorted(scores[row].flatten().tolist())[-20:]
        there = theirs[row]["labels"] > 0
        expected = sorted(theirs[row]["scores"][there].tolist())[-20:]
        assert ours == pytest.approx(expected, rel=1e-4)
        best = int(theirs[row]["scores"].masked_fill(~there, 0).argmax())
        own = int(scores[row, :, int(theirs[row]["labels"][best]) - 1].argmax())
        limited = places[row, own].clamp(min=0).minimum(torch.tensor([96.0, 64, 96, 64]))
        torch.testing.assert_close(limited, theirs[row]["boxes"][best], atol=1e-2, rtol=1e-3)
    batch = {"inputs": pictures, "targets": torch.tensor([[[8.0, 8, 40, 40]]]).repeat(2, 1, 1),
             "classes": torch.tensor([[2], [0]])}  # fmt: skip
    learner = lb.Distiller(None, model, task=task)
    learner(batch).loss.backward()
    assert any(weight.grad is not None for weight in model.module.head.parameters())


@pytest.mark.usefixtures("libraries")
def test_detectors_that_look_twice_are_refused() -> None:
    """Without it, a list of boxes would be taken for logits, deep inside."""
    with pytest.raises(InputError, match="a detector that looks once"):
        zoo.build("torchvision", name="fasterrcnn_resnet50_fpn", classes=3)
