"""Methods that compare feature maps before their activation, and where that is in a model.

Taps are the ends of the last three stages; :func:`before_activation` finds those before. All leave
the label's weight to what they are added to, unless a part of training is kept for them alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.knowledge.model import at_rest, call
from limbeck.knowledge.stages import stages
from limbeck.losses import maps as losses
from limbeck.losses.transfer import Overhaul
from limbeck.methods.about import About
from limbeck.methods.match import Match
from limbeck.methods.method import Method, described
from limbeck.methods.stages import STAGES, afterwards, first, paired

__all__ = ["ab", "before_activation", "ofd"]

_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish)


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
        Match(s, t, loss, weight=first(share, alone), **options)
        for share, (s, t) in zip(_halved(weight, len(pairs)), pairs, strict=True)
    ]
    return Method(tuple(matches), afterwards(alone))


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


def _halved(weight: float, count: int) -> list[float]:
    """Return a weight for each of ``count`` stages: ..., a quarter, half, all."""
    return [weight / 2 ** (count - 1 - number) for number in range(count)]


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
