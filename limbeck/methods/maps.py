"""Methods that compare feature maps as they are, or after a 1×1 convolution of the student's.

Taps are the ends of the last three stages, where the paper does not ask for others; ``stage[-1]``
is the last one before the head. All leave the label's weight to what they are added to, unless a
part of training is kept for them alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses import maps as losses
from limbeck.methods.about import About
from limbeck.methods.match import Match
from limbeck.methods.method import Method, described
from limbeck.methods.stages import STAGES, afterwards, first, paired

__all__ = ["block_wise", "cwd", "freekd", "fsp", "nst"]


@described(
    About(
        "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer",
        "Huang, Wang",
        2017,
        "arXiv:1707.01219",
        "feature",
        "features",
        "small",
    )
)
def nst(
    weight: float = 50.0,
    student: Sequence[str] = STAGES,
    teacher: Sequence[str] = STAGES,
    kernel: Literal["polynomial", "linear", "gaussian"] = "polynomial",
) -> Method:
    r"""Match the distribution of what the channels are selective for, at the end of each stage.

    The squared maximum mean discrepancy between the channels of both maps, each a vector over the
    positions. Channels need not correspond, so that no adapter is trained; it costs products of
    all pairs of channels. The weight is that of the CIFAR-100 benchmark (RepDistiller), whose loss
    has the scale of this one.

    Args:
        weight: of each stage's loss.
        student: the student's taps.
        teacher: the teacher's, one for each of the student's.
        kernel: between two channels; see :func:`limbeck.losses.maps.neuron_selectivity`.

    Raises:
        InputError: there are not as many taps of the one as of the other.

    Source: Huang, Wang 2017, arXiv:1707.01219.

    >>> nst().matches[0]
    Match('stage[-3]', 'stage[-3]', neuron_selectivity, weight=50.0, kernel='polynomial')
    """
    loss = losses.neuron_selectivity
    pairs = paired("nst", student, teacher)
    return Method(tuple(Match(s, t, loss, weight=weight, kernel=kernel) for s, t in pairs))


@described(
    About(
        "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer "
        "Learning",
        "Yim et al.",
        2017,
        "CVPR",
        "feature",
        "features",
        "small",
    )
)
def fsp(
    weight: float = 50.0,
    student: Sequence[str] = STAGES,
    teacher: Sequence[str] = STAGES,
    alone: float = 0.0,
    pooling: Literal["max", "average"] = "max",
) -> Method:
    r"""Match how one stage turns into the next: products of the channels of neighbouring stages.

    The mean squared difference of the two flow matrices, of each stage and the one after it. The
    paper has student and teacher of the same width; where widths differ, the student's maps get a
    1×1 convolution first. Paper and benchmark (RepDistiller, 30 epochs) learn it alone before the
    labels, which ``alone`` does; by default it is learned beside the label. The weight is that of
    RepDistiller's script, on its scale, the mean over a matrix's entries; its loop gives the term
    the weight 1 in the stage of its own and drops it afterwards, so 50 beside the label is a
    starting point.

    Args:
        weight: of each pair of stages.
        student: the student's taps, two at least, from the input on.
        teacher: the teacher's, one for each of the student's.
        alone: the first part of training, 0 to 1, in which this is learned without the label; in
            the rest the label is learned without this. RepDistiller's is 30/270, with weight 1.
            With 0 both are learned throughout.
        pooling: how the larger map of a pair is brought to the smaller's size.

    Raises:
        InputError: there are not as many taps of the one as of the other, or fewer than two.

    Source: Yim, Joo, Bae, Kim 2017, CVPR.

    >>> fsp().matches[0].students, len(fsp().matches)
    (('stage[-3]', 'stage[-2]'), 2)
    """
    pairs = list(itertools.pairwise(paired("fsp", student, teacher)))
    if not pairs:
        raise InputError("fsp got one tap of each model", expected="two taps or more")
    options: dict[str, Any] = {"features": "mean", "pooling": pooling}
    matches = [
        Match((s1, s2), (t1, t2), losses.flow, weight=first(weight, alone), **options)
        for (s1, t1), (s2, t2) in pairs
    ]
    return Method(tuple(matches), afterwards(alone))


@described(
    About(
        "Channel-wise Knowledge Distillation for Dense Prediction",
        "Shu et al.",
        2021,
        "arXiv:2011.13256",
        "feature",
        "features",
        "small",
    )
)
def cwd(
    weight: float = 3.0,
    temperature: float = 4.0,
    student: Sequence[str] = ("stage[-1]",),
    teacher: Sequence[str] = ("stage[-1]",),
) -> Method:
    r"""Match where each channel looks: T²·KL between softmaxes over the positions of a map.

    Made for dense prediction, on the map of logits (name the layer that gives it) or on the last
    feature map, the default here. Weight and temperature are those of the authors' script for the
    map of logits, on the scale of this loss; for features they are a starting point.

    Args:
        weight: of each tap's loss.
        temperature: T.
        student: the student's taps.
        teacher: the teacher's, one for each of the student's.

    Raises:
        InputError: there are not as many taps of the one as of the other.

    Source: Shu et al. 2021, arXiv:2011.13256; code: irfanICMLL/TorchDistiller.

    >>> cwd().matches
    (Match('stage[-1]', 'stage[-1]', channel_wise, weight=3.0, temperature=4.0),)
    """
    loss, pairs = losses.channel_wise, paired("cwd", student, teacher)
    options: dict[str, Any] = {"weight": weight, "temperature": temperature}
    return Method(tuple(Match(s, t, loss, **options) for s, t in pairs))


@described(
    About(
        "FreeKD: Knowledge Distillation via Semantic Frequency Prompt",
        "Zhang et al.",
        2023,
        "arXiv:2311.12079",
        "feature",
        "features",
        "small",
    )
)
def freekd(
    weight: float = 1.0,
    student: Sequence[str] = STAGES,
    teacher: Sequence[str] = STAGES,
    levels: int | None = None,
    tokens: int = 0,
    prompts: Sequence[Tensor] | None = None,
) -> Method:
    r"""Match edges and texture: the high frequencies of the maps, by Haar wavelets.

    Made for dense prediction. The paper learns tokens on the teacher's task first, which say where
    detail matters: :func:`pretrain_prompt` does for each tap, and its results go in here. Without
    them every position counts fully, for tokens as drawn are only noise (their number is 2 to 6 in
    the authors' code). The weight is that of the authors' detectors, which get a squared error of
    weight 5 on the same maps beside it.

    Args:
        weight: of each tap's loss.
        student: the student's taps.
        teacher: the teacher's, one for each of the student's.
        levels: of the transform; by default the authors' 3, or as many as a map is large enough
            for.
        tokens: for each level, frozen as drawn, to be loaded from a state; 0 is without.
        prompts: trained tokens for each of the teacher's taps; they fix levels and tokens.

    Raises:
        InputError: there are not as many taps of the one as of the other, or prompts.

    Source: Zhang et al. 2023, arXiv:2311.12079; code: Gumpest/FreeKD.

    >>> freekd(levels=2).matches[-1]
    Match('stage[-1]', 'stage[-1]', Frequency, weight=1.0, tokens=0, levels=2)
    """
    pairs = paired("freekd", student, teacher)
    options: dict[str, Any] = {"weight": weight, "tokens": tokens, "levels": levels}
    if prompts is None:
        return Method(tuple(Match(s, t, losses.Frequency, **options) for s, t in pairs))
    if len(prompts) != len(pairs):
        raise InputError(
            f"freekd got {len(prompts)} prompts for {len(pairs)} taps", expected="one for each"
        )
    found = zip(pairs, prompts, strict=True)
    frequency = losses.Frequency
    return Method(tuple(Match(*p, frequency, weight=weight, prompt=own) for p, own in found))


@described(
    About(
        "Blockwisely Supervised Neural Architecture Search with Knowledge Distillation",
        "Li et al.",
        2020,
        "arXiv:1911.13053",
        "feature",
        "features",
        "small",
    )
)
def block_wise(
    weight: float = 1.0,
    student: Sequence[str] = STAGES,
    teacher: Sequence[str] = STAGES,
    weights: Sequence[float] | None = None,
) -> Method:
    r"""Match the output of every block, by the mean squared error, added over the blocks.

    Widths that differ are met by 1×1 convolutions. The paper feeds each block of the student with
    the teacher's map before it, so that blocks learn apart; here they learn as one network. The
    weight is a starting point.

    Args:
        weight: of the sum.
        student: the student's blocks.
        teacher: the teacher's, one for each of the student's.
        weights: of each block within the sum; by default 1.

    Raises:
        InputError: there are not as many taps of the one as of the other, or weights.

    Source: Li et al. 2020, arXiv:1911.13053.

    >>> block_wise(student=["layer1"], teacher=["layer2"]).matches
    (Match(('layer1',), ('layer2',), block_wise, weight=1.0, weights=None),)
    """
    pairs = paired("block_wise", student, teacher)
    if weights is not None and len(weights) != len(pairs):
        raise InputError(
            f"block_wise got {len(weights)} weights for {len(pairs)} taps", expected="one for each"
        )
    own, theirs = zip(*pairs, strict=True)
    return Method((Match(own, theirs, losses.block_wise, weight=weight, weights=weights),))
