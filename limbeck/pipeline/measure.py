"""The stage that measures: all models of a run, on the test samples, once.

Letters: B samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from limbeck.data.samples import Batch, cut
from limbeck.distill.feed import feed, put
from limbeck.evaluate import Differing, Measured, costs, evaluate, layer_similarity, produce
from limbeck.evaluate.cost import Cost, timings
from limbeck.files import write_json
from limbeck.knowledge.model import call, logits_of
from limbeck.pipeline import build
from limbeck.pipeline.folder import Finished
from limbeck.pipeline.learner import Learner
from limbeck.pipeline.run import Run
from limbeck.progress import Listener
from limbeck.tasks import Producing, Telling
from limbeck.teachers import Foreign, Knowing, Teacher
from limbeck.teachers.foreign import Size

__all__ = ["measure"]

_ALIKE_SAMPLES = 256
_TOGETHER = 2**23  # numbers in one model's answers to a batch of test samples, at most


def measure(run: Run, trained: Sequence[Finished]) -> Finished:
    """Evaluate the teacher, the students and the controls; ``results.json`` holds what was found.

    Args:
        run: whose models they are.
        trained: the stages that trained them, the teacher's first.
    """
    made_from = {
        "trained": [stage.fingerprint for stage in trained],
        "data": run.data.fingerprint(),
        "evaluate": run.recipe.evaluate.model_dump(),
    }

    def work(path: Path, listener: Listener) -> str:
        learners = [Learner.of(stage) for stage in trained]
        results = _results(run, learners)
        if run.here.rank == 0:
            results["cost"] = _costs(run, learners[0])
            results["similarity"] = _similarity(run, learners)
            write_json(path / "results.json", results)
        return f"{results['samples']:,} test samples"

    return run.stage("evaluate", made_from, work)


def _results(run: Run, learners: Sequence[Learner]) -> dict[str, Any]:
    """Measure quality and fidelity in one pass over the test samples."""
    answers: dict[tuple[str, int, str], Callable[[Batch], Tensor]] = {}
    for learner in learners:
        best = _answer(run, learner, learner.best)
        answers[learner.role, learner.seed, "best"] = best
        same = learner.last is learner.best
        last = best if same else _answer(run, learner, learner.last)
        answers[learner.role, learner.seed, "last"] = last
    labels = {" ".join(map(str, key)): key for key in answers}
    examples = _Examples(run, labels, learners)
    batches = _test_batches(run, _fitting(run, learners[0]))
    found = evaluate(
        {label: answers[key] for label, key in labels.items()},
        batches,
        run.task,
        reference=answers[learners[0].role, learners[0].seed, "best"],
        watch=examples.watch,
    )
    models: dict[str, dict[str, list[Any]]] = {}
    for label, (role, seed, which) in labels.items():
        lists = models.setdefault(role, {})
        _add(lists, found[label], "" if which == "best" else "last_")
        if which == "best":
            lists.setdefault("seeds", []).append(seed)
    results = {"samples": len(run.data.test), "models": models, "examples": examples.found()}
    task: Any = run.task
    if isinstance(task, Producing):
        _add_produced(run, task, learners, results)
    return results


def _add_produced(
    run: Run, task: Producing, learners: Sequence[Learner], results: dict[str, Any]
) -> None:
    """Let the best weights of each learner produce texts; add their metrics and examples."""
    producers = {
        f"{learner.role} {learner.seed}": producer
        for learner in learners
        if (producer := _producer(run, task, learner)) is not None
    }
    found = produce(producers, _test_batches(run, 128), task, run.here.world)
    for label, judged in found.judged(task).items():
        role, _, seed = label.partition(" ")
        lists = results["models"][role]
        place = lists["seeds"].index(int(seed))
        lists["quality"][place] |= judged.metrics
        lists["details"][place] |= judged.details
    first = {label.partition(" ")[0]: label for label in reversed(producers)}
    if {"teacher", "student"} <= first.keys():
        roles = {label: role for role, label in first.items()}
        results["examples"] = found.examples(task, run.data.test, roles)
    results["produced"] = {
        "ids": found.ids, "references": found.references, "texts": dict(found.texts)
    }  # fmt: skip


def _producer(run: Run, task: Producing, learner: Learner) -> Callable[[Batch], list[str]] | None:
    """Return what gives a learner's texts for a batch; ``None`` for a teacher without a module."""
    if learner.role == "teacher":
        known = run.origin.load(learner.best, learner.record)
        if not isinstance(known, Teacher):
            return None
        teacher = known
        return lambda batch: task.produced(
            teacher.module, {**batch, "inputs": teacher.prepared(batch)}
        )
    model = _model(run, learner.best)
    return lambda batch: task.produced(model, batch)


def _test_batches(run: Run, size: int) -> Iterator[Batch]:
    """Yield the test samples, checked, on the device; with several processes a part of each."""
    here = run.here
    part: dict[str, Any] = {"rank": here.rank, "world": here.world, "ordered": True}
    batches = feed(run.data.test, size, here.device, **part)
    return (put(batch, here.device) for batch in _checked(run, batches.epoch(0)))


