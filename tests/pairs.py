"""Sentences in two made-up languages, and tiny models of Hugging Face that translate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest

from limbeck.data.tokens import Tokenizer

WHO = {"A man": "Ein Mann", "A girl": "Ein Mädchen", "The dog": "Der Hund", "A cook": "Ein Koch"}
DOES = {"sees": "sieht", "likes": "mag", "draws": "malt", "finds": "findet"}
WHAT = {"a house": "ein Haus", "the sea": "das Meer", "a horse": "ein Pferd", "tea": "Tee"}


def pairs() -> list[tuple[str, str]]:
    """Return 64 sentences and their translations, in an order that mixes the words."""
    parts = product(WHO.items(), DOES.items(), WHAT.items())
    found = [tuple(" ".join(words) + "." for words in zip(*each, strict=True)) for each in parts]
    return [found[27 * n % 64] for n in range(64)]


def write_tables(folder: Path, *, tests: Sequence[str] = ("test_b", "test_a")) -> Path:
    """Write them as JSON lines: 40 to learn, 8 for validation, 16 in each test file."""
    rows = [json.dumps({"en": en, "de": de}, ensure_ascii=False) for en, de in pairs()]
    splits = {"train": rows[:40], "val": rows[40:48]} | dict.fromkeys(tests, rows[48:])
    for name, lines in splits.items():
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_translator(folder: Path, kind: str = "t5") -> Path:
    """Write a tiny T5 or Marian with random weights, and a tokenizer for these sentences."""
    transformers = pytest.importorskip("transformers")
    folder.mkdir(parents=True)
    tokens = Tokenizer.train([text for pair in pairs() for text in pair], "bpe-cased", size=320)
    tokens.save(folder)
    special = {"pad_token_id": 0, "eos_token_id": tokens.end, "decoder_start_token_id": 0}
    if kind == "t5":
        config = transformers.T5Config(
            vocab_size=tokens.vocab, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
            **special,
        )  # fmt: skip
        model = transformers.T5ForConditionalGeneration(config)
    else:
        config = transformers.MarianConfig(
            vocab_size=tokens.vocab, d_model=16, encoder_layers=2, decoder_layers=2,
            encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
            decoder_ffn_dim=32, max_position_embeddings=64, **special,
        )  # fmt: skip
        model = transformers.MarianMTModel(config)
    model.save_pretrained(folder)
    return folder
