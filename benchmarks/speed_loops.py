"""The loops that ``benchmarks/speed.py`` compares, one in each process.

Called with the loop's name, the pair, the steps of an epoch and the batch size. It gets ready,
prints a line of JSON about its settings, and then, for each line ``go`` that it reads, trains a
fresh student for two epochs and prints the seconds of the second one and the process's peak memory.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from foreign_torchvision import declare_operators
from torch import Tensor, nn

import limbeck as lb
from limbeck.data import CIFAR10, Augmentation, Crop, Flip, Loader, Normalize
from limbeck.distill import autocast, keep_freed, optim, plan
from limbeck.students import zoo

CLASSES, RATE, TEMPERATURE, ALPHA = 100, 0.05, 4.0, 0.9
VOCABULARY, TOKENS = 30_522, 128
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass
class Pair:
    """Two models and what they are trained on.

    Attributes:
        teacher: frozen.
        build: makes a fresh student.
        inputs: (N, 3, 32, 32) uint8 images, or (N, T) int64 tokens.
        labels: (N,) int64.
        batch: samples in a step.
    """

    teacher: nn.Module
    build: Callable[[], nn.Module]
    inputs: Tensor
    labels: Tensor
    batch: int

    @property
    def images(self) -> bool:
        return self.inputs.ndim == 4

    @property
    def augment(self) -> Augmentation | None:
        return Augmentation((Crop(4), Flip())) if self.images else None

    @property
    def preprocess(self) -> Normalize | None:
        return Normalize(*CIFAR10) if self.images else None


def pair_of(name: str, steps: int, batch: int) -> Pair:
    """Return the pair ``TEACHER/STUDENT`` of the zoo, or ``bert``, with random samples."""
    torch.manual_seed(0)
    count = steps * batch
    labels = torch.randint(CLASSES, (count,))
    if name == "bert":
        teacher, build = _bert(layers=12, width=768, heads=12), _bert(layers=4, width=312, heads=12)
        tokens = torch.randint(VOCABULARY, (count, TOKENS))
        return placed(teacher(), build, tokens, labels, batch)
    large, _, small = name.partition("/")
    pictures = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8)
    teacher = zoo.build(large, classes=CLASSES)
    return placed(teacher, lambda: zoo.build(small, classes=CLASSES), pictures, labels, batch)


def placed(
    teacher: nn.Module, build: Callable[[], nn.Module], inputs: Tensor, labels: Tensor, batch: int
) -> Pair:
    """Return a pair with its teacher frozen, all of it on the device."""
    frozen = teacher.to(DEVICE).eval().requires_grad_(False)
    return Pair(frozen, lambda: build().to(DEVICE), inputs.to(DEVICE), labels.to(DEVICE), batch)


def now() -> float:
    """Return the time in seconds, when the device has done all that it was told."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _bert(layers: int, width: int, heads: int) -> Callable[[], nn.Module]:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=VOCABULARY, num_hidden_layers=layers, hidden_size=width,
        num_attention_heads=heads, intermediate_size=4 * width, num_labels=CLASSES,
    )  # fmt: skip

    class Logits(nn.Module):
        """A classifier that is called with tokens and returns logits."""

        def __init__(self) -> None:
            super().__init__()
            self.bert = BertForSequenceClassification(config)

        def forward(self, tokens: Tensor) -> Tensor:
            logits: Tensor = self.bert(tokens).logits
            return logits

    return Logits


def by_hand(pair: Pair, guide: nn.Module | None) -> float:
    """Train as one would in a script."""
    student = pair.build()
    chosen = plan(student, DEVICE)
    layout = torch.channels_last if chosen.channels_last else torch.contiguous_format
    for model in filter(None, (student, guide)):
        model.to(memory_format=layout)
    optimizer = torch.optim.SGD(student.parameters(), RATE, momentum=0.9, weight_decay=5e-4)
    steps = len(pair.labels) // pair.batch
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=2 * steps)
    half = chosen.precision == "bf16"
    began = 0.0
    student.train()
    for epoch in range(2):
        began = now() if epoch else began
        for rows in torch.randperm(len(pair.labels), device=DEVICE).split(pair.batch):
            x, y = prepared(pair, rows, layout), pair.labels.index_select(0, rows)
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=half):
                logits = student(x).float()
                loss = F.cross_entropy(logits, y)
                if guide is not None:
                    with torch.inference_mode():
                        said = guide(x)
                    far = F.kl_div(
                        F.log_softmax(logits / TEMPERATURE, dim=1),
                        F.log_softmax(said.clone().float() / TEMPERATURE, dim=1),
                        reduction="batchmean",
                        log_target=True,
                    )
                    loss = (1 - ALPHA) * loss + ALPHA * TEMPERATURE**2 * far
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    return now() - began


