"""Losses for sequences whose answer is more than one token at a time.

Letters: B sequences, T tokens or frames, V vocabulary. Losses between single tokens are in
:mod:`limbeck.losses.logits` and :mod:`limbeck.losses.divergences`: all of them take a ``mask``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses.logits import kl
from limbeck.losses.spec import Reduction, Spec, comparable, declare, reduce

__all__ = ["ctc_aligned", "ctc_sequence", "sequence_level"]

_REMEDY = "Both models need the same vocabulary and as many tokens (or frames)."


@declare(
    Spec("sequence", "Kim, Rush 2016 (SeqKD), arXiv:1606.07947", "classes", zero_at_equal=False)
)
def sequence_level(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy with the sequence that the teacher decoded: sequence-level distillation.

    $$-\log q_{\hat y_t}(t), \quad \hat y = \text{the teacher's output, by beam search}$$

    The teacher's most likely sequence stands for its whole distribution over sequences. The
    student's logits are those after the tokens before t of the **teacher's** output.

    Args:
        student: logits (B, T, V), or (B, V) for single tokens.
        teacher: what the teacher decoded, integer ids (B, T) or (B,). Logits of the student's shape
            stand for their argmax, which is greedy decoding where each token is decoded alone (CTC,
            or a teacher that was run on its own output).
        mask: (B, T), true where a token counts; ids of any value may stand where it is false.
        reduction: mean over unmasked tokens, in nats; ``sum`` over B sequences divided by B is the
            paper's objective.

    Raises:
        InputError: the shapes do not fit.

    Source: Kim, Rush 2016, "Sequence-Level Knowledge Distillation", arXiv:1606.07947, section 3.2.

    >>> sequence_level(torch.zeros(1, 3, 4), torch.tensor([[3, 0, 2]]))  # log 4
    tensor(1.3863)
    """
    if teacher.is_floating_point():
        student, teacher = comparable(student, teacher, mask, remedy=_REMEDY)
        ids = teacher.argmax(-1)
    elif teacher.shape != student.shape[:-1]:
        raise InputError(
            f"sequence_level got logits {tuple(student.shape)} and ids {tuple(teacher.shape)}",
            expected="one id for each token of the student",
            remedy="Run the student on the teacher's output (teacher forcing).",
        )
    else:
        student, _ = comparable(student, student, mask, remedy=_REMEDY)
        ids = teacher.long() if mask is None else teacher.long().masked_fill(~mask.bool(), 0)
    log_q = F.log_softmax(student, -1)
    return reduce(-log_q.gather(-1, ids.unsqueeze(-1)).squeeze(-1), mask, reduction)


