"""Codecs: what is kept of a field, and what comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._pytree import tree_leaves

from limbeck.data.random import key
from limbeck.errors import InputError
from limbeck.knowledge import codec

NAMES = ["full", "half", "int8", "pca3", "sample6", "sample300@2", "top4", "top4@2.5", "top9"]


def rows_of(known: codec.Field, rows: Tensor) -> list[Tensor]:
    return tree_leaves(known[rows])


@pytest.mark.parametrize("shape", [(6, 9), (6, 5, 9), (6, 9, 2, 2)])
@pytest.mark.parametrize("name", NAMES)
def test_what_a_store_relies_on(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    """Parts can be written, cut by row in any order, and come back with the shape of the field."""
    if len(shape) == 4 and name.startswith(("top", "sample")):
        return  # these are for answers alone
    field = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    before, keys = field.clone(), key(0, torch.arange(6), 0)
    found = codec.get(name).fitted(field)
    assert found.name == name
    parts = found.encode(field, keys)
    assert set(parts) == set(found.parts)
    assert "" in parts
    assert torch.equal(field, before)
    assert all(len(part) == 6 and part.is_contiguous() for part in parts.values())
    save_file({f"logits{part}": rows for part, rows in parts.items()}, tmp_path / "shard")
    read = load_file(tmp_path / "shard")
    again = codec.get(name, found.state)
    back = again.decode({part: read[f"logits{part}"] for part in found.parts}, shape[1:])
    assert tuple(back.shape) == shape
    assert back.dtype == torch.float32
    pick = torch.tensor([4, 0, 4])
    some = {part: rows.index_select(0, pick) for part, rows in parts.items()}
    few = again.decode(some, shape[1:])
    expected = rows_of(back, pick)
    assert all(map(torch.equal, tree_leaves(few), expected))
    empty = again.decode({part: rows[:0] for part, rows in parts.items()}, shape[1:])
    assert tuple(empty.shape) == (0, *shape[1:])
    nobody = found.encode(field[:0], keys[:0])
    assert all(rows.shape == parts[part][:0].shape for part, rows in nobody.items())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("haf", "did you mean 'half'"),
        ("sample", "did you mean 'sample64'"),
        ("top", "did you mean 'top16"),
        ("top16@", "did you mean 'top16"),
        ("top-16", "did you mean 'top16"),
        ("half@4", "did you mean 'half'"),
        ("pca32@4", "did you mean 'pca32'"),
        ("", "Known: full, half, int8, pca32, sample64, top16, top16@4"),
        ("top0", "1 class or component and more"),
        ("pca0", "1 class or component and more"),
        ("sample0", "1 to 32767 draws"),
        ("sample40000", "1 to 32767 draws"),
        ("top16@0", "a temperature above 0"),
    ],
)
def test_names_that_are_none(name: str, told: str) -> None:
    """A slip in a recipe must not fall back on some codec."""
    with pytest.raises(InputError, match=told):
        codec.get(name)


def test_a_name_at_a_temperature() -> None:
    """Recipes name the codec, the method's losses the temperature."""
    assert codec.at("top16", 4.0) == "top16@4"
    assert codec.at("sample64", 2.5) == "sample64@2.5"
    assert codec.at("top16", 1.0) == "top16"
    assert codec.at("top16@2", 4.0) == "top16@2"
    assert [codec.at(name, 4.0) for name in ("half", "int8", "pca8")] == ["half", "int8", "pca8"]
    assert codec.get("top16@1").name == codec.get("top16@1.0").name == "top16"


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
