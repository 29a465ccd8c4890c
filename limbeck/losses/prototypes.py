"""Class prototypes: the student stands to the teacher's class centres as the teacher does.

Letters: B samples, N tokens or samples of a data set, D features, C classes, P prototypes of a
class, M = C·P. The teacher never receives a gradient; all is computed in float32 or better.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.losses.geometry import flat, same_batch, squared_distances
from limbeck.losses.spec import Reduction, Setting, Spec, comparable, declare, reduce

__all__ = [
    "Prototypes",
    "class_means",
    "cluster_prototypes",
    "nearest_prototype",
    "prototype",
]

_SOURCE = "Snell, Swersky, Zemel 2017, arXiv:1703.05175 (the geometry)"
_REMEDY = 'Leave adapter="auto", or name one: "linear".'
Form = Literal["probabilities", "distances"]


@declare(Spec("contrast", _SOURCE, "shape"))
def prototype(
    student: Tensor,
    teacher: Tensor,
    *,
    prototypes: Tensor,
    present: Tensor | None = None,
    temperature: float = 1.0,
    form: Form = "probabilities",
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Divergence between the teacher's and the student's places among class prototypes.

    $$T^2 \sum_m p_m \log \frac{p_m}{q_m}, \qquad
    p = \mathrm{softmax}_m \big({-\lVert t - c_m \rVert^2} / T\big), \quad
    q = \mathrm{softmax}_m \big({-\lVert s - c_m \rVert^2} / T\big)$$

    With prototypes c from the teacher's features these are the class probabilities of a
    prototypical network; the student needs no classifier, and new classes need only a centre.

    Args:
        student: features (B, D) or (B, N, D), after an adapter if the widths differed.
        teacher: features of the same shape; no gradient reaches them.
        prototypes: (M, D), or (C, P, D) for several of each class, of the teacher's width.
        present: (M,) true for the prototypes that count, for classes not seen yet; by default all.
        temperature: T > 0, with T² inside.
        form: ``distances`` compares the squared distances themselves, not probabilities: the sum
            over prototypes of their squared differences; the temperature has no part in it.
        mask: (B, N), true where a token counts.
        reduction: mean over samples (or unmasked tokens) of the sum over prototypes.

    Raises:
        InputError: the shapes differ, or the prototypes' width.

    Source: the geometry is that of Snell, Swersky, Zemel 2017, "Prototypical Networks for Few-shot
    Learning", arXiv:1703.05175, code: jakesnell/prototypical-networks; no paper's code distils it
    in this form.

    >>> import torch
    >>> centres = torch.tensor([[0.0], [1.0]])  # the student is between, the teacher near one
    >>> prototype(torch.tensor([[0.5]]), torch.tensor([[50.0]]), prototypes=centres)  # log 2
    tensor(0.6931)
    """
    student, teacher = comparable(student, teacher, mask, remedy=_REMEDY)
    centres_MD = prototypes.detach().flatten(0, -2).to(student.dtype)
    if student.ndim not in (2, 3) or centres_MD.shape[-1] != student.shape[-1]:
        raise InputError(
            f"prototype got features {tuple(student.shape)} and prototypes "
            f"{tuple(prototypes.shape)}",
            expected="features (B, D) or (B, N, D), prototypes (M, D) or (C, P, D)",
            remedy=_REMEDY,
        )
    if form == "distances":
        apart = (_gaps(student, centres_MD) - _gaps(teacher, centres_MD)).square()
        counted = apart if present is None else apart * present.to(apart)
        return reduce(counted.sum(-1), mask, reduction)
    log_q, log_p = (
        F.log_softmax(_without(-_gaps(f, centres_MD) / temperature, present), dim=-1)
        for f in (student, teacher)
    )
    p = log_p.exp()
    gap = torch.where(p > 0, log_p - log_q, torch.zeros_like(p))
    return temperature**2 * reduce((p * gap).sum(-1), mask, reduction)


