"""Methods that tell samples apart: by contrast with others, by class centres, by affinity.

All leave the label's weight to what they are added to. ``penultimate`` is what enters the last
linear layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses.contrast import Contrastive, affinity_mimic
from limbeck.losses.prototypes import Prototypes
from limbeck.losses.towers import TowerFeatures
from limbeck.methods.about import About
from limbeck.methods.match import Match
from limbeck.methods.method import Method, described

__all__ = ["affinity", "crd", "prototype"]

_CLIP_KD = About(
    "CLIP-KD: An Empirical Study of CLIP Model Distillation",
    "Yang et al.",
    2024,
    "arXiv:2307.12732",
    "contrast",
    "features",
    "modules",
)


@described(
    About(
        "Contrastive Representation Distillation",
        "Tian, Krishnan, Isola",
        2020,
        "arXiv:1910.10699",
        "contrast",
        "features and ids",
        "memory",
    )
)
def crd(
    n_data: int,
    weight: float = 0.8,
    negatives: int = 16384,
    tau: float = 0.07,
    embedding: int = 128,
    momentum: float = 0.5,
    labels: Tensor | Sequence[int] | None = None,
    student: str = "penultimate",
    teacher: str = "penultimate",
) -> Method:
    r"""Match which sample a feature belongs to, among thousands of others from a memory.

    Student and teacher get a linear layer each, which is trained. Two memories hold an embedding
    for every sample of the training set: 2·N·128 numbers, 51 MB for 50,000. Among the best where
    classes are many and the teacher's features good; a step costs about as much as the scores with
    all N entries. Batches must carry ids from 0 to N − 1.

    Args:
        n_data: N, the number of training samples.
        weight: of the loss.
        negatives: K, drawn for each sample.
        tau: τ of the scores.
        embedding: width of the embeddings.
        momentum: the share of the old in a memory's new entry.
        labels: (N,) the class of every sample: negatives then come from other classes, as for the
            published results. By default from all other samples.
        student: the student's tap.
        teacher: the teacher's tap.

    Raises:
        InputError: there are no two samples, no negatives, or labels are not one for each sample.

    Source: Tian, Krishnan, Isola 2020, arXiv:1910.10699; the defaults are theirs for CIFAR-100,
    code: HobbitLong/RepDistiller.

    >>> match = crd(n_data=50000).matches[0]
    >>> match.weight, match.options["negatives"], match.options["tau"]
    (0.8, 16384, 0.07)
    """
    if n_data < 2 or negatives < 1:
        raise InputError(
            f"crd got {n_data} samples and {negatives} negatives",
            expected="two samples or more, and one negative or more",
        )
    options: dict[str, Any] = {"n_data": n_data, "negatives": negatives, "tau": tau}
    options |= {"embedding": embedding, "momentum": momentum}
    if labels is not None:
        options["labels"] = torch.as_tensor(labels)
        if options["labels"].shape != (n_data,):
            raise InputError(
                f"crd got labels {tuple(options['labels'].shape)} for {n_data} samples",
                expected="one label for each sample",
            )
    return Method((Match(student, teacher, Contrastive, weight=weight, **options),))


@described(
    About(
        "Prototypical Networks for Few-shot Learning",
        "Snell, Swersky, Zemel",
        2017,
        "arXiv:1703.05175",
        "contrast",
        "features and labels",
        "small",
    )
)
def prototype(
    n_classes: int,
    weight: float = 1.0,
    temperature: float = 1.0,
    form: Literal["probabilities", "distances"] = "probabilities",
    momentum: float | None = None,
    student: str = "penultimate",
    teacher: str = "penultimate",
) -> Method:
    r"""Match where a sample stands among the classes' mean features of the teacher.

    The loss is the divergence of softmax(−‖f − c‖²/T) over the class centres c, which are gathered
    from the teacher's features during training. A linear layer on the student's features brings the
    widths together if they differ. It needs few labels of each class, and suits features that
    are compared by distance; where distances are large, raise T.

    Args:
        n_classes: C.
        weight: of the loss. 1 is a starting point: no paper distils in this form.
        temperature: T, with T² inside the loss.
        form: ``distances`` compares squared distances, not probabilities.
        momentum: the share of the old centre that a batch leaves; ``None`` for the mean over all
            samples seen.
        student: the student's tap.
        teacher: the teacher's tap.

    Raises:
        InputError: there are no two classes.

    Source: Snell, Swersky, Zemel 2017, arXiv:1703.05175, for the geometry.

    >>> prototype(n_classes=10).matches[0].options["form"]
    'probabilities'
    """
    if n_classes < 2:
        raise InputError(f"prototype got {n_classes} classes", expected="two or more")
    options: dict[str, Any] = {"n_classes": n_classes, "temperature": temperature, "form": form}
    if momentum is not None:
        options["momentum"] = momentum
    return Method((Match(student, teacher, Prototypes, weight=weight, **options),))


@described(
    About(
        "TinyCLIP: CLIP Distillation via Affinity Mimicking and Weight Inheritance",
        "Wu et al.",
        2023,
        "arXiv:2309.12314",
        "contrast",
        "features",
        "small",
    )
)
def affinity(
    weight: float = 1.0,
    scale: float | None = None,
    form: Literal["cross_entropy", "kl"] = "cross_entropy",
    student: str | Sequence[str] = "penultimate",
    teacher: str | Sequence[str] = "penultimate",
    feature: float = 0.0,
    interactive: float = 0.0,
) -> Method:
    r"""Match how strongly each sample is drawn to the others of the batch: softmax of cosines.

    With two taps on each side, images and texts for example, these are the affinities between the
    two towers, in both directions. With one tap, they are those between the features of the
    batch. The widths of student and teacher may differ, and nothing is added to the student.

    CLIP-KD adds two parts between towers, see :class:`limbeck.losses.TowerFeatures`: the distance
    of the features, and the contrast of each of the student's towers with the teacher's other one.
    Its authors' weights are ``affinity(form="kl", feature=2000, interactive=1, ...)``.

    Args:
        weight: of the loss.
        scale: α, the inverse temperature of the cosines, on both sides. By default 100 with two
            taps, where trained CLIP models end; with one it is 10, a starting point: there a
            sample's cosine with itself is 1, and a large scale would hide the others.
        form: ``cross_entropy``, or ``kl``, which subtracts the teacher's entropy: the same
            gradient, and 0 at equality.
        student: the student's tap, or two.
        teacher: the teacher's tap, or two.
        feature: weight of the distance of features, a mean over them; two taps are needed.
        interactive: weight of the contrast between towers; two taps are needed.

    Raises:
        InputError: the numbers of taps differ, or are not one or two, or are one where CLIP-KD's
            parts are wanted; the scale is not positive; a weight is negative.

    Source: Wu et al. 2023, arXiv:2309.12314. The weight 1 is that of the same loss in the scripts
    of Yang et al. 2024 (CLIP-KD), arXiv:2307.12732; code: winycg/CLIP-KD.

    >>> affinity().matches[0].student, affinity().matches[0].options["student_scale"]
    (('penultimate', 'penultimate'), 10.0)
    >>> affinity(student=["image", "text"], teacher=["image", "text"]).matches[0].student
    ('image', 'text')
    """
    own, theirs = _towers(student), _towers(teacher)
    if len(own) != len(theirs) or len(own) not in (1, 2):
        raise InputError(
            f"affinity got the student's taps {own} and the teacher's {theirs}",
            expected="one on each side, or two",
        )
    if scale is None:
        scale = 10.0 if len(own) == 1 else 100.0
    if scale <= 0:
        raise InputError(f"affinity got a scale of {scale}", expected="a number above 0")
    if feature or interactive:
        if len(own) == 1:
            raise InputError(
                f"affinity got one tap, {own[0]!r}, for parts between two towers",
                expected="two taps on each side, images and texts",
            )
        parts: dict[str, Any] = {"feature": feature, "interactive": interactive}
        more: tuple[Match, ...] = (Match(own, theirs, TowerFeatures, **parts),)
    else:
        more = ()
    if len(own) == 1:
        own, theirs = own * 2, theirs * 2
    scales: dict[str, Any] = {"student_scale": scale, "teacher_scale": scale}
    match = Match(own, theirs, affinity_mimic, weight=weight, form=form, **scales)
    return Method((match, *more), sources=(_CLIP_KD,) if more else ())


def _towers(taps: str | Sequence[str]) -> tuple[str, ...]:
    return (taps,) if isinstance(taps, str) else tuple(taps)
