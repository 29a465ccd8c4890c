"""Taps: named places in a model, captured in the forward pass that runs anyway.

A tap is written ``MODULE``, with ``:input`` for what goes into it, and ``[...]`` for a place inside
a tuple or dict: ``layer3``, ``encoder.layer.5[0]``, ``fc:input``, ``output[hidden_states][3]``.
Four names stand for places that every model has: ``logits`` (its answer), ``output`` (all that it
returns), ``stage[i]`` (the i-th stage, see :mod:`limbeck.knowledge.stages`) and ``penultimate``
(what enters the last linear layer).
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.hooks import RemovableHandle

from limbeck.errors import InputError, unknown
from limbeck.knowledge.model import at_rest, call, describe, logits_of
from limbeck.knowledge.stages import penultimate, stages

__all__ = ["Tap", "Taps"]

_FORM = re.compile(r"(?P<name>[^:\[\]]+)(:(?P<side>input|output))?(?P<path>(\[[^\[\]]+\])*)")
_RESERVED = ("logits", "output", "penultimate", "stage")


@dataclass(frozen=True)
class Tap:
    """One parsed tap.

    >>> Tap.parse("encoder.layer.5:input[0]")
    Tap(text='encoder.layer.5:input[0]', module='encoder.layer.5', side='input', path=(0,))
    """

    text: str
    module: str
    side: str = "output"
    path: tuple[int | str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Tap:
        """Read the written form; anything else is an :class:`InputError`."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise InputError(
                f"{text!r} is not a tap",
                expected="a module's name, with ':input' or '[place]' if needed: "
                "'layer3', 'fc:input', 'attention[0]', 'output[hidden_states][3]'",
            )
        steps = re.findall(r"\[([^\[\]]+)\]", match["path"])
        path = tuple(int(step) if re.fullmatch(r"-?\d+", step) else step for step in steps)
        return cls(text, match["name"], match["side"] or "output", path)

    @property
    def reserved(self) -> bool:
        """Whether it names a place that every model has, rather than a module."""
        return self.module in _RESERVED and ":" not in self.text


class Taps:
    """The taps of one model.

    Hooks are put on the modules once, when :meth:`prepare` has seen the model run, and stay until
    :meth:`remove` or until this object is gone, so that ``torch.compile`` sees the same model at
    every step. Captured tensors live only inside :meth:`capture`.

    A module tapped by name must run exactly once in a pass. A tensor that is overwritten in place
    later in the pass (``ReLU(inplace=True)``) is copied where it is captured.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
    >>> taps = Taps(model, ["0", "2:input", "logits"])
    >>> taps.prepare(torch.zeros(2, 4))
    >>> output, captured = taps.capture(lambda: model(torch.zeros(2, 4)))
    >>> {name: tuple(tensor.shape) for name, tensor in captured.items()}
    {'0': (2, 8), '2:input': (2, 8), 'logits': (2, 3)}

    Raises:
        InputError: at construction if a module does not exist; in :meth:`prepare` if one does not
            run, runs more than once, or does not yield a tensor; in :meth:`capture` if it did not
            run this time, or ran where no gradient can reach it.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self.model = model
        self.names = tuple(dict.fromkeys(names))
        self.resolved: dict[str, Tap] = {}
        self._store: dict[str, Tensor] | None = None
        self._learning = False
        self._handles: list[RemovableHandle] = []
        known = dict(model.named_modules())
        for tap in map(Tap.parse, self.names):
            if not tap.reserved and tap.module not in known:
                kind = type(model).__name__
                raise unknown(
                    f"tap {tap.text!r}: module of {kind}", tap.module, filter(None, known)
                )

    def prepare(self, inputs: Any) -> None:
        """Run the model once on ``inputs``, find out where each tap is, and put the hooks on.

        The run is in eval mode and without gradients; it changes nothing in the model. Given twice,
        the second does nothing.
        """
        if self.resolved or not self.names:
            return
        taps = {name: self._resolve(Tap.parse(name), inputs) for name in self.names}
        hooked = [tap for tap in taps.values() if not tap.reserved]
        copied = _trial(self.model, hooked, inputs) if hooked else set()
        self.resolved = taps
        self._hook([(name, tap) for name, tap in taps.items() if not tap.reserved], copied)

    def capture(self, run: Callable[[], Any]) -> tuple[Any, dict[str, Tensor]]:
        """Call ``run``, which runs the model once; return its output and the tapped tensors."""
        self._store = store = {}
        self._learning = torch.is_grad_enabled()
        try:
            output = run()
        finally:
            self._store = None
        for name in self.names:
            tap = self.resolved.get(name) or Tap.parse(name)
            if tap.reserved:
                store[name] = _tensor(_reserved(tap, output), tap)
            elif name not in store:
                raise InputError(
                    f"the module of tap {name!r} did not run in this pass of "
                    f"{type(self.model).__name__}, though it ran in eval mode",
                    expected="a module that runs in every pass",
                    remedy="Tap the module around it.",
                )
        return output, {name: store[name] for name in self.names}

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.resolved = {}

    def _resolve(self, tap: Tap, inputs: Any) -> Tap:
        """Replace ``stage[i]`` and ``penultimate`` by the module that they are in this model."""
        if tap.module == "penultimate" and tap.reserved:
            return replace(Tap.parse(penultimate(self.model, inputs)), text=tap.text)
        if tap.module != "stage" or not tap.reserved:
            return tap
        found = stages(self.model, inputs)
        place = tap.path[0] if tap.path else None
        if not isinstance(place, int) or not -len(found) <= place < len(found):
            raise InputError(
                f"tap {tap.text!r} of {type(self.model).__name__}",
                expected=f"'stage[i]' with i from 0 to {len(found) - 1} (or negative, from the end)"
                if found
                else "a model with stages; in this one none was recognised",
                remedy=f"Its stages: {', '.join(found)}." if found else "Name modules instead.",
            )
        return Tap(tap.text, found[place], "output", tap.path[1:])

    def _hook(self, taps: Sequence[tuple[str, Tap]], copied: set[str]) -> None:
        # The hooks hold this object weakly, so that they end with it.
        owner = weakref.ref(self)
        modules = dict(self.model.named_modules())
        for name, tap in taps:
            note = _storing(owner, name, tap, copy=tap.text in copied)
            self._handles.append(_attach(modules[tap.module], tap, note))
        for handle in self._handles:
            weakref.finalize(self, handle.remove)


def _reserved(tap: Tap, output: Any) -> Any:
    return logits_of(output) if tap.module == "logits" else _walk(output, tap)


def _walk(value: Any, tap: Tap) -> Any:
    """Follow a tap's path into tuples and mappings."""
    for step in tap.path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError) as error:
            raise InputError(
                f"tap {tap.text!r}: there is no [{step}] in {describe(value)}"
            ) from error
    return value