def _fitting(run: Run, teacher: Learner) -> int:
    """Return how many samples to measure on at once: fewer where answers are long."""
    known = run.origin.load(teacher.best, teacher.record)
    answer: Tensor = known.knowledge(_samples(run, 2), ("logits",)).logits
    return max(run.here.world, min(512, _TOGETHER // max(1, int(answer[0].numel()))))


class _Examples:
    """Collects test samples on which teacher and student differ; of the first seed's models.

    With several processes these are of the main one's part of the samples.
    """

    def __init__(
        self, run: Run, labels: Mapping[str, tuple[str, int, str]], learners: Sequence[Learner]
    ) -> None:
        first = {learner.role: learner.seed for learner in reversed(learners)}
        self.names = {
            label: role
            for label, (role, seed, which) in labels.items()
            if which == "best" and first[role] == seed
        }
        task: Any = run.task
        self.seen = Differing(task, run.data.test) if isinstance(task, Telling) else None

    def watch(self, batch: Batch, said: Mapping[str, Tensor]) -> None:
        """Look at the answers to one batch."""
        if self.seen is not None:
            self.seen.update(batch, {role: said[label] for label, role in self.names.items()})

    def found(self) -> dict[str, Any] | None:
        """Return what the page shows."""
        return None if self.seen is None else self.seen.compute()


def _add(lists: dict[str, list[Any]], found: Measured, prefix: str) -> None:
    lists.setdefault(f"{prefix}quality", []).append(dict(found.quality.metrics))
    if not prefix:
        lists.setdefault("fidelity", []).append(dict(found.fidelity))
        lists.setdefault("details", []).append(dict(found.quality.details))


def _checked(run: Run, batches: Any) -> Any:
    for found in batches:
        batch = run.task.named(found)
        run.task.check(batch)
        yield batch


def _answer(run: Run, learner: Learner, weights: dict[str, Tensor]) -> Callable[[Batch], Tensor]:
    if learner.role == "teacher":
        teacher = run.origin.load(weights, learner.record)
        return lambda batch: teacher.knowledge(batch, ("logits",)).logits
    model, first = _model(run, weights), _first(run)

    def answer(batch: Batch) -> Tensor:
        return logits_of(call(model, first(run.task.inputs(batch))))

    return answer


def _model(run: Run, weights: dict[str, Tensor] | None = None) -> nn.Module:
    """Return the student's network as it ships, in eval mode."""
    plan = run.plans["student"]
    model = replace(plan, lora=None).model() if weights is None else plan.shipped(weights)
    return model.eval().to(run.here.device)


def _first(run: Run) -> nn.Module:
    return (build.preprocess(run.recipe, run.recipe.student) or nn.Identity()).to(run.here.device)


def _costs(run: Run, teacher: Learner) -> dict[str, Any]:
    """Measure teacher and student; the control is the student's network."""
    batch, seconds = _samples(run, run.recipe.evaluate.batch_size), run.recipe.evaluate.seconds
    known = run.origin.load(teacher.best, teacher.record)
    models, own = {"student": _model(run)}, {}
    if isinstance(known, Teacher):
        own = {"teacher": known.prepared(batch)}
        models = {"teacher": known.module} | models
    inputs = _first(run)(run.task.inputs(batch))
    found = {n: c.as_json() for n, c in costs(models, inputs, own=own, seconds=seconds).items()}
    return {"teacher": _cost_outside(known, batch, seconds)} | found


def _cost_outside(known: Knowing, batch: Batch, seconds: float) -> dict[str, Any]:
    """Return what can be known of a teacher that is no PyTorch module; the rest is ``None``."""
    if isinstance(known, Teacher):
        return {}

    def ask(**batch: Any) -> Any:
        return known.knowledge(batch, ("logits",))

    one = cut(batch, slice(1))
    single, many = (
        timings({"teacher": ask}, given, seconds=seconds)["teacher"] for given in (one, batch)
    )
    size = known.size() if isinstance(known, Foreign) else Size()
    return dict.fromkeys(Cost.__dataclass_fields__) | {
        "parameters": size.parameters,
        "size_bytes": size.bytes,
        "latency_ms": {"p50": single.p50_ms, "p95": single.p95_ms},
        "throughput_per_s": many.throughput_per_s,
        "throughput_batch": many.batch_size,
    }


def _similarity(run: Run, learners: Sequence[Learner]) -> dict[str, Any]:
    """Compare layers of the teacher with those of the first student and the first control.

    A teacher that is no PyTorch module shows no layers.
    """
    known = run.origin.load(learners[0].best, learners[0].record)
    if not isinstance(known, Teacher):
        return {}
    batch = _samples(run, _ALIKE_SAMPLES)
    teacher = (known.module, known.prepared(batch))
    inputs = _first(run)(run.task.inputs(batch))
    found: dict[str, Any] = {}
    for learner in learners[1:]:
        if learner.role not in found:
            found[learner.role] = layer_similarity(teacher, (_model(run, learner.best), inputs))
    return found


def _samples(run: Run, count: int) -> Batch:
    """Return the first validation samples."""
    batches = feed(run.data.validation, count, run.here.device).epoch(0)
    found: Batch = put(run.task.named(next(batches)), run.here.device)
    return found
