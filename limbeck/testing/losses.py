"""The contract of a loss.

Letters: B samples, T tokens, C classes or channels, D features, H×W positions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.losses.spec import Spec, spec_of
from limbeck.losses.wrap import chunked
from limbeck.testing.findings import Findings

__all__ = ["check_loss"]

Shapes = Sequence[tuple[tuple[int, ...], tuple[int, ...]]]

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
    **options: Any,
) -> None:
    """Check a loss: value, gradient, precision, mask, chunks, order, temperature.

    Args:
        loss: ``loss(student, teacher, ...) -> scalar``.
        spec: what it declares; by default what :func:`limbeck.losses.declare` attached.
        shapes: pairs of student and teacher shapes to try; by default those its ``align`` allows.
        seed: of the random inputs.
        options: further arguments of the loss.

    Raises:
        ContractError: a property does not hold; all breaches are listed.

    >>> from limbeck.losses import kl
    >>> check_loss(kl, temperature=4.0)
    """
    declared = spec or spec_of(loss)
    findings = Findings(f"the loss {getattr(loss, '__name__', type(loss).__name__)}")
    for number, (own, theirs) in enumerate(shapes or _SHAPES[declared.align]):
        case = _LossCase(loss, declared, own, theirs, seed + number, options, findings)
        for check in _LOSS_CHECKS:
            with findings.about(f"{check.__name__.strip('_')} at {own}"):
                check(case)
    findings.raise_if_any()


class _LossCase:
    """A loss with inputs of one shape."""

    def __init__(
        self,
        loss: Callable[..., Tensor],
        spec: Spec,
        own: tuple[int, ...],
        theirs: tuple[int, ...],
        seed: int,
        options: Mapping[str, Any],
        findings: Findings,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.loss, self.spec, self.options, self.findings = loss, spec, dict(options), findings
        self.student = torch.randn(own, generator=generator)
        self.teacher = torch.randn(theirs, generator=generator)
        called = loss.forward if isinstance(loss, nn.Module) else loss
        self.takes = inspect.signature(called).parameters
        self.where = f"at {own}"
        if "targets" in self.takes and "targets" not in options:
            rows = own[:-1] if spec.align == "classes" else own[:1]
            self.options["targets"] = torch.randint(own[-1], rows, generator=generator)

    def __call__(self, student: Tensor, teacher: Tensor, **more: Any) -> Tensor:
        return self.loss(student, teacher, **{**self.options, **more})

    def rows(self, pick: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Return some of the samples, with their targets."""
        picked = {k: v[pick] for k, v in self.options.items() if isinstance(v, Tensor)}
        return self.student[pick], self.teacher[pick], picked

    def expect(self, holds: bool | Tensor, breach: str) -> None:
        self.findings.expect(holds, f"{breach} ({self.where})")

    def gradient(self, student: Tensor, teacher: Tensor) -> Tensor:
        leaf = student.clone().requires_grad_(True)
        self(leaf, teacher).float().backward()
        return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _value(case: _LossCase) -> None:
    before = case.student.clone(), case.teacher.clone()
    value = case(case.student, case.teacher)
    case.expect(value.ndim == 0, f"the value has the shape {tuple(value.shape)}, not a scalar's")
    case.expect(torch.isfinite(value), "the value is not finite")
    case.expect(value.dtype == torch.float32, f"float32 inputs gave {value.dtype}")
    same = torch.equal(before[0], case.student) and torch.equal(before[1], case.teacher)
    case.expect(same, "the inputs were changed in place")


