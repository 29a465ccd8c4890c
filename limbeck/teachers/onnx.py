"""An ONNX model as a teacher, through ONNX Runtime.

Letters: B samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.data.samples import Batch
from limbeck.errors import InputError, unknown
from limbeck.imports import needed
from limbeck.teachers.contents import contents_of_files
from limbeck.teachers.foreign import Foreign, Layout, Size, arrays
from limbeck.teachers.returns import Kind

__all__ = ["Graph", "from_onnx"]

_FOLDER = "session.model_external_initializers_file_folder_path"
# Threads that have nothing to do would look for work for a while, at the cost of what runs next.
_AT_REST = "session.force_spinning_stop"
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def from_onnx(
    path: str | Path,
    preprocess: Callable[[Any], Any] | None = None,
    *,
    returns: Kind = "logits",
    inputs: str | Callable[[Batch], Any] = "inputs",
    layout: Layout = "NCHW",
    clip: float = 1e-7,
    output: str | None = None,
    providers: Sequence[str] | None = None,
) -> Foreign:
    """Return a teacher that runs an ONNX model.

    Taps are the names of tensors in its graph, or of nodes, whose first output is then meant. A
    model that was exported for a fixed number of samples is asked in pieces of that size.

    Args:
        path: the ``.onnx`` file, weights in files beside it included.
        preprocess: what this teacher does to the batch's tensors first. For a model of several
            inputs it returns a mapping of them by name.
        returns: ``logits``, ``probabilities`` or ``values``; see
            :class:`limbeck.teachers.returns.Returns`.
        inputs: which field of the batch it reads, or a function of the batch.
        layout: ``NHWC`` moves the channels of images to the end.
        clip: the smallest probability.
        output: which of the model's outputs is the answer; by default the first.
        providers: of ONNX Runtime; by default CUDA's if it is there, and the CPU's.

    Raises:
        InputError: ``onnx`` and ``onnxruntime`` are not installed, the file is missing or damaged,
            or ``output`` is not in it; later, a tap that is not in the graph.
    """
    model = Graph(Path(path), output, providers)
    return Foreign(model, preprocess, inputs=inputs, layout=layout, returns=returns, clip=clip)


@final
class Graph:
    """An ONNX graph, and a session for each set of taps that was asked for.

    Args:
        path: the ``.onnx`` file, weights in files beside it included.
        output: which of the model's outputs is the answer; by default the first.
        providers: of ONNX Runtime; by default CUDA's if it is there, and the CPU's.

    Raises:
        InputError: as for :func:`from_onnx`.
    """

    def __init__(
        self, path: Path, output: str | None = None, providers: Sequence[str] | None = None
    ) -> None:
        onnx = needed("onnx", "onnx")
        self.runtime = needed("onnxruntime", "onnx")
        self.path = path
        if not path.is_file():
            raise InputError(f"there is no file {path}", expected="an ONNX model")
        try:
            self.proto = onnx.load(str(path), load_external_data=False)
            onnx.checker.check_model(str(path))
        except Exception as error:  # A damaged file can raise anything.
            reason = str(error).strip().splitlines()[0] if str(error).strip() else "damaged"
            raise InputError(f"{path} is not an ONNX model: {reason}") from error
        outputs = [found.name for found in self.proto.graph.output]
        if output is not None and output not in outputs:
            raise unknown(f"output of {path.name}:", output, outputs)
        self.output = output or outputs[0]
        self.providers = providers
        self._sessions: dict[tuple[str, ...], Any] = {}

    @property
    def name(self) -> str:
        return self.path.name

    def ask(self, inputs: Any, taps: tuple[str, ...]) -> Mapping[str, Any]:
        wanted = {tap: self._tensor(tap) for tap in taps}
        session = self._session(tuple(sorted(set(wanted.values()))))
        fed = _fed(session, arrays(inputs), self.name)
        found = dict(zip(wanted, _run(session, list(wanted.values()), fed), strict=True))
        for tap, value in found.items():
            if not isinstance(value, np.ndarray):
                raise InputError(
                    f"{tap} of {self.name} is a {type(value).__name__} for each sample",
                    expected="an array",
                    remedy="Export a scikit-learn model with options={'zipmap': False}.",
                )
        return found

    def fed(self, inputs: Any) -> dict[str, NDArray[Any]]:
        """Return what each input of the model gets, in its type: a copy only where it must be."""
        return _fed(self._session((self.output,)), arrays(inputs), self.name)

    def run(self, fed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the answer to what :meth:`fed` gave."""
        found: NDArray[Any] = _run(self._session((self.output,)), [self.output], fed)[0]
        return found

    def takes(self) -> dict[str, dict[str, Any]]:
        """Return ``dtype`` and ``shape`` of each input, by name; free axes by theirs."""
        session = self._session((self.output,))
        return {
            found.name: {
                "dtype": np.dtype(_TYPES.get(found.type, np.float32)).name,
                "shape": [axis if isinstance(axis, int) else str(axis) for axis in found.shape],
            }
            for found in session.get_inputs()
        }

    def fingerprint(self) -> str:
        return contents_of_files(self._files()) + f" {self.output}"

    def size(self) -> Size:
        weights = sum(int(np.prod(found.dims)) for found in self.proto.graph.initializer)
        return Size(weights, sum(file.stat().st_size for file in self._files()))

    def _files(self) -> list[Path]:
        """Return the model's file and those that hold its weights."""
        beside = {
            self.path.parent / entry.value
            for found in self.proto.graph.initializer
            for entry in found.external_data
            if entry.key == "location"
        }
        return [self.path, *beside]

    def _tensor(self, tap: str) -> str:
        """Return the name of the tensor that a tap means."""
        if tap == "logits":
            return self.output
        nodes = {node.name: node.output[0] for node in self.proto.graph.node if node.name}
        tensors = {name for node in self.proto.graph.node for name in node.output if name}
        if tap in tensors:
            return tap
        if tap not in nodes:
            raise unknown(f"tap of {self.name}:", tap, ["logits", *sorted(tensors | set(nodes))])
        return str(nodes[tap])

    def _session(self, outputs: tuple[str, ...]) -> Any:
        """Return a session whose graph yields these tensors too."""
        if outputs not in self._sessions:
            onnx = needed("onnx", "onnx")
            graph = onnx.ModelProto()
            graph.CopyFrom(self.proto)
            known = {found.name for found in graph.graph.output}
            graph.graph.output.extend(
                onnx.ValueInfoProto(name=name) for name in outputs if name not in known
            )
            self._sessions[outputs] = self._opened(graph.SerializeToString())
        return self._sessions[outputs]

    def _opened(self, graph: bytes) -> Any:
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        # The graph comes from memory; files with its weights are found from here.
        folder = str(self.path.parent.resolve())
        options.add_session_config_entry(_FOLDER, folder)
        options.add_session_config_entry(_AT_REST, "1")
        there = self.runtime.get_available_providers()
        usual = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in there]
        return self.runtime.InferenceSession(
            graph, options, providers=list(self.providers or usual)
        )


