"""The stages that write a network as a file of integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from limbeck import compress
from limbeck.compress import FakeQuantization, Ranges
from limbeck.errors import unknown
from limbeck.evaluate import evaluate
from limbeck.evaluate.quality import alone
from limbeck.evaluate.runtimes import logits_from, opened
from limbeck.export import Whole
from limbeck.files import read_json, write_json
from limbeck.imports import needed
from limbeck.pipeline import build, ship
from limbeck.pipeline.learner import write_weights
from limbeck.pipeline.product import Product, as_file, as_network
from limbeck.progress import Listener
from limbeck.recipe import QuantizePart

if TYPE_CHECKING:
    from limbeck.pipeline.run import Run

__all__ = ["check", "quantized"]

_WITHIN = "whole.model."  # where an exported file has the student, its preprocessing beside it
_JUDGED = 2048  # validation samples by which layers are kept, at most
_TOGETHER = 64  # of them at once


def check(model: nn.Module, part: QuantizePart) -> None:
    """Refuse what cannot be quantized so.

    Raises:
        InputError: a package is missing; a module to keep is not known; nothing can be rounded.
    """
    needed("onnxruntime.quantization", "onnx")
    if part.scheme == "aware":
        FakeQuantization(model, bits=part.bits, keep=_kept(part))
    names = dict(model.named_modules())
    for name in _kept(part):
        if name not in names:
            raise unknown(f"module of {type(model).__name__} to keep:", name, filter(None, names))


def quantized(run: Run, product: Product, part: QuantizePart) -> list[Product]:
    """Write a network as a float file and a file of integers, and return both.

    Args:
        run: whose network it is.
        product: the network. With the scheme ``aware`` it is trained with rounded weights first.
        part: how.
    """
    learnt: Ranges = {}
    if part.scheme == "aware":
        product, learnt = _rounded(run, product, part)
    source = ship.exported(run, product, "onnx")
    kind = "" if part.scheme in ("static", "aware") else f"-{part.scheme}"
    name = _unused(run, f"{product.name}{kind}-int{part.bits}")
    made_from = {
        "model": source.stage.fingerprint,
        "data": run.data_fingerprint,
        "quantize": part.model_dump(mode="json", exclude={"train"}),
    }

    def work(path: Path, listener: Listener) -> str:
        if run.here.rank:
            return ""
        assert source.file is not None
        assert product.network is not None
        with ship.unchecked(path) as draft:
            file = draft / f"{name}.onnx"
            found = _written(run, source.file, file, part, learnt)
            first = build.preprocess(run.recipe, run.recipe.student)
            parity = ship.compared(run, Whole(first, product.network()).eval(), file)
            write_json(draft / "quantize.json", found)
            write_json(draft / "export.json", {"format": "onnx", "parity": parity.as_json()})
            kept = f", floats: {', '.join(found['keep'])}" if found["keep"] else ""
            return f"{file.stat().st_size / 1000:,.0f} kB, {parity.told()}{kept}"

    stage = run.stage(f"{name}.onnx", made_from, work)
    kept = read_json(stage.path / "quantize.json")["keep"]
    note = f"{part.scheme}, {part.bits} bits" + (f", floats: {', '.join(kept)}" if kept else "")
    file = stage.path / f"{name}.onnx"
    made = as_file(file, stage, product.seed, role="compressed", note=note, floats=source.file)
    return [made] if part.scheme == "aware" else [source, made]


def _written(
    run: Run, source: Path, target: Path, part: QuantizePart, learnt: Ranges
) -> dict[str, Any]:
    """Write the file, and return which layers stayed floats and how that was found."""
    samples = _samples(run, source, part.calibrate) if part.scheme in ("static", "aware") else []

    def make(path: Path, keep: Sequence[str]) -> None:
        if part.scheme == "dynamic":
            compress.dynamic(source, path, keep=keep)
        elif part.scheme == "weights":
            compress.weights_only(source, path, bits=part.bits, keep=keep)
        else:
            options: dict[str, Any] = {"bits": part.bits, "ranges": part.ranges, "learnt": learnt}
            compress.static(source, path, samples, keep=keep, **options)

    if part.keep != "auto":
        make(target, part.keep)
        return {"keep": list(part.keep)}
    sign = 1 if run.task.higher_is_better else -1
    found = compress.mixed(
        source, target, make, lambda file: sign * _score(run, file), within=part.within
    )
    return {
        "keep": [name.removeprefix(_WITHIN) for name in found.keep],
        "enough": found.enough,
        run.task.selection: {"floats": sign * found.wanted, "integers": sign * found.score},
        "drops": {name.removeprefix(_WITHIN): drop for name, drop in found.drops.items()},
    }


def _rounded(run: Run, product: Product, part: QuantizePart) -> tuple[Product, Ranges]:
    """Train a network with rounded weights and activations; return it, and the ranges it learnt."""
    made_from = {
        "model": product.stage.fingerprint,
        "train": part.train.model_dump(mode="json", exclude={"trackers", "checkpoint_seconds"}),
        "bits": part.bits,
        "keep": list(_kept(part)),
    }

    def work(path: Path, listener: Listener) -> str:
        assert product.network is not None
        rounded = FakeQuantization(product.network(), bits=part.bits, keep=_kept(part))
        told = run.relearn(path, listener, rounded.model, product.seed, part.train)
        if run.here.rank == 0:
            write_weights(path / "plain.safetensors", rounded.plain().state_dict())
            write_json(path / "ranges.json", rounded.ranges())
        return told

    stage = run.stage(_unused(run, f"{product.name}-aware"), made_from, work)
    ranges = {
        name: (low, high) for name, (low, high) in read_json(stage.path / "ranges.json").items()
    }

    def network() -> nn.Module:
        assert product.network is not None
        model = product.network()
        model.load_state_dict(load_file(stage.path / "plain.safetensors"))
        return model

    assert product.plan is not None
    return as_network(run, stage.name, stage, product.seed, network, product.plan), ranges


def _samples(run: Run, source: Path, count: int) -> list[Mapping[str, NDArray[Any]]]:
    """Return validation samples as the file takes them."""
    runner = opened(source)
    batches = ship.validation(run, count, _TOGETHER)
    return [runner.prepared(run.task.inputs(batch)) for batch in batches]


def _score(run: Run, file: Path) -> float:
    """Return a file's metric on validation samples; one process alone may ask for it."""
    runner = opened(file)
    with alone():
        found = evaluate(
            {"file": lambda batch: logits_from(runner, run.task.inputs(batch))},
            ship.validation(run, _JUDGED, _TOGETHER),
            run.task,
        )
    return float(found["file"].quality.metrics[run.task.selection])


def _kept(part: QuantizePart) -> tuple[str, ...]:
    return () if part.keep == "auto" else part.keep


def _unused(run: Run, name: str) -> str:
    """Return a name that no stage of this run has yet: a scheme may be used twice."""
    taken = {stage.name.removesuffix(".onnx") for stage in run.folder.finished}
    numbers = (f"{name}-{number}" for number in range(2, len(taken) + 3))
    return next(each for each in (name, *numbers) if each not in taken)
