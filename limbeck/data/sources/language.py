"""Texts for language models: plain ones, prompts with answers, conversations.

Letters: N samples, T tokens.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from limbeck.data.blocks import (
    TEACHER_INPUTS,
    answers,
    answers_again,
    blocks,
    blocks_again,
    packed,
)
from limbeck.data.language_tokenizer import CHAT, KINDS, LanguageTokenizer
from limbeck.data.random import key
from limbeck.data.samples import Arrays
from limbeck.data.sources.tables import SPLITS, SUFFIXES, by_split, joined
from limbeck.data.splits import Data
from limbeck.errors import InputError, unknown

__all__ = ["language"]

_TEXTS = (".txt", ".txt.gz")
_PROMPTS, _ANSWERS = ("prompt", "question", "instruction"), ("answer", "completion", "response")
_Message = Mapping[str, str]


def language(
    path: str | Path,
    *,
    prompt: str = "",
    answer: str = "",
    messages: str = "",
    text: str = "",
    tokenizer: str | Path = "",
    teacher_tokenizer: str | Path = "",
    vocab: int = 2000,
    template: str = "",
    length: int = 128,
    asked: int = 32,
    pack: bool = False,
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    limit: int | None = None,
    models: Mapping[str, Mapping[str, Any]] | None = None,
) -> Data:
    """Texts for language models, turned into tokens once, when they are loaded.

    Three forms. **Plain texts** (``.txt``, ``.txt.gz``, or a table with a column ``text``) become
    one stream of tokens, cut into blocks of ``length``; each token's target is the next one.
    **Prompts with answers** are two columns of a table (Parquet, JSON lines, CSV, TSV), and
    **conversations** one, a list of messages with ``role`` and ``content``. Of these only what an
    assistant says is a target, and the end; prompts have −100.

    Inputs are ``input_ids``, (B, T) int64, with ``attention_mask`` where rows differ in length, or
    ``position_ids`` where several samples share a row. Targets are (B, T) int64. The files' names
    begin with their split; where none does, all are for training. Needs the extra
    ``limbeck[text]``.

    Where the teacher has a tokenizer of its own, it reads ``teacher_inputs`` and is to predict
    ``teacher_targets``, its tokens of the same texts: ``teacher: {inputs: teacher_inputs}`` in a
    recipe. Only methods that compare such answers can then be learnt from, ``uld``.

    Args:
        path: a folder, or one file.
        prompt: the prompts' column; by default ``prompt``, ``question`` or ``instruction``.
        answer: the answers' column; by default ``answer``, ``completion`` or ``response``.
        messages: the conversations' column; by default ``messages``.
        text: the plain texts' column; by default ``text``.
        tokenizer: the folder of a Hugging Face model, or what to train on the training texts:
            ``bpe`` or ``characters``; by default that of the folder from which the teacher, or else
            the student, is made, or ``bpe``. The student's, if the teacher has another.
        teacher_tokenizer: of a teacher that has another: a folder or a kind; by default that of
            the folder from which it is made.
        vocab: the most tokens that a trained tokenizer has.
        template: how a prompt and an answer become a text, ``{prompt}`` and at the end
            ``{answer}``, or ``chat``, the tokenizer's chat template; by default ``chat`` for
            conversations, else a line each.
        length: T at most; what is longer is cut at its end.
        asked: how many tokens of a block of plain text are the prompt, where models write.
        pack: put several training samples with prompts into one row of ``length`` tokens, so that
            little is padded; they do not see one another. Rows that are longer are cut. Not beside
            a teacher with other tokens, whose rows would hold other samples.
        validation: fraction of the training texts, if there is no such file: of plain texts the
            end, of other rows some by chance.
        test: the same for testing.
        seed: of the cuts by chance.
        limit: at most so many training samples, and half as many of the others.
        models: how a recipe's models are built, which tells where their tokenizer is.

    Raises:
        InputError: no such path, no training file, a missing column, an empty answer, no tokenizer
            or no chat template, texts too short for one block, answers too long for ``length``, a
            teacher that would read another tokenizer's tokens, or ``pack`` beside one that has
            its own.
    """
    found = _read(Path(path), (prompt, answer, messages, text))
    splits = found.complete(validation, test, seed)
    template = template or (CHAT if found.chats else "{prompt}\n{answer}")
    told: dict[str, Any] = {"length": length, "template": template}

    def made_or_read(chosen: str | Path) -> LanguageTokenizer:
        if str(chosen) in KINDS:
            return LanguageTokenizer.train(_said(splits["train"]), str(chosen), size=vocab, **told)
        return LanguageTokenizer.load(chosen, **told)

    folders = _folders(models or {})
    theirs = _theirs(models or {}, folders, teacher_tokenizer)
    if theirs and pack:
        raise InputError(
            "data.args.pack with a teacher that has a tokenizer of its own",
            expected="one sample in each row",
            consequence="Rows of the two would hold other samples, and no token would be aligned.",
            remedy="Leave data.args.pack out.",
        )
    own = [folder for role, folder in folders.items() if role == "student" or not theirs]
    chosen = tokenizer or next(iter(own), "bpe")
    tokens = made_or_read(chosen)
    _check_folders(tokens, str(chosen), own)
    made: dict[str, Arrays] = {}
    for split, rows in splits.items():
        if found.plain:
            made[split] = blocks(tokens, rows, asked)
        else:
            made[split] = answers(tokens, rows)
    if pack and not found.plain:
        made["train"] = packed(made["train"], tokens)
    task = {"vocab": tokens.vocab, "tokenizer": tokens, "asked": asked if found.plain else 0}
    facts = {"inputs": _facts(tokens, length), "targets": task}
    others: dict[str, LanguageTokenizer] = {}
    if theirs:
        other = made_or_read(theirs)
        if folder := folders.get("teacher"):
            _check_folders(other, str(theirs), [folder])
        for split, rows in splits.items():
            made[split] = (
                blocks_again(made[split], tokens, other, rows)
                if found.plain
                else answers_again(made[split], other, rows)
            )
        longest = max(int(each.fields[TEACHER_INPUTS].lengths.max()) for each in made.values())
        facts[TEACHER_INPUTS] = _facts(other, longest)
        task["teacher_tokenizer"] = others[TEACHER_INPUTS] = other
    data = Data(
        made["train"],
        made["validation"],
        made["test"],
        name=Path(path).name.partition(".")[0],
        facts=facts,
        reader=tokens,
        other_readers=others,
    )
    return data if limit is None else data.limited(limit)


def _facts(tokens: LanguageTokenizer, longest: int) -> dict[str, Any]:
    """Return what a model that reads these tokens is to know."""
    facts = {"vocab": tokens.vocab, "padding": tokens.padding, "end": tokens.end}
    return facts | {"positions": longest}


def _theirs(
    models: Mapping[str, Mapping[str, Any]], folders: Mapping[str, str], stated: str | Path
) -> str | Path:
    """Return the tokenizer of a teacher that has one of its own, or nothing."""
    field = models.get("teacher", {}).get("inputs", TEACHER_INPUTS if stated else "inputs")
    if field == "inputs":
        if stated:
            raise InputError(
                f"the teacher has a tokenizer of its own ({stated})",
                expected="a field of its own for the teacher",
                consequence="It would read the student's tokens, which mean other words to it.",
                remedy=f"Set teacher.inputs to {TEACHER_INPUTS}.",
            )
        return ""
    found = stated or folders.get("teacher", "")
    if field != TEACHER_INPUTS or not found:
        raise InputError(
            f"teacher.inputs is {field}, with {found or 'no tokenizer for the teacher'}",
            expected=f"{TEACHER_INPUTS}, and a tokenizer of the teacher's own",
            remedy=f"Set teacher.inputs to {TEACHER_INPUTS}, and data.args.teacher_tokenizer; or "
            "leave both out.",
        )
    return found


class _Found:
    """What a folder holds: by split, texts or conversations."""

    def __init__(self, rows: dict[str, list[Any]], *, plain: bool, chats: bool) -> None:
        self.rows, self.plain, self.chats = rows, plain, chats

    def complete(self, validation: float, test: float, seed: int) -> dict[str, list[Any]]:
        """Return all three splits; those that are missing are cut from the training rows."""
        splits = dict(self.rows)
        for split, fraction in (("test", test), ("validation", validation)):
            if split not in self.rows:
                whole = sum(map(len, self.rows["train"])) if self.plain else len(self.rows["train"])
                count = max(1, round(whole * fraction))
                cut = _tail(splits["train"], count) if self.plain else None
                splits["train"], splits[split] = cut or _by_chance(splits["train"], count, seed)
        return splits


def _read(path: Path, columns: tuple[str, str, str, str]) -> _Found:
    """Return what a file or a folder holds."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    texts = [file for file in files if file.name.endswith(_TEXTS) and file.is_file()]
    tables = [file for file in files if file.suffix in SUFFIXES]
    if bool(texts) == bool(tables):
        held = ", ".join(file.name for file in [*texts, *tables][:6]) or "neither"
        raise InputError(
            f"there is {held} in {path}" if path.exists() else f"there is no {path}",
            expected="either texts (.txt, .txt.gz) or tables (.parquet, .jsonl, .csv, .tsv)",
            remedy="Set data.path.",
        )
    entries = _grouped(texts or tables, path)
    if texts:
        read = {split: [_text(file) for file in found] for split, found in entries.items()}
        return _Found(read, plain=True, chats=False)
    tabled = {split: joined(found) for split, found in entries.items()}
    prompts, replies, chats, plain = columns
    names = tabled["train"].schema.names
    chats = chats or ("messages" if "messages" in names and not prompts else "")
    if chats:
        rows = {s: _column(t, chats, f"{s} in {path}") for s, t in tabled.items()}
        return _Found(
            {s: [_chat(row) for row in r] for s, r in rows.items()}, plain=False, chats=True
        )
    prompts = prompts or next((name for name in _PROMPTS if name in names), "")
    replies = replies or next((name for name in _ANSWERS if name in names), "")
    if prompts and replies:
        pairs = {
            split: [
                _pair(one, other)
                for one, other in zip(
                    *(_column(table, c, f"{split} in {path}") for c in (prompts, replies)),
                    strict=True,
                )
            ]
            for split, table in tabled.items()
        }
        return _Found(pairs, plain=False, chats=False)
    plain = plain or ("text" if "text" in names else "")
    if not plain:
        raise InputError(
            f"the columns {', '.join(names)} in {path}",
            expected="a prompt and an answer, messages, or text",
            remedy="Name them: data.args.prompt and data.args.answer, for example.",
        )
    rows = {s: _column(t, plain, f"{s} in {path}") for s, t in tabled.items()}
    return _Found(rows, plain=True, chats=False)


