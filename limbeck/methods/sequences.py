"""Methods for tokens, frames and steps: logits (B, T, V); the task's mask says which count."""

from __future__ import annotations

from limbeck.losses import divergences, policy_gradient
from limbeck.losses import sequence as losses
from limbeck.methods.about import About
from limbeck.methods.match import Match
from limbeck.methods.method import Method, described
from limbeck.methods.shares import label_weight, shared

__all__ = ["ctc", "ctc_sequence", "minillm", "policy", "seqkd"]


@described(
    About(
        "Sequence-Level Knowledge Distillation",
        "Kim, Rush",
        2016,
        "arXiv:1606.07947",
        "sequence",
        "logits",
    )
)
def seqkd(weight: float = 1.0, lam: float = 0.0, teacher: str = "logits") -> Method:
    r"""Learn the sequence that the teacher decoded as if it were the reference.

    The loss is weight·cross-entropy with the teacher's tokens + λ·label; as in the paper the
    references count nothing beside them. The inputs must be the teacher's output too, so that the
    student sees the tokens before each: decode the training data once and train on that. In a
    recipe, ``knowledge: {produce: true}`` does it, and the label then is what the teacher decoded.

    Args:
        weight: of the cross-entropy.
        lam: λ, the label's weight.
        teacher: the teacher's tap: logits, whose most likely tokens count, or ids (B, T).

    Raises:
        InputError: λ is negative.

    Source: Kim, Rush 2016, arXiv:1606.07947.

    >>> seqkd().matches
    (Match('logits', 'logits', sequence_level, weight=1.0),)
    """
    match = Match("logits", teacher, losses.sequence_level, weight=weight)
    return Method((match,), label_weight(lam))


@described(
    About(
        "Analyzing the Importance of Blank for CTC-Based Knowledge Distillation",
        "Hilmes, Rossenbach, Schlüter",
        2025,
        "arXiv:2506.01503",
        "sequence",
        "logits",
    )
)
def ctc(alpha: float = 0.9, blank: int = 0, context: int = 0, temperature: float = 1.0) -> Method:
    r"""Match the frames in which the teacher hears a label: (1 − α)·label + α·T²·KL of these.

    For speech models trained with CTC, which answer blank in most frames. With ``context`` frames
    on either side α may be 1: no transcripts are needed. The authors try α = 0.25, 0.9 and 1 with
    sums over frames; here it is a mean, so 0.9 is a starting point.

    Args:
        alpha: the teacher's share, 0 to 1; λ of the paper.
        blank: the class that stands for blank.
        context: how many frames around a label's count too.
        temperature: T.

    Raises:
        InputError: α is not a share.

    Source: Hilmes, Rossenbach, Schlüter 2025, arXiv:2506.01503.

    >>> ctc(context=1).matches[0].options
    {'blank': 0, 'context': 1, 'temperature': 1.0}
    """
    options = {"blank": blank, "context": context, "temperature": temperature}
    return shared(losses.ctc_aligned, alpha, **options)


@described(
    About(
        "An Investigation of a Knowledge Distillation Method for CTC Acoustic Models",
        "Takashima, Li, Kawai",
        2018,
        "10.1109/ICASSP.2018.8461995",
        "sequence",
        "logits",
    )
)
def ctc_sequence(alpha: float = 0.5, blank: int = 0) -> Method:
    r"""Learn the transcript that the teacher hears, by CTC: (1 − α)·label + α·CTC against it.

    With α = 1 no transcripts are needed, so recordings without any will do. Added to ``kd`` or
    ``ctc`` it is sequence-level beside frame-level distillation.

    Args:
        alpha: the teacher's share, 0 to 1.
        blank: the class that stands for blank.

    Raises:
        InputError: α is not a share.

    Source: Takashima, Li, Kawai 2018, ICASSP, 10.1109/ICASSP.2018.8461995.

    >>> ctc_sequence().matches
    (Match('logits', 'logits', ctc_sequence, weight=0.5, blank=0),)
    """
    return shared(losses.ctc_sequence, alpha, blank=blank)


@described(
    About(
        "MiniLLM: Knowledge Distillation of Large Language Models",
        "Gu, Dong, Wei, Huang",
        2023,
        "arXiv:2306.08543",
        "sequence",
        "logits",
    )
)
def minillm(lam: float = 1.0, weight: float = 1.0, normalized: bool = True) -> Method:
    r"""Follow the gradient of the reverse divergence of whole texts that the student writes.

    The loss is weight·:func:`limbeck.losses.minillm` + λ·label. It needs texts that were drawn:
    ``on_policy`` in a recipe, :class:`limbeck.distill.OnPolicy` in Python, with the teacher writing
    along in a share ``mix`` of 0.2, as the paper has it. What the student wrote has no label. The
    label's loss is the paper's loss on a corpus: it counts in steps in which the student does not
    write, of which there are some if ``fraction`` is below 1; there the divergence is that of
    single tokens.

    Begin with a student that knows the language: one that writes at random learns nothing from it.

    Args:
        lam: λ, the label's weight.
        weight: of the divergence.
        normalized: whether what follows a token counts with its mean, or its sum.

    Raises:
        InputError: λ is negative.

    Source: Gu, Dong, Wei, Huang 2023, arXiv:2306.08543; code: microsoft/LMOps.

    >>> minillm().matches
    (Match('logits', 'logits', minillm, weight=1.0, normalized=True),)
    """
    loss = policy_gradient.minillm
    match = Match("logits", "logits", loss, weight=weight, normalized=normalized)
    return Method((match,), label_weight(lam))


@described(
    About(
        "Policy Distillation",
        "Rusu et al.",
        2016,
        "arXiv:1511.06295",
        "response",
        "logits",
    )
)
def policy(temperature: float = 0.01, weight: float = 1.0, lam: float = 0.0) -> Method:
    r"""Match the sharpened policy of a teacher that acts: KL over its actions, without labels.

    The teacher's Q-values differ little between actions, so the paper divides them by τ = 0.01; for
    the logits of a policy take 1. The student's own answer is not softened.

    Args:
        temperature: τ, of the teacher alone.
        weight: of the divergence.
        lam: λ, the label's weight; the paper has none.

    Raises:
        InputError: λ is negative.

    Source: Rusu et al. 2016, arXiv:1511.06295.

    >>> policy().matches
    (Match('logits', 'logits', policy, weight=1.0, temperature=0.01),)
    """
    match = Match("logits", "logits", divergences.policy, weight=weight, temperature=temperature)
    return Method((match,), label_weight(lam))
