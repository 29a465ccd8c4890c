"""What is put around a loss changes what it says it changes, and nothing else."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from processes import together
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import limbeck as lb
from limbeck import losses
from limbeck.losses import Spec, declare, schedules, spec_of
from limbeck.losses.wrap import chunked, gathered, masked, scheduled, weighted
from limbeck.testing import check_loss

# Two tensors of the usual shape are enough for these; the others keep the contract in their own
# tests, of which chunks are a part.
NAMES = [
    "attention_transfer", "cosine_hint", "hard_label", "hint", "jensen_shannon", "kl",
    "logit_mse", "probability_mse", "rkd_distance", "similarity_preserving", "soft_cross_entropy",
]  # fmt: skip

PER_SAMPLE = [name for name in NAMES if spec_of(losses.get(name)).per_sample]


@declare(Spec("response", "an example", "classes", zero_at_equal=False))
def labelled(
    student: Tensor, teacher: Tensor, *, targets: Tensor, reduction: str = "mean"
) -> Tensor:
    """A loss that knows the labels, and has no mask of its own."""
    known = teacher.softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    each = known * F.cross_entropy(student.movedim(-1, 1), targets, reduction="none")
    return each if reduction == "none" else each.sum() if reduction == "sum" else each.mean()


class Learned(nn.Module):
    """A loss with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (self.scale * student - teacher).square().mean()


def gradient(loss: Callable[..., Tensor], student: Tensor, *rest: Any, **options: Any) -> Tensor:
    leaf = student.clone().requires_grad_(True)
    loss(leaf, *rest, **options).backward()
    assert leaf.grad is not None
    return leaf.grad


# -- weighted


@pytest.mark.parametrize("name", NAMES)
def test_weighted_multiplies_value_and_gradient(name: str) -> None:
    """A weight that only reached the value would train as if it were 1."""
    shape = (4, 3, 2, 2) if name == "attention_transfer" else (4, 3)
    student, teacher = torch.randn(shape), torch.randn(shape)
    plain, heavy = losses.get(name), weighted(losses.get(name), -2.5)
    assert torch.isclose(heavy(student, teacher), -2.5 * plain(student, teacher))
    assert torch.allclose(
        gradient(heavy, student, teacher), -2.5 * gradient(plain, student, teacher), atol=1e-7
    )


# -- what all wrappers keep


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrap", [lambda loss: weighted(loss, 2.0), masked, gathered])
def test_wrappers_keep_the_contract(wrap: Callable[..., Any], name: str) -> None:
    """A wrapped loss would lose its mask, its precision or what it declared."""
    loss = losses.get(name)
    wrapped = wrap(loss)
    waits = {"waits": "", "uncompiled": ""}  # a choice of rows by mask does, and says so
    assert replace(spec_of(wrapped), **waits) == replace(spec_of(loss), **waits)
    assert wrapped.__name__ == name
    assert set(inspect.signature(loss).parameters) <= set(inspect.signature(wrapped).parameters)
    check_loss(wrapped)


def test_wrappers_nest() -> None:
    """The outermost would hide the options of the innermost from a match."""
    cooling = scheduled(losses.kl, temperature=schedules.linear(8.0, 1.0))
    nested = gathered(weighted(chunked(cooling, 2), 0.5))
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    expected = 0.5 * losses.kl(student, teacher, temperature=4.5)
    assert torch.isclose(nested(student, teacher, progress=0.5), expected)
    match = lb.Match("logits", "logits", nested)
    assert match.context == ("mask", "progress")
    context = {"mask": None, "progress": 0.5, "targets": None}
    assert torch.isclose(match.compare(student, teacher, context), expected)


@pytest.mark.parametrize("wrap", [lambda loss: weighted(loss, 2.0), masked, gathered])
def test_parameters_of_a_wrapped_loss_are_trained(wrap: Callable[..., Any]) -> None:
    """A learnable loss inside a wrapper would be a plain callable: never trained, never saved."""
    inner = Learned()
    method = [lb.Match("logits", "logits", wrap(inner))]
    task = lb.tasks.Classification(3)
    distiller = lb.Distiller(nn.Linear(4, 3), nn.Linear(4, 3), task=task, method=method)
    assert any(parameter is inner.scale for parameter in distiller.parameters())
    assert "losses.0.scale" in distiller.state_dict()
    distiller((torch.randn(6, 4), torch.randint(3, (6,)))).loss.backward()
    assert inner.scale.grad is not None


# -- scheduled


def test_scheduled_follows_progress() -> None:
    """The temperature would stay where it began."""
    cooling = scheduled(losses.kl, temperature=schedules.linear(8.0, 1.0))
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    for progress, temperature in ((0.0, 8.0), (0.5, 4.5), (1.0, 1.0)):
        expected = losses.kl(student, teacher, temperature=temperature)
        assert torch.isclose(cooling(student, teacher, progress=progress), expected)


