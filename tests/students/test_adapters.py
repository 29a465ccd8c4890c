"""Adapters bring shapes together, and invent nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import limbeck as lb
from limbeck.errors import InputError
from limbeck.losses import spec_of
from limbeck.students import align
from limbeck.students.adapters import ADAPTERS

MAP, SMALL, WIDE = (2, 4, 8, 8), (2, 4, 4, 4), (2, 6, 8, 8)


@pytest.mark.parametrize(
    ("student", "teacher", "need", "adapter", "text"),
    [
        (MAP, MAP, "shape", "auto", ""),
        (MAP, WIDE, "shape", "auto", "student: conv1x1 4→6"),
        (WIDE, SMALL, "shape", "auto", "student: pool to 4×4, conv1x1 6→4"),
        (SMALL, WIDE, "shape", "auto", "student: conv1x1 4→6; teacher: pool to 4×4"),
        (MAP, SMALL, "positions", "auto", "student: pool to 4×4"),
        (SMALL, WIDE, "positions", "auto", "teacher: pool to 4×4"),
        (MAP, SMALL, "none", "auto", ""),
        (MAP, SMALL, "classes", "auto", ""),
        ((2, 5), (2, 7), "shape", "auto", "student: linear 5→7"),
        ((2, 5), (2, 5), "shape", "auto", ""),
        ((2, 3, 5), (2, 3, 7), "shape", "auto", "student: linear 5→7"),
        (WIDE, (2, 7), "shape", "auto", "student: average to a vector, linear 6→7"),
        ((2, 7), WIDE, "shape", "auto", "student: linear 7→6; teacher: average to a vector"),
        (MAP, MAP, "shape", "conv1x1", "student: conv1x1 4→4"),
        ((2, 5), (2, 5), "shape", "linear", "student: linear 5→5"),
        ((2, 5), (2, 5), "none", "linear", "student: linear 5→5"),
        (SMALL, MAP, "shape", "interpolate", "student: interpolate to 8×8"),
        (MAP, SMALL, "shape", "interpolate", "student: interpolate to 4×4"),
        (WIDE, SMALL, "positions", "pool", "student: pool to 4×4"),
        (WIDE, SMALL, "shape", "pool", "student: pool to 4×4"),
        (WIDE, SMALL, "shape", "none", ""),
        (WIDE, SMALL, "shape", None, ""),
        # Neither is the larger in both directions: each side gives way in one.
        (
            (2, 4, 4, 16),
            (2, 4, 8, 4),
            "positions",
            "auto",
            "student: pool to 4×4; teacher: pool to 4×4",
        ),
        ((2, 4, 8, 4), (2, 4, 4, 4), "positions", "auto", "student: pool to 4×4"),
    ],
)
def test_what_is_put_in(
    student: tuple[int, ...], teacher: tuple[int, ...], need: Any, adapter: Any, text: str
) -> None:
    """A layer would be trained that the paper does not have, or be missing where shapes differ."""
    made = align(student, teacher, need, adapter)
    assert made.text == text
    own, theirs = made(torch.randn(student), torch.randn(teacher))
    if need == "shape" and adapter not in ("none", None, "pool"):
        assert own.shape == theirs.shape
    if need == "positions" and adapter != "none":
        assert own.shape[2:] == theirs.shape[2:]
    learns = sum(parameter.numel() for parameter in made.parameters())
    assert bool(learns) == ("linear" in text or "conv1x1" in text)
    assert not list(made.teacher.parameters())


@pytest.mark.parametrize(
    "name",
    [
        "activation_boundary",
        "attention_transfer",
        "correlation_congruence",
        "cosine_hint",
        "hint",
        "kernel_alignment",
        "kl",
        "logit_mse",
        "neuron_selectivity",
        "probabilistic_transfer",
        "rkd_angle",
        "rkd_distance",
        "similarity_preserving",
        "simkd",
    ],
)
@pytest.mark.parametrize(
    ("student", "teacher"), [(SMALL, WIDE), (WIDE, SMALL), ((2, 4, 4, 16), (2, 6, 8, 4))]
)
def test_every_feature_loss_can_be_used(
    name: str, student: tuple[int, ...], teacher: tuple[int, ...]
) -> None:
    """`auto` would leave shapes that the loss then refuses, or broadcasts."""
    loss = lb.losses.get(name)
    if spec_of(loss).align == "classes":
        student = teacher = (2, 5)
    own, theirs = align(student, teacher, spec_of(loss).align)(
        torch.randn(student), torch.randn(teacher)
    )
    assert torch.isfinite(loss(own, theirs))


def test_pooling_is_averaging() -> None:
    """A larger map would be cut or sampled: detail would be lost without being averaged."""
    x = torch.randn(2, 4, 8, 8)
    own, _ = align(MAP, SMALL, "positions")(x, torch.zeros(SMALL))
    assert torch.allclose(own, x.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)), atol=1e-6)
    vector, _ = align(MAP, (2, 4), "shape")(x, torch.zeros(2, 4))
    assert torch.allclose(vector, x.flatten(2).mean(2), atol=1e-6)


def test_interpolation_is_bilinear() -> None:
    """Corners would be pinned, which shifts the map by half a pixel."""
    x = torch.randn(SMALL)
    own, _ = align(SMALL, MAP, "shape", "interpolate")(x, torch.zeros(MAP))
    expected = F.interpolate(x, (8, 8), mode="bilinear", align_corners=False)
    assert torch.equal(own, expected)


def test_a_linear_layer_serves_every_token() -> None:
    """Tokens would be flattened into one vector."""
    made = align((2, 3, 5), (2, 3, 7), "shape")
    x = torch.randn(2, 3, 5)
    own, _ = made(x, torch.zeros(2, 3, 7))
    assert torch.allclose(own[1, 2], made.student[0](x[1, 2]), atol=1e-6)


def test_a_module_of_ones_own() -> None:
    """It would be copied, or put on the teacher's side."""
    own = nn.Linear(5, 7)
    made = align((2, 5), (2, 7), "shape", own)
    assert made.student is own
    assert made.text == "student: Linear"
    assert list(made.parameters()) == list(own.parameters())


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((2, 3, 5), (2, 5)),
        ((2, 3, 5), (2, 4, 8, 8)),
        ((2,), (2,)),
        ((2, 3, 4, 5, 6), (2, 3, 4, 5, 6)),
    ],
)
def test_what_has_no_obvious_counterpart(
    student: tuple[int, ...], teacher: tuple[int, ...]
) -> None:
    """Tokens would be averaged, or a batch broadcast, without having been asked."""
    with pytest.raises(InputError, match=r"cannot be adapted.*a module of your own"):
        align(student, teacher, "shape")


