"""How samples are shown to a person."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from limbeck.data import Arrays, Items
from limbeck.data.shown import portrayed


def _opened(src: str) -> np.ndarray:
    kind, _, encoded = src.partition(",")
    assert kind == "data:image/png;base64"
    return np.array(Image.open(io.BytesIO(base64.b64decode(encoded))))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("whole", [True, False])
def test_a_picture_is_shown_as_it_is(channels: int, whole: bool) -> None:
    """Without it, a report could show a mirrored, inverted or grey picture."""
    pixels = torch.randint(256, (channels, 5, 7), dtype=torch.uint8)
    found = portrayed(pixels if whole else pixels.float() / 255)
    expected = pixels.permute(1, 2, 0).numpy()
    assert found["kind"] == "picture"
    assert (_opened(found["src"]).reshape(5, 7, channels) == expected).all()


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        (torch.tensor([1, 2]), "1, 2"),
        (torch.full((1, 2, 2), 7.0), "7, 7, 7, 7"),
        (torch.zeros(5, 2, 2), "0, " * 12 + "…"),
        ({"a": torch.tensor([1.5])}, "a: 1.5"),
        ("words", "words"),
    ],
)
def test_what_is_no_picture_is_shown_in_text(inputs: object, text: str) -> None:
    """Without it, a table's row could be drawn as a picture, or end the report."""
    assert portrayed(inputs) == {"kind": "text", "text": text}


def test_sets_show_their_samples_by_row() -> None:
    """Without it, the picture beside an answer could be another sample's."""
    pixels = torch.randint(256, (4, 1, 2, 2), dtype=torch.uint8)
    data = Arrays.of(inputs=pixels, targets=torch.arange(4)).subset(torch.tensor([2, 0]))
    assert (_opened(data.shown(0)["src"]) == pixels[2, 0].numpy()).all()
    items = Items.of(torch.utils.data.TensorDataset(pixels, torch.arange(4)))
    assert (_opened(items.shown(3)["src"]) == pixels[3, 0].numpy()).all()
