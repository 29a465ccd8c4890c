"""What can be put around any loss: a weight, a schedule, a mask, chunks, a gathered batch.

Each wrapper takes a loss and returns a loss, and keeps what the loss declared about itself.

Letters: B samples, T tokens, C classes.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import checkpoint

from limbeck.errors import InputError, unknown
from limbeck.losses.schedules import Schedule, value_at
from limbeck.losses.spec import ROWWISE, declare, spec_of

__all__ = ["Loss", "chunked", "gathered", "masked", "scheduled", "weighted"]

Loss = Callable[..., Tensor]


def weighted(loss: Loss, weight: float) -> Loss:
    """Multiply a loss by a number.

    >>> from limbeck.losses import logit_mse
    >>> weighted(logit_mse, 0.5)(torch.zeros(1, 2), torch.ones(1, 2))
    tensor(1.)
    """

    def wrapped(student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
        return weight * loss(student, teacher, **options)

    return declare(spec_of(loss), passes=True)(_presented_as(loss, wrapped))


def scheduled(loss: Loss, **schedules: Schedule) -> Loss:
    """Let options of a loss follow schedules, for example its temperature.

    The wrapped loss takes ``progress=`` (0 to 1), which the distiller passes to any loss that has
    such a parameter.

    Raises:
        InputError: the loss has no such option.

    >>> from limbeck.losses import kl, schedules
    >>> cooling = scheduled(kl, temperature=schedules.linear(8.0, 1.0))
    >>> cooling(torch.zeros(1, 2), torch.zeros(1, 2), progress=0.5)
    tensor(0.)
    """

    own = _signature(loss).parameters
    for name in schedules:
        if name not in own and not any(p.kind is p.VAR_KEYWORD for p in own.values()):
            raise unknown(f"option of the loss {_name(loss)}:", name, list(own)[2:])

    def wrapped(student: Tensor, teacher: Tensor, *, progress: float, **options: Any) -> Tensor:
        current: dict[str, Any] = {k: value_at(s, progress) for k, s in schedules.items()}
        if "progress" in own:
            current["progress"] = progress
        return loss(student, teacher, **current, **options)

    return declare(spec_of(loss), passes=True)(
        _presented_as(loss, wrapped, "progress", without=schedules)
    )


def masked(loss: Loss) -> Loss:
    """Give a mask to a loss that has none: only the samples (or tokens) it keeps are compared.

    The kept rows (and labels) are selected, so the result is exactly the loss of that subset, also
    for losses that compare samples with one another; it is 0 where nothing is kept. On a GPU
    selecting by mask waits for the device; losses that take a mask themselves do not.

    >>> from limbeck.losses import similarity_preserving
    >>> pick = torch.tensor([True, True, False])
    >>> masked(similarity_preserving)(torch.eye(3), torch.eye(3), mask=pick)
    tensor(0.)
    """

    def wrapped(
        student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, **options: Any
    ) -> Tensor:
        if mask is None:
            return loss(student, teacher, **options)
        keep = mask.bool()
        if not keep.any():
            return student[keep].sum()
        kept = {k: v[keep] for k, v in options.items() if _has_rows(k, v, mask.shape)}
        return loss(student[keep], teacher[keep], **options | kept)

    by_value = "it selects the rows that the mask keeps"
    spec = replace(spec_of(loss), waits=by_value, uncompiled=by_value)
    return declare(spec, passes=True)(_presented_as(loss, wrapped, "mask"))


def chunked(loss: Loss, size: int) -> Loss:
    """Compute a loss over ``size`` samples (or tokens) at a time: same value, less memory.

    Sequences are laid out as tokens first. Each chunk's inner results are dropped and computed
    again for the gradient, so that only one chunk's are alive at a time.

    Raises:
        InputError: the loss compares samples with one another, so that chunks would change it.

    >>> from limbeck.losses import kl
    >>> logits = torch.randn(5, 3)
    >>> chunked(kl, 2)(logits, logits.flip(0)).isclose(kl(logits, logits.flip(0)))
    tensor(True)
    """
    if not spec_of(loss).per_sample:
        raise InputError(
            f"{_name(loss)} cannot be computed in chunks",
            expected="a loss that is a mean of independent values per sample",
            consequence="It compares samples with one another: chunks would change its value.",
        )

    def wrapped(
        student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, **options: Any
    ) -> Tensor:
        lead = student.shape[: 2 if student.ndim == 3 else 1]
        given = options if mask is None else {**options, "mask": mask}
        rowwise = {k: v for k, v in given.items() if _has_rows(k, v, lead)}
        fixed = {k: v for k, v in given.items() if k not in rowwise}
        pieces = [t.flatten(0, len(lead) - 1).split(size) for t in (student, teacher)]
        cut = {k: v.flatten(0, len(lead) - 1).split(size) for k, v in rowwise.items()}
        total = student.new_zeros((), dtype=torch.promote_types(student.dtype, torch.float32))
        for number, (own, theirs) in enumerate(zip(*pieces, strict=True)):
            mine = {k: parts[number] for k, parts in cut.items()}
            summed = functools.partial(loss, reduction="sum", **fixed, **mine)
            total = total + checkpoint(summed, own, theirs, use_reentrant=False)
        return total / (lead.numel() if mask is None else _kept(mask, len(lead)))

    return declare(spec_of(loss), passes=True)(_presented_as(loss, wrapped))


def gathered(loss: Loss) -> Loss:
    """Let a loss see the batches of all processes together; alone, it changes nothing.

    Losses that compare samples with one another then give, over N processes with B/N samples
    each, the value and the averaged gradient of one process with all B.

    >>> from limbeck.losses import similarity_preserving
    >>> gathered(similarity_preserving)(torch.eye(2), torch.eye(2))
    tensor(0.)
    """

    def wrapped(student: Any, teacher: Any, **options: Any) -> Tensor:
        if processes() == 1:
            return loss(student, teacher, **options)
        size = tree_leaves(student)[0].shape[:1]
        rows = {k: _gather(v) for k, v in options.items() if _has_rows(k, v, size)}
        return loss(tree_map(_gather, student), tree_map(_gather, teacher), **options | rows)

    return declare(spec_of(loss), passes=True)(_presented_as(loss, wrapped))


def processes() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _gather(rows: Tensor) -> Tensor:
    """Concatenate every process's rows, with a gradient to one's own.

    All processes compute the same value, so each has the whole gradient of its own rows; it counts
    once for each process, since data parallelism averages over them.
    """
    world = dist.get_world_size()
    sent = rows.detach().contiguous()
    parts = [torch.empty_like(sent) for _ in range(world)]
    dist.all_gather(parts, sent)
    own = rows.view_as(rows)
    if own.requires_grad:
        own.register_hook(lambda gradient: gradient * world)
    parts[dist.get_rank()] = own
    return torch.cat(parts)


def _kept(mask: Tensor, lead: int) -> Tensor:
    """Return how many samples (or tokens) a mask keeps; one within them keeps those with any."""
    keep = mask.bool()
    if keep.ndim > lead:
        keep = keep.flatten(lead).any(-1)
    return keep.sum().clamp(min=1)


def _name(loss: Loss) -> str:
    return str(getattr(loss, "__name__", type(loss).__name__))


def _signature(loss: Loss) -> inspect.Signature:
    return inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss)


def _has_rows(name: str, option: Any, rows: torch.Size) -> bool:
    """Say whether an option of a loss has an entry for each sample (or token)."""
    named = name in ROWWISE and isinstance(option, Tensor)
    return named and option.shape[: len(rows)] == rows


def _presented_as(loss: Loss, wrapped: Loss, *added: str, without: Iterable[str] = ()) -> Loss:
    """Give ``wrapped`` the name, text and signature of ``loss``, with the ``added`` options.

    As ``functools.wraps`` does, it keeps the loss itself, so that a distiller finds the parameters
    of a module inside.
    """
    signature = _signature(loss)
    gone = {*added, *without}
    options = {name: p for name, p in signature.parameters.items() if name not in gone}
    for name in added:
        options[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)
    last = inspect.Parameter.VAR_KEYWORD
    ordered = sorted(options.values(), key=lambda parameter: parameter.kind == last)
    wrapped.__name__, wrapped.__doc__ = _name(loss), loss.__doc__
    wrapped.__signature__ = signature.replace(parameters=ordered)  # type: ignore[attr-defined]
    wrapped.__wrapped__ = loss  # type: ignore[attr-defined]
    return wrapped
