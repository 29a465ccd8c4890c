"""Public contract checks: for Limbeck's losses, teachers, methods and tasks, and for yours.

Each ``check_...`` tries everything that the rest of Limbeck relies on and raises one
:class:`ContractError` that lists all that does not hold.

Letters: B samples, T tokens, C classes or channels, D features, H×W positions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from limbeck.distill import Distiller
from limbeck.errors import InputError
from limbeck.losses.spec import Spec, spec_of
from limbeck.losses.wrap import chunked
from limbeck.methods import Match, Method, as_method
from limbeck.tasks import Classification, Task
from limbeck.teachers import Knowing, Teacher

__all__ = ["ContractError", "check_loss", "check_method", "check_task", "check_teacher"]

Shapes = Sequence[tuple[tuple[int, ...], tuple[int, ...]]]

_SHAPES: dict[str, Shapes] = {
    "classes": [((6, 5), (6, 5)), ((4, 3, 5), (4, 3, 5))],
    "positions": [((6, 3, 4, 4), (6, 5, 4, 4))],
    "shape": [((6, 5), (6, 5)), ((4, 3, 5), (4, 3, 5)), ((6, 3, 4, 4), (6, 3, 4, 4))],
    "none": [((6, 5), (6, 7)), ((6, 3, 4, 4), (6, 2, 2, 2))],
}


class ContractError(AssertionError):
    """What was checked does not keep the contract; the message lists every breach."""


class _Findings:
    """Collects breaches, so that all are told at once."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.breaches: list[str] = []

    def expect(self, holds: bool | Tensor, breach: str) -> None:
        if not bool(holds):
            self.breaches.append(breach)

    @contextmanager
    def about(self, topic: str) -> Iterator[None]:
        """Turn an exception into a breach."""
        try:
            yield
        except Exception as error:
            self.breaches.append(f"{topic}: {type(error).__name__}: {error}")

    def raise_if_any(self) -> None:
        if self.breaches:
            listed = "\n  - ".join(dict.fromkeys(self.breaches))
            raise ContractError(f"{self.what} breaks its contract:\n  - {listed}")


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
    findings = _Findings(f"the loss {getattr(loss, '__name__', type(loss).__name__)}")
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
        findings: _Findings,
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


def check_teacher(teacher: Knowing, batch: Any, taps: Sequence[str] = ("logits",)) -> None:
    """Check a teacher: rows, gradients, repeatability, order.

    Args:
        teacher: anything with ``knowledge(batch, taps)`` and ``fingerprint()``.
        batch: at least two samples, as its loader gives them.
        taps: what it is asked for.

    Raises:
        ContractError: a property does not hold; all breaches are listed.

    >>> check_teacher(Teacher(nn.Linear(4, 3)), {"inputs": torch.randn(5, 4)})
    """
    findings = _Findings(f"the teacher {type(teacher).__name__}")
    with findings.about("knowledge"):
        first, again = (teacher.knowledge(batch, tuple(taps)) for _ in range(2))
        size = _size(batch)
        missing = [tap for tap in taps if tap not in first.tensors]
        findings.expect(not missing, f"it does not yield {missing}")
        for name, tensor in first.tensors.items():
            findings.expect(
                len(tensor) == size, f"{name} has {len(tensor)} rows for {size} samples"
            )
            findings.expect(not tensor.requires_grad, f"{name} carries a gradient")
            findings.expect(not tensor.is_inference(), f"{name} cannot be used in a backward pass")
            findings.expect(torch.equal(tensor, again[name]), f"{name} differs when asked again")
        # The order reversed, and one sample alone: together no mixing of rows passes.
        for order in (torch.arange(size - 1, -1, -1), torch.tensor([size - 1])):
            turned = teacher.knowledge(_rows(batch, order), tuple(taps))
            for name, tensor in first.tensors.items():
                same = torch.allclose(turned[name], tensor[order], rtol=1e-4, atol=1e-5)
                findings.expect(same, f"{name} does not follow the order of the batch")
    with findings.about("fingerprint"):
        same = teacher.fingerprint() == teacher.fingerprint() != ""
        findings.expect(same, "its fingerprint is empty or differs when asked again")
    if isinstance(teacher, Teacher):
        _check_frozen(teacher, batch, taps, findings)
    findings.raise_if_any()


def _check_frozen(teacher: Teacher, batch: Any, taps: Sequence[str], findings: _Findings) -> None:
    before = teacher.fingerprint()
    teacher.module.train()
    teacher.knowledge(batch, tuple(taps))
    modes = [part.training for part in teacher.module.modules()]
    findings.expect(not any(modes), "after .train() it answers in training mode")
    frozen = not any(p.requires_grad for p in teacher.module.parameters())
    findings.expect(frozen, "its parameters want gradients")
    findings.expect(teacher.fingerprint() == before, "answering changed its weights or statistics")


