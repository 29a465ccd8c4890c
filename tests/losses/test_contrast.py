"""Contrast and affinity against records, loops in NumPy and the contract."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from recorded_parts import breaches, parameter_breaches, parameters, raw, tensor
from torch import Tensor

import limbeck as lb
from limbeck.losses import contrast, spec_of
from limbeck.losses.contrast import Contrastive, affinity_mimic, contrastive
from limbeck.losses.towers import TowerFeatures
from limbeck.testing import check_loss


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_all_are_declared() -> None:
    """A loss without a paper or a family would slip into the catalogue."""
    found = [getattr(contrast, name) for name in contrast.__all__]
    assert {spec_of(loss).family for loss in found} == {"contrast"}
    assert len(found) == 3


# Contrastive representation distillation


def crd(**more: Any) -> Contrastive:
    torch.manual_seed(0)
    options = {"embedding": 5, "negatives": 7, **more}
    return Contrastive(8, 12, options.pop("n_data", 20), **options)


def recorded_module(case: dict[str, Any]) -> Contrastive:
    module = crd().double()
    theirs = parameters(case)
    ours = {
        "embed_s.linear": "student_embedding",
        "embed_t.linear": "teacher_embedding",
        "contrast.memory_v1": "student_bank",
        "contrast.memory_v2": "teacher_bank",
    }
    for key, value in theirs.items():
        for old, new in ours.items():
            if key.startswith(old):
                module.state_dict()[key.replace(old, new)].copy_(value)
    return module


@pytest.mark.parametrize("number", [0, 1])
def test_crd_as_recorded(number: int) -> None:
    """Which memory meets which side, the constants or the momentum would be exchanged."""
    case = raw("contrastive")[number]
    given = {k: tensor(v) for k, v in case["inputs"].items()}
    assert torch.equal(given["contrast_index"][:, 0], given["index"])
    module = recorded_module(case)
    student = given["student"].requires_grad_(True)
    for _ in range(case["options"]["calls"]):
        value = module(
            student, given["teacher"], ids=given["index"], negatives=given["contrast_index"][:, 1:]
        )
    assert not breaches(case, value, {"student_gradient": student})
    named = {
        f"embed_{side[0]}.linear.{part}": getattr(getattr(module, f"{side}_embedding"), part)
        for side in ("student", "teacher")
        for part in ("weight", "bias")
    }
    assert not parameter_breaches(case, value, named)
    constants = np.log(case["normalisation_constants"])
    assert np.allclose(module.log_constants.numpy(), constants, rtol=1e-9)
    for name, bank in (("memory_v1", module.student_bank), ("memory_v2", module.teacher_bank)):
        after = case["memory_after"][name]
        row = bank[given["index"][0]]
        assert np.allclose(row.numpy(), after["row_of_first_sample"], rtol=1e-9)
        assert float(bank.sum()) == pytest.approx(after["sum"], rel=1e-9)


def test_crd_keeps_the_contract() -> None:
    """Half precision, autocast, the teacher's gradient or the order would be wrong in silence."""
    for labels in (None, torch.arange(20) % 4):
        module = crd(labels=labels)
        ids = torch.tensor([3, 19, 0, 7, 11, 5])
        module(torch.randn(6, 8), torch.randn(6, 12), ids=ids)  # sets the constants
        check_loss(module, shapes=[((6, 8), (6, 12)), ((6, 2, 2, 2), (6, 3, 2, 2))], ids=ids)


def test_crd_learns_and_remembers() -> None:
    """The embeddings would stay random, or the memories at their first entries."""
    module = crd()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    student, teacher, ids = torch.randn(4, 8), torch.randn(4, 12), torch.tensor([3, 0, 17, 9])
    module(student, teacher, ids=ids).backward()
    optimizer.step()
    after = module.state_dict()
    assert all(not torch.equal(before[k], after[k]) for k in after)
    moved = (before["student_bank"] != after["student_bank"]).any(1)
    assert moved.nonzero().flatten().tolist() == [0, 3, 9, 17]
    assert torch.allclose(after["student_bank"][ids].norm(dim=1), torch.ones(4))
    constants = after["log_constants"].clone()
    module(student, teacher, ids=ids)
    assert torch.equal(module.log_constants, constants)


def test_crd_at_rest_does_not_remember() -> None:
    """An evaluation would write the validation's samples into the memory."""
    module = crd().eval()
    bank = module.student_bank.clone()
    module(torch.randn(2, 8), torch.randn(2, 12), ids=torch.tensor([3, 0]))
    assert torch.equal(module.student_bank, bank)


