"""What makes a program wait for its device: found without one.

A GPU works behind the program that feeds it. A value that Python must see (``float(tensor)``,
``if tensor.any()``), a shape that depends on values (``tensor[mask]``) or a copy of Python's
numbers makes the program stop until all earlier work is done. On ``meta`` tensors, which have
shapes and no values, each of these can be told.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from limbeck.errors import InputError

__all__ = ["WaitingError", "never_waiting"]

# Their results, or the shapes of these, are read by the host.
_READ = {
    "_linalg_check_errors",
    "_linalg_eigh",
    "_linalg_svd",
    "_local_scalar_dense",
    "_unique",
    "_unique2",
    "bincount",
    "equal",
    "histc",
    "is_nonzero",
    "linalg_lstsq",
    "masked_select",
    "multinomial",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
    "unique_dim_consecutive",
}
_FROM_PYTHON = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)
_INDEXING = (Tensor.__getitem__, Tensor.__setitem__)
_TORCH, _HERE = str(Path(torch.__file__).parent), str(Path(__file__).parent)


class WaitingError(InputError):
    """A step would wait for the device."""


@contextmanager
def never_waiting() -> Iterator[None]:
    """Refuse what would wait for the device; models and inputs must be on ``meta``.

    Raises:
        WaitingError: an operation reads values, has a shape that depends on them, or copies between
            devices; it names the line.

    >>> kept = torch.zeros(3, device="meta") > 0
    >>> with never_waiting():
    ...     kept.float().mean()
    tensor(..., device='meta', size=())
    >>> with never_waiting():
    ...     bool(kept.any())
    Traceback (most recent call last):
    limbeck.testing.waiting.WaitingError: _local_scalar_dense waits for the device (...)...
    """
    with _Calls(), _Operations():
        yield


class _Operations(TorchDispatchMode):
    """Sees every operation that runs, those of the backward pass too."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if any(t.device.type == "meta" for t in tensors) and (
            name in _READ
            or (name == "repeat_interleave" and kwargs.get("output_size") is None)
            or (name in ("index", "index_put", "index_put_") and _by_mask(args[1]))
        ):
            raise _waits(name)
        # Numbers that stand alone are handed over with the operation, unless they are copied.
        devices = {t.device.type for t in tensors if t.ndim or name in ("_to_copy", "copy_")}
        if isinstance(kwargs.get("device"), torch.device):
            devices.add(kwargs["device"].type)
        if len(devices) > 1 and tensors:
            raise _waits(f"{name} between {' and '.join(sorted(devices))}")
        return func(*args, **kwargs)


class _Calls(TorchFunctionMode):
    """Sees what PyTorch is asked for: tensors made of Python's numbers, which are copied over."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given: dict[Any, Any] = {**dict(enumerate(args)), **(kwargs or {})}
        found = func(*args, **(kwargs or {}))
        listed = func in _INDEXING and any(isinstance(i, list) for i in _indices(args[1]))
        data = given.get("data", given.get("obj", given.get(func is Tensor.new_tensor)))
        made = func in _FROM_PYTHON and not isinstance(data, Tensor)
        if listed or (made and found.device.type == "meta"):
            raise _waits(f"{func.__name__} with numbers of Python")
        return found


def _by_mask(indices: Any) -> bool:
    kinds = (torch.bool, torch.uint8)
    return any(isinstance(index, Tensor) and index.dtype in kinds for index in indices)


def _indices(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def _waits(what: str) -> WaitingError:
    return WaitingError(
        f"{what} waits for the device ({_place()})",
        expected="operations whose shapes do not depend on values",
        remedy="Use torch.where, masked_fill or a weight of 0; make constants on the device.",
    )


def _place() -> str:
    """Return the innermost line that is not PyTorch's; a check's is none of the loss."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_HERE) and not file.startswith(__file__):
            break
        if not file.startswith((_TORCH, "<frozen", __file__)):
            return f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back
    return "in the backward pass"
