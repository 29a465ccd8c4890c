"""Interactions become histories and what came next, each person's last items held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
import torch
from purchases import ITEMS, bought, write_shop

from limbeck.data import Arrays, Data, Samples
from limbeck.data.histories import Histories
from limbeck.data.sources import interactions
from limbeck.errors import InputError

NAMED = {"time": "timestamp", "catalogue": "items", "name": "description"}


def _write(folder: Path, columns: dict[str, list[Any]]) -> Path:
    pq.write_table(pa.table(columns), folder / "interactions.parquet")
    return folder


def _samples(samples: Samples) -> list[tuple[list[int], int]]:
    """Return the history and the target of each sample."""
    batch = next(samples.batches([torch.arange(len(samples))], 0, 0))
    ids, mask = batch["inputs"]["input_ids"], batch["inputs"]["attention_mask"].bool()
    histories = [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)]
    return list(zip(histories, batch["targets"].tolist(), strict=True))


def _by_hand(persons: range, length: int) -> dict[str, list[tuple[list[int], int]]]:
    """Return the three splits of the small shop, written down with lists."""
    found: dict[str, list[tuple[list[int], int]]] = {"train": [], "validation": [], "test": []}
    for person in persons:
        things = bought(person)
        for place in range(1, len(things)):
            left = len(things) - place
            split = {1: "test", 2: "validation"}.get(left, "train")
            found[split].append((things[max(0, place - length) : place], things[place]))
    return found


def test_the_last_items_are_held_out(tmp_path: Path) -> None:
    """Without it, a model could be trained on what it is tested on, or read what came later."""
    data = interactions(write_shop(tmp_path), length=3, **NAMED)
    wanted = _by_hand(range(40), 3)
    for split in ("train", "validation", "test"):
        assert sorted(_samples(getattr(data, split))) == sorted(wanted[split]), split
    everything = torch.cat([data.train.ids, data.validation.ids, data.test.ids])
    assert len(everything.unique()) == len(everything)
    assert data.labels == tuple(f"thing {n}" for n in range(ITEMS))
    assert data.facts == {"inputs": {"positions": 3}}


def test_all_items_before_are_known_where_models_are_measured(tmp_path: Path) -> None:
    """Without it, what a person had long ago would be recommended again, and counted."""
    data = interactions(write_shop(tmp_path), length=2, **NAMED)
    batch = next(data.test.batches([torch.arange(len(data.test))], 0, 0))
    for person in range(40):
        before = [n for n in batch["seen"][person].tolist() if n != ITEMS]
        assert before == bought(person)[:-1]
    assert "seen" not in next(data.train.batches([torch.arange(2)], 0, 0))


def test_a_sample_shows_what_was_had_before(tmp_path: Path) -> None:
    """Without it, a report would show numbers of articles."""
    data = interactions(write_shop(tmp_path), **NAMED)
    assert isinstance(data.test, Arrays)
    things = [f"thing {n}" for n in bought(3)[:-1]]
    assert data.test.shown(3)["text"] == " · ".join(reversed(things))


def test_lists_and_rows_say_the_same(tmp_path: Path) -> None:
    """Without it, a list's order could be lost, or persons be mixed."""
    (tmp_path / "lists").mkdir()
    rows = interactions(write_shop(tmp_path / "rows"), time="timestamp")
    things = [[100 + n for n in bought(person)] for person in range(40)]
    lists = interactions(
        _write(tmp_path / "lists", {"user_id": list(range(40)), "item_id": things})
    )
    assert lists.fingerprint() == rows.fingerprint()
    csv.write_csv(pq.read_table(tmp_path / "rows" / "interactions.parquet"), tmp_path / "rows.csv")
    alone = interactions(tmp_path / "rows.csv", time="timestamp")
    assert alone.fingerprint() == rows.fingerprint()


def test_what_has_one_time_has_no_order(tmp_path: Path) -> None:
    """Without it, a model could learn the order of articles on a bill, which means nothing."""
    count = 200
    columns = {"user_id": [0] * count, "item_id": list(range(count)), "timestamp": [5] * count}
    folder = _write(tmp_path, columns)
    orders = [_order(interactions(folder, time="timestamp", seed=seed)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert abs(np.corrcoef(orders[0], range(len(orders[0])))[0, 1]) < 0.3
    assert _order(interactions(folder)) == list(range(1, count))


def _order(data: Data) -> list[int]:
    targets = [data.train, data.validation, data.test]
    return torch.cat([split.column("targets") for split in targets]).tolist()


def test_short_histories_and_rare_items(tmp_path: Path) -> None:
    """Without it, one who has two items could be tested on, with nothing learnt from others."""
    columns = {"user_id": [1, 2, 2, 3, 3, 3, 3], "item_id": list("abcbcbd")}
    data = interactions(_write(tmp_path, columns))
    assert [len(s) for s in (data.train, data.validation, data.test)] == [2, 1, 1]
    assert _samples(data.train) == [([1], 2), ([1], 2)]
    kept = interactions(tmp_path, core=2)  # a and d are rare; then 1 has none
    assert kept.labels == ("b", "c")
    assert [len(s) for s in (kept.train, kept.validation, kept.test)] == [1, 1, 1]


def test_the_reader_ships_and_reads_what_users_have(tmp_path: Path) -> None:
    """Without it, a shop would have to know the numbers that training gave its articles."""
    data = interactions(write_shop(tmp_path), length=3, **NAMED)
    assert isinstance(data.reader, Histories)
    again = Histories.read(tmp_path, data.reader.save(tmp_path))
    found = again([[100, 105, 101, 102], ["129"]])
    assert found["input_ids"].tolist() == [[5, 1, 2], [29, ITEMS, ITEMS]]
    assert found["attention_mask"].sum(1).tolist() == [3, 1]
    for given, message in (
        ([["130"]], "item '130' is not known"),
        ([[]], "history 0 is empty"),
        (["129"], "a single history"),
    ):
        with pytest.raises(InputError, match=message):
            again(given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "nowhere"}, "no folder or file nowhere.*Set data.path"),
        ({"table": "interaction"}, "did you mean 'interactions'.*Set data.args.table"),
        ({"user": "customer"}, "'customer' is not known.*Set data.args.user"),
        ({"item": "thing"}, "'thing' is not known.*Set data.args.item"),
        ({"item": "price"}, "holds double"),
        ({"time": "time"}, "did you mean 'timestamp'.*Set data.args.time"),
        ({"time": "note"}, "holds string.*an order"),
        ({"user": "gap"}, "row 1 of .* has no gap, nor have 0 others"),
        ({"user": "timestamp"}, "nobody in .* has 3 interactions"),
        ({"core": 50}, "persons with fewer than 50 are left out"),
        ({"catalogue": "items", "name": "description"}, "no row for item 7"),
        ({"catalogue": "items", "name": "descripton"}, "did you mean 'description'"),
    ],
)
def test_wrong_input_gets_one_message(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """Without it, a wrong column would end in a traceback, or in a model of something else."""
    count = 6
    columns = {
        "user_id": [1] * count, "item_id": [100, 101, 102, 103, 104, 7], "price": [0.5] * count,
        "timestamp": list(range(count)), "note": ["a"] * count, "gap": [1, None, 1, 1, 1, 1],
    }  # fmt: skip
    write_shop(tmp_path)
    _write(tmp_path, columns)
    with pytest.raises(InputError, match=message):
        interactions(**{"path": tmp_path, **changes})
