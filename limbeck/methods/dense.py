"""Methods for detectors and segmentation: where an answer is a map, a box or an edge.

They are for models whose outputs or modules yield such tensors, and for tasks whose targets are
boxes or maps of labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from limbeck.errors import InputError
from limbeck.losses import dense as losses
from limbeck.losses import detectors
from limbeck.losses.maps import channel_wise
from limbeck.methods.about import About
from limbeck.methods.match import Match
from limbeck.methods.method import Method, described

__all__ = ["cwd_logits", "detection", "fgd", "ld", "segmentation", "set_detection"]

_ANSWERS = ("output[classes]", "output[edges]")
_QUERIES = ("output[classes]", "output[boxes]")

_LEVELS = tuple(f"neck.fpn_convs.{level}.conv" for level in range(5))


@described(
    About(
        "Localization Distillation for Dense Object Detection",
        "Zheng et al.",
        2022,
        "arXiv:2102.12252",
        "dense",
        "distributions of edges",
    )
)
def ld(
    weight: float = 0.25,
    temperature: float = 10.0,
    bins: int = 17,
    student: str = "output[edges]",
    teacher: str = "output[edges]",
) -> Method:
    r"""Match how sure the teacher is of where each edge of a box lies: T²·KL over bins.

    For detectors that predict an edge as a distribution (GFL). Both models must look at the same
    places, and the tensors hold those that count: the authors take the places of objects and those
    near them, and weigh each by its quality. Weight and temperature are theirs.

    Args:
        weight: of the mean over bins, as in the authors' code; the loss, which is a sum over bins,
            gets it divided by their number.
        temperature: T.
        bins: N, over which an edge is predicted: 17 in GFL.
        student: logits of edges (B, E, N).
        teacher: the teacher's, for the same edges.

    Raises:
        InputError: the number of bins is not positive.

    Source: Zheng et al. 2022, arXiv:2102.12252; code: HikariTJU/LD.

    >>> ld(bins=5).matches
    (Match('output[edges]', 'output[edges]', localization, weight=0.05, temperature=10.0),)
    """
    if bins < 1:
        raise InputError(f"bins is {bins}", expected="1 or more")
    match = Match(
        student, teacher, losses.localization, weight=weight / bins, temperature=temperature
    )
    return Method((match,))


@described(
    About(
        "Localization Distillation for Dense Object Detection",
        "Zheng et al.",
        2022,
        "arXiv:2102.12252",
        "dense",
        "classes, distributions of edges",
    )
)
def detection(
    weight: float = 1.0,
    edges: float = 0.25,
    temperature: float = 1.0,
    edge_temperature: float = 4.0,
    student: Sequence[str] = _ANSWERS,
    teacher: Sequence[str] = _ANSWERS,
) -> Method:
    r"""Match the classes at all places, and the edges of boxes where the teacher is sure.

    label + weight·(KL of the classes, each a yes or no, + λ·KL of the edges), for detectors that
    answer place by place, as those of the zoo do. It differs from the paper in where edges count,
    see :func:`limbeck.losses.detection`; the weights are starting points of our own.

    Args:
        weight: of the loss.
        edges: λ; 0 leaves the edges out.
        temperature: T of the classes.
        edge_temperature: T of the edges.
        student: the student's logits of classes (B, L, C) and of edges (B, 4·L, N).
        teacher: the teacher's, at the same places.

    Source: edges after Zheng et al. 2022, arXiv:2102.12252; classes after Yang et al. 2023,
    arXiv:2308.06453.

    >>> detection().matches[0].name
    'detection output[classes] output[edges]'
    """
    match = Match(
        student,
        teacher,
        detectors.detection,
        weight=weight,
        edges=edges,
        temperature=temperature,
        edge_temperature=edge_temperature,
    )
    return Method((match,))


@described(
    About(
        "DETRDistill: A Universal Knowledge Distillation Framework for DETR-families",
        "Chang et al.",
        2023,
        "arXiv:2211.10156",
        "dense",
        "classes, boxes",
        "small",
    )
)
def set_detection(
    weight: float = 1.0,
    temperature: float = 1.0,
    nothing: float = 0.1,
    distance: float = 5.0,
    shared: float = 2.0,
    student: Sequence[str] = _QUERIES,
    teacher: Sequence[str] = _QUERIES,
) -> Method:
    r"""Match the boxes of two detectors that answer with sets, each with that which costs least.

    label + weight·(least sum over pairs of queries), for DETR and its descendants. It is the
    paper's matching of logits alone, see :func:`limbeck.losses.set_detection` for where it differs.
    Its features and its priors of queries are left out.

    Args:
        weight: of the loss.
        temperature: T of the classes.
        nothing: how much a query counts in which the teacher sees nothing.
        distance: weight of the distance between boxes.
        shared: weight of what boxes do not share.
        student: the student's yes-or-no logits of classes (B, Q, C) and boxes (B, Q, 4).
        teacher: the teacher's, of as many queries or of others.

    Source: after Chang et al. 2023, arXiv:2211.10156.

    >>> set_detection().matches[0].name
    'set_detection output[classes] output[boxes]'
    """
    match = Match(
        student,
        teacher,
        detectors.set_detection,
        weight=weight,
        temperature=temperature,
        nothing=nothing,
        distance=distance,
        shared=shared,
    )
    return Method((match,))


@described(
    About(
        "Focal and Global Knowledge Distillation for Detectors",
        "Yang et al.",
        2022,
        "arXiv:2111.11837",
        "dense",
        "features, boxes",
        "modules",
    )
)
def fgd(
    image: tuple[int, int] | None = None,
    alpha: float = 0.001,
    beta: float = 0.0005,
    gamma: float = 0.001,
    relation: float = 0.000005,
    attention: float = 0.5,
    form: Literal["paper", "code"] = "paper",
    student: Sequence[str] = _LEVELS,
    teacher: Sequence[str] = _LEVELS,
) -> Method:
    r"""Match a detector's pyramid, objects and background apart, and the relation of pixels.

    label + Σ over levels. It costs a global context block for each side of each level, and a 1×1
    convolution where channels differ, all left behind. The authors' weights (α, β, γ, λ): one stage
    with anchors 1e-3, 5e-4, 1e-3, 5e-6, which are the defaults (5e-4 for γ in their RetinaNet);
    two stages 5e-5, 2.5e-5, 5e-5, 5e-7; FCOS 1.6e-3, 8e-4, 8e-4, 8e-6 with ``attention=0.8``.

    Args:
        image: (height, width) in pixels of the images in which the task's targets, (B, N, 4), are
            boxes; ``None`` takes it from each batch's ``inputs``, (B, 3, H, W).
        alpha: weight of objects.
        beta: weight of the background.
        gamma: weight of the attentions' difference.
        relation: λ, weight of the global part.
        attention: temperature of the attentions.
        form: which cells a box covers, see :func:`limbeck.losses.focal_global`.
        student: one tap for each level of the pyramid, (B, C, H, W); the defaults are the names of
            MMDetection, five levels (four in two-stage detectors).
        teacher: the teacher's, one for each of the student's.

    Raises:
        InputError: there are not as many taps of the one as of the other, or the image's size is
            not two positive numbers.

    Source: Yang et al. 2022, arXiv:2111.11837; code: yzd-v/FGD.

    >>> len(fgd().matches)
    5
    """
    if image is not None and (len(image) != 2 or min(image) < 1):
        raise InputError(f"the image's size is {image!r}", expected="(height, width) in pixels")
    if isinstance(student, str) or isinstance(teacher, str) or len(student) != len(teacher):
        raise InputError(
            f"fgd got the student's taps {student!r} and the teacher's {teacher!r}",
            expected="two lists of taps, equally long",
        )
    matches = (
        Match(
            own,
            theirs,
            losses.FocalGlobal,
            adapter="none",  # it has a convolution itself
            fields={} if image else {"images": "inputs"},
            image=None if image is None else (image[0], image[1]),
            alpha=alpha,
            beta=beta,
            gamma=gamma,
            relation=relation,
            attention=attention,
            form=form,
        )
        for own, theirs in zip(student, teacher, strict=True)
    )
    return Method(tuple(matches))


@described(
    About(
        "Structured Knowledge Distillation for Semantic Segmentation",
        "Liu et al.",
        2019,
        "arXiv:1903.04197",
        "dense",
        "logits, features",
        "small",
    )
)
def segmentation(
    pixel: float = 10.0,
    pair: float = 10.0,
    temperature: float = 1.0,
    patches: int | tuple[int, int] = 2,
    student: str = "stage[-1]",
    teacher: str = "stage[-1]",
) -> Method:
    r"""Match the classes of each pixel, and which regions of an image resemble one another.

    label + 10·pixel-wise + 10·pair-wise. The paper's third part, a discriminator, is left out. Both
    weights are the paper's λ₁; the authors' code has 1 for the pairs, and sums the pixels' part
    over samples.

    Args:
        pixel: weight of the divergence at each pixel of the logits (B, K, H, W).
        pair: weight of the similarities of regions.
        temperature: T of the pixels' part.
        patches: regions on a side, or (rows, columns).
        student: the student's maps whose regions are compared.
        teacher: the teacher's; channels and sizes may differ.

    Source: Liu et al. 2019, arXiv:1903.04197; code: irfanICMLL/structure_knowledge_distillation.

    >>> [match.name for match in segmentation().matches]
    ['pixel_wise', 'pair_wise stage[-1]']
    """
    logits = Match("logits", "logits", losses.pixel_wise, weight=pixel, temperature=temperature)
    return Method((logits, Match(student, teacher, losses.pair_wise, weight=pair, patches=patches)))


@described(
    About(
        "Channel-wise Knowledge Distillation for Dense Prediction",
        "Shu et al.",
        2021,
        "arXiv:2011.13256",
        "dense",
        "logits",
    )
)
def cwd_logits(
    weight: float = 3.0,
    temperature: float = 4.0,
    student: str = "logits",
    teacher: str = "logits",
) -> Method:
    r"""Match where in the image each class is most likely: T²·KL over positions.

    For segmentation: a class is compared with itself at other places, not with other classes at
    its place. Weight and temperature are the authors' for maps of logits.

    Args:
        weight: of the loss.
        temperature: T.
        student: the student's maps of logits (B, K, H, W).
        teacher: the teacher's, with the same classes; the larger is averaged to the smaller.

    Source: Shu, Liu, Gao, Yan, Shen 2021, arXiv:2011.13256; code: irfanICMLL/TorchDistiller.

    >>> cwd_logits().matches[0].weight
    3.0
    """
    match = Match(
        student, teacher, channel_wise, weight=weight, adapter="pool", temperature=temperature
    )
    return Method((match,))