def test_crd_state_goes_round() -> None:
    """A resumed run would begin with other memories or constants."""
    one, other = crd(), crd()
    one(torch.randn(2, 8), torch.randn(2, 12), ids=torch.tensor([3, 0]))
    other.load_state_dict(one.state_dict())
    given = torch.randn(2, 8), torch.randn(2, 12)
    values = []
    for module in (one, other):
        torch.manual_seed(5)
        values.append(module(*given, ids=torch.tensor([1, 2])))
    assert torch.equal(*values)


def test_negatives_are_other_samples_evenly_drawn() -> None:
    """A sample that is its own negative is pushed from itself; a skewed draw forgets the ends."""
    torch.manual_seed(0)
    module = crd(negatives=20000, n_data=10)
    drawn = module._draw(torch.tensor([0, 4, 9]))
    for row, own in zip(drawn, (0, 4, 9), strict=True):
        counts = torch.bincount(row, minlength=10)
        assert counts[own] == 0
        others = counts[torch.arange(10) != own]
        assert (others - 20000 / 9).abs().max() < 5 * math.sqrt(20000 / 9)


def test_negatives_of_other_classes_only() -> None:
    """The published numbers have them; samples of one class would be pushed apart."""
    labels = torch.tensor([2, 0, 2, 1, 0, 2, 1, 2])
    module = Contrastive(3, 3, 8, labels=labels, embedding=4, negatives=5000)
    ids = torch.arange(8)
    drawn = module._draw(ids)
    for own, row in zip(ids, drawn, strict=True):
        expected = (labels != labels[own]).nonzero().flatten().tolist()
        assert row.unique().tolist() == expected
        counts = torch.bincount(row, minlength=8)[expected].double()
        mean = 5000 / len(expected)
        assert (counts - mean).abs().max() < 5 * math.sqrt(mean)


def test_what_is_drawn_does_not_depend_on_the_order() -> None:
    """Two orders of the same batch would give two values."""
    module, ids = crd(), torch.tensor([7, 2, 15])
    draws = []
    for order in ([0, 1, 2], [2, 0, 1]):
        torch.manual_seed(3)
        draws.append(module._draw(ids[order])[torch.tensor(order).argsort()])
    assert torch.equal(*draws)


def test_crd_is_built_and_trained_by_a_distiller() -> None:
    """The ids would not reach it, or its embeddings not the optimizer."""

    def network(width: int) -> torch.nn.Module:
        return torch.nn.Sequential(
            torch.nn.Linear(6, width), torch.nn.ReLU(), torch.nn.Linear(width, 3)
        )

    match = lb.Match("1", "1", Contrastive, n_data=20, embedding=4, negatives=5, weight=0.8)
    task = lb.tasks.Classification(3)
    distiller = lb.Distiller(network(5), network(4), task=task, method=match)
    batch = torch.randn(8, 6), torch.arange(8) % 3, torch.arange(8)
    distiller.prepare(batch)
    distiller(batch).loss.backward()
    named = {n: p for n, p in distiller.named_parameters() if n.startswith("losses")}
    assert len(named) == 4
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in named.values())


def test_crd_refuses_what_does_not_fit() -> None:
    """A wrong id would overwrite another sample's memory."""
    module = crd()
    with pytest.raises(ValueError, match="one id for each sample"):
        module(torch.randn(4, 8), torch.randn(4, 12), ids=torch.tensor([1]))
    with pytest.raises(ValueError, match="the same batch"):
        module(torch.randn(4, 8), torch.randn(3, 12), ids=torch.arange(4))
    with pytest.raises(ValueError, match="no negative"):
        crd(n_data=1)
    with pytest.raises(ValueError, match="no negative"):
        crd(labels=[1] * 20)
    with pytest.raises(ValueError, match="one label for each sample"):
        crd(labels=[1, 2])


