"""The contract between a modality and the rest of Limbeck.

Letters: B samples, T tokens, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from limbeck.data.motion import Motion
from limbeck.data.samples import Batch, Samples
from limbeck.data.shown import Shown
from limbeck.losses.spec import Spec

__all__ = [
    "Comparing",
    "Deciding",
    "Drawing",
    "Meter",
    "OtherTokens",
    "Placed",
    "Presenting",
    "Producing",
    "Quality",
    "Refusing",
    "Relabelling",
    "Restating",
    "Scripted",
    "Separable",
    "Spread",
    "Task",
    "Telling",
    "Tokened",
    "Writing",
]


@dataclass(frozen=True)
class Quality:
    """How well a model answers.

    Attributes:
        metrics: one number per metric: fractions for accuracies, nats for losses.
        details: what a page shows beyond numbers, JSON-like; keys are the task's own.
    """

    metrics: Mapping[str, float]
    details: Mapping[str, Any] = field(default_factory=dict)


class Meter(Protocol):
    """Adds up a model's answers over batches; across processes too."""

    def update(self, logits: Tensor, batch: Batch) -> None:
        """Count one batch."""

    def compute(self) -> Quality:
        """Return the metrics of all batches; every process must call it."""


@runtime_checkable
class Task(Protocol):
    """What a batch means. One class per modality; the core asks only these questions.

    Attributes:
        name: for recipes and reports.
        selection: the metric by which the best epoch is chosen on validation data.
        higher_is_better: whether more of it is better.
    """

    @property
    def name(self) -> str: ...

    @property
    def selection(self) -> str: ...

    @property
    def higher_is_better(self) -> bool: ...

    def named(self, batch: Any) -> Batch:
        """Return a batch of any form that loaders yield as a mapping of named fields."""

    def inputs(self, batch: Batch) -> Any:
        """Return what a model is called with: a tensor, a tuple, or a mapping of arguments."""

    def targets(self, batch: Batch) -> Tensor:
        """Return the labels."""

    def mask(self, batch: Batch) -> Tensor | None:
        """Return what counts, (B,) or (B, T), or ``None`` if all does."""

    def count(self, batch: Batch) -> int | Tensor:
        """Return over how many things the losses of this batch are means."""

    def label_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the loss against the labels: the mean over what :meth:`count` counts, float32."""

    def check(self, batch: Batch) -> None:
        """Refuse a batch that cannot be meant: a label out of range, a NaN in the inputs."""

    def check_logits(self, logits: Tensor, whose: str) -> None:
        """Refuse a model whose answer has the wrong shape for this task."""

    def meter(self) -> Meter:
        """Return a new meter of this task's metrics."""


