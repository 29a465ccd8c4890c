"""Token prediction: at each place of a sequence, one token out of a vocabulary.

Language models and models that translate or transcribe are trained so.

Letters: B sequences, T places, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

from limbeck.data.jagged import IGNORED
from limbeck.data.samples import Batch
from limbeck.errors import InputError
from limbeck.losses.spec import exactly
from limbeck.tasks.fields import Fields, measured, sample
from limbeck.tasks.task import Meter, Quality

__all__ = ["TokenPrediction"]


@dataclass(frozen=True)
class TokenPrediction(Fields):
    """The token at each place of a sequence; padding and prompts count for nothing.

    A batch is (inputs, targets), or a mapping in which the two have the given names. Inputs are
    what the model is called with: ``input_ids`` and ``attention_mask``, for models with an encoder
    ``decoder_input_ids`` too. Targets are (B, T) int64: the token that the logits at the same place
    are to predict, **the next one** for language models (they are shifted already), and −100 where
    nothing is to be predicted. Logits are (B, T, V). The loss is a mean over the places that count,
    of all sequences together. A field ``counted`` of the batch, (B, T) booleans, says instead which
    do: also those without a target, at which a teacher alone can say something.

    Metrics: ``loss`` (cross-entropy of a token in nats), ``perplexity`` (e to that power) and
    ``token_accuracy`` (the fraction of places where the likeliest token is the target), all given
    the true tokens before each place.

    Attributes:
        vocab: V, the number of tokens that targets may be; 0 if that is not known. Models may have
            more, as those have that pad their vocabulary.
        input_names: in a mapping, the name of what models are called with; several names make a
            mapping of named arguments.
        target_name: in a mapping, the name of the targets.

    >>> task = TokenPrediction(4)
    >>> batch = task.named((torch.tensor([[1, 2, 3]]), torch.tensor([[2, 3, -100]])))
    >>> task.label_loss(torch.zeros(1, 3, 4), batch), int(task.count(batch))
    (tensor(1.3863), 2)
    """

    vocab: int = 0
    input_names: str | tuple[str, ...] = "inputs"
    target_name: str = "targets"
    name: str = "token_prediction"
    selection: str = "loss"
    higher_is_better: bool = False

    def mask(self, batch: Batch) -> Tensor:
        counted = batch.get("counted")
        return self.targets(batch) != IGNORED if counted is None else counted

    def count(self, batch: Batch) -> Tensor:
        return self.mask(batch).sum()

    def label_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        targets = self.targets(batch)
        _check_places(logits, targets)
        with exactly(logits.device.type):
            total = F.cross_entropy(
                logits.float().flatten(0, 1),
                targets.flatten(),
                ignore_index=IGNORED,
                reduction="sum",
            )
            return total / self.count(batch).clamp(min=1)

    def check(self, batch: Batch) -> None:
        targets = self.targets(batch)
        if not isinstance(targets, Tensor) or targets.dtype != torch.int64 or targets.ndim != 2:
            told = (
                f"type {targets.dtype} and shape {tuple(targets.shape)}"
                if isinstance(targets, Tensor)
                else f"type {type(targets).__name__}"
            )
            raise InputError(
                f"targets of {told}",
                expected=f"(B, T) int64: a token for each place, {IGNORED} where none counts",
            )
        wrong = (targets < 0) & (targets != IGNORED)
        if self.vocab:
            wrong |= targets >= self.vocab
        if wrong.any():
            row, place = wrong.nonzero()[0].tolist()
            last = f"0 to {self.vocab - 1}" if self.vocab else "0 or more"
            raise InputError(
                f"{sample(batch, row)} has the target {int(targets[row, place])} at place {place}",
                expected=f"{last}, or {IGNORED} where none counts",
                consequence="Training would fail or read foreign memory.",
            )
        if targets.numel() and bool((targets == IGNORED).all()):
            raise InputError(
                f"all targets of {len(targets)} sequences are {IGNORED}",
                expected="something to predict",
                consequence="There would be nothing to learn, and no mean of nothing.",
                remedy="Prompts may be longer than sequences may be: raise the length.",
            )
        _check_inputs(self.inputs(batch), batch)

    def check_logits(self, logits: Tensor, whose: str) -> None:
        wanted = f"V of at least {self.vocab}" if self.vocab else "V the size of the vocabulary"
        if logits.ndim != 3 or logits.shape[2] < self.vocab:
            raise InputError(
                f"the {whose}'s logits have the shape {tuple(logits.shape)}",
                expected=f"(B, T, V), logits at each place, {wanted}",
                remedy=f"Build the {whose} with a head that predicts tokens.",
            )

    def meter(self) -> Meter:
        return _Meter(self)


class _Meter:
    def __init__(self, task: TokenPrediction) -> None:
        from limbeck.tasks.tokens import Tokens  # torchmetrics takes a second to import

        self.task, self._sums = task, Tokens()

    def update(self, logits: Tensor, batch: Batch) -> None:
        targets = self.task.targets(batch)
        _check_places(logits, targets)
        if logits.device != self._sums.device:
            self._sums.to(logits.device)
        self._sums.update(logits, targets)

    def compute(self) -> Quality:
        with measured():
            loss, right, count = self._sums.compute().tolist()
        if count == 0:
            raise InputError("there were no tokens to measure on")
        mean = loss / count
        found = {"loss": mean, "perplexity": math.exp(min(mean, 700.0))}
        return Quality(found | {"token_accuracy": right / count}, {"tokens": int(count)})


def _check_places(logits: Tensor, targets: Tensor) -> None:
    """Refuse logits that are not for the places at which targets stand."""
    if logits.shape[:-1] != targets.shape:
        raise InputError(
            f"logits {tuple(logits.shape)} for targets {tuple(targets.shape)}",
            expected="logits (B, T, V) at the places of targets (B, T)",
            consequence="Tokens would be compared with those of other places.",
            remedy="Give targets as many places as the model's inputs (its decoder's) have.",
        )


def _check_inputs(inputs: Any, batch: Batch) -> None:
    """Refuse numbers that are no tokens and, of sounds or pictures, NaN."""
    for values in (leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)):
        floats = values.is_floating_point()
        wrong = ~torch.isfinite(values) if floats else values < 0
        if wrong.any():
            row = int(wrong.nonzero()[0, 0])
            raise InputError(
                f"{sample(batch, row)} holds {'NaN or infinite' if floats else 'negative'} inputs",
                expected="finite numbers" if floats else "tokens from 0 on",
                consequence="The loss would become NaN, or foreign memory be read.",
                remedy="" if floats else f"{IGNORED} stands in targets alone.",
            )
