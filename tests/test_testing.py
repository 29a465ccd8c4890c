"""The public checks catch what they are for: one deliberately broken thing for each property."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck import losses
from limbeck.knowledge import Knowledge
from limbeck.losses import Spec, declare
from limbeck.losses.spec import comparable, reduce
from limbeck.methods import Match, Method
from limbeck.tasks import Classification, Quality
from limbeck.teachers import Teacher
from limbeck.testing import (
    ContractError,
    WaitingError,
    check_loss,
    check_method,
    check_task,
    check_teacher,
    never_waiting,
)

SPEC = Spec("response", "an example", "classes")
CALLS = {"number": 0}


def squared(student, teacher, *, temperature=1.0, mask=None, reduction="mean"):
    """A loss that keeps the contract."""
    student, teacher = comparable(student, teacher, mask, remedy="")
    q, p = (F.log_softmax(x / temperature, -1) for x in (student, teacher))
    return temperature**2 * reduce((q.exp() - p.exp()).square().sum(-1), mask, reduction)


def breaches(check: Callable[..., None], *args: Any, **options: Any) -> str:
    with pytest.raises(ContractError) as caught:
        check(*args, **options)
    return str(caught.value)


def test_a_right_loss_passes() -> None:
    """Checks that refuse everything would pass all the tests below."""
    check_loss(declare(SPEC)(squared))
    check_loss(declare(SPEC)(squared), temperature=3.0)


# -- losses: declared ones, so that only the broken property shows


def _vector(s, t, *, mask=None, reduction="mean", temperature=1.0):
    return squared(s, t, mask=mask, reduction="none" if mask is None else reduction)


def _constant(s, t, **options):
    return torch.ones(())


def _nan(s, t, **options):
    return squared(s, t) + float("nan")


def _double(s, t, *, mask=None, reduction="mean", temperature=1.0):
    return squared(s, t, mask=mask, reduction=reduction).double()


def _changes_inputs(s, t, *, mask=None, reduction="mean", temperature=1.0):
    value = squared(s.clone(), t, mask=mask, reduction=reduction, temperature=temperature)
    with torch.no_grad():
        t.add_(1.0)
    return value


def _wrong_gradient(s, t, *, mask=None, reduction="mean", temperature=1.0):
    half = s / 2 + s.detach() / 2
    return squared(half, t, mask=mask, reduction=reduction, temperature=temperature)


def _zero_gradient(s, t, *, mask=None, reduction="mean", temperature=1.0):
    return squared(s.detach(), t, mask=mask, reduction=reduction) + 0 * s.nan_to_num().sum()


def _not_least_when_equal(s, t, *, mask=None, reduction="mean", temperature=1.0):
    return squared(s, t + 1 * (t > 0), mask=mask, reduction=reduction, temperature=temperature)


def _negative(s, t, *, mask=None, reduction="mean", temperature=1.0):
    return -squared(s, t, mask=mask, reduction=reduction, temperature=temperature)


def _overflows(s, t, *, mask=None, reduction="mean", temperature=1.0):
    s, t = comparable(s, t, mask, remedy="")
    q, p = (x.exp() / x.exp().sum(-1, keepdim=True) for x in (s, t))
    return reduce((q - p).square().sum(-1), mask, reduction)


def _first_counts_more(s, t, *, mask=None, reduction="mean", temperature=1.0):
    each = squared(s, t, mask=mask, reduction="none", temperature=temperature)
    weight = torch.ones_like(each)
    weight[0] = 2
    return reduce(each * weight, mask, reduction)


def _square_of_the_mean(s, t, *, mask=None, reduction="mean", temperature=1.0):
    value = squared(s, t, mask=mask, reduction=reduction, temperature=temperature)
    return value if reduction == "none" else value.square()


def _no_sum(s, t, *, mask=None, reduction="mean", temperature=1.0):
    kind = "mean" if reduction == "sum" else reduction
    return squared(s, t, mask=mask, reduction=kind, temperature=temperature)


def _no_mask(s, t, *, mask=None, reduction="mean", temperature=1.0):
    return squared(s, t, reduction=reduction, temperature=temperature)


def _mask_times(s, t, *, mask=None, reduction="mean", temperature=1.0):
    each = squared(s, t, reduction="none", temperature=temperature)
    if mask is None:
        return reduce(each, None, reduction)
    return (each * mask).sum() / mask.sum().clamp(min=1)


def _mask_over_nothing(s, t, *, mask=None, reduction="mean", temperature=1.0):
    value = squared(s, t, mask=mask, reduction=reduction, temperature=temperature)
    return value if mask is None or mask.any() else value + float("nan")


def _no_t2(s, t, *, mask=None, reduction="mean", temperature=1.0):
    value = squared(s, t, mask=mask, reduction=reduction, temperature=temperature)
    return value / temperature**2


def _fails(s, t, **options):
    raise KeyError("oh")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (_vector, "not a scalar's"),
        (_constant, "no gradient reaches the student"),
        (_nan, "the value is not finite"),
        (_double, "float32 inputs gave torch.float64"),
        (_changes_inputs, "the inputs were changed in place"),
        (_wrong_gradient, "measured"),
        (_zero_gradient, "the student's gradient is zero"),
        (_not_least_when_equal, "where student and teacher are equal"),
        (_negative, "it is not smaller where student and teacher are equal"),
        (_overflows, "±60,000"),
        (_first_counts_more, "the order of the samples changes the value"),
        (_square_of_the_mean, "parts do not add up"),
        (_no_sum, '"sum" is not the sum of "none"'),
        (_no_mask, "a mask is not the same as the subset"),
        (_mask_times, "what is masked leaks"),
        (_mask_over_nothing, "a mask that keeps nothing does not give 0"),
        (_no_t2, "T² is missing"),
        (_fails, "KeyError"),
    ],
)
def test_broken_losses(wrong: Callable[..., Tensor], told: str) -> None:
    """A property that no broken loss has ever tested may not be tested at all."""
    assert told in breaches(check_loss, declare(SPEC)(wrong))


@pytest.mark.parametrize(
    ("told", "bare"),
    [
        ("a gradient reaches the teacher", lambda s, t: squared(s.float(), t.float())),
        (
            "autocast changes the value",
            lambda s, t: (s @ s.transpose(-1, -2) - t @ t.mT).square().mean(),
        ),
        ("bfloat16 inputs gave torch.bfloat16", lambda s, t: squared(s, t.detach())),
        ("bfloat16 inputs are not widened", lambda s, t: squared(s, t.detach()).float()),
    ],
)
def test_losses_without_protection(told: str, bare: Callable[..., Tensor]) -> None:
    """What ``declare`` does for a loss must be noticed when it is not done."""
    spec = Spec("response", "an example", "classes", per_sample=False)
    assert told in breaches(check_loss, bare, spec=spec)


# -- how a loss runs: what a device, a compiler and torch.func must not meet


def _reads(s, t, *, mask=None, reduction="mean", temperature=1.0):
    value = squared(s, t, mask=mask, reduction=reduction, temperature=temperature)
    return value if float(s.detach().nan_to_num().max()) > -1e9 else value + 1


def _asks_of_a_mask(s, t, *, mask=None, reduction="mean", temperature=1.0):
    if mask is not None and not mask.any():
        return squared(s, t, mask=mask, reduction="sum", temperature=temperature)
    return squared(s, t, mask=mask, reduction=reduction, temperature=temperature)


def _selects(s, t, *, mask=None, reduction="mean", temperature=1.0):
    each = squared(s, t, mask=mask, reduction="none", temperature=temperature)
    kept = each if mask is None else each[mask.bool()]
    return reduce(kept if mask is not None and reduction == "mean" and mask.any() else each, None,
                  reduction)  # fmt: skip


def _makes_constants(s, t, *, mask=None, reduction="mean", temperature=1.0):
    value = squared(s, t, mask=mask, reduction=reduction, temperature=temperature)
    return value * torch.tensor([1.0], device=s.device).squeeze(0)


def _counts(s, t, *, mask=None, reduction="mean", temperature=1.0):
    value = squared(s, t, mask=mask, reduction=reduction, temperature=temperature)
    return value * s.detach().unique().isfinite().any()


class _Reader(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return gradient if float(gradient.abs().max()) < 1e30 else 2 * gradient


def _reads_backwards(s, t, *, mask=None, reduction="mean", temperature=1.0):
    value = squared(s, t, mask=mask, reduction=reduction, temperature=temperature)
    return _Reader.apply(value)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (_reads, "_local_scalar_dense waits for the device (test_testing.py:"),
        (_asks_of_a_mask, "_local_scalar_dense waits for the device (test_testing.py:"),
        (_selects, "index waits for the device (test_testing.py:"),
        (_makes_constants, "tensor with numbers of Python waits for the device (test_testing.py:"),
        (_counts, "unique waits for the device (test_testing.py:"),
        (_reads_backwards, "_local_scalar_dense waits for the device (test_testing.py:"),
    ],
)
def test_losses_that_wait(wrong: Callable[..., Tensor], told: str) -> None:
    """A GPU would stand still in each step, and nobody without one would know."""
    assert told.replace("unique", "_unique2") in breaches(
        check_loss, declare(SPEC)(wrong), compiled=False
    )


def test_losses_may_say_that_they_wait() -> None:
    """A loss that must look at values could not keep the contract."""
    by_value = "it looks at the largest logit"
    spec = replace(SPEC, waits=by_value, uncompiled=by_value, unmapped=by_value)
    check_loss(declare(spec)(_reads))


def _breaks_the_graph(s, t, *, mask=None, reduction="mean", temperature=1.0):
    torch._dynamo.graph_break()
    return squared(s, t, mask=mask, reduction=reduction, temperature=temperature)


def _other_when_compiled(s, t, *, mask=None, reduction="mean", temperature=1.0):
    value = squared(s, t, mask=mask, reduction=reduction, temperature=temperature)
    return 2 * value if torch.compiler.is_compiling() else value


@declare(Spec("response", "an example", "classes", per_sample=False))
class _Remembers(nn.Module):
    """Forgets to move its memory where it is compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, s, t):
        if not torch.compiler.is_compiling():
            self.seen += 1
        return squared(s, t)


