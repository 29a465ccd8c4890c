"""Methods through a classifier: the teacher's, or exits that turn stages into answers.

They need the teacher as a module, not a store of its answers, where its classifier is reused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from limbeck.errors import InputError
from limbeck.losses.classifiers import one_for_all
from limbeck.losses.exits import ClassActivation, OneForAll, SimKD, SoftmaxRegression
from limbeck.methods.about import About
from limbeck.methods.match import Match
from limbeck.methods.method import Method, described

__all__ = ["cat", "ofa", "simkd", "srrl"]


@described(
    About(
        "Knowledge Distillation via Softmax Regression Representation Learning",
        "Yang et al.",
        2021,
        "ICLR 2021",
        "feature",
        "features",
        "modules",
    )
)
def srrl(
    weight: float = 1.0,
    alpha: float = 1.0,
    beta: float = 1.0,
    compare: Literal["l2", "kl"] = "l2",
    form: Literal["paper", "code"] = "code",
    student: str = "stage[-1]",
    teacher: str = "penultimate",
    classifier: str = "",
) -> Method:
    r"""Match the last features, and what the teacher's classifier makes of them.

    label + weight·(α·features + β·logits). A difference of features counts by what it means for the
    answer, so the student need not copy what the classifier ignores. It costs a 1×1 convolution
    with batch normalisation, which is left behind. The weights are those of the authors' ImageNet
    training, whose code takes means where the paper has sums.

    Args:
        weight: of both parts.
        alpha: of the features' part.
        beta: of the logits' part.
        compare: the distance of logits: ``l2``, or ``kl``, which is a mean over samples in either
            form.
        form: ``code`` takes means over features and over classes, ``paper`` sums.
        student: the student's last maps (B, C, H, W), before they are averaged, or vectors (B, C).
        teacher: what enters the teacher's last linear layer.
        classifier: path of that layer; by default the last one that its modules list.

    Source: Yang, Martinez, Bulat, Tzimiropoulos 2021, ICLR 2021; code: jingyang2017/KD_SRRL.

    >>> srrl().matches[0].name, srrl().matches[0].teacher
    ('SoftmaxRegression stage[-1]', 'penultimate')
    """
    match = Match(
        student,
        teacher,
        SoftmaxRegression,
        weight=weight,
        alpha=alpha,
        beta=beta,
        compare=compare,
        form=form,
        classifier=classifier,
    )
    return Method((match,))


@described(
    About(
        "Knowledge Distillation with the Reused Teacher Classifier",
        "Chen et al.",
        2022,
        "arXiv:2203.14001",
        "feature",
        "features",
        "modules",
    )
)
def simkd(weight: float = 1.0, student: str = "stage[-1]", teacher: str = "stage[-1]") -> Method:
    r"""Match the teacher's last maps alone, for a student that answers through its classifier.

    weight·mean squared error, and no label. The student is one that
    :func:`limbeck.students.reuse_classifier` has returned, or in a recipe one with
    ``reuse_classifier: true``: its last stage ends in the projector. It comes close to the teacher
    where it can match its maps. As in the paper, the projector and the teacher's classifier are
    parts of what ships, which is larger by them.

    Args:
        weight: of the mean squared error, 1 as in the authors' code; without a label it only scales
            the learning rate.
        student: what leaves the projector; ``projected`` if it is not at the last stage.
        teacher: the maps that ``reuse_classifier`` was given.

    Source: Chen, Mei, Zhang, Wang, Feng, Chen 2022, arXiv:2203.14001; code: DefangChen/SimKD.

    >>> simkd().matches, simkd().label_weight
    ((Match('stage[-1]', 'stage[-1]', SimKD, weight=1.0),), 0.0)
    """
    return Method((Match(student, teacher, SimKD, weight=weight),), 0.0)


@described(
    About(
        "Class Attention Transfer Based Knowledge Distillation",
        "Guo et al.",
        2023,
        "arXiv:2304.12777",
        "feature",
        "features",
        "small",
    )
)
def cat(
    weight: float = 15.0,
    resolution: int = 2,
    normalize: bool = False,
    student: str = "stage[-1]",
    teacher: str = "stage[-1]",
    student_classifier: str = "",
    teacher_classifier: str = "",
) -> Method:
    r"""Match where each class is seen: class activation maps (CAT-KD), averaged down.

    label + weight·mean squared error over classes and positions. Both models must average their
    last maps and have one linear layer after that, as ResNets have. The defaults are the authors'
    for ResNet32x4 and ResNet8x4 on CIFAR-100. Theirs for others: weight 12 between WRNs and 4.5
    between VGGs; 600 with ``resolution=4, normalize=True`` for ResNet32x4 and ShuffleNetV1; 0.5
    with ``resolution=4`` on ImageNet. They advise to tune the weight.

    Args:
        weight: of the mean over positions, as in the authors' code; the loss, which is a sum over
            them, gets it divided by their number.
        resolution: to which height and width maps are averaged.
        normalize: divide each class's map by its length, as in the paper.
        student: the student's last maps (B, C, H, W).
        teacher: the teacher's; sizes and channels may differ.
        student_classifier: path of the student's last linear layer; by default the last one that
            its modules list.
        teacher_classifier: path of the teacher's.

    Raises:
        InputError: the resolution is not positive.

    Source: Guo, Yan, Li, Lin 2023, arXiv:2304.12777; code: GzyAftermath/CAT-KD.

    >>> cat().matches[0].weight
    3.75
    """
    if resolution < 1:
        raise InputError(f"resolution is {resolution}", expected="1 or more")
    match = Match(
        student,
        teacher,
        ClassActivation,
        weight=weight / resolution**2,
        resolution=resolution,
        normalize=normalize,
        student_classifier=student_classifier,
        teacher_classifier=teacher_classifier,
    )
    return Method((match,))


@described(
    About(
        "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation",
        "Hao et al.",
        2023,
        "arXiv:2310.19444",
        "feature",
        "logits, features, labels",
        "modules",
    )
)
def ofa(
    gamma: float = 1.0,
    weight: float = 1.0,
    form: Literal["paper", "code"] = "paper",
    student: Sequence[str] = ("stage[-3]", "stage[-2]", "stage[-1]"),
    exit_weight: float = 1.0,
) -> Method:
    r"""Match the teacher's answer at the end and at exits on stages, the label's class raised.

    weight·end + exit_weight·Σ exits (OFA-KD). Only logits are compared, so that the teacher may be
    of another family: a Transformer for a convolutional network, or the reverse. Each exit is an
    average, a layer normalisation and a linear layer, left behind; the authors' have further blocks
    of the student's family before that. γ and the weights 1 are the defaults of their code; they
    use γ = 1.5 for ResNet18 under DeiT-T.

    Args:
        gamma: γ: more than 1 strengthens the label where the teacher is sure of it.
        weight: of the student's own logits.
        form: ``paper`` has the label's cross-entropy in each part, so the label loss has no weight;
            ``code`` has it once, at the student's own logits.
        student: the stages that get an exit: all four of the authors' networks; here the last
            three. Of a Transformer name the blocks at which its quarters end.
        exit_weight: of each exit.

    Raises:
        InputError: a single tap is given in place of a list.

    Source: Hao et al. 2023, arXiv:2310.19444; code: Hao840/OFAKD.

    >>> len(ofa().matches), ofa().label_weight, ofa(form="code").label_weight
    (4, 0.0, 1.0)
    """
    if isinstance(student, str):
        raise InputError(f"ofa got the stage {student!r}", expected="a list of taps")
    answer = Match("logits", "logits", one_for_all, weight=weight, gamma=gamma, form=form)
    exits = (
        Match(tap, "logits", OneForAll, weight=exit_weight, gamma=gamma, form=form)
        for tap in student
    )
    return Method((answer, *exits), 0.0 if form == "paper" else 1.0)
