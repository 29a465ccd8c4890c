"""Class prototypes against a record, scikit-learn, loops in NumPy and the contract."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from recorded_parts import breaches, raw, tensor
from sklearn.neighbors import NearestCentroid
from torch import Tensor

import limbeck as lb
from limbeck.losses import spec_of
from limbeck.losses.geometry import squared_distances
from limbeck.losses.prototypes import (
    Prototypes,
    class_means,
    cluster_prototypes,
    nearest_prototype,
    prototype,
)
from limbeck.testing import check_loss


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_geometry_as_recorded() -> None:
    """Distances, or the class of a prototype, would not be those of prototypical networks."""
    [case] = raw("prototype")
    student, teacher = (tensor(case["inputs"][side]) for side in ("student", "teacher"))
    student.requires_grad_(True)
    support = torch.arange(3).repeat_interleave(4)
    centres = class_means(teacher.flatten(0, 1), support, n_classes=3)
    distances = squared_distances(student.flatten(0, 1), centres)
    assert np.allclose(distances.detach().numpy(), case["distances"], rtol=1e-9)
    value = F.cross_entropy(-distances, torch.arange(3).repeat_interleave(2))
    assert not breaches(case, value, {"student_gradient": student})
    # With a teacher that stands far out on the side of one class, the loss is that cross-entropy.
    queries = student.detach().flatten(0, 1)
    gaps = centres - centres.mean(0)
    certain = centres + 1e3 * gaps[torch.tensor([0, 1, 2])]
    labels = nearest_prototype(certain, centres)
    expected = F.cross_entropy(-squared_distances(queries[:3], centres), labels)
    assert torch.isclose(prototype(queries[:3], certain, prototypes=centres), expected)


@pytest.mark.parametrize("shape", [(4, 3), (2, 5, 3)])
@pytest.mark.parametrize("several", [True, False])
def test_against_a_loop(shape: tuple[int, ...], several: bool) -> None:
    """Student and teacher, or the sign of a distance, would be exchanged."""
    student, teacher = features(*shape), features(*shape, seed=1)
    centres = features(6, 3, seed=2)
    total, distances = 0.0, 0.0
    for s, t in zip(student.view(-1, 3).numpy(), teacher.view(-1, 3).numpy(), strict=True):
        gaps = [[sum((x - c) ** 2) for c in centres.numpy()] for x in (s, t)]
        q, p = ([math.exp(-g / 2) for g in row] for row in gaps)
        q, p = [x / sum(q) for x in q], [x / sum(p) for x in p]
        total += 4 * sum(b * math.log(b / a) for a, b in zip(q, p, strict=True))
        distances += sum((a - b) ** 2 for a, b in zip(*gaps, strict=True))
    given = centres.view(2, 3, 3) if several else centres
    count = student.numel() // 3
    value = prototype(student, teacher, prototypes=given, temperature=2.0)
    assert float(value) == pytest.approx(total / count, rel=1e-9)
    value = prototype(student, teacher, prototypes=given, form="distances")
    assert float(value) == pytest.approx(distances / count, rel=1e-9)


@pytest.mark.parametrize("form", ["probabilities", "distances"])
def test_absent_prototypes_do_not_count(form: str) -> None:
    """Classes not seen yet, at zero, would draw the student to the origin."""
    student, teacher, centres = features(4, 3), features(4, 3, seed=1), features(5, 3, seed=2)
    present = torch.tensor([True, False, True, True, False])
    student.requires_grad_(True)
    value = prototype(student, teacher, prototypes=centres, present=present, form=form)
    expected = prototype(student, teacher, prototypes=centres[present], form=form)
    assert torch.isclose(value, expected)
    value.backward()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("form", ["probabilities", "distances"])
def test_keeps_the_contract(form: str) -> None:
    """T², masks, chunks or half precision would be wrong in silence."""
    centres = torch.randn(7, 5, generator=torch.Generator().manual_seed(9))
    shapes = [((6, 5), (6, 5)), ((4, 3, 5), (4, 3, 5))]
    if form == "probabilities":
        check_loss(prototype, shapes=shapes, prototypes=centres)
    student, teacher = features(6, 5), features(6, 5, seed=1)
    values = [
        prototype(student, teacher, prototypes=centres, form=form, reduction=reduction)
        for reduction in ("none", "sum", "mean")
    ]
    assert torch.isclose(values[0].sum(), values[1])
    assert torch.isclose(values[0].mean(), values[2])


def test_the_temperature_keeps_the_scale() -> None:
    """Without T² a warm loss would vanish beside the label's."""
    student, teacher, centres = features(6, 5), features(6, 5, seed=1), features(7, 5, seed=2)
    norms = []
    for temperature in (200.0, 400.0):
        leaf = student.clone().requires_grad_(True)
        prototype(leaf, teacher, prototypes=centres, temperature=temperature).backward()
        norms.append(float(leaf.grad.norm()))
    assert norms[0] == pytest.approx(norms[1], rel=0.02)