def prepared(pair: Pair, rows: Tensor, layout: torch.memory_format) -> Tensor:
    """Return a batch as models take it: images cropped, flipped and normalised, or tokens."""
    x = pair.inputs.index_select(0, rows)
    if not pair.images:
        return x
    count = len(x)
    windows = F.pad(x, [4] * 4).unfold(2, 32, 1).unfold(3, 32, 1)
    each = torch.arange(count, device=DEVICE)
    down, right = torch.randint(9, (2, count), device=DEVICE)
    x = windows[each, :, down, right]
    flipped = each + torch.randint(2, (count,), device=DEVICE) * count
    x = torch.cat([x, x.flip(-1)]).index_select(0, flipped)
    mean, std = (torch.tensor(values, device=DEVICE).view(1, 3, 1, 1) for values in CIFAR10)
    return ((x.float().div_(255) - mean) / std).contiguous(memory_format=layout)


def with_limbeck(pair: Pair, teacher: Any) -> float:
    """Train with :func:`limbeck.fit`; the record of an epoch says how long it took."""
    distiller = lb.Distiller(
        teacher,
        pair.build(),
        task=lb.tasks.Classification(CLASSES),
        method=lb.methods.kd(temperature=TEMPERATURE, alpha=ALPHA) if teacher else None,
        preprocess=pair.preprocess,
    )
    fitted = lb.fit(
        distiller,
        (pair.inputs, pair.labels),
        epochs=2,
        batch_size=pair.batch,
        augment=pair.augment,
        views=2,
        optimizer=optim.optimizer("sgd", lr=RATE, momentum=0.9, weight_decay=5e-4),
        listener=lb.Silent(),
    )
    first, second = (record["seconds"] for record in fitted.history)
    return float(second - first)


def live(pair: Pair) -> Callable[[], float]:
    """Return the training with a live teacher."""
    teacher = lb.Teacher(pair.teacher, pair.preprocess)
    return lambda: with_limbeck(pair, teacher)


def stored(pair: Pair) -> tuple[Callable[[], float], float]:
    """Return the training with a stored teacher, and the bytes of one answer."""
    folder = Path(tempfile.mkdtemp())
    extracted(pair, folder, views=2)
    teacher = lb.Teacher.replay(folder)
    size = sum(file.stat().st_size for file in folder.iterdir()) / (2 * len(pair.labels))
    return lambda: with_limbeck(pair, teacher), size


def extracted(pair: Pair, folder: Path, views: int = 1) -> float:
    """Write what the teacher says about each view, and return the seconds."""
    teacher = lb.Teacher(pair.teacher, pair.preprocess)
    chosen = plan(pair.teacher, DEVICE)
    teacher.arrange(channels_last=chosen.channels_last, compiled=False)
    began = now()
    with autocast(chosen, DEVICE):
        lb.knowledge.write(
            folder,
            teacher,
            (pair.inputs, pair.labels),
            views=views,
            augment=pair.augment,
            batch_size=pair.batch,
        )
    return now() - began


def extraction(pair: Pair) -> float:
    """Extract into a new store."""
    with tempfile.TemporaryDirectory() as folder:
        return extracted(pair, Path(folder) / "store")


def bare_inference(pair: Pair) -> float:
    """Run the teacher over the same views and keep nothing."""
    chosen = plan(pair.teacher, DEVICE)
    if chosen.channels_last:
        pair.teacher.to(memory_format=torch.channels_last)
    loader = Loader(
        lb.data.as_samples((pair.inputs, pair.labels)), pair.batch, augment=pair.augment
    )
    first = pair.preprocess.to(DEVICE) if pair.preprocess else nn.Identity()
    layout = torch.channels_last if chosen.channels_last else torch.contiguous_format
    began = now()
    with torch.inference_mode(), autocast(chosen, DEVICE):
        for batch in loader.epoch(0):
            x = first(batch["inputs"])
            pair.teacher(x.contiguous(memory_format=layout) if pair.images else x)
    return now() - began


def torchdistill(pair: Pair, *, same: bool) -> Callable[[], float]:
    """Return the training with torchdistill's box for two epochs, of which the second is timed."""
    start = torchdistill_box(pair, epochs=2, same=same)

    def train() -> float:
        begun = [0.0, 0.0]

        def told(epoch: int) -> None:
            begun[epoch] = now()

        start(pair.build(), told)
        return now() - begun[1]

    return train