@declare(Spec("contrast", _SOURCE, "shape", per_sample=False, whole_batch=True))
class Prototypes(nn.Module):
    r"""The loss :func:`prototype` with prototypes that it gathers from the teacher's features.

    In training mode each batch first moves the means of its classes; a class takes part from its
    first sample on, and each process sees the samples of all. With :meth:`from_features` the
    prototypes come from a data set and stay.

    Args:
        n_classes: C.
        features: D, the teacher's width.
        momentum: the share of the old mean that a batch leaves; ``None`` for the mean over all
            samples seen.
        temperature: T of :func:`prototype`.
        form: of :func:`prototype`.

    Raises:
        InputError: the shapes differ from those announced.

    Source: Snell, Swersky, Zemel 2017, arXiv:1703.05175, for the geometry.

    >>> import torch
    >>> loss = Prototypes(2, 1)
    >>> loss(torch.zeros(2, 1), torch.tensor([[1.0], [3.0]]), targets=torch.tensor([0, 0]))
    tensor(0.)
    >>> loss.prototypes.flatten().tolist()
    [2.0, 0.0]
    """

    prototypes: Tensor
    counts: Tensor

    def __init__(
        self,
        n_classes: int,
        features: int,
        *,
        momentum: float | None = None,
        temperature: float = 1.0,
        form: Form = "probabilities",
    ) -> None:
        super().__init__()
        self.momentum, self.temperature, self.form, self.fixed = momentum, temperature, form, False
        self.register_buffer("prototypes", torch.zeros(n_classes, 1, features))
        self.register_buffer("counts", torch.zeros(n_classes))

    @classmethod
    def build(
        cls,
        student: Tensor,
        teacher: Tensor,
        setting: Setting,
        *,
        n_classes: int,
        momentum: float | None = None,
        temperature: float = 1.0,
        form: Form = "probabilities",
    ) -> Self:
        """Make one for the features that meet."""
        width = flat(teacher).shape[1]
        return cls(n_classes, width, momentum=momentum, temperature=temperature, form=form)

    @classmethod
    def from_features(
        cls,
        features: Tensor,
        targets: Tensor,
        *,
        n_classes: int,
        per_class: int = 1,
        seed: int = 0,
        temperature: float = 1.0,
        form: Form = "probabilities",
    ) -> Self:
        """Make one whose prototypes are the centres of a data set's classes, and stay.

        Args:
            features: the teacher's, (N, D).
            targets: (N,) int64.
            n_classes: C.
            per_class: P, found by k-means if above 1.
            seed: of k-means.
            temperature: T of :func:`prototype`.
            form: of :func:`prototype`.

        Raises:
            InputError: a class has fewer than ``per_class`` samples.
        """
        loss = cls(n_classes, features.shape[1], temperature=temperature, form=form)
        loss.fixed = True
        loss.prototypes = cluster_prototypes(
            features, targets, n_classes=n_classes, per_class=per_class, seed=seed
        )
        loss.counts = torch.bincount(targets, minlength=n_classes).to(loss.prototypes)
        return loss

    def forward(self, student: Tensor, teacher: Tensor, *, targets: Tensor) -> Tensor:
        """Return the mean over samples of the divergence, after the prototypes have moved.

        Args:
            student: features (B, ...), of the teacher's shape.
            teacher: features (B, ...); no gradient reaches them.
            targets: (B,) int64.

        Raises:
            InputError: the shapes differ, or a target is missing.
        """
        same_batch("Prototypes", student, teacher)
        if targets.shape != student.shape[:1]:
            raise InputError(
                f"Prototypes got targets {tuple(targets.shape)} for {len(student)} samples",
                expected="one for each sample",
            )
        own, theirs = flat(student), flat(teacher)
        if theirs.shape[1] != self.prototypes.shape[-1]:
            raise InputError(
                f"the teacher's features are {theirs.shape[1]} wide",
                expected=f"{self.prototypes.shape[-1]}, as the prototypes",
            )
        if self.training and not self.fixed:
            self._move(theirs, targets)
        present = (self.counts > 0).repeat_interleave(self.prototypes.shape[1])
        value: Tensor = prototype(
            own,
            theirs,
            prototypes=self.prototypes.clone(),
            present=present | ~present.any(),
            temperature=self.temperature,
            form=self.form,
        )
        return value

    @torch.no_grad()
    def _move(self, features_BD: Tensor, targets_B: Tensor) -> None:
        """Move each class's mean towards, or to include, the batch's."""
        sums, counts = _sums(features_BD.to(self.prototypes), targets_B, len(self.counts))
        old = self.prototypes[:, 0]
        batch = sums / counts.clamp(min=1).unsqueeze(1)
        # A share of 1 for the first samples of a class, of 0 for a class without samples.
        share = counts / (self.counts + counts).clamp(min=1)
        if self.momentum is not None:
            share = torch.where(self.counts > 0, (1 - self.momentum) * (counts > 0), share)
        self.prototypes[:, 0] = old + share.unsqueeze(1) * (batch - old)
        self.counts += counts