def test_refuses_what_does_not_fit() -> None:
    """Broadcasting would compare three features with one."""
    with pytest.raises(ValueError, match="the same shape"):
        prototype(torch.randn(4, 3), torch.randn(4, 1), prototypes=torch.randn(5, 3))
    with pytest.raises(ValueError, match="prototypes"):
        prototype(torch.randn(4, 3), torch.randn(4, 3), prototypes=torch.randn(5, 2))
    with pytest.raises(ValueError, match="prototypes"):
        prototype(torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2), prototypes=torch.randn(5, 2))


def test_means_and_nearest_agree_with_scikit_learn() -> None:
    """Few-shot accuracy would be that of other classes."""
    points, targets = features(30, 4), torch.arange(30) % 3
    points = points + 1.5 * F.one_hot(targets, 4)
    theirs = NearestCentroid().fit(points.numpy(), targets.numpy())
    centres = class_means(points, targets, n_classes=3)
    assert np.allclose(centres.numpy(), theirs.centroids_, rtol=1e-10)
    queries = features(50, 4, seed=1)
    expected = theirs.predict(queries.numpy())
    assert nearest_prototype(queries, centres).tolist() == expected.tolist()
    assert nearest_prototype(queries, centres.unsqueeze(1)).tolist() == expected.tolist()


def test_clusters_find_the_centres_of_a_class() -> None:
    """Clusters of one class would mix with another's, or depend on chance."""
    truth = torch.tensor([[[0.0, 0], [10, 0]], [[0, 10], [10, 10]]], dtype=torch.float64)
    targets = torch.arange(80) % 2
    parts = (torch.arange(80) // 2) % 2
    points = truth[targets, parts] + 0.1 * features(80, 2)
    found = cluster_prototypes(points, targets, n_classes=2, per_class=2)
    assert found.shape == (2, 2, 2)
    for c in range(2):
        means = torch.stack([points[(targets == c) & (parts == k)].mean(0) for k in range(2)])
        order = found[c, :, 0].argsort()
        assert torch.allclose(found[c][order], means, rtol=1e-8)
    assert torch.equal(found, cluster_prototypes(points, targets, n_classes=2, per_class=2))
    # The centre of a class lies among another's points; the nearest of several does not.
    assert (nearest_prototype(points, found) == targets).all()


def test_too_few_samples_are_refused() -> None:
    """A class without a sample would have a prototype of NaN."""
    with pytest.raises(ValueError, match="at least 1"):
        class_means(torch.randn(3, 2), torch.tensor([0, 0, 2]), n_classes=3)
    with pytest.raises(ValueError, match="at least 2"):
        cluster_prototypes(torch.randn(3, 2), torch.tensor([0, 0, 1]), n_classes=2, per_class=2)


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_the_module_gathers_means(momentum: float | None) -> None:
    """Means per batch, averaged, are not the mean of all; a class's first batch counts fully."""
    loss = Prototypes(4, 3, momentum=momentum).double()
    batches = [
        (features(5, 3, seed=n), torch.tensor([0, 0, 1, n % 2, 3 * (n == 2)])) for n in range(3)
    ]
    expected = np.zeros((4, 3))
    seen: list[list[np.ndarray]] = [[] for _ in range(4)]
    for rows, targets in batches:
        loss(rows, rows, targets=targets)
        for c in range(4):
            own = rows[targets == c].numpy()
            if not len(own):
                continue
            if momentum is None:
                seen[c].extend(own)
                expected[c] = np.mean(seen[c], 0)
            else:
                share = 1.0 if not seen[c] else 1 - momentum
                expected[c] += share * (own.mean(0) - expected[c])
                seen[c].extend(own)
    assert np.allclose(loss.prototypes[:, 0].numpy(), expected, rtol=1e-9)
    assert loss.counts.tolist() == [len(s) for s in seen]


def test_the_module_is_its_function() -> None:
    """Absent classes would take part, or options be lost on the way."""
    student, teacher, targets = features(4, 3), features(4, 3, seed=1), torch.tensor([0, 2, 2, 0])
    loss = Prototypes(4, 3, temperature=3.0).double()
    value = loss(student, teacher, targets=targets)
    centres = torch.stack([teacher[targets == c].mean(0) for c in (0, 2)])
    assert torch.isclose(value, prototype(student, teacher, prototypes=centres, temperature=3.0))


def test_the_module_at_rest_does_not_move() -> None:
    """An evaluation would leak into the prototypes."""
    loss = Prototypes(3, 2).eval()
    value = loss(torch.randn(2, 2), torch.randn(2, 2), targets=torch.tensor([0, 1]))
    assert torch.isfinite(value)
    assert loss.prototypes.abs().max() == 0


def test_the_modules_state_goes_round() -> None:
    """A resumed run would begin without prototypes."""
    one, other = Prototypes(3, 2), Prototypes(3, 2)
    one(torch.randn(4, 2), torch.randn(4, 2), targets=torch.tensor([0, 1, 1, 2]))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.prototypes, other.prototypes)
    assert torch.equal(one.counts, other.counts)