def test_losses_that_do_not_compile() -> None:
    """A user who compiles would get two graphs, or another loss."""
    assert "compiled at" in breaches(check_loss, declare(SPEC)(_breaks_the_graph))
    told = "torch.compile changes the value, a gradient or what is remembered"
    assert told in breaches(check_loss, declare(SPEC)(_other_when_compiled))
    check_loss(_Remembers(), compiled=False, shapes=[((6, 5), (6, 5))])
    assert told in breaches(check_loss, _Remembers(), shapes=[((6, 5), (6, 5))])


class _Halved(torch.autograd.Function):
    """Half the gradient, where torch.func asks for it."""

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return gradient / (2 if torch._C._are_functorch_transforms_active() else 1)


def _halved(s, t, *, mask=None, reduction="mean", temperature=1.0):
    return _Halved.apply(squared(s, t, mask=mask, reduction=reduction, temperature=temperature))


def _looks_at_the_batch(s, t, *, mask=None, reduction="mean", temperature=1.0):
    each = squared(s, t, mask=mask, reduction="none", temperature=temperature)
    return reduce(each if reduction != "none" or len(s) > 1 else each * 2, mask, reduction)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (_halved, "torch.func.grad gives another gradient than backward()"),
        (_looks_at_the_batch, "torch.func.vmap gives other values than the batch"),
        (_reads, "transforms at (6, 5)"),
    ],
)
def test_losses_that_are_not_transformed(wrong: Callable[..., Tensor], told: str) -> None:
    """Gradients of single samples would be another loss's."""
    assert told in breaches(check_loss, declare(SPEC)(wrong), compiled=False)


