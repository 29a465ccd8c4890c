"""Methods that measure the distance between two answers otherwise than KL from the teacher.

α is the teacher's share. All work with classes (B, C) and with tokens (B, T, C), and obey a task's
mask.
"""

from __future__ import annotations

from limbeck.losses import divergences
from limbeck.methods.about import About
from limbeck.methods.match import Match
from limbeck.methods.method import Method, described
from limbeck.methods.shares import label_weight, shared

__all__ = [
    "binary",
    "jensen_shannon",
    "reverse_kl",
    "skewed_kl",
    "skewed_reverse_kl",
    "total_variation",
    "uld",
]

_DISTILLM = About(
    "DistiLLM: Towards Streamlined Distillation for Large Language Models",
    "Ko, Kim, Chen, Yun",
    2024,
    "arXiv:2402.03898",
    "response",
    "logits",
)


@described(
    About(
        "MiniLLM: Knowledge Distillation of Large Language Models",
        "Gu, Dong, Wei, Huang",
        2023,
        "arXiv:2306.08543",
        "response",
        "logits",
    )
)
def reverse_kl(alpha: float = 1.0, temperature: float = 1.0) -> Method:
    r"""Match the teacher where the student is likely: α·T²·KL(student ‖ teacher) + (1 − α)·label.

    It seeks modes: a small student gives up answers that it cannot hold, instead of spreading over
    all of them. Meant for language models, and for texts that the student wrote itself; MiniLLM's
    policy gradient is not part of it. α = 1, without labels, is what the scripts of DistiLLM take
    for divergences of one token.

    Args:
        alpha: the teacher's share, 0 to 1.
        temperature: T.

    Raises:
        InputError: α is not a share.

    Source: Gu, Dong, Wei, Huang 2023, arXiv:2306.08543; code: microsoft/LMOps, jongwooko/distillm.

    >>> reverse_kl().matches
    (Match('logits', 'logits', reverse_kl, weight=1.0, temperature=1.0),)
    """
    return shared(divergences.reverse_kl, alpha, temperature=temperature)


@described(
    About(
        "On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes",
        "Agarwal et al.",
        2024,
        "arXiv:2306.13649",
        "response",
        "logits",
    )
)
def jensen_shannon(beta: float = 0.5, alpha: float = 1.0, temperature: float = 1.0) -> Method:
    r"""Match both answers with their mixture: a bounded divergence, between forward and reverse.

    The loss is α·T²·JSD_β + (1 − α)·label. Near β = 0 it behaves as the forward divergence, near 1
    as the reverse. GKD takes it, with β from 0.1 to 0.9, on texts that the student wrote itself;
    α = 1, without labels, is theirs.

    Args:
        beta: the teacher's share of the mixture, above 0 and below 1.
        alpha: the teacher's share of the loss, 0 to 1.
        temperature: T.

    Raises:
        InputError: α is not a share.

    Source: Agarwal et al. 2024, arXiv:2306.13649.

    >>> jensen_shannon().matches
    (Match('logits', 'logits', jensen_shannon, weight=1.0, beta=0.5, temperature=1.0),)
    """
    return shared(divergences.jensen_shannon, alpha, beta=beta, temperature=temperature)


@described(_DISTILLM)
def skewed_kl(skew: float = 0.1, alpha: float = 1.0, temperature: float = 1.0) -> Method:
    r"""Match the teacher with a mixture of student and teacher: α·T²·KL(p ‖ mix) + (1 − α)·label.

    The mixture holds a little of the teacher, so tokens that the student deems impossible no longer
    rule the gradient: steadier than :func:`kd` for large vocabularies. The defaults are the
    authors'.

    Args:
        skew: the teacher's share of the mixture, 0 to below 1; 0 is the plain divergence.
        alpha: the teacher's share of the loss, 0 to 1.
        temperature: T.

    Raises:
        InputError: α is not a share.

    Source: Ko, Kim, Chen, Yun 2024, arXiv:2402.03898; code: jongwooko/distillm.

    >>> skewed_kl().matches
    (Match('logits', 'logits', skewed_kl, weight=1.0, alpha=0.1, temperature=1.0),)
    """
    return shared(divergences.skewed_kl, alpha, alpha=skew, temperature=temperature)