def _tensor(value: Any, tap: Tap) -> Tensor:
    if isinstance(value, Tensor):
        return value
    raise InputError(
        f"tap {tap.text!r} yields {describe(value)}",
        expected="a tensor",
        remedy=f"Say which part: '{tap.text}[0]' or '{tap.text}[name]'.",
    )


def _side(tap: Tap, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Tensor:
    """Pick the tensor of a tap from what went into its module and what came out."""
    if tap.side == "output":
        return _tensor(_walk(output, tap), tap)
    if tap.path and isinstance(tap.path[0], str):
        return _tensor(_walk(kwargs, tap), tap)
    return _tensor(_walk(args, tap) if tap.path else (args or tuple(kwargs.values()))[0], tap)


def _attach(module: nn.Module, tap: Tap, note: Callable[[Tensor], None]) -> RemovableHandle:
    """Have ``note`` called with a tap's tensor: an input's before the module can overwrite it."""
    if tap.side == "input":

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            note(_side(tap, args, kwargs, None))

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        note(_side(tap, args, kwargs, output))

    return module.register_forward_hook(after, with_kwargs=True)


def _storing(
    owner: weakref.ref[Taps], name: str, tap: Tap, *, copy: bool
) -> Callable[[Tensor], None]:
    def note(value: Tensor) -> None:
        taps = owner()
        if taps is None or taps._store is None:
            return
        if taps._learning and not torch.is_grad_enabled():
            raise InputError(
                f"the module of tap {tap.text!r} ran without gradients",
                consequence="What is matched there would not reach the weights before it.",
                remedy="If the model recomputes activations, let it checkpoint with "
                "use_reentrant=False; if it runs that part under torch.no_grad, tap a later one.",
            )
        taps._store[name] = value.clone() if copy else value

    return note


def _trial(model: nn.Module, taps: Sequence[Tap], inputs: Any) -> set[str]:
    """Run once; return the taps whose tensors are overwritten in place later in the pass."""
    seen: dict[str, list[tuple[Tensor, int]]] = {tap.text: [] for tap in taps}
    modules = dict(model.named_modules())

    def noting(tap: Tap) -> Callable[[Tensor], None]:
        return lambda value: seen[tap.text].append((value, value._version))

    handles = [_attach(modules[tap.module], tap, noting(tap)) for tap in taps]
    try:
        with at_rest(model):
            call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    for text, values in seen.items():
        if len(values) != 1:
            times = "does not run" if not values else f"runs {len(values)} times"
            raise InputError(
                f"the module of tap {text!r} {times} in one pass of {type(model).__name__}",
                expected="a module that runs exactly once",
                remedy="Tap the module around it.",
            )
    if any(isinstance(part, _DropoutNd) and part.inplace for part in modules.values()):
        return set(seen)  # It overwrites in training alone, which this run does not see.
    return {text for text, [(value, version)] in seen.items() if value._version != version}