def _fed(session: Any, given: Any, name: str) -> dict[str, NDArray[Any]]:
    """Return what each input of the model gets, in its type."""
    inputs = {found.name: found for found in session.get_inputs()}
    if not isinstance(given, Mapping):
        parts = given if isinstance(given, tuple) else (given,)
        if len(parts) != len(inputs):
            raise InputError(
                f"{len(parts)} inputs for {name}", expected=f"{len(inputs)}: {', '.join(inputs)}"
            )
        given = dict(zip(inputs, parts, strict=True))
    for key in inputs:
        if key not in given:
            raise unknown(f"{name} wants an input that the batch lacks:", key, given)
    return {
        key: np.ascontiguousarray(given[key], dtype=_TYPES.get(found.type))
        for key, found in inputs.items()
    }


def _run(session: Any, outputs: list[str], fed: Mapping[str, NDArray[Any]]) -> Sequence[Any]:
    """Run all samples at once, or in pieces if the model was exported for a number of them."""
    sizes = {found.shape[0] for found in session.get_inputs() if found.shape}
    fixed = next((size for size in sizes if isinstance(size, int)), None)
    count = len(next(iter(fed.values())))
    if fixed is None or fixed == count:
        return list(session.run(outputs, dict(fed)))
    parts = [
        session.run(outputs, {key: _piece(rows, start, fixed) for key, rows in fed.items()})
        for start in range(0, count, fixed)
    ]
    return [np.concatenate(found)[:count] for found in zip(*parts, strict=True)]


def _piece(rows: NDArray[Any], start: int, size: int) -> NDArray[Any]:
    """Return ``size`` rows; the last one again where there are no more."""
    return rows[np.minimum(np.arange(start, start + size), len(rows) - 1)]
