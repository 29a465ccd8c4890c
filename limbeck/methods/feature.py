"""Methods that match what the teacher computes on the way, or how samples relate there.

Taps are found by themselves in common networks (``stage[-1]`` is the last stage before the head);
name others to override. Feature methods leave the label's weight to what they are added to.
"""

from __future__ import annotations

from collections.abc import Sequence

from limbeck import losses
from limbeck.errors import InputError
from limbeck.methods.about import About
from limbeck.methods.match import Match
from limbeck.methods.method import Method, described

__all__ = ["at", "fitnets", "sp"]


@described(
    About(
        "FitNets: Hints for Thin Deep Nets",
        "Romero et al.",
        2015,
        "arXiv:1412.6550",
        "feature",
        "features",
        "modules",
    )
)
def fitnets(
    weight: float = 100.0, student: str = "stage[-2]", teacher: str = "stage[-2]"
) -> Method:
    r"""Match one middle layer, after a 1×1 convolution: label + weight·mean squared error.

    Trained in one stage together with the label, as in the CIFAR-100 benchmark of Tian et al. 2020
    (arXiv:1910.10699), whose weight this is; the paper trains the hint first.

    Args:
        weight: of the mean squared error over all features.
        student: the tap that is guided.
        teacher: the tap that guides.

    Source: Romero et al. 2015, arXiv:1412.6550.

    >>> fitnets().matches
    (Match('stage[-2]', 'stage[-2]', hint, weight=100.0, features='mean'),)
    """
    return Method((Match(student, teacher, losses.hint, weight=weight, features="mean"),))


@described(
    About(
        "Paying More Attention to Attention: Improving the Performance of Convolutional Neural "
        "Networks via Attention Transfer",
        "Zagoruyko, Komodakis",
        2017,
        "arXiv:1612.03928",
        "feature",
        "features",
        "small",
    )
)
def at(
    weight: float = 1000.0,
    student: Sequence[str] = ("stage[-3]", "stage[-2]", "stage[-1]"),
    teacher: Sequence[str] = ("stage[-3]", "stage[-2]", "stage[-1]"),
) -> Method:
    r"""Match where the network looks, at the end of each of the last three stages.

    Args:
        weight: of each stage's loss.
        student: the student's taps.
        teacher: the teacher's, one for each of the student's.

    Raises:
        InputError: there are not as many taps of the one as of the other.

    Source: Zagoruyko, Komodakis 2017, arXiv:1612.03928.

    >>> len(at().matches)
    3
    """
    if isinstance(student, str) or isinstance(teacher, str) or len(student) != len(teacher):
        raise InputError(
            f"at got the student's taps {student!r} and the teacher's {teacher!r}",
            expected="two lists of taps, equally long",
        )
    pairs = zip(student, teacher, strict=True)
    return Method(tuple(Match(s, t, losses.attention_transfer, weight=weight) for s, t in pairs))


@described(
    About(
        "Similarity-Preserving Knowledge Distillation",
        "Tung, Mori",
        2019,
        "arXiv:1907.09682",
        "relation",
        "features",
        "small",
    )
)
def sp(weight: float = 3000.0, student: str = "stage[-1]", teacher: str = "stage[-1]") -> Method:
    r"""Match which samples of a batch resemble one another, at the end of the last stage.

    Args:
        weight: of the loss.
        student: the student's tap.
        teacher: the teacher's tap.

    Source: Tung, Mori 2019, arXiv:1907.09682.

    >>> sp().matches
    (Match('stage[-1]', 'stage[-1]', similarity_preserving, weight=3000.0),)
    """
    loss = losses.wrap.gathered(losses.similarity_preserving)
    return Method((Match(student, teacher, loss, weight=weight),))
