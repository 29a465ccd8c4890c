"""An output layer and the loss behind it in one: the logits of all tokens never exist together.

Letters: B samples, T tokens, N samples (or tokens) in all, D features, V vocabulary.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.losses.chunks import After, Answer, Fused, Tokens, Work
from limbeck.losses.heads import last_linear
from limbeck.losses.sparse import SparseLogits
from limbeck.losses.spec import Setting, spec_of
from limbeck.losses.vocabulary import shared_classes
from limbeck.losses.wrap import Loss

__all__ = ["FusedLinear", "FusedTerms", "Head", "fused_linear", "fused_linear_terms"]

Head = nn.Linear | Tensor | tuple[Tensor, Tensor | None]

# Bytes of one tensor of logits in float32. Each weight is read once for a chunk, so that it must
# not be too small; the loss takes it in pieces that stay in the processor's cache.
_CHUNK_BYTES = {"cpu": 64 * 2**20}
_PIECE_BYTES = {"cpu": 4 * 2**20}
_OTHER_BYTES = 256 * 2**20


class FusedTerms(NamedTuple):
    """What :func:`fused_linear_terms` returns.

    Attributes:
        loss: the sum, to call ``backward`` on.
        divergence: the value of the loss alone, without gradient.
        label: the label's cross-entropy, unweighted and without gradient; ``None`` if its weight
            is 0.
    """

    loss: Tensor
    divergence: Tensor
    label: Tensor | None


def fused_linear(
    loss: Loss,
    student: Tensor,
    student_head: Head,
    teacher: Tensor | SparseLogits,
    teacher_head: Head | None = None,
    *,
    targets: Tensor | None = None,
    label_weight: float = 0.0,
    ignore_index: int = -100,
    mask: Tensor | None = None,
    reduction: Literal["mean", "sum"] = "mean",
    chunk: int | Literal["auto"] = "auto",
    student_after: After | None = None,
    teacher_after: After | None = None,
    **options: Any,
) -> Tensor:
    r"""Compute a loss between logits from what enters the output layers, a chunk of tokens at once.

    $$\mathrm{loss}(h_s W_s^\top + b_s,\; h_t W_t^\top + b_t) + \lambda\, \mathrm{CE}(y,
    h_s W_s^\top + b_s)$$

    Value and gradients are those of ``loss`` on the logits of all tokens; of the logits, one
    chunk's exist at a time. The gradients of the student's hidden states, weight and bias are
    computed in the forward pass, those that nobody needs (a frozen head) not at all. They cannot be
    differentiated again.

    Matrix products run in the precision of the hidden states, or that of autocast, the loss in
    float32 or better; gradients of weight and bias are added up in float32.

    Args:
        loss: a loss between logits that is a mean over tokens, of :mod:`limbeck.losses` or declared
            in the same way: ``kl``, ``reverse_kl``, ``jensen_shannon``, ...
        student: hidden states (N, D) or (B, T, D), what enters the output layer.
        student_head: the output layer, an ``nn.Linear``, a weight (V, D), or (weight, bias).
        teacher: hidden states (N, D') or (B, T, D') if there is a ``teacher_head``; else its
            answer, logits or :class:`limbeck.losses.SparseLogits`. No gradient reaches it.
        teacher_head: the teacher's output layer. Padding is left out where the two vocabularies
            differ, see :func:`limbeck.losses.align_vocabulary`.
        targets: labels (N,) or (B, T), for the label's cross-entropy and for losses that take some.
        label_weight: λ, the weight of the label's cross-entropy; ``wrap.weighted`` gives the loss
            one.
        ignore_index: the label that stands for none; the cross-entropy is a mean over the others.
        mask: (N,) or (B, T), true where a token counts; the others are not computed at all, for
            which a GPU is waited for.
        reduction: ``mean`` over unmasked tokens, or their ``sum``.
        chunk: how many tokens at a time; ``auto`` bounds one tensor of logits by 64 MiB (256 on a
            GPU).
        student_after: what the model does to its logits, number by number: a soft cap, a scale.
        teacher_after: the same of the teacher.
        options: of the loss, for example its temperature.

    Raises:
        InputError: the loss cannot be cut into tokens, or it, an option or ``student_after`` has
            parameters of its own; shapes or vocabularies do not fit.

    Example: a student of 4 features, a teacher of 6, a vocabulary of 10.

    >>> from limbeck.losses import kl
    >>> own, theirs = nn.Linear(4, 10), nn.Linear(6, 10)
    >>> x, y = torch.randn(2, 3, 4), torch.randn(2, 3, 6)
    >>> value = fused_linear(kl, x, own, y, theirs, temperature=2, chunk=4)
    >>> value.isclose(kl(own(x), theirs(y), temperature=2))
    tensor(True)
    """
    return fused_linear_terms(
        loss,
        student,
        student_head,
        teacher,
        teacher_head,
        targets=targets,
        label_weight=label_weight,
        ignore_index=ignore_index,
        mask=mask,
        reduction=reduction,
        chunk=chunk,
        student_after=student_after,
        teacher_after=teacher_after,
        **options,
    ).loss


def fused_linear_terms(
    loss: Loss,
    student: Tensor,
    student_head: Head,
    teacher: Tensor | SparseLogits,
    teacher_head: Head | None = None,
    *,
    targets: Tensor | None = None,
    label_weight: float = 0.0,
    ignore_index: int = -100,
    mask: Tensor | None = None,
    reduction: Literal["mean", "sum"] = "mean",
    chunk: int | Literal["auto"] = "auto",
    student_after: After | None = None,
    teacher_after: After | None = None,
    **options: Any,
) -> FusedTerms:
    """Do as :func:`fused_linear`, and return the parts of the sum too: for logs.

    >>> from limbeck.losses import kl
    >>> x, head, labels = torch.zeros(3, 4), torch.zeros(2, 4), torch.tensor([0, 1, -100])
    >>> terms = fused_linear_terms(kl, x, head, x, head, targets=labels, label_weight=0.5)
    >>> terms.loss, terms.divergence, terms.label  # ½ log 2
    (tensor(0.3466), tensor(0.), tensor(0.6931))
    """
    _check_loss(loss)
    _check_numbers(loss, options, None if student_after is None else student_after(_one(student)))
    weight, bias = _parts(student_head, student, "student")
    tokens = Tokens.of(student, mask)
    theirs = None if teacher_head is None else _parts(teacher_head, teacher, "teacher")
    precision = _autocast(student.device.type)
    answer = Answer.of(teacher, theirs, tokens, teacher_after, precision)
    classes = weight.shape[0]
    if spec_of(loss).align == "classes":
        classes = shared_classes(classes, answer.classes)
        answer = answer.first(classes)
    given = {**options, "targets": targets} if _takes(loss, "targets") else options
    rowwise = {k: tokens.picked(v) for k, v in given.items() if tokens.has_rows(k, v)}
    labels = None if targets is None or not label_weight else tokens.picked(targets, "targets")
    known = None if labels is None else _known(labels, ignore_index, student.dtype)
    counts = _counts(tokens.count, known, reduction)
    leaves = (tokens.picked(student), weight, bias)
    work = Work(
        loss=functools.partial(
            loss, reduction="sum", **{k: v for k, v in given.items() if k not in rowwise}
        ),
        answer=answer,
        classes=classes,
        after=student_after,
        rowwise=rowwise,
        labels=labels,
        label_weight=label_weight * counts[0] / counts[1],
        ignore_index=ignore_index,
        rows=_rows(chunk, weight.shape[0], _CHUNK_BYTES.get(student.device.type, _OTHER_BYTES)),
        piece=_rows("auto", weight.shape[0], _PIECE_BYTES.get(student.device.type, _OTHER_BYTES)),
        wanted=tuple(torch.is_grad_enabled() and x is not None and x.requires_grad for x in leaves),
        precision=precision,
    )
    total, divergence, label = Fused.apply(work, counts[0], *leaves)
    return FusedTerms(total, divergence / counts[0], None if labels is None else label / counts[1])


class FusedLinear(nn.Module):
    """:func:`fused_linear` as the loss of a match, between models that return hidden states.

    The tensors of the match are what enters the output layers, and those layers are looked up in
    the two models. It owns neither: their parameters stay where they are. The mask and the labels
    are the task's.

    Args:
        loss: as :func:`fused_linear`.
        student_head: the student's output layer.
        teacher_head: the teacher's; ``None`` if the match has its logits.
        options: further arguments of :func:`fused_linear`, for example ``label_weight``.

    >>> from limbeck.losses import kl
    >>> head = nn.Linear(4, 10)
    >>> loss = FusedLinear(kl, head, nn.Linear(6, 10))
    >>> loss(torch.randn(2, 3, 4), torch.randn(2, 3, 6), temperature=2.0).ndim
    0
    >>> list(loss.parameters())
    []
    """

    def __init__(
        self, loss: Loss, student_head: nn.Linear, teacher_head: nn.Linear | None, **options: Any
    ) -> None:
        super().__init__()
        self.loss = loss
        self.options = options
        # In a tuple, so that PyTorch does not take them for parts of this one.
        self._heads = (student_head, teacher_head)

    @classmethod
    def build(
        cls,
        student: Tensor,
        teacher: Any,
        setting: Setting,
        *,
        divergence: Loss,
        student_head: str = "",
        teacher_head: str | None = "",
        label_weight: float = 0.0,
        student_after: After | None = None,
        teacher_after: After | None = None,
    ) -> FusedLinear:
        """Return the module for these two models.

        Args:
            student: hidden states of the student.
            teacher: those of the teacher; its logits if it is not a module, a store for example.
            setting: the two models.
            divergence: the loss between logits.
            student_head: path of the student's output layer; by default the last linear layer that
                its modules list.
            teacher_head: the same of the teacher; ``None`` if the match has its logits.
            label_weight: of the label's cross-entropy.
            student_after: what the student does to its logits.
            teacher_after: the same of the teacher.

        Raises:
            InputError: a model has no such layer, or it does not fit the hidden states.
        """
        ready = teacher_head is None or setting.teacher is None
        theirs = None if ready else last_linear(setting.teacher, teacher_head or "", "teacher")
        own = last_linear(setting.student, student_head, "student")
        _parts(own, student, "student")
        return cls(
            divergence,
            own,
            theirs,
            label_weight=label_weight,
            student_after=student_after,
            teacher_after=teacher_after,
        )

    def forward(
        self,
        student: Tensor,
        teacher: Any,
        *,
        targets: Tensor | None = None,
        mask: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Return the loss of hidden states."""
        given = {**self.options, **options, "targets": targets, "mask": mask}
        return fused_linear(self.loss, student, self._heads[0], teacher, self._heads[1], **given)


