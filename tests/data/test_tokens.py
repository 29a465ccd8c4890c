"""Tokenizers, and tables of texts."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from texts import sentences, write_bert, write_jsonl

from limbeck.data import readers, sources
from limbeck.data.tokens import KINDS, Tokenizer
from limbeck.errors import InputError

pytest.importorskip("tokenizers")
TEXTS = [text for text, _ in sentences(32)]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_reads_its_texts_and_comes_back(kind: str, tmp_path: Path) -> None:
    """Without it, a student could ship with another tokenizer than it learned with."""
    tokens = Tokenizer.train(TEXTS, kind, size=300, length=6)
    found = tokens(TEXTS[:5])
    assert found["input_ids"].shape[1] <= 6
    assert int(found["input_ids"].max()) < tokens.vocab
    assert (found["input_ids"][found["attention_mask"] == 0] == tokens.padding).all()
    again = readers.load(tmp_path, tokens.save(tmp_path))
    assert again(TEXTS[:5])["input_ids"].equal(found["input_ids"])


def test_the_same_texts_train_the_same_tokenizer() -> None:
    """Without it, a run could not be resumed: its data would have changed."""
    for kind in sorted(KINDS):
        prints = {Tokenizer.train(TEXTS, kind, size=300).fingerprint() for _ in range(3)}
        assert len(prints) == 1


def test_characters_are_for_chinese_and_unknown_ones_stay_visible() -> None:
    """Without it, a text of rare characters would be no text at all."""
    tokens = Tokenizer.train(["很好 很好", "不好 不好"], "characters")
    first, second = tokens(["不 很好！", "！？"])["input_ids"].tolist()
    assert len(set(first[:3])) == 3
    assert first[3] == second[0] == second[1] == tokens.unknown
    nothing = tokens([" "])
    assert nothing["input_ids"].tolist() == [[tokens.unknown]]


def test_wrong_tokenizers(tmp_path: Path) -> None:
    """Without it, the package's own exceptions would name no folder and no remedy."""
    with pytest.raises(InputError, match="did you mean 'words'"):
        Tokenizer.train(TEXTS, "word")
    with pytest.raises(InputError, match="there is no tokenizer in"):
        Tokenizer.load(tmp_path / "nowhere")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="could not be read as a tokenizer"):
        Tokenizer.load(tmp_path)
    with pytest.raises(InputError, match="a list of texts"):
        Tokenizer.train(TEXTS)("one text")
    with pytest.raises(InputError, match="at most 0 tokens"):
        Tokenizer.train(TEXTS, length=0)
    with pytest.raises(InputError, match="kind of reader 'sound'"):
        readers.load(tmp_path, {"kind": "sound"})


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    """Without it, transformers' message of a dozen lines would be all that is said."""
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="no tokenizer could be read from"):
        Tokenizer.load(tmp_path)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, a ModuleNotFoundError would not say what to install."""
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError, match=r"limbeck\[text\]"):
        Tokenizer.train(TEXTS)


# -- tables


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_jsonl(tmp_path, "train.jsonl", sentences(40))
    write_jsonl(tmp_path, "test.jsonl", sentences(8))
    return tmp_path


def test_texts_become_tokens_with_their_labels_and_ids(folder: Path) -> None:
    """Without it, a cut could part texts from labels, or ids could move between runs."""
    rows = sentences(40)
    data = sources.text(folder, tokenizer="words", validation=0.25)
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 10, 8)
    assert data.labels == ("0", "1")
    assert data.reader is not None
    for part in (data.train, data.validation):
        batch = next(part.batches([torch.arange(len(part))], 0, 0))
        texts = [rows[number][0] for number in batch["id"].tolist()]
        expected = data.reader(texts)
        assert batch["inputs"]["input_ids"].equal(expected["input_ids"])
        assert batch["targets"].tolist() == [rows[number][1] for number in batch["id"].tolist()]
        assert [part.shown(row)["text"] for row in range(len(part))] == texts
    few = sources.text(folder, tokenizer="words", validation=0.25, limit=10)
    assert set(few.train.ids.tolist()) <= set(data.train.ids.tolist())
    assert (len(few.train), len(few.test)) == (10, 5)
    facts = data.facts["inputs"]
    assert facts == {"vocab": data.reader.vocab, "padding": 0, "positions": 128}


def test_the_tokenizer_is_trained_on_training_texts_alone(folder: Path) -> None:
    """Without it, words of the test samples would be known before the test."""
    write_jsonl(folder, "test.jsonl", [("unheard unheard words words", 0)] * 4)
    reader = sources.text(folder, tokenizer="words").reader
    assert reader is not None
    assert set(reader(["unheard words"])["input_ids"][0].tolist()) == {1}


def _write(path: Path, kind: str, rows: list[dict[str, Any]]) -> None:
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        with path.open("w", newline="", encoding="utf-8") as opened:
            delimiter = "\t" if kind == "tsv" else ","
            writer = csv.DictWriter(opened, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv", "tsv"])
@pytest.mark.parametrize("named", [True, False])
def test_tables_of_every_kind(kind: str, named: bool, tmp_path: Path) -> None:
    """Without it, a comma or a line's end within a text could shift the labels."""
    words = ("bad", "good")
    rows = [
        {"sentence": f"{text}, it says\nand more", "label": words[label] if named else label}
        for text, label in sentences(24)
    ]
    for split in ("train", "dev", "test"):
        _write(tmp_path / f"{split}.{kind}", kind, rows)
    data = sources.text(tmp_path, tokenizer="bpe", vocab=300)
    assert data.labels == (words if named else ("0", "1"))
    assert data.train.shown(3)["text"] == rows[3]["sentence"]
    assert data.train.column("targets").tolist() == [label for _, label in sentences(24)]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"body": "a", "label": 1}], {"text": "text"}, "column 'text' is not known.*body"),
        ([{"text": "a", "label": 1}], {"label": "star"}, "column 'star' is not known"),
        ([{"text": "a", "label": 1}], {"text": "label"}, "the column label holds int64"),
        ([{"text": "a", "label": 0.5}], {}, "none of the columns text, label can hold the labels"),
        ([{"text": "a", "label": 1}, {"text": "  ", "label": 0}], {}, "row 1 of train in .* empty"),
        ([{"text": "a", "label": 1}, {"text": None, "label": 0}], {}, "row 1 of train in .* empty"),
        ([{"text": "a", "label": 1}, {"text": "b", "label": None}], {}, "row 1 .* has no label"),
    ],
)
def test_wrong_tables(
    rows: list[dict[str, Any]], options: dict[str, str], message: str, tmp_path: Path
) -> None:
    """Without it, a wrong table would end in an Arrow error, or train on nothing."""
    _write(tmp_path / "train.parquet", "parquet", rows)
    with pytest.raises(InputError, match=message):
        sources.text(tmp_path, tokenizer="words", **options)