@runtime_checkable
class Separable(Protocol):
    """A task whose label loss is the plain mean of one value for each sample, linear in its label.

    Then a sample that is mixed with another (Mixup, CutMix) can be told both labels: the loss is
    share · loss(own label) + (1 − share) · loss(the other's).
    """

    def label_losses(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each sample against its label, (B,) float32."""


@runtime_checkable
class Tokened(Protocol):
    """A task with one answer for each sample, whose samples are sequences of unequal length."""

    def tokens(self, batch: Batch) -> Tensor | None:
        """Return (B, T), true where a token is no padding, or ``None`` if samples have none.

        Losses that compare what models make of each token get it as their mask.
        """


@runtime_checkable
class Telling(Protocol):
    """A task that can put single answers into words, so that a report shows some for people."""

    def apart(self, logits: Tensor, other: Tensor, batch: Batch) -> Tensor:
        """Return how far two answers to each sample are apart, (B,); 0 where they say the same."""

    def told(self, logits: Tensor, batch: Batch, row: int) -> dict[str, Any]:
        """Return an answer in words.

        Returns:
            ``answer``, a text; ``right``, whether it is, or ``None`` if that is not known;
            ``shares``, pairs of an answer and its probability, the likeliest first, or none; and
            perhaps ``note``, what to say in the place of "right" or "wrong".
        """

    def wanted(self, batch: Batch, row: int) -> str:
        """Return the label of a sample in words."""


@runtime_checkable
class Deciding(Telling, Protocol):
    """A telling task with one class out of C for each sample, and logits (B, C).

    Its report groups the samples on which teacher and student differ, and shows on what parts of
    an input their answers rest.

    Attributes:
        labels: the classes' names; empty if they have none.
    """

    @property
    def labels(self) -> Sequence[str]: ...

    def targets(self, batch: Batch) -> Tensor:
        """Return the labels, (B,) int64; negative where there is none."""

    def log_shares(self, logits: Tensor) -> Tensor:
        """Return the logarithm of each class's probability, (B, C) float32, with gradients."""


@runtime_checkable
class Presenting(Protocol):
    """A telling task whose report also shows samples that were chosen by chance.

    Where models are rarely right, recommenders say, the usual case tells more than the worst ones.

    Attributes:
        headings: what a report calls the samples and their labels.
    """

    @property
    def headings(self) -> tuple[str, str]: ...


@runtime_checkable
class Drawing(Protocol):
    """A telling task whose answers can be drawn: classes of pixels, boxes."""

    def drawn(self, logits: Tensor | None, batch: Batch, row: int) -> Shown:
        """Return an answer to a sample as a picture; its label, if there are no logits."""


@runtime_checkable
class Spread(Protocol):
    """A task whose logits are not (B, ..., C) as losses want them that compare classes."""

    def over_classes(self, logits: Tensor) -> Tensor:
        """Return logits with the classes last, (B, ..., C), a distribution for each place.

        Raises:
            InputError: the logits hold something else than classes too.
        """

    def labelled(self, batch: Batch) -> Tensor | None:
        """Return which places have a label, (B, ...), for losses that read labels too."""


@runtime_checkable
class Placed(Protocol):
    """A task whose labels have a place in the picture: where pixels move, they must move too."""

    def moved(self, batch: Batch, motion: Motion) -> Batch:
        """Return the batch with its labels where the pixels have gone."""


@runtime_checkable
class Refusing(Protocol):
    """A task whose answers not every loss can compare: numbers, say, which are no classes."""

    def check_loss(
        self, name: str, spec: Spec, compare: Callable[[Tensor, Tensor], Tensor] | None
    ) -> None:
        """Refuse a loss between the student's logits and the teacher's that would mean nothing.

        Args:
            name: of the match.
            spec: what its loss declares.
            compare: its value for two answers to two samples; ``None`` if it reads labels as well.
        """


@runtime_checkable
class Comparing(Protocol):
    """A task whose logits are no distribution over classes, and which compares answers itself.

    Without it, two answers agree where the same logit is the largest.
    """

    def alike(self, logits: Tensor, other: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return how alike answers are to those of a reference model, ``other``.

        Returns:
            Whether both answer the same, (B,) from 0 to 1, and their divergence, (B,) from 0: a
            Kullback-Leibler divergence KL(other ‖ logits) in nats, if the logits have one.
        """


@runtime_checkable
class Producing(Protocol):
    """A task whose models produce texts, token after token: translations, answers to questions.

    That takes far longer than giving logits. So it is done once, on the test samples at the end,
    and where a recipe lets the teacher produce what the student learns (:class:`Restating`).

    Attributes:
        headline: the metric of :meth:`judged` by which a report compares finished models; more of
            it is better. The best epoch is still chosen by the task's ``selection``. Where texts
            are for a person to judge, it is that ``selection`` itself.
    """

    @property
    def headline(self) -> str: ...

    def produced(self, model: nn.Module, batch: Batch) -> list[str]:
        """Return what a model in eval mode produces for each sample of a batch, (B,) texts."""

    def references(self, batch: Batch) -> list[str]:
        """Return what is wanted for each sample, (B,) texts."""

    def judged(self, produced: Sequence[str], references: Sequence[str]) -> Quality:
        """Return metrics of texts, all samples together; at least the headline is among them."""

    def closeness(self, produced: str, reference: str) -> float:
        """Return how close one text comes to what is wanted, from 0 to 1, for a person to see."""


@runtime_checkable
class Restating(Protocol):
    """A producing task whose students can learn texts in the place of the references."""

    def restated(self, samples: Samples, texts: Sequence[str]) -> Samples:
        """Return the samples with a text each, in their order, as what is to be predicted."""


@runtime_checkable
class Relabelling(Protocol):
    """A task whose students can learn what a teacher answers in the place of the labels.

    That is asked once, before students are trained, where a recipe lets the teacher produce what
    they learn. It needs no loss between two answers, so that these may be of different kinds.
    """

    def as_labels(self, logits: Tensor, batch: Batch) -> list[Any]:
        """Return a teacher's answer to each sample as a label, (B,) JSON-like."""

    def relabelled(self, samples: Samples, labels: Sequence[Any]) -> Samples:
        """Return the samples with these labels, in their order, in the place of their own."""


@runtime_checkable
class Writing(Protocol):
    """A task whose students can learn from what they write themselves (on-policy distillation)."""

    def written(
        self,
        model: nn.Module,
        batch: Batch,
        *,
        temperature: float,
        seed: int,
        teacher: nn.Module | None = None,
        share: float = 0.0,
    ) -> Batch:
        """Return the batch with what a model writes in the place of the references.

        It has no targets: what the model wrote counts for the teacher alone. Fields ``written`` and
        ``likelihood``, (B, T), say which token was drawn at each place and the logarithm of the
        probability with which it was.

        Args:
            model: in eval mode.
            batch: of which the prompts stay.
            temperature: at which tokens are drawn.
            seed: of the draws.
            teacher: writes along.
            share: of the teacher's distribution in the one from which tokens are drawn.
        """


@runtime_checkable
class OtherTokens(Protocol):
    """A task whose answers are tokens, of which a teacher may have others than its student.

    Then the n-th answer of the one is about other text than the n-th of the other, and only losses
    that take a ``teacher_mask`` compare them: they get what counts for each side.
    """

    def for_teacher(self) -> Task | None:
        """Return what the same batches mean to the teacher; ``None`` if its tokens are the same.

        It names in a batch what the teacher reads, and what it is to predict.
        """


@runtime_checkable
class Scripted(Protocol):
    """A task that can say in a few lines of Python how answers are told, without Limbeck.

    They stand at the end of the script that runs an exported model.
    """

    def script(self) -> str:
        """Return lines that print what each row of ``logits`` says.

        ``logits`` is an array (B, ...), ``facts`` what the file says of itself (``labels``, ...),
        ``np`` NumPy.
        """