def test_other_token_counts() -> None:
    """Two tokenizers' texts would be compared position by position."""
    with pytest.raises(InputError, match="3 tokens and the teacher 4"):
        align((2, 3, 5), (2, 4, 5), "shape")


def test_an_unknown_adapter() -> None:
    """A typing error would mean no adapter."""
    with pytest.raises(InputError, match="did you mean 'conv1x1'"):
        align(MAP, WIDE, "shape", "conv1x")
    assert sorted(ADAPTERS) == list(ADAPTERS)


def test_in_a_distiller() -> None:
    """The adapter would not be trained, or would ship with the student."""
    student, teacher = nn.Linear(4, 3), nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    matched = nn.Sequential(nn.Linear(4, 6), student.requires_grad_(True))
    matched[1] = nn.Linear(6, 3)
    match = lb.Match("0", "0", lb.losses.hint, name="middle")
    distiller = lb.Distiller(teacher, matched, task=lb.tasks.Classification(3), method=match)
    distiller.prepare((torch.randn(4, 4), torch.arange(4) % 3))
    assert distiller.adapters() == {"middle": "student: linear 6→8"}
    distiller((torch.randn(4, 4), torch.arange(4) % 3)).loss.backward()
    [weight, bias] = distiller.alignments.parameters()
    assert weight.grad is not None
    assert bias.grad is not None
    assert distiller.release() is matched
    assert not any("alignment" in name for name in matched.state_dict())
