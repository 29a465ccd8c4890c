"""Reading the records that :mod:`recorded` does not: several tensors, parameters, named gradients.

See tests/oracles/README.md for the format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from recorded import ORACLES, _facts, fill
from torch import Tensor


def raw(loss: str) -> list[dict[str, Any]]:
    """Return the cases of a record as they are written."""
    return json.loads((ORACLES / f"{loss}.json").read_text(encoding="utf-8"))["cases"]


def tensor(given: Any) -> Any:
    """Return an input (or a list of inputs) in float64."""
    if isinstance(given, list):
        return tuple(tensor(one) for one in given)
    if "values" in given:
        kinds = {"float": torch.float64, "int": torch.int64, "bool": torch.bool}
        return torch.tensor(given["values"], dtype=kinds[given["kind"]])
    if "labels" in given:
        return torch.from_numpy((np.arange(given["labels"]) * 7 + given["salt"]) % given["classes"])
    assert set(given) <= {"shape", "salt", "scale", "then", "add", "key"}
    values = fill(given["shape"], given["salt"], given["scale"]).astype(np.float32)
    numbers = torch.from_numpy(values.astype(np.float64))
    if "then" in given:
        assert given["then"] == "relu"
        numbers = numbers.relu()
    return numbers + given.get("add", 0.0)


def parameters(case: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the recorded parameters and buffers by their names."""
    return {given["key"]: tensor(given) for given in case["parameters"]}


def breaches(
    case: Mapping[str, Any],
    value: Tensor,
    leaves: Mapping[str, Tensor],
    *,
    factor: float = 1.0,
    tolerance: float = 1e-9,
) -> list[str]:
    """Return in what a value and its gradients differ from a record.

    Args:
        case: the record's case.
        value: ours, before ``backward``.
        leaves: tensors by the names of their recorded gradients, such as ``student_gradient``.
        factor: from their value and gradient to ours.
        tolerance: relative.
    """
    found = []
    if not np.isclose(float(value.detach()), case["value"] * factor, rtol=tolerance, atol=0):
        found.append(f"value {float(value.detach())!r}, recorded {case['value'] * factor!r}")
    gradients = torch.autograd.grad(value, list(leaves.values()), retain_graph=True)
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        recorded = {"full": case[name]} if name in case else case[f"{name}_checks"]
        for fact, seen in _facts(gradient.numpy(), recorded).items():
            theirs = np.asarray(recorded[fact]) * factor
            near = np.abs(theirs).max() * tolerance * max(1.0, leaf.numel() ** 0.5) + 1e-15
            if not np.allclose(seen, theirs, rtol=tolerance, atol=near):
                found.append(f"{name}: {fact} of the gradient")
    return found


def parameter_breaches(
    case: Mapping[str, Any],
    value: Tensor,
    named: Mapping[str, Tensor],
    *,
    factor: float = 1.0,
    tolerance: float = 1e-9,
) -> list[str]:
    """Return whose gradient, among parameters by their recorded names, differs from a record."""
    names: Sequence[str] = list(case["parameter_gradient_checks"])
    gradients = torch.autograd.grad(value, [named[name] for name in names], retain_graph=True)
    found = []
    for name, gradient in zip(names, gradients, strict=True):
        recorded = case["parameter_gradient_checks"][name]
        near = tolerance * max(recorded["abs_sum"] * factor, 1e-6) * 10
        for fact, seen in (("sum", gradient.sum()), ("abs_sum", gradient.abs().sum())):
            if not np.isclose(float(seen), recorded[fact] * factor, rtol=tolerance, atol=near):
                found.append(
                    f"{name}: {fact} {float(seen)!r}, recorded {recorded[fact] * factor!r}"
                )
    return found