@pytest.mark.parametrize("per_class", [1, 3])
def test_prototypes_of_a_data_set_stay(per_class: int) -> None:
    """Training would wash them out."""
    points, targets = features(40, 3), torch.arange(40) % 4
    loss = Prototypes.from_features(points, targets, n_classes=4, per_class=per_class)
    kept = loss.prototypes.clone()
    student = features(5, 3, seed=1).requires_grad_(True)
    value = loss(student, features(5, 3, seed=2), targets=torch.arange(5) % 4)
    value.backward()
    assert torch.equal(loss.prototypes, kept)
    assert kept.shape == (4, per_class, 3)
    expected = prototype(student, features(5, 3, seed=2), prototypes=kept)
    assert torch.isclose(value, expected)


def test_the_module_keeps_the_contract() -> None:
    """Half precision, autocast, the teacher's gradient or the order would be wrong in silence."""
    targets = torch.tensor([0, 3, 3, 1, 0, 2])
    for module in (
        Prototypes(5, 4),
        Prototypes(5, 4, momentum=0.5, form="distances"),
        Prototypes.from_features(
            torch.randn(40, 4), torch.arange(40) % 5, n_classes=5, per_class=2
        ),
    ):
        check_loss(module, shapes=[((6, 4), (6, 4)), ((6, 1, 2, 2), (6, 1, 2, 2))], targets=targets)
    assert spec_of(Prototypes).family == spec_of(prototype).family == "contrast"


def test_the_module_refuses_what_does_not_fit() -> None:
    """A target of one sample would be given to all."""
    loss = Prototypes(3, 2)
    with pytest.raises(ValueError, match="one for each sample"):
        loss(torch.randn(4, 2), torch.randn(4, 2), targets=torch.tensor([0]))
    with pytest.raises(ValueError, match="as the prototypes"):
        loss(torch.randn(4, 5), torch.randn(4, 5), targets=torch.arange(4) % 3)
    with pytest.raises(ValueError, match="the same batch"):
        loss(torch.randn(4, 2), torch.randn(3, 2), targets=torch.arange(4) % 3)


def test_the_module_is_built_by_a_distiller() -> None:
    """The targets would not reach it, or the dry run count."""

    def network() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))

    match = lb.Match("1", "1", Prototypes, n_classes=3)
    distiller = lb.Distiller(network(), network(), task=lb.tasks.Classification(3), method=match)
    batch = torch.randn(8, 6), torch.arange(8) % 3
    distiller.prepare(batch)
    assert distiller.losses[0].counts.sum() == 0
    distiller(batch).loss.backward()
    assert distiller.losses[0].counts.tolist() == [3, 3, 2]