META = torch.zeros(3, 4, device="meta")


@pytest.mark.parametrize(
    "work",
    [
        lambda: META.tolist(),
        lambda: META.cpu(),
        lambda: torch.ones(4).to(META),
        lambda: META + torch.ones(4),
        lambda: META[[0, 1]],
        lambda: META[torch.tensor([0, 1])],
        lambda: META.new_tensor([1.0]),
        lambda: torch.nn.functional.one_hot(META.long()),
        lambda: META.repeat_interleave(META[:, 0].long(), dim=0),
        lambda: META.index_put((META > 0,), torch.zeros(12, device="meta")),
        lambda: torch.linalg.svd(META),
    ],
)
def test_what_waits(work: Callable[[], Any]) -> None:
    """A list of operations with a gap would let them pass."""
    with pytest.raises(WaitingError, match="waits for the device"), never_waiting():
        work()


@pytest.mark.parametrize(
    "work",
    [
        lambda: META * torch.tensor(2.0),
        lambda: torch.where(META > 0, META, 0.0),
        lambda: META.masked_fill(META > 0, 0.0),
        lambda: torch.full((3,), 2.0, device="meta") + META[:, 0],
        lambda: torch.nn.functional.one_hot(META.long(), 4),
        lambda: META.repeat_interleave(2, dim=0),
        lambda: META[META.argmax(dim=0) * 0],
        lambda: torch.ones(4)[torch.ones(4) > 0].tolist(),
    ],
)
def test_what_does_not_wait(work: Callable[[], Any]) -> None:
    """A check that refuses harmless operations would be switched off."""
    with never_waiting():
        work()


