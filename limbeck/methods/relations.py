"""Methods that match how samples, or channels, relate to one another.

They compare relations, not features, so student and teacher may be of any widths. All leave the
label's weight to what they are added to. ``penultimate`` is what enters the last linear layer.
"""

from __future__ import annotations

from typing import Any, Literal

from limbeck.errors import InputError
from limbeck.losses import relations
from limbeck.losses.wrap import gathered
from limbeck.methods.about import About
from limbeck.methods.match import Match
from limbeck.methods.method import Method, described

__all__ = ["cc", "cka", "ickd", "pkt", "rkd"]


@described(
    About(
        "Relational Knowledge Distillation",
        "Park et al.",
        2019,
        "arXiv:1904.05068",
        "relation",
        "features",
        "small",
    )
)
def rkd(
    distance: float = 25.0,
    angle: float = 50.0,
    student: str = "penultimate",
    teacher: str = "penultimate",
) -> Method:
    r"""Match the distances between the samples of a batch, and the angles between three of them.

    Scale and rotation of the features do not matter. It suits embeddings that are used for search.
    The angles need B³ numbers, 64 MiB for a batch of 256; with ``angle=0`` they are left out.

    Args:
        distance: weight of the distances; 0 leaves them out.
        angle: weight of the angles; 0 leaves them out.
        student: the student's tap.
        teacher: the teacher's tap.

    Raises:
        InputError: a weight is negative, or both are 0.

    Source: Park et al. 2019, arXiv:1904.05068. The weights are those of the CIFAR-100 benchmark of
    Tian et al. 2020, arXiv:1910.10699.

    >>> [(match.name, match.weight) for match in rkd().matches]
    [('rkd_distance penultimate', 25.0), ('rkd_angle penultimate', 50.0)]
    """
    if min(distance, angle) < 0 or distance == angle == 0:
        raise InputError(
            f"rkd got weights {distance} of the distances and {angle} of the angles",
            expected="none below 0, one above",
        )
    parts = ((relations.rkd_distance, distance), (relations.rkd_angle, angle))
    return Method(
        tuple(Match(student, teacher, gathered(loss), weight=w) for loss, w in parts if w)
    )


@described(
    About(
        "Correlation Congruence for Knowledge Distillation",
        "Peng et al.",
        2019,
        "arXiv:1904.01802",
        "relation",
        "features",
        "small",
    )
)
def cc(
    weight: float | None = None,
    form: Literal["neighbours", "kernel"] = "neighbours",
    student: str = "penultimate",
    teacher: str = "penultimate",
) -> Method:
    r"""Match how the samples of a batch vary together, in the form of the CIFAR-100 benchmark.

    Two losses go by this name. ``neighbours`` multiplies the gaps |s − t| of neighbouring samples,
    after a linear layer on the student's features: the published numbers and their weight 0.02
    belong to it. There the teacher's features had such a layer too. ``kernel`` is the paper's: the
    squared difference of two Gaussian similarity matrices, which needs no layer.

    Args:
        weight: of the loss; by default 0.02 with ``neighbours``. With ``kernel`` it is 100, a
            starting point: squared differences of similarities are small beside the label's loss.
        form: ``neighbours`` or ``kernel``.
        student: the student's tap.
        teacher: the teacher's tap.

    Source: Peng et al. 2019, arXiv:1904.01802; ``neighbours`` and its weight: Tian et al. 2020,
    arXiv:1910.10699, code: HobbitLong/RepDistiller.

    >>> cc().matches[0].weight, cc(form="kernel").matches[0].weight
    (0.02, 100.0)
    """
    weights = {"neighbours": 0.02, "kernel": 100.0}
    if form not in weights:
        raise InputError(f"cc got the form {form!r}", expected=" or ".join(map(repr, weights)))
    chosen = weights[form] if weight is None else weight
    more: dict[str, Any] = {"adapter": "linear"} if form == "neighbours" else {}
    loss = gathered(relations.correlation_congruence)
    return Method((Match(student, teacher, loss, weight=chosen, form=form, **more),))


