"""What compression keeps and what it saves: files of a run beside the teacher's, QAT beside PTQ.

    limbeck run cifar10-int8 --set data.path=FOLDER --set teacher.weights=FILE
    python benchmarks/compress.py files runs/cifar10-int8 --threads 2
    python benchmarks/compress.py files runs/text-int8 --threads 1
    python benchmarks/compress.py ranks runs/text-int8
    python benchmarks/compress.py bits --seeds 3 [--labelled 100]

``files`` asks every ONNX and ExecuTorch file of a run, and the teacher as an ONNX file too, about
all test samples, each in its runtime, and times each beside the teacher alone, in turn. ``ranks``
says how much of what validation texts read a teacher's embeddings of low rank keep. ``bits``
rounds a tiny student of scikit-learn's digits to 8 and to 4 bits: after training, in training
without its teacher, and in training with it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
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
from limbeck.evaluate.cost import timings
from limbeck.evaluate.runtimes import Runner, logits_from, opened
from limbeck.export import Signature, Whole, get
from limbeck.pipeline import RunFolder, build, ship
from limbeck.progress import Silent
from limbeck.recipe import load
from limbeck.students.low_rank import principal
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
    one.add_argument("--seconds", type=float, default=10.0)
    one.set_defaults(work=lambda args: files(args.run, args.threads, args.seconds))
    ranks_of = parts.add_parser("ranks")
    ranks_of.add_argument("run", type=Path)
    ranks_of.set_defaults(work=lambda args: ranks(args.run))
    two = parts.add_parser("bits")
    two.add_argument("--seeds", type=int, default=3)
    two.add_argument("--epochs", type=int, default=60)
    two.add_argument("--labelled", type=int)
    two.set_defaults(work=lambda args: bits(args.seeds, args.epochs, args.labelled))
    args = parser.parse_args()
    args.work(args)


def files(folder: Path, threads: int, seconds: float) -> None:
    """Compare a run's files with its teacher's on all test samples."""
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
        paths = {"teacher.onnx": teacher}
        paths |= {path.name: path for path in sorted(found) if path.suffix in (".onnx", ".pte")}
        sizes = {name: path.stat().st_size for name, path in paths.items()}
        runners = {name: opened(path) for name, path in paths.items()}
        right, same = accuracies(runners, run.data.test, run.task), agreement(runners, run)
        del runners
        speeds = {name: speed(path, teacher, sample, seconds) for name, path in paths.items()}
    count = len(next(iter(tree_leaves(sample))))
    print(f"{len(run.data.test):,} test samples, batches of {count}, {threads} threads")
    print("| file | accuracy % | as student.onnx % | kB | smaller | per second | faster |")
    print("|---|---|---|---|---|---|---|")
    for name, size in sizes.items():
        per_second, faster = speeds[name]
        print(
            f"| {name} | {100 * right[name]:.2f} | {100 * same[name]:.2f} | {size / 1000:,.1f} | "
            f"{sizes['teacher.onnx'] / size:.1f} × | {per_second:,.0f} | {faster:.1f} × |"
        )


def speed(path: Path, teacher: Path, sample: Any, seconds: float) -> tuple[float, float]:
    """Return a file's samples per second, and how many times the teacher's those are.

    Only these two are open, for the threads of others might not be at rest.
    """
    runners = {"own": opened(path), "teacher": opened(teacher)}
    given = {name: (runner.prepared(sample),) for name, runner in runners.items()}
    calls = {name: runner.run for name, runner in runners.items()}
    found = timings(calls, None, own=given, seconds=seconds)
    own, theirs = found["own"].throughput_per_s, found["teacher"].throughput_per_s
    return own, own / theirs


def ranks(folder: Path) -> None:
    """Compare low rank by what training texts read with low rank of the table as it is."""
    run = pipeline.Run(load(str(folder)), RunFolder(folder), Silent())
    known = run.origin.load(load_file(folder / "stages/teacher/best.safetensors"), {})
    assert isinstance(known, Teacher)
    table = next(each for each in known.module.modules() if isinstance(each, nn.Embedding))
    rows = table.weight.detach().double()
    learnt, asked = (
        counted(samples, run.task, table) for samples in (run.data.train, run.data.validation)
    )
    shares = (asked / asked.sum()).unsqueeze(1)
    whole = (shares * (rows - (shares * rows).sum(dim=0)) ** 2).sum()
    print("| of the features | each token as often as it is read | all tokens alike |")
    print("|---|---|---|")
    for share in (1 / 6, 1 / 4, 1 / 3, 5 / 12, 1 / 2):
        kept = []
        for weights in (learnt + 1, None):
            mean, found = principal(rows, round(share * rows.shape[1]), weights)
            lost = rows - mean - (rows - mean) @ found @ found.T
            kept.append(float(1 - (shares * lost**2).sum() / whole))
        print(f"| {round(share * rows.shape[1])} | {100 * kept[0]:.0f} % | {100 * kept[1]:.0f} % |")


def counted(samples: Any, task: Any, table: nn.Embedding) -> torch.Tensor:
    """Return how often each token of a table stands in samples, padding left out."""
    counts = torch.zeros(len(table.weight), dtype=torch.float64)
    for batch in feed(samples, BATCH, CPU).epoch(0):
        read = task.inputs(task.named(batch))
        tokens = read["input_ids"][read["attention_mask"].bool()]
        counts += torch.bincount(tokens, minlength=len(counts))
    return counts


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


def _alone(model: nn.Module, data: Any) -> float:
    with torch.inference_mode():
        right = model(data.test.column("inputs")).argmax(1) == data.test.column("targets")
    return float(right.float().mean())


if __name__ == "__main__":
    main()
