"""Sentences in two languages, from tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from pairs import pairs, write_tables, write_translator

from limbeck.data import readers
from limbeck.data.sources import translation
from limbeck.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tables(tmp_path)


def _references(samples) -> list[str]:
    kept = samples.fields["reference"]
    return [
        bytes(kept.values[a:b].tolist()).decode()
        for a, b in zip(kept.offsets[:-1], kept.offsets[1:], strict=True)
    ]


def test_splits_and_languages(folder: Path) -> None:
    """Without it, a test file could be learnt from, or the languages be exchanged."""
    data = translation(folder, vocab=320)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [40, 8, 16]
    assert _references(data.train) == [de for _, de in pairs()[:40]]
    assert data.train.shown(0)["text"] == pairs()[0][0]
    back = translation(folder, source="de", target="en", vocab=320)
    assert _references(back.test) == [en for en, _ in pairs()[48:]]
    assert back.test.shown(0)["text"] == pairs()[48][1]
    assert back.fingerprint() != data.fingerprint()


def test_missing_splits_are_cut_off_and_sets_limited(folder: Path) -> None:
    """Without it, a folder with training sentences alone could not be used."""
    for name in ("val", "test_a", "test_b"):
        (folder / f"{name}.jsonl").unlink()
    data = translation(folder, vocab=320, limit=20)
    ids = [set(split.ids.tolist()) for split in (data.train, data.validation, data.test)]
    assert [len(each) for each in ids] == [20, 3, 8]
    assert len(set.union(*ids)) == 31
    written = [de for _, de in pairs()]
    assert _references(data.test) == [written[row] for row in data.test.ids.tolist()]


@pytest.mark.parametrize("shared", [True, False])
def test_the_reader_ships(folder: Path, shared: bool, tmp_path: Path) -> None:
    """Without it, a shipped student would read or write another tokenizer's tokens."""
    data = translation(folder, vocab=320, shared=shared, length=30)
    again = readers.load(tmp_path, data.reader.save(tmp_path))
    assert ("source_vocab" in data.facts["inputs"]) == (not shared)
    texts = [de for _, de in pairs()[:4]]
    rows = data.reader.answers(texts)[1].values.tolist()
    assert again.answers(texts)[1].values.tolist() == rows
    english = [en for en, _ in pairs()[:4]]
    assert again(english)["input_ids"].tolist() == data.reader(english)["input_ids"].tolist()
    assert (again.start, again.end, again.length) == (data.reader.start, data.reader.end, 30)


def test_the_teachers_folder_says_how_writing_begins(folder: Path, tmp_path: Path) -> None:
    """Without it, a T5 would be asked to begin with a token that it never saw there."""
    path = write_translator(tmp_path / "t5")
    models = {"teacher": {"build": "huggingface", "args": {"path": str(path)}}}
    data = translation(folder, models=models)
    assert (data.reader.start, data.reader.end) == (0, 3)


def test_long_sentences_are_cut(folder: Path) -> None:
    """Without it, a cut sentence would teach that it ends in its middle."""
    data = translation(folder, vocab=320, length=3)
    targets = data.train.fields["targets"]
    assert int(targets.lengths.max()) == 3
    assert 3 not in targets.values.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "fr"}, "no column 'fr'.*en, de.*data.args.target"),
        ({"test_file": "test_2016"}, "no file test_2016.*test_a.jsonl"),
        ({"tokenizer": "bpe"}, "no token for the end"),
        ({"tokenizer": "nowhere"}, "no tokenizer in nowhere"),
    ],
)
def test_wrong_input(folder: Path, options: dict, message: str) -> None:
    """Without it, a wrong name would end in an error about something else."""
    with pytest.raises(InputError, match=message):
        translation(folder, vocab=320, **options)