def test_losses_between_samples_are_not_cut() -> None:
    """A relation would be blamed for what it is."""
    check_loss(losses.similarity_preserving)
    spec = Spec("relation", "an example", "none", per_sample=True)

    @declare(spec)
    def pretends(student, teacher, *, reduction="mean"):
        return losses.similarity_preserving(student, teacher)

    assert "parts do not add up" in breaches(check_loss, pretends)


def test_every_breach_is_told() -> None:
    """One would be mended after another, a run for each."""
    text = breaches(check_loss, declare(SPEC)(_mask_times))
    assert text.startswith("the loss _mask_times breaks its contract:")
    assert text.count("\n  - ") >= 2


def test_losses_with_labels_and_shapes() -> None:
    """Labels would have to be given by hand, and own shapes be ignored."""

    @declare(Spec("response", "an example", "classes", zero_at_equal=False))
    def labelled(student, teacher, *, targets, reduction="mean"):
        each = F.cross_entropy(student.movedim(-1, 1), targets, reduction="none")
        return reduce(each, None, reduction)

    check_loss(labelled)
    seen: list[tuple[int, ...]] = []

    @declare(Spec("response", "an example", "classes", zero_at_equal=False))
    def watched(student, teacher, *, reduction="mean"):
        seen.append(tuple(student.shape))
        return reduce((student - teacher).square().sum(-1), None, reduction)

    check_loss(watched, shapes=[((7, 3), (7, 3))])
    assert {shape[-1] for shape in seen} == {3}


# -- teachers


class Says:
    """A teacher whose every part can be broken."""

    def __init__(self, says: Callable[[Tensor], Tensor], fingerprint: Any = "x") -> None:
        self.says, self.print = says, fingerprint

    def knowledge(self, batch: Mapping[str, Any], taps: Sequence[str]) -> Knowledge:
        CALLS["number"] += 1
        return Knowledge({"logits": self.says(batch["inputs"])})

    def fingerprint(self) -> str:
        return self.print() if callable(self.print) else self.print


WEIGHT = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def _in_inference(x: Tensor) -> Tensor:
    with torch.inference_mode():
        return x @ WEIGHT