@pytest.mark.parametrize("negatives", ["batch", "own", "shared"])
@pytest.mark.parametrize("form", ["nce", "info_nce"])
def test_contrastive_against_a_loop(form: str, negatives: str) -> None:
    """The positive would stand among the negatives, or the noise's share be inverted."""
    student, teacher = features(4, 3), features(4, 3, seed=1)
    given = {
        "batch": None, "own": features(4, 6, 3, seed=2), "shared": features(6, 3, seed=3)
    }[negatives]  # fmt: skip
    s, t = unit(student.numpy()), unit(teacher.numpy())
    total, tau, size = 0.0, 0.6, 50
    for i in range(4):
        if negatives == "batch":
            others = [t[j] for j in range(4) if j != i]
        else:
            others = list(unit(given.numpy()[i] if negatives == "own" else given.numpy()))
        good = math.exp(s[i] @ t[i] / tau)
        bad = [math.exp(s[i] @ o / tau) for o in others]
        if form == "info_nce":
            total -= math.log(good / (good + sum(bad)))
        else:
            noise = len(bad) / size
            total -= math.log(good / (good + noise))
            total -= sum(math.log(1 - b / (b + noise)) for b in bad)
    value = contrastive(student, teacher, negatives=given, n_data=size, tau=tau, form=form)
    assert float(value) == pytest.approx(total / 4, rel=1e-10)


@pytest.mark.parametrize("form", ["nce", "info_nce"])
def test_contrastive_keeps_the_contract(form: str) -> None:
    """Half precision, autocast, the teacher's gradient or the order would be wrong in silence."""
    check_loss(contrastive, form=form)
    check_loss(contrastive, form=form, tau=0.5, n_data=1000)
    shared = torch.randn(9, 5)
    check_loss(contrastive, form=form, shapes=[((6, 5), (6, 5))], negatives=shared)


@pytest.mark.parametrize("form", ["nce", "info_nce"])
@pytest.mark.parametrize("size", [1, 2])
def test_contrastive_with_few_or_dead_samples(form: str, size: int) -> None:
    """The last batch can hold one sample, without any negative."""
    for student in (torch.randn(size, 3), torch.zeros(size, 3)):
        student.requires_grad_(True)
        value = contrastive(student, torch.randn(size, 3), form=form)
        value.backward()
        assert torch.isfinite(value)
        assert student.grad.abs().max() < 1e3


def test_contrastive_refuses_what_does_not_fit() -> None:
    """Broadcasting would compare three features with one."""
    with pytest.raises(ValueError, match="the same shape"):
        contrastive(torch.randn(4, 3), torch.randn(4, 1))
    with pytest.raises(ValueError, match="for all"):
        contrastive(torch.randn(4, 3), torch.randn(4, 3), negatives=torch.randn(7, 2))
    with pytest.raises(ValueError, match="for all"):
        contrastive(torch.randn(4, 3), torch.randn(4, 3), negatives=torch.randn(5, 7, 3))


# Affinity


