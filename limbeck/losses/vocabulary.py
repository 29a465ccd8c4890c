"""Vocabularies that differ by their padding: 151,936 tokens against 152,064.

Models of a family share a tokenizer, but their output layers are often filled up to different
multiples. The columns that only one of them has stand for no token: they are left out, which is the
same as logits of −∞ there. Zeros in their place would be answers as likely as any other.

Letters: B samples, T tokens, V vocabulary.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses.sparse import SparseLogits

__all__ = ["align_vocabulary", "first_classes", "shared_classes"]

_MOST = 1024  # as far as output layers are filled up: a multiple of 128 on each of 8 devices
_MOST_SHARE = 0.01


def align_vocabulary(student: Tensor, teacher: Any) -> tuple[Tensor, Any]:
    """Return the logits of both over the tokens that both have, the first ones.

    A softmax of what is returned is one over all logits with −∞ in the columns left out: they have
    no mass on either side, and no gradient. Give the result to any loss of logits.

    Args:
        student: logits (B, V) or (B, T, V).
        teacher: logits (B, V') or (B, T, V'), or :class:`limbeck.losses.SparseLogits`.

    Returns:
        Both with min(V, V') classes; a warning says what was left out.

    Raises:
        InputError: V and V' differ by more than 1024 or 1 %, which is more than padding; or a
            sparse teacher has kept a token that the student does not have.

    >>> import warnings
    >>> from limbeck.losses import kl
    >>> student, teacher = torch.zeros(1, 200), torch.zeros(1, 201)
    >>> with warnings.catch_warnings(record=True, action="always") as said:
    ...     kl(*align_vocabulary(student, teacher)), len(said)
    (tensor(0.), 1)
    """
    classes = shared_classes(student.shape[-1], teacher.shape[-1])
    return student[..., :classes], first_classes(teacher, classes)


def shared_classes(student: int, teacher: int) -> int:
    """Return how many classes are compared, and warn if that leaves some of one side out."""
    if student == teacher:
        return student
    small, large = sorted((student, teacher))
    if large - small > min(_MOST, _MOST_SHARE * small):
        raise InputError(
            f"the student's vocabulary has {student:,} classes, the teacher's {teacher:,}",
            expected=f"sizes that padding explains: at most {_MOST} and 1 % apart",
            consequence="With other tokenizers the same place stands for other tokens.",
            remedy="Compare them with losses.universal_logit.",
        )
    larger = "student" if student > teacher else "teacher"
    warnings.warn(
        f"the student's vocabulary has {student:,} classes, the teacher's {teacher:,}: the "
        f"{larger}'s last {large - small:,} are taken for padding and left out, as if their logits "
        "were −∞",
        stacklevel=2,
    )
    return small


def first_classes(logits: Any, classes: int) -> Any:
    """Return a teacher's logits, dense or sparse, without the classes from ``classes`` on."""
    if logits.shape[-1] <= classes:
        return logits
    if not isinstance(logits, SparseLogits):
        return logits[..., :classes]
    beyond = (logits.indices >= classes) & (logits.log_p > -torch.inf)
    if beyond.any():
        raise InputError(
            f"a sparse teacher's answer has the class {int(logits.indices[beyond].max()):,}",
            expected=f"classes below {classes:,}, which the student has",
            consequence="They are no padding.",
            remedy="Compare models with one tokenizer.",
        )
    return replace(logits, classes=classes)
