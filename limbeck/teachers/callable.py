"""Any function of arrays as a teacher.

Letters: B samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

from limbeck.data.samples import Batch
from limbeck.errors import InputError, unknown
from limbeck.knowledge.model import call
from limbeck.teachers.contents import contents
from limbeck.teachers.foreign import Foreign, Layout, Size, arrays
from limbeck.teachers.returns import Kind

__all__ = ["from_callable"]


def from_callable(
    function: Callable[..., Any],
    preprocess: Callable[[Any], Any] | None = None,
    *,
    returns: Kind = "logits",
    inputs: str | Callable[[Batch], Any] = "inputs",
    layout: Layout = "NCHW",
    clip: float = 1e-7,
    version: str | None = None,
) -> Foreign:
    """Return a teacher that asks a function: NumPy arrays in, a NumPy array out.

    It is called with a whole batch: an array (B, ...), or the named arguments if the batch's inputs
    are a mapping. It returns the answers (B, C), or a mapping of them by tap, with ``logits``. The
    same inputs must give the same answers.

    Args:
        function: what is asked: a method of a model, a client, a formula.
        preprocess: what this teacher does to the batch's tensors first.
        returns: ``logits``, ``probabilities`` or ``values``; see
            :class:`limbeck.teachers.returns.Returns`.
        inputs: which field of the batch it reads, or a function of the batch.
        layout: ``NHWC`` moves the channels of images to the end.
        clip: the smallest probability.
        version: a text that names the model, for fingerprints. By default it is a hash of what the
            function holds: its code, what it closes over, the object that it is a method of.

    >>> import torch
    >>> teacher = from_callable(lambda x: x[:, :3] * 2.0)
    >>> teacher.knowledge({"inputs": torch.eye(4)}).logits[0]
    tensor([2., 0., 0.])
    """
    if version == "":
        raise InputError("the teacher's version is empty", expected="a text that names it")
    options: dict[str, Any] = {"inputs": inputs, "layout": layout, "clip": clip}
    return Foreign(_Function(function, version), preprocess, returns=returns, **options)


@final
class _Function:
    def __init__(self, function: Callable[..., Any], version: str | None) -> None:
        self.function, self.version = function, version

    @property
    def name(self) -> str:
        return str(getattr(self.function, "__qualname__", type(self.function).__name__))

    def ask(self, inputs: Any, taps: tuple[str, ...]) -> Mapping[str, Any]:
        said = call(self.function, arrays(inputs))
        found = said if isinstance(said, Mapping) else {"logits": said}
        for tap in taps:
            if tap not in found:
                raise unknown(f"tap of {self.name}:", tap, found)
        return found

    def fingerprint(self) -> str:
        named = self.version is not None
        return contents(["version", self.version] if named else self.function)

    def size(self) -> Size:
        return Size()
