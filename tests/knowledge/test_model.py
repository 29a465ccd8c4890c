"""Calling any model, resting it, and finding the logits in what it returns."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.knowledge.model import at_rest, call, describe, logits_of, macs

LOGITS = torch.arange(6.0).view(2, 3)


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        (LOGITS, 1),
        [LOGITS],
        {"loss": None, "logits": LOGITS},
        OrderedDict(other=torch.zeros(1), logits=LOGITS),
        namedtuple("Output", "a b")(LOGITS, torch.zeros(1)),
    ],
    ids=lambda output: type(output).__name__,
)
def test_logits_of(output: Any) -> None:
    """A hidden state, or a loss, would be taken for the answer."""
    assert logits_of(output) is LOGITS


@pytest.mark.parametrize(
    "output", [None, 3.0, "text", (), (None, LOGITS), {"output": LOGITS}, {"logits": None}]
)
def test_logits_of_something_else(output: Any) -> None:
    """The error would speak of NoneType, not of what the model returned."""
    with pytest.raises(InputError, match="the model returned"):
        logits_of(output)


@pytest.mark.parametrize(
    ("inputs", "expected"), [((1, 2), "1 2"), ({"b": 2, "a": 1}, "1 2"), ([1, 2], "[1, 2] None")]
)
def test_call(inputs: Any, expected: str) -> None:
    """A list of images would be spread over the arguments."""
    assert call(lambda a, b=None: f"{a} {b}", inputs) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": 1}, "a mapping with 'a'"),
        ((1, 2), "a tuple of 2"),
        ("ab", "a str"),
        (None, "NoneType"),
    ],
)
def test_describe(value: Any, text: str) -> None:
    """Messages would print whole tensors."""
    assert text in describe(value)


@pytest.mark.parametrize("fails", [False, True])
def test_at_rest_puts_every_mode_back(fails: bool) -> None:
    """A student would stay in eval mode after a dry run, or frozen batch norms start to learn."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()))
    model.train()
    model[1][0].eval()
    before = {name: part.training for name, part in model.named_modules()}
    state = {name: value.clone() for name, value in model.state_dict().items()}

    def rest() -> Tensor:
        with at_rest(model):
            assert not any(part.training for part in model.modules())
            out: Tensor = model(torch.randn(3, 2))
            if fails:
                raise KeyError
        return out

    if fails:
        with pytest.raises(KeyError):
            rest()
    else:
        assert not rest().requires_grad
    assert {name: part.training for name, part in model.named_modules()} == before
    assert torch.is_grad_enabled()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (nn.Linear(4, 3), (1, 4), (4 * 3, 1.0)),
        (nn.Conv2d(3, 8, 3, padding=1, stride=2), (1, 3, 8, 8), (27 * 8 * 16, 1.0)),
        (nn.Conv2d(4, 8, 1, groups=2), (1, 4, 5, 5), (2 * 8 * 25, 1.0)),
        (nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), (2, 4), (2 * (12 + 6), 1.0)),
        (nn.Sequential(nn.ReLU(), nn.Flatten()), (1, 4), (None, None)),
    ],
)
def test_macs(model: nn.Module, shape: tuple[int, ...], expected: tuple[Any, Any]) -> None:
    """A multiply-accumulate counts once: floating-point operations are twice as many."""
    assert macs(model, torch.zeros(shape)) == expected
