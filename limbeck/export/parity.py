"""Whether a file answers as the network that it was made from.

Letters: B samples, T tokens, N samples in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.data.samples import Batch
from limbeck.errors import InputError
from limbeck.evaluate.quality import alone, evaluate
from limbeck.evaluate.runtimes import Runner, logits_from
from limbeck.tasks.task import Task

__all__ = ["Parity", "compared"]


@dataclass(frozen=True)
class Parity:
    """How a file's answers to the same samples differ from its network's.

    Attributes:
        samples: N.
        largest: the largest difference of a logit.
        mean: of the differences of all logits.
        scale: the largest logit of the network's, at least 1; what a tolerance is a share of.
        agreement: the share of samples (or tokens) that get the same answer, 0 to 1.
        metric: the task's, by which epochs are chosen.
        network: the metric of the network.
        file: the metric of the file.
    """

    samples: int
    largest: float
    mean: float
    scale: float
    agreement: float
    metric: str
    network: float
    file: float

    def require(self, tolerance: float, name: str, *, on_average: bool = False) -> None:
        """Refuse a file whose logits differ by more than a share of the largest.

        Args:
            tolerance: that share.
            name: of the file.
            on_average: judge the mean of all differences in the place of the largest one. Of
                integers single logits may be far off where everything else is right.

        Raises:
            InputError: they do, or are no numbers.
        """
        apart = self.mean if on_average else self.largest
        if apart <= tolerance * self.scale:
            return
        most = "on average by" if on_average else "by up to"
        raise InputError(
            f"{name} answers otherwise than its network: on {self.samples:,} validation samples "
            f"its logits differ {most} {apart:.3g}, {apart / self.scale:.3g} of "
            f"the largest ({self.scale:.3g}); {self.agreement:.1%} of the answers are the same",
            expected=f"at most {tolerance:g} of the largest",
            consequence="What runs elsewhere would not be what was measured here; the file was not "
            "kept, everything before it was.",
            remedy="If that is near enough, raise its tolerance in the recipe's export.",
        )

    def told(self) -> str:
        """Return it in a few words."""
        same = f"{100 * self.agreement:.4g}%"
        return f"logits within {self.largest:.1g}, {same} of {self.samples:,} answers the same"

    def as_json(self) -> dict[str, Any]:
        """Return it as files and reports keep it."""
        return asdict(self)


def compared(network: Runner, file: Runner, batches: Iterable[Any], task: Task) -> Parity:
    """Ask a network and the file made from it about the same samples.

    With several processes one alone may do it.

    Args:
        network: as PyTorch runs it.
        file: in its own runtime.
        batches: of validation samples.
        task: what they mean.
    """
    runners = {"network": network, "file": file}
    answers = {
        name: lambda batch, runner=runner: _asked(runner, task.inputs(batch))
        for name, runner in runners.items()
    }
    seen = _Differences(task)
    with alone():
        found = evaluate(answers, batches, task, reference=answers["network"], watch=seen.watch)
    metrics = {name: measured.quality.metrics[task.selection] for name, measured in found.items()}
    return Parity(
        seen.samples,
        seen.largest,
        seen.sum / max(1, seen.numbers),
        max(1.0, seen.scale),
        found["file"].fidelity["agreement"],
        task.selection,
        **metrics,
    )


def _asked(runner: Runner, inputs: Any) -> Tensor:
    try:
        return logits_from(runner, inputs)
    except InputError:
        raise
    except Exception as error:  # whatever a runtime raises
        lines = str(error).strip().splitlines()
        raise InputError(
            f"{runner.runtime} could not run the model: {lines[0] if lines else repr(error)}",
            consequence="The file was not kept; everything before it was.",
            remedy="Try another opset, or another format.",
        ) from error


class _Differences:
    """Adds up by how much logits differ, where something counts."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.samples = self.numbers = 0
        self.largest = self.sum = self.scale = 0.0

    def watch(self, batch: Batch, said: Mapping[str, Tensor]) -> None:
        own, theirs = said["network"].float(), said["file"].float()
        if own.shape != theirs.shape:
            raise InputError(
                f"the file answers {tuple(theirs.shape)} where the network answers "
                f"{tuple(own.shape)}",
                expected="the same shape: an axis that must be free was written as fixed",
            )
        self.samples += len(own)
        mask = self.task.mask(batch)
        if mask is not None and mask.shape == own.shape[: mask.ndim]:
            own, theirs = own[mask.bool()], theirs[mask.bool()]
        apart = (own - theirs).abs()
        if not apart.numel():
            return
        if not apart.isfinite().all():
            apart = torch.full_like(apart, torch.inf)
        self.numbers += apart.numel()
        self.sum += float(apart.sum(dtype=torch.float64))
        self.largest = max(self.largest, float(apart.max()))
        self.scale = max(self.scale, float(own.abs().max()))
