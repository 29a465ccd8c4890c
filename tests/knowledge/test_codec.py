"""Codecs: what is kept of a field, and what comes back."""

from __future__ import annotations

import pytest
import torch

from limbeck.errors import InputError
from limbeck.knowledge import codec


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        ("half", 1e5, 'Use codec "full"'),
        ("half", float("inf"), "Check the teacher"),
        ("half", float("nan"), "Check the teacher"),
        ("full", float("inf"), "Check the teacher"),
        ("full", float("nan"), "Check the teacher"),
    ],
)
def test_codecs_refuse_what_they_cannot_keep(kind: str, value: float, told: str) -> None:
    """Logits beyond float16 would be stored as infinity, and the student's loss be NaN."""
    with pytest.raises(InputError, match=told):
        codec.get(kind).encode(torch.tensor([[0.0, value]]), torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize("kind", ["half", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.float16])
def test_codecs(kind: str, dtype: torch.dtype) -> None:
    """Half precision has 11 bits: 2^-11 relative is all that may be lost."""
    field = torch.randn(5, 3, 2).to(dtype).transpose(1, 2)
    kept = codec.get(kind).encode(field, torch.arange(5))
    assert all(len(part) == 5 and part.is_contiguous() for part in kept.values())
    back = codec.get(kind).decode(kept, (2, 3))
    assert back.dtype == torch.float32
    assert torch.allclose(back, field.float(), rtol=2**-11 if kind == "half" else 1e-7, atol=1e-7)
