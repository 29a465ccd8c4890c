"""Sentences in two languages, in tables: Parquet, CSV, TSV or JSON lines.

Letters: N samples, S tokens read, T tokens written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from limbeck.data.jagged import Texts
from limbeck.data.languages import Languages
from limbeck.data.samples import Arrays, Samples
from limbeck.data.sources.tables import SPLITS, SUFFIXES, folder_of, joined, texts_in
from limbeck.data.splits import Data, carve
from limbeck.data.tokens import KINDS, Tokenizer
from limbeck.errors import InputError

__all__ = ["translation"]


def translation(
    path: str | Path,
    *,
    source: str = "en",
    target: str = "de",
    tokenizer: str | Path = "",
    vocab: int = 8000,
    shared: bool = True,
    length: int = 64,
    test_file: str = "",
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    limit: int | None = None,
    models: Mapping[str, Mapping[str, Any]] | None = None,
) -> Data:
    """Pairs of sentences, turned into tokens once, when they are loaded.

    The files' names begin with their split: ``train.parquet``, ``val.tsv``, ``test_2016.jsonl``;
    each has a column for each language. Inputs are ``input_ids`` and ``attention_mask``, (B, S),
    and ``decoder_input_ids`` and ``decoder_attention_mask``, (B, T); targets are (B, T), −100 where
    nothing is to be predicted; all int64. ``reference`` has the sentences that are wanted, in bytes
    of UTF-8. Needs the extra ``limbeck[translation]``.

    Args:
        path: the folder.
        source: the column of the language that is read.
        target: the column of the language that is written.
        tokenizer: the folder of a Hugging Face model, a ``tokenizer.json``, or what to train on the
            training sentences: ``bpe-cased`` as a rule, which is the default unless the teacher is
            made from a folder, whose tokenizer both models then have.
        vocab: the most tokens that a trained tokenizer has.
        shared: one tokenizer for both languages, or one trained for each.
        length: S and T at most, the end of a sentence among them; longer ones are cut.
        test_file: the file with test samples, if there are several: its name without the ending; by
            default the first.
        validation: fraction of the training samples, if there is no validation file.
        test: fraction of the training samples, if there is no test file.
        seed: of the cuts.
        limit: at most so many training samples, and half as many of the others.
        models: how a recipe's models are built, which tells where the teacher's tokenizer is.

    Raises:
        InputError: no such folder, no training file, a missing column, an empty sentence, a damaged
            file, or a tokenizer without a token for the end of a text.
    """
    folder = folder_of(path, "tables of sentences in two languages")
    texts: dict[str, tuple[list[str], list[str]]] = {}
    found: dict[str, Samples] = {}
    for split, files in _files(folder, test_file).items():
        table, where = joined(files), f"{split} in {folder}"
        _check_columns(table, source, target)
        texts[split] = texts_in(table, source, where), texts_in(table, target, where)
        ids = torch.arange(len(texts[split][0]))
        found[split] = Arrays({}, ids, Texts.of(texts[split][0]))
    for split, fraction in (("test", test), ("validation", validation)):
        if split not in found:
            found["train"], found[split] = carve(found["train"], fraction, seed=seed, by=None)
            texts[split] = texts["train"]
    parts = (found["train"], found["validation"], found["test"])
    whole = Data(*parts, name=f"{folder.name}, {source} to {target}")
    data = whole if limit is None else whole.limited(limit)
    kept = {"train": data.train, "validation": data.validation, "test": data.test}
    here = {split: _at(texts[split], samples.ids.tolist()) for split, samples in kept.items()}
    reader = _languages(here["train"], tokenizer, models or {}, vocab, length, shared=shared)
    vocabs = {"vocab": reader.target.vocab}
    apart = {} if reader.source is reader.target else {"source_vocab": reader.source.vocab}
    special = {"start": reader.start, "end": reader.end, "padding": reader.target.padding}
    filled = {split: _filled(each, *here[split], reader) for split, each in kept.items()}
    return Data(
        filled["train"],
        filled["validation"],
        filled["test"],
        name=data.name,
        facts={
            "inputs": {**vocabs, **apart, **special, "positions": length + 1},
            "targets": vocabs | {"reader": reader},
        },
        reader=reader,
    )


def _files(folder: Path, test_file: str) -> dict[str, list[Path]]:
    """Return the files of each split; of test files, one."""
    entries = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)
    found: dict[str, list[Path]] = {}
    for split, aliases in SPLITS.items():
        matching = [e for e in entries if re.split(r"[-_.]", e.name)[0] in aliases]
        if matching:
            found[split] = matching
    listed = ", ".join(entry.name for entry in entries[:8]) or "no table"
    if "train" not in found:
        raise InputError(f"{folder} holds {listed}", expected="at least train.parquet")
    if test_file:
        found["test"] = [entry for entry in entries if entry.stem == test_file]
        if not found["test"]:
            raise InputError(f"there is no file {test_file} in {folder}", expected=listed)
    elif "test" in found:
        found["test"] = found["test"][:1]
    return found


def _check_columns(table: Any, source: str, target: str) -> None:
    for option, column in (("source", source), ("target", target)):
        if column not in table.schema.names:
            raise InputError(
                f"there is no column {column!r}",
                expected=f"one of {', '.join(table.schema.names)}",
                remedy=f"Name the language: data.args.{option}.",
            )


def _at(texts: tuple[list[str], list[str]], rows: Sequence[int]) -> tuple[list[str], list[str]]:
    read, written = texts
    return [read[row] for row in rows], [written[row] for row in rows]


def _languages(
    texts: tuple[list[str], list[str]],
    tokenizer: str | Path,
    models: Mapping[str, Mapping[str, Any]],
    vocab: int,
    length: int,
    *,
    shared: bool,
) -> Languages:
    """Return the tokenizers: those of a folder, or trained on the training sentences."""
    part = models.get("teacher", {})
    folder = part.get("args", {}).get("path") if part.get("build") == "huggingface" else None
    wanted = str(tokenizer or folder or "bpe-cased")
    if wanted in KINDS:
        options: dict[str, Any] = {"size": vocab, "length": length}
        if shared:
            one = Tokenizer.train([*texts[0], *texts[1]], wanted, **options)
            return Languages.of(one, one)
        first, second = (Tokenizer.train(each, wanted, **options) for each in texts)
        return Languages.of(first, second)
    one = Tokenizer.load(wanted, length)
    return Languages.of(one, one, _start(Path(wanted)))


def _start(folder: Path) -> int | None:
    """Return with which token a Hugging Face model begins to write, if its folder says so."""
    file = folder / "config.json"
    if not file.is_file():
        return None
    found = json.loads(file.read_text(encoding="utf-8")).get("decoder_start_token_id")
    return None if found is None else int(found)


def _filled(
    samples: Samples, read: Sequence[str], written: Sequence[str], reader: Languages
) -> Arrays:
    assert isinstance(samples, Arrays)
    given, wanted = reader.answers(written)
    fields = {
        "inputs": {"source": reader.inputs(read), "target": given},
        "targets": wanted,
        "reference": Texts.of(written).bytes,
    }
    return replace(samples, fields=fields)
