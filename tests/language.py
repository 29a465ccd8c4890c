"""Small texts, tokenizers and language models for tests, made in a moment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.data.language_tokenizer import LanguageTokenizer
from limbeck.students import zoo

CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def sums(count: int) -> list[tuple[str, str]]:
    """Return so many questions about sums, and their answers as GSM8K has them."""
    pairs = [(n % 7, n % 5) for n in range(count)]
    return [(f"What is {a} and {b}?", f"{a} + {b} = {a + b}\n#### {a + b}") for a, b in pairs]


def story(lines: int) -> str:
    """Return a text of so many different lines."""
    who, does = ("The cat", "A dog", "My old aunt"), ("sits", "sings", "sleeps", "walks")
    return "".join(
        f"{who[n % 3]} {does[n % 4]} {'very ' * (n % 5)}well on day {n}.\n" for n in range(lines)
    )


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def llama(vocab: int, *, width: int = 16, layers: int = 2, **more: Any) -> nn.Module:
    """Return a tiny Llama with random weights."""
    config = {
        "model_type": "llama", "hidden_size": width, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 2 * width, **more,
    }  # fmt: skip
    return zoo.build("huggingface", config=config, head="causal_lm", vocab=vocab)


def write_llama(folder: Path, texts: Sequence[str], *, width: int = 16) -> Path:
    """Write a tiny Llama for chats, and its tokenizer, as Hugging Face does."""
    tokens = LanguageTokenizer.train(texts, "characters")
    tokens.model.chat_template = CHAT
    tokens.save(folder)
    llama(tokens.vocab, width=width).save_pretrained(folder)  # type: ignore[operator]
    return folder