def torchdistill_box(
    pair: Pair, *, epochs: int, same: bool, schedule: dict[str, Any] | None = None
) -> Callable[[nn.Module, Callable[[int], None]], None]:
    """Return what trains a student with torchdistill: its defaults, or settings as ours.

    By default its loader takes images one by one through torchvision's transforms, and models run
    in fp32. With the same settings it gets our augmented batches, bf16 and channels last.

    Args:
        pair: whose teacher, samples and batch size are taken.
        epochs: passes over the samples.
        same: whether the settings are ours.
        schedule: the part ``scheduler`` of its configuration.
    """
    declare_operators()
    from torchdistill.core.distillation import DistillationBox
    from torchdistill.losses.mid_level import KDLoss

    chosen = plan(pair.teacher, DEVICE)
    layout = torch.channels_last if same and chosen.channels_last else torch.contiguous_format
    half = same and chosen.precision == "bf16"
    pair.teacher.to(memory_format=layout)
    criterion = KDLoss(".", "output", ".", "output", TEMPERATURE, 1 - ALPHA)
    terms = {"kd": {"criterion": criterion, "weight": 1.0}}
    config = {
        "num_epochs": epochs,
        "train_data_loader": {
            "dataset_id": "train",
            "requires_supp": True,
            "sampler": {"class_or_func": torch.utils.data.RandomSampler},
            "kwargs": {"batch_size": None if same else pair.batch, "drop_last": False},
        },
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {"key": "SGD", "kwargs": {"lr": RATE, "momentum": 0.9, "weight_decay": 5e-4}},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}},
        **({} if schedule is None else {"scheduler": schedule}),
    }

    def train(student: nn.Module, told: Callable[[int], None]) -> None:
        dataset: Any = _Batches(pair, layout) if same else _Pictures(pair)
        student.to(memory_format=layout)
        datasets = {"train": dataset}
        box: Any = DistillationBox(
            pair.teacher, student, datasets, config, DEVICE, None, False, 1.0
        )
        for epoch in range(epochs):
            told(epoch)
            box.pre_epoch_process(epoch=epoch)
            for images, labels, more in box.train_data_loader:
                x, y = images.to(DEVICE), labels.to(DEVICE)
                with torch.autocast(DEVICE.type, torch.bfloat16, enabled=half):
                    loss = box.forward_process(x, y, more)
                box.post_forward_process(loss)
                loss.item()  # its example scripts log each step's loss
        box.clean_modules()

    return train


class _Batches(torch.utils.data.Dataset[Any]):
    """Whole batches, augmented at once."""

    def __init__(self, pair: Pair, layout: torch.memory_format) -> None:
        self.pair, self.layout = pair, layout
        self.rows = torch.arange(len(pair.labels), device=DEVICE).split(pair.batch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        rows = self.rows[number]
        return prepared(self.pair, rows, self.layout), self.pair.labels[rows]


class _Pictures(torch.utils.data.Dataset[Any]):
    """Single images through torchvision's transforms, as its configurations have it."""

    def __init__(self, pair: Pair) -> None:
        from torchvision import transforms

        mean, std = CIFAR10
        steps = [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
        self.pair, self.change = pair, transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.pair.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        from PIL import Image

        if not self.pair.images:
            return self.pair.inputs[row], int(self.pair.labels[row])
        picture = Image.fromarray(self.pair.inputs[row].permute(1, 2, 0).cpu().numpy())
        return self.change(picture), int(self.pair.labels[row])


def main() -> None:
    """Get ready, say so, and run when told."""
    name, models, steps, batch = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    keep_freed()
    pair = pair_of(models, steps, batch)
    chosen = plan(pair.teacher, DEVICE)
    told: dict[str, Any] = {"precision": chosen.precision, "threads": torch.get_num_threads()}
    told["torch"] = torch.__version__
    run: Callable[[], float]
    try:
        if name == "by hand":
            guide = pair.teacher
            run = lambda: by_hand(pair, guide)  # noqa: E731
        elif name == "limbeck":
            run = live(pair)
        elif name == "limbeck, stored":
            run, told["bytes_per_sample"] = stored(pair)
        elif name == "limbeck, alone":
            run = lambda: with_limbeck(pair, None)  # noqa: E731
        elif name == "bare inference":
            run = lambda: bare_inference(pair)  # noqa: E731
        elif name == "extraction":
            run = lambda: extraction(pair)  # noqa: E731
        else:
            run = torchdistill(pair, same="same" in name)
    except ImportError as error:
        told = {"missing": f"{error.name} is not installed"}
    print(json.dumps(told), flush=True)
    for line in sys.stdin:
        if line.strip() != "go":
            break
        seconds = run()
        peak = (
            torch.cuda.max_memory_allocated()
            if DEVICE.type == "cuda"
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )
        print(json.dumps({"seconds": seconds, "peak": peak}), flush=True)


if __name__ == "__main__":
    main()
