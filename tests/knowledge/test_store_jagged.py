"""Of texts padded to one length, only the tokens that count are kept, and put back in place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from limbeck.data import Arrays, Batch, Loader
from limbeck.errors import InputError
from limbeck.knowledge import Knowledge, Store, write
from limbeck.losses import SparseLogits
from limbeck.teachers import Replay

N, C = 11, 40
SMALL: dict[str, Any] = {"batch_size": 4, "rows_per_shard": 8}


class Reader:
    """Says about a token what can be told from it and its sample; of padding it says 999."""

    def knowledge(self, batch: Batch, taps: Sequence[str]) -> Knowledge:
        words, seen = batch["inputs"]["words"], batch["inputs"]["seen"].bool()
        logits = torch.sin(
            words.unsqueeze(-1) * torch.arange(1.0, C + 1) + batch["id"].view(-1, 1, 1)
        )
        own = {
            "logits": logits.masked_fill(~seen.unsqueeze(-1), 999.0),
            "block": torch.stack((words, words + 1), -1).float(),
            "pooled": words.sum(1, keepdim=True).float() * torch.ones(3),
        }
        return Knowledge({tap: own[tap] for tap in taps}, batch["id"])

    def fingerprint(self) -> str:
        return "reader"


def texts(longest: int = 9, shift: int = 0, rows: int = N) -> Arrays:
    """Texts of 0 to 8 words, padded at the end, or (with a shift) at both ends."""
    lengths = torch.arange(N)[:rows] * 5 % 9
    places = torch.arange(longest) - shift
    seen = (places >= 0) & (places < lengths.unsqueeze(1))
    words = (torch.arange(N)[:rows].unsqueeze(1) * 10 + places + 1) * seen
    return Arrays.of(inputs={"words": words, "seen": seen.long()}, targets=torch.zeros(rows))


def said(data: Arrays, tap: str) -> Tensor:
    [batch] = Loader(data, len(data)).epoch(0)
    return Reader().knowledge(batch, [tap])[tap]


def masks(data: Arrays) -> Tensor:
    return data.column("inputs")["seen"].bool()


def test_only_what_counts_is_kept(tmp_path: Path) -> None:
    """Padding would be most of the store; answers would be found at other tokens."""
    data = texts()
    taps = ["logits", "block", "pooled"]
    store = write(tmp_path, Reader(), data, taps=taps, mask="seen", codec="full", **SMALL)
    shards = [load_file(file) for file in sorted(tmp_path.glob("00-*.safetensors"))]
    assert sum(len(shard["logits"]) for shard in shards) == int(masks(data).sum())
    assert [len(shard["pooled"]) for shard in shards] == [8, 3]
    assert shards[1][":offsets"].tolist() == [0, 4, 4, 9]
    assert store.index["fields"]["logits"]["shape"] == [C]
    replay = Replay(tmp_path)
    for batch in Loader(data, 4, shuffle=True, seed=3):
        known = replay.knowledge(batch, taps)
        mask = batch["inputs"]["seen"].bool()
        live = Reader().knowledge(batch, taps)
        assert torch.equal(known["logits"][mask], live["logits"][mask])
        assert torch.equal(known["block"][mask], live["block"][mask])
        assert torch.equal(known["pooled"], live["pooled"])
        assert not known["logits"][~mask].any()
        assert torch.equal(known.mask, mask)


@pytest.mark.parametrize(("longest", "shift"), [(9, 0), (12, 0), (12, 3)])
def test_padded_in_another_way(tmp_path: Path, longest: int, shift: int) -> None:
    """A loader that pads to the batch, or at the left, would put answers at other tokens."""
    write(tmp_path, Reader(), texts(), mask="seen", codec="full", **SMALL)
    other = texts(longest, shift)
    for batch in Loader(other, 5, shuffle=True):
        known = Replay(tmp_path).knowledge(batch)
        mask = batch["inputs"]["seen"].bool()
        whole = said(texts(), "logits")[batch["id"]]
        kept = torch.cat([row[: int(m.sum())] for row, m in zip(whole, mask, strict=True)])
        assert torch.equal(known.logits[mask], kept)
        assert not known.logits[~mask].any()


def test_without_a_mask_tokens_stand_at_the_left(tmp_path: Path) -> None:
    """A store could not be looked at without the batches."""
    store = write(tmp_path, Reader(), texts(), mask="seen", codec="full", **SMALL)
    rows = store.rows(torch.tensor([3, 10, 0]), torch.zeros(3, dtype=torch.int64), ("logits",))
    assert rows["logits"].shape == (3, 6, C)
    assert torch.equal(rows["logits"][0], said(texts(), "logits")[3, :6])
    assert not rows["logits"][2].any()
    none = store.rows(torch.tensor([0]), torch.tensor([0]), ("logits",))["logits"]
    assert none.shape == (1, 0, C)


@pytest.mark.parametrize("codec", ["top4", "top4@2", "sample8", "int8", "pca8"])
def test_with_each_codec(tmp_path: Path, codec: str) -> None:
    """Tokens of a sparse answer would be drawn alike at each place, or put at others."""
    data = texts()
    write(tmp_path / "jagged", Reader(), data, mask="seen", codec=codec, **SMALL)
    # Each token is a sample of its own in a plain store, under the key that it has in the other.
    replay = Replay(tmp_path / "jagged")
    [batch] = Loader(data, N).epoch(0)
    mask = batch["inputs"]["seen"].bool()
    known = replay.knowledge(batch).logits
    assert tuple(known.shape) == (N, 9, C)
    if isinstance(known, SparseLogits):
        tokens = known[mask]
        p = (said(data, "logits")[mask] / tokens.temperature).log_softmax(-1)
        if codec == "top4":
            assert torch.allclose(tokens.log_p, p.gather(-1, tokens.indices), atol=4e-3)
        padding = known[~mask]
        assert not padding.log_p.any()
        assert not padding.indices.any()
    else:
        live = said(data, "logits")[mask]
        close = 0.01 if codec == "int8" else 0.6
        assert (known[mask] - live).abs().mean() < close
        assert not known[~mask].any()


def test_draws_depend_on_the_token_alone(tmp_path: Path) -> None:
    """Drawn by the place among padding, a resumed or repadded store would be another one."""
    options = {"mask": "seen", "codec": "sample8", **SMALL}
    write(tmp_path / "a", Reader(), texts(), **options)
    write(tmp_path / "b", Reader(), texts(12, 3), **options)
    for name in ("00-0000-00000.safetensors", "00-0000-00001.safetensors"):
        one, other = (load_file(tmp_path / where / name) for where in "ab")
        assert all(torch.equal(one[part], other[part]) for part in one)
    first = load_file(tmp_path / "a" / "00-0000-00000.safetensors")[":offsets"]
    assert first.dtype == torch.int32


@pytest.mark.parametrize("codec", ["top4", "sample8", "pca8", "half"])
@pytest.mark.parametrize("at", [1, 2])
def test_resumed(tmp_path: Path, codec: str, at: int) -> None:
    """What a codec has learned, or drawn, would differ from the first attempt's."""

    class Failing(Reader):
        batches = 0

        def knowledge(self, batch: Batch, taps: Sequence[str]) -> Knowledge:
            self.batches += 1
            if self.batches > at:
                raise ConnectionError
            return super().knowledge(batch, taps)

    options = {"mask": "seen", "codec": {"logits": codec}, "taps": ["logits", "block"], **SMALL}
    write(tmp_path / "whole", Reader(), texts(), **options)
    with pytest.raises(ConnectionError):
        write(tmp_path / "cut", Failing(), texts(), **options)
    write(tmp_path / "cut", Reader(), texts(), **options)
    files = {f.name: f.read_bytes() for f in (tmp_path / "whole").iterdir()}
    assert files == {f.name: f.read_bytes() for f in (tmp_path / "cut").iterdir()}
    Store.open(tmp_path / "cut").verify()