def _gradients(case: _LossCase) -> None:
    student = case.student.double().requires_grad_(True)
    teacher = case.teacher.double().requires_grad_(True)
    value = case(student, teacher)
    case.expect(value.requires_grad, "no gradient reaches the student")
    value.backward()
    case.expect(teacher.grad is None, "a gradient reaches the teacher")
    given = student.grad
    if given is None:
        return
    case.expect(given.abs().max() > 0, "the student's gradient is zero")
    direction = torch.randn(student.shape, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        steps = [case(student + sign * 1e-6 * direction, teacher) for sign in (1, -1)]
    measured = (steps[0] - steps[1]) / 2e-6
    expected = (given * direction).sum()
    close = torch.isclose(measured, expected, rtol=1e-4, atol=1e-7)
    case.expect(close, f"the gradient is {expected:.6g} along a direction; measured {measured:.6g}")


def _minimum(case: _LossCase) -> None:
    if not case.spec.zero_at_equal or case.student.shape != case.teacher.shape:
        return
    value = case(case.teacher, case.teacher)
    case.expect(value.abs() < 1e-5, f"it is {float(value):.3g} where student and teacher are equal")
    other = case(case.student, case.teacher)
    case.expect(other > value, "it is not smaller where student and teacher are equal")


def _precision(case: _LossCase) -> None:
    halves = case.student.bfloat16(), case.teacher.bfloat16()
    plain = case(halves[0].float(), halves[1].float())
    value = case(*halves)
    case.expect(value.dtype == torch.float32, f"bfloat16 inputs gave {value.dtype}")
    close = torch.isclose(value.float(), plain.float(), rtol=1e-6)
    case.expect(close, "bfloat16 inputs are not widened first")
    exact = case(case.student, case.teacher)
    with torch.autocast("cpu", torch.bfloat16):
        inside = case(case.student, case.teacher)
    close = torch.isclose(inside.float(), exact.float(), rtol=1e-6)
    case.expect(close, "autocast changes the value")


def _extremes(case: _LossCase) -> None:
    if case.spec.align != "classes":
        return
    large = 6e4 * torch.sign(case.student).bfloat16()
    certain = torch.full_like(case.teacher, -6e4).bfloat16()
    certain[..., 0] = 6e4
    for student, teacher in ((large, certain), (certain, large), (large, case.teacher.bfloat16())):
        value, gradient = case(student, teacher), case.gradient(student, teacher)
        case.expect(torch.isfinite(value), "logits of ±60,000 give a value that is not finite")
        finite = torch.isfinite(gradient).all()
        case.expect(finite, "logits of ±60,000 give a gradient that is not finite")


def _order(case: _LossCase) -> None:
    size, whole = len(case.student), case(case.student, case.teacher)
    mixed = torch.randperm(size, generator=torch.Generator().manual_seed(2))
    for order in (mixed, torch.arange(size).roll(1)):  # the second leaves none where it was
        student, teacher, more = case.rows(order)
        same = torch.isclose(case(student, teacher, **more), whole, rtol=1e-5)
        case.expect(same, "the order of the samples changes the value")


def _parts(case: _LossCase) -> None:
    """Halves weighted by size, sums, values per sample and chunks all give the whole."""
    if not case.spec.per_sample:
        return
    whole, size = case(case.student, case.teacher), len(case.student)
    halves = [case.rows(slice(0, size // 3)), case.rows(slice(size // 3, None))]
    mean = sum(case(s, t, **more) * len(s) / size for s, t, more in halves)
    case.expect(torch.isclose(torch.as_tensor(mean), whole, rtol=1e-5), "parts do not add up")
    each = case(case.student, case.teacher, reduction="none")
    total = case(case.student, case.teacher, reduction="sum")
    case.expect(torch.isclose(each.mean(), whole, rtol=1e-5), 'the mean of "none" is not the value')
    case.expect(torch.isclose(each.sum(), total, rtol=1e-5), '"sum" is not the sum of "none"')
    pieces = chunked(case.loss, 2)(case.student, case.teacher, **case.options)
    case.expect(torch.isclose(pieces, whole, rtol=1e-5), "chunks change the value")


def _mask(case: _LossCase) -> None:
    if "mask" not in case.takes:
        return
    rows = case.student.shape[:2] if case.student.ndim == 3 else case.student.shape[:1]
    keep = torch.rand(rows, generator=torch.Generator().manual_seed(3)) < 0.6
    keep.view(-1)[0] = True
    inside = {k: v[keep] for k, v in case.options.items() if isinstance(v, Tensor)}
    expected = case(case.student[keep], case.teacher[keep], **inside)
    value = case(case.student, case.teacher, mask=keep)
    case.expect(torch.isclose(value, expected, rtol=1e-5), "a mask is not the same as the subset")
    dirty = [t.clone() for t in (case.student, case.teacher)]
    for tensor in dirty:
        tensor[~keep] = float("nan")
    leaf = dirty[0].requires_grad_(True)
    value = case(leaf, dirty[1], mask=keep)
    value.backward()
    case.expect(torch.isclose(value, expected, rtol=1e-5), "what is masked leaks into the value")
    clean = leaf.grad is not None and torch.isfinite(leaf.grad).all()
    case.expect(clean, "what is masked leaks into the gradient")
    nothing = case(case.student, case.teacher, mask=torch.zeros_like(keep))
    case.expect(nothing == 0, "a mask that keeps nothing does not give 0")


def _temperature(case: _LossCase) -> None:
    if "temperature" not in case.takes:
        return
    norms = []
    for temperature in (20.0, 40.0):
        hot = _LossCase.__new__(_LossCase)
        hot.__dict__.update(case.__dict__, options={**case.options, "temperature": temperature})
        norms.append(hot.gradient(case.student, case.teacher).norm())
    steady = 0.7 < norms[1] / norms[0] < 1.4
    case.expect(steady, "the gradient's size changes with the temperature: T² is missing")


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
)
