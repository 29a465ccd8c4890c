"""A method that shows both models several views of each sample, and what prepares its teacher.

Letters: B samples, V views, C channels, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data.augment import Augmentation
from limbeck.data.loader import Loader
from limbeck.data.samples import Batch, Samples, as_samples, seeded
from limbeck.errors import InputError
from limbeck.losses.logits import kl
from limbeck.losses.views import SelfSupervised, ViewHead, self_supervised_logits, telling_apart
from limbeck.methods.about import About
from limbeck.methods.beforehand import placed
from limbeck.methods.match import Match
from limbeck.methods.method import Method, described
from limbeck.teachers.knowing import Knowing
from limbeck.teachers.module import Teacher

__all__ = ["Changed", "pretrain_view_head", "rotations", "sskd"]


@described(
    About(
        "Knowledge Distillation Meets Self-Supervision",
        "Xu, Liu, Li, Loy",
        2020,
        "arXiv:2006.07114",
        "contrast",
        "logits, features, labels",
        "modules",
    )
)
def sskd(
    head: ViewHead | None = None,
    label: float = 0.1,
    soft: float = 0.9,
    transformed: float = 2.7,
    similarity: float = 10.0,
    temperature: float = 4.0,
    similarity_temperature: float = 0.5,
    ratio: float = 0.75,
    transformed_ratio: float = 1.0,
    student: str = "penultimate",
    teacher: str = "penultimate",
) -> Method:
    r"""Match the answers to rotated images too, and which image each rotated one came from.

    0.1·label + 0.9·T²·KL of each image, + 2.7·T²·KL of its three rotations, + 10 times the
    divergence of :func:`limbeck.losses.self_supervised`. Both models see each image four times, so
    a step costs four times as much; the teacher must run beside the student. Two linear layers on
    the student's features are trained and left behind. The paper trains the same of the teacher
    first: :func:`pretrain_view_head` does, and its result goes in here. Without one they are
    trained alongside, by their cross-entropy, which has the weight 1 and is part of this method's
    term; the student then follows a head that is still learning.

    Weights and temperatures are those of the authors' code for CIFAR-100, whose images are cropped
    but not flipped. Of the label and of methods that are added only the plain image is seen.

    Args:
        head: the teacher's, trained on the teacher's tap; a copy of it is used, frozen.
        label: weight of the label.
        soft: weight of the plain images' divergence.
        transformed: weight of the rotated images' divergence.
        similarity: weight of the similarities' divergence.
        temperature: T of the answers.
        similarity_temperature: T of the similarities.
        ratio: of the rotated images that the teacher gives to a wrong one, the share that is kept.
        transformed_ratio: of those that it classifies wrongly, the share that is kept.
        student: the student's features (B, D).
        teacher: the teacher's, of any width.

    Raises:
        InputError: the weight of the similarities is not above 0, or a ratio is no share.

    Source: Xu, Liu, Li, Loy 2020, arXiv:2006.07114; code: xuguodong03/SSKD.

    >>> [match.name for match in sskd().matches], sskd().label_weight
    (['kl', 'self_supervised_logits', 'SelfSupervised penultimate'], 0.1)
    """
    if similarity <= 0 or not (0 <= ratio <= 1 and 0 <= transformed_ratio <= 1):
        raise InputError(
            f"sskd got similarity {similarity} and the ratios {ratio} and {transformed_ratio}",
            expected="a weight above 0, and shares from 0 to 1",
        )
    # The term is multiplied by the weight; the head's own error in it is to count once.
    beside: dict[str, Any] = {"alongside": 1 / similarity} if head is None else {"head": head}
    matches = (
        Match("logits", "logits", kl, weight=soft, temperature=temperature),
        Match(
            "logits",
            "logits",
            self_supervised_logits,
            weight=transformed,
            views=True,
            temperature=temperature,
            ratio=transformed_ratio,
        ),
        Match(
            student,
            teacher,
            SelfSupervised,
            weight=similarity,
            views=True,
            temperature=similarity_temperature,
            ratio=ratio,
            **beside,
        ),
    )
    return Method(matches, label, views=rotations)


def rotations(batch: Batch) -> Tensor:
    """Return a batch's images (B, C, H, H) as they are and turned by 90, 180 and 270 degrees.

    Returns:
        (B, 4, C, H, H), the plain view first.

    Raises:
        InputError: they are not square images.

    >>> rotations({"inputs": torch.tensor([[[[1, 2], [3, 4]]]])})[0, 1, 0]
    tensor([[2, 4],
            [1, 3]])
    """
    images = batch["inputs"]
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[2] != images.shape[3]:
        found = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"inputs to rotate: {found}", expected="square images (B, C, H, H)")
    return torch.stack([images.rot90(quarter, (2, 3)) for quarter in range(4)], dim=1)


@dataclass(frozen=True)
class Changed:
    """Shows each sample as it is, and changed.

    Attributes:
        augment: what changes it, as a function of the sample's id and view; other than that of the
            training data, by its steps or by its seed.

    >>> from limbeck.data import Augmentation, Flip
    >>> batch = {"inputs": torch.tensor([[[[1, 2]]]]), "id": torch.tensor([0]),
    ...          "view": torch.tensor([0])}
    >>> Changed(Augmentation((Flip(1.0),)))(batch).flatten()
    tensor([1, 2, 2, 1])
    """

    augment: Augmentation

    def __call__(self, batch: Batch) -> Tensor:
        """Return (B, 2, ...), the plain view first."""
        missing = [field for field in ("id", "view") if field not in batch]
        if missing:
            raise InputError(
                f"a batch without {' and '.join(missing)} is to be augmented",
                expected="the samples' ids and views, which say how each is changed",
                remedy="Load the data with limbeck.data.Loader, as limbeck.fit does.",
            )
        return torch.stack([batch["inputs"], self.augment(batch)["inputs"]], dim=1)


def pretrain_view_head(
    teacher: Knowing | nn.Module,
    samples: Samples | Any,
    *,
    tap: str = "penultimate",
    epochs: int = 60,
    batch_size: int = 64,
    learning_rate: float = 0.05,
    augment: Augmentation | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> ViewHead:
    """Return a head for :func:`sskd`, trained to tell whose rotation each rotated image is.

    A plain loop: SGD with momentum 0.9 and weight decay 5e-4 on :func:`telling_apart`, the rate
    divided by 10 after half and after three quarters of the epochs. These, the epochs, the batch
    size and the rate are those of the authors' code. The same arguments give the same head;
    PyTorch's generators stay untouched.

    Args:
        teacher: a teacher, or a module that needs no preprocessing.
        samples: what it is shown, square images; labels are not used.
        tap: features (B, D) of the teacher, the tap that ``sskd`` is given.
        epochs: over the samples.
        batch_size: how many are told apart; at most the number of samples.
        learning_rate: at the start.
        augment: of the samples, best as in the student's training.
        device: where it runs; by default where the samples are.
        seed: of the first weights and of the order.

    Raises:
        InputError: the tap does not yield vectors, or the images are not square.

    Source: Xu, Liu, Li, Loy 2020, arXiv:2006.07114; code: xuguodong03/SSKD.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 2))
    >>> images, labels = torch.randn(8, 1, 4, 4), torch.zeros(8)
    >>> pretrain_view_head(model, (images, labels), epochs=1, batch_size=4).features
    6
    """
    knows = teacher if isinstance(teacher, Knowing) else Teacher(teacher)
    options: dict[str, Any] = {"shuffle": True, "seed": seed, "augment": augment}
    loader = Loader(as_samples(samples), batch_size, **options)
    first = _features(knows, next(iter(loader)), tap, device)
    with seeded(seed):
        head = ViewHead(first.shape[1]).to(first.device)
    optimizer = torch.optim.SGD(head.parameters(), learning_rate, momentum=0.9, weight_decay=5e-4)
    slower = [max(1, epochs // 2), max(1, epochs * 3 // 4)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, slower)
    for epoch in range(epochs):
        for batch in loader.epoch(epoch):
            loss = telling_apart(head(_features(knows, batch, tap, device)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return head.eval().requires_grad_(False)


def _features(
    teacher: Knowing, batch: Batch, tap: str, device: torch.device | str | None
) -> Tensor:
    """Return the tapped features (B·4, D) of a batch and its rotations, in float32."""
    batch = placed(batch, device)
    shown = {**batch, "inputs": rotations(batch).flatten(0, 1)}
    features: Tensor = teacher.knowledge(shown, (tap,))[tap]
    if features.ndim != 2 or len(features) != len(shown["inputs"]):
        raise InputError(
            f"the tap {tap!r} gives {tuple(features.shape)} for {len(shown['inputs'])} views",
            expected="features (B, D), a row for each view",
        )
    return features.float()
