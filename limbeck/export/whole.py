"""What is exported: the network and what it does to its inputs first, as one module.

Letters: B samples, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.knowledge.model import call, logits_of

__all__ = ["Signature", "Whole", "by_name"]


@final
class Whole(nn.Module):
    """Preprocessing and network: takes a task's inputs, returns logits.

    Args:
        first: what happens to the inputs first; ``None`` changes nothing.
        model: called with a tensor, several, or named ones, as the task's inputs are.

    >>> Whole(None, nn.Linear(4, 2))(torch.zeros(3, 4)).shape
    torch.Size([3, 2])
    """

    def __init__(self, first: nn.Module | None, model: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.model = model

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Return the logits (B, ...)."""
        given: Any = named or (inputs if len(inputs) > 1 else inputs[0])
        if self.first is not None:
            given = self.first(given)
        return logits_of(call(self.model, given))


@final
@dataclass(frozen=True)
class Signature:
    """What an exported model takes, by place.

    Attributes:
        names: of the inputs.
        named: whether the network takes them as named arguments.
        example: a tensor (2, ...) for each.
        free: for each, the names of the axes whose size may change, by number; axis 0 is
            ``batch``.
        ranges: for each, the least and the largest number that was seen.
    """

    names: tuple[str, ...]
    named: bool
    example: tuple[Tensor, ...]
    free: tuple[Mapping[int, str], ...]
    ranges: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, seen: Sequence[Any]) -> Signature:
        """Return it from what a task gives models, for several single samples.

        An axis that differs among them is free, and so is the first. Axes that always differ alike
        have one name.

        Args:
            seen: inputs of each sample: a tensor (1, ...), a tuple or a mapping of them.

        Raises:
            InputError: an input is no tensor.

        >>> found = Signature.of([{"ids": torch.zeros(1, 4)}, {"ids": torch.zeros(1, 7)}])
        >>> found.names, found.free, found.example[0].shape
        (('ids',), ({0: 'batch', 1: 'length'},), torch.Size([2, 7]))
        """
        rows = [by_name(inputs) for inputs in seen]
        for name, part in rows[0].items():
            if not isinstance(part, Tensor) or not part.numel():
                raise InputError(
                    f"the network's input {name!r} is a {type(part).__name__}",
                    expected="a tensor with numbers in it: files take nothing else",
                )
        free: list[Mapping[int, str]] = []
        known: dict[tuple[int, ...], str] = {}
        for name in rows[0]:
            sizes = zip(*(row[name].shape[1:] for row in rows), strict=True)
            axes = {0: "batch"}
            for axis, found in enumerate(sizes, 1):
                if len(set(found)) > 1:
                    axes[axis] = known.setdefault(found, f"length{len(known) + 1 if known else ''}")
            free.append(axes)
        longest = max(rows, key=lambda row: sum(tensor.numel() for tensor in row.values()))
        example = tuple(torch.cat([tensor, tensor]).cpu() for tensor in longest.values())
        ranges = tuple(
            (
                min(row[name].min().item() for row in rows),
                max(row[name].max().item() for row in rows),
            )
            for name in rows[0]
        )
        return cls(tuple(rows[0]), isinstance(seen[0], Mapping), example, tuple(free), ranges)

    def by_place(self, whole: nn.Module) -> nn.Module:
        """Return a module that takes the inputs one after another, as exported programs do."""
        return _ByPlace(whole, self.names if self.named else None).eval()

    def shapes(self) -> dict[str, dict[str, Any]]:
        """Return type, shape and range of each input, free axes by name, as JSON keeps them."""
        return {
            name: {
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "shape": [axes.get(n, size) for n, size in enumerate(tensor.shape)],
                "seen": list(seen),
            }
            for name, tensor, axes, seen in zip(
                self.names, self.example, self.free, self.ranges, strict=True
            )
        }


class _ByPlace(nn.Module):
    def __init__(self, whole: nn.Module, names: Sequence[str] | None) -> None:
        super().__init__()
        self.whole = whole
        self.names = names

    def forward(self, *inputs: Tensor) -> Tensor:
        if self.names is None:
            return self.whole(*inputs)  # type: ignore[no-any-return]
        return self.whole(**dict(zip(self.names, inputs, strict=True)))  # type: ignore[no-any-return]


def by_name(inputs: Any) -> dict[str, Tensor]:
    """Return a task's inputs by their names; a single one is called ``inputs``."""
    if isinstance(inputs, Mapping):
        return dict(inputs)
    if isinstance(inputs, tuple):
        return {f"input{place}": tensor for place, tensor in enumerate(inputs)}
    return {"inputs": inputs}