def test_scheduled_needs_progress() -> None:
    """Without progress it would have to guess one."""
    cooling = scheduled(losses.kl, temperature=schedules.constant(2.0))
    with pytest.raises(TypeError, match="progress"):
        cooling(torch.zeros(1, 2), torch.zeros(1, 2))


def test_scheduled_refuses_unknown_options_at_once() -> None:
    """A typing error would appear at the first training step, after the data was loaded."""
    with pytest.raises(ValueError, match="did you mean 'temperature'"):
        scheduled(losses.kl, temprature=schedules.constant(2.0))


def test_scheduled_options_cannot_be_given_twice() -> None:
    """A match would accept temperature= beside the schedule, and fail at the first step."""
    cooling = scheduled(losses.kl, temperature=schedules.constant(2.0))
    with pytest.raises(ValueError, match="'temperature' is not known"):
        lb.Match("logits", "logits", cooling, temperature=3.0)


def test_schedules_nest() -> None:
    """The outer one would keep progress from the inner one."""

    def loss(student: Tensor, teacher: Tensor, *, a: float, b: float) -> Tensor:
        return student.sum() * 0 + 10 * a + b

    inner = scheduled(loss, a=schedules.linear(0.0, 1.0))
    outer = scheduled(inner, b=schedules.linear(1.0, 0.0))
    assert float(outer(torch.zeros(1), torch.zeros(1), progress=0.25)) == 2.5 + 0.75


# -- masked


def test_masked_is_the_subset_also_between_samples() -> None:
    """Samples that do not count would still be compared with those that do."""
    student, teacher = torch.randn(6, 4), torch.randn(6, 3)
    keep = torch.tensor([True, False, True, True, False, True])
    value = masked(losses.similarity_preserving)(student, teacher, mask=keep)
    assert torch.isclose(value, losses.similarity_preserving(student[keep], teacher[keep]))


@pytest.mark.parametrize("tokens", [False, True])
def test_masked_selects_labels_too(tokens: bool) -> None:
    """The kept rows would meet the labels of others."""
    shape = (4, 5) if tokens else (6,)
    student, teacher = torch.randn(*shape, 3), torch.randn(*shape, 3)
    targets, keep = torch.randint(3, shape), torch.rand(shape) < 0.5
    keep.view(-1)[0] = True
    value = masked(labelled)(student, teacher, mask=keep, targets=targets)
    assert torch.isclose(value, labelled(student[keep], teacher[keep], targets=targets[keep]))


@pytest.mark.parametrize("name", ["similarity_preserving", "logit_mse"])
def test_masked_of_nothing_is_zero(name: str) -> None:
    """A batch whose every sample is masked would make the loss NaN, and the weights with it."""
    student = torch.full((4, 3), float("nan"))
    given = {"mask": torch.zeros(4)}
    found = gradient(masked(losses.get(name)), student, torch.randn(4, 3), **given)
    assert float(masked(losses.get(name))(student, torch.randn(4, 3), **given)) == 0
    assert not found.any()


def test_masked_without_a_mask() -> None:
    """A task without masks passes none: the loss would fail at the first step."""
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    loss = masked(losses.similarity_preserving)
    assert torch.equal(loss(student, teacher), losses.similarity_preserving(student, teacher))
    match = lb.Match("logits", "logits", loss)
    assert match.context == ("mask",)
    assert torch.isfinite(match.compare(student, teacher, {"mask": None}))


# -- chunked


@pytest.mark.parametrize("size", [1, 2, 5, 100])
@pytest.mark.parametrize("name", PER_SAMPLE)
def test_chunked_changes_nothing(name: str, size: int) -> None:
    """Chunks of unequal size would be weighted equally."""
    shape = (5, 3, 2, 2) if name == "attention_transfer" else (5, 3)
    student, teacher = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
    plain, pieces = losses.get(name), chunked(losses.get(name), size)
    assert torch.isclose(pieces(student, teacher), plain(student, teacher), rtol=1e-12)
    assert torch.allclose(
        gradient(pieces, student, teacher), gradient(plain, student, teacher), rtol=1e-10
    )


@pytest.mark.parametrize("name", ["cosine_hint", "hard_label", "hint", "kl", "logit_mse"])
def test_chunked_tokens_with_a_mask(name: str) -> None:
    """Chunks cross sequences; each would be divided by its own number of kept tokens."""
    student, teacher = (torch.randn(3, 5, 4, dtype=torch.float64) for _ in range(2))
    mask = torch.rand(3, 5) < 0.5
    mask[1] = False
    student[~mask], teacher[~mask] = float("nan"), float("nan")
    plain, pieces = losses.get(name), chunked(losses.get(name), 4)
    for kind in (mask, mask.int()):
        assert torch.isclose(
            pieces(student, teacher, mask=kind), plain(student, teacher, mask=mask), rtol=1e-12
        )
    found = gradient(pieces, student, teacher, mask=mask)
    assert torch.allclose(found, gradient(plain, student, teacher, mask=mask), rtol=1e-10)
    nothing = torch.zeros(3, 5, dtype=torch.bool)
    assert float(pieces(student, teacher, mask=nothing)) == 0


