"""Finished models, each in the runtime that is to run it: asked, timed and weighed alike.

Letters: B samples.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from limbeck.errors import InputError, unknown
from limbeck.imports import needed, unlogged
from limbeck.knowledge.model import call, logits_of
from limbeck.students.build import tensors
from limbeck.teachers.foreign import Size, arrays
from limbeck.teachers.onnx import Graph

__all__ = [
    "ENDS",
    "FACTS",
    "Network",
    "OnnxFile",
    "Runner",
    "device_of",
    "disk_size",
    "executorch",
    "logits_from",
    "opened",
    "size_bytes",
    "unbarred",
]

FACTS = "limbeck"
"""The entry of a file's metadata that holds, as JSON, what is known of it."""


class Runner(Protocol):
    """A finished model in its own runtime.

    Attributes:
        runtime: its name and version, ``ONNX Runtime 1.20`` say.
        threads: how many it computes on, as far as that is known.
        facts: what a file says of itself: ``inputs``, ``labels``, ...; empty if nothing.
    """

    @property
    def runtime(self) -> str: ...

    @property
    def threads(self) -> int | None: ...

    @property
    def facts(self) -> Mapping[str, Any]: ...

    def prepared(self, inputs: Any) -> Any:
        """Return a task's inputs for B samples as the runtime takes them; this is not timed."""

    def run(self, prepared: Any) -> Any:
        """Return the answer to prepared inputs, in the runtime's own form; this is timed."""

    def size(self) -> Size:
        """Return how many numbers were trained, as far as that is known, and the bytes on disk."""


def opened(path: str | Path) -> Runner:
    """Return a file in its runtime, which its name's end tells: ``.onnx``, ``.pt2``, ``.pte``.

    A folder with ``config.json`` is a model of ``transformers``.

    Raises:
        InputError: there is no such file, its kind is not known, it is damaged, or its runtime is
            not installed.
    """
    path = Path(path)
    if (path / "config.json").is_file():
        return PretrainedFolder(path)
    if path.suffix not in _KINDS:
        raise unknown("kind of file", path.suffix or path.name, _KINDS)
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    return _KINDS[path.suffix](path)


@torch.no_grad()
def logits_from(runner: Runner, inputs: Any) -> Tensor:
    """Return a finished model's logits (B, ...), float32, on the device of the inputs."""
    found = runner.run(runner.prepared(inputs))
    tensor = torch.from_numpy(found) if isinstance(found, np.ndarray) else logits_of(found)
    device = next(leaf.device for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor))
    return tensor.float().to(device)


@final
class Network:
    """A PyTorch module as a finished model.

    Args:
        model: is put into eval mode.
        first: what happens to the inputs first; as for all networks, that is not timed.
    """

    def __init__(self, model: nn.Module, first: nn.Module | None = None) -> None:
        self.model, self.first = model.eval(), first
        self.facts: Mapping[str, Any] = {}
        self.runtime = f"PyTorch {torch.__version__}"
        self.threads = torch.get_num_threads()

    def prepared(self, inputs: Any) -> Any:
        return inputs if self.first is None else self.first(inputs)

    def run(self, prepared: Any) -> Any:
        return call(self.model, prepared)

    def size(self) -> Size:
        own = sum(weight.numel() for weight in self.model.parameters())
        return Size(own, size_bytes(self.model))


@final
class OnnxFile:
    """An ``.onnx`` file, run by ONNX Runtime on as many threads as PyTorch uses.

    Args:
        path: the file; weights in files beside it count to its size.
    """

    def __init__(self, path: Path) -> None:
        self.graph = Graph(path)
        self.runtime = f"ONNX Runtime {importlib.metadata.version('onnxruntime')}"
        self.threads = torch.get_num_threads()
        told = {entry.key: entry.value for entry in self.graph.proto.metadata_props}
        self.facts: Mapping[str, Any] = {"inputs": self.graph.takes()}
        self.facts |= _read(told.get(FACTS), path)

    def prepared(self, inputs: Any) -> Any:
        return self.graph.fed(arrays(inputs))

    def run(self, prepared: Any) -> Any:
        return self.graph.run(prepared)

    def size(self) -> Size:
        found = self.graph.size()
        return Size(self.facts.get("parameters", found.parameters), found.bytes)