@declare(Spec("sequence", "Hilmes, Rossenbach, Schlüter 2025, arXiv:2506.01503", "classes"))
def ctc_aligned(
    student: Tensor,
    teacher: Tensor,
    *,
    blank: int = 0,
    context: int = 0,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Frame-wise KL of CTC models, counted where the teacher's alignment has a label.

    $$T^2 \sum_c p_{tc} (\log p_{tc} - \log q_{tc}) \cdot
    \big[\exists\, t':\ |t - t'| \le n,\ \arg\max_c p_{t'c} \ne \text{blank}\big]$$

    CTC models answer blank in most frames. The plain KL is then mostly about blanks and ties the
    student to the very frames in which the teacher is silent; here the frames of the teacher's best
    path that hold a label decide (blank elimination), with n frames on either side if wanted
    (symmetric selection, which also teaches blanks and so can do without a CTC loss on labels).
    With n = 0 add ``torch.nn.functional.ctc_loss`` on the transcript.

    Args:
        student: logits (B, T, V) of T frames, or (B, V) for frames alone.
        teacher: logits of the same shape; no gradient reaches them.
        blank: the class that stands for blank; negative numbers count from the last.
        context: n, frames on either side of a label's that count too.
        temperature: T > 0, with T² inside.
        mask: (B, T), true where a frame counts (false in the padding).
        reduction: mean over **all** unmasked frames of the sum over classes, in nats: frames that
            are left out count as 0, so that a frame's gradient does not depend on how many others
            hold a label.

    Raises:
        InputError: the shapes differ, the temperature is not positive, ``blank`` is not a class, or
            ``context`` is negative or asked of frames alone.

    Source: Hilmes, Rossenbach, Schlüter 2025, "Analyzing the Importance of Blank for CTC-Based
    Knowledge Distillation", arXiv:2506.01503.

    >>> spike, silent = [0.0, 1.0986123], [1.0986123, 0.0]  # (¼, ¾) and (¾, ¼), blank first
    >>> ctc_aligned(torch.zeros(1, 2, 2), torch.tensor([[spike, silent]]))  # half of KL = 0.1308
    tensor(0.0654)
    """
    student, teacher = comparable(student, teacher, mask, remedy=_REMEDY)
    values = kl(student, teacher, temperature=temperature, mask=mask, reduction="none")
    counts = _labelled_frames(teacher, blank, context, mask)
    return reduce(torch.where(counts, values, torch.zeros_like(values)), mask, reduction)


@declare(
    Spec(
        "sequence",
        "Takashima, Li, Kawai 2018, 10.1109/ICASSP.2018.8461995",
        "classes",
        zero_at_equal=False,
        per_sample=False,
        waits="PyTorch's CTC loss reads the lengths of sequences",
        uncompiled="PyTorch's CTC loss reads the lengths of sequences",
        unmapped="PyTorch's CTC loss cannot be mapped",
    )
)
def ctc_sequence(
    student: Tensor, teacher: Tensor, *, blank: int = 0, mask: Tensor | None = None
) -> Tensor:
    r"""CTC loss against the transcript that the teacher hears: sequence-level distillation.

    $$-\log \sum_{\pi \in B^{-1}(\hat y)} \prod_t q_{\pi_t}(t), \quad
    \hat y = B(\arg\max_c p_{tc})$$

    B takes repetitions and then blanks out, so the sum is over all paths of the student that read
    as the teacher's best path does. The student learns what is said and decides by itself when,
    unlike with losses between frames: the two may have learnt to answer at different moments, and
    may have different frames.

    Args:
        student: logits (B, T, V) of T frames, or (B, V), one frame for each sample.
        teacher: logits (B, T', V), or (B, V); no gradient reaches them.
        blank: the class that stands for blank; negative numbers count from the last.
        mask: (B, T), true where a frame counts: the first ones of each row. It is for both models,
            which then need as many frames.

    Returns:
        The sum over sequences divided by the number of unmasked frames of the student, in nats. A
        transcript that is too long for the student's frames counts nothing.

    Raises:
        InputError: the shapes do not fit, or ``blank`` is not a class.

    Source: Takashima, Li, Kawai 2018, "An Investigation of a Knowledge Distillation Method for CTC
    Acoustic Models", ICASSP; Kim, Rush 2016, arXiv:1606.07947, for the idea.

    >>> heard = torch.tensor([[[0.0, 9.0], [0.0, 9.0]]])  # class 1, twice: one symbol
    >>> ctc_sequence(torch.zeros(1, 2, 2), heard)  # 3 of 4 paths: log(4/3), of two frames
    tensor(0.1438)
    """
    if student.ndim == 2 and teacher.ndim == 2:
        student, teacher = student.unsqueeze(1), teacher.unsqueeze(1)
        mask = None if mask is None else mask.unsqueeze(1)
    fits = student.ndim == 3 and teacher.ndim == 3 and student.shape[::2] == teacher.shape[::2]
    if not fits or (mask is not None and not student.shape[:2] == mask.shape == teacher.shape[:2]):
        raise InputError(
            f"ctc_sequence got logits {tuple(student.shape)} and {tuple(teacher.shape)}"
            + ("" if mask is None else f" and a mask {tuple(mask.shape)}"),
            expected="the same shape, or other frames (B, T, V) and (B, T', V) without a mask",
            remedy=_REMEDY,
        )
    classes = student.shape[2]
    if not -classes <= blank < classes:
        raise InputError(f"blank is {blank}", expected=f"one of the {classes} classes")
    counts = torch.ones_like(teacher[..., 0], dtype=torch.bool) if mask is None else mask.bool()
    if mask is not None:
        student, _ = comparable(student, student, mask, remedy=_REMEDY)
    symbols, lengths = _transcripts(teacher.argmax(-1), counts, blank % classes)
    frames = counts.sum(1) if mask is not None else torch.full_like(lengths, student.shape[1])
    losses = F.ctc_loss(
        F.log_softmax(student, 2).transpose(0, 1),
        symbols,
        frames,
        lengths,
        blank=blank % classes,
        reduction="none",
        zero_infinity=True,
    )
    kept = torch.where(frames > 0, losses, torch.zeros_like(losses))
    return kept.sum() / frames.sum().clamp(min=1)


def _transcripts(path: Tensor, counts: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """Return the symbols of best paths (B, T), at the beginning of each row, and how many."""
    again = F.pad(path[:, 1:] == path[:, :-1], (1, 0))
    new = counts & (path != blank) & ~again
    order = (~new).long().argsort(dim=1, stable=True)
    return path.gather(1, order), new.sum(1)


def _labelled_frames(teacher: Tensor, blank: int, context: int, mask: Tensor | None) -> Tensor:
    """Return, as booleans (B, T), the frames of the best path near a label."""
    classes = teacher.shape[-1]
    if not -classes <= blank < classes:
        raise InputError(f"blank is {blank}", expected=f"one of the {classes} classes")
    if context < 0 or (context > 0 and teacher.ndim != 3):
        raise InputError(
            f"context is {context} with logits {tuple(teacher.shape)}",
            expected="0 or more frames, of sequences (B, T, V)",
            consequence="Frames alone, as chunks and masks select them, have no neighbours.",
        )
    labelled = teacher.argmax(-1) != blank % classes
    if mask is not None:
        labelled = labelled & mask.bool()
    if context == 0:
        return labelled
    near = F.max_pool1d(labelled.float().unsqueeze(1), 2 * context + 1, 1, context)
    return near.squeeze(1) > 0