def check_method(
    method: Method | Match | Iterable[Match],
    *,
    student: nn.Module | None = None,
    teacher: nn.Module | None = None,
    batch: Any = None,
    task: Task | None = None,
) -> None:
    """Check a method on small models: it trains the student and its own modules, and nothing else.

    Args:
        method: a method, a match, or a list of matches.
        student: by default a small convolutional network of three stages.
        teacher: by default a wider one.
        batch: what both take; by default images (8, 3, 16, 16) with 5 classes.
        task: of the batch.

    Raises:
        ContractError: a property does not hold; all breaches are listed.

    >>> from limbeck import methods
    >>> check_method(methods.kd())
    """
    made = as_method(method)
    findings = _Findings(f"the method {made.name}")
    with findings.about("a step"):
        student, teacher = student or _tiny(4), teacher or _tiny(6)
        task = task or Classification(5)
        batch = batch if batch is not None else _tiny_batch()
        before = Teacher(teacher).fingerprint()
        distiller = Distiller(teacher, student, task=task, method=made).prepare(batch)
        out = distiller.train()(batch)
        findings.expect(out.loss.ndim == 0 and torch.isfinite(out.loss), "the loss is not finite")
        findings.expect(out.loss.dtype == torch.float32, f"the loss is {out.loss.dtype}")
        out.loss.backward()
        idle = [n for n, p in distiller.named_parameters() if p.requires_grad and p.grad is None]
        findings.expect(
            len(idle) < len(list(student.parameters())), "no gradient reaches the student"
        )
        helpers = [name for name in idle if not name.startswith("student.")]
        findings.expect(not helpers, f"no gradient reaches {helpers}")
        findings.expect(Teacher(teacher).fingerprint() == before, "the teacher changed")
        theirs = {id(p) for p in teacher.parameters()}
        held = any(id(p) in theirs for p in distiller.parameters())
        findings.expect(not held, "the teacher is among the parameters")
        prefixes = {name.partition(".")[0] for name in distiller.state_dict()}
        findings.expect(
            prefixes <= {"student", "alignments", "losses"}, f"its state holds {prefixes}"
        )
        released = distiller.release()
        findings.expect(released is student, "the student that ships is not the student")
    findings.raise_if_any()


def check_task(task: Task, batch: Any, logits: Tensor) -> None:
    """Check a task: what it says of a batch, that its loss is a mean, that its meter adds up.

    Args:
        task: the task.
        batch: at least three samples, as its loader gives them.
        logits: what some model answered to them.

    Raises:
        ContractError: a property does not hold; all breaches are listed.

    >>> check_task(Classification(3), (torch.randn(6, 4), torch.arange(6) % 3), torch.randn(6, 3))
    """
    findings = _Findings(f"the task {task.name}")
    with findings.about("the batch"):
        named = task.named(batch)
        findings.expect(set(task.named(named)) == set(named), "named() changes a named batch")
        task.inputs(named)
        task.targets(named)
        task.check(named)
        task.check_logits(logits, "model")
    with findings.about("the label loss"):
        leaf = logits.clone().requires_grad_(True)
        whole = task.label_loss(leaf, named)
        whole.backward()
        findings.expect(
            whole.ndim == 0 and torch.isfinite(whole), "the loss is not a finite scalar"
        )
        findings.expect(whole.dtype == torch.float32, f"the loss is {whole.dtype}")
        cuts = (slice(0, 1), slice(1, None))
        parts = [(_rows(named, cut), logits[cut]) for cut in cuts]
        counts = [float(task.count(part)) for part, _ in parts]
        mean = sum(task.label_loss(x, b) * n for (b, x), n in zip(parts, counts, strict=True))
        findings.expect(
            torch.isclose(torch.as_tensor(mean) / sum(counts), whole, rtol=1e-5),
            "the loss is not the mean over what count() counts",
        )
        with torch.autocast("cpu", torch.bfloat16):
            inside = task.label_loss(logits, named)
        findings.expect(torch.isclose(inside, whole, rtol=1e-6), "autocast changes the loss")
    with findings.about("the meter"):
        once, pieces = task.meter(), task.meter()
        once.update(logits, named)
        for part, answer in parts:
            pieces.update(answer, part)
        one, other = once.compute().metrics, pieces.compute().metrics
        findings.expect(task.selection in one, f"{task.selection} is not among {sorted(one)}")
        for name, value in one.items():
            close = abs(value - other[name]) <= 1e-5 * max(1.0, abs(value))
            findings.expect(close, f"{name} differs when batches are smaller")
    findings.raise_if_any()


def _tiny(width: int) -> nn.Module:
    stages: list[nn.Module] = []
    channels = 3
    for stage in range(3):
        stages += [nn.Conv2d(channels, width << stage, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        channels = width << stage
    return nn.Sequential(*stages, nn.Flatten(), nn.Linear(4 * channels, 5))


def _tiny_batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, 16, 16, generator=generator)
    return images, torch.randint(5, (8,), generator=generator)


def _rows(batch: Any, pick: Any) -> Any:
    return tree_map(lambda leaf: leaf[pick] if isinstance(leaf, Tensor) else leaf, batch)


def _size(batch: Any) -> int:
    sizes: list[int] = []
    tree_map(lambda leaf: sizes.append(len(leaf)) if isinstance(leaf, Tensor) else None, batch)
    if not sizes or sizes[0] < 2:
        raise InputError("a batch without two samples", expected="at least two")
    return sizes[0]
