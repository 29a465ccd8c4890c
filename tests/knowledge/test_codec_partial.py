"""Codecs that keep a part of an answer: what is kept, in how many bytes, drawn from what."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from limbeck.data.random import key
from limbeck.errors import InputError
from limbeck.knowledge import codec
from limbeck.losses import SparseLogits, kl


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def keys(count: int, seed: int = 0) -> Tensor:
    return key(seed, torch.arange(count), 0)


def kept(name: str, field: Tensor, seed: int = 0) -> SparseLogits:
    found = codec.get(name)
    back = found.decode(found.encode(field, keys(len(field), seed)), tuple(field.shape[-1:]))
    assert isinstance(back, SparseLogits)
    return back


def size(name: str, classes: int) -> int:
    parts = codec.get(name).encode(drawn(2, classes), keys(2))
    return sum(part[0].numel() * part.element_size() for part in parts.values())


# -- bytes


@pytest.mark.parametrize(
    ("name", "classes", "most"),
    [("top16", 1000, 66), ("top16", 100, 50), ("top16", 152_064, 98), ("sample64", 152_064, 324),
     ("sample64", 1000, 196), ("sample300", 1000, 1204)],
)  # fmt: skip
def test_bytes_of_a_row(name: str, classes: int, most: int) -> None:
    """A store of a million samples is as large as its rows: an index of 8 bytes doubles it."""
    assert size(name, classes) == most


# -- the most likely


@pytest.mark.parametrize("shape", [(5, 30), (3, 4, 30)])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_most_likely_against_numpy(shape: tuple[int, ...], temperature: float) -> None:
    """The classes, their mass at the temperature, and the mass of all others."""
    field = drawn(*shape)
    known = kept(f"top6@{temperature:g}", field)
    assert (known.shape, known.temperature) == (shape, temperature)
    assert known.rest is not None
    flat = field.double().numpy().reshape(-1, 30) / temperature
    for row, logits in enumerate(flat):
        p = np.exp(logits - logits.max())
        p = p / p.sum()
        order = np.argsort(-p)
        places = known.indices.view(-1, 6)[row].numpy()
        assert places.tolist() == order[:6].tolist()
        found = known.log_p.view(-1, 6)[row].numpy()
        assert np.allclose(found, np.log(p[places]), rtol=1e-3, atol=1e-6)
        rest = float(known.rest.view(-1)[row])
        assert rest == pytest.approx(float(np.log(p[order[6:]].sum())), rel=1e-3)


@pytest.mark.parametrize("classes", [10, 256, 257, 32_768, 40_000, 65_536, 65_537])
def test_indices_come_back(classes: int) -> None:
    """Class 40,000 does not fit into a signed 16-bit number: it must not come back as another."""
    field = torch.zeros(3, classes)
    places = torch.tensor([0, classes // 2, classes - 1])
    field[torch.arange(3), places] = 9.0
    assert torch.equal(kept("top1", field).indices.squeeze(1), places)
    assert torch.equal(kept("sample4", 9 * field).indices[:, 0], places)


def test_all_classes() -> None:
    """There are no others then, and the loss may have any temperature."""
    field = drawn(4, 8)
    known = kept("top8", field)
    assert known.rest is None
    assert torch.allclose(known.dense(), field.log_softmax(-1), atol=1e-2)
    student = drawn(4, 8, seed=1)
    dense = kl(student, field, temperature=3.0)
    assert torch.isclose(kl(student, known, temperature=3.0), dense, rtol=1e-2)
    with pytest.raises(InputError, match=r'top9 got 8 classes.*at least 9.*codec "half"'):
        kept("top9", field)


@pytest.mark.parametrize("name", ["top3", "sample16"])
def test_classes_without_mass(name: str) -> None:
    """Logits of −∞ are what padded vocabularies and masks of actions have."""
    field = drawn(4, 8)
    field[:, 2:] = -torch.inf
    known = kept(name, field)
    mass = known.log_p.exp()
    assert torch.isfinite(mass).all()
    assert mass[known.indices >= 2].sum() == 0
    assert torch.allclose(mass.sum(-1), torch.ones(4), atol=1e-3)
    if known.entropy is None:
        assert known.rest is not None
        assert known.rest.isneginf().all()
    else:
        assert torch.allclose(known.entropy, torch.special.entr(field.softmax(-1)).sum(-1))
    assert torch.isfinite(kl(drawn(4, 8, seed=1), known))


@pytest.mark.parametrize("name", ["top3", "sample16"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_wrong_values_are_refused(name: str, value: float) -> None:
    """A NaN would be kept as some class, and the student would learn it."""
    field = drawn(4, 8)
    field[1, 5] = value
    with pytest.raises(InputError, match="Check the teacher"):
        kept(name, field)
    with pytest.raises(InputError, match="value is -inf"):
        kept(name, torch.full((2, 8), -torch.inf))
    for shape in ((4,), (4, 21, 5, 5)):
        with pytest.raises(InputError, match=rf"{shape[0]}.*classes last|rows of vectors"):
            codec.get(name).encode(drawn(*shape), keys(4))


def test_extreme_logits() -> None:
    """Mass that float16 cannot tell from none becomes none, not NaN."""
    field = torch.tensor([[6e4, -6e4, 0.0, 5e4], [0.0, 0.0, 0.0, -6e4]]).bfloat16()
    for name in ("top2", "top4", "sample4"):
        assert torch.isfinite(kl(drawn(2, 4), kept(name, field)))


def test_of_a_teacher_who_never_gives_all() -> None:
    """A server gives its most likely tokens: fewer can be kept, more cannot, others neither."""
    field = drawn(2, 5, 30)
    whole, five = kept("top12@2", field), codec.get("top5@2")
    few = five.decode(five.encode(whole, keys(2)), (30,))
    direct = kept("top5@2", field)
    assert isinstance(few, SparseLogits)
    assert torch.equal(few.indices, direct.indices)
    assert few.rest is not None
    assert direct.rest is not None
    assert torch.allclose(few.rest, direct.rest, atol=4e-3)
    same = codec.get("top12@2")
    again = same.decode(same.encode(whole, keys(2)), (30,))
    assert torch.equal(again.dense(), whole.dense())
    for name in ("top13@2", "top5", "sample4@2", "half", "int8"):
        with pytest.raises(InputError, match='"top12@2"'):
            codec.get(name).encode(whole, keys(2))


# -- draws


def test_draws_depend_on_keys_alone() -> None:
    """A store that is resumed elsewhere, in other batches, must be the same bytes."""
    field, found = drawn(6, 5, 40), codec.get("sample16")
    torch.manual_seed(1)
    whole = found.encode(field, keys(6))
    state = torch.random.get_rng_state()
    pieces = [found.encode(field[cut], keys(6)[cut]) for cut in (slice(0, 1), slice(1, 6))]
    for part, value in whole.items():
        assert torch.equal(torch.cat([piece[part] for piece in pieces]), value)
    assert torch.equal(torch.random.get_rng_state(), state)
    shorter = found.encode(field[:, :3], keys(6))
    assert all(torch.equal(shorter[part], whole[part][:, :3]) for part in whole)
    other = found.encode(field, keys(6, seed=1))
    assert not torch.equal(other[":indices"], whole[":indices"])


def test_draws_of_tokens_and_samples_differ() -> None:
    """The same numbers for all tokens would make their errors add up instead of cancelling."""
    field = torch.zeros(3, 4, 200)
    rows = kept("sample8", field).indices.flatten(0, 1)
    assert len({tuple(row) for row in rows.tolist()}) == 12


def test_draws_are_counted_once() -> None:
    """Two places for one class would each be compared with all of the student's mass."""
    field = drawn(50, 40)
    parts = codec.get("sample16").encode(field, keys(50))
    counts, indices = parts[""], parts[":indices"].long()
    assert (counts.long().sum(-1) == 16).all()
    for row, count in zip(indices, counts, strict=True):
        used = row[count > 0]
        assert len(used.unique()) == len(used)
        assert (row[count == 0] == used[0]).all()
    expected = torch.special.entr((field.double()).softmax(-1)).sum(-1)
    assert torch.allclose(parts[":entropy"].double(), expected, atol=1e-5)


