"""Translation: one token after another, and whole sentences that are compared with references.

Letters: B sentences, T tokens written, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, final, runtime_checkable

from torch import Tensor, nn

from limbeck.data.languages import Languages
from limbeck.data.samples import Arrays, Batch, Samples
from limbeck.errors import InputError
from limbeck.imports import needed
from limbeck.tasks.around import Around
from limbeck.tasks.task import Quality
from limbeck.tasks.token_prediction import TokenPrediction

__all__ = ["Generating", "Translation"]


@runtime_checkable
class Generating(Protocol):
    """A model that writes, with arguments named as in ``transformers``."""

    def generate(self, **options: Any) -> Tensor:
        """Return tokens (B, T): the start, what was written, the end, padding."""


@final
@dataclass(frozen=True)
class Translation(Around):
    """Sentences of another language.

    Models learn as in :class:`limbeck.tasks.TokenPrediction`. The best epoch is chosen by its
    ``token_accuracy``: the loss against references grows for students that learn to be surer than
    references allow, as those of a teacher's translations do, while they still learn to translate.
    Finished models translate by beam search. ``bleu`` and ``chrf``, from 0 to 100, compare what
    they write with the references, by ``sacrebleu`` and its defaults: as people read it, with
    capital letters and no tokenization of ours (Papineni et al. 2002, "BLEU"; Popović 2015, "chrF";
    Post 2018, arXiv:1804.08771). Its signatures stand beside the numbers. Needs the extra
    ``limbeck[translation]``.

    Attributes:
        reader: the tokenizers.
        vocab: V; 0 if that is not known.
        beams: of the search; 1 takes the likeliest token at each step.
        length_penalty: a translation's log-probability is divided by its length to this power.

    >>> from limbeck.data.tokens import Tokenizer
    >>> tokens = Tokenizer.train(["A man.", "Ein Mann."], "bpe-cased", size=300)
    >>> task = Translation(Languages.of(tokens, tokens))
    >>> judged = task.judged(["Ein Mann sitzt dort."], ["Ein Mann sitzt hier."])
    >>> round(judged.metrics["bleu"], 1), round(judged.metrics["chrf"], 1)
    (42.7, 67.0)
    """

    reader: Languages
    vocab: int = 0
    beams: int = 4
    length_penalty: float = 1.0
    name: str = "translation"
    headline: str = "bleu"
    selection: str = "token_accuracy"
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise InputError(f"{self.beams} beams", expected="at least 1")

    def inner(self) -> TokenPrediction:
        """Return the same task without whole sentences."""
        return self._tokens

    def produced(self, model: nn.Module, batch: Batch) -> list[str]:
        """Return the translations that a beam search finds, of at most the reader's length.

        Raises:
            InputError: the model cannot write.
        """
        if not isinstance(model, Generating):
            raise InputError(
                f"a {type(model).__name__} has no generate()",
                expected="a model that writes: seq2seq of the zoo, or one of transformers",
            )
        inputs = self.inputs(batch)
        rows = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            num_beams=self.beams,
            max_new_tokens=self.reader.length,
            length_penalty=self.length_penalty,
            use_cache=True,
        )
        return self.reader.written(rows.tolist())

    def references(self, batch: Batch) -> list[str]:
        kept = batch["reference"]
        pairs = zip(kept["input_ids"].tolist(), kept["attention_mask"].sum(dim=1), strict=True)
        return [bytes(row[: int(length)]).decode() for row, length in pairs]

    def judged(self, produced: Sequence[str], references: Sequence[str]) -> Quality:
        metrics = needed("sacrebleu.metrics", "translation")
        found, notes = {}, []
        for name, title in (("bleu", "BLEU"), ("chrf", "CHRF")):
            metric = getattr(metrics, title)()
            score = metric.corpus_score(list(produced), [list(references)])
            found[name] = float(score.score)
            notes.append(f"{score.name} by sacrebleu: {metric.get_signature()}")
        return Quality(found, {"notes": notes})

    def closeness(self, produced: str, reference: str) -> float:
        """Return the sentence's chrF, from 0 to 1."""
        metric = needed("sacrebleu.metrics", "translation").CHRF()
        return float(metric.sentence_score(produced, [reference]).score) / 100

    def restated(self, samples: Samples, texts: Sequence[str]) -> Samples:
        """Return the samples with other translations, which decoders are given and predict."""
        if not isinstance(samples, Arrays):
            raise InputError(
                f"samples of type {type(samples).__name__}",
                expected="those of the data source 'translation'",
            )
        given, wanted = self.reader.answers(texts)
        inputs = {**samples.fields["inputs"], "target": given}
        return replace(samples, fields={**samples.fields, "inputs": inputs, "targets": wanted})

    @cached_property
    def _tokens(self) -> TokenPrediction:
        return TokenPrediction(self.vocab)
