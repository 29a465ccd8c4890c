"""On which parts of an input an answer rests: integrated gradients.

Letters: B samples, T tokens or frames, C channels, H×W pixels, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from limbeck.data.shown import is_picture
from limbeck.knowledge.model import call, logits_of

__all__ = ["Front", "Traced", "integrated_gradients", "traced"]

_STEPS = 20  # on the way from nothing to the input


@runtime_checkable
class Front(Protocol):
    """A module at the start of a model whose output a person can look at: a sound's spectrum.

    It returns (B, T, D), alone, or followed by which of T are no padding, (B, T).
    """

    def as_picture(self, values: Tensor) -> Tensor:
        """Return values (B, T, D), one for each number of its output, as people expect them.

        The result is (B, H, W).
        """


@dataclass(frozen=True)
class Traced:
    """How much each part of each input speaks for an answer.

    Attributes:
        weights: in nats: (B, T) of tokens, or (B, H, W) of pixels.
        seen: (B, C, H, W), from 0 to 1, the picture that pixels' weights belong to; ``None`` for
            tokens.
        widths: (B,) how many of the W columns are the sample's own; ``None`` if all are.
        gap: (B,) by how many nats the weights' sum misses what the input adds.
        added: (B,) what it adds: the answer's score with the input, less that without.
    """

    weights: Tensor
    seen: Tensor | None
    widths: Tensor | None
    gap: Tensor
    added: Tensor


def integrated_gradients(
    score: Callable[[Tensor], Tensor],
    inputs: Tensor,
    baseline: Tensor | None = None,
    *,
    steps: int = _STEPS,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return what each number of an input adds to a score, compared with a baseline.

    $$a_i = (x_i - x'_i) \int_0^1 \frac{\partial f(x' + \alpha (x - x'))}{\partial x_i}
    \, \mathrm{d}\alpha$$

    The integral is a Gauss–Legendre sum. The a of a sample add up to f(x) − f(x'), as far as the
    sum is exact: of a linear model with one step, of others the better the more steps there are.

    Args:
        score: f, from inputs (B, ...) to (B,), each from its own sample alone.
        inputs: x, (B, ...), floating.
        baseline: x', of the same shape; zeros if left out.
        steps: points on the way.

    Returns:
        a, (B, ...); Σa − (f(x) − f(x')), (B,); and f(x) − f(x'), (B,).

    Source: Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks", arXiv:1703.01365.

    >>> weights = torch.tensor([[2.0, -1.0]])
    >>> found, gap, _ = integrated_gradients(lambda x: (x * weights).sum(1), torch.ones(1, 2))
    >>> [round(number, 4) for number in found[0].tolist()], round(abs(float(gap)), 4)
    ([2.0, -1.0], 0.0)
    """
    start = torch.zeros_like(inputs) if baseline is None else baseline
    way = inputs - start
    nodes, shares = np.polynomial.legendre.leggauss(steps)
    total = torch.zeros_like(inputs)
    with torch.enable_grad():
        for node, share in zip((nodes + 1) / 2, shares / 2, strict=True):
            point = (start + float(node) * way).detach().requires_grad_()
            (gradient,) = torch.autograd.grad(score(point).sum(), point)
            total += float(share) * gradient
    with torch.no_grad():
        added = score(inputs) - score(start)
    found = way * total
    return found, found.flatten(1).sum(1) - added, added


def traced(
    model: nn.Module,
    inputs: Any,
    log_shares: Callable[[Tensor], Tensor],
    *,
    first: Callable[[Any], Any] | None = None,
    steps: int = _STEPS,
) -> Traced | None:
    """Return on what the likeliest class of each answer rests; ``None`` if that cannot be drawn.

    The score is by how much the class's log-probability is above the mean of all classes': its
    logit, without what all have in common. (The log-probability itself bends so much on the way
    that a deep network needs five times as many steps.) What is taken away on the way to nothing
    is: of pictures their light, so that the baseline is black; of whole numbers that an embedding
    reads their vectors, so that the baseline has none; of models that begin with a :class:`Front`
    what comes out of it.

    Args:
        model: in eval mode.
        inputs: of B samples, before ``first``.
        log_shares: from logits to the log-probabilities of classes, (B, C).
        first: what happens to the inputs first.
        steps: as in :func:`integrated_gradients`.
    """
    prepare = first or (lambda given: given)
    if isinstance(inputs, Tensor) and _is_pictures(inputs):

        def seen(point: Tensor) -> Any:
            return call(model, prepare(point))

        weights, gap, added = _of(inputs, seen, log_shares, steps)
        return Traced(_strip(weights.sum(-3), 3), _strip(inputs, 4), None, gap, added)
    with torch.no_grad():
        given = prepare(inputs)
    place = _place(model, given)
    if place is None:
        return None
    weights, gap, added = _of(place.start, place.running(model, given), log_shares, steps)
    if place.picture is None:
        return Traced(weights.sum(-1), None, None, gap, added)
    lit = _lit(place.picture(place.start))
    return Traced(place.picture(weights), lit, place.widths, gap, added)