@pytest.mark.parametrize(("classes", "temperature"), [(5, 1.0), (128, 2.0), (300, 1.0)])
def test_shares_are_the_probabilities_on_average(classes: int, temperature: float) -> None:
    """Frequencies of 20,000 rows; and they spread no more than independent draws."""
    count, draws = 20_000, 4
    field = drawn(1, classes, seed=4)
    known = kept(f"sample{draws}@{temperature:g}", field.expand(count, classes))
    shares = torch.zeros(count, classes).scatter_add_(-1, known.indices, known.log_p.exp())
    p = (field[0].double() / temperature).softmax(-1)
    often = p > 0.01
    error = shares.double().std(0) / count**0.5
    off = ((shares.double().mean(0) - p) / error)[often]
    assert off.abs().max() < 4.5
    assert off.square().mean() < 2
    assert (shares.var(0)[often] <= 1.1 * (p * (1 - p) / draws)[often]).all()


def test_slices_spread_the_draws() -> None:
    """Each draw has its own slice: a class of twice the mass of one, 2/n, is never missed."""
    field = torch.tensor([0.26, 0.26, 0.26, 0.22]).log().expand(1000, 4)
    known = kept("sample8", field)
    assert ((known.log_p.exp() > 0).sum(-1) == 4).all()


def test_more_draws_than_a_byte_counts() -> None:
    """300 draws of one class are not 44."""
    known = kept("sample300", torch.tensor([[50.0, 0.0]]))
    assert torch.allclose(known.log_p[0, 0].exp(), torch.tensor(1.0))


def test_memory_is_bounded_by_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are worked on some at a time, which must not show."""
    field = drawn(7, 3, 50)
    for name in ("top5", "sample9"):
        whole = codec.get(name).encode(field, keys(7))
        monkeypatch.setattr("limbeck.knowledge.codec.partial._AT_ONCE", 200)
        pieces = codec.get(name).encode(field, keys(7))
        monkeypatch.undo()
        assert all(torch.equal(pieces[part], whole[part]) for part in whole)
