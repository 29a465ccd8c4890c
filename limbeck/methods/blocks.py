"""Methods for Transformers: states, attention and relations of tokens in mapped blocks.

A block is ``stage[i]``, counted from 0, whose output is (B, N, D). Models of Hugging Face that are
configured with ``output_hidden_states=True`` have them as ``output[hidden_states][i]``, counted
from 1, with the embeddings as 0; with ``output_attentions=True`` (and eager attention) they have
attention as ``output[attentions][i]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from limbeck.errors import InputError
from limbeck.losses import blocks as losses
from limbeck.losses.features import cosine_hint
from limbeck.losses.logits import kl
from limbeck.methods.about import About
from limbeck.methods.match import Match
from limbeck.methods.method import Method, described

__all__ = ["distilbert", "minilm", "pkd", "tinybert"]

_Taps = Sequence[str]


@described(
    About(
        "Patient Knowledge Distillation for BERT Model Compression",
        "Sun et al.",
        2019,
        "arXiv:1908.09355",
        "feature",
        "features",
    )
)
def pkd(
    weight: float = 100.0,
    blocks: tuple[int, int] = (6, 12),
    student: _Taps | None = None,
    teacher: _Taps | None = None,
    token: int | None = 0,
) -> Method:
    r"""Match the direction of the first token's state in many blocks, not in the last alone.

    label + weight·mean over blocks and units, to be added to :func:`kd`, which answers for the last
    block: ``kd(temperature=10, alpha=0.5) + pkd()``. Every k-th block of the teacher guides one of
    the student (PKD-Skip): 2, 4, 6, 8, 10 of 12 for a student of 6. Where widths differ, each block
    has a linear layer that is left behind.

    Args:
        weight: β. The authors search 10, 100, 500 and 1000, with T of 5, 10, 20 and α of 0.2, 0.5,
            0.7; 100 is a starting point.
        blocks: how many the student and the teacher have; not read if taps are given.
        student: taps of the student's blocks, each (B, N, D).
        teacher: of the teacher's, one for each.
        token: the position that is compared, 0 for [CLS]; ``None`` compares all.

    Raises:
        InputError: the teacher's blocks are no multiple of the student's, or there are not as many
            taps of the one as of the other.

    Source: Sun, Cheng, Gan, Liu 2019, arXiv:1908.09355; code:
    intersun/PKD-for-BERT-Model-Compression.

    >>> pkd().matches[0].teacher
    ('stage[1]', 'stage[3]', 'stage[5]', 'stage[7]', 'stage[9]')
    """
    if student is None and teacher is None:
        own, step = blocks[0], _step("pkd", blocks)
        student = [f"stage[{i}]" for i in range(own - 1)]
        teacher = [f"stage[{step * (i + 1) - 1}]" for i in range(own - 1)]
    pair = _pair("pkd", student, teacher)
    options: dict[str, Any] = {"token": token, "features": "mean"}
    return Method((Match(*pair, losses.patient, weight=weight, name="patient", **options),))


@described(
    About(
        "TinyBERT: Distilling BERT for Natural Language Understanding",
        "Jiao et al.",
        2020,
        "arXiv:1909.10351",
        "feature",
        "features, attention",
        "modules",
    )
)
def tinybert(
    weight: float = 1.0,
    blocks: tuple[int, int] = (4, 12),
    states: tuple[_Taps, _Taps] | None = None,
    attention: tuple[_Taps, _Taps] | None = None,
    form: Literal["paper", "code"] = "paper",
) -> Method:
    r"""Match the embeddings, the states and the attention of every block with every k-th.

    label + weight·(states + attention), each a sum of mean squared errors; both parts count alike,
    as the authors have them. They train in two stages: this with a label weight of 0, then the
    answers (``methods.kd(temperature=1, alpha=1)``). States of other width get a linear layer each,
    left behind; the authors share one among all. Heads must be as many in both.

    The default taps are those of Hugging Face models, whose attention is taken *after* the softmax;
    the paper found the scores before it better. Tap those where a model gives them, for then a
    masked position (−100 or less) does not count either.

    Args:
        weight: of each part.
        blocks: how many the student and the teacher have; not read where taps are given.
        states: the student's taps, each (B, N, D), and as many of the teacher; ``([], [])`` leaves
            states out.
        attention: the same for scores (B, H, N, N).
        form: how padding counts, see :func:`limbeck.losses.tinybert`; it needs a task with a mask.

    Raises:
        InputError: the teacher's blocks are no multiple of the student's, the numbers of taps
            differ, or nothing is left to match.

    Source: Jiao et al. 2020, arXiv:1909.10351; code: huawei-noah/Pretrained-Language-Model.

    >>> states, attention = tinybert().matches
    >>> states.teachers[1], attention.teachers[0]
    ('output[hidden_states][3]', 'output[attentions][2]')
    """
    own = range(blocks[0] + 1)
    if states is None:
        step, tap = _step("tinybert", blocks), "output[hidden_states][{}]"
        states = [tap.format(i) for i in own], [tap.format(step * i) for i in own]
    if attention is None:
        step, tap = _step("tinybert", blocks), "output[attentions][{}]"
        attention = [tap.format(i) for i in own[:-1]], [tap.format(step * i - 1) for i in own[1:]]
    parts = {"states": (states, "auto"), "attention": (attention, "none")}
    matches = tuple(
        Match(
            *_pair("tinybert", *taps),
            losses.tinybert,
            weight=weight,
            adapter=adapter,
            name=f"tinybert {part}",
            form=form,
        )
        for part, (taps, adapter) in parts.items()
        if any(taps)
    )
    if not matches:
        raise InputError("tinybert without states and attention", expected="one of them at least")
    return Method(matches)


def _bert(block: int) -> tuple[str, str, str]:
    """Return where a BERT of Hugging Face projects a block's queries, keys and values."""
    place = f"bert.encoder.layer.{block}.attention.self"
    return f"{place}.query", f"{place}.key", f"{place}.value"