def _of(
    start: Tensor,
    run: Callable[[Tensor], Any],
    log_shares: Callable[[Tensor], Tensor],
    steps: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return integrated gradients of the likeliest class's score."""
    # A recurrent layer of cuDNN has no gradients in eval mode.
    with torch.backends.cudnn.flags(enabled=False):
        with torch.no_grad():
            best = log_shares(logits_of(run(start))).argmax(1, keepdim=True)

        def score(point: Tensor) -> Tensor:
            shares = log_shares(logits_of(run(point)))
            return shares.gather(1, best).squeeze(1) - shares.mean(1)

        return integrated_gradients(score, start, steps=steps)


@dataclass(frozen=True)
class _Place:
    """A module in which a sample becomes numbers that can be scaled.

    Attributes:
        module: it runs once.
        start: (B, T, D), the numbers.
        resumed: from such numbers to the module's output.
        picture: how numbers are laid out for people; ``None`` if they are vectors of tokens.
        widths: (B,) how many of T are the sample's own, as far as the module tells.
    """

    module: nn.Module
    start: Tensor
    resumed: Callable[[Tensor], Any]
    picture: Callable[[Tensor], Tensor] | None = None
    widths: Tensor | None = None

    def running(self, model: nn.Module, inputs: Any) -> Callable[[Tensor], Any]:
        """Return what runs the model with other numbers in that place."""

        def run(point: Tensor) -> Any:
            handle = self.module.register_forward_hook(lambda *_: self.resumed(point))
            try:
                return call(model, inputs)
            finally:
                handle.remove()

        return run


def _place(model: nn.Module, inputs: Any) -> _Place | None:
    """Return where a model begins to compute with what a person can be shown."""
    kinds = (nn.Embedding, nn.EmbeddingBag, Front)
    watched = [module for module in model.modules() if isinstance(module, kinds)]
    with _noted(watched) as calls, torch.no_grad():
        call(model, inputs)
    for module, read, output in calls:
        if sum(other is module for other, _, _ in calls) > 1:
            continue
        if isinstance(module, Front):
            values, *rest = output if isinstance(output, tuple) else (output,)
            there = rest[0].sum(1) if rest and isinstance(rest[0], Tensor) else None
            return _Place(module, values, _joined(rest), module.as_picture, there)
        if _reads_tokens(module, read, inputs):
            return _embedded(module, read, output)
    return None


def _embedded(module: nn.Module, read: Tensor, output: Tensor) -> _Place | None:
    if isinstance(module, nn.Embedding):
        return _Place(module, output, lambda point: point)
    assert isinstance(module, nn.EmbeddingBag)
    if module.mode != "mean" or read.ndim != 2:
        return None
    counts = torch.ones_like(read) if module.padding_idx is None else read != module.padding_idx
    share = counts / counts.sum(1, keepdim=True).clamp(min=1)
    rows = F.embedding(read, module.weight).detach()
    return _Place(module, rows, lambda point: (point * share.unsqueeze(-1)).sum(1))


def _reads_tokens(module: nn.Module, read: Tensor, inputs: Any) -> bool:
    """Return whether an embedding was called with one of the inputs, padding aside."""
    padding = getattr(module, "padding_idx", None)
    kept = torch.ones_like(read, dtype=torch.bool) if padding is None else read != padding
    return any(
        field.shape == read.shape and read.ndim == 2 and bool(((read == field) | ~kept).all())
        for field in tree_leaves(inputs)
        if isinstance(field, Tensor) and not field.is_floating_point()
    )


def _joined(rest: list[Any]) -> Callable[[Tensor], Any]:
    return lambda point: (point, *rest) if rest else point


@contextmanager
def _noted(modules: Sequence[nn.Module]) -> Iterator[list[tuple[nn.Module, Any, Any]]]:
    """Note what modules are called with and return, in the order of the calls."""
    calls: list[tuple[nn.Module, Any, Any]] = []

    def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        calls.append((module, (args or tuple(kwargs.values()))[0], output))

    handles = [module.register_forward_hook(note, with_kwargs=True) for module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _is_pictures(inputs: Tensor) -> bool:
    """Return whether samples are pictures, or strips of several."""
    if inputs.ndim not in (4, 5) or not inputs.is_floating_point():
        return False
    return all(is_picture(sample) for sample in _strip(inputs, 4))


def _strip(values: Tensor, axes: int) -> Tensor:
    """Return values with so many axes, frames side by side if there is one more."""
    return values if values.ndim == axes else torch.cat([*values.unbind(1)], dim=-1)


def _lit(values: Tensor) -> Tensor:
    """Return values (B, H, W) as pictures (B, 1, H, W) from 0 to 1, each on its own scale."""
    low, high = values.amin((1, 2), keepdim=True), values.amax((1, 2), keepdim=True)
    return ((values - low) / (high - low).clamp(min=1e-12)).unsqueeze(1)