def class_means(features: Tensor, targets: Tensor, *, n_classes: int) -> Tensor:
    """Return the mean features of each class (C, D): its prototype.

    Args:
        features: (N, D).
        targets: (N,) int64.
        n_classes: C.

    Raises:
        InputError: a class has no sample.

    >>> import torch
    >>> class_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1]), n_classes=2)
    tensor([[2.],
            [5.]])
    """
    _enough(targets, n_classes, 1)
    sums, counts = _sums(features, targets, n_classes)
    return sums / counts.unsqueeze(1)


def cluster_prototypes(
    features: Tensor, targets: Tensor, *, n_classes: int, per_class: int = 1, seed: int = 0
) -> Tensor:
    """Return several centres of each class (C, P, D), found by scikit-learn's k-means.

    Args:
        features: (N, D), of a whole data set.
        targets: (N,) int64.
        n_classes: C.
        per_class: P; 1 gives the class means.
        seed: of k-means.

    Raises:
        InputError: a class has fewer than ``per_class`` samples.

    >>> import torch
    >>> cluster_prototypes(
    ...     torch.tensor([[0.0], [2.0], [9.0]]), torch.tensor([0, 0, 0]), n_classes=1, per_class=2
    ... ).sort(dim=1).values.flatten().tolist()
    [1.0, 9.0]
    """
    if per_class == 1:
        return class_means(features, targets, n_classes=n_classes).unsqueeze(1)
    from sklearn.cluster import KMeans

    _enough(targets, n_classes, per_class)
    rows, classes = features.detach().double().cpu().numpy(), targets.cpu().numpy()
    found = [
        KMeans(per_class, n_init=10, random_state=seed).fit(rows[classes == c]).cluster_centers_
        for c in range(n_classes)
    ]
    return torch.stack([torch.from_numpy(centres) for centres in found]).to(features)


def nearest_prototype(features: Tensor, prototypes: Tensor) -> Tensor:
    """Return the class of the nearest prototype: few-shot classification without training.

    Args:
        features: (B, D).
        prototypes: (C, D), or (C, P, D) for several of each class.

    Returns:
        (B,) int64.

    >>> import torch
    >>> nearest_prototype(torch.tensor([[0.9], [0.2]]), torch.tensor([[0.0], [1.0]]))
    tensor([1, 0])
    """
    per_class = prototypes.shape[1] if prototypes.ndim == 3 else 1
    distances = squared_distances(features, prototypes.flatten(0, -2).to(features))
    nearest: Tensor = distances.unflatten(1, (-1, per_class)).amin(2).argmin(1)
    return nearest


def _gaps(features: Tensor, centres_MD: Tensor) -> Tensor:
    """Return the squared distances (B, M) or (B, N, M)."""
    return squared_distances(features.flatten(0, -2), centres_MD).view(*features.shape[:-1], -1)


def _without(scores: Tensor, present: Tensor | None) -> Tensor:
    return scores if present is None else scores.masked_fill(~present.bool(), -torch.inf)


def _sums(features_ND: Tensor, targets_N: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Return the sum of features (C, D) and the number of samples (C,) of each class."""
    member_CN = F.one_hot(targets_N, n_classes).to(features_ND).T
    return member_CN @ features_ND, member_CN.sum(1)


def _enough(targets: Tensor, n_classes: int, least: int) -> None:
    fewest = int(torch.bincount(targets, minlength=n_classes).min())
    if fewest < least:
        raise InputError(
            f"a class has {fewest} samples", expected=f"at least {least} of each class"
        )
