"""Rows of unequal length: compact in a set, padded in a batch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch

from limbeck.data import Arrays, Jagged, Loader, carve
from limbeck.data.jagged import Texts
from limbeck.data.samples import as_samples
from limbeck.errors import InputError

ROWS = [[5, 6, 7], [8], [], [9, 10], [11, 12, 13, 14]]


def lists(found: Jagged) -> list[list[int]]:
    """Return its rows, one by one."""
    bounds = found.offsets.tolist()
    return [found.values.tolist()[a:b] for a, b in itertools.pairwise(bounds)]


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 2, 0], [3, 3, 1], [2], []])
def test_rows_are_selected_in_any_order(order: list[int]) -> None:
    """Without it, a shuffled sample could get another one's tokens."""
    found = Jagged.of(ROWS).index_select(0, torch.tensor(order, dtype=torch.int64))
    assert lists(found) == [ROWS[row] for row in order]
    assert found.lengths.tolist() == [len(ROWS[row]) for row in order]


def test_a_batch_is_padded_to_its_own_longest() -> None:
    """Without it, padding could be counted as words, or cost as much as the longest of all."""
    data = Arrays.of(inputs=Jagged.of(ROWS, padding=99), targets=torch.arange(5))
    short, long = data.batches([torch.tensor([1, 3]), torch.tensor([4, 2])], view=0, seed=0)
    assert short["inputs"]["input_ids"].tolist() == [[8, 99], [9, 10]]
    assert short["inputs"]["attention_mask"].tolist() == [[1, 0], [1, 1]]
    assert long["inputs"]["input_ids"].tolist() == [[11, 12, 13, 14], [99] * 4]
    assert long["inputs"]["attention_mask"].tolist() == [[1, 1, 1, 1], [0] * 4]
    assert (short["id"].tolist(), short["targets"].tolist()) == ([1, 3], [1, 3])


def test_a_set_with_tokens_is_a_set_like_any_other() -> None:
    """Without it, cuts and limits could part tokens from their labels."""
    data = as_samples({"inputs": Jagged.of(ROWS * 4), "targets": torch.arange(20) % 2})
    stays, cut = carve(data, 0.25)
    for part in (stays, cut):
        batch = next(part.batches([torch.arange(len(part))], view=0, seed=0))
        for number, words in zip(batch["id"].tolist(), lists(part.column("inputs")), strict=True):
            assert words == ROWS[number % 5]
        assert batch["targets"].tolist() == [number % 2 for number in batch["id"].tolist()]
    assert data.nbytes > 0
    assert data.to("cpu").fingerprint() == data.fingerprint()


def test_the_fingerprint_knows_what_the_numbers_mean() -> None:
    """Without it, a run could go on with another tokenizer's answers."""
    plain = Arrays.of(inputs=Jagged.of(ROWS))
    others = [
        Jagged.of([[5, 6], [7, 8], [], [9, 10], [11, 12, 13, 14]]),
        Jagged.of(ROWS, padding=1),
        Jagged.of(ROWS, origin="another tokenizer"),
    ]
    prints = {Arrays.of(inputs=each).fingerprint() for each in others} | {plain.fingerprint()}
    assert len(prints) == 4
    assert Arrays.of(inputs=Jagged.of(ROWS)).fingerprint() == plain.fingerprint()


def _epoch(loader: Loader, epoch: int, **options: int) -> list[list[int]]:
    return [batch["id"].tolist() for batch in loader.epoch(epoch, **options)]


def _long(lengths: Sequence[int]) -> Arrays:
    return Arrays.of(inputs=Jagged.of([[1] * length for length in lengths]))


def test_shuffled_batches_hold_samples_of_like_length() -> None:
    """Without it, most of what is computed for texts would be padding."""
    lengths = [1 + (7 * n) % 50 for n in range(400)]
    loader = Loader(_long(lengths), 8, shuffle=True)
    batches = _epoch(loader, 0)
    assert sorted(itertools.chain(*batches)) == list(range(400))
    padded = sum(8 * max(lengths[n] for n in batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)
    assert padded * 1.5 < 400 * 47  # what random batches of 8 would cost
    firsts = [lengths[batch[0]] for batch in batches]
    assert firsts != sorted(firsts)
    assert _epoch(loader, 0) == batches != _epoch(loader, 1)
    assert _epoch(loader, 0, start=17) == batches[17:]


def test_processes_share_the_batches_of_one() -> None:
    """Without it, training would depend on the number of processes."""
    data = _long([1 + n % 13 for n in range(100)])
    whole = _epoch(Loader(data, 8, shuffle=True, seed=3), 2)
    parts = [_epoch(Loader(data, 8, shuffle=True, seed=3, rank=r, world=2), 2) for r in (0, 1)]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole
    assert len(whole) == 12


def test_texts_are_shown_as_they_were() -> None:
    """Without it, a report could show another text than the one that was judged."""
    texts = ["a fine film", "", "电影 很好", "😀 <b>bold</b>"]
    shown = Texts.of(texts)
    assert [shown(n)["text"] for n in range(4)] == texts
    with pytest.raises(InputError, match="text 4 of 4"):
        shown(4)