@final
class ProgramFile:
    """A ``.pt2`` file of ``torch.export``, run by PyTorch.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        told = {FACTS: ""}
        try:
            with unlogged():
                program = torch.export.load(path, extra_files=told)
        except Exception as error:  # a damaged file can raise anything
            raise _damaged(path, "a program of torch.export", error) from error
        self.path, self.module = path, program.module()
        self.runtime = f"torch.export {torch.__version__}"
        self.threads = torch.get_num_threads()
        self.facts: Mapping[str, Any] = _read(told[FACTS], path)

    def prepared(self, inputs: Any) -> Any:
        return _by_place(inputs, self.facts)

    def run(self, prepared: Any) -> Any:
        return self.module(*prepared)

    def size(self) -> Size:
        return Size(self.facts.get("parameters"), self.path.stat().st_size)


@final
class ExecuTorchFile:
    """A ``.pte`` file, run by ExecuTorch, in pieces if there are more samples than it takes.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        runtime = executorch("runtime")
        try:
            with _hushed():
                self._program = runtime.Runtime.get().load_program(path)
                self._forward = self._program.load_method("forward")
        except Exception as error:  # a damaged file can raise anything
            raise _damaged(path, "an ExecuTorch program", error) from error
        told = FACTS in self._program.method_names
        text = self._program.load_method(FACTS).execute([])[0] if told else ""
        self.path = path
        self.runtime = f"ExecuTorch {importlib.metadata.version('executorch')}"
        self.threads: int | None = None  # a pool of its own, which it does not tell
        self.facts: Mapping[str, Any] = _read(text, path)

    def prepared(self, inputs: Any) -> Any:
        return _by_place(inputs, self.facts)

    def run(self, prepared: Any) -> Any:
        most = self.facts.get("most", {})
        size = most.get("batch", len(prepared[0]))
        pieces = zip(*(part.split(size) for part in prepared), strict=True)
        try:
            # The runtime owns its answer, and overwrites it the next time.
            return torch.cat([self._forward.execute(piece)[0].clone() for piece in pieces])
        except RuntimeError as error:
            shapes = ", ".join(str(tuple(part.shape)) for part in prepared)
            bounds = ", ".join(f"{count} of {axis}" for axis, count in most.items())
            raise InputError(
                f"{self.path.name} failed on inputs of {shapes}: {error}",
                expected="the sizes that it was written for" + (f", at most {bounds}" * bool(most)),
            ) from error

    def size(self) -> Size:
        return Size(self.facts.get("parameters"), self.path.stat().st_size)


@final
class PretrainedFolder:
    """A folder as ``save_pretrained`` writes it, run by ``transformers`` on PyTorch.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        transformers = needed("transformers", "text", "modeling_utils")
        try:
            kind = json.loads((path / "config.json").read_text("utf-8"))["architectures"][0]
            with unbarred(transformers):
                model = getattr(transformers, kind).from_pretrained(path, local_files_only=True)
        except Exception as error:  # what is wrong with a folder can raise anything
            raise _damaged(path, "a model of transformers", error) from error
        self.path, self.model = path, model.eval()
        self.runtime = f"transformers {transformers.__version__}"
        self.threads = torch.get_num_threads()
        known = path / f"{FACTS}.json"
        text = known.read_text("utf-8") if known.is_file() else ""
        self.facts: Mapping[str, Any] = _read(text, path)

    def prepared(self, inputs: Any) -> Any:
        return inputs

    def run(self, prepared: Any) -> Any:
        return call(self.model, prepared)

    def size(self) -> Size:
        own = sum(weight.numel() for weight in self.model.parameters())
        return Size(own, disk_size(self.path))


_KINDS: dict[str, Callable[[Path], Runner]] = {
    ".onnx": OnnxFile,
    ".pt2": ProgramFile,
    ".pte": ExecuTorchFile,
}

ENDS = tuple(_KINDS)
"""How the names of files end that :func:`opened` reads."""


def device_of(runner: Runner) -> torch.device | None:
    """Return where a model computes; ``None`` for what runs elsewhere, or nobody knows where."""
    if isinstance(runner, Network):
        return next((weight.device for weight in runner.model.parameters()), torch.device("cpu"))
    here = isinstance(runner, (OnnxFile, ProgramFile, ExecuTorchFile, PretrainedFolder))
    return torch.device("cpu") if here else None


def executorch(part: str) -> Any:
    """Return a module of the package ``executorch``, without what its import says of others.

    Raises:
        InputError: it is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return needed(f"executorch.{part}", "executorch")


@contextmanager
def unbarred(transformers: Any) -> Iterator[None]:
    """Keep ``transformers`` from showing bars while it reads and writes a small model."""
    logs = transformers.utils.logging
    shown = logs.is_progress_bar_enabled()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logs.enable_progress_bar()


def _by_place(inputs: Any, facts: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Return a task's inputs on the CPU, one after another, in the order of a file's own."""
    if not isinstance(inputs, Mapping):
        several = inputs if isinstance(inputs, tuple) else (inputs,)
        return tuple(each.cpu() for each in several)
    names = facts.get("inputs") or inputs
    for name in names:
        if name not in inputs:
            raise unknown("the file wants an input that the batch lacks:", name, inputs)
    return tuple(inputs[name].cpu().contiguous() for name in names)


def _damaged(path: Path, what: str, error: Exception) -> InputError:
    lines = str(error).strip().splitlines()
    return InputError(f"{path} is not {what}: {lines[0] if lines else type(error).__name__}")


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep to itself what compiled code says about the processor on the error output."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def disk_size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def size_bytes(model: nn.Module) -> int:
    """Return the size of a model's weights as a safetensors file."""
    return len(save(tensors(model)))


def _read(told: str | None, path: Path) -> dict[str, Any]:
    """Return what a file says of itself."""
    try:
        found = json.loads(told or "{}")
    except ValueError as error:
        raise InputError(f"what {path} says of itself is damaged: {error}") from error
    return found if isinstance(found, dict) else {}
