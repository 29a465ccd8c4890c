"""Students whose embeddings begin as their teacher's, turned and cut to their own width.

Letters: V tokens, D features of the student's embeddings, E of the teacher's.
"""

from __future__ import annotations

import torch
from torch import nn

from limbeck.errors import InputError
from limbeck.students.low_rank import principal

__all__ = ["inherit_embeddings"]


@torch.no_grad()
def inherit_embeddings(student: nn.Module, teacher: nn.Module) -> nn.Module:
    """Let a student's embeddings begin as its teacher's principal components; return the student.

    The teacher's table (V, E) less its mean row, X = U·S·Rᵀ, becomes X·R[:, :D]: tokens keep as
    much of their distances as D features can hold. It is scaled to the standard deviation that the
    student's table has; the row of padding, if there is one, is zero. Training may change all of
    them. Both must read tokens of the same tokenizer.

    Args:
        student: its first ``nn.Embedding`` or ``nn.EmbeddingBag``, (V, D), is filled in place:
            those of tokens come before those of places.
        teacher: its first one, (V, E), is read; E ≥ D, and as many or more tokens.

    Raises:
        InputError: one of them has no embeddings; the teacher's are narrower, or of fewer tokens.

    Source: Tulkens, van Dongen 2024, "Model2Vec", cut the embeddings of a Transformer so (they take
    what the whole network makes of each token; here it is the table alone).

    >>> teacher, student = nn.Embedding(50, 16), nn.Embedding(50, 4)
    >>> inherit_embeddings(student, teacher).weight.shape
    torch.Size([50, 4])
    """
    own, theirs = _table(student, "student"), _table(teacher, "teacher")
    tokens, features = own.weight.shape
    if theirs.weight.shape[0] < tokens or theirs.weight.shape[1] < features:
        raise InputError(
            f"embeddings of {theirs.weight.shape[0]:,} tokens with {theirs.weight.shape[1]} "
            f"features for a student's {tokens:,} with {features}",
            expected="a teacher with as many tokens and features, or more",
            remedy="Read the teacher's tokens, and set a smaller student.args.width.",
        )
    rows = theirs.weight[:tokens]
    mean, directions = principal(rows, features)
    turned = (rows - mean) @ directions
    own.weight.copy_(turned * (own.weight.std() / turned.std()))
    if own.padding_idx is not None:
        own.weight[own.padding_idx].zero_()
    return student


def _table(model: nn.Module, whose: str) -> nn.Embedding | nn.EmbeddingBag:
    kinds = nn.Embedding | nn.EmbeddingBag
    found = next((module for module in model.modules() if isinstance(module, kinds)), None)
    if found is None:
        raise InputError(
            f"the {whose}, a {type(model).__name__}, has no embeddings",
            expected="a reader of tokens",
        )
    return found
