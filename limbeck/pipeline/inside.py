"""What the page shows of the insides: where models differ, on what answers rest, what they see.

Letters: B samples.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck import compress
from limbeck.data.drawn import heated, weighed
from limbeck.data.random import key
from limbeck.data.readers import Spanning
from limbeck.data.samples import Batch
from limbeck.distill.feed import feed, put
from limbeck.evaluate import Differing, Groups, Traced, aligned, last_features, traced
from limbeck.evaluate.runtimes import opened
from limbeck.files import read_json
from limbeck.pipeline import ship
from limbeck.pipeline.learner import Learner
from limbeck.pipeline.product import Product
from limbeck.tasks import Deciding, Presenting, Telling
from limbeck.teachers import Knowing, Teacher

if TYPE_CHECKING:
    from limbeck.pipeline.run import Run

__all__ = ["Differences", "Seeing", "maps", "rounding", "show_what_counts"]

_PICKED = 5  # test samples that are shown whatever the models answer
_EACH = 2  # samples shown of each group in which models differ, if there are so many
_FURTHER, _FURTHER_BYTES = 18, 200_000  # samples shown besides those that differ most
_POINTS = 600  # test samples on a map
_ROUNDED, _AT_ONCE = 128, 16  # validation samples by which rounding is measured
_LONGEST = 500  # characters of a text
_WITHIN = "whole.model."  # where an exported file has the student


class Differences:
    """Collects test samples on which teacher and student differ; of the first seed's models.

    With several processes the samples that are shown are of the main one's part.

    Args:
        run: whose models they are.
        labels: role, seed and kind of weights of each model that answers.
        learners: all that were trained.
    """

    def __init__(
        self, run: Run, labels: Mapping[str, tuple[str, int, str]], learners: Sequence[Learner]
    ) -> None:
        first = {learner.role: learner.seed for learner in reversed(learners)}
        self.names = {
            label: role
            for label, (role, seed, which) in labels.items()
            if which == "best" and first.get(role) == seed
        }
        task: Any = run.task
        chance, self.more = 0, {}
        if isinstance(task, Presenting):
            chance, self.more = _PICKED, {"headings": task.headings}
        self.world = run.here.world
        self.seen: Differing | None = None
        self.groups: Groups | None = None
        if isinstance(task, Telling) and run.comparable:
            self.groups = Groups(task, run.data.test) if isinstance(task, Deciding) else None
            bucket = None if self.groups is None else self.groups.bucket
            self.seen = Differing(task, run.data.test, chance=chance, bucket=bucket)

    def watch(self, batch: Batch, said: Mapping[str, Tensor]) -> None:
        """Look at the answers to one batch."""
        answers = {role: said[label] for label, role in self.names.items()}
        if self.seen is not None:
            self.seen.update(batch, answers)
        if self.groups is not None:
            self.groups.update(batch, answers)

    def found(self) -> dict[str, Any]:
        """Return ``examples`` and ``differences``, what the page shows; every process calls it."""
        if self.seen is None:
            return {"examples": None, "differences": None}
        counted = None if self.groups is None else self.groups.compute(self.world)
        examples = self.seen.compute(None if counted is None else self._further) | self.more
        if self.groups is not None:
            for entry in _entries(examples):
                entry["in"] = self.groups.member(entry["id"])
        for group in examples["groups"]:
            if group.get("further"):
                group["samples"] = _fitting(group["samples"])
        return {"examples": examples, "differences": counted}

    def _further(self, numbers: Sequence[int]) -> list[int]:
        assert self.groups is not None
        return self.groups.chosen(numbers, _EACH)


@dataclass(frozen=True)
class Seeing:
    """A model of which the inside can be seen.

    Attributes:
        model: in eval mode.
        read: from a batch to its inputs, before ``first``.
        first: what happens to these.
        reader: what made them of texts, if there is one that can say of what.
    """

    model: nn.Module
    read: Callable[[Batch], Any]
    first: Callable[[Any], Any]
    reader: Any = None

    @classmethod
    def teacher(cls, run: Run, teacher: Knowing) -> Seeing | None:
        """Return a teacher, if it is a PyTorch module."""
        if not isinstance(teacher, Teacher):
            return None
        field = teacher.inputs
        if not isinstance(field, str):
            return cls(teacher.module, field, teacher.preprocess or nn.Identity())
        reader = run.data.reader if field == "inputs" else run.data.other_readers.get(field)
        first = teacher.preprocess or nn.Identity()
        return cls(teacher.module, lambda batch: batch[field], first, reader)

    @classmethod
    def student(cls, run: Run, model: nn.Module, first: nn.Module) -> Seeing:
        """Return a student, given what happens to its inputs first."""
        return cls(model, run.task.inputs, first, run.data.reader)


def show_what_counts(
    run: Run, models: Mapping[str, Seeing | None], examples: dict[str, Any] | None
) -> None:
    """Add to each example, for each model, what parts of the input its answer rests on.

    Args:
        run: whose test samples they are.
        models: by role; ``None`` where the inside cannot be seen.
        examples: as the page shows them; answers get ``rests_on``, and the whole ``traced``:
            ``gap``, by role by how much of what the input adds the parts' sum misses it, and
            ``unseen``, the roles that cannot be looked into.
    """
    task: Any = run.task
    if examples is None or not isinstance(task, Deciding):
        return
    entries = {entry["id"]: entry for entry in _entries(examples)}
    if not entries:
        return
    rows = torch.isin(run.data.test.ids.cpu(), torch.tensor(list(entries))).nonzero().flatten()
    gaps: dict[str, float] = {}
    for role, seeing in models.items():
        missed, added = 0.0, 0.0
        for batch in _batches(run, rows, 8) if seeing is not None else ():
            assert seeing is not None
            inputs = seeing.read(batch)
            found = traced(seeing.model, inputs, task.log_shares, first=seeing.first)
            if found is None:
                break
            missed, added = (
                missed + float(found.gap.abs().sum()),
                added + float(found.added.abs().sum()),
            )
            for row, number in enumerate(batch["id"].tolist()):
                shown = _drawn(entries[number]["shown"], found, row, seeing.reader)
                if shown is not None:
                    entries[number]["answers"][role]["rests_on"] = shown
                    gaps[role] = 0.0
        if role in gaps:
            gaps[role] = missed / max(added, 1e-12)
    if gaps:
        unseen = [role for role, seeing in models.items() if seeing is None]
        examples["traced"] = {"gap": gaps, "unseen": unseen}


def maps(run: Run, teacher: Seeing | None, student: Seeing) -> dict[str, Any] | None:
    """Return where test samples lie for teacher and student, laid over each other, JSON-like.

    They are chosen by a hash of their ids. It is ``None`` for a teacher that cannot be looked into,
    for models without a linear layer, and for tasks without one class for each sample.
    """
    task: Any = run.task
    if teacher is None or not isinstance(task, Deciding):
        return None
    ids = run.data.test.ids.cpu()
    rows = key(1, ids, 0).argsort()[:_POINTS].sort().values
    noted: list[tuple[Tensor, Tensor]] = []

    def noting() -> Iterator[Batch]:
        for batch in _batches(run, rows, 64):
            noted.append((batch["id"].cpu(), task.targets(batch).cpu()))
            yield batch

    found = []
    for seeing, batches in ((teacher, _batches(run, rows, 64)), (student, noting())):
        prepared = map(seeing.first, map(seeing.read, batches))
        if (features := last_features(seeing.model, prepared)) is None:
            return None
        found.append(features)
    laid = aligned(found[0][1], found[1][1])
    if laid is None:
        return None
    models = {
        role: {
            "tap": tap,
            "share": share,
            "xy": (points * len(points) ** 0.5).round(3).tolist(),
            "answers": logits.argmax(1).tolist(),
        }
        for role, (tap, _, logits), points, share in zip(
            ("teacher", "student"), found, (laid.first, laid.second), laid.shares, strict=True
        )
    }
    numbers, labels = (torch.cat(parts).tolist() for parts in zip(*noted, strict=True))
    return {"ids": numbers, "labels": labels, "disparity": laid.disparity, **models}


def rounding(run: Run, products: Sequence[Product]) -> dict[str, Any]:
    """Return what rounding changed in each layer of each file of integers, JSON-like, by name."""
    found = {}
    for made in products:
        if made.file is None or made.floats is None:
            continue
        runner = opened(made.floats)
        batches = ship.validation(run, _ROUNDED, _AT_ONCE)
        samples = (runner.prepared(run.task.inputs(batch)) for batch in batches)
        known = made.stage.path / "quantize.json"
        drops = read_json(known).get("drops", {}) if known.is_file() else {}
        layers = []
        for noise in compress.noise(made.floats, made.file, samples):
            name = noise.layer.removeprefix(_WITHIN)
            told = {"layer": name, "activations": noise.activations, "weights": noise.weights}
            layers.append(told | {"drop": drops.get(name)})
        found[made.name] = {
            "samples": min(_ROUNDED, len(run.data.validation)),
            "note": made.note,
            "layers": layers,
        }
    return found


def _entries(examples: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    return (entry for group in examples["groups"] for entry in group["samples"])


def _fitting(samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the first of further samples, as many as a page can hold."""
    kept, room = [], _FURTHER_BYTES
    for entry in samples[:_FURTHER]:
        room -= len(json.dumps(entry))
        if room < 0:
            break
        kept.append(entry)
    return kept


def _batches(run: Run, rows: Tensor, size: int) -> Iterator[Batch]:
    """Yield test samples on the device, those of like length together."""
    device = run.here.device
    samples = run.data.test.subset(rows)
    for batch in feed(samples, size, device, ordered=True).epoch(0):
        yield put(run.task.named(batch), device)


def _drawn(shown: Mapping[str, Any], found: Traced, row: int, reader: Any) -> dict[str, Any] | None:
    """Return how a person sees on what an answer rests; ``None`` if there is no way to."""
    weights = found.weights[row]
    if found.seen is not None:
        width = weights.shape[1] if found.widths is None else int(found.widths[row])
        told = f"what speaks for the answer in {shown['text'][:60]}"
        return dict(heated(found.seen[row, ..., :width], weights[:, :width], told))
    if shown["kind"] != "text" or not isinstance(reader, Spanning):
        return None
    spans = reader.spans(shown["text"])
    if len(spans) > len(weights):
        return None
    pieces, room = [], _LONGEST
    for piece, weight in weighed(shown["text"], spans, weights):
        if room > 0:
            pieces.append([piece[:room], weight])
        room -= len(piece)
    return {"kind": "pieces", "pieces": pieces, "text": "…" if room < 0 else ""}
