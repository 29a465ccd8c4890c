"""The zoo's networks that answer at many places: a segmenter and a detector."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import limbeck as lb
from limbeck.errors import InputError
from limbeck.knowledge.stages import stages
from limbeck.students import shrink, zoo
from limbeck.tasks import Detection

SMALL: dict[str, dict[str, Any]] = {
    "segmenter": {"channels": [4, 6, 8], "classes": 5},
    "detector": {"channels": [4, 6, 8], "neck": 8, "classes": 5, "bins": 4},
}


@pytest.mark.parametrize("size", [(64, 64), (50, 38)])
def test_a_segmenter_answers_for_each_pixel_of_any_picture(size: tuple[int, int]) -> None:
    """Without it, pictures whose size is no power of two would fail deep inside."""
    model = zoo.build("segmenter", **SMALL["segmenter"])
    assert model(torch.rand(2, 3, *size)).shape == (2, 5, *size)


@pytest.mark.parametrize("size", [(64, 64), (50, 38)])
def test_a_detector_answers_at_the_places_of_its_task(size: tuple[int, int]) -> None:
    """Without it, answers of one place could be taken for those of another."""
    model = zoo.build("detector", **SMALL["detector"]).eval()
    task = Detection(5, size, bins=4)
    with torch.no_grad():
        out = model(torch.rand(2, 3, *size))
        task.check_logits(out["logits"], "model")
        model.to_edges.weight.zero_()
        model.to_edges.bias.copy_(torch.arange(16.0))
        edges = model(torch.rand(1, 3, *size))["edges"]
    places = len(task.places({"targets": torch.zeros(1, 1, 4)}).middles)
    assert out["classes"].shape == (2, places, 5)
    assert edges.shape == (1, 4 * places, 4)
    # Four edges of a place stand together, each with its bins.
    torch.testing.assert_close(edges[0, :4], torch.arange(16.0).view(4, 4))
    torch.testing.assert_close(edges[0, -4:], torch.arange(16.0).view(4, 4))
    row_of_picture = torch.zeros(1, 3, *size)
    row_of_picture[..., -8:, -8:] = 9  # the last place of the finest level sees it, the first not
    with torch.no_grad():
        blank = model(torch.zeros(1, 3, *size))["classes"]
        marked = model(row_of_picture)["classes"]
    fine = -(-size[0] // 4) * -(-size[1] // 4)
    change = (marked - blank).abs().sum(-1)[0]
    assert change[fine - 1] > change[0]


@pytest.mark.parametrize("name", sorted(SMALL))
def test_they_shrink_and_have_stages(name: str) -> None:
    """Without it, no student could be derived of them, nor features be matched by number."""
    model = zoo.build(name, **SMALL[name])
    tiny = shrink(model, width=0.5)
    counts = [sum(p.numel() for p in each.parameters()) for each in (model, tiny)]
    assert counts[1] < counts[0]
    assert lb.students.zoo.build(name, **model.config["args"]).config == model.config
    assert len(stages(model, torch.rand(1, 3, 64, 64))) >= 3


def test_a_stride_that_no_level_has_is_refused() -> None:
    """Without it, the task's grid and the model's would differ."""
    with pytest.raises(InputError, match=r"strides \[4, 16\] of a backbone of 3 levels"):
        zoo.build("detector", strides=[4, 16])
