"""Texts with a label each, in tables: Parquet, CSV, TSV or JSON lines.

Letters: N samples, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from limbeck.data.jagged import Jagged, Texts
from limbeck.data.samples import Arrays, Samples
from limbeck.data.sources.labels import names_in, numbered
from limbeck.data.sources.split import complete
from limbeck.data.sources.tables import (
    SUFFIXES,
    by_split,
    class_names,
    column_of,
    folder_of,
    holds_integers,
    holds_texts,
    joined,
    texts_in,
)
from limbeck.data.splits import Data
from limbeck.data.tokens import KINDS, Tokenizer
from limbeck.errors import InputError

__all__ = ["text"]


def text(
    path: str | Path,
    *,
    text: str = "",
    label: str = "",
    tokenizer: str | Path = "",
    teacher_tokenizer: str | Path = "",
    vocab: int = 8000,
    length: int = 128,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    limit: int | None = None,
    models: Mapping[str, Mapping[str, Any]] | None = None,
) -> Data:
    """Texts with one label each, turned into tokens once, when they are loaded.

    The files' names begin with their split: ``train.parquet``, ``test.csv``, ``dev.jsonl``. Inputs
    are ``input_ids`` and ``attention_mask``, (B, T) int64, padded to the longest of each batch.
    Needs the extra ``limbeck[text]``.

    Where teacher and student have different tokenizers, each sample has two fields: the student
    reads ``inputs``, and the teacher another, named by the recipe: ``teacher: {inputs:
    teacher_inputs}``.

    Args:
        path: the folder.
        text: the texts' column; by default ``text`` or the first one of texts.
        label: the labels' column; by default ``label`` or the first of whole numbers, or else
            another one of texts, the classes' names.
        tokenizer: of the student: the folder of a Hugging Face model, a ``tokenizer.json``, or
            what to train on the training texts: ``bpe``, ``words``, ``characters``; by default the
            teacher's.
        teacher_tokenizer: of the teacher: a folder or a file; by default that of the folder from
            which a Hugging Face teacher is made, or the student's.
        vocab: the most tokens that a trained tokenizer has.
        length: T at most; longer texts are cut.
        validation: fraction of the training samples, if there is no validation file.
        test: fraction of the training samples, if there is no test file.
        seed: of the cuts.
        limit: at most so many training samples, and half as many of the others.
        models: how a recipe's models are built, which tells where the teacher's tokenizer is.

    Raises:
        InputError: no such folder, no training file, a missing column, a damaged file, an empty
            text, no tokenizer, or a teacher that would read another tokenizer's tokens.
    """
    folder = folder_of(path, "tables of texts")
    files = [file for file in sorted(folder.iterdir()) if file.suffix in SUFFIXES]
    tables = {s: joined(p) for s, p in by_split(files, folder, "train.parquet").items()}
    words, numbers, names = _columns(tables["train"], text, label)
    names = names or names_in(tables["train"], numbers)
    texts, found = {}, {}
    for split, table in tables.items():
        texts[split] = texts_in(table, words, f"{split} in {folder}")
        labels = numbered(table, numbers, names, f"{split} in {folder}")
        found[split] = replace(Arrays.of(targets=labels), show=Texts.of(texts[split]))
    cuts: dict[str, Any] = {"validation": validation, "test": test, "seed": seed, "limit": limit}
    data = complete(found, names, folder.name, **cuts)
    reading = _Reading.of(models or {}, tokenizer, teacher_tokenizer)
    return reading.applied(data, texts, vocab, length)


@dataclass(frozen=True)
class _Reading:
    """Which tokenizers make which fields.

    Attributes:
        student: of the field ``inputs``: a path, or a kind to train.
        teacher: of the teacher's own field; ``None`` if it has none.
        field: the teacher's field.
    """

    student: str | Path
    teacher: str | Path | None
    field: str

    @classmethod
    def of(
        cls, models: Mapping[str, Mapping[str, Any]], tokenizer: str | Path, teacher: str | Path
    ) -> _Reading:
        """Decide, and refuse a teacher that would read another tokenizer's tokens."""
        part = models.get("teacher", {})
        args = part.get("args", {}) if part.get("build") == "huggingface" else {}
        theirs = teacher or args.get("path") or ""
        if not (tokenizer or theirs):
            raise InputError(
                "there is no tokenizer",
                expected="the folder of a Hugging Face model, a tokenizer.json, or one of "
                + ", ".join(sorted(KINDS)),
                remedy="Name one, data.args.tokenizer, or the teacher's folder, teacher.args.path.",
            )
        own = tokenizer or theirs
        field = str(part.get("inputs", "inputs" if models or not teacher else "teacher_inputs"))
        if theirs and Path(theirs) != Path(own) and field == "inputs":
            raise InputError(
                f"the teacher has a tokenizer of its own ({theirs}), the student another ({own})",
                expected="a field of its own for the teacher",
                consequence="It would read the student's tokens, which mean other words to it.",
                remedy="Set teacher.inputs to teacher_inputs, or leave data.args.tokenizer out.",
            )
        return cls(own, (theirs or own) if field != "inputs" else None, field)

    def applied(
        self, data: Data, texts: Mapping[str, Sequence[str]], vocab: int, length: int
    ) -> Data:
        """Return the data with tokens, what models need to know of them, and the reader."""
        here = {
            split: _at(texts.get(split, texts["train"]), samples)
            for split, samples in _splits(data).items()
        }
        own = _tokenizer(self.student, here["train"], vocab, length)
        fields = {"inputs": own}
        if self.teacher is not None:
            fields[self.field] = _tokenizer(self.teacher, here["train"], vocab, length)

        def read(split: str, samples: Samples) -> Arrays:
            return _with(samples, {name: t.encode(here[split]) for name, t in fields.items()})

        facts = {
            name: {"vocab": each.vocab, "padding": each.padding, "positions": length}
            for name, each in fields.items()
        }
        return replace(
            data,
            train=read("train", data.train),
            validation=read("validation", data.validation),
            test=read("test", data.test),
            facts=facts,
            reader=own,
            other_readers={name: each for name, each in fields.items() if name != "inputs"},
        )


