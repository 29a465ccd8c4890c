"""From trained students to what ships: the one that is best by validation, and files of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from limbeck import export
from limbeck._version import __version__
from limbeck.data.loader import by_length
from limbeck.data.samples import Batch, Samples
from limbeck.data.splits import some
from limbeck.distill.feed import feed, put
from limbeck.evaluate.runtimes import Network, disk_size, opened
from limbeck.export import Signature, Whole
from limbeck.files import write_json
from limbeck.pipeline import build
from limbeck.pipeline.folder import Finished
from limbeck.pipeline.learner import Learner
from limbeck.pipeline.product import Product, as_file, as_network
from limbeck.progress import Listener
from limbeck.recipe import ExportPart, FormatName

if TYPE_CHECKING:
    from limbeck.pipeline.run import Run

__all__ = [
    "best",
    "compared",
    "exported",
    "exports",
    "facts",
    "shipped",
    "signature",
    "student_facts",
    "unchecked",
    "validation",
]

_SEEN = 64  # validation samples, of all lengths, whose shapes tell which axes are free
_COMPARED = 2048  # validation samples on which a file is compared with its network, at most
_TOGETHER = 64  # of them at once
_CALIBRATED = 256  # validation samples from which a file's ranges are found, at most
_PIECE = 32  # of them at once


def best(run: Run, learners: Sequence[Learner]) -> Learner:
    """Return the student with the best score on the validation samples."""
    sign = 1 if run.task.higher_is_better else -1
    students = [learner for learner in learners if learner.role == "student"]
    return max(students, key=lambda learner: sign * learner.scores[run.task.selection])


def shipped(run: Run, trained: Sequence[Finished]) -> Product:
    """Return the student that ships: the best of all seeds by the validation samples.

    Args:
        run: whose students they are.
        trained: the stages that trained them; others are passed over.
    """
    chosen = best(run, [Learner.of(stage) for stage in trained])
    stage = next(stage for stage in trained if stage.name == f"student-{chosen.seed}")
    plan = run.plans["student"]
    bare = replace(plan, lora=None)

    def network() -> nn.Module:
        return plan.shipped(chosen.best).eval()

    return as_network(run, "student", stage, chosen.seed, network, bare, role="student")


def exports(run: Run, products: Sequence[Product]) -> list[Product]:
    """Write every network in every format that the recipe names; return the files."""
    return [
        exported(run, product, name)
        for product in products
        if product.network is not None
        for name in run.recipe.export
    ]


def exported(run: Run, product: Product, name: FormatName = "onnx") -> Product:
    """Write a network in a format, check it in its own runtime, and return the file.

    It is a stage, done once: a step that is made of an ONNX file may ask for it before the
    recipe's own exports do.

    Args:
        run: whose network it is.
        product: the network.
        name: of the format; its options are those of the recipe's export.

    Raises:
        InputError: the network cannot be written so, or the file answers otherwise than the
            network; nothing is left under the file's name.
    """
    form, options = export.get(name), run.recipe.export.get(name, ExportPart())
    file = product.name + ("" if options.bits is None else f"-int{options.bits}") + form.suffix
    made_from = {
        "model": product.stage.fingerprint,
        "data": run.data_fingerprint,
        "format": name,
        **options.model_dump(),
    }
    known: dict[str, Any] = {} if options.opset is None else {"opset": options.opset}
    note = ""
    if options.bits is not None:
        note = f"{options.bits} bits, ranges of {_CALIBRATED} validation samples at most"

    def work(path: Path, listener: Listener) -> str:
        if run.here.rank:
            return ""
        assert product.network is not None
        model, takes = product.network(), signature(run)
        if options.bits is not None:
            known["calibrate"] = [run.task.inputs(b) for b in validation(run, _CALIBRATED, _PIECE)]
        whole = Whole(build.preprocess(run.recipe, run.recipe.student), model).eval()
        with unchecked(path) as draft:
            form.write(whole, takes, draft / file, facts(run, product, model, takes), **known)
            parity = compared(run, whole, draft / file)
            parity.require(options.allowed, file, on_average=options.bits is not None)
            write_json(draft / "export.json", {"format": name, "parity": parity.as_json()})
        return f"{disk_size(path / file) / 1000:,.0f} kB, {parity.told()}"

    done = [stage for stage in run.folder.finished if stage.name == file]
    stage = done[0] if done else run.stage(file, made_from, work)
    return as_file(stage.path / file, stage, product.seed, note=note)


@contextmanager
def unchecked(path: Path) -> Iterator[Path]:
    """Give a folder to write to, whose files move to ``path`` at the end; none if the block fails.

    A file that has not been checked so never stands under its name.
    """
    draft = path / "unchecked"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        for entry in draft.iterdir():
            place = path / entry.name
            if place.is_dir():  # of a stage that was interrupted here
                shutil.rmtree(place)
            entry.replace(place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def signature(run: Run) -> Signature:
    """Return what the student takes, from validation samples: the shortest, the longest, others."""
    rows = by_length(run.data.validation)
    spread = torch.linspace(0, len(rows) - 1, min(_SEEN, len(rows)), dtype=torch.float64)
    seen = run.data.validation.subset(rows[spread.round().long()])
    return Signature.of([run.task.inputs(batch) for batch in _fed(run, seen, 1)])


def compared(run: Run, whole: nn.Module, file: Path) -> export.Parity:
    """Compare a file with the network that it was made from, on validation samples.

    Args:
        run: whose samples they are.
        whole: the network with its preprocessing, on the CPU.
        file: takes the same inputs.
    """
    batches = validation(run, _COMPARED, _TOGETHER)
    return export.compared(Network(whole), opened(file), batches, run.task)


def facts(run: Run, product: Product, model: nn.Module, takes: Signature) -> dict[str, Any]:
    """Return what a file says of itself, JSON-like."""
    recipe = run.recipe
    first = build.preprocess(recipe, recipe.student)
    return {
        "limbeck": __version__,
        "name": product.name,
        "task": run.task.name,
        "inputs": takes.shapes(),
        "output": "logits",
        "labels": list(run.data.labels),
        "preprocessing": "none" if first is None else f"inside the file: {first}",
        **_reader(run),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "license": {"model": "", "data": "", "teacher": ""},
        "provenance": {
            "recipe": recipe.name,
            "data": run.data.name,
            "teacher": run.origin.shown(),
            "method": run.method.name,
            "seed": product.seed,
            "made_from": product.stage.fingerprint,
            "torch": torch.__version__,
        },
    }


def student_facts(run: Run, seed: int, validation: Mapping[str, Any]) -> dict[str, Any]:
    """Return what stands beside a student's weights, for :func:`limbeck.students.load` and readers.

    Args:
        run: that trained it.
        seed: of its training.
        validation: its metrics on validation samples.
    """
    first = build.preprocess(run.recipe, run.recipe.student)
    samples = run.data.validation.subset(run.data.validation.ids.new_zeros(1))
    inputs = run.task.inputs(next(samples.batches([samples.ids.new_zeros(1)], 0, 0)))
    return {
        "task": run.task.name,
        "labels": list(run.data.labels),
        "normalize": first
        and {"mean": first.mean.flatten().tolist(), "std": first.std.flatten().tolist()}
        | ({} if first.size is None else {"size": first.size}),
        "input": tree_map(lambda tensor: list(tensor.shape[1:]), inputs),
        "seed": seed,
        "validation": validation,
    }


def validation(run: Run, most: int, size: int) -> Iterator[Batch]:
    """Yield at most so many validation samples, of all classes, in batches, on the CPU."""
    yield from _fed(run, some(run.data.validation, most), size)


def _fed(run: Run, samples: Samples, size: int) -> Iterator[Batch]:
    cpu = torch.device("cpu")
    for batch in feed(samples, size, cpu).epoch(0):
        yield put(run.task.named(batch), cpu)


def _reader(run: Run) -> dict[str, Any]:
    """Return what the reader of raw samples would write down, as far as that is no file."""
    if run.data.reader is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        return {"reader": run.data.reader.save(Path(folder))}