@described(_DISTILLM)
def skewed_reverse_kl(skew: float = 0.1, alpha: float = 1.0, temperature: float = 1.0) -> Method:
    r"""Match a mixture of teacher and student with the student: α·T²·KL(q ‖ mix) + (1 − α)·label.

    It seeks modes as :func:`reverse_kl` does, and is bounded, since the mixture holds a little of
    the student. The defaults are the authors'.

    Args:
        skew: the student's share of the mixture, 0 to below 1; 0 is the reverse divergence.
        alpha: the teacher's share of the loss, 0 to 1.
        temperature: T.

    Raises:
        InputError: α is not a share.

    Source: Ko, Kim, Chen, Yun 2024, arXiv:2402.03898; code: jongwooko/distillm.

    >>> skewed_reverse_kl().matches
    (Match('logits', 'logits', skewed_reverse_kl, weight=1.0, alpha=0.1, temperature=1.0),)
    """
    return shared(divergences.skewed_reverse_kl, alpha, alpha=skew, temperature=temperature)


@described(
    About(
        "f-Divergence Minimization for Sequence-Level Knowledge Distillation",
        "Wen, Li, Du, Mou",
        2023,
        "arXiv:2307.15190",
        "response",
        "logits",
    )
)
def total_variation(alpha: float = 1.0, temperature: float = 1.0) -> Method:
    r"""Match probabilities by how much would have to be moved: α·T/2·Σ|p − q| + (1 − α)·label.

    It is bounded and symmetric, so no rare token counts much; but its gradient fades where the
    student is sure of a wrong answer, so begin from a student that knows the task. α = 1 is a
    starting point.

    Args:
        alpha: the teacher's share, 0 to 1.
        temperature: T.

    Raises:
        InputError: α is not a share.

    Source: Wen, Li, Du, Mou 2023, arXiv:2307.15190; code: jongwooko/distillm (not the authors).

    >>> total_variation().matches
    (Match('logits', 'logits', total_variation, weight=1.0, temperature=1.0),)
    """
    return shared(divergences.total_variation, alpha, temperature=temperature)


@described(
    About(
        "Multi-Label Knowledge Distillation",
        "Yang et al.",
        2023,
        "arXiv:2308.06453",
        "response",
        "logits",
    )
)
def binary(weight: float = 1.0, temperature: float = 1.0, lam: float = 1.0) -> Method:
    r"""Match each class by itself, as a yes or no, for classes that may occur together.

    The loss is weight·T²·Σ over classes of the Bernoulli divergence + λ·label. The label's loss is
    the task's: it must be one for several labels at once; with a task for one label per sample,
    give λ = 0 or train on the teacher alone. The weight is a starting point: the authors' is 10,
    beside a label loss summed over the batch and two more losses.

    Args:
        weight: of the divergence.
        temperature: T.
        lam: λ, the label's weight.

    Raises:
        InputError: λ is negative.

    Source: Yang et al. 2023, arXiv:2308.06453; code: penghui-yang/L2D.

    >>> binary(lam=0.0).matches
    (Match('logits', 'logits', binary_kl, weight=1.0, temperature=1.0),)
    """
    match = Match("logits", "logits", divergences.binary_kl, weight=weight, temperature=temperature)
    return Method((match,), label_weight(lam))


@described(
    About(
        "Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for LLMs",
        "Boizard, El Haddad, Hudelot, Colombo",
        2024,
        "arXiv:2402.12030",
        "response",
        "logits",
        "small",
    )
)
def uld(
    weight: float = 1.5,
    lam: float = 1.0,
    student: str = "logits",
    teacher: str = "logits",
    teacher_mask: str | None = None,
) -> Method:
    r"""Match sorted probabilities: how sure the teacher is, for models with other vocabularies.

    The loss is weight·Σ|p₍ᵢ₎ − q₍ᵢ₎| + λ·label; it sorts both vocabularies at each token. What the
    answers are it does not compare, so the label is needed beside it. The defaults are the
    authors'.

    Args:
        weight: of the distance.
        lam: λ, the label's weight.
        student: the student's tap.
        teacher: the teacher's tap. A task that checks the number of classes, and does not know of
            other tokens, refuses a teacher whose ``logits`` have another; name its last layer then.
        teacher_mask: the batch's field that says which of the teacher's tokens count, (B, T'). The
            n-th that counts in the student is then compared with the n-th that counts in the
            teacher. By default the task says so, if the teacher has other tokens
            (:class:`limbeck.tasks.OtherTokens`); else tokens are compared place by place.

    Raises:
        InputError: λ is negative.

    Source: Boizard, El Haddad, Hudelot, Colombo 2024, arXiv:2402.12030; code:
    Nicolas-BZRD/llm-recipes.

    >>> uld(teacher="lm_head").matches
    (Match('logits', 'lm_head', universal_logit, weight=1.5),)
    """
    fields = {} if teacher_mask is None else {"teacher_mask": teacher_mask}
    loss = divergences.universal_logit
    match = Match(student, teacher, loss, weight=weight, fields=fields)
    return Method((match,), label_weight(lam))
