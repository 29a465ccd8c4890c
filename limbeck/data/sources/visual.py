"""Questions about pictures, and pictures with captions.

Letters: N samples, T tokens, H×W pixels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from limbeck.data.sources.labels import names_in, numbered
from limbeck.data.sources.pictured import Cuts, Reading, Rows, assembled, read
from limbeck.data.sources.tables import (
    class_names,
    column_of,
    folder_of,
    holds_texts,
    texts_in,
    values_in,
)
from limbeck.data.splits import Data
from limbeck.errors import InputError, unknown

__all__ = ["captions", "visual_questions"]


def visual_questions(
    path: str | Path,
    *,
    image: str = "",
    question: str = "",
    answer: str = "",
    key: str = "",
    tokenizer: str | Path = "words",
    vocab: int = 8000,
    length: int = 64,
    size: int = 0,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    limit: int | None = None,
) -> Data:
    """Questions about pictures, each with an answer out of a list: one class for each answer.

    A split is one table with a picture in each row, or two that share the picture's id:
    ``questions-train.parquet`` and ``images-train.parquet``. Inputs are ``image``, (B, 3, H, W)
    from 0 to 1, and ``input_ids`` and ``attention_mask``, (B, T) int64. Memory holds a picture
    once, whatever the number of its questions; no picture is in two splits. Needs the extra
    ``limbeck[text]``.

    Args:
        path: the folder of the tables.
        image: the pictures' column, of encoded images; by default the one that holds some.
        question: the questions' column; by default ``question``, or the first one of texts.
        answer: the answers' column, of names or of whole numbers; by default ``answer`` or
            ``label``.
        key: the column of the pictures' ids, if there are two tables; by default the only one that
            both have.
        tokenizer: a folder or a ``tokenizer.json``, or what to train on the training questions:
            ``words``, ``bpe``, ``characters``.
        vocab: the most tokens that a trained tokenizer has.
        length: T at most; longer questions are cut.
        size: resize pictures to this height and width; 0 keeps the size, which must then be the
            same in all.
        validation: fraction of the training pictures, if there is no validation table.
        test: fraction of the training pictures, if there is no test table.
        seed: of the cuts.
        limit: at most so many training questions, and half as many of the others.

    Raises:
        InputError: no such folder or column, no training table, a question about a picture that is
            not there, an empty question, an answer that the training questions lack, a damaged
            picture.
    """
    folder = folder_of(path, "tables of pictures and questions")
    rows = read(folder, image, key)
    schema = rows["train"].table.schema
    answers = _answers(schema, answer)
    texts_of = _texts_column(schema, question, "question", answers)
    names = class_names(schema.metadata, answers) or names_in(rows["train"].table, answers)
    texts = {split: texts_in(each.table, texts_of, each.place) for split, each in rows.items()}
    targets = {s: numbered(each.table, answers, names, each.place) for s, each in rows.items()}
    reading = Reading(tokenizer, vocab, length, size)
    cuts = Cuts(validation, test, seed, limit)
    return assembled(rows, texts, targets, names, folder.name, reading, cuts, text_shown=True)


def captions(
    path: str | Path,
    *,
    image: str = "",
    caption: str = "",
    key: str = "",
    made: Mapping[str, Any] | None = None,
    tokenizer: str | Path = "words",
    vocab: int = 8000,
    length: int = 64,
    size: int = 0,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    limit: int | None = None,
) -> Data:
    """Pictures with a caption each; samples with the same caption have the same label.

    Tables and inputs are as for :func:`visual_questions`. Labels are the numbers of the different
    captions of all splits, in the order of the alphabet.

    Where there are no captions but questions with answers, captions can be **made** of them:
    ``made`` has ``words``, lists of which a caption has one word each, and ``caption``, a text with
    as many places ``{}``. A word counts as true of a picture if it is the answer to a question
    about it, or stands in a question whose answer is such a word: "what color is the circle?",
    "red". Pictures about which not exactly one word of each list is known are left out. Such
    captions are no person's: say so where you report numbers.

    Args:
        path: the folder of the tables.
        image: the pictures' column, of encoded images; by default the one that holds some.
        caption: the captions' column; by default ``caption``, or the first one of texts; of the
            questions, where captions are made.
        key: the column of the pictures' ids, if there are two tables; by default the only one that
            both have.
        made: ``words``, ``caption``, and ``answer``, the answers' column, if it is not ``answer``
            or ``label``.
        tokenizer: a folder or a ``tokenizer.json``, or what to train on the training captions:
            ``words``, ``bpe``, ``characters``.
        vocab: the most tokens that a trained tokenizer has.
        length: T at most; longer captions are cut.
        size: resize pictures to this height and width; 0 keeps the size, which must then be the
            same in all.
        validation: fraction of the training pictures, if there is no validation table.
        test: fraction of the training pictures, if there is no test table.
        seed: of the cuts.
        limit: at most so many training samples, and half as many of the others.

    Raises:
        InputError: as for :func:`visual_questions`, or no caption can be made.
    """
    folder = folder_of(path, "tables of pictures and captions")
    rows = read(folder, image, key)
    schema = rows["train"].table.schema
    texts: dict[str, Sequence[str]] = {}
    if made is None:
        column = _texts_column(schema, caption, "caption", "")
        texts |= {split: texts_in(each.table, column, each.place) for split, each in rows.items()}
    else:
        column = _texts_column(schema, caption, "question", "")
        told = {split: _made(each, made, column) for split, each in rows.items()}
        rows = {split: each for split, (each, _) in told.items()}
        texts |= {split: each for split, (_, each) in told.items()}
    names = tuple(sorted({text for each in texts.values() for text in each}))
    numbers = {text: number for number, text in enumerate(names)}
    targets = {s: torch.tensor([numbers[text] for text in each]) for s, each in texts.items()}
    reading = Reading(tokenizer, vocab, length, size)
    cuts = Cuts(validation, test, seed, limit)
    return assembled(rows, texts, targets, names, folder.name, reading, cuts, text_shown=False)


def _answers(schema: Any, answer: str) -> str:
    """Return the answers' column."""
    wanted = answer or next((name for name in ("answer", "label") if name in schema.names), "")
    if wanted not in schema.names:
        raise unknown("column of answers:", wanted or "answer", schema.names)
    return wanted


