"""A PyTorch module as a teacher.

Letters: B samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from limbeck.data.samples import Batch
from limbeck.imports import portrait
from limbeck.knowledge.model import call, macs
from limbeck.knowledge.record import Knowledge
from limbeck.knowledge.taps import Taps

if TYPE_CHECKING:
    from limbeck.teachers.replay import Replay

__all__ = ["Teacher", "module_fingerprint"]


class Teacher:
    """A trained module that answers, and never learns.

    It is frozen and in eval mode, and is put back into eval mode if anything else called
    ``.train()`` on it. It belongs to no other module, so its parameters reach neither an optimizer
    nor a checkpoint. It runs in ``torch.inference_mode`` on the device of the batch.

    Args:
        module: called with the batch's inputs.
        preprocess: what this teacher does to the inputs first, for example
            :class:`limbeck.data.Normalize`; it may differ from the student's.
        inputs: which field of the batch it is called with, or a function of the batch.

    >>> teacher = Teacher(nn.Linear(4, 3))
    >>> teacher.knowledge({"inputs": torch.zeros(2, 4)}, ["logits"])
    Knowledge(logits (2, 3) float32; from Linear)
    """

    def __init__(
        self,
        module: nn.Module,
        preprocess: Callable[[Any], Any] | None = None,
        *,
        inputs: str | Callable[[Batch], Any] = "inputs",
    ) -> None:
        self.module = module.eval().requires_grad_(False)
        self.preprocess = preprocess
        self.inputs = inputs
        self._parts = list(module.modules())
        self._taps: dict[tuple[str, ...], Taps] = {}
        self._device: torch.device | None = None
        self._run: Callable[..., Any] = module

    @staticmethod
    def replay(path: str | Path) -> Replay:
        """Return a teacher that reads its answers from a knowledge store."""
        from limbeck.teachers.replay import Replay

        return Replay(path)

    def knowledge(self, batch: Batch, taps: Sequence[str] = ("logits",)) -> Knowledge:
        """Return the tapped tensors of a batch, without gradients.

        Args:
            batch: with the field that this teacher reads, rows first.
            taps: see :mod:`limbeck.knowledge.taps`; the hooks for a set of taps stay on the module.

        Raises:
            InputError: a tap is not in the module.
        """
        inputs = self.inputs(batch) if callable(self.inputs) else batch[self.inputs]
        self._follow(inputs)
        captured = self._captured(inputs, tuple(taps))
        # What was made in inference mode cannot be saved for a backward pass; copies can.
        tensors = {name: tensor.clone() for name, tensor in captured.items()}
        return Knowledge(tensors, ids=batch.get("id"), provenance=type(self.module).__name__)

    def fingerprint(self) -> str:
        """Return a hash of the module's structure and weights and of the preprocessing."""
        first = self.preprocess
        seen = module_fingerprint(first) if isinstance(first, nn.Module) else portrait(first)
        return module_fingerprint(self.module, seen, portrait(self.inputs))

    def work(self, batch: Batch) -> int:
        """Return the multiply-accumulates of one answer to a batch."""
        inputs = self.inputs(batch) if callable(self.inputs) else batch[self.inputs]
        self._follow(inputs)
        return macs(self.module, self.preprocess(inputs) if self.preprocess else inputs)[0] or 0

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

    def _follow(self, inputs: Any) -> None:
        """Move to the device on which the inputs are."""
        device = next(
            (leaf.device for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)), None
        )
        if device is not None and device != self._device:
            self.module.to(device)
            if isinstance(self.preprocess, nn.Module):
                self.preprocess.to(device)
            self._device = device


def module_fingerprint(module: nn.Module, *more: str) -> str:
    """Return a short hash of a module's structure, parameters and buffers, and further texts.

    The structure is what ``repr`` shows: classes and options of all parts, so that another
    activation is another fingerprint.
    """
    digest = hashlib.sha256(" ".join((type(module).__qualname__, repr(module), *more)).encode())
    for name, value in (dict(module.named_buffers()) | module.state_dict()).items():
        if not isinstance(value, Tensor):
            digest.update(f"{name} {portrait(value)}".encode())
            continue
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _two_rows(value: Any) -> Any:
    return value[:2].clone() if isinstance(value, Tensor) and value.ndim else value