def test_a_right_teacher_passes() -> None:
    """Checks that refuse everything would pass all the tests below."""
    check_teacher(Says(lambda x: x @ WEIGHT), {"inputs": torch.randn(5, 4)})


@pytest.mark.parametrize(
    ("says", "told"),
    [
        (lambda x: (x @ WEIGHT)[:3], "has 3 rows for 5 samples"),
        (lambda x: (x @ WEIGHT).requires_grad_(True), "carries a gradient"),
        (_in_inference, "cannot be used in a backward pass"),
        (lambda x: x @ WEIGHT + torch.rand(()), "differs when asked again"),
        (lambda x: x @ WEIGHT + torch.arange(5)[:, None], "does not follow the order"),
        (lambda x: (x @ WEIGHT).flip(0), "does not follow the order"),
        (lambda x: (x @ WEIGHT).roll(1, 0), "does not follow the order"),
        (lambda x: (x - x[0]) @ WEIGHT, "does not follow the order"),
        (lambda x: (x - x.mean(0)) @ WEIGHT, "does not follow the order"),
        (lambda x: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_broken_teachers(says: Callable[[Tensor], Tensor], told: str) -> None:
    """A teacher of a user's own would spoil training in silence."""
    assert told in breaches(check_teacher, Says(says), {"inputs": torch.randn(5, 4)})


@pytest.mark.parametrize("fingerprint", ["", lambda: str(CALLS["number"]) + str(torch.rand(()))])
def test_broken_fingerprints(fingerprint: Any) -> None:
    """A store would always, or never, be refused."""
    wrong = Says(lambda x: x @ WEIGHT, fingerprint)
    assert "fingerprint" in breaches(check_teacher, wrong, {"inputs": torch.randn(5, 4)})


def test_a_teacher_that_lacks_a_tap() -> None:
    """It would be a KeyError at the first match."""
    batch = {"inputs": torch.randn(5, 4)}
    told = breaches(check_teacher, Says(lambda x: x @ WEIGHT), batch, ("logits", "layer1"))
    assert "does not yield ['layer1']" in told


class Thawed(Teacher):
    """Answers in the mode in which it is, and drifts."""

    def __init__(self, module: nn.Module, thaw: str) -> None:
        super().__init__(module)
        self.thaw = thaw
        if thaw == "gradients":
            module.requires_grad_(True)

    def knowledge(self, batch: Any, taps: Sequence[str] = ("logits",)) -> Knowledge:
        if self.thaw == "gradients":
            return super().knowledge(batch, taps)
        with torch.no_grad():
            known = Knowledge({"logits": self.module(batch["inputs"])})
        if self.thaw == "statistics":
            self.module.eval()
        return known


@pytest.mark.parametrize(
    ("thaw", "told"),
    [
        ("mode", "answers in training mode"),
        ("gradients", "its parameters want gradients"),
        ("statistics", "changed its weights or statistics"),
    ],
)
def test_teachers_that_are_not_frozen(thaw: str, told: str) -> None:
    """The defects for which this is all made."""
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    assert told in breaches(check_teacher, Thawed(module, thaw), {"inputs": torch.randn(5, 4)})


def test_a_batch_of_one() -> None:
    """Order cannot be checked with one sample: it would seem to hold."""
    told = breaches(check_teacher, Says(lambda x: x @ WEIGHT), {"inputs": torch.randn(1, 4)})
    assert "at least two" in told


# -- methods


class Idle(nn.Module):
    """A loss with a parameter that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.ones(()))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).square().mean()


def _stops(student: Tensor, teacher: Tensor) -> Tensor:
    return (student.detach() - teacher).square().mean() + torch.zeros((), requires_grad=True)


def _infinite(student: Tensor, teacher: Tensor) -> Tensor:
    return student.sum() * float("inf")


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (Method((Match("logits", "logits", _stops),), 0.0), "no gradient reaches the student"),
        (Match("logits", "logits", _infinite), "the loss is not finite"),
        (Match("logits", "logits", Idle()), "no gradient reaches ['losses.0.unused']"),
        (Match("nowhere", "logits", losses.kl), "'nowhere' is not known"),
        (Match("0", "logits", losses.kl), "the same shape"),
    ],
)
def test_broken_methods(method: Method | Match, told: str) -> None:
    """A method of a user's own would train nothing, or fail after the data was read."""
    assert told in breaches(check_method, method)


def test_a_method_that_changes_the_teacher() -> None:
    """A loss that reaches into the teacher would move it."""
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 5))

    def reaches(student: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            teacher[1].weight.add_(1.0)
        return (student - target).square().mean()

    told = breaches(check_method, Match("logits", "logits", reaches), teacher=teacher)
    assert "the teacher changed" in told


def test_a_method_that_trains_the_teacher() -> None:
    """A loss that holds the teacher as a part would put it into the optimizer."""
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 5))

    class Holding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = teacher[1]

        def forward(self, student: Tensor, target: Tensor) -> Tensor:
            return (student - target).square().mean()

    told = breaches(check_method, Match("logits", "logits", Holding()), teacher=teacher)
    assert "the teacher is among the parameters" in told


