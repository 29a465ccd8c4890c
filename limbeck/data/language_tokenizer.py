"""Tokens of texts that a language model reads and writes: nothing of a text is lost.

Letters: B prompts in a batch, T tokens, N texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from limbeck.data.tokens import pretrained
from limbeck.errors import InputError, unknown
from limbeck.imports import needed

__all__ = ["CHAT", "KINDS", "LanguageTokenizer"]

CHAT = "chat"
_END, _PAD, _UNKNOWN = "<|end|>", "<|pad|>", "<|unknown|>"
_ANSWER = "{answer}"


@final
@dataclass(frozen=True)
class LanguageTokenizer:
    """Turns prompts into what language models are called with; it ships with the student.

    Made by :meth:`load` or :meth:`train`. Needs the extra ``limbeck[text]``.

    Attributes:
        model: a fast tokenizer of ``transformers``, which has a token for the end of a text.
        length: T at most.
        template: how a prompt and an answer become a text: a text with ``{prompt}`` and, at its
            end, ``{answer}``; or ``chat``, the tokenizer's chat template.

    >>> tokens = LanguageTokenizer.train(["To be, or not to be"], "characters")
    >>> found = tokens(["or not"])["input_ids"]
    >>> tokens.decode(found[0])
    'or not'
    """

    model: Any
    length: int = 128
    template: str = "{prompt}\n{answer}"

    def __post_init__(self) -> None:
        if self.template == CHAT and not self.model.chat_template:
            raise InputError(
                "the tokenizer has no chat template",
                expected="the folder of a model that was made for chats, with chat_template.jinja",
                remedy="Say how prompt and answer become a text: data.args.template.",
            )
        plain = self.template.endswith(_ANSWER) and "{prompt}" in self.template
        if self.template != CHAT and not plain:
            raise InputError(
                f"the template {self.template!r}",
                expected="a text with {prompt} and, at its end, {answer}; or chat",
            )

    @classmethod
    def load(cls, path: str | Path, length: int = 128, **options: Any) -> LanguageTokenizer:
        """Return the tokenizer of a Hugging Face model's folder; nothing is downloaded.

        Raises:
            InputError: there is none, it is not a fast one, or it has no token for the end.
        """
        folder = Path(path)
        with pretrained(folder) as found:
            if found.is_fast and found.eos_token_id is not None:
                return cls(found, length, **options)
            lacks = "a token for the end of a text" if found.is_fast else "tokenizer.json"
            raise InputError(
                f"the tokenizer in {folder} lacks {lacks}",
                expected="a fast tokenizer of a language model",
                consequence="A model could not say that it has finished.",
            )

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        kind: str = "bpe",
        *,
        size: int = 2000,
        length: int = 128,
        **options: Any,
    ) -> LanguageTokenizer:
        """Return a tokenizer made for these texts; the same texts give the same one.

        Args:
            texts: the training texts alone, so that nothing of the others is known.
            kind: ``bpe`` (pairs of bytes merged, so that no text is unknown) or ``characters``
                (one that does not occur is unknown).
            size: how many tokens at most.
            length: T at most.
            options: ``template``.

        Raises:
            InputError: the kind is not known.
        """
        if kind not in KINDS:
            raise unknown("kind of tokenizer", kind, KINDS)
        model, trainer = KINDS[kind](needed("tokenizers", "text"), size)
        model.train_from_iterator(texts, trainer)
        special = {"eos_token": _END, "pad_token": _PAD, "unk_token": _UNKNOWN}
        made = needed("transformers", "text").PreTrainedTokenizerFast(
            tokenizer_object=model, clean_up_tokenization_spaces=False, **special
        )
        return cls(made, length, **options)

    @classmethod
    def read(cls, folder: Path, facts: Mapping[str, Any]) -> LanguageTokenizer:
        """Return the tokenizer that :meth:`save` wrote."""
        return cls.load(folder, facts["length"], template=facts["template"])

    def save(self, folder: Path) -> dict[str, Any]:
        """Write it into a folder, and return what :meth:`read` needs to know."""
        self.model.save_pretrained(str(folder))
        return {"kind": "language", "length": self.length, "template": self.template}

    @property
    def vocab(self) -> int:
        """How many tokens there are."""
        return len(self.model)

    @property
    def end(self) -> int:
        """The token that ends a text."""
        return int(self.model.eos_token_id)

    @property
    def padding(self) -> int:
        """The token that fills up shorter rows."""
        found = self.model.pad_token_id
        return self.end if found is None else int(found)

    def stream(self, texts: Sequence[str]) -> Tensor:
        """Return the tokens of texts, one after another, each with the end's, (total,) int64."""
        rows = self.model(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return torch.tensor([token for row in rows for token in (*row, self.end)])

    def answered(self, messages: Sequence[Mapping[str, str]]) -> tuple[list[int], list[bool]]:
        """Return the tokens of a conversation, and which of them an assistant wrote.

        Args:
            messages: ``role`` (``user``, ``assistant``, perhaps ``system``) and ``content`` of
                each; without a chat template, one question and its answer.

        Raises:
            InputError: no message is an assistant's, or the template does not write messages one
                after another.
        """
        text, spans = self._chat(messages) if self.template == CHAT else self._plain(messages)
        found = self.model(
            text,
            add_special_tokens=self.template != CHAT,
            return_offsets_mapping=True,
            verbose=False,
        )
        tokens = list(found["input_ids"])
        own = [
            end > start and any(low <= start < high for low, high in spans)
            for start, end in found["offset_mapping"]
        ]
        # A tokenizer that ends texts by itself, or a template that does, needs no second end.
        if tokens and tokens[-1] == self.end:
            return tokens, [*own[:-1], True]
        if self.template == CHAT and self.end in tokens:
            return tokens, own
        return [*tokens, self.end], [*own, True]

    def continuation(self, text: str, *, ended: bool) -> list[int]:
        """Return the tokens of what was written after a prompt, the end's included if asked."""
        found = self.model(text, add_special_tokens=False, verbose=False)["input_ids"]
        return [*found, self.end] if ended else list(found)

    def prompt(self, text: str) -> str:
        """Return the text with which a model is asked for an answer."""
        if self.template == CHAT:
            return self._rendered([{"role": "user", "content": text}], asked=True)
        return self.template.removesuffix(_ANSWER).replace("{prompt}", text)

    def __call__(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Return ``input_ids`` and ``attention_mask`` of texts as they are, (B, T) int64 each.

        Rows are padded at their beginning, so that a model can go on writing at their end. Of a
        text that is too long, the end is kept.
        """
        if isinstance(prompts, str) or not all(isinstance(text, str) for text in prompts):
            raise InputError(
                f"{type(prompts).__name__} {prompts!r:.60}", expected="a list of texts"
            )
        found = self.model(list(prompts), add_special_tokens=False, verbose=False)["input_ids"]
        rows = [(row or [self.end])[-self.length :] for row in found]
        longest = max(map(len, rows))
        fill = [longest - len(row) for row in rows]
        return {
            "input_ids": torch.tensor(
                [[self.padding] * n + row for n, row in zip(fill, rows, strict=True)]
            ),
            "attention_mask": torch.tensor(
                [[0] * n + [1] * len(row) for n, row in zip(fill, rows, strict=True)]
            ),
        }

    def decode(self, tokens: Tensor | Sequence[int]) -> str:
        """Return the text of tokens, up to the end's."""
        found = tokens.tolist() if isinstance(tokens, Tensor) else list(tokens)
        if self.end in found:
            found = found[: found.index(self.end)]
        text: str = self.model.decode(
            found, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def written(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts of prompts and what was written after them, up to the end of each."""
        texts = []
        for row in rows:
            first = next((n for n, token in enumerate(row) if token != self.padding), len(row))
            texts.append(self.decode(row[first:]))
        return texts

    def fingerprint(self) -> str:
        """Return a hash of the tokenizer and the template."""
        told = self.model.backend_tokenizer.to_str() + str(self.model.chat_template) + self.template
        return hashlib.sha256(f"{told} {self.end} {self.padding}".encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"LanguageTokenizer({self.vocab} tokens, template {self.template!r})"

    def _plain(self, messages: Sequence[Mapping[str, str]]) -> tuple[str, list[tuple[int, int]]]:
        roles = [message["role"] for message in messages]
        if roles != ["user", "assistant"]:
            raise InputError(
                f"messages of {', '.join(roles)}",
                expected="a question and its answer, or a tokenizer with a chat template",
                remedy="Set data.args.template to chat.",
            )
        before = self.prompt(messages[0]["content"])
        text = before + messages[1]["content"]
        return text, [(len(before), len(text))]

    def _chat(self, messages: Sequence[Mapping[str, str]]) -> tuple[str, list[tuple[int, int]]]:
        """Return a conversation as a text, and from where to where an assistant speaks."""
        whole, spans = self._rendered(messages), []
        for place, message in enumerate(messages):
            if message["role"] == "assistant":
                before = self._rendered(messages[:place], asked=True)
                until = self._rendered(messages[: place + 1])
                if not (whole.startswith(before) and whole.startswith(until)):
                    raise InputError(
                        "the chat template writes a conversation otherwise once it goes on",
                        expected="messages one after another",
                        consequence="What the assistant said could not be told from the rest.",
                    )
                spans.append((len(before), len(until.rstrip())))
        if not spans:
            raise InputError("a conversation without an assistant", expected="its answers to learn")
        return whole, spans

    def _rendered(self, messages: Sequence[Mapping[str, str]], *, asked: bool = False) -> str:
        text: str = self.model.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=asked
        )
        return text


def _bpe(tokenizers: Any, size: int) -> tuple[Any, Any]:
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    return model, tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[_PAD, _END, _UNKNOWN],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )


def _characters(tokenizers: Any, size: int) -> tuple[Any, Any]:
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token=_UNKNOWN))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    model.decoder = tokenizers.decoders.Fuse()
    return model, tokenizers.trainers.WordLevelTrainer(
        vocab_size=size, special_tokens=[_PAD, _END, _UNKNOWN], show_progress=False
    )


KINDS: dict[str, Callable[[Any, int], tuple[Any, Any]]] = {"bpe": _bpe, "characters": _characters}
"""How each kind of tokenizer begins, and what trains it."""
