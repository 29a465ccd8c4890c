"""A TensorFlow SavedModel as a teacher.

Letters: B samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np

from limbeck.data.samples import Batch
from limbeck.errors import InputError, unknown
from limbeck.imports import needed
from limbeck.teachers.contents import contents, contents_of_files
from limbeck.teachers.foreign import Foreign, Layout, Size, arrays
from limbeck.teachers.returns import Kind

__all__ = ["from_saved_model"]


def from_saved_model(
    path: str | Path,
    preprocess: Callable[[Any], Any] | None = None,
    *,
    returns: Kind = "logits",
    inputs: str | Callable[[Batch], Any] = "inputs",
    layout: Layout = "NCHW",
    clip: float = 1e-7,
    output: str | None = None,
    signature: str = "serving_default",
) -> Foreign:
    """Return a teacher that runs a signature of a TensorFlow SavedModel.

    Taps are the names of the signature's outputs.

    Args:
        path: the folder with ``saved_model.pb``. Loading it runs no Python code; its graph can read
            and write files, so take it only from whom you trust.
        preprocess: what this teacher does to the batch's tensors first. For a signature of several
            inputs it returns a mapping of them by name.
        returns: ``logits``, ``probabilities`` or ``values``; see
            :class:`limbeck.teachers.returns.Returns`.
        inputs: which field of the batch it reads, or a function of the batch.
        layout: ``NHWC`` moves the channels of images to the end, where most TensorFlow models want
            them.
        clip: the smallest probability.
        output: which of the signature's outputs is the answer; needed if it has several.
        signature: which one.

    Raises:
        InputError: TensorFlow is not installed, the folder is no SavedModel, or lacks the signature
            or the output.
    """
    model = _Signature(Path(path), signature, output)
    return Foreign(model, preprocess, inputs=inputs, layout=layout, returns=returns, clip=clip)


@final
class _Signature:
    """One signature of a SavedModel."""

    def __init__(self, path: Path, signature: str, output: str | None) -> None:
        self.tf = needed("tensorflow", "tensorflow")
        if not (path / "saved_model.pb").is_file():
            raise InputError(f"{path} holds no saved_model.pb", expected="a SavedModel's folder")
        self.path = path
        try:
            self.loaded = self.tf.saved_model.load(str(path))  # its variables live as long as it
        except Exception as error:  # A damaged folder can raise anything.
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{path} could not be loaded: {reason}") from error
        if signature not in self.loaded.signatures:
            raise unknown(f"signature of {path.name}:", signature, self.loaded.signatures)
        self.run = self.loaded.signatures[signature]
        self.outputs = list(self.run.structured_outputs)
        if output is None and len(self.outputs) > 1:
            raise InputError(
                f"{path.name} has the outputs {', '.join(sorted(self.outputs))}",
                expected="the one that is the answer",
                remedy="Name it: output='...'.",
            )
        if output is not None and output not in self.outputs:
            raise unknown(f"output of {path.name}:", output, self.outputs)
        self.signature, self.output = signature, output or self.outputs[0]

    @property
    def name(self) -> str:
        return self.path.name

    def ask(self, inputs: Any, taps: tuple[str, ...]) -> Mapping[str, Any]:
        for tap in taps:
            if tap not in ("logits", *self.outputs):
                raise unknown(f"tap of {self.name}:", tap, ["logits", *self.outputs])
        said = self.run(**self._fed(arrays(inputs)))
        return {tap: said[self.output if tap == "logits" else tap].numpy() for tap in taps}

    def fingerprint(self) -> str:
        files = [file for file in self.path.rglob("*") if file.is_file()]
        return contents([contents_of_files(files), self.signature, self.output])

    def size(self) -> Size:
        weights = self.run.variables
        return Size(
            sum(int(np.prod(found.shape)) for found in weights),
            sum(int(np.prod(found.shape)) * found.dtype.size for found in weights),
        )

    def _fed(self, given: Any) -> dict[str, Any]:
        """Return what each input of the signature gets, in its type."""
        inputs = self.run.structured_input_signature[1]
        if not isinstance(given, Mapping):
            parts = given if isinstance(given, tuple) else (given,)
            if len(parts) != len(inputs):
                told = ", ".join(inputs)
                raise InputError(
                    f"{len(parts)} inputs for {self.name}", expected=f"{len(inputs)}: {told}"
                )
            given = dict(zip(inputs, parts, strict=True))
        for key in inputs:
            if key not in given:
                raise unknown(f"{self.name} wants an input that the batch lacks:", key, given)
        return {
            key: self.tf.convert_to_tensor(np.asarray(given[key], spec.dtype.as_numpy_dtype))
            for key, spec in inputs.items()
        }
