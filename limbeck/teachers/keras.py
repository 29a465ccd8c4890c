"""A Keras 3 model as a teacher, on any of its backends.

Letters: B samples.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from limbeck.data.samples import Batch
from limbeck.errors import InputError, unknown
from limbeck.imports import needed
from limbeck.knowledge.keras import KerasModule
from limbeck.teachers.contents import contents
from limbeck.teachers.foreign import First, Foreign, Layout, Size, arrays
from limbeck.teachers.returns import Kind, Returns

if TYPE_CHECKING:
    from limbeck.teachers.module import Teacher

__all__ = ["from_keras"]


def from_keras(
    model: Any,
    preprocess: Callable[[Any], Any] | None = None,
    *,
    returns: Kind = "logits",
    inputs: str | Callable[[Batch], Any] = "inputs",
    layout: Layout = "NCHW",
    clip: float = 1e-7,
    output: str | None = None,
) -> Teacher | Foreign:
    """Return a teacher that runs a Keras 3 model.

    On Keras's torch backend the model runs in this process without copies, and is a
    :class:`limbeck.Teacher` like any module: all taps work, of layers by their names. On JAX and
    TensorFlow it is asked through NumPy arrays, and its layers can be tapped if it is a functional
    or sequential model. Keras chooses its backend by ``KERAS_BACKEND`` when it is first imported;
    if neither has happened, torch is taken.

    Args:
        model: a Keras model, or a ``.keras`` file. Of a file no code is executed.
        preprocess: what this teacher does to the batch's tensors first.
        returns: ``logits``, ``probabilities`` (of a model that ends in softmax or sigmoid) or
            ``values``; see :class:`limbeck.teachers.returns.Returns`.
        inputs: which field of the batch it reads, or a function of the batch.
        layout: ``NHWC`` moves the channels of images to the end, where most Keras models want them.
        clip: the smallest probability.
        output: which of several outputs, by name, is the answer.

    Raises:
        InputError: Keras is not installed, or the file is missing, damaged, or of another kind.
    """
    keras = _keras()
    found = _loaded(keras, Path(model)) if isinstance(model, (str, Path)) else model
    if not isinstance(found, keras.Model):
        raise InputError(f"a {type(found).__name__}", expected="a Keras model or a .keras file")
    options: dict[str, Any] = {"inputs": inputs}
    if keras.backend.backend() == "torch":
        from limbeck.teachers.module import Teacher

        module = KerasModule(found, output, Returns(returns, clip), fresh=False)
        return Teacher(module, First(preprocess, layout), **options)
    options |= {"layout": layout, "returns": returns, "clip": clip}
    return Foreign(_Elsewhere(found, output), preprocess, **options)


@final
class _Elsewhere:
    """A Keras model on JAX or TensorFlow."""

    def __init__(self, model: Any, output: str | None) -> None:
        self.model, self.output = model, output
        names = list(model.output_names) if _is_graph(model) else []
        if output is not None and output not in names:
            raise unknown(f"output of {model.name}:", output, names)
        self._asked: dict[tuple[str, ...], Any] = {}

    @property
    def name(self) -> str:
        return f"{type(self.model).__name__} {self.model.name!r}"

    def ask(self, inputs: Any, taps: tuple[str, ...]) -> Mapping[str, Any]:
        if taps not in self._asked:
            self._asked[taps] = self._part(taps)
        said = self._asked[taps].predict_on_batch(arrays(inputs))
        return said if isinstance(said, Mapping) else {"logits": _first(said)}

    def fingerprint(self) -> str:
        return contents([self.model.to_json(), self.model.get_weights(), self.output])

    def size(self) -> Size:
        weights = self.model.get_weights()
        return Size(int(self.model.count_params()), sum(found.nbytes for found in weights))

    def _part(self, taps: tuple[str, ...]) -> Any:
        """Return a model of the same weights that yields the tapped tensors."""
        if not _is_graph(self.model):
            for tap in taps:
                if tap != "logits":
                    raise unknown(
                        f"tap of {self.name}:", tap, ["logits"],
                        remedy="Layers are found in functional and sequential models, or on "
                        "Keras's torch backend.",
                    )  # fmt: skip
            return self.model
        import keras

        return keras.Model(self.model.inputs, {tap: self._place(tap) for tap in taps})

    def _place(self, tap: str) -> Any:
        """Return the symbolic tensor that a tap means."""
        if tap == "logits":
            named = dict(zip(self.model.output_names, self.model.outputs, strict=True))
            return named[self.output] if self.output else self.model.outputs[0]
        layers = {layer.name: layer for layer in self.model.layers}
        if tap not in layers:
            raise unknown(f"tap of {self.name}:", tap, ["logits", *layers])
        return layers[tap].output


def _keras() -> Any:
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "torch")
    return needed("keras", "keras")


def _loaded(keras: Any, path: Path) -> Any:
    if path.suffix != ".keras":
        raise InputError(
            f"{path} as a Keras model",
            expected="a .keras file",
            remedy="Save it anew with model.save('teacher.keras'); for a TensorFlow SavedModel: "
            "Teacher.from_saved_model.",
        )
    if not path.is_file():
        raise InputError(f"there is no file {path}", expected="a Keras model")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # A damaged file can raise anything.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path} could not be loaded: {reason}") from error


def _is_graph(model: Any) -> bool:
    """Whether Keras knows a model's layers as a graph: functional and sequential models."""
    return bool(getattr(model, "inputs", None)) and bool(getattr(model, "outputs", None))


def _first(said: Any) -> Any:
    return said[0] if isinstance(said, (list, tuple)) else said
