"""Samples by which the ranges of activations are found: what goes into each input of a file.

Letters: B samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import InputError

__all__ = ["checked"]

_TYPES = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 10: np.float16, 11: np.float64}


def checked(
    model: Any, samples: Iterable[Mapping[str, NDArray[Any]]]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield batches of samples as a file takes them: its inputs, in its types.

    Args:
        model: in the file.
        samples: batches: an array (B, ...) for each input, by its name.

    Raises:
        InputError: an input is missing, its shape does not fit, a number is not finite, or there
            are no samples.
    """
    inputs = {found.name: found.type.tensor_type for found in model.graph.input}
    seen = 0
    for batch in samples:
        if not isinstance(batch, Mapping):
            raise InputError(
                f"calibration samples that are a {type(batch).__name__}",
                expected=f"a mapping with an array for each input: {', '.join(inputs)}",
            )
        fed = {}
        for name, kind in inputs.items():
            if name not in batch:
                raise InputError(
                    f"calibration samples with {', '.join(batch) or 'nothing'}",
                    expected=f"all inputs of the file: {', '.join(inputs)}",
                )
            wanted = [size.dim_value or size.dim_param or "?" for size in kind.shape.dim]
            _check(name, batch[name].shape, wanted)
            fed[name] = np.ascontiguousarray(batch[name], _TYPES.get(kind.elem_type))
            if not np.isfinite(fed[name]).all():
                raise InputError(
                    f"calibration samples {name} with NaN or infinite numbers",
                    expected="finite numbers, from which ranges are found",
                )
        seen += len(next(iter(fed.values())))
        yield fed
    if not seen:
        raise InputError(
            "there are no calibration samples",
            expected="some, from which the ranges of activations are found",
        )


def _check(name: str, shape: tuple[int, ...], wanted: list[int | str]) -> None:
    fits = len(shape) == len(wanted) and all(
        isinstance(size, str) or size == found for size, found in zip(wanted, shape, strict=True)
    )
    if not fits:
        raise InputError(
            f"calibration samples {name} of shape {shape}",
            expected=f"({', '.join(map(str, wanted))}), as the file takes them",
            consequence="The ranges of activations would be those of other inputs.",
            remedy="Calibrate with samples that went through the same reading and cropping.",
        )
