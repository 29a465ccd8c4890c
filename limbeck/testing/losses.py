"""The contract of a loss.

Letters: B samples, T tokens, C classes or channels, D features, H×W positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from limbeck.losses.sparse import SparseLogits
from limbeck.losses.spec import Spec, spec_of
from limbeck.losses.wrap import chunked
from limbeck.testing.case import LossCase, first
from limbeck.testing.findings import Findings
from limbeck.testing.running import compiles, transforms, waits_for_nothing

__all__ = ["check_loss"]

Shape = tuple[int, ...]
Shapes = Sequence[tuple[Any, Any]]

_SHAPES: dict[str, Shapes] = {
    "classes": [((6, 5), (6, 5)), ((4, 3, 5), (4, 3, 5))],
    "positions": [((6, 3, 4, 4), (6, 5, 4, 4))],
    "shape": [((6, 5), (6, 5)), ((4, 3, 5), (4, 3, 5)), ((6, 3, 4, 4), (6, 3, 4, 4))],
    "none": [((6, 5), (6, 7)), ((6, 3, 4, 4), (6, 2, 2, 2))],
}


def check_loss(
    loss: Callable[..., Tensor],
    *,
    spec: Spec | None = None,
    shapes: Shapes | None = None,
    seed: int = 0,
    compiled: bool = True,
    **options: Any,
) -> None:
    """Check a loss: value, gradient, precision, mask, chunks, order, temperature, how it runs.

    A loss that is a module is copied for every call, so that what it remembers or draws does not
    count as a difference. What of ``torch.compile``, ``torch.func`` and a device that nobody waits
    for a loss cannot have, its ``spec`` declares, with the reason.

    Args:
        loss: ``loss(student, teacher, ...) -> scalar``.
        spec: what it declares; by default what :func:`limbeck.losses.declare` attached.
        shapes: pairs of student and teacher shapes to try; by default those its ``align`` allows.
            For a loss of several tensors, a side is a tuple of shapes.
        seed: of the random inputs.
        compiled: also trace it with ``torch.compile``, forward and backward, at the first of the
            shapes: a fifth of a second or more.
        options: further arguments of the loss; ``targets``, ``ids`` and the like have an entry for
            each sample, other tensors are the same for all.

    Raises:
        ContractError: a property does not hold; all breaches are listed.

    >>> from limbeck.losses import kl
    >>> check_loss(kl, temperature=4.0)
    """
    declared = spec or spec_of(loss)
    findings = Findings(f"the loss {getattr(loss, '__name__', type(loss).__name__)}")
    for number, (own, theirs) in enumerate(shapes or _SHAPES[declared.align]):
        case = LossCase(loss, declared, own, theirs, seed + number, options, findings)
        for check in _LOSS_CHECKS:
            with findings.about(f"{check.__name__.strip('_')} at {own}"):
                check(case)
        if compiled and number == 0:
            with findings.about(f"compiled at {own}"):
                compiles(case)
    findings.raise_if_any()


def _value(case: LossCase) -> None:
    before = tree_map(torch.clone, (case.student, case.teacher))
    value = case(case.student, case.teacher)
    case.expect(value.ndim == 0, f"the value has the shape {tuple(value.shape)}, not a scalar's")
    case.expect(torch.isfinite(value), "the value is not finite")
    case.expect(value.dtype == torch.float32, f"float32 inputs gave {value.dtype}")
    after = tree_leaves((case.student, case.teacher))
    same = all(torch.equal(a, b) for a, b in zip(tree_leaves(before), after, strict=True))
    case.expect(same, "the inputs were changed in place")


def _gradients(case: LossCase) -> None:
    student, teacher = (
        tree_map(lambda t: t.double().requires_grad_(True), side)
        for side in (case.student, case.teacher)
    )
    value = case(student, teacher)
    case.expect(value.requires_grad, "no gradient reaches the student")
    value.backward()
    case.expect(all(t.grad is None for t in tree_leaves(teacher)), "a gradient reaches the teacher")
    given = [t.grad for t in tree_leaves(student)]
    case.expect(all(g is not None for g in given), "no gradient reaches a tensor of the student")
    moved = any(g is not None and g.abs().max() > 0 for g in given)
    case.expect(moved, "the student's gradient is zero")
    generator = torch.Generator().manual_seed(1)
    if not case.spec.slope:
        return
    direction = tree_map(lambda t: torch.randn(t.shape, generator=generator).double(), student)
    with torch.no_grad():
        steps = [
            case(tree_map(lambda t, d: t + sign * 1e-6 * d, student, direction), teacher)  # noqa: B023
            for sign in (1, -1)
        ]
    measured = (steps[0] - steps[1]) / 2e-6
    pairs = zip(given, tree_leaves(direction), strict=True)
    expected = torch.stack([(g * d).sum() for g, d in pairs if g is not None]).sum()
    close = torch.isclose(measured, expected, rtol=1e-4, atol=1e-7)
    case.expect(close, f"the gradient is {expected:.6g} along a direction; measured {measured:.6g}")


def _minimum(case: LossCase) -> None:
    shapes = [[t.shape for t in tree_leaves(side)] for side in (case.student, case.teacher)]
    if not case.spec.zero_at_equal or shapes[0] != shapes[1]:
        return
    value = case(case.teacher, case.teacher).detach()
    case.expect(value.abs() < 1e-5, f"it is {float(value):.3g} where student and teacher are equal")
    other = case(case.student, case.teacher)
    case.expect(other > value, "it is not smaller where student and teacher are equal")


def _precision(case: LossCase) -> None:
    halves = tree_map(torch.Tensor.bfloat16, (case.student, case.teacher))
    plain = case(*tree_map(torch.Tensor.float, halves))
    value = case(*halves)
    case.expect(value.dtype == torch.float32, f"bfloat16 inputs gave {value.dtype}")
    close = torch.isclose(value.float(), plain.float(), rtol=1e-6)
    case.expect(close, "bfloat16 inputs are not widened first")
    exact = case(case.student, case.teacher)
    with torch.autocast("cpu", torch.bfloat16):
        inside = case(case.student, case.teacher)
    close = torch.isclose(inside.float(), exact.float(), rtol=1e-6)
    case.expect(close, "autocast changes the value")


def _extremes(case: LossCase) -> None:
    if case.spec.align != "classes":
        return
    large = 6e4 * torch.sign(case.student).bfloat16()
    certain = torch.full_like(case.teacher, -6e4).bfloat16()
    certain[..., 0] = 6e4
    for student, teacher in ((large, certain), (certain, large), (large, case.teacher.bfloat16())):
        value, [gradient] = case(student, teacher), case.gradients(student, teacher)
        case.expect(torch.isfinite(value), "logits of ±60,000 give a value that is not finite")
        finite = torch.isfinite(gradient).all()
        case.expect(finite, "logits of ±60,000 give a gradient that is not finite")


def _order(case: LossCase) -> None:
    whole = case(case.student, case.teacher)
    mixed = torch.randperm(case.size, generator=torch.Generator().manual_seed(2))
    for order in (mixed, torch.arange(case.size).roll(1)):  # the second leaves none where it was
        student, teacher, more = case.rows(order)
        same = torch.isclose(case(student, teacher, **more), whole, rtol=1e-5)
        case.expect(same, "the order of the samples changes the value")


def _parts(case: LossCase) -> None:
    """Halves weighted by size, sums, values per sample and chunks all give the whole."""
    if not case.spec.per_sample:
        return
    whole, size = case(case.student, case.teacher), case.size
    cuts = slice(0, size // 3), slice(size // 3, None)
    halves = [case.rows(cut) for cut in cuts]
    mean = sum(case(s, t, **more) * len(first(s)) / size for s, t, more in halves)
    case.expect(torch.isclose(torch.as_tensor(mean), whole, rtol=1e-5), "parts do not add up")
    each = case(case.student, case.teacher, reduction="none")
    total = case(case.student, case.teacher, reduction="sum")
    case.expect(torch.isclose(each.mean(), whole, rtol=1e-5), 'the mean of "none" is not the value')
    case.expect(torch.isclose(each.sum(), total, rtol=1e-5), '"sum" is not the sum of "none"')
    if isinstance(case.student, Tensor):
        pieces = chunked(case.loss, 2)(case.student, case.teacher, **case.options)
        case.expect(torch.isclose(pieces, whole, rtol=1e-5), "chunks change the value")


def _mask(case: LossCase) -> None:
    keep = case.mask()
    if keep is None:
        return
    student, teacher, inside = case.rows(keep)
    expected = case(student, teacher, **inside)
    value = case(case.student, case.teacher, mask=keep)
    case.expect(torch.isclose(value, expected, rtol=1e-5), "a mask is not the same as the subset")
    silent = torch.where(keep, 0.0, torch.nan)
    sides = case.student, case.teacher
    dirty = tree_map(lambda t: t + silent.view(*keep.shape, *[1] * (t.ndim - keep.ndim)), sides)
    value = case(*dirty, mask=keep)
    case.expect(torch.isclose(value, expected, rtol=1e-5), "what is masked leaks into the value")
    clean = all(torch.isfinite(g).all() for g in case.gradients(*dirty, mask=keep))
    case.expect(clean, "what is masked leaks into the gradient")
    nothing = case(case.student, case.teacher, mask=torch.zeros_like(keep))
    case.expect(nothing == 0, "a mask that keeps nothing does not give 0")


def _temperature(case: LossCase) -> None:
    if "temperature" not in case.takes or not case.spec.steady:
        return
    norms = []
    for temperature in (20.0, 40.0):
        found = case.gradients(case.student, case.teacher, temperature=temperature)
        norms.append(torch.stack([gradient.norm() for gradient in found]).norm())
    steady = 0.7 < norms[1] / norms[0] < 1.4
    case.expect(steady, "the gradient's size changes with the temperature: T² is missing")


def _in_part(case: LossCase) -> None:
    """A teacher's answer of which all classes are kept, in another order, is still its answer."""
    if case.spec.partial == "refused":
        return
    classes = case.teacher.shape[-1]
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(4))
    log_p = torch.log_softmax(case.teacher, -1)[..., order]
    known = SparseLogits(order.expand(case.teacher.shape), log_p, classes)
    same = torch.isclose(case(case.student, known), case(case.student, case.teacher), rtol=1e-5)
    case.expect(same, "it needs more of the teacher than probabilities, whatever their order")


_LOSS_CHECKS = (
    _value,
    _gradients,
    _minimum,
    _precision,
    _extremes,
    _order,
    _parts,
    _mask,
    _temperature,
    _in_part,
    transforms,
    waits_for_nothing,
)
