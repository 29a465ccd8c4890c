"""Sentences, a tokenizer and a tiny Hugging Face model for tests, made in a moment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from limbeck.data.tokens import Tokenizer

GOOD = ("a fine film", "what a fine and warm story", "great acting , great fun", "I loved it")
BAD = ("a dull film", "what a dull and cold story", "bad acting , no fun", "I hated all of it")


def sentences(count: int) -> list[tuple[str, int]]:
    """Return so many different sentences and their labels, both classes in turn."""
    pairs = zip(GOOD, BAD, strict=True)
    both = [(text, label) for pair in pairs for text, label in zip(pair, (1, 0), strict=True)]
    return [(f"{both[n % 8][0]} {n // 8} times", both[n % 8][1]) for n in range(count)]


def write_jsonl(folder: Path, name: str, rows: Sequence[tuple[str, int | str]]) -> None:
    """Write texts and labels as JSON lines."""
    lines = (json.dumps({"text": text, "label": label}) for text, label in rows)
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_bert(
    folder: Path, texts: Sequence[str], *, classes: int = 0, positions: int = 64
) -> Path:
    """Write a tiny BERT with random weights, and a tokenizer for these texts.

    Args:
        folder: made for it.
        texts: what the tokenizer is trained on.
        classes: of its head; 0 leaves it without one.
        positions: of its embeddings.
    """
    transformers = pytest.importorskip("transformers")
    folder.mkdir(parents=True)
    tokenizer = Tokenizer.train(texts, "words", size=400)
    tokenizer.save(folder)
    config = transformers.BertConfig(
        vocab_size=tokenizer.vocab, hidden_size=16, num_hidden_layers=4, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=positions, num_labels=classes or 2,
    )  # fmt: skip
    kind = transformers.BertForSequenceClassification if classes else transformers.BertModel
    kind(config).save_pretrained(folder)
    return folder