def test_tables_of_several_kinds(folder: Path) -> None:
    """Without it, a table and its copy in another form would be read as twice the texts."""
    _write(folder / "train.csv", "csv", [{"text": "a", "label": 1}])
    with pytest.raises(InputError, match="of several kinds"):
        sources.text(folder, tokenizer="words")


def test_a_label_that_training_does_not_know(tmp_path: Path) -> None:
    """Without it, a class of the test samples alone would get another's number."""
    _write(tmp_path / "train.csv", "csv", [{"text": t, "label": "ab"[n]} for t, n in sentences(8)])
    _write(tmp_path / "test.csv", "csv", [{"text": "what", "label": "c"}])
    with pytest.raises(InputError, match=r"row 0 of test in .* has the label 'c'"):
        sources.text(tmp_path, tokenizer="words")


def test_two_tokenizers_need_two_fields(folder: Path, tmp_path: Path) -> None:
    """Without it, a teacher could read the student's tokens, which mean other words to it."""
    model = write_bert(tmp_path / "bert", TEXTS)
    teacher = {"build": "huggingface", "args": {"path": str(model)}, "inputs": "inputs"}
    with pytest.raises(InputError, match=r"Set teacher\.inputs to teacher_inputs"):
        sources.text(folder, tokenizer="bpe", models={"teacher": teacher})
    own = {"teacher": teacher | {"inputs": "teacher_inputs"}}
    data = sources.text(folder, tokenizer="bpe", vocab=300, models=own)
    batch = next(data.train.batches([torch.arange(4)], 0, 0))
    expected = Tokenizer.load(model)([data.train.shown(row)["text"] for row in range(4)])
    assert batch["teacher_inputs"]["input_ids"].equal(expected["input_ids"])
    assert not batch["inputs"]["input_ids"].equal(expected["input_ids"])
    same = sources.text(folder, models={"teacher": teacher})
    assert list(same.facts) == ["inputs"]
    with pytest.raises(InputError, match="there is no tokenizer"):
        sources.text(folder)
