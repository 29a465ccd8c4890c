"""What an output layer and a loss compute together: chunks of tokens, their slopes, their sums.

Letters: B samples, T tokens, N samples (or tokens) in all, K of them that count, n of them in a
chunk, D features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses.spec import ROWWISE
from limbeck.losses.vocabulary import first_classes
from limbeck.losses.wrap import Loss

__all__ = ["After", "Answer", "Fused", "Tokens", "Work"]

After = Callable[[Tensor], Tensor]
Parts = tuple[Tensor, Tensor | None]  # weight and bias

_BLOCK = 8192  # rows of a weight whose gradient is added at a time, in half precision


@dataclass(frozen=True)
class Tokens:
    """Which samples (or tokens) are compared."""

    lead: torch.Size
    rows: Tensor | None

    @classmethod
    def of(cls, student: Tensor, mask: Tensor | None) -> Tokens:
        """Return those of the student's hidden states that a mask keeps."""
        lead = student.shape[:-1]
        if mask is None:
            return cls(lead, None)
        if mask.shape != lead:
            raise _unfit("a mask", mask.shape, lead)
        return cls(lead, mask.reshape(-1).bool().nonzero().squeeze(-1))

    @property
    def count(self) -> int:
        """How many they are."""
        return self.lead.numel() if self.rows is None else len(self.rows)

    def has_rows(self, name: str, option: Any) -> bool:
        """Say whether an option of a loss has an entry for each sample (or token)."""
        dims = len(self.lead)
        return name in ROWWISE and isinstance(option, Tensor) and option.shape[:dims] == self.lead

    def flat(self, tensor: Any, what: str) -> Any:
        """Return a tensor with all samples (or tokens) in its first dimension."""
        if tensor.shape[: len(self.lead)] != self.lead:
            raise _unfit(what, tensor.shape, self.lead)
        return tensor if len(self.lead) == 1 else tensor.flatten(0, len(self.lead) - 1)

    def picked(self, tensor: Any, what: str = "a tensor") -> Any:
        """Return those rows of it that are compared."""
        flat = self.flat(tensor, what)
        return flat if self.rows is None else flat[self.rows]


@dataclass(frozen=True)
class Answer:
    """The teacher's logits, a chunk at a time."""

    classes: int
    kept: Any  # (K, D'), or the sparse answer for K tokens, or logits of all N
    rows: Tensor | None  # where those are that count, of logits of all N
    head: Parts | None
    after: After | None

    @classmethod
    def of(
        cls,
        given: Any,
        head: Parts | None,
        tokens: Tokens,
        after: After | None,
        precision: torch.dtype | None,
    ) -> Answer:
        """Return that of hidden states and a head, or of what is the answer itself."""
        given = given.detach()
        if head is not None:
            kept = tokens.picked(given, "the teacher's hidden states")
            return cls(head[0].shape[0], kept, None, _in_precision(precision, *head), after)
        if isinstance(given, Tensor):  # picked a chunk at a time: they are large
            flat = tokens.flat(given, "the teacher's logits")
            return cls(flat.shape[-1], flat, tokens.rows, None, after)
        if after is not None:
            raise InputError("teacher_after came with a sparse answer", expected="logits")
        kept = tokens.picked(given, "the teacher's answer")
        return cls(kept.shape[-1], kept, None, None, None)

    def first(self, classes: int) -> Answer:
        """Return it without the classes from there on."""
        if self.head is None:
            return replace(self, classes=classes, kept=first_classes(self.kept, classes))
        weight, bias = self.head
        head = weight[:classes], None if bias is None else bias[:classes]
        return replace(self, classes=classes, head=head)

    def logits(self, part: slice) -> Any:
        """Return the answer for a part of the tokens that count."""
        found = self.kept[part] if self.rows is None else self.kept[self.rows[part]]
        if self.head is not None:
            found = F.linear(found.to(self.head[0].dtype), *self.head)
        return found if self.after is None else self.after(found)