def test_other_tokens(tmp_path: Path) -> None:
    """A tokenizer that cuts elsewhere would shift every answer by a token."""
    write(tmp_path, Reader(), texts(), mask="seen", **SMALL)
    [batch] = Loader(texts(), N).epoch(0)
    batch["inputs"]["seen"][7, 0] = 0
    with pytest.raises(InputError, match="sample 7 has 7 tokens that count, and 8 in the store"):
        Replay(tmp_path).knowledge(batch)
    batch["inputs"]["seen"] = batch["inputs"]["seen"][:, 0]
    with pytest.raises(InputError, match=r"the batch has \(11,\) as the mask 'seen'"):
        Replay(tmp_path).knowledge(batch)
    del batch["inputs"]["seen"]
    with pytest.raises(InputError, match="the batch has nothing as the mask 'seen'"):
        Replay(tmp_path).knowledge(batch)


def by_words(batch: Batch) -> Tensor:
    return batch["inputs"]["words"] > 0


def test_a_mask_that_is_a_function(tmp_path: Path) -> None:
    """A function cannot be kept in a file: taken for a field's name, it would be looked for."""
    write(tmp_path, Reader(), texts(), mask=by_words, codec="full", **SMALL)
    [batch] = Loader(texts(), N).epoch(0)
    with pytest.raises(InputError, match=r"written with a function.*replay\(path, mask="):
        Replay(tmp_path).knowledge(batch)
    known = Replay(tmp_path, mask=by_words).knowledge(batch)
    assert torch.equal(known.logits[masks(texts())], said(texts(), "logits")[masks(texts())])
    with pytest.raises(InputError, match="with another mask"):
        write(tmp_path, Reader(), texts(), mask="seen", codec="full", **SMALL)


def test_answers_of_changing_length(tmp_path: Path) -> None:
    """A batch that is padded less would end in an error of torch.cat that names nothing."""

    class Shorter(Reader):
        def knowledge(self, batch: Batch, taps: Sequence[str]) -> Knowledge:
            known = super().knowledge(batch, taps)
            cut = 9 - int(batch["id"][0]) // 4
            return Knowledge({tap: known[tap][:, :cut] for tap in taps}, known.ids)

    with pytest.raises(InputError, match=r"'logits' has rows of shape \[8, 40\].*mask="):
        write(tmp_path, Shorter(), texts(), **SMALL)
    with pytest.raises(InputError, match=r"'logits' is \(4, 8, 40\), and the mask \(4, 9\)"):
        write(tmp_path / "b", Shorter(), texts(), mask="seen", **SMALL)


def test_appended(tmp_path: Path) -> None:
    """New rows would be counted from the old ones' offsets."""
    options = {"mask": "seen", "codec": {"logits": "pca8"}, **SMALL}
    write(tmp_path, Reader(), texts(rows=6), **options)
    old = Replay(tmp_path).knowledge(next(iter(Loader(texts(rows=6), 6)))).logits
    write(tmp_path, Reader(), texts(), append=True, **options)
    now = Replay(tmp_path).knowledge(next(iter(Loader(texts(), N)))).logits
    assert torch.equal(now[:6], old)
    mask = masks(texts())
    assert (now[mask] - said(texts(), "logits")[mask]).abs().mean() < 0.6
