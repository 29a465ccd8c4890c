"""Methods that compare feature maps as they are, or after a 1×1 convolution of the student's.

Taps are the ends of the last three stages, where the paper does not ask for others; ``stage[-1]``
is the last one before the head. All leave the label's weight to what they are added to, unless a
part of training is kept for them alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.knowledge.model import at_rest, call
from limbeck.knowledge.stages import stages
from limbeck.losses import maps as losses
from limbeck.losses.schedules import Schedule
from limbeck.losses.transfer import Overhaul
from limbeck.methods.about import About
from limbeck.methods.match import Match
from limbeck.methods.method import Method, described

__all__ = ["ab", "before_activation", "block_wise", "cwd", "freekd", "fsp", "nst", "ofd"]

STAGES = ("stage[-3]", "stage[-2]", "stage[-1]")
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish)


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
        Match((s1, s2), (t1, t2), losses.flow, weight=_first(weight, alone), **options)
        for (s1, t1), (s2, t2) in pairs
    ]
    return Method(tuple(matches), _afterwards(alone))


@described(
    About(
        "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
        "Heo et al.",
        2019,
        "arXiv:1811.03233",
        "feature",
        "features",
        "modules",
    )
)
def ab(
    weight: float = 0.003,
    student: Sequence[str] = STAGES,
    teacher: Sequence[str] = STAGES,
    margin: float = 1.0,
    alone: float = 0.0,
) -> Method:
    r"""Match which neurons are active, by a squared hinge, at the end of each stage.

    Only the teacher's signs count, so that stages may be tapped after their ReLU, where the
    inactive are 0; the student's maps always get a 1×1 convolution (the authors put a batch norm
    behind it), and are better tapped before it: see :func:`before_activation`. Weights are the
    authors': 3/1000 of the sum over features, halved with each stage towards the input. They learn
    this alone before the labels, which ``alone`` does; by default it is learned beside the label.

    Args:
        weight: of the last stage's loss; each one before it has half the weight of the next.
        student: the student's taps, from the input on.
        teacher: the teacher's, one for each of the student's.
        margin: how far on the right side the student must be.
        alone: the first part of training, 0 to 1, in which this is learned without the label; in
            the rest the label is learned without this. RepDistiller's is 30/270. With 0 both are
            learned throughout.

    Raises:
        InputError: there are not as many taps of the one as of the other.

    Source: Heo, Lee, Yun, Choi 2019, arXiv:1811.03233; code: bhheo/AB_distillation.

    >>> [match.weight for match in ab().matches]
    [0.00075, 0.0015, 0.003]
    """
    loss, pairs = losses.activation_boundary, paired("ab", student, teacher)
    options: dict[str, Any] = {"adapter": "conv1x1", "margin": margin}
    matches = [
        Match(s, t, loss, weight=_first(share, alone), **options)
        for share, (s, t) in zip(_halved(weight, len(pairs)), pairs, strict=True)
    ]
    return Method(tuple(matches), _afterwards(alone))


@described(
    About(
        "A Comprehensive Overhaul of Feature Distillation",
        "Heo et al.",
        2019,
        "arXiv:1904.01866",
        "feature",
        "features",
        "modules",
    )
)
def ofd(
    weight: float = 0.001,
    student: Sequence[str] = STAGES,
    teacher: Sequence[str] = STAGES,
    margins: Sequence[float] | None = None,
) -> Method:
    r"""Match maps before their activation, and leave alone what both networks silence.

    The sum of squared differences after a 1×1 convolution and batch norm of the student's map; the
    teacher's negative values count down to a margin only, and a student below it is right. Taps
    before the activation come from :func:`before_activation`. For the input of an activation, the
    margins are those of the teacher's batch norm before it, found by name as in the zoo's ResNets
    (:func:`limbeck.losses.margins.norm_before`); else each channel's mean negative value in the two
    samples of the dry run. The default taps, stages, are mostly after a ReLU: then no value is
    negative, every silent one is a target of 0, and margins have no effect. Weights are the
    authors' for CIFAR; for ImageNet they take a tenth.

    Args:
        weight: of the last stage's loss; each one before it has half the weight of the next.
        student: the student's taps, from the input on.
        teacher: the teacher's, one for each of the student's.
        margins: of each tap, for all its channels, not positive; by default found as above.

    Raises:
        InputError: there are not as many taps of the one as of the other, or margins.

    Source: Heo et al. 2019, arXiv:1904.01866; code: clovaai/overhaul-distillation.

    >>> ofd().matches[-1]
    Match('stage[-1]', 'stage[-1]', Overhaul, weight=0.001, tap='stage[-1]')
    """
    pairs = paired("ofd", student, teacher)
    if margins is not None and len(margins) != len(pairs):
        raise InputError(
            f"ofd got {len(margins)} margins for {len(pairs)} taps", expected="one for each"
        )
    given: list[dict[str, Any]] = (
        [{"tap": t} for _, t in pairs] if margins is None else [{"margin": m} for m in margins]
    )
    shares = _halved(weight, len(pairs))
    matches = [
        Match(s, t, Overhaul, weight=share, **options)
        for (s, t), share, options in zip(pairs, shares, given, strict=True)
    ]
    return Method(tuple(matches))


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
) -> Method:
    r"""Match edges and texture: the high frequencies of the maps, by Haar wavelets.

    Made for dense prediction. The paper learns tokens on the teacher's task first, which say where
    detail matters; here every position counts fully, for tokens as drawn are only noise (their
    number is 2 to 6 in the authors' code). The weight is that of the authors' detectors, which get
    a squared error of weight 5 on the same maps beside it.

    Args:
        weight: of each tap's loss.
        student: the student's taps.
        teacher: the teacher's, one for each of the student's.
        levels: of the transform; by default the authors' 3, or as many as a map is large enough
            for.
        tokens: for each level, frozen as drawn, to be loaded from a state; 0 is without.

    Raises:
        InputError: there are not as many taps of the one as of the other.

    Source: Zhang et al. 2023, arXiv:2311.12079; code: Gumpest/FreeKD.

    >>> freekd(levels=2).matches[-1]
    Match('stage[-1]', 'stage[-1]', Frequency, weight=1.0, tokens=0, levels=2)
    """
    pairs = paired("freekd", student, teacher)
    options: dict[str, Any] = {"weight": weight, "tokens": tokens, "levels": levels}
    return Method(tuple(Match(s, t, losses.Frequency, **options) for s, t in pairs))


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


def before_activation(model: nn.Module, inputs: Any, count: int = 3) -> tuple[str, ...]:
    """Return taps of the last stages as they are before their activation, for ``ab`` and ``ofd``.

    The model runs once. A stage that ends with an activation module is tapped at its input; one
    that does not, or whose activation is called several times, where it ends.

    Args:
        model: the student or the teacher.
        inputs: what it is called with; two samples are enough.
        count: of stages, from the end.

    >>> import torch
    >>> from limbeck.students import zoo
    >>> before_activation(zoo.resnet(14), torch.zeros(1, 3, 32, 32))
    ('layer1.1.relu2:input', 'layer2.1.relu2:input', 'layer3.1.relu2:input')
    """
    ends = stages(model, inputs)[-count:]
    made = _made(model, inputs, ends)
    modules = dict(model.named_modules())
    taps = []
    for end in ends:
        inside = [
            name
            for name, outputs in made.items()
            if isinstance(modules[name], _ACTIVATIONS)
            and len(outputs) == 1
            and outputs[0] is made[end][-1]
        ]
        taps.append(f"{inside[-1]}:input" if inside else end)
    return tuple(taps)


def paired(name: str, student: Sequence[str], teacher: Sequence[str]) -> list[tuple[str, str]]:
    """Return a method's taps in pairs; refuse single names and lists of unequal length."""
    one = isinstance(student, str) or isinstance(teacher, str)
    if one or not student or len(student) != len(teacher):
        raise InputError(
            f"{name} got the student's taps {student!r} and the teacher's {teacher!r}",
            expected="two lists of taps, equally long",
        )
    return list(zip(student, teacher, strict=True))


def _halved(weight: float, count: int) -> list[float]:
    """Return a weight for each of ``count`` stages: ..., a quarter, half, all."""
    return [weight / 2 ** (count - 1 - number) for number in range(count)]


def _first(weight: float, alone: float) -> float | Schedule:
    """Return a weight for the first part of training, or for all of it."""
    if not 0 <= alone < 1:
        raise InputError(f"alone is {alone}", expected="a part of training, from 0 to below 1")
    return (lambda progress: weight if progress < alone else 0.0) if alone else weight


def _afterwards(alone: float) -> Schedule | None:
    """Return the label's weight where the first part of training goes without it."""
    return (lambda progress: float(progress >= alone)) if alone else None


def _made(model: nn.Module, inputs: Any, ends: Sequence[str]) -> dict[str, list[Tensor]]:
    """Return what activations and stages put out in one run."""
    made: dict[str, list[Tensor]] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, _ACTIVATIONS) or name in ends:
            outputs = made.setdefault(name, [])
            note = lambda _, args, output, outputs=outputs: outputs.append(output)  # noqa: E731
            handles.append(module.register_forward_hook(note))
    try:
        with at_rest(model):
            call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return made