def test_chunked_cuts_labels_and_nothing_else() -> None:
    """A temperature or class weights held in a tensor would be cut like labels."""

    @declare(Spec("response", "an example", "classes"))
    def loss(student, teacher, *, targets, temperature, weights, reduction="mean"):
        each = F.cross_entropy(student / temperature, targets, weights, reduction="none")
        return each.sum() if reduction == "sum" else each.mean()

    options = {
        "targets": torch.randint(3, (5,)),
        "temperature": torch.tensor(2.0, requires_grad=True),
        "weights": torch.tensor([1.0, 2.0, 3.0]),
    }
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    value = chunked(loss, 2)(student, teacher, **options)
    assert torch.isclose(value, loss(student, teacher, **options))
    value.backward()
    assert options["temperature"].grad != 0


def test_chunked_refuses_what_compares_samples() -> None:
    """Its value would change with the size of the chunks."""
    with pytest.raises(ValueError, match="cannot be computed in chunks"):
        chunked(losses.similarity_preserving, 2)
    with pytest.raises(ValueError, match="cannot be computed in chunks"):
        chunked(lambda student, teacher: student.mean(), 2)


class Watching(TorchDispatchMode):
    """Notes the most bytes of results, other than views of the inputs, that were alive at once."""

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__()
        self.given = {tensor.untyped_storage()._cdata for tensor in inputs}
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in self.given:
                storage = leaf.untyped_storage()
                self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.alive = {k: v for k, v in self.alive.items() if not v[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return found


def peak(work: Callable[..., Any], *inputs: Tensor) -> int:
    with Watching(list(inputs)) as watching:
        work(*inputs)
    return watching.most


def test_chunked_keeps_one_chunk_alive() -> None:
    """With a large vocabulary the point of chunks is memory: saved results would fill it."""
    student = torch.randn(64, 100, requires_grad=True)
    teacher = torch.randn(64, 100)
    row = 100 * 4
    whole = peak(losses.kl, student, teacher)
    pieces = peak(chunked(losses.kl, 4), student, teacher)
    assert whole > 3 * 64 * row  # several results as large as the logits
    assert pieces < 12 * 4 * row  # a dozen as large as a chunk

    def there_and_back(student: Tensor, teacher: Tensor) -> None:
        chunked(losses.kl, 4)(student, teacher).backward()

    # The gradient itself, in pieces and then in one, and a chunk's results.
    assert peak(there_and_back, student, teacher) < 2 * 64 * row + 12 * 4 * row
    assert student.grad is not None


# -- gathered


def test_gathered_alone_changes_nothing() -> None:
    """It would fail, or wait, where nothing is distributed."""
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    value = gathered(losses.similarity_preserving)(student, teacher)
    assert torch.equal(value, losses.similarity_preserving(student, teacher))


def _batch() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs, teacher = (torch.randn(6, 5, generator=generator).double() for _ in range(2))
    weight = torch.randn(5, 5, generator=generator).double()
    return inputs, teacher, weight, torch.randint(5, (6,), generator=generator), inputs[:, 0] > 0


def _both(rows: slice, weight: Tensor) -> list[Tensor]:
    """Return the losses of some rows of the batch, each with the samples of all processes."""
    inputs, teacher, _, targets, mask = (x[rows] if len(x) == 6 else x for x in _batch())
    student, heat = inputs @ weight, torch.tensor(2.0)

    def hot(student: Tensor, teacher: Tensor, *, temperature: Tensor, targets: Tensor) -> Tensor:
        return losses.similarity_preserving(student / temperature, teacher) + F.cross_entropy(
            student, targets
        )

    return [
        gathered(losses.similarity_preserving)(student, teacher),
        gathered(hot)(student, teacher, temperature=heat, targets=targets),
        gathered(masked(losses.similarity_preserving))(student, teacher, mask=mask),
    ]


def _part(rank: int, count: int) -> dict[str, Any]:
    warnings.simplefilter("error")  # pytest's own rule does not reach here
    size = 6 // count
    found = []
    for number in range(3):
        weight = _batch()[2].requires_grad_(True)
        value = _both(slice(rank * size, (rank + 1) * size), weight)[number]
        value.backward()
        assert weight.grad is not None
        dist.all_reduce(weight.grad)  # as data parallelism averages
        found.append((value.detach(), weight.grad / count))
    return {"found": found}


def test_gathered_over_two_processes_is_one() -> None:
    """Each process would compare its own samples alone: the result would depend on their number."""
    parts = together(_part, 2)
    for number in range(3):
        weight = _batch()[2].requires_grad_(True)
        value = _both(slice(None), weight)[number]
        value.backward()
        for part in parts:
            theirs, averaged = part["found"][number]
            assert torch.isclose(theirs, value, rtol=1e-12)
            assert torch.allclose(averaged, weight.grad, rtol=1e-10)