@described(
    About(
        "Learning Deep Representations with Probabilistic Knowledge Transfer",
        "Passalis, Tefas",
        2018,
        "arXiv:1803.10837",
        "relation",
        "features",
        "small",
    )
)
def pkt(
    weight: float = 30000.0, student: str = "penultimate", teacher: str = "penultimate"
) -> Method:
    r"""Match each sample's probabilities of having the others of the batch as neighbours.

    The loss is the divergence of these probabilities with ``scale="mean"``: a mean over the B²
    pairs, as in the public code. The published weight 30000 was chosen for that mean. The paper's
    sum over pairs is B² times as large: in a batch of 64 its weight would be 30000/64² ≈ 7.3.

    Args:
        weight: of the mean over pairs.
        student: the student's tap.
        teacher: the teacher's tap.

    Source: Passalis, Tefas 2018, arXiv:1803.10837. The weight is that of the CIFAR-100 benchmark
    of Tian et al. 2020, arXiv:1910.10699.

    >>> pkt().matches
    (Match('penultimate', 'penultimate', probabilistic_transfer, weight=30000.0, scale='mean'),)
    """
    loss = gathered(relations.probabilistic_transfer)
    return Method((Match(student, teacher, loss, weight=weight, scale="mean"),))


@described(
    About(
        "Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge Distillation",
        "Liu et al.",
        2021,
        "ICCV 2021",
        "relation",
        "features",
        "modules",
    )
)
def ickd(weight: float = 2.5, student: str = "stage[-1]", teacher: str = "stage[-1]") -> Method:
    r"""Match how the channels of a sample vary together, at the end of the last stage.

    Compared are the C×C inner products of the channels, with rows of length 1, after a 1×1
    convolution on the student's map. It keeps the diversity of the channels and does not ask where
    in the image they respond.

    Args:
        weight: of the loss.
        student: the student's tap.
        teacher: the teacher's tap.

    Source: Liu et al. 2021, ICCV; weight and rows of length 1 are those of the authors' code,
    ADLab-AutoDrive/ICKD, for CIFAR-100, where a batch normalisation follows the convolution.

    >>> ickd().matches[0].weight, ickd().matches[0].options
    (2.5, {'form': 'normalized'})
    """
    loss, form = relations.inter_channel, "normalized"
    return Method((Match(student, teacher, loss, weight=weight, adapter="conv1x1", form=form),))


@described(
    About(
        "Similarity of Neural Network Representations Revisited",
        "Kornblith et al.",
        2019,
        "arXiv:1905.00414",
        "relation",
        "features",
        "small",
    )
)
def cka(
    weight: float = 1.0,
    form: Literal["biased", "unbiased"] = "biased",
    student: str = "penultimate",
    teacher: str = "penultimate",
    kernel: Literal["linear", "rbf"] = "linear",
    bandwidth: float = 0.5,
) -> Method:
    r"""Match the similarities between samples up to rotation and scale: 1 − CKA.

    The value is between 0 and 1. It asks only that the two spaces look alike as a whole, so it is
    mild, and works between architectures of any kind. In batches that are small beside the number
    of features, ``unbiased`` is the better measure.

    Args:
        weight: of the loss. 1 is a starting point: the paper measures similarity and trains
            nothing.
        form: ``biased``, or ``unbiased``, which needs at least four samples.
        student: the student's tap.
        teacher: the teacher's tap.
        kernel: ``linear``, or ``rbf``, for which near samples count most.
        bandwidth: of ``rbf``, as a fraction of the median distance.

    Source: Kornblith et al. 2019, arXiv:1905.00414, for the measure.

    >>> cka().matches
    (Match('penultimate', 'penultimate', kernel_alignment, weight=1.0, form='biased'),)
    """
    loss = gathered(relations.kernel_alignment)
    options: dict[str, Any] = {"form": form}
    if kernel != "linear":
        options |= {"kernel": kernel, "bandwidth": bandwidth}
    return Method((Match(student, teacher, loss, weight=weight, **options),))
