"""Methods that match what the teacher answers.

λ is the label's weight beside the teacher's (``teacher + λ·label``); α shares out between the two.
"""

from __future__ import annotations

from limbeck import losses
from limbeck.methods.about import About
from limbeck.methods.match import Match
from limbeck.methods.method import Method, described
from limbeck.methods.shares import require_share

__all__ = ["hard_label", "kd", "logit_mse", "none", "probability_mse", "soft_hard"]

_HINTON = About(
    "Distilling the Knowledge in a Neural Network",
    "Hinton, Vinyals, Dean",
    2015,
    "arXiv:1503.02531",
    "response",
    "logits",
)


@described(About("No teacher: the control", "Limbeck", 2026, "", "response", "nothing"))
def none() -> Method:
    """Learn from the labels alone: the control against which a method is measured (2026).

    >>> none().matches
    ()
    """
    return Method((), 1.0)


@described(_HINTON)
def kd(temperature: float = 4.0, alpha: float = 0.9) -> Method:
    r"""Match the teacher's softened answer: (1 − α)·label + α·T²·KL.

    Args:
        temperature: T, 1 and above: the higher, the more the small probabilities count.
        alpha: the teacher's share, 0 to 1.

    Source: Hinton, Vinyals, Dean 2015, arXiv:1503.02531; the defaults are those of the CIFAR-100
    benchmark of Tian et al. 2020, arXiv:1910.10699.

    >>> kd().matches
    (Match('logits', 'logits', kl, weight=0.9, temperature=4.0),)
    """
    require_share(alpha)
    match = Match("logits", "logits", losses.kl, weight=alpha, temperature=temperature)
    return Method((match,), round(1 - alpha, 12))


@described(_HINTON)
def soft_hard(alpha: float = 0.5, temperature: float = 4.0) -> Method:
    r"""Mix the hard label with the teacher's soft one: α·label + (1 − α)·T²·CE(soft).

    As :func:`kd` with the shares the other way round and the cross-entropy in place of the
    divergence: the same gradient, another value.

    Args:
        alpha: the hard label's share, 0 to 1.
        temperature: T of the soft label.

    Source: Hinton, Vinyals, Dean 2015, arXiv:1503.02531.

    >>> soft_hard(alpha=0.25).label_weight
    0.25
    """
    require_share(alpha)
    soft = losses.soft_cross_entropy
    match = Match("logits", "logits", soft, weight=round(1 - alpha, 12), temperature=temperature)
    return Method((match,), alpha)


@described(
    About(
        "Do Deep Nets Really Need to be Deep?",
        "Ba, Caruana",
        2014,
        "arXiv:1312.6184",
        "response",
        "logits",
    )
)
def logit_mse(lam: float = 0.5) -> Method:
    r"""Regress the teacher's logits: Σ(s − t)² + λ·label.

    Args:
        lam: λ, the label's weight.

    Source: Ba, Caruana 2014, arXiv:1312.6184.

    >>> logit_mse().matches
    (Match('logits', 'logits', logit_mse, weight=1.0),)
    """
    return Method((Match("logits", "logits", losses.logit_mse),), lam)


@described(
    About(
        "Comparing Kullback-Leibler Divergence and Mean Squared Error Loss in Knowledge "
        "Distillation",
        "Kim, Oh, Kim, Cho, Yun",
        2021,
        "arXiv:2105.08919",
        "response",
        "logits",
    )
)
def probability_mse(lam: float = 0.05, temperature: float = 1.0) -> Method:
    r"""Regress the teacher's probabilities: T²·Σ(q − p)² + λ·label.

    Args:
        lam: λ, the label's weight; 0.01 to 0.1, because the squared error is small beside it.
        temperature: T.

    Source: Kim et al. 2021, arXiv:2105.08919.

    >>> probability_mse().label_weight
    0.05
    """
    match = Match("logits", "logits", losses.probability_mse, temperature=temperature)
    return Method((match,), lam)


@described(
    About(
        "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method",
        "Lee",
        2013,
        "ICML workshop on challenges in representation learning",
        "response",
        "logits",
    )
)
def hard_label(alpha: float = 0.5) -> Method:
    r"""Learn the teacher's most likely class as if it were the label: (1 − α)·label + α·CE.

    Args:
        alpha: the teacher's share, 0 to 1; 1 needs no true labels at all.

    Source: Lee 2013, "Pseudo-Label".

    >>> hard_label(1.0).label_weight
    0.0
    """
    require_share(alpha)
    return Method(
        (Match("logits", "logits", losses.hard_label, weight=alpha),), round(1 - alpha, 12)
    )
