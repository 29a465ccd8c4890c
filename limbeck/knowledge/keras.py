"""A Keras model on PyTorch, as PyTorch expects a module to be.

Keras 3 on its torch backend makes ``nn.Module`` objects, but not all that PyTorch does with modules
reaches them: ``.train()`` leaves dropout off and batch norm frozen, layers are not among
``named_modules()``, and the names in ``state_dict()`` change with every model that is built.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.errors import InputError, unknown
from limbeck.knowledge.model import logits_of

__all__ = ["KerasModule", "as_module", "is_keras"]

_IDLE = ("name", "trainable")


def is_keras(thing: object) -> bool:
    """Say whether something is a Keras model, without importing Keras."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(thing, keras.Model)


def as_module(model: nn.Module, *, fresh: bool = True) -> nn.Module:
    """Return a Keras model in a :class:`KerasModule`, and any other module as it is.

    Args:
        model: any module.
        fresh: see :class:`KerasModule`.
    """
    return KerasModule(model, fresh=fresh) if is_keras(model) else model


@final
class KerasModule(nn.Module):
    """A Keras model on the torch backend that trains, is tapped and is saved like other modules.

    Its layers are modules by their names, those of a model within the model by ``outer.inner``; so
    they can be tapped. ``train()`` and ``eval()`` reach dropout and batch norm. Weights keep their
    names however many models were built before. They are the Keras model's own, so that model
    learns too.

    Args:
        model: built; its inputs and layout are Keras's, (B, H, W, C) for most image models.
        output: which of several outputs, by name, is the answer.
        answer: turns the model's answer into logits.
        fresh: whether it was built to be trained. Layers that Keras numbered over all models of
            the process (``dense_7``) are then numbered anew within this one, and the state of
            random generators, such as dropout's, is part of it, so that training can be resumed.

    Raises:
        InputError: Keras runs on another backend, or the model has no weights yet.
    """

    def __init__(
        self,
        model: Any,
        output: str | None = None,
        answer: Callable[[Tensor], Tensor] | None = None,
        *,
        fresh: bool = True,
    ) -> None:
        super().__init__()
        _refuse_other_backends(model)
        # In a tuple, so that PyTorch does not take the model for a part of this one.
        self._aside = (model,)
        self.output, self.answer = output, answer
        for name, layer in _layers(model, fresh):
            self.add_module(name, _Place(layer, fresh))
        held = {id(part) for part in (*self.parameters(), *self.buffers())}
        rest = [found for found in model.variables if id(found.value) not in held]
        if rest:
            self.add_module("_rest", _Place(model, fresh, rest))

    @property
    def model(self) -> Any:
        """The Keras model, which can be saved by its own means."""
        return self._aside[0]

    def forward(self, *args: Any, **named: Any) -> Any:
        """Return what the model returns; the chosen output alone, if one was named."""
        inputs = named or (args[0] if len(args) == 1 else list(args))
        said = self.model(inputs, training=self.training)
        if self.output is None and self.answer is None:
            return said
        found = _chosen(said, self.output, self.model)
        return found if self.answer is None else self.answer(found)

    def extra_repr(self) -> str:
        """Show what fingerprints rely on."""
        return f"output={self.output!r}, answer={self.answer!r}"

    def __deepcopy__(self, memo: dict[int, Any]) -> KerasModule:
        import keras

        twin = KerasModule(keras.models.clone_model(self.model), self.output, self.answer)
        twin.load_state_dict(self.state_dict())
        for one, other in zip(self.parameters(), twin.parameters(), strict=True):
            other.requires_grad_(one.requires_grad)
        memo[id(self)] = twin.train(self.training)
        return twin


@final
class _Place(nn.Module):
    """One layer: its weights, and what comes out of it, where hooks can see it."""

    def __init__(self, layer: Any, fresh: bool, variables: list[Any] | None = None) -> None:
        super().__init__()
        self._told = f"{type(layer).__name__}: {_settings(layer)}"
        inner = _layers(layer, fresh) if variables is None and is_keras(layer) else []
        for name, part in inner:
            self.add_module(name, _Place(part, fresh))
        own = layer.variables if variables is None else variables
        held = {id(found) for found in (*self.parameters(), *self.buffers())}
        for name, found in _named(layer, own):
            random = str(found.path).endswith("seed_generator_state")
            if id(found.value) in held or (random and not fresh):
                continue
            if found.trainable:
                self.register_parameter(name, found.value)
            else:
                self.register_buffer(name, found.value)
        if variables is None:
            layer.register_forward_hook(lambda module, args, said: self(said))

    def forward(self, said: Any) -> Any:
        return said

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> _Place:
        """Move the layer's own buffers, where PyTorch would put others in their place."""
        kept = {name: found for name, found in self._buffers.items() if found is not None}
        super()._apply(fn, recurse)
        for name, found in kept.items():
            moved = self._buffers[name]
            assert moved is not None
            found.data = moved.data
            self._buffers[name] = found
        return self

    def extra_repr(self) -> str:
        return self._told


def _layers(model: Any, fresh: bool) -> list[tuple[str, Any]]:
    """Return a model's layers with their names, those for its inputs left out."""
    import keras

    counts: dict[str, int] = {}
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        stem = re.sub(r"_\d+$", "", layer.name)
        ours = stem.replace("_", "") != type(layer).__name__.lower()
        if ours or not fresh:
            found.append((_plain(layer.name), layer))
            continue
        number = counts[stem] = counts.get(stem, -1) + 1
        found.append((_plain(f"{stem}_{number}" if number else stem), layer))
    return found


def _named(layer: Any, variables: list[Any]) -> Iterator[tuple[str, Any]]:
    """Yield a layer's variables with names that are its own: ``kernel``, ``query_kernel``."""
    taken: set[str] = set()
    for found in variables:
        path = str(found.path)
        _, inside, short = path.rpartition(f"{layer.name}/")
        name = _plain(short if inside else found.name)
        while name in taken or name == "_told":
            name += "_"
        taken.add(name)
        yield name, found


def _plain(name: str) -> str:
    """Return a name that PyTorch takes for a module."""
    return name.replace("/", "_").replace(".", "_")


def _settings(layer: Any) -> str:
    """Return what a layer was built with, apart from names."""
    try:
        found = layer.get_config()
    except (NotImplementedError, TypeError, ValueError):
        return ""
    if is_keras(layer):
        return ""  # its layers tell
    plain = (str, int, float, bool, list, tuple, type(None))
    shown = {key: v for key, v in found.items() if isinstance(v, plain) and key not in _IDLE}
    return ", ".join(f"{key}={value!r}" for key, value in sorted(shown.items()))


def _chosen(said: Any, output: str | None, model: Any) -> Tensor:
    if output is None:
        return logits_of(said)
    found = said if isinstance(said, Mapping) else dict(zip(model.output_names, said, strict=False))
    if output not in found:
        raise unknown(f"output of {model.name}:", output, found)
    return torch.as_tensor(found[output])


def _refuse_other_backends(model: Any) -> None:
    import keras

    if keras.backend.backend() != "torch":
        raise InputError(
            f"a Keras model on {keras.backend.backend()} as a PyTorch module",
            expected="Keras on its torch backend",
            remedy="Set KERAS_BACKEND=torch before Keras is imported.",
        )
    if not model.built:
        raise InputError(
            f"the Keras model {model.name} has no weights yet",
            expected="a built model",
            remedy="Give it an Input, or call it on a batch first.",
        )
