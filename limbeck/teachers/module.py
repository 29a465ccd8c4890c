"""A PyTorch module as a teacher.

Letters: B samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from limbeck.data.samples import Batch
from limbeck.files import digest
from limbeck.imports import portrait
from limbeck.knowledge.keras import as_module
from limbeck.knowledge.model import call, macs
from limbeck.knowledge.record import Knowledge
from limbeck.knowledge.taps import Taps
from limbeck.teachers.callable import from_callable
from limbeck.teachers.contents import module_fingerprint
from limbeck.teachers.ensemble import ensemble
from limbeck.teachers.foreign import read
from limbeck.teachers.keras import from_keras
from limbeck.teachers.onnx import from_onnx
from limbeck.teachers.served import Served
from limbeck.teachers.sklearn import from_sklearn
from limbeck.teachers.tensorflow import from_saved_model

if TYPE_CHECKING:
    from limbeck.teachers.replay import Replay

__all__ = ["Teacher"]


class Teacher:
    """A trained module that answers, and never learns.

    It is frozen and in eval mode, and is put back into eval mode if anything else called
    ``.train()`` on it. It belongs to no other module, so its parameters reach neither an optimizer
    nor a checkpoint. It runs in ``torch.inference_mode`` on the device of the batch.

    Teachers of other kinds are made by ``from_callable``, ``from_keras``, ``from_onnx``,
    ``from_saved_model``, ``from_sklearn``, ``ensemble``, ``replay`` and ``served``.

    Args:
        module: called with the batch's inputs.
        preprocess: what this teacher does to the inputs first, for example
            :class:`limbeck.data.Normalize`; it may differ from the student's.
        inputs: which field of the batch it is called with, or a function of the batch.

    >>> teacher = Teacher(nn.Linear(4, 3))
    >>> teacher.knowledge({"inputs": torch.zeros(2, 4)}, ["logits"])
    Knowledge(logits (2, 3) float32; from Linear)
    """

    ensemble = staticmethod(ensemble)
    from_callable = staticmethod(from_callable)
    from_keras = staticmethod(from_keras)
    from_onnx = staticmethod(from_onnx)
    from_saved_model = staticmethod(from_saved_model)
    from_sklearn = staticmethod(from_sklearn)
    served = Served  # which says what the arguments are

    def __init__(
        self,
        module: nn.Module,
        preprocess: Callable[[Any], Any] | None = None,
        *,
        inputs: str | Callable[[Batch], Any] = "inputs",
    ) -> None:
        module = as_module(module, fresh=False)
        self.module = module.eval().requires_grad_(False)
        self.preprocess = preprocess
        self.inputs = inputs
        self._parts = list(module.modules())
        self._taps: dict[tuple[str, ...], Taps] = {}
        self._device: torch.device | None = None
        self._run: Callable[..., Any] = module

    @staticmethod
    def replay(path: str | Path, **options: Any) -> Replay:
        """Return a teacher that reads its answers from a knowledge store.

        Args:
            path: the store's folder, or a URL that fsspec knows.
            options: of :class:`limbeck.teachers.Replay`.
        """
        from limbeck.teachers.replay import Replay

        return Replay(path, **options)

    def knowledge(self, batch: Batch, taps: Sequence[str] = ("logits",)) -> Knowledge:
        """Return the tapped tensors of a batch, without gradients.

        Args:
            batch: with the field that this teacher reads, rows first.
            taps: see :mod:`limbeck.knowledge.taps`; the hooks for a set of taps stay on the module.

        Raises:
            InputError: a tap is not in the module.
        """
        captured = self._captured(self._read(batch), tuple(taps))
        # What was made in inference mode cannot be saved for a backward pass; copies can.
        tensors = {name: tensor.clone() for name, tensor in captured.items()}
        return Knowledge(tensors, ids=batch.get("id"), provenance=type(self.module).__name__)

    def fingerprint(self) -> str:
        """Return a hash of the module's structure and weights and of the preprocessing."""
        return digest(self.fingerprints())

    def fingerprints(self) -> dict[str, str]:
        """Return one hash of the module's structure and weights, and one of the preprocessing."""
        first = self.preprocess
        seen = module_fingerprint(first) if isinstance(first, nn.Module) else portrait(first)
        return {
            "weights": module_fingerprint(self.module),
            "preprocessing": digest([seen, portrait(self.inputs)]),
        }

    def work(self, batch: Batch) -> int:
        """Return the multiply-accumulates of one answer to a batch."""
        return macs(self.module, self.prepared(batch))[0] or 0

    def prepared(self, batch: Batch) -> Any:
        """Return what the module is called with for a batch."""
        inputs = self._read(batch)
        return self.preprocess(inputs) if self.preprocess else inputs

    def arrange(self, *, channels_last: bool, compiled: bool) -> None:
        """Lay the weights out and compile the module, or run it as it is."""
        if channels_last:
            self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._run = torch.compile(self.module) if compiled else self.module

    @torch.inference_mode()
    def _captured(self, inputs: Any, taps: tuple[str, ...]) -> dict[str, Tensor]:
        inputs = self.preprocess(inputs) if self.preprocess else inputs
        if any(part.training for part in self._parts):
            self.module.eval()
        if taps not in self._taps:
            self._taps[taps] = Taps(self.module, taps)
        found = self._taps[taps]
        if not found.resolved:
            with torch.inference_mode(mode=False):
                found.prepare(tree_map(_two_rows, inputs))
        return found.capture(lambda: call(self._run, inputs))[1]

    def _read(self, batch: Batch) -> Any:
        """Return this teacher's field of a batch, and move to the device on which it is."""
        inputs = read(batch, self.inputs)
        device = next(
            (leaf.device for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)), None
        )
        if device is not None and device != self._device:
            self.module.to(device)
            if isinstance(self.preprocess, nn.Module):
                self.preprocess.to(device)
            self._device = device
        return inputs


def _two_rows(value: Any) -> Any:
    return value[:2].clone() if isinstance(value, Tensor) and value.ndim else value
