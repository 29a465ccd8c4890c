"""CTC: a sequence of symbols, recognised in a longer sequence of frames.

Letters: B samples, S values of a waveform, T frames, L symbols, C classes (the symbols and blank).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.data.jagged import IGNORED
from limbeck.data.samples import Batch
from limbeck.errors import InputError
from limbeck.losses.spec import exactly
from limbeck.tasks.fields import Fields, check_finite, mask_in, measured, sample
from limbeck.tasks.task import Meter, Quality

__all__ = ["CTC", "decode"]

_SHOWN = 0xE000  # the first of Unicode's private characters, one for each symbol


def decode(logits: Tensor, mask: Tensor, blank: int = 0) -> list[list[int]]:
    """Return the symbols of each sample's best path: repetitions are one, blanks are none.

    Args:
        logits: (B, T, C).
        mask: (B, T), true where a frame counts.
        blank: the class of no symbol.

    >>> decode(torch.eye(3)[[1, 1, 0, 1, 2]].unsqueeze(0), torch.ones(1, 5))
    [[1, 1, 2]]
    """
    found = []
    for classes, keep in zip(logits.argmax(-1).tolist(), mask.bool().tolist(), strict=True):
        path = [each for each, counts in zip(classes, keep, strict=True) if counts]
        pairs = zip([None, *path], path, strict=False)
        found.append([each for before, each in pairs if each not in (before, blank)])
    return found


@dataclass(frozen=True)
class CTC(Fields):
    """Symbols in their order, without saying when: connectionist temporal classification.

    A model answers each frame, (B, T, C), with a symbol or with **class 0, blank**. A batch is
    (inputs, targets), or a mapping in which the two have the given names. Inputs are a mapping with
    a mask (B, S) that says how long each sample is; a frame stands for ``frame`` of its values, so
    T = ⌈S / ``frame``⌉. Targets are (B, L) int64, 1 to C − 1, and −100 after the end.

    The loss is −log of the probability of all paths that read as the target, in nats, added up over
    samples and divided by the number of **frames** that count: as losses between frames are means
    over these. Metrics, all after decoding the best path: ``word_error_rate`` and
    ``symbol_error_rate`` (insertions, deletions and substitutions divided by what is wanted, both
    fractions that may exceed 1), ``sequence_accuracy`` (samples without an error) and ``loss``.

    Attributes:
        classes: C.
        labels: the classes' names, blank's first; their numbers if left out.
        frame: values of a sample for one frame of the answers; of models that hear, hop × stride ×
            rate.
        separator: what stands between symbols in a transcript: a blank if they are words, nothing
            if they are characters.
        input_names: in a mapping, the name of what models are called with.
        target_name: in a mapping, the name of the targets.
        mask_name: in the inputs, what says which values are no padding.

    Source: Graves et al. 2006, "Connectionist Temporal Classification", ICML.

    >>> task = CTC(3, frame=2)
    >>> batch = {"inputs": {"mask": torch.ones(1, 4)}, "targets": torch.tensor([[1]])}
    >>> task.label_loss(torch.zeros(1, 2, 3), batch)  # 3 of 9 paths read as 1: log 3, of 2 frames
    tensor(0.5493)
    """

    classes: int
    labels: Sequence[str] = ()
    frame: int = 1
    separator: str = " "
    input_names: str | tuple[str, ...] = "inputs"
    target_name: str = "targets"
    mask_name: str = "mask"
    name: str = "ctc"
    selection: str = "word_error_rate"
    higher_is_better: bool = False

    def __post_init__(self) -> None:
        if self.classes < 2 or (self.labels and len(self.labels) != self.classes):
            raise InputError(
                f"{self.classes} classes with {len(self.labels)} names",
                expected="blank and a symbol at least, and a name for each or none",
            )
        if self.frame < 1:
            raise InputError(f"frames of {self.frame} values", expected="at least 1")

    def mask(self, batch: Batch) -> Tensor:
        """Return which frames hold a part of the sample, (B, T)."""
        found = mask_in(self.inputs(batch), self.mask_name)
        if found is None:
            raise InputError(
                f"inputs without {self.mask_name!r}",
                expected="a mapping with a mask (B, S), which says how long each sample is",
            )
        frames: Tensor = found[:, :: self.frame].bool()
        return frames

    def count(self, batch: Batch) -> Tensor:
        return self.mask(batch).sum()

    def label_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        frames = self._frames(logits, batch)
        return self._losses(logits, batch, frames).sum() / frames.sum()

    def check(self, batch: Batch) -> None:
        targets, inputs = self.targets(batch), self.inputs(batch)
        if not isinstance(targets, Tensor) or targets.dtype != torch.int64 or targets.ndim != 2:
            told = getattr(targets, "dtype", type(targets).__name__)
            raise InputError(
                f"targets of type {told} and shape {tuple(getattr(targets, 'shape', ()))}",
                expected=f"(B, L) int64: the symbols of each sample, then {IGNORED}",
                remedy="Data whose samples have one label each are for the task classification; "
                "the source speech makes sequences of them: data.args.joined.",
            )
        wrong = (targets != IGNORED) & ((targets < 1) | (targets >= self.classes))
        if wrong.any():
            row, place = wrong.nonzero()[0].tolist()
            raise InputError(
                f"{sample(batch, row)} has the symbol {int(targets[row, place])}",
                expected=f"1 to {self.classes - 1}: class 0 is blank",
            )
        needed, frames = _needed(targets), self.mask(batch).sum(1)
        if (needed > frames).any():
            row = int((needed > frames).nonzero()[0])
            raise InputError(
                f"{sample(batch, row)} has {int(frames[row])} frames for symbols that need "
                f"{int(needed[row])}",
                expected="a frame for each symbol, and one between two that are the same",
                consequence="No path would read as the target, and the loss would be infinite.",
                remedy="Smaller frames: a smaller stride of the models, and task.frame with it.",
            )
        check_finite(inputs, batch)

    def check_logits(self, logits: Tensor, whose: str) -> None:
        if logits.ndim != 3 or logits.shape[2] != self.classes:
            raise InputError(
                f"the {whose}'s logits have the shape {tuple(logits.shape)}",
                expected=f"(B, T, {self.classes}): blank and {self.classes - 1} symbols for each "
                "frame",
                remedy=f"Build the {whose} so; models that hear need frames: true.",
            )

    def meter(self) -> Meter:
        return _Meter(self)

    def apart(self, logits: Tensor, other: Tensor, batch: Batch) -> Tensor:
        """Return how many symbols change one transcript into the other, (B,)."""
        from torchmetrics.functional.text import edit_distance

        one, two = (self._written(self._decoded(each, batch)) for each in (logits, other))
        return edit_distance(one, two, reduction="none").float().to(logits.device)

    def told(self, logits: Tensor, batch: Batch, row: int) -> dict[str, Any]:
        mask = self._frames(logits, batch)
        found = decode(logits[row : row + 1], mask[row : row + 1])[0]
        return {
            "answer": self.text(found) or "(nothing)",
            "right": found == self._wanted(batch)[row],
            "shares": [],
        }

    def wanted(self, batch: Batch, row: int) -> str:
        return self.text(self._wanted(batch)[row])

    def text(self, symbols: Sequence[int]) -> str:
        """Return symbols as a transcript.

        >>> CTC(3, ("blank", "one", "two")).text([2, 1])
        'two one'
        """
        names = self.labels or [str(number) for number in range(self.classes)]
        return self.separator.join(str(names[symbol]) for symbol in symbols)

    def _frames(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return which frames count, and refuse answers to other frames."""
        mask = self.mask(batch)
        if logits.shape[:2] != mask.shape:
            raise InputError(
                f"logits {tuple(logits.shape)} for {mask.shape[0]} samples of {mask.shape[1]} "
                f"frames, of {self.frame} values each",
                expected="an answer to each frame",
                consequence="Frames would be compared with other ones, or padding with sound.",
                remedy="Give teacher and student the same frames, and set task.frame to hop × "
                "stride × rate of theirs.",
            )
        return mask

    def _losses(self, logits: Tensor, batch: Batch, frames: Tensor) -> Tensor:
        """Return −log of the probability of each target, (B,)."""
        targets = self.targets(batch)
        counts = (targets != IGNORED).sum(1)
        with exactly(logits.device.type):
            log_p = F.log_softmax(logits.float(), 2).transpose(0, 1)
            return F.ctc_loss(log_p, targets.clamp(min=0), frames.sum(1), counts, reduction="none")

    def _decoded(self, logits: Tensor, batch: Batch) -> list[list[int]]:
        return decode(logits, self._frames(logits, batch))

    def _wanted(self, batch: Batch) -> list[list[int]]:
        rows = self.targets(batch).tolist()
        return [[symbol for symbol in row if symbol != IGNORED] for row in rows]

    def _written(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return symbols as strings of one character each, for metrics that compare such."""
        return ["".join(chr(_SHOWN + symbol) for symbol in row) for row in rows]


class _Meter:
    def __init__(self, task: CTC) -> None:
        # torchmetrics takes a second to import
        from torchmetrics import MeanMetric
        from torchmetrics.text import CharErrorRate, WordErrorRate

        self.task = task
        self._words, self._symbols = WordErrorRate(), CharErrorRate()
        self._loss, self._right = MeanMetric(), MeanMetric()

    def update(self, logits: Tensor, batch: Batch) -> None:
        task = self.task
        frames = task._frames(logits, batch)
        said, wanted = decode(logits, frames), task._wanted(batch)
        for metric in (self._words, self._symbols, self._loss, self._right):
            metric.to(logits.device)
        self._words.update([task.text(row) for row in said], [task.text(row) for row in wanted])
        self._symbols.update(task._written(said), task._written(wanted))
        right = [float(one == other) for one, other in zip(said, wanted, strict=True)]
        self._right.update(torch.tensor(right, device=logits.device))
        losses = task._losses(logits, batch, frames)
        self._loss.update(losses / frames.sum(1), weight=frames.sum(1))

    def compute(self) -> Quality:
        with measured():
            found = {
                "word_error_rate": float(self._words.compute()),
                "symbol_error_rate": float(self._symbols.compute()),
                "sequence_accuracy": float(self._right.compute()),
                "loss": float(self._loss.compute()),
            }
        if found["loss"] != found["loss"]:
            raise InputError("there were no samples to measure on")
        return Quality(found)


def _needed(targets: Tensor) -> Tensor:
    """Return how many frames the symbols of each sample need, (B,)."""
    same = (targets[:, 1:] == targets[:, :-1]) & (targets[:, 1:] != IGNORED)
    return (targets != IGNORED).sum(1) + same.sum(1)
