"""The label loss of a batch, also of one whose samples are mixed with others.

Letters: B samples, C classes.
"""

from __future__ import annotations

from torch import Tensor

from limbeck.data.samples import Batch
from limbeck.errors import InputError
from limbeck.losses.spec import exactly
from limbeck.tasks.task import Separable, Task

__all__ = ["label_loss"]


def label_loss(task: Task, logits: Tensor, batch: Batch) -> Tensor:
    """Return a task's label loss; of samples mixed with others, against both labels.

    The mean over samples of share · loss(own label) + (1 − share) · loss(the other's label). For
    cross-entropies this is the loss against the mixture of both labels (Zhang et al. 2018,
    arXiv:1710.09412), without (B, C) shares in memory; ``targets`` stay what they are, so that
    methods which read them get the label of what is most of the mixture.

    Args:
        task: what a batch means.
        logits: a model's answers.
        batch: named fields, perhaps with ``share`` and ``partner``, as
            :class:`limbeck.data.Augmentation` makes them.

    Raises:
        InputError: samples are mixed, and the task cannot say each one's loss.

    >>> import torch
    >>> from limbeck.tasks import Classification
    >>> batch = {"inputs": torch.zeros(1, 4), "targets": torch.tensor([0]),
    ...          "partner": torch.tensor([1]), "share": torch.tensor([0.75])}
    >>> label_loss(Classification(2), torch.tensor([[2.0, 0.0]]), batch)  # 0.1269 and 2.1269
    tensor(0.6269)
    """
    if "share" not in batch:
        return task.label_loss(logits, batch)
    if not isinstance(task, Separable) or "partner" not in batch:
        raise InputError(
            f"samples are mixed (mixup, cutmix) in the task {task.name}",
            expected="one whose label loss is a mean over samples, such as classification or "
            "multilabel, and samples with targets",
            consequence="The label loss would know only one of the two labels.",
            remedy="Leave mixup and cutmix out of data.augment.",
        )
    own = task.label_losses(logits, batch)
    other = task.label_losses(logits, batch | {"targets": batch["partner"]})
    with exactly(logits.device.type):
        share: Tensor = batch["share"]
        return (share * own + (1 - share) * other).mean()
