"""Detectors and segmenters of transformers: built of a config or a folder, learning, exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import limbeck as lb
from limbeck.knowledge.model import macs
from limbeck.students import zoo
from limbeck.students.build import load_weights, tensors
from limbeck.students.zoo.queried import Queried
from limbeck.tasks import Detection, Segmentation

pytest.importorskip("transformers")
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
LAYERS = {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
CONVNEXT = {
    "model_type": "convnext", "hidden_sizes": [4, 8, 8, 8], "depths": [1, 1, 1, 1],
    "patch_size": 2, "out_features": ["stage2", "stage3"],
}  # fmt: skip
YOLOS = {
    "model_type": "yolos", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 64, "image_size": [64, 64], "patch_size": 8, "num_detection_tokens": 8,
}  # fmt: skip
DETECTORS: dict[str, tuple[dict[str, Any], int]] = {
    "detr": (
        {"backbone_config": CONVNEXT, "d_model": 8, "num_queries": 5, **HEADS, **LAYERS}, 11,
    ),
    "conditional_detr": (
        {"backbone_config": CONVNEXT, "d_model": 8, "num_queries": 5, **HEADS, **LAYERS}, 10,
    ),
    "deformable_detr": (
        {"backbone_config": CONVNEXT, "d_model": 32, "num_queries": 5, "num_feature_levels": 2,
         **HEADS, **LAYERS}, 10,
    ),
    "yolos": (YOLOS, 11),
}  # fmt: skip
SEGFORMER = {
    "model_type": "segformer", "hidden_sizes": [4, 4, 8, 8], "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 1, 1, 1], "decoder_hidden_size": 8,
}  # fmt: skip


def detector(kind: str, **more: Any) -> Any:
    config = {"model_type": kind, **DETECTORS[kind][0]}
    return zoo.build("huggingface", config=config, head="object_detection", classes=10, **more)


@pytest.mark.parametrize("kind", sorted(DETECTORS))
def test_detectors_answer_with_sets(kind: str) -> None:
    """Without it, the classes of a softmax could be taken for yes-or-no ones, or none be there."""
    model, pictures = detector(kind).eval(), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        found, theirs = model(pictures), model.module(pixel_values=pictures)
    task = Detection(10, (64, 64))
    task.check_logits(found["logits"], "model")
    assert found["logits"].shape[2] == DETECTORS[kind][1] + 4
    torch.testing.assert_close(found["boxes"], theirs.pred_boxes)
    assert (macs(model, pictures)[0] or 0) > 1000
    assert all(weight.requires_grad for weight in model.parameters())
    wide = DETECTORS[kind][1] == 11
    p = theirs.logits.softmax(-1)[..., :-1] if wide else theirs.logits.sigmoid()
    torch.testing.assert_close(found["classes"].sigmoid(), p)


def test_sure_classes_have_finite_odds() -> None:
    """Without it, a sure teacher would give NaN to its student."""

    class Sure(torch.nn.Module):
        config = None

        def forward(self, pixel_values: Tensor) -> Any:
            logits = torch.tensor([[[90.0, 0.0, 0.0], [0.0, -90.0, 90.0]]])
            return type("Said", (), {"logits": logits, "pred_boxes": torch.rand(1, 2, 4)})

    found = Queried(Sure(), 2)(torch.zeros(1, 3, 4, 4))["classes"]
    assert torch.isfinite(found).all()
    assert (found[0, 0, 0] > 13, found[0, 1, 0] < -80) == (True, True)


def test_a_folder_of_other_classes_is_taken_without_its_last_layer(tmp_path: Path) -> None:
    """Without it, a detector for COCO's classes could not be trained for a user's own."""
    kept = detector("yolos")
    kept.module.save_pretrained(tmp_path / "kept")
    args = {"path": tmp_path / "kept", "head": "object_detection"}
    same, other = (zoo.build("huggingface", **args, classes=count) for count in (10, 4))
    for name, weight in kept.state_dict().items():
        assert torch.equal(same.state_dict()[name], weight)
    assert other(torch.rand(1, 3, 64, 64))["classes"].shape == (1, 8, 4)
    first = "module.vit.encoder.layer.0.output.dense.weight"
    assert torch.equal(other.state_dict()[first], kept.state_dict()[first])
    again = zoo.build("huggingface", **zoo.portable("huggingface", {**args, "classes": 4}))
    assert again.state_dict().keys() == other.state_dict().keys()
    save_file(tensors(other), tmp_path / "w.safetensors")
    load_weights(again, tmp_path / "w.safetensors")
    assert len(zoo.files("huggingface", args)) == 2


def test_a_detector_learns_two_pictures_by_heart() -> None:
    """Without it, a loss could fall while no box is ever found."""
    pytest.importorskip("faster_coco_eval")
    data = lb.data.sources.digit_scenes(scenes=8)
    task = Detection(10, (64, 64))
    batch = task.named(next(iter(lb.data.Loader(data.train, 2))))
    torch.manual_seed(0)
    config = {"model_type": "deformable_detr", **DETECTORS["deformable_detr"][0]}
    config |= {"num_queries": 8, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    config["backbone_config"] = {**CONVNEXT, "hidden_sizes": [8, 12, 16, 16]}
    model = zoo.build("huggingface", config=config, head="object_detection", classes=10)
    learner = lb.Distiller(None, model, task=task)
    steps = 100
    optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-2, weight_decay=0.0)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        learner(batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        rates.step()
    meter = task.meter()
    with torch.no_grad():
        meter.update(learner.eval().answer(batch), batch)
    assert meter.compute().metrics["box_map_50"] > 0.8


def test_segformer_answers_for_coarser_pixels() -> None:
    """Without it, its maps could not be compared with finer labels."""
    model = zoo.build("huggingface", config=SEGFORMER, head="semantic_segmentation", classes=3)
    task = Segmentation(3)
    batch = task.named((torch.rand(2, 3, 64, 64), torch.randint(3, (2, 64, 64))))
    logits = model(batch["inputs"]).logits
    assert logits.shape == (2, 3, 16, 16)
    assert torch.isfinite(task.label_loss(logits, batch))