def _check_loss(loss: Loss) -> None:
    """Refuse what cannot be cut into tokens."""
    spec = spec_of(loss)
    if not spec.per_sample or spec.family != "response" or not _takes(loss, "reduction"):
        raise InputError(
            f"the loss {_name(loss)} cannot be fused with the output layer",
            expected="a loss between logits, declared in the family response, that is a mean over "
            "samples (or tokens) and takes reduction=",
        )


def _check_numbers(loss: Loss, options: Mapping[str, Any], sample: Tensor | None) -> None:
    """Refuse options that compare other tokens, and parameters that would get no gradient."""
    if options.get("teacher_mask") is not None:
        raise InputError("fused_linear got a teacher_mask", expected="one mask for both sides")
    inner = inspect.unwrap(loss)
    own: list[Tensor] = [*inner.parameters()] if isinstance(inner, nn.Module) else []
    own += [x for x in (*options.values(), sample) if isinstance(x, Tensor)]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in own):
        raise InputError(
            f"the loss {_name(loss)}, an option of it or student_after has something to learn",
            expected="numbers, and functions without parameters",
            consequence="Gradients are made for the student's hidden states and head alone: it "
            "would never learn.",
        )


def _autocast(device: str) -> torch.dtype | None:
    """Return the precision of autocast, if that is on."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _one(student: Tensor) -> Tensor:
    """Return a logit, to see what is done to it."""
    return torch.zeros(1, 1, dtype=student.dtype, device=student.device)


def _name(loss: Loss) -> str:
    return str(getattr(loss, "__name__", type(loss).__name__))


def _takes(loss: Loss, option: str) -> bool:
    called = loss.forward if isinstance(loss, nn.Module) else loss
    return option in inspect.signature(called).parameters


def _parts(head: Head, hidden: Tensor | SparseLogits, whose: str) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of an output layer that fits the hidden states."""
    if isinstance(head, nn.Module):
        if not isinstance(head, nn.Linear) or type(head).forward is not nn.Linear.forward:
            raise InputError(
                f"the {whose}'s head is a {type(head).__name__}",
                expected="an nn.Linear, a weight, or (weight, bias)",
                remedy="Of a layer with an adapter give the sum of the weights.",
            )
        head = head.weight, head.bias
    weight, bias = (head, None) if isinstance(head, Tensor) else head
    if weight.ndim != 2 or hidden.ndim < 2 or hidden.shape[-1] != weight.shape[-1]:
        raise InputError(
            f"the {whose}'s hidden states {tuple(hidden.shape)} met a head with a weight "
            f"{tuple(weight.shape)}",
            expected="(..., D) and (V, D)",
        )
    if hidden.dtype != weight.dtype and _autocast(weight.device.type) is None:
        raise InputError(
            f"the {whose}'s hidden states are {hidden.dtype}, its head is {weight.dtype}",
            expected="one precision, or autocast",
        )
    return weight, bias


def _known(labels: Tensor, ignore_index: int, dtype: torch.dtype) -> Tensor:
    """Return how many labels there are, in the precision of sums."""
    found = (labels != ignore_index).sum().clamp(min=1)
    return found.to(torch.promote_types(dtype, torch.float32))


def _counts(tokens: int, known: Tensor | None, reduction: str) -> tuple[int, int | Tensor]:
    """Return by what the loss and the cross-entropy are divided."""
    if reduction not in ("mean", "sum"):
        raise InputError(f"reduction is {reduction!r}", expected="'mean' or 'sum'")
    return (1, 1) if reduction == "sum" else (max(tokens, 1), 1 if known is None else known)


def _rows(chunk: int | Literal["auto"], classes: int, most: int) -> int:
    """Return how many tokens there are in a chunk."""
    if chunk == "auto":
        return max(1, most // (4 * classes))
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise InputError(f"chunk is {chunk!r}", expected="'auto', or a number of at least 1")
    return chunk
