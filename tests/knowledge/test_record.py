"""Knowledge knows its fields, and says so."""

from __future__ import annotations

import pytest
import torch

from limbeck import Knowledge
from limbeck.errors import InputError


def some() -> Knowledge:
    made = torch.ones(2, 3, requires_grad=True) * 2
    tensors = {"logits": made, "layer2": torch.zeros(2, 4, dtype=torch.bfloat16)}
    return Knowledge(tensors, torch.tensor([5, 7]), torch.ones(2, dtype=torch.bool), "ResNet")


def test_fields() -> None:
    """A field would be renamed or lost on the way."""
    known = some()
    assert known.fields == ("logits", "layer2")
    assert known.shapes == {"logits": (2, 3), "layer2": (2, 4)}
    assert known["logits"] is known.logits
    assert repr(known) == ("Knowledge(logits (2, 3) float32, layer2 (2, 4) bfloat16; from ResNet)")
    assert repr(Knowledge({})) == "Knowledge(nothing)"


def test_a_wrong_field_lists_the_right_ones() -> None:
    """A KeyError would not say from whom the knowledge came."""
    with pytest.raises(InputError, match=r"from ResNet: 'layer3'.*did you mean 'layer2'"):
        some()["layer3"]
    with pytest.raises(InputError, match="this knowledge"):
        Knowledge({}).logits  # noqa: B018


def test_it_cannot_be_changed() -> None:
    """A match that wrote into it would change what the next match sees."""
    with pytest.raises(AttributeError):
        some().ids = None  # type: ignore[misc]


@pytest.mark.parametrize("how", ["to", "detached"])
def test_everything_moves(how: str) -> None:
    """The mask or the ids would stay on the other device, or the gradient be kept."""
    known = some()
    moved = known.to("meta") if how == "to" else known.detached()
    tensors = [*moved.tensors.values(), moved.ids, moved.mask]
    if how == "to":
        assert all(t is not None and t.device.type == "meta" for t in tensors)
    else:
        assert not any(t is not None and t.requires_grad for t in tensors)
        assert known.logits.requires_grad
    assert moved.provenance == "ResNet"
    assert moved.fields == known.fields
    assert Knowledge({"a": torch.zeros(1)}).to("cpu").ids is None
