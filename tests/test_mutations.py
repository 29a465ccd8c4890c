"""Slips that others made, put into every response loss: its tests must notice each of them.

A mutated loss keeps its name, its declaration and its signature. It is caught if it breaks the
public contract, or if it differs from what is recorded of other people's code.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import recorded_parts
import torch
import torch.nn.functional as F
from recorded import Recorded, cases
from torch import Tensor

from limbeck import losses
from limbeck.losses import declare, spec_of
from limbeck.testing import ContractError, check_loss

Loss = Callable[..., Tensor]

RESPONSE = [n for n in losses.names() if spec_of(losses.get(n)).family == "response"]
# It makes no difference to these which side is which.
SYMMETRIC = {
    "dist", "logit_mse", "probability_mse", "total_variation", "universal_logit",
}  # fmt: skip
# These do not read the teacher.
TEACHERLESS = {"label_refinement", "universal_self_kd", "virtual_teacher"}
SHAPES: dict[str, dict[str, Any]] = {
    "universal_logit": {"shapes": [((6, 5), (6, 7)), ((4, 3, 5), (4, 3, 5))]},
    "universal_self_kd": {
        "shapes": [(((6, 5), (6, 5)), (6, 5))],
        "targets": torch.arange(6) % 5,
    },
}


def drop_squared_temperature(loss: Loss) -> Loss:
    default = inspect.signature(loss).parameters["temperature"].default

    def mutated(student, teacher, *, temperature=default, **options):
        value = loss(student, teacher, temperature=temperature, **options)
        return value / temperature**2

    return mutated


def swap_the_sides(loss: Loss) -> Loss:
    def mutated(student, teacher, **options):
        return loss.__wrapped__(teacher, student, **options)

    return mutated


def divide_by_classes(loss: Loss) -> Loss:
    def mutated(student, teacher, **options):
        first = student if isinstance(student, Tensor) else student[0]
        return loss(student, teacher, **options) / first.shape[-1]

    return mutated


def forget_the_mask(loss: Loss) -> Loss:
    def mutated(student, teacher, *, mask=None, **options):
        return loss(student, teacher, **options)

    return mutated


def detach_the_student(loss: Loss) -> Loss:
    def mutated(student, teacher, **options):
        still = torch.utils._pytree.tree_map(Tensor.detach, student)
        return loss(still, teacher, **options)

    return mutated


MUTATIONS = {
    "T² dropped": (drop_squared_temperature, lambda n, takes: "temperature" in takes),
    "sides swapped": (swap_the_sides, lambda n, takes: n not in SYMMETRIC | TEACHERLESS),
    "divided by C": (divide_by_classes, lambda n, takes: True),
    "mask forgotten": (forget_the_mask, lambda n, takes: "mask" in takes),
    "student detached": (detach_the_student, lambda n, takes: True),
}


def mutant(name: str, mutate: Callable[[Loss], Loss]) -> Loss:
    """Return a loss with a slip in it, presented as the right one."""
    loss = losses.get(name)
    wrong = functools.wraps(loss)(mutate(loss))
    wrong.__signature__ = inspect.signature(loss)
    return declare(spec_of(loss))(wrong)


def caught(name: str, loss: Loss) -> list[str]:
    """Return by what a loss is found to be wrong."""
    found = []
    try:
        check_loss(loss, compiled=False, **SHAPES.get(name, {}))
    except ContractError as error:
        found.append(f"contract: {error}")
    for case, called in oracles(name, loss):
        try:
            found += [f"{case.name}: {breach}" for breach in case.breaches(called)]
        except RuntimeError as error:  # no gradient at all
            found.append(f"{case.name}: {error}")
    return found


def oracles(name: str, loss: Loss) -> list[tuple[Recorded, Loss]]:
    """Return the records of a loss, and the loss with the options of each under our names."""
    if name in ("skewed_kl", "label_refinement", "spherical", "universal_self_kd"):
        return [elsewhere(name, loss)]
    found = []
    for case in cases(name):
        if name == "virtual_teacher":
            if case.options["form"] != "regularization":
                continue
            keep = {k: case.options[k] for k in ("temperature", "probability")}
            inputs = {"teacher": case.inputs["student"], **case.inputs}
            case = dataclasses.replace(case, inputs=inputs, options=keep)
        elif name == "multi_level_logit":
            options = dict(case.options)
            options["levels"] = [options.pop("level")]
            case = dataclasses.replace(case, options=options)
        found.append((case, loss))
    return found


def elsewhere(name: str, loss: Loss) -> tuple[Recorded, Loss]:
    """Return a value that PyTorch or a record gives in another form."""
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(6, 5, generator=generator).double() for _ in range(2))
    targets = torch.arange(6) % 5
    leaf = student.clone().requires_grad_(True)
    options: dict[str, Any] = {}
    if name == "label_refinement":
        expected = F.cross_entropy(leaf, targets, label_smoothing=0.1)
        inputs = {"student": student, "teacher": student, "targets": targets}
        return recorded_as(name, inputs, options, leaf, expected), loss
    if name == "skewed_kl":
        mixture = 0.1 * teacher.softmax(-1) + 0.9 * leaf.softmax(-1)
        expected = F.kl_div(mixture.log(), teacher.softmax(-1), reduction="batchmean")
        return recorded_as(
            name, {"student": student, "teacher": teacher}, {"alpha": 0.1}, leaf, expected
        ), loss
    if name == "spherical":
        case = recorded_parts.raw("spherical")[0]
        inputs = {k: recorded_parts.tensor(v) for k, v in case["inputs"].items()}
        gradient = {"full": case["student_gradient"]}
        options = {"form": "deviation", "temperature": case["options"]["temperature"]}
        return Recorded("spherical", inputs, options, case["value"], gradient, 1.0), loss
    case = recorded_parts.raw("universal_self_kd")[0]
    given = {k: recorded_parts.tensor(v) for k, v in case["inputs"].items()}
    weights = {k: v.double() for k, v in recorded_parts.parameters(case).items()}
    weak = F.linear(given["features"], weights["fc.weight"], weights["fc.bias"])
    if weak.ndim > 2:
        raise AssertionError("the record holds a map now: pool it")
    gradient = {"full": case["student_gradient"]}
    inputs = {"student": given["student"], "teacher": given["student"]}
    extra = {"targets": given["targets"], "form": "code", **case["options"]}

    def paired(own: Tensor, theirs: Tensor, **more: Any) -> Tensor:
        return loss((own, weak), theirs, **more)

    return Recorded(name, inputs, extra, case["value"], gradient, 1.0), paired


def recorded_as(
    name: str, inputs: dict[str, Tensor], options: dict[str, Any], leaf: Tensor, expected: Tensor
) -> Recorded:
    [gradient] = torch.autograd.grad(expected, leaf)
    return Recorded(
        name, inputs, options, float(expected.detach()), {"full": gradient.tolist()}, 1.0
    )


@pytest.mark.parametrize("name", RESPONSE)
def test_the_right_one_passes(name: str) -> None:
    """A check that fails on everything catches nothing."""
    assert caught(name, losses.get(name)) == []


@pytest.mark.parametrize("slip", MUTATIONS)
@pytest.mark.parametrize("name", RESPONSE)
def test_slips_are_caught(name: str, slip: str) -> None:
    """The tests of this loss would let that slip through."""
    mutate, applies = MUTATIONS[slip]
    takes = inspect.signature(losses.get(name)).parameters
    if not applies(name, takes):
        assert slip != "student detached"
        return
    assert caught(name, mutant(name, mutate))


def test_every_slip_applies_to_many() -> None:
    """An empty list would pass."""
    assert len(RESPONSE) >= 24
    for _, applies in MUTATIONS.values():
        with_it = [n for n in RESPONSE if applies(n, inspect.signature(losses.get(n)).parameters)]
        assert len(with_it) >= 15
