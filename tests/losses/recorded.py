"""Reading the recorded outputs of other people's implementations (see tests/oracles/README.md)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ORACLES = Path(__file__).parents[1] / "oracles"


@dataclass(frozen=True)
class Recorded:
    """What someone else's code gave for known inputs, in our units.

    Attributes:
        name: of the loss and of the case, for test ids.
        inputs: student, teacher and maybe a mask, float64.
        options: of our loss.
        value: of the loss.
        gradient: checks of the gradient, as recorded.
        factor: from their gradient to ours.
        tolerance: relative; coarser where their code has an eps that ours has not.
    """

    name: str
    inputs: Mapping[str, Tensor]
    options: Mapping[str, Any]
    value: float
    gradient: Mapping[str, Any]
    factor: float
    tolerance: float = 1e-9
    note: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)

    def breaches(self, loss: Callable[..., Tensor]) -> list[str]:
        """Return in what a loss differs from what was recorded."""
        student = self.inputs["student"].clone().requires_grad_(True)
        rest = {k: v for k, v in self.inputs.items() if k not in ("student", "teacher")}
        value = loss(student, self.inputs["teacher"], **rest, **self.options)
        found = []
        if not np.isclose(float(value.detach()), self.value, rtol=self.tolerance, atol=0):
            found.append(f"value {float(value.detach())!r}, recorded {self.value!r}")
        if not value.requires_grad:
            return [*found, "no gradient"]
        value.backward()
        assert student.grad is not None
        own = student.grad.numpy()
        for name, seen in _facts(own, self.gradient).items():
            theirs = np.asarray(self.gradient[name]) * self.factor
            size = np.abs(theirs).max()
            if name in ("sum", "probe"):  # of numbers that may cancel
                size = max(size, np.abs(own).sum())
            near = size * self.tolerance * max(1.0, np.sqrt(own.size))
            if not np.allclose(seen, theirs, rtol=self.tolerance, atol=near):
                found.append(f"gradient's {name}")
        return found


def fill(shape: list[int], salt: int, scale: float) -> np.ndarray:
    """Return the numbers that a record calls (shape, salt, scale)."""
    i = np.arange(np.prod(shape))
    x = np.sin(12.9898 * (i + 1) + 78.233 * salt) * 43758.5453
    x = (x - np.floor(x)) * 2 - 1
    return (x * scale).reshape(shape)


def cases(loss: str) -> list[Recorded]:
    """Return the cases of a loss that can be compared with ours."""
    record = json.loads((ORACLES / f"{loss}.json").read_text(encoding="utf-8"))
    return [
        _case(f"{loss}-{number}", case)
        for number, case in enumerate(record["cases"])
        if case["to_paper"] is not None
    ]


def _case(name: str, case: Mapping[str, Any]) -> Recorded:
    assert case["precision"] == "float64"
    gradient = case.get("student_gradient_checks") or {"full": case["student_gradient"]}
    return Recorded(
        name,
        {key: _input(given) for key, given in case["inputs"].items()},
        case["options"],
        case["value"] * case["to_paper"],
        gradient,
        case["to_paper"],
        note=case.get("note", ""),
        more={"repository": case.get("repository", "")},
    )


def _input(given: Mapping[str, Any]) -> Tensor:
    if "values" in given:
        kinds = {"float": torch.float64, "int": torch.int64, "bool": torch.bool}
        return torch.tensor(given["values"], dtype=kinds[given["kind"]])
    if "labels" in given:
        return torch.from_numpy((np.arange(given["labels"]) * 7 + given["salt"]) % given["classes"])
    assert set(given) == {"shape", "salt", "scale"}, f"not read yet: {sorted(given)}"
    values = fill(given["shape"], given["salt"], given["scale"]).astype(np.float32)
    return torch.from_numpy(values.astype(np.float64))


def _facts(gradient: np.ndarray, recorded: Mapping[str, Any]) -> dict[str, Any]:
    if "full" in recorded:
        return {"full": gradient}
    assert list(gradient.shape) == recorded["shape"]
    return {
        "sum": gradient.sum(),
        "abs_sum": np.abs(gradient).sum(),
        "probe": (gradient * fill(list(gradient.shape), 99, 1)).sum(),
        "first": gradient.ravel()[:8],
    }