@dataclass(frozen=True)
class Work:
    """What is computed for every chunk.

    Attributes:
        loss: the loss, summed, with those of its options that all tokens share.
        answer: the teacher's.
        classes: how many classes of the student's are compared.
        after: what the student does to its logits.
        rowwise: options of the loss with an entry for each token that counts.
        labels: (K,), or ``None`` if no cross-entropy is wanted.
        label_weight: the factor of the cross-entropy's sum beside the loss's.
        ignore_index: the label that stands for none.
        rows: how many tokens there are in a chunk.
        piece: to how many of them the loss is applied at a time.
        wanted: whether gradients of hidden states, weight and bias are.
        precision: of matrix products, if it is not the weight's own.
    """

    loss: Loss
    answer: Answer
    classes: int
    after: After | None
    rowwise: Mapping[str, Tensor]
    labels: Tensor | None
    label_weight: float | Tensor
    ignore_index: int
    rows: int
    piece: int
    wanted: tuple[bool, ...]
    precision: torch.dtype | None

    def run(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, _Gradients]:
        """Return the sums of loss and cross-entropy, (2,), and the gradients of their sum."""
        gradients = _Gradients.zeros(self.wanted, hidden, weight, bias)
        head = _in_precision(self.precision, weight, bias)
        sums = hidden.new_zeros(2, dtype=torch.promote_types(hidden.dtype, torch.float32))
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), self.rows):
                part = slice(start, min(start + self.rows, len(hidden)))
                states = hidden[part].to(head[0].dtype)
                logits = F.linear(states, *head)
                sums += self._compare(logits, part)
                gradients.add(part, logits, states, head[0])
        return sums, gradients

    def _compare(self, logits: Tensor, part: slice) -> Tensor:
        """Return the two sums of a chunk, and put the slopes in the place of its logits (n, V)."""
        answer, learns = self.answer.logits(part), any(self.wanted)
        sums = []
        for start in range(0, len(logits), self.piece):
            here = slice(start, min(start + self.piece, len(logits)))
            there = slice(part.start + here.start, part.start + here.stop)
            leaf = logits[here].detach().requires_grad_(learns)
            with torch.set_grad_enabled(learns):
                value, label = self._values(leaf, answer[here], there)
                total = value + self.label_weight * label
            sums.append(torch.stack([value.detach(), label.detach()]))
            if learns:
                logits[here] = torch.autograd.grad(total, leaf)[0]
        return torch.stack(sums).sum(0)

    def _values(self, logits: Tensor, answer: Any, part: slice) -> tuple[Tensor, Tensor]:
        """Return the sums of loss and cross-entropy over some tokens."""
        own = logits if self.after is None else self.after(logits)
        rowwise = {name: option[part] for name, option in self.rowwise.items()}
        value = self.loss(own[..., : self.classes], answer, **rowwise)
        if self.labels is None:
            return value, torch.zeros_like(value)
        wide = own.to(value.dtype)
        options: dict[str, Any] = {"reduction": "sum", "ignore_index": self.ignore_index}
        return value, F.cross_entropy(wide, self.labels[part], **options)


@dataclass
class _Gradients:
    """The student's, added up in float32 or better; ``None`` where none is wanted."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def zeros(cls, wanted: tuple[bool, ...], *leaves: Tensor | None) -> _Gradients:
        return cls(
            *(
                torch.zeros_like(leaf, dtype=torch.promote_types(leaf.dtype, torch.float32))
                if want and leaf is not None
                else None
                for want, leaf in zip(wanted, leaves, strict=True)
            )
        )

    def add(self, part: slice, slopes: Tensor, states: Tensor, weight: Tensor) -> None:
        """Count a chunk: the slopes (n, V) of its logits, and what they came from."""
        if self.hidden is not None:
            self.hidden[part] = slopes @ weight
        if self.bias is not None:
            self.bias += slopes.sum(0, dtype=self.bias.dtype)
        if self.weight is None:
            return
        if self.weight.dtype == slopes.dtype:
            self.weight.addmm_(slopes.t(), states)
            return
        for rows, columns in zip(self.weight.split(_BLOCK), slopes.split(_BLOCK, 1), strict=True):
            rows += columns.t() @ states

    def scaled(self, factor: Tensor, leaves: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return them times a factor, each in the precision of what it belongs to."""
        with torch.no_grad():
            return [
                None if part is None or leaf is None else part.mul_(factor).to(leaf.dtype)
                for part, leaf in zip((self.hidden, self.weight, self.bias), leaves, strict=True)
            ]


class Fused(torch.autograd.Function):
    """The sum of the loss and the weighted cross-entropy, and both, with gradients made before.

    The gradients are scaled in place and given away. Where a graph that was kept wants them again,
    they are computed again.
    """

    @staticmethod
    def forward(
        ctx: Any, work: Work, count: int, hidden: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        sums, ctx.gradients = work.run(hidden, weight, bias)
        ctx.work, ctx.count = work, count
        ctx.save_for_backward(hidden, weight, bias)
        divergence, label = sums[0].clone(), sums[1].clone()
        ctx.mark_non_differentiable(divergence, label)
        return (divergence + work.label_weight * label) / count, divergence, label

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        leaves = ctx.saved_tensors
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            with torch.no_grad():
                gradients = ctx.work.run(*leaves)[1]
        found = gradients.scaled(upstream.detach() / ctx.count, leaves)
        if torch.is_grad_enabled():  # a graph of the gradients is wanted
            end = torch.zeros((), device=upstream.device, requires_grad=True)
            found = [None if part is None else _Final.apply(part, end) for part in found]
        return None, None, *found


class _Final(torch.autograd.Function):
    """A gradient that cannot be differentiated."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, end: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise InputError(
            "the gradient of fused_linear was to be differentiated",
            expected="a first derivative",
            remedy="Give the loss the logits of all tokens instead.",
        )


def _in_precision(precision: torch.dtype | None, weight: Tensor, bias: Tensor | None) -> Parts:
    """Return a head in another precision; float64 stays, as it does under autocast."""
    if precision is None or weight.dtype == torch.float64:
        return weight.detach(), None if bias is None else bias.detach()
    return weight.detach().to(precision), None if bias is None else bias.detach().to(precision)


def _unfit(what: str, shape: torch.Size, lead: torch.Size) -> InputError:
    return InputError(
        f"{what} of shape {tuple(shape)} came with hidden states for {tuple(lead)}",
        expected="an entry for each sample or token",
    )
