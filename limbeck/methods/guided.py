"""Methods whose loss owns modules: they are trained with the student and left behind.

Call ``distiller.prepare(batch)`` before making an optimizer of your own, so that it knows them;
:func:`limbeck.fit` does. All leave the label's weight to what they are added to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.data.augment import Augmentation
from limbeck.data.loader import Loader
from limbeck.data.samples import Batch, Samples, as_samples, seeded
from limbeck.errors import InputError
from limbeck.losses import schedules
from limbeck.losses.predict import MaskedGenerative, Review, Variational
from limbeck.losses.transfer import FactorTransfer, Paraphraser, reconstruction_loss
from limbeck.methods.about import About
from limbeck.methods.beforehand import placed
from limbeck.methods.match import Match
from limbeck.methods.method import Method, described
from limbeck.methods.stages import STAGES, paired
from limbeck.teachers.knowing import Knowing
from limbeck.teachers.module import Teacher

__all__ = ["ft", "mgd", "pretrain_paraphraser", "review", "vid"]


@described(
    About(
        "Paraphrasing Complex Network: Network Compression via Factor Transfer",
        "Kim, Park, Kwak",
        2018,
        "arXiv:1802.04977",
        "feature",
        "features",
        "modules",
    )
)
def ft(
    weight: float = 500.0,
    student: str = "stage[-1]",
    teacher: str = "stage[-1]",
    paraphraser: Paraphraser | None = None,
    rate: float = 0.5,
) -> Method:
    r"""Match factors: what an autoencoder makes of the teacher's map, told by a translator.

    The mean absolute difference between both factors, each normalised to length 1. The paper trains
    the autoencoder (paraphraser) first: :func:`pretrain_paraphraser` does, and its result goes in
    here. Without one it is trained alongside, by its mean absolute error, which has the weight 1
    and is part of this method's term; no gradient of the transfer loss reaches it. The weight is
    that of the authors' code for CIFAR-10, on its scale, the mean over a factor's entries;
    RepDistiller's 200 belongs to another formula, a distance of attention maps.

    Args:
        weight: of the distance between factors.
        student: the student's tap.
        teacher: the teacher's tap.
        paraphraser: one that was trained on the teacher's tap; a copy of it is used, frozen.
        rate: factors per channel of the teacher; a paraphraser that is given has its own.

    Raises:
        InputError: the weight is not above 0.

    Source: Kim, Park, Kwak 2018, arXiv:1802.04977; code: Jangho-Kim/Factor-Transfer-pytorch.

    >>> ft(rate=0.75).matches[0].student
    'stage[-1]'
    """
    if weight <= 0:
        raise InputError(f"ft's weight is {weight}", expected="a number above 0")
    # The term is multiplied by the weight; the reconstruction error in it is to count once.
    beside = {"paraphraser": paraphraser} if paraphraser else {"reconstruction": 1 / weight}
    options: dict[str, Any] = {"features": "mean", "rate": rate, **beside}
    return Method((Match(student, teacher, FactorTransfer, weight=weight, **options),))


@described(
    About(
        "Variational Information Distillation for Knowledge Transfer",
        "Ahn et al.",
        2019,
        "arXiv:1904.05835",
        "feature",
        "features",
        "modules",
    )
)
def vid(
    weight: float = 1.0,
    student: Sequence[str] = STAGES,
    teacher: Sequence[str] = STAGES,
    initial_variance: float = 5.0,
) -> Method:
    r"""Match what the student can predict of the teacher's maps: a bound of mutual information.

    The negative log-likelihood of the teacher's map under a Gaussian, whose mean three 1×1
    convolutions make of the student's map, and whose variance is learned for each channel. Weight
    and variance are those of the CIFAR-100 benchmark (RepDistiller), on its scale, the mean over
    features; the paper sums over them.

    Args:
        weight: of each stage's loss.
        student: the student's taps.
        teacher: the teacher's, one for each of the student's.
        initial_variance: of every channel, above 0.

    Raises:
        InputError: there are not as many taps of the one as of the other.

    Source: Ahn et al. 2019, arXiv:1904.05835.

    >>> [match.student for match in vid().matches]
    ['stage[-3]', 'stage[-2]', 'stage[-1]']
    """
    pairs = paired("vid", student, teacher)
    options: dict[str, Any] = {"features": "mean", "initial_variance": initial_variance}
    return Method(tuple(Match(s, t, Variational, weight=weight, **options) for s, t in pairs))


@described(
    About(
        "Distilling Knowledge via Knowledge Review",
        "Chen et al.",
        2021,
        "arXiv:2104.09044",
        "feature",
        "features",
        "modules",
    )
)
def review(
    weight: float = 5.0,
    student: Sequence[str] = (*STAGES, "penultimate"),
    teacher: Sequence[str] = (*STAGES, "penultimate"),
    warmup: float = 20 / 240,
    width: int | None = None,
) -> Method:
    r"""Match each stage of the teacher with what the student's same and deeper stages make up.

    Learned attention fuses the student's stages from the deepest to the shallowest; each is
    compared by mean squared errors at several sizes, on the authors' scale. Weight and warm-up are
    theirs for CIFAR-100, where the weight is 5 for most pairs, 8 for ShuffleNetV2 and 0.6 for
    resnet56 to resnet20; the batch size is then 128 and the learning rate 0.1.

    Args:
        weight: of the sum over stages, after the warm-up.
        student: the student's stages, from the input on; the last may be the pooled feature.
        teacher: the teacher's, one for each of the student's.
        warmup: the part of training over which the weight rises from 0, here 20 epochs of 240; 0 is
            none.
        width: channels of the fusion; by default those of the student's last tap, at most 512.

    Raises:
        InputError: there are not as many taps of the one as of the other.

    Source: Chen, Liu, Zhao, Jia 2021, arXiv:2104.09044; code: dvlab-research/ReviewKD.

    >>> review(warmup=0).matches[0].weight
    5.0
    """
    own, theirs = zip(*paired("review", student, teacher), strict=True)
    rising = schedules.warmup(weight, warmup) if warmup else weight
    return Method((Match(own, theirs, Review, weight=rising, width=width),))


@described(
    About(
        "Masked Generative Distillation",
        "Yang et al.",
        2022,
        "arXiv:2205.01529",
        "feature",
        "features",
        "modules",
    )
)
def mgd(
    weight: float = 7e-5,
    drop: float = 0.5,
    places: Literal["positions", "channels"] = "positions",
    student: Sequence[str] = ("stage[-1]",),
    teacher: Sequence[str] = ("stage[-1]",),
) -> Method:
    r"""Match the teacher's map with one generated from the student's, of which parts are hidden.

    The sum of squared differences over the features of the last map; two 3×3 convolutions generate
    it. Weight and ``drop`` are the paper's for classification on ImageNet, on this scale. The
    authors' code for classification hides channels with ``drop`` 0.15, and has the weight 0.0012
    for CIFAR-100.

    Args:
        weight: of each tap's loss.
        drop: probability that a place is hidden.
        places: what is hidden: ``positions`` of all channels, or whole ``channels``.
        student: the student's taps.
        teacher: the teacher's, one for each of the student's.

    Raises:
        InputError: there are not as many taps of the one as of the other.

    Source: Yang et al. 2022, arXiv:2205.01529; code: yzd-v/cls_KD.

    >>> mgd().matches
    (Match('stage[-1]', 'stage[-1]', MaskedGenerative, weight=7e-05, drop=0.5, places='positions'),)
    """
    pairs = paired("mgd", student, teacher)
    options: dict[str, Any] = {"weight": weight, "drop": drop, "places": places}
    return Method(tuple(Match(s, t, MaskedGenerative, **options) for s, t in pairs))


def pretrain_paraphraser(
    teacher: Knowing | nn.Module,
    samples: Samples | Any,
    *,
    tap: str = "stage[-1]",
    rate: float = 0.5,
    batch_norm: bool = True,
    epochs: int = 5,
    batch_size: int = 128,
    learning_rate: float = 0.1,
    augment: Augmentation | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> Paraphraser:
    """Return a paraphraser for :func:`ft`, trained to tell the teacher's map again.

    A plain loop: SGD with momentum 0.9 and weight decay 5e-4 on the mean absolute error. These, the
    epochs, the batch size and the learning rate are those of the authors' code, whose networks are
    without batch norm. The same arguments give the same paraphraser; PyTorch's generators stay
    untouched.

    Args:
        teacher: a teacher, or a module that needs no preprocessing.
        samples: what it is shown; labels are not used.
        tap: a map (B, C, H, W) of the teacher, the one that ``ft`` is given.
        rate: factors per channel.
        batch_norm: as :class:`limbeck.losses.transfer.Paraphraser`.
        epochs: over the samples.
        batch_size: at most the number of samples.
        learning_rate: constant.
        augment: of the samples, best as in the student's training.
        device: where it runs; by default where the samples are.
        seed: of the first weights and of the order.

    Raises:
        InputError: the tap is not a map.

    Source: Kim, Park, Kwak 2018, arXiv:1802.04977; code: Jangho-Kim/Factor-Transfer-pytorch.

    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    >>> images, labels = torch.zeros(8, 1, 8, 8), torch.zeros(8)
    >>> pretrain_paraphraser(model, (images, labels), epochs=1, batch_size=4).factors
    2
    """
    knows = teacher if isinstance(teacher, Knowing) else Teacher(teacher)
    options: dict[str, Any] = {"shuffle": True, "seed": seed, "augment": augment}
    loader = Loader(as_samples(samples), batch_size, **options)
    maps = _map(knows, next(iter(loader)), tap, device)
    with seeded(seed):
        channels = maps.shape[1]
        made = Paraphraser(channels, max(1, round(rate * channels)), batch_norm=batch_norm)
    made = made.to(maps.device).train()
    optimizer = torch.optim.SGD(made.parameters(), learning_rate, momentum=0.9, weight_decay=5e-4)
    for epoch in range(epochs):
        for batch in loader.epoch(epoch):
            loss = reconstruction_loss(made, _map(knows, batch, tap, device), form="absolute")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return made.eval().requires_grad_(False)


def _map(teacher: Knowing, batch: Batch, tap: str, device: torch.device | str | None) -> Tensor:
    """Return the tapped map of a batch, in float32."""
    maps: Tensor = teacher.knowledge(placed(batch, device), (tap,))[tap]
    if maps.ndim != 4:
        raise InputError(f"the tap {tap!r} gives {tuple(maps.shape)}", expected="maps (B, C, H, W)")
    return maps.float()
