"""Pictures and texts in one space: each picture near the texts that describe it.

Letters: B samples, C captions, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.data.samples import Batch
from limbeck.errors import InputError
from limbeck.losses.geometry import unit
from limbeck.losses.spec import exactly
from limbeck.tasks.fields import Whole, check_finite, label_of, mask_in, measured, sample
from limbeck.tasks.task import Meter, Quality

__all__ = ["ImageText"]

_TOLD = 2  # how many captions of an answer are put into words


@dataclass(frozen=True)
class ImageText(Whole):
    """A picture's embedding and a text's for each sample, (B, 2, D); pairs are to be near.

    Only angles count. Labels (B,) int64 say which texts are equal: all samples of a label are true
    of one another, so that a caption that occurs twice in a batch is no wrong answer there. −1 says
    that it is not known whether a sample's picture and text belong together: it counts for nothing
    in the label loss, neither as a pair nor as a wrong answer.

    The label loss is symmetric: the mean of both directions, pictures to texts and texts to
    pictures, of −(1/|P_i|) Σ_{k∈P_i} log softmax_k(cos_ik / τ), where P_i are the samples with the
    label of i (Yang et al. 2022, "Unified Contrastive Learning in Image-Text-Label Space",
    arXiv:2204.03610); where all labels differ it is that of CLIP (Radford et al. 2021,
    arXiv:2103.00020), but τ is fixed. It compares the samples that go through the model at once, so
    it is another one when batches are accumulated in parts.

    Metrics, over all samples of a set: a picture asks the set's different captions,
    ``image_to_text_at_1`` and ``_at_5``, the share for which its own is among the nearest; a
    caption asks all pictures, ``text_to_image_at_1`` and ``_at_5``, the share for which one that it
    is true of is among the nearest. A tie counts as missed. ``recall_at_1`` is the mean of the two
    directions.

    Attributes:
        labels: the captions, by their numbers; their numbers if left out.
        temperature: τ.
        input_names: in a mapping, the names of what models are called with.
        target_name: in a mapping, the name of the labels.
        mask_name: in inputs that are a mapping, what says which tokens are no padding, (B, T).

    >>> task, same = ImageText(temperature=1.0), torch.eye(2)
    >>> batch = task.named((torch.zeros(2, 2), torch.tensor([0, 1])))
    >>> task.label_loss(torch.stack([same, same], dim=1), batch)  # log(1 + 1/e)
    tensor(0.3133)
    """

    labels: Sequence[str] = ()
    temperature: float = 0.07
    input_names: str | tuple[str, ...] = "inputs"
    target_name: str = "targets"
    mask_name: str = "attention_mask"
    name: str = "image_text"
    selection: str = "recall_at_1"
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise InputError(
                f"a temperature of {self.temperature}", expected="a number above 0: 0.07, say"
            )

    def tokens(self, batch: Batch) -> Tensor | None:
        found = mask_in(self.inputs(batch), self.mask_name)
        return None if found is None else found.bool()

    def label_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        with exactly(logits.device.type):
            labels = self.targets(batch)
            known = labels >= 0
            scores = _cosines(logits[:, 0], logits[:, 1]) / self.temperature
            same = (labels.unsqueeze(1) == labels) & known.unsqueeze(1)
            total = scores.new_zeros(())
            for each in (scores, scores.T):
                least = torch.finfo(each.dtype).min
                log_shares = F.log_softmax(each.masked_fill(~known, least), dim=1)
                near = log_shares.masked_fill(~same, 0.0).sum(dim=1)
                total = total - (near / same.sum(dim=1).clamp(min=1)).mean() / 2
            return total

    def check(self, batch: Batch) -> None:
        labels = self.targets(batch)
        if labels.dtype != torch.int64 or labels.ndim != 1:
            raise InputError(
                f"labels of type {labels.dtype} and shape {tuple(labels.shape)}",
                expected="one int64 label per sample, the number of its caption",
            )
        most = len(self.labels) - 1 if self.labels else torch.iinfo(torch.int64).max
        wrong = (labels < -1) | (labels > most)
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise InputError(
                f"{sample(batch, row)} has label {int(labels[row])}",
                expected=f"0 to {most}, the number of a caption; or −1, not known",
            )
        check_finite(self.inputs(batch), batch)

    def check_logits(self, logits: Tensor, whose: str) -> None:
        if logits.ndim != 3 or logits.shape[1] != 2:
            raise InputError(
                f"the {whose} gives {tuple(logits.shape)}",
                expected="(B, 2, D): an embedding of the picture and one of the text",
                remedy=f"Build the {whose} as a dual encoder.",
            )

    def meter(self) -> Meter:
        return _Meter(self)

    def alike(self, logits: Tensor, other: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return whether pictures find the same caption, and KL(other ‖ logits), (B,) each.

        They choose among the captions of the batch, by a softmax of cosines over τ.
        """
        mine, theirs = (self._log_shares(each, batch) for each in (logits, other))
        divergence = F.kl_div(mine, theirs, reduction="none", log_target=True).sum(dim=1)
        return mine.argmax(dim=1) == theirs.argmax(dim=1), divergence

    def apart(self, logits: Tensor, other: Tensor, batch: Batch) -> Tensor:
        """Return half of Σ|p − q| where pictures find different captions of the batch, else 0."""
        mine, theirs = (self._log_shares(each, batch).exp() for each in (logits, other))
        return (mine - theirs).abs().sum(dim=1) / 2 * (mine.argmax(1) != theirs.argmax(1))

    def told(self, logits: Tensor, batch: Batch, row: int) -> dict[str, Any]:
        """Return the captions of the batch that the picture finds."""
        found = self._log_shares(logits, batch)[row].exp()
        shares, places = found.topk(min(_TOLD, len(found)))
        captions = self.targets(batch)[_firsts(self.targets(batch))][places]
        names = [label_of(self.labels, number) for number in captions.tolist()]
        return {
            "answer": names[0],
            "right": bool(captions[0] == self.targets(batch)[row]),
            "shares": [list(pair) for pair in zip(names, shares.tolist(), strict=True)],
        }

    def wanted(self, batch: Batch, row: int) -> str:
        return label_of(self.labels, int(self.targets(batch)[row]))

    def _log_shares(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the logarithms of each picture's shares of the batch's captions, (B, C)."""
        texts = logits[_firsts(self.targets(batch)), 1]
        return F.log_softmax(_cosines(logits[:, 0], texts) / self.temperature, dim=1)


class _Meter:
    def __init__(self, task: ImageText) -> None:
        from limbeck.tasks.recall import PairRecall  # torchmetrics takes a second to import

        self.task, self._found = task, PairRecall()

    def update(self, logits: Tensor, batch: Batch) -> None:
        if logits.device != self._found.device:
            self._found.to(logits.device)
        self._found.update(logits, self.task.targets(batch))

    def compute(self) -> Quality:
        with measured():
            pictures, captions = self._found.compute().tolist()
        if not pictures[2]:
            raise InputError("no sample had a label", expected="pictures with their captions")
        found = {
            f"{name}_at_{most}": hits / asked
            for name, (*counts, asked) in (
                ("image_to_text", pictures),
                ("text_to_image", captions),
            )
            for most, hits in zip((1, 5), counts, strict=True)
        }
        mean = (found["image_to_text_at_1"] + found["text_to_image_at_1"]) / 2
        return Quality({"recall_at_1": mean, **found})


def _cosines(images: Tensor, texts: Tensor) -> Tensor:
    return unit(images.float()) @ unit(texts.float()).T


def _firsts(labels: Tensor) -> Tensor:
    """Return the first place of each different label, (C,)."""
    found, which = labels.unique(return_inverse=True)
    places = torch.arange(len(labels), device=labels.device)
    start = torch.full_like(found, len(labels))
    return start.scatter_reduce(0, which, places, "amin")