def _splits(data: Data) -> dict[str, Samples]:
    return {"train": data.train, "validation": data.validation, "test": data.test}


def _at(texts: Sequence[str], samples: Samples) -> list[str]:
    """Return the texts of samples, whose ids are the rows of the table that they came from."""
    return [texts[row] for row in samples.ids.tolist()]


def _with(samples: Samples, fields: Mapping[str, Jagged]) -> Arrays:
    assert isinstance(samples, Arrays)
    return replace(samples, fields={**fields, **samples.fields})


def _tokenizer(wanted: str | Path, texts: Sequence[str], vocab: int, length: int) -> Tokenizer:
    if str(wanted) in KINDS:
        return Tokenizer.train(texts, str(wanted), size=vocab, length=length)
    return Tokenizer.load(wanted, length)


def _columns(table: Any, text: str, label: str) -> tuple[str, str, tuple[str, ...]]:
    """Return the texts' column, the labels' and, as far as the file tells, the classes' names."""
    schema = table.schema
    whole = [name for name in schema.names if holds_integers(schema.field(name).type)]
    strings = [name for name in schema.names if holds_texts(schema.field(name).type)]
    named = label or ("label" if not whole and "label" in strings else "")
    words = column_of(schema, text, "text", holds_texts)
    if not text and words == named:
        words = next((name for name in strings if name != named), words)
    if not named and not whole:
        named = next((name for name in strings if name != words), "")
    numbers = column_of(schema, named, "label", holds_integers)
    right = words in strings and numbers in [*whole, *strings] and words != numbers
    if not right:
        name = numbers if words in strings else words
        raise InputError(
            f"the column {name} holds {schema.field(name).type}",
            expected="a column of texts, and another of whole numbers or of names",
            remedy="Name them: data.args.text and data.args.label.",
        )
    return words, numbers, class_names(schema.metadata, numbers)
