"""A model of another framework as a teacher.

Letters: B samples, C classes, H×W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, final, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from limbeck.data.samples import Batch
from limbeck.errors import InputError, unknown
from limbeck.imports import portrait
from limbeck.knowledge.record import Knowledge
from limbeck.teachers.contents import contents
from limbeck.teachers.returns import Kind, Returns

__all__ = ["Answers", "First", "Foreign", "Layout", "Size", "arrays", "read"]

Layout = Literal["NCHW", "NHWC"]


@dataclass(frozen=True)
class Size:
    """How large a model is, as far as its framework tells.

    Attributes:
        parameters: how many numbers were trained.
        bytes: of its weights, or of its file.
    """

    parameters: int | None = None
    bytes: int | None = None


class Answers(Protocol):
    """A model of any framework, as far as a teacher needs it."""

    @property
    def name(self) -> str:
        """What it is, for messages."""

    def ask(self, inputs: Any, taps: tuple[str, ...]) -> Mapping[str, Any]:
        """Return an array or tensor (B, ...) for each tap.

        Args:
            inputs: what the teacher's preprocessing returned: tensors, mostly.
            taps: ``logits`` is what the model answers, before it is turned into logits.
        """

    def fingerprint(self) -> str:
        """Return a short text that changes when the answers would."""

    def size(self) -> Size:
        """Return how large the model is."""


class First(nn.Module):
    """What a teacher does to its inputs first: its preprocessing, then the layout that it wants.

    Args:
        then: called with the batch's inputs; ``None`` changes nothing.
        layout: ``NHWC`` moves the channels of (B, C, H, W) to the end.

    >>> First(None, "NHWC")(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 8, 8, 3])
    """

    def __init__(self, then: Callable[[Any], Any] | None = None, layout: Layout = "NCHW") -> None:
        super().__init__()
        if layout not in get_args(Layout):
            raise unknown("layout", layout, get_args(Layout))
        self.then = then
        self.layout = layout

    def forward(self, inputs: Any) -> Any:
        """Return the inputs as the model wants them."""
        changed = inputs if self.then is None else self.then(inputs)
        return tree_map(_channels_last, changed) if self.layout == "NHWC" else changed

    def extra_repr(self) -> str:
        """Show what fingerprints rely on."""
        shown = "" if isinstance(self.then, nn.Module) else f"{portrait(self.then)}, "
        return f"{shown}{self.layout}"

    def fingerprint(self) -> str:
        """Return a hash of the preprocessing."""
        return contents([self.then, self.layout])


@final
class Foreign:
    """Asks a model of another framework, through arrays.

    Made by ``Teacher.from_callable``, ``from_keras``, ``from_onnx``, ``from_saved_model`` and
    ``from_sklearn``. Tensors on the CPU are handed over without a copy, and so are the answers that
    come back, unless the framework still owns them. Answers are float32 on the batch's device.

    Args:
        model: answers.
        preprocess: what this teacher does to the batch's tensors first; it may differ from the
            student's, and may return tensors, arrays, or anything else that the model takes.
        inputs: which field of the batch it reads, or a function of the batch.
        layout: ``NHWC`` moves the channels of images (B, C, H, W) to the end.
        returns: what the model answers: ``logits``, ``probabilities`` or ``values``; see
            :class:`limbeck.teachers.returns.Returns`.
        clip: the smallest probability.

    Raises:
        InputError: later, if the batch lacks the field, or if the answer has another number of
            rows, holds no floating-point numbers, or is not what ``returns`` says.
    """

    def __init__(
        self,
        model: Answers,
        preprocess: Callable[[Any], Any] | None = None,
        *,
        inputs: str | Callable[[Batch], Any] = "inputs",
        layout: Layout = "NCHW",
        returns: Kind = "logits",
        clip: float = 1e-7,
    ) -> None:
        self.model = model
        self.inputs = inputs
        self.first = First(preprocess, layout)
        self.returns = Returns(returns, clip)
        self._device: torch.device | None = None

    def knowledge(self, batch: Batch, taps: Sequence[str] = ("logits",)) -> Knowledge:
        """Return the tapped tensors of a batch, float32, without gradients.

        Args:
            batch: with the field that this teacher reads, rows first.
            taps: ``logits``, and what else the framework lets one see.
        """
        inputs = read(batch, self.inputs)
        tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
        if tensors and tensors[0].device != self._device:
            self._device = tensors[0].device
            self.first.to(self._device)
        with torch.no_grad():
            found = self.model.ask(self.first(inputs), tuple(taps))
            known = {tap: self._tensor(found[tap], tap, tensors) for tap in taps}
        return Knowledge(known, ids=batch.get("id"), provenance=self.model.name)

    def fingerprint(self) -> str:
        """Return a hash of the model, the preprocessing and what is made of the answers."""
        parts = [
            self.model.fingerprint(),
            self.first.fingerprint(),
            self.inputs,
            repr(self.returns),
        ]
        return contents(parts)

    def size(self) -> Size:
        """Return how large the model is, as far as its framework tells."""
        return self.model.size()

    def _tensor(self, value: Any, tap: str, inputs: Sequence[Tensor]) -> Tensor:
        """Return an answer as a float32 tensor of its own on the inputs' device."""
        tensor = _as_tensor(value, inputs, f"{tap} of {self.model.name}")
        count = len(inputs[0]) if inputs else len(tensor)
        if tensor.ndim == 0 or len(tensor) != count:
            raise InputError(
                f"{self.model.name} gave {tuple(tensor.shape)} for {count} samples",
                expected="a row for each sample, in the batch's order",
            )
        known = self.returns(tensor) if tap == "logits" else tensor
        return known.to(inputs[0].device) if inputs else known

    def __repr__(self) -> str:
        return f"Foreign({self.model.name}, returns={self.returns.kind!r})"


def arrays(inputs: Any) -> Any:
    """Return tensors as NumPy arrays that share their memory; anything else as it is.

    >>> arrays({"a": torch.zeros(2), "b": 3})
    {'a': array([0., 0.], dtype=float32), 'b': 3}
    """

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        half = leaf.dtype == torch.bfloat16  # which NumPy does not have
        return (leaf.float() if half else leaf).detach().cpu().numpy()

    return tree_map(one, inputs)


def read(batch: Batch, inputs: str | Callable[[Batch], Any]) -> Any:
    """Return the field of a batch that a teacher reads, or what a function makes of the batch."""
    if callable(inputs):
        return inputs(batch)
    if inputs not in batch:
        raise unknown("field of the batch:", inputs, batch)
    return batch[inputs]


def _channels_last(leaf: Any) -> Any:
    return leaf.movedim(1, -1) if isinstance(leaf, Tensor) and leaf.ndim > 2 else leaf


def _as_tensor(value: Any, inputs: Sequence[Tensor], what: str) -> Tensor:
    """Return float32, copied only where the memory belongs to the batch or is read-only."""
    if isinstance(value, Tensor):
        tensor = value.detach()
    else:
        array = np.asarray(value)
        if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
            raise InputError(
                f"{what} is an array of {array.dtype} with the shape {array.shape}",
                expected="floating-point numbers (B, ...)",
                remedy="Give the scores, not the predicted labels; output='...' names another "
                "output where the model has several.",
            )
        array = array.astype(np.float32, copy=not array.flags.writeable)
        tensor = torch.from_numpy(np.ascontiguousarray(array))
    storages = {leaf.untyped_storage().data_ptr() for leaf in inputs}
    shared = tensor.untyped_storage().data_ptr() in storages or tensor.is_inference()
    return tensor.float().clone() if shared else tensor.float()