# -- tasks


@dataclass(frozen=True)
class Broken(Classification):
    """A classification whose every part can be broken."""

    how: str = ""

    def named(self, batch: Any) -> Any:
        found = super().named(batch)
        return found | {"again" * len(found): 1} if self.how == "named" else found

    def label_loss(self, logits: Tensor, batch: Any) -> Tensor:
        loss = super().label_loss(logits, batch)
        return {
            "sum": lambda: loss * self.count(batch),
            "double": lambda: loss.double(),
            "nan": lambda: loss + float("nan"),
            "vector": lambda: loss.expand(2).sum() + loss.new_zeros(2),
            "half": lambda: F.cross_entropy(logits @ torch.eye(3), batch["targets"]).float(),
        }.get(self.how, lambda: loss)()

    def count(self, batch: Any) -> int:
        return 1 if self.how == "count" else super().count(batch)

    def check(self, batch: Any) -> None:
        if self.how == "check":
            raise KeyError("oh")

    def meter(self) -> Any:
        inner = super().meter()
        how = self.how

        class Meter:
            """The mean of batches' accuracies, or something under another name."""

            def __init__(self) -> None:
                self.seen: list[float] = []

            def update(self, logits: Tensor, batch: Any) -> None:
                inner.update(logits, batch)
                self.seen.append(float((logits.argmax(1) == batch["targets"]).float().mean()))

            def compute(self) -> Quality:
                if how == "meter":
                    return Quality({"accuracy": sum(self.seen) / len(self.seen)})
                found = inner.compute()
                return Quality({"other": 1.0}) if how == "selection" else found

        return Meter()


BATCH = (torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]))
LOGITS = torch.eye(3).repeat(2, 1) * 2.3 - torch.tensor([[9.1, 0, 0]] + [[0.0] * 3] * 5)


def test_a_right_task_passes() -> None:
    """Checks that refuse everything would pass all the tests below."""
    check_task(Broken(3), BATCH, LOGITS)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("named", "named() changes a named batch"),
        ("sum", "not the mean over what count() counts"),
        ("count", "not the mean over what count() counts"),
        ("double", "the loss is torch.float64"),
        ("nan", "not a finite scalar"),
        ("vector", "the label loss"),
        ("half", "autocast changes the loss"),
        ("check", "KeyError"),
        ("meter", "accuracy differs when batches are smaller"),
        ("selection", "accuracy is not among ['other']"),
    ],
)
def test_broken_tasks(how: str, told: str) -> None:
    """A task of a user's own would choose the wrong epoch, or train at the wrong scale."""
    assert told in breaches(check_task, Broken(3, how=how), BATCH, LOGITS)


def test_logits_of_another_shape() -> None:
    """The number of classes is part of the task."""
    assert "3 classes" in breaches(check_task, Classification(3), BATCH, torch.randn(6, 4))
