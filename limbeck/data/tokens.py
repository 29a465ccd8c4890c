"""From texts to token numbers, by a tokenizer from a file or one trained on the texts at hand.

Letters: N texts, B texts in a batch, T tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from torch import Tensor

from limbeck.data.asking import Ask
from limbeck.data.jagged import Jagged
from limbeck.data.scripted import Lines
from limbeck.errors import InputError, explained, unknown
from limbeck.imports import needed

__all__ = ["KINDS", "Tokenizer", "pretrained"]

_FILE = "tokenizer.json"
_SPECIAL = ["[PAD]", "[UNK]"]
_ENDED = [*_SPECIAL, "[BOS]", "[EOS]"]
_STARTS = ("[BOS]", "<s>", "<bos>")
_ENDS = ("[EOS]", "</s>", "<eos>", "<|endoftext|>", "[SEP]")
_PADDINGS = ("[PAD]", "<pad>", "<|endoftext|>", "</s>")
_UNKNOWNS = ("[UNK]", "<unk>")
_SCRIPT = """reader = tokenizers.Tokenizer.from_file(str(here / "tokenizer.json"))
reader.enable_truncation({})
reader.enable_padding(pad_id={})
read = reader.encode_batch(sys.argv[1:])
inputs = {{
    "input_ids": np.array([text.ids for text in read], "int64"),
    "attention_mask": np.array([text.attention_mask for text in read], "int64"),
}}"""


@contextmanager
def pretrained(folder: Path) -> Iterator[Any]:
    """Give the tokenizer that ``transformers`` reads from a folder; nothing is downloaded.

    Raises:
        InputError: there is none, or it lacks what the block asks of it.
    """
    with explained(
        f"no tokenizer could be read from {folder}",
        expected=f"a folder with {_FILE}, as save_pretrained() writes it",
    ):
        auto = needed("transformers", "text").AutoTokenizer
        yield auto.from_pretrained(str(folder), local_files_only=True)


@final
class Tokenizer:
    """Turns texts into what models of text are called with; it ships with the student.

    Made by :meth:`load` or :meth:`train`. Needs the extra ``limbeck[text]``.

    Args:
        model: a tokenizer of the package ``tokenizers``.
        length: T at most; what is longer is cut at its end, special tokens kept.

    >>> tokens = Tokenizer.train(["a fine film", "a dull film"], "words")
    >>> found = tokens(["a fine film", "a film"])
    >>> found["input_ids"].tolist(), found["attention_mask"].tolist()
    ([[2, 1, 3], [2, 3, 0]], [[1, 1, 1], [1, 1, 0]])
    """

    def __init__(self, model: Any, length: int = 128) -> None:
        if length < 1:
            raise InputError(f"texts of at most {length} tokens", expected="at least 1")
        model.no_padding()
        model.enable_truncation(length)
        self.model, self.length = model, length
        self.padding = _first(model, _PADDINGS)
        self.unknown = _first(model, _UNKNOWNS)

    @classmethod
    def load(cls, path: str | Path, length: int = 128) -> Tokenizer:
        """Return the tokenizer of a Hugging Face model's folder, or of a ``tokenizer.json``.

        A folder without that file is read by ``transformers``, from the disk alone.

        Raises:
            InputError: there is no tokenizer there, or its file is damaged.
        """
        path = Path(path)
        file = path / _FILE if path.is_dir() else path
        if file.is_file():
            with explained(f"{file} could not be read as a tokenizer"):
                return cls(needed("tokenizers", "text").Tokenizer.from_file(str(file)), length)
        if not path.is_dir() or not any(path.iterdir()):
            raise InputError(
                f"there is no tokenizer in {path}",
                expected=f"a folder with {_FILE}, as save_pretrained() writes it, or such a file",
            )
        with pretrained(path) as found:
            return cls(found.backend_tokenizer, length)

    @classmethod
    def train(
        cls, texts: Iterable[str], kind: str = "bpe", *, size: int = 8000, length: int = 128
    ) -> Tokenizer:
        """Return a tokenizer made for these texts; the same texts give the same one.

        Args:
            texts: the training texts alone, so that nothing of the others is known.
            kind: ``bpe`` (pairs of bytes merged, so that no text is unknown), ``words`` (those that
                occur twice or more, and marks), or ``characters`` (the same, spaces dropped; for
                Chinese). All read small letters alone. ``bpe-cased`` is for models that write: it
                keeps capital letters, and has tokens for the start and the end of a text.
            size: how many tokens at most.
            length: T at most.

        Raises:
            InputError: the kind is not known.
        """
        if kind not in KINDS:
            raise unknown("kind of tokenizer", kind, KINDS)
        model, trainer = KINDS[kind](needed("tokenizers", "text"), size)
        model.train_from_iterator(texts, trainer)
        return cls(model, length)

    @classmethod
    def read(cls, folder: Path, facts: Mapping[str, Any]) -> Tokenizer:
        """Return the tokenizer that :meth:`save` wrote."""
        return cls.load(folder / facts["file"], facts["length"])

    def save(self, folder: Path) -> dict[str, Any]:
        """Write it into a folder, and return what :meth:`read` needs to know."""
        (folder / _FILE).write_text(self.model.to_str(), encoding="utf-8")
        return {"kind": "text", "file": _FILE, "length": self.length}

    @property
    def vocab(self) -> int:
        """How many tokens there are."""
        return int(self.model.get_vocab_size())

    def encode(self, texts: Sequence[str]) -> Jagged:
        """Return the tokens of texts, without padding; a text never has none."""
        encoded = self.model.encode_batch_fast(list(texts))
        rows = [found.ids or [self.unknown] for found in encoded]
        return Jagged.of(rows, padding=self.padding, origin=self.fingerprint())

    def bare(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of texts without any that a tokenizer adds at the start or the end."""
        found = self.model.encode_batch_fast(list(texts), add_special_tokens=False)
        return [each.ids for each in found]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts that tokens stand for; special tokens are left out.

        >>> tokens = Tokenizer.train(["A man on a horse."], "bpe-cased", size=300)
        >>> tokens.decode(tokens.bare(["A horse on a man."]))
        ['A horse on a man.']
        """
        found: list[str] = self.model.decode_batch([list(row) for row in rows])
        return [text.strip() for text in found]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return from where to where in a text each of its tokens comes; special ones from nowhere.

        >>> Tokenizer.train(["a fine film", "a dull film"], "words").spans("A dull  film")
        [(0, 1), (2, 6), (8, 12)]
        """
        return [(int(start), int(end)) for start, end in self.model.encode(text).offsets]

    @property
    def start(self) -> int | None:
        """The token before the first one of a text that a model writes, if there is one."""
        return _there(self.model, _STARTS)

    @property
    def end(self) -> int | None:
        """The token after the last one of a text, if there is one."""
        return _there(self.model, _ENDS)

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return ``input_ids`` and ``attention_mask``, (B, T) int64 each."""
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{type(texts).__name__} {texts!r:.60}", expected="a list of texts")
        return self.encode(texts).dense()

    def asks(self) -> dict[str, Ask]:
        return {"Text": Ask("text")}

    def gathered(self, given: Mapping[str, Any]) -> Any:
        return given["Text"]

    def fingerprint(self) -> str:
        """Return a hash of the tokenizer."""
        return hashlib.sha256(self.model.to_str().encode()).hexdigest()[:16]

    def script(self) -> Lines:
        """Return how texts are read without Limbeck, with the package ``tokenizers``."""
        return Lines(
            "import tokenizers", '"A TEXT" ...', "texts", _SCRIPT.format(self.length, self.padding)
        )

    def __repr__(self) -> str:
        return f"Tokenizer({type(self.model.model).__name__}, {self.vocab} tokens)"


def _bpe(tokenizers: Any, size: int) -> tuple[Any, Any]:
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    steps = [tokenizers.normalizers.NFKC(), tokenizers.normalizers.Lowercase()]
    model.normalizer = tokenizers.normalizers.Sequence(steps)
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    model.decoder = tokenizers.decoders.ByteLevel()
    return model, tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=_SPECIAL,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )


def _cased(tokenizers: Any, size: int) -> tuple[Any, Any]:
    model, trainer = _bpe(tokenizers, size)
    model.normalizer = tokenizers.normalizers.NFC()
    trainer.special_tokens = [tokenizers.AddedToken(token, special=True) for token in _ENDED]
    return model, trainer


def _words(tokenizers: Any, size: int) -> tuple[Any, Any]:
    model, trainer = _characters(tokenizers, size)
    model.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    model.decoder = tokenizers.decoders.WordPiece(prefix="")
    return model, trainer


def _characters(tokenizers: Any, size: int) -> tuple[Any, Any]:
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token="[UNK]"))
    steps = [tokenizers.normalizers.NFKC(), tokenizers.normalizers.Lowercase()]
    model.normalizer = tokenizers.normalizers.Sequence(steps)
    each = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    words = tokenizers.pre_tokenizers.WhitespaceSplit()
    model.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([words, each])
    model.decoder = tokenizers.decoders.Fuse()
    return model, tokenizers.trainers.WordLevelTrainer(
        vocab_size=size, min_frequency=2, special_tokens=_SPECIAL, show_progress=False
    )


KINDS: dict[str, Callable[[Any, int], tuple[Any, Any]]] = {
    "bpe": _bpe,
    "bpe-cased": _cased,
    "characters": _characters,
    "words": _words,
}
"""How each kind of tokenizer begins, and what trains it."""


def _first(model: Any, tokens: Sequence[str]) -> int:
    """Return the number of the first of these tokens that there is, or 0."""
    found = _there(model, tokens)
    return 0 if found is None else found


def _there(model: Any, tokens: Sequence[str]) -> int | None:
    """Return the number of the first of these tokens that there is, if any."""
    found = (model.token_to_id(token) for token in tokens)
    return next((number for number in found if number is not None), None)