def clip(number: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    case = raw("affinity_mimic")[number]
    found = {}
    for key, given in case["inputs"].items():
        assert given["then"] == "normalize"
        plain = tensor({k: v for k, v in given.items() if k != "then"})
        found[key] = F.normalize(plain, dim=-1).requires_grad_(key.startswith("student"))
    return case, found


@pytest.mark.parametrize(("number", "form"), [(0, "cross_entropy"), (1, "kl")])
def test_affinities_as_recorded(number: int, form: str) -> None:
    """One direction would count twice, or the models' scales be exchanged."""
    case, x = clip(number)
    value = affinity_mimic(
        (x["student_image"], x["student_text"]),
        (x["teacher_image"], x["teacher_text"]),
        student_scale=case["options"]["student_scale"],
        teacher_scale=case["options"]["teacher_scale"],
        form=form,
        normalize=form == "kl",  # CLIP-KD's code normalises once more
    )
    leaves = {f"{k}_gradient": v for k, v in x.items() if k.startswith("student")}
    assert not breaches(case, value, leaves)


def test_info_nce_as_recorded_between_student_and_teacher() -> None:
    """CLIP-KD's interactive contrast is InfoNCE of the student's features with the teacher's."""
    case, x = clip(3)
    assert case["options"]["part"] == "icl"
    options = {"tau": 1 / math.log(1 / 0.07), "form": "info_nce"}
    value = contrastive(x["student_image"], x["teacher_text"], **options)
    value = (value + contrastive(x["student_text"], x["teacher_image"], **options)) / 2
    leaves = {f"{k}_gradient": v for k, v in x.items() if k.startswith("student")}
    assert not breaches(case, value, leaves)


@pytest.mark.parametrize(("number", "part"), [(2, "fd"), (3, "icl")])
def test_features_of_towers_as_recorded(number: int, part: str) -> None:
    """An image would be told apart from images, or one tower count twice."""
    case, x = clip(number)
    assert case["options"]["part"] == part
    weights = {"feature": float(part == "fd"), "interactive": float(part == "icl")}
    loss = TowerFeatures(8, 8, form="code", **weights).double()
    if loss.log_scale is not None:
        with torch.no_grad():
            loss.log_scale.fill_(math.log(1 / 0.07))
    value = loss((x["student_image"], x["student_text"]), (x["teacher_image"], x["teacher_text"]))
    leaves = {f"{k}_gradient": v for k, v in x.items() if k.startswith("student")}
    assert not breaches(case, value, leaves)


def test_features_of_towers_in_numpy() -> None:
    """The projection would come after the length is 1, or be shared by both towers."""
    torch.manual_seed(0)
    loss = TowerFeatures(3, 5, feature=7.0, interactive=0.5).double()
    own = features(4, 3), features(4, 3, seed=1)
    theirs = features(4, 5, seed=2), features(4, 5, seed=3)

    def length_one(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    sides = []
    for layer, x in zip(loss.projections, own, strict=True):
        weight, bias = (p.detach().numpy() for p in layer.parameters())
        sides.append(length_one(x.numpy() @ weight.T + bias))
    goals = [length_one(x.numpy()) for x in theirs]
    expected = 7 * sum(np.mean((s - t) ** 2) for s, t in zip(sides, goals, strict=True))
    for s, t in zip(sides, reversed(goals), strict=True):
        scores = np.exp(s @ t.T / 0.07)
        expected += 0.25 * np.mean(-np.log(np.diag(scores) / scores.sum(1)))
    assert float(loss(own, theirs).detach()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("form", ["paper", "code"])
def test_features_of_towers_keep_the_contract(form: str) -> None:
    """Half precision, autocast, the teacher's gradient or the order would be wrong in silence."""
    torch.manual_seed(0)
    pair = (((6, 5), (6, 5)), ((6, 4), (6, 4)))
    check_loss(TowerFeatures(5, 4, feature=3.0, form=form), shapes=[pair])
    for weights in ((-1.0, 1.0), (0.0, 0.0)):
        with pytest.raises(ValueError, match="one above"):
            TowerFeatures(5, 4, feature=weights[0], interactive=weights[1])


@pytest.mark.parametrize("form", ["cross_entropy", "kl"])
def test_affinity_keeps_the_contract(form: str) -> None:
    """Half precision, autocast, the teacher's gradient or the order would be wrong in silence."""
    pair = (((6, 5), (6, 5)), ((6, 4), (6, 4)))
    check_loss(affinity_mimic, shapes=[pair], form=form, student_scale=8.0, teacher_scale=9.0)


def test_affinity_is_least_at_equality_and_the_forms_differ_by_a_constant() -> None:
    """A scale on the wrong side would move the minimum."""
    same = features(5, 4), features(5, 4, seed=1)
    other = features(5, 4, seed=2).requires_grad_(True), features(5, 4, seed=3)
    assert float(affinity_mimic(same, same, form="kl")) == pytest.approx(0, abs=1e-12)
    scales = {"student_scale": 5.0, "teacher_scale": 3.0}
    values = [affinity_mimic(other, same, form=f, **scales) for f in ("cross_entropy", "kl")]
    gradients = [torch.autograd.grad(v, other[0])[0] for v in values]
    assert torch.allclose(*gradients, rtol=1e-9)
    assert values[1] > 0


def test_a_learned_scale_receives_a_gradient() -> None:
    """CLIP's logit scale is a parameter of the student."""
    scale = torch.tensor(10.0, requires_grad=True)
    one, two = (torch.randn(4, 3), torch.randn(4, 3)), (torch.randn(4, 3), torch.randn(4, 3))
    affinity_mimic(one, two, student_scale=scale).backward()
    assert scale.grad is not None
    assert scale.grad != 0


def test_affinity_refuses_what_does_not_fit() -> None:
    """Five images would meet four texts."""
    pair = torch.randn(4, 3), torch.randn(4, 3)
    with pytest.raises(ValueError, match="images"):
        affinity_mimic((torch.randn(5, 3), torch.randn(4, 3)), pair)
    with pytest.raises(ValueError, match="images"):
        affinity_mimic((torch.randn(4, 3),), pair)
    with pytest.raises(ValueError, match="images"):
        affinity_mimic((torch.randn(4, 3), torch.randn(4, 2)), pair)