def _texts_column(schema: Any, wanted: str, default: str, taken: str) -> str:
    """Return the column of texts, which is not the one that is taken."""
    found = column_of(schema, wanted, default, holds_texts)
    strings = [n for n in schema.names if holds_texts(schema.field(n).type) and n != taken]
    if found in strings:
        return found
    if wanted or not strings:
        raise InputError(
            f"the column {found} holds {'the answers' if found == taken else 'no texts'}",
            expected=f"another one, of {default}s",
            remedy=f"Name it: data.args.{default}.",
        )
    return str(strings[0])


def _made(rows: Rows, made: Mapping[str, Any], column: str) -> tuple[Rows, list[str]]:
    """Return a row for each picture about which a caption can be made, and the captions."""
    strange = made.keys() - {"words", "caption", "answer"}
    if strange or not {"words", "caption"} <= made.keys():
        raise InputError(
            f"captions made of {', '.join(made) or 'nothing'}",
            expected="words, caption and perhaps answer",
        )
    groups = [set(group) for group in made["words"]]
    template = str(made["caption"])
    if template.count("{}") != len(groups) or not groups:
        raise InputError(
            f"the caption {template!r} for {len(groups)} lists of words",
            expected="a place {} for a word of each list",
        )
    answers = _answers(rows.table.schema, str(made.get("answer", "")))
    true = _true_words(rows, column, answers, set().union(*groups))
    kept, texts = [], []
    for picture, words in sorted(true.items()):
        found = [sorted(words & group) for group in groups]
        if all(len(each) == 1 for each in found):
            kept.append(picture)
            texts.append(template.format(*(each[0] for each in found)))
    if not kept:
        raise InputError(
            f"no caption can be made of the questions of {rows.place}",
            expected="answers among made.words, one of each list for a picture",
        )
    return replace(rows, pictures=torch.tensor(kept)), texts


def _true_words(rows: Rows, column: str, answers: str, known: set[str]) -> dict[int, set[str]]:
    """Return, by picture, the known words that questions with their answers say of it."""
    table = rows.table
    names = class_names(table.schema.metadata, answers)
    said = [str(names[a]) if names else str(a) for a in values_in(table, answers, rows.place)]
    questions = texts_in(table, column, rows.place)
    found: dict[int, set[str]] = {}
    for picture, question, answer in zip(rows.pictures.tolist(), questions, said, strict=True):
        if answer in known:
            inside = set(re.findall(r"\w+", question.lower())) & known
            found.setdefault(picture, set()).update({answer} | inside)
    return found
