"""Methods without a teacher: the label, or the student itself, gives the soft label.

``limbeck.Distiller(None, student, ...)`` takes them. They cost no teacher's run, and are the
controls that tell how much of a gain is knowledge and how much is regularization.
"""

from __future__ import annotations

from typing import Any, Literal

from limbeck.losses import teacher_free as losses
from limbeck.methods.about import About
from limbeck.methods.match import Match
from limbeck.methods.method import Method, described
from limbeck.methods.shares import label_weight, shared

__all__ = ["label_refinement", "tfkd", "uskd"]

_TFKD = About(
    "Revisiting Knowledge Distillation via Label Smoothing Regularization",
    "Yuan, Tay, Li, Wang, Feng",
    2020,
    "arXiv:1909.11723",
    "response",
    "labels",
)


@described(_TFKD)
def tfkd(alpha: float = 0.1, temperature: float = 20.0, probability: float = 0.99) -> Method:
    r"""Match a teacher made by hand, right on every sample: (1 − α)·label + α·KL.

    No model teaches: a regularizer, for when there is no teacher or the student is already strong.
    The defaults are the authors' for ResNet18 on CIFAR-100, where their multiplier m of 100 undoes
    a division by the number of classes C; with other numbers their share is α·m/C. For other
    networks they take α from 0.1 to 0.95 and T = 40.

    Args:
        alpha: the virtual teacher's share, 0 to 1.
        temperature: T of the virtual teacher: the higher, the more even its answer.
        probability: what it gives to the label before it is softened.

    Raises:
        InputError: α is not a share.

    Source: Yuan, Tay, Li, Wang, Feng 2020, arXiv:1909.11723 (Tf-KD_reg); code:
    yuanli2333/Teacher-free-Knowledge-Distillation.

    >>> tfkd().matches
    (Match('logits', None, virtual_teacher, weight=0.1, temperature=20.0, probability=0.99),)
    """
    options = {"temperature": temperature, "probability": probability}
    return shared(losses.virtual_teacher, alpha, None, **options)


@described(_TFKD)
def label_refinement(smoothing: float = 0.1, spread: Literal["all", "others"] = "all") -> Method:
    r"""Learn a smoothed label: (1 − ε) for the label's class and ε spread over the classes.

    It replaces the label's loss and is the control for all methods with soft labels: what they gain
    beyond it is the teacher's. ε = 0.1 is the authors'.

    Args:
        smoothing: ε, 0 to 1.
        spread: over which classes: ``all``, as in the paper, or the ``others``, as in the code.

    Source: Yuan, Tay, Li, Wang, Feng 2020, arXiv:1909.11723; code:
    yuanli2333/Teacher-free-Knowledge-Distillation.

    >>> label_refinement().label_weight
    0.0
    """
    options: dict[str, Any] = {"smoothing": smoothing, "spread": spread}
    return Method((Match("logits", None, losses.label_refinement, **options),), 0.0)


@described(
    About(
        "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with "
        "Normalized Loss and Customized Soft Labels",
        "Yang et al.",
        2023,
        "arXiv:2303.13005",
        "response",
        "features and labels",
        "modules",
    )
)
def uskd(
    alpha: float = 1.0,
    beta: float = 0.1,
    mu: float = 0.005,
    lam: float = 1.0,
    middle: str = "stage[-2]",
    form: Literal["paper", "code"] = "paper",
) -> Method:
    r"""Match the student with itself: its own target smoothed, its other classes by their rank.

    The loss is α·target + β·others + μ·weak head + λ·label. A linear head on a middle layer, which
    is left behind, helps to rank the other classes. The weights are the authors' for ImageNet; for
    CIFAR-100 they take 0.1 for all three.

    Args:
        alpha: of the target class.
        beta: of the other classes.
        mu: of the weak head's own label.
        lam: λ, the label's weight.
        middle: the tap on which the weak head stands: maps (B, C, H, W) or features (B, D). The
            authors take the last stage but one, ``stage[-2]``. A Transformer's block gives a row
            for each token: with one answer per sample, name ``penultimate`` there.
        form: how the others are ranked; see :class:`limbeck.losses.teacher_free.UniversalSelfKD`.

    Raises:
        InputError: λ is negative.

    Source: Yang, Zeng, Li, Zhang, Yuan, Li 2023, arXiv:2303.13005 (USKD); code: yzd-v/cls_KD.

    >>> uskd().matches[0].student, uskd().matches[0].options
    (('logits', 'stage[-2]'), {'alpha': 1.0, 'beta': 0.1, 'mu': 0.005, 'form': 'paper'})
    """
    taps = ("logits", middle)
    match = Match(taps, None, losses.UniversalSelfKD, alpha=alpha, beta=beta, mu=mu, form=form)
    return Method((match,), label_weight(lam))
