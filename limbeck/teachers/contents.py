"""Fingerprints: what a module, a file or any other Python object holds, as a short hash."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.files import file_digest
from limbeck.imports import portrait

__all__ = ["contents", "contents_of_files", "module_fingerprint"]

_PLAIN = (type(None), bool, int, float, complex, str, bytes, Path, np.generic, np.dtype)
_NAMED = (type, ModuleType, BuiltinFunctionType, np.ufunc)
_INSTALLED = tuple(
    {path for name in ("stdlib", "purelib", "platlib") if (path := sysconfig.get_path(name))}
)


def contents(thing: object) -> str:
    """Return a short hash of what an object holds, the same in every process.

    Of arrays and tensors that is every number; of a function its code, its defaults, what it closes
    over, and the global objects that it names; of anything else the state that pickling would
    write. Nothing is unpickled.

    Raises:
        InputError: something in it has no such state, as an open connection.

    >>> contents({"a": np.zeros(2)}) == contents({"a": np.zeros(2)}) != contents({"a": np.ones(2)})
    True
    """
    return _Walk().hash(thing)[:16]


def contents_of_files(paths: Iterable[Path]) -> str:
    """Return a short hash of files' names and bytes."""
    told = [f"{path.name} {file_digest(path)}" for path in sorted(paths)]
    return hashlib.sha256(" ".join(told).encode()).hexdigest()[:16]


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


class _Walk:
    """One look through an object and all that it holds."""

    def __init__(self) -> None:
        self.known: dict[int, str] = {}
        self.path: list[int] = []
        self.held: list[object] = []  # so that no new object takes the id of a seen one

    def hash(self, thing: object) -> str:
        """Return the hash of one object; of an object that holds itself, how far up it is."""
        if isinstance(thing, _PLAIN):
            return _digest(type(thing).__name__, repr(thing))
        if isinstance(thing, _NAMED):
            return _digest("named", _name(thing))
        if id(thing) in self.known:
            return self.known[id(thing)]
        if id(thing) in self.path:
            return _digest("above", str(len(self.path) - self.path.index(id(thing))))
        self.path.append(id(thing))
        self.held.append(thing)
        found = self._hash(thing)
        self.path.pop()
        self.known[id(thing)] = found
        return found

    def _hash(self, thing: Any) -> str:
        for kind, look in self._looks().items():
            if isinstance(thing, kind):
                return _digest(kind.__name__, *look(thing))
        return _digest("object", *self._object(thing))

    def _looks(self) -> dict[type, Callable[[Any], Iterable[str]]]:
        return {
            np.ndarray: self._array,
            Tensor: self._tensor,
            nn.Module: lambda module: [module_fingerprint(module)],
            Mapping: self._mapping,
            list: self._sequence,
            tuple: self._sequence,
            set: self._set,
            frozenset: self._set,
            MethodType: lambda method: [self.hash(method.__func__), self.hash(method.__self__)],
            functools.partial: lambda p: [self.hash([p.func, p.args, dict(p.keywords)])],
            FunctionType: self._function,
        }

    def _array(self, array: np.ndarray) -> Iterable[str]:
        if array.dtype.names:  # field by field: the bytes between the fields are arbitrary
            return [self.hash(np.ascontiguousarray(array[name])) for name in array.dtype.names]
        if array.dtype.hasobject:
            return [str(array.shape), self.hash(array.ravel().tolist())]
        raw = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        return [str(array.shape), array.dtype.str, raw]

    def _tensor(self, tensor: Tensor) -> Iterable[str]:
        flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        return [str(tuple(tensor.shape)), str(tensor.dtype), self.hash(flat.numpy())]

    def _mapping(self, mapping: Mapping[Any, Any]) -> Iterable[str]:
        return sorted(self.hash(key) + self.hash(value) for key, value in mapping.items())

    def _sequence(self, items: Iterable[object]) -> Iterable[str]:
        return map(self.hash, items)

    def _set(self, items: Iterable[object]) -> Iterable[str]:
        return sorted(map(self.hash, items))

    def _function(self, function: FunctionType) -> Iterable[str]:
        """Look at a function; one that was installed is known by its name and code."""
        code = function.__code__
        yield from (_name(function), *_code(code))
        if code.co_filename.startswith(_INSTALLED):
            return
        file = Path(code.co_filename)
        yield file_digest(file) if file.is_file() else "no file"
        yield from map(self.hash, (function.__defaults__, function.__kwdefaults__))
        yield from (self.hash(cell.cell_contents) for cell in function.__closure__ or ())
        for name in sorted(_names(code)):
            if name in function.__globals__:
                yield name + self.hash(function.__globals__[name])

    def _object(self, thing: object) -> Iterable[str]:
        """Look at the state of an object that is nothing of the above."""
        try:
            made = thing.__reduce_ex__(4)
        except Exception as error:
            raise InputError(
                f"what a {type(thing).__name__} holds cannot be told ({error})",
                consequence="Another model could not be told from this one, and a store of its "
                "answers would be replayed for it.",
                remedy="Name it: version='...', another text whenever the answers change.",
            ) from error
        yield _name(type(thing))
        parts = [made] if isinstance(made, str) else made[1:3]
        yield from map(self.hash, parts)
        if not isinstance(made, str):  # what a list or dict of its own class holds
            yield from (self.hash(list(items)) for items in made[3:5] if items is not None)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _name(thing: Any) -> str:
    found = inspect.getmodule(thing)
    where = found.__name__ if found else ""
    return f"{where}.{getattr(thing, '__qualname__', getattr(thing, '__name__', thing))}"


def _code(code: CodeType) -> Iterable[str]:
    """Return what a function does, the functions inside it included."""
    yield code.co_code.hex()
    for const in code.co_consts:
        yield from _code(const) if isinstance(const, CodeType) else [_told(const)]


def _told(const: object) -> str:
    """Return a constant as text; those in a set in an order that is the same in every process."""
    if isinstance(const, (tuple, frozenset)):
        parts = [_told(part) for part in const]
        parts = sorted(parts) if isinstance(const, frozenset) else parts
        return f"{type(const).__name__}({', '.join(parts)})"
    return repr(const)


def _names(code: CodeType) -> set[str]:
    """Return the global names and attributes that a function and those inside it use."""
    inner = [_names(const) for const in code.co_consts if isinstance(const, CodeType)]
    return set(code.co_names).union(*inner)