def _grouped(files: Sequence[Path], path: Path) -> dict[str, list[Path]]:
    """Return files by split; if none is named after one, all are for training."""
    names = {name for aliases in SPLITS.values() for name in aliases}
    if any(file.name.split(".")[0].split("-")[0] in names for file in files):
        return by_split(files, path, "train.parquet")
    return {"train": list(files)}


def _text(file: Path) -> str:
    try:
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        return raw.decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} could not be read: {error}", expected="a text in UTF-8, perhaps gzipped"
        ) from error


def _column(table: Any, name: str, where: str) -> list[Any]:
    if name not in table.schema.names:
        raise unknown(f"column of {where}:", name, table.schema.names)
    rows: list[Any] = table[name].to_pylist()
    empty = next((row for row, found in enumerate(rows) if not found), None)
    if empty is not None:
        raise InputError(
            f"row {empty} of {where} has nothing under {name}",
            expected="something in every row",
            remedy="Take the row out.",
        )
    return rows


def _pair(prompt: Any, answer: Any) -> list[_Message]:
    told = {"user": prompt, "assistant": answer}
    return [{"role": role, "content": str(content)} for role, content in told.items()]


def _chat(found: Any) -> list[_Message]:
    right = isinstance(found, list) and all(
        isinstance(each, Mapping) and isinstance(each.get("content"), str) and each.get("role")
        for each in found
    )
    if not right:
        raise InputError(
            f"a conversation {found!r:.80}", expected="a list of messages with role and content"
        )
    return [{"role": str(each["role"]), "content": each["content"]} for each in found]