@described(
    About(
        "MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained "
        "Transformers",
        "Wang et al.",
        2021,
        "arXiv:2012.15828",
        "feature",
        "queries, keys, values",
        "small",
    )
)
def minilm(
    heads: int = 48,
    form: Literal["v2", "v1"] = "v2",
    weight: float = 1.0,
    student: _Taps = _bert(5),
    teacher: _Taps = _bert(11),
) -> Method:
    r"""Match which token relates to which in one block: queries, keys and values with themselves.

    label + weight·Σ KL of the relations. It needs no adapter, neither equal widths nor as many
    blocks or heads, and only one block of each: the student's last, and the teacher's last or, in a
    large one, a late one (the 21st of BERT-large's 24). The authors use it without labels, on plain
    text: ``minilm().with_label_weight(0)``. The weights α of the relations are 1.

    Args:
        heads: H, into how many relation heads both widths are split; the authors take 48 for a
            teacher of BERT-base's size and 64 for one of BERT-large's. In ``v1`` the number of
            attention heads, the same in both models.
        form: ``v2``, or ``v1`` (arXiv:2002.10957): attention and the relation of values.
        weight: of the sum of relations.
        student: the student's queries, keys and values, each (B, N, D), before they are split into
            heads; the default is the sixth block of a Hugging Face BERT.
        teacher: as many of the teacher; the default is its twelfth.

    Raises:
        InputError: there are not as many taps of the one as of the other.

    Source: Wang et al. 2021, arXiv:2012.15828; Wang et al. 2020, arXiv:2002.10957.

    >>> minilm().matches[0].students[0]
    'bert.encoder.layer.5.attention.self.query'
    """
    pair = _pair("minilm", student, teacher)
    return Method(
        (Match(*pair, losses.minilm, weight=weight, name="minilm", heads=heads, form=form),)
    )


@described(
    About(
        "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter",
        "Sanh et al.",
        2019,
        "arXiv:1910.01108",
        "response",
        "logits, features",
    )
)
def distilbert(
    temperature: float = 2.0,
    soft: float = 5.0,
    cosine: float = 1.0,
    label: float = 2.0,
    student: str = "stage[-1]",
    teacher: str = "stage[-1]",
) -> Method:
    r"""Match the softened answer and the direction of the last states.

    5·T²·KL + 1·(1 − cosine) + 2·label. The weights and T are those of the published training, in
    which the label is the masked word; the student begins as every second block of the teacher.
    Where widths differ, the states get a linear layer that is left behind.

    Args:
        temperature: T.
        soft: weight of the divergence.
        cosine: weight of the states.
        label: weight of the label.
        student: the student's last states (B, N, D).
        teacher: the teacher's.

    Source: Sanh, Debut, Chaumond, Wolf 2019, arXiv:1910.01108; code:
    huggingface/transformers-research-projects.

    >>> [match.weight for match in distilbert().matches], distilbert().label_weight
    ([5.0, 1.0], 2.0)
    """
    matches = (
        Match("logits", "logits", kl, weight=soft, temperature=temperature),
        Match(student, teacher, cosine_hint, weight=cosine),
    )
    return Method(matches, label)


def _step(method: str, blocks: Sequence[int]) -> int:
    """Return of how many of the teacher's blocks one guides a block of the student."""
    if len(blocks) != 2 or min(blocks) < 1 or blocks[1] % blocks[0]:
        raise InputError(
            f"{method} got blocks {tuple(blocks)}",
            expected="how many the student has, and a multiple of that in the teacher",
            remedy="Name the taps of the blocks that you pair.",
        )
    return blocks[1] // blocks[0]


def _pair(method: str, student: _Taps | None, teacher: _Taps | None) -> tuple[list[str], list[str]]:
    """Return both lists of taps, equally long."""
    listed = all(taps is not None and not isinstance(taps, str) for taps in (student, teacher))
    own, theirs = list(student or ()), list(teacher or ())
    if not listed or not own or len(own) != len(theirs):
        raise InputError(
            f"{method} got the student's taps {student!r} and the teacher's {teacher!r}",
            expected="two lists of taps, equally long",
        )
    return own, theirs
