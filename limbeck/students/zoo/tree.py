"""A soft decision tree: a small student whose way to an answer can be written down as questions.

Letters: B samples, C classes, D features, L leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Protocol, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.students.zoo._parts import Config, whole

__all__ = ["SoftTree", "soft_tree"]


class Named(Protocol):
    """What is known of one of a table's numbers, as :class:`limbeck.data.columns.Feature` is."""

    @property
    def name(self) -> str: ...
    @property
    def center(self) -> float: ...
    @property
    def scale(self) -> float: ...


def soft_tree(features: int, depth: int = 4, *, classes: int) -> SoftTree:
    r"""Return a soft decision tree: questions with weights, and a distribution at each leaf.

    An inner node i sends a sample to the right with the probability σ(wᵢ·x + bᵢ), to the left with
    the rest. Each leaf has a distribution over the classes; the answer is their mixture:

    $$q = \sum_l P_l(x)\, \mathrm{softmax}(\phi_l)$$

    Its logarithm stands for logits, so that every loss on logits trains it.

    Args:
        features: D, numbers in one sample.
        depth: questions on the way to a leaf; there are 2^depth leaves.
        classes: number of logits.

    Source: Frosst, Hinton 2017, "Distilling a Neural Network Into a Soft Decision Tree",
    arXiv:1711.09784. The authors train with the cross-entropies of all leaves, weighted by their
    probabilities, and a penalty on unequal shares, and answer with the likeliest leaf; here the
    mixture answers, and any loss trains it.

    >>> soft_tree(3, 2, classes=2)(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """
    return SoftTree(features, depth, classes)


@final
class SoftTree(nn.Module):
    """Samples (B, D) to logits (B, C): logarithms of probabilities.

    Taps: ``questions`` has wᵢ·x + bᵢ of all nodes, (B, L − 1), level by level. Arguments: see
    :func:`soft_tree`.
    """

    def __init__(self, features: int, depth: int, classes: int) -> None:
        super().__init__()
        args = {
            "features": whole("features", features),
            "depth": whole("depth", depth),
            "classes": whole("classes", classes, least=2),
        }
        if depth > 12:
            raise InputError(f"a tree of depth {depth}", expected="at most 12: 4,096 leaves")
        self.config: Config = {"build": "soft_tree", "args": args}
        self.flatten = nn.Flatten()
        self.questions = nn.Linear(features, 2**depth - 1)
        nn.init.normal_(self.questions.weight, std=0.1)
        nn.init.zeros_(self.questions.bias)
        self.leaves = nn.Parameter(torch.randn(2**depth, classes) * 0.1)

    def forward(self, samples: Tensor) -> Tensor:
        """Return logits (B, C)."""
        paths_BL = self._paths(self.questions(self.flatten(samples)))
        return torch.logsumexp(paths_BL.unsqueeze(2) + self.leaves.log_softmax(dim=1), dim=1)

    def leaf(self, samples: Tensor) -> Tensor:
        """Return which leaf is the end of the likeliest way, (B,), from 0 at the left."""
        return self._paths(self.questions(self.flatten(samples))).argmax(dim=1)

    def rules(
        self,
        features: Sequence[Named] | None = None,
        labels: Sequence[str] = (),
        *,
        most: int = 3,
    ) -> str:
        """Return the tree as text: a line for each question and for each leaf.

        A question sums up a few features, each times its weight; those of the largest weights are
        told, in their columns' units, the others taken as usual: a number as its mean, a category
        as absent. So the text is near to what the tree does, and not the same.

        Args:
            features: of the D numbers, as ``student.preprocess.features`` has them; left out, they
                have numbers for names.
            labels: the classes' names; their numbers if left out.
            most: features told of a question.

        >>> tree = soft_tree(2, 1, classes=2)
        >>> _ = tree.load_state_dict({"questions.weight": torch.tensor([[2.0, 0.0]]),
        ...     "questions.bias": torch.tensor([-1.0]), "leaves": torch.tensor([[0., 5], [5, 0]])})
        >>> print(tree.rules(labels=("no", "yes"), most=1))
        is 2·x0 > 1?
          yes: no 99 %
          no: yes 99 %
        """
        names = list(features or (_Plain(f"x{n}") for n in range(self.questions.in_features)))
        if len(names) != self.questions.in_features:
            raise InputError(
                f"{len(names)} features", expected=f"{self.questions.in_features}, as the tree has"
            )
        told = [f"is {self._question(node, names, most)}?" for node in range(len(self.leaves) - 1)]
        shares = self.leaves.detach().softmax(dim=1)
        for share, best in zip(*(found.tolist() for found in shares.max(dim=1)), strict=True):
            told.append(f"{labels[best] if labels else best} {share:.0%}".replace("%", " %"))
        lines: list[str] = []
        stack = [(0, 0, "")]
        while stack:
            node, deep, word = stack.pop()
            lines.append(f"{'  ' * deep}{word}{told[node]}")
            if node < len(self.leaves) - 1:
                stack += [(2 * node + 1, deep + 1, "no: "), (2 * node + 2, deep + 1, "yes: ")]
        return "\n".join(lines)

    def _paths(self, questions: Tensor) -> Tensor:
        """Return the logarithm of each leaf's probability, (B, L)."""
        right, left = F.logsigmoid(questions), F.logsigmoid(-questions)
        paths = questions.new_zeros(len(questions), 1)
        for level in range(self.config["args"]["depth"]):
            here = slice(2**level - 1, 2 ** (level + 1) - 1)
            both = torch.stack([paths + left[:, here], paths + right[:, here]], dim=2)
            paths = both.flatten(1)
        return paths

    def _question(self, node: int, features: Sequence[Named], most: int) -> str:
        weights = self.questions.weight[node].detach()
        limit, parts = -float(self.questions.bias[node].detach()), []
        for place in weights.abs().topk(min(most, len(weights))).indices.tolist():
            weight, known = float(weights[place]), features[place]
            if known.scale:
                weight /= known.scale
                limit += weight * known.center
            if weight:
                name = known.name if "=" not in known.name else f"[{known.name}]"
                parts.append(f"{'−' if weight < 0 else '+'} {_short(abs(weight))}·{name}")
        return f"{' '.join(parts).removeprefix('+ ') or '0'} > {_short(limit)}"


def _short(value: float) -> str:
    """Return a number with three digits that count, never as a power of ten.

    >>> _short(-0.0000981), _short(1234.5)
    ('−0.0000981', '1230')
    """
    return format(Decimal(f"{value:.3g}"), "f").replace("-", "−")


class _Plain:
    def __init__(self, name: str) -> None:
        self.name, self.center, self.scale = name, 0.0, 0.0