def _said(rows: Iterable[Any]) -> list[str]:
    """Return all that is said in texts or conversations."""
    return [
        text
        for row in rows
        for text in ([row] if isinstance(row, str) else (message["content"] for message in row))
    ]


def _tail(texts: Sequence[str], count: int) -> tuple[list[str], list[str]]:
    """Cut about ``count`` characters off the end of texts, within one at the end of a line."""
    stays, cut = list(texts), list[str]()
    while count > 0 and stays:
        last = stays.pop()
        if len(last) > count:
            place = last.rfind("\n", 0, len(last) - count) + 1 or len(last) - count
            stays.append(last[:place])
            last = last[place:]
        cut.insert(0, last)
        count -= len(last)
    return stays, cut


def _by_chance(rows: Sequence[Any], count: int, seed: int) -> tuple[list[Any], list[Any]]:
    """Cut ``count`` rows off, chosen by a hash of (seed, row)."""
    cut = set(key(seed, torch.arange(len(rows)), 0).argsort()[:count].tolist())
    stays = [row for number, row in enumerate(rows) if number not in cut]
    return stays, [rows[number] for number in sorted(cut)]


def _folders(models: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the folders from which the teacher and the student are made, as far as they are."""
    parts = {role: models.get(role, {}) for role in ("teacher", "student")}
    built = {role: part for role, part in parts.items() if part.get("build") == "huggingface"}
    paths = {role: part.get("args", {}).get("path") for role, part in built.items()}
    return {role: str(path) for role, path in paths.items() if path}


def _check_folders(tokens: LanguageTokenizer, chosen: str, folders: Sequence[str]) -> None:
    """Refuse a model whose folder has other tokens than those that it would read."""
    own = tokens.model.get_vocab()
    for folder in folders:
        if folder != chosen and LanguageTokenizer.load(folder).model.get_vocab() != own:
            raise InputError(
                f"the model in {folder} has other tokens than the tokenizer {chosen}",
                expected="one tokenizer for teacher and student",
                consequence="It would read tokens that mean other words to it.",
                remedy="Leave data.args.tokenizer out, or take models of one family.",
            )
