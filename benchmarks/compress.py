"""What compression keeps and what it saves: files of a run beside the teacher's, QAT beside PTQ.

    limbeck run cifar10-int8 --set data.path=FOLDER --set teacher.weights=FILE
    python benchmarks/compress.py files runs/cifar10-int8 --threads 2
    python benchmarks/compress.py files runs/text-int8 --threads 1
    python benchmarks/compress.py bits --seeds 3 [--labelled 100]

``files`` asks every ONNX and ExecuTorch file of a run, and the teacher as an ONNX file too, about
all test samples, each in its runtime, and times them in turn. ``bits`` rounds a tiny student of
scikit-learn's digits to 8 and to 4 bits: after training, in training without its teacher, and in
training with it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils._pytree import tree_leaves

import limbeck as lb
from limbeck import compress, pipeline
from limbeck.data import repeated
from limbeck.distill.feed import feed
from limbeck.evaluate import evaluate
from limbeck.evaluate.runtimes import Runner, logits_from, opened
from limbeck.export import Signature, Whole, get
from limbeck.pipeline import RunFolder, build, ship
from limbeck.progress import Silent
from limbeck.recipe import load
from limbeck.teachers import Teacher

CPU = torch.device("cpu")
BATCH = 128


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(required=True)
    one = parts.add_parser("files")
    one.add_argument("run", type=Path)
    one.add_argument("--threads", type=int, default=1)
    one.add_argument("--rounds", type=int, default=20)
    one.set_defaults(work=lambda args: files(args.run, args.threads, args.rounds))
    two = parts.add_parser("bits")
    two.add_argument("--seeds", type=int, default=3)
    two.add_argument("--epochs", type=int, default=60)
    two.add_argument("--labelled", type=int)
    two.set_defaults(work=lambda args: bits(args.seeds, args.epochs, args.labelled))
    args = parser.parse_args()
    args.work(args)


def files(folder: Path, threads: int, rounds: int) -> None:
    """Compare a run's ONNX files with its teacher's on all test samples."""
    torch.set_num_threads(threads)
    recipe = load(str(folder), ["data.limit=null"])
    run = pipeline.Run(recipe, RunFolder(folder), Silent())
    sample = run.task.inputs(next(feed(run.data.validation, BATCH, CPU).epoch(0)))
    with tempfile.TemporaryDirectory() as made:
        teacher = Path(made) / "teacher.onnx"
        known = run.origin.load(load_file(folder / "stages/teacher/best.safetensors"), {})
        assert isinstance(known, Teacher)
        whole = Whole(build.preprocess(recipe, recipe.teacher), known.module).eval()
        get("onnx").write(whole, ship.signature(run), teacher, {})
        found = (folder / "export").iterdir()
        paths = [teacher, *sorted(path for path in found if path.suffix in (".onnx", ".pte"))]
        runners = {path.name: opened(path) for path in paths}
        sizes = {path.name: path.stat().st_size for path in paths}
        right, same = accuracies(runners, run.data.test, run.task), agreement(runners, run)
        seconds = timed(runners, sample, rounds)
    count = len(next(iter(tree_leaves(sample))))
    print(f"{len(run.data.test):,} test samples, batches of {count}, {threads} threads")
    print("| file | accuracy % | as student.onnx % | kB | smaller | per second | faster |")
    print("|---|---|---|---|---|---|---|")
    for name, size in sizes.items():
        smaller, faster = sizes[teacher.name] / size, seconds[teacher.name] / seconds[name]
        print(
            f"| {name} | {100 * right[name]:.2f} | {100 * same[name]:.2f} | {size / 1000:,.1f} | "
            f"{smaller:.1f} × | "
            f"{count / seconds[name]:,.0f} | {faster:.1f} × |"
        )


def bits(seeds: int, epochs: int, labelled: int | None) -> None:
    """Compare ways to 8 and 4 bits on a tiny student, over seeds.

    With ``labelled``, so many training samples have labels; the teacher, which was trained on all
    of them elsewhere, has something to say about the others too.
    """
    torch.set_num_threads(1)
    digits = lb.data.sources.digits()
    task = lb.tasks.Classification(10)
    teacher = taught(cnn(0, (32, 64), (128,)), None, digits, 60, 6e-3, 0)
    digits = digits if labelled is None else digits.hiding(labelled)
    rows: dict[str, list[float]] = {}
    for seed in range(seeds):
        student = taught(cnn(seed, (4, 8), (16,)), teacher, digits, 2 * epochs, 6e-3, seed)
        with tempfile.TemporaryDirectory() as made:
            found = {"floats": written(student, digits, Path(made) / "floats.onnx")}
            for width in (8, 4):
                found |= rounded(student, teacher, digits, width, epochs, seed, Path(made))
            runners = {name: opened(path) for name, path in found.items()}
            for name, share in accuracies(runners, digits.test, task).items():
                rows.setdefault(name, []).append(100 * share)
    shown = f"{len(digits.labelled)} labels, {len(digits.test)} test samples"
    print(f"{shown}; teacher: {100 * _alone(teacher, digits):.2f} %")
    print("| weights | accuracy % | seed by seed |\n|---|---|---|")
    for name, shares in rows.items():
        around = statistics.stdev(shares) if len(shares) > 1 else 0.0
        each = ", ".join(f"{share:.2f}" for share in shares)
        print(f"| {name} | {statistics.mean(shares):.2f} ± {around:.2f} | {each} |")


def rounded(
    student: nn.Module, teacher: nn.Module, data: Any, width: int, epochs: int, seed: int, at: Path
) -> dict[str, Path]:
    """Return files of integers: made after training, and of training with and without a teacher."""
    samples = calibration(data)
    found = {f"{width} bits, after training": at / f"after{width}.onnx"}
    source = written(student, data, at / "source.onnx")
    compress.static(source, at / f"after{width}.onnx", samples, bits=width)  # type: ignore[arg-type]
    for name, knows in (("without", None), ("with", teacher)):
        aware = compress.FakeQuantization(student, bits=width)
        taught(aware.model, knows, data, epochs, 6e-4, seed)
        source = written(aware.plain(), data, at / "source.onnx")
        target = at / f"{name}{width}.onnx"
        compress.static(source, target, samples, bits=width, learnt=aware.ranges())  # type: ignore[arg-type]
        found[f"{width} bits, in training {name} the teacher"] = target
    return found


def taught(
    model: nn.Module, teacher: nn.Module | None, data: Any, epochs: int, rate: float, seed: int
) -> nn.Module:
    """Train a model, with a teacher or from labels alone."""
    method = None if teacher is None else lb.methods.kd(temperature=4, alpha=0.9)
    learner = lb.Distiller(teacher, model, task=lb.tasks.Classification(10), method=method)
    samples = repeated(data.labelled, len(data.train)) if teacher is None else data.train
    lb.fit(
        learner, samples, validation=data.validation, epochs=epochs, batch_size=64, seed=seed,
        optimizer=lb.distill.optim.optimizer("adamw", lr=rate), precision="fp32",
        listener=lb.Silent(),
    )  # fmt: skip
    return learner.release().eval()


def cnn(seed: int, channels: tuple[int, ...], hidden: tuple[int, ...]) -> nn.Module:
    torch.manual_seed(seed)
    return lb.students.zoo.build("cnn", channels=channels, hidden=hidden, image=(1, 8, 8))


def written(model: nn.Module, data: Any, path: Path) -> Path:
    """Write a network as a float ONNX file."""
    one = data.validation.column("inputs")[:1]
    get("onnx").write(Whole(None, model).eval(), Signature.of([one, one]), path, {})
    return path


def calibration(data: Any) -> list[dict[str, Any]]:
    return [{"inputs": data.validation.column("inputs")[:256].numpy()}]


def accuracies(runners: dict[str, Runner], samples: Any, task: Any) -> dict[str, float]:
    """Return each file's share of right answers."""
    answers = {
        name: lambda batch, runner=runner: logits_from(runner, task.inputs(batch))
        for name, runner in runners.items()
    }
    found = evaluate(answers, feed(samples, BATCH, CPU).epoch(0), task)
    return {name: each.quality.metrics["accuracy"] for name, each in found.items()}


def agreement(runners: dict[str, Runner], run: pipeline.Run) -> dict[str, float]:
    """Return each file's share of test samples on which it says what ``student.onnx`` says."""
    said: dict[str, list[torch.Tensor]] = {name: [] for name in runners}
    for batch in feed(run.data.test, BATCH, CPU).epoch(0):
        for name, runner in runners.items():
            said[name].append(logits_from(runner, run.task.inputs(batch)).argmax(1))
    found = {name: torch.cat(each) for name, each in said.items()}
    return {n: float((own == found["student.onnx"]).float().mean()) for n, own in found.items()}


def timed(runners: dict[str, Runner], sample: Any, rounds: int) -> dict[str, float]:
    """Return the median seconds of a batch, all files in turn."""
    given = {name: runner.prepared(sample) for name, runner in runners.items()}
    spent: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, runner in runners.items():
            spent[name].append(_seconds(lambda runner=runner, name=name: runner.run(given[name])))
    return {name: statistics.median(each[2:] or each) for name, each in spent.items()}


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _alone(model: nn.Module, data: Any) -> float:
    with torch.inference_mode():
        right = model(data.test.column("inputs")).argmax(1) == data.test.column("targets")
    return float(right.float().mean())


if __name__ == "__main__":
    main()
