"""The stage that measures: all models of a run, on the test samples, once.

Letters: B samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from torch import Tensor, nn

from limbeck.data.samples import Batch
from limbeck.data.splits import some
from limbeck.distill.feed import feed, put
from limbeck.evaluate import (
    Contender,
    Measured,
    costs,
    evaluate,
    layer_similarity,
    produce,
    taught,
)
from limbeck.evaluate.runtimes import Network, Runner, logits_from
from limbeck.files import write_json
from limbeck.knowledge.model import call, logits_of
from limbeck.pipeline import build
from limbeck.pipeline.folder import Finished
from limbeck.pipeline.inside import Differences, Seeing, maps, rounding, show_what_counts
from limbeck.pipeline.learner import Learner
from limbeck.pipeline.product import Product
from limbeck.pipeline.run import Run
from limbeck.pipeline.ship import shipped
from limbeck.progress import Listener
from limbeck.tasks import Producing
from limbeck.teachers import Foreign, Knowing, Teacher
from limbeck.teachers.foreign import Size

if TYPE_CHECKING:
    from limbeck.pipeline.walk import Made

__all__ = ["contenders", "measure"]

_ALIKE_SAMPLES = 256
_TOGETHER = 2**23  # numbers in one model's answers to a batch of test samples, at most


def measure(run: Run, trained: Sequence[Finished], products: Sequence[Product] = ()) -> Finished:
    """Evaluate the teacher, the students and the controls; ``results.json`` holds what was found.

    Args:
        run: whose models they are.
        trained: the stages that trained them, the teacher's first.
        products: what else was made of the student that ships.
    """
    made_from: dict[str, Any] = {
        "trained": [stage.fingerprint for stage in trained],
        "data": run.data.fingerprint(),
        "evaluate": run.recipe.evaluate.model_dump(),
    }
    if not run.recipe.teacher.answers:
        made_from["answers"] = False
    if products:
        made_from["products"] = [[made.name, made.stage.fingerprint] for made in products]

    def work(path: Path, listener: Listener) -> str:
        learners = [Learner.of(stage) for stage in trained]
        teacher = run.origin.load(learners[0].best, learners[0].record)
        results = _results(run, learners, teacher, products)
        if run.here.rank == 0:
            results["cost"] = _costs(run, teacher, [shipped(run, trained), *products])
            results["similarity"] = _similarity(run, learners, teacher)
            results |= _seen_inside(run, learners, teacher, results["examples"])
            results["rounding"] = rounding(run, products)
            write_json(path / "results.json", results)
        return f"{results['samples']:,} test samples"

    return run.stage("evaluate", made_from, work)


def _results(
    run: Run, learners: Sequence[Learner], teacher: Knowing, products: Sequence[Product]
) -> dict[str, Any]:
    """Measure quality and fidelity in one pass over the test samples."""

    def answer(learner: Learner, weights: dict[str, Tensor]) -> Callable[[Batch], Tensor]:
        if learner.role != "teacher":
            return _student_says(run, weights)
        same = weights is learner.best
        return _teacher_says(teacher if same else run.origin.load(weights, learner.record))

    answers: dict[tuple[str, int, str], Callable[[Batch], Tensor]] = {}
    speaks = run.comparable
    for learner in learners if speaks else learners[1:]:
        best = answer(learner, learner.best)
        answers[learner.role, learner.seed, "best"] = best
        same = learner.last is learner.best
        last = best if same else answer(learner, learner.last)
        answers[learner.role, learner.seed, "last"] = last
    for made in products:
        answers[made.name, made.seed, "best"] = _product_says(run, made)
    labels = {" ".join(map(str, key)): key for key in answers}
    differences = Differences(run, labels, learners)
    batches = _test_batches(run, _fitting(run, teacher))
    found = evaluate(
        {label: answers[key] for label, key in labels.items()},
        batches,
        run.task,
        reference=answers[learners[0].role, learners[0].seed, "best"] if speaks else None,
        watch=differences.watch,
    )
    models: dict[str, dict[str, Any]] = {}
    if not speaks:  # what it answers is about something else
        models["teacher"] = {"quality": [], "fidelity": [], "details": [], "seeds": []}
    for label, (role, seed, which) in labels.items():
        lists = models.setdefault(role, {})
        _add(lists, found[label], "" if which == "best" else "last_")
        if which == "best":
            lists.setdefault("seeds", []).append(seed)
    for made in products:
        models[made.name] |= {"role": made.role, "note": made.note}
    results = {"samples": len(run.data.test), "models": models, **differences.found()}
    task: Any = run.task
    if isinstance(task, Producing):
        _add_produced(run, task, learners, teacher, results)
    return results


def _add_produced(
    run: Run,
    task: Producing,
    learners: Sequence[Learner],
    teacher: Knowing,
    results: dict[str, Any],
) -> None:
    """Let the best weights of each learner produce texts; add their metrics and examples."""
    producers = {
        f"{learner.role} {learner.seed}": producer
        for learner in learners
        if (producer := _producer(run, task, learner, teacher)) is not None
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


def _producer(
    run: Run, task: Producing, learner: Learner, teacher: Knowing
) -> Callable[[Batch], list[str]] | None:
    """Return what gives a learner's texts for a batch; ``None`` for a teacher without a module."""
    if learner.role == "teacher":
        if not isinstance(teacher, Teacher) or not run.comparable:
            return None
        return partial(taught, task, teacher)
    model = _model(run, learner.best)
    return lambda batch: task.produced(model, batch)


def _test_batches(run: Run, size: int) -> Iterator[Batch]:
    """Yield the test samples, checked, on the device; with several processes a part of each."""
    here = run.here
    part: dict[str, Any] = {"rank": here.rank, "world": here.world, "ordered": True}
    batches = feed(run.data.test, size, here.device, **part)
    return (put(batch, here.device) for batch in _checked(run, batches.epoch(0)))


def _fitting(run: Run, teacher: Knowing) -> int:
    """Return how many samples to measure on at once: fewer where answers are long."""
    answer = _teacher_says(teacher)(_samples(run, 2))
    return max(run.here.world, min(512, _TOGETHER // max(1, int(answer[0].numel()))))


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


def _teacher_says(teacher: Knowing) -> Callable[[Batch], Tensor]:
    """Return what gives a teacher's logits for a batch."""
    return lambda batch: teacher.knowledge(batch, ("logits",)).logits


def _student_says(run: Run, weights: dict[str, Tensor]) -> Callable[[Batch], Tensor]:
    """Return what gives the logits of a student or a control for a batch."""
    model, first = _model(run, weights), _first(run)

    def answer(batch: Batch) -> Tensor:
        return logits_of(call(model, first(run.task.inputs(batch))))

    return answer


def _product_says(run: Run, made: Product) -> Callable[[Batch], Tensor]:
    """Return what gives a finished model's logits for a batch, in its own runtime."""
    runner = made.opened()
    return lambda batch: logits_from(runner, run.task.inputs(batch))


def _model(run: Run, weights: dict[str, Tensor]) -> nn.Module:
    """Return the student's network as it ships, in eval mode."""
    return run.plans["student"].shipped(weights).eval().to(run.here.device)


def _first(run: Run) -> nn.Module:
    return (build.preprocess(run.recipe, run.recipe.student) or nn.Identity()).to(run.here.device)


def contenders(made: Made, batch: int) -> dict[str, Contender]:
    """Return the models of a finished run, with validation samples as each takes them.

    Args:
        made: what the run made.
        batch: how many samples.
    """
    run, samples = made.run, _samples(made.run, batch)
    assert made.student is not None
    found = _runners(run, made.teacher(), samples, [made.student, *made.products])
    files = {each.name: each.file for each in made.products}
    told = "validation samples"
    return {n: Contender(*each, told, files.get(n)) for n, each in found.items()}


def _runners(
    run: Run, teacher: Knowing, batch: Batch, products: Sequence[Product]
) -> dict[str, tuple[Runner, Any]]:
    """Return the teacher and finished models, each with its inputs for a batch."""
    inputs = run.task.inputs(batch)
    found: dict[str, tuple[Runner, Any]] = {"teacher": (_Elsewhere(teacher), batch)}
    if isinstance(teacher, Teacher):
        found["teacher"] = (Network(teacher.module), teacher.prepared(batch))
    return found | {made.name: (made.opened(), inputs) for made in products}


def _costs(run: Run, teacher: Knowing, products: Sequence[Product]) -> dict[str, Any]:
    """Measure the teacher and finished models; the control is the student's network."""
    batch, seconds = _samples(run, run.recipe.evaluate.batch_size), run.recipe.evaluate.seconds
    models = _runners(run, teacher, batch, products)
    runners = {name: runner for name, (runner, _) in models.items()}
    own = {name: given for name, (_, given) in models.items()}
    found = costs(runners, None, own=own, seconds=seconds)
    return {name: cost.as_json() for name, cost in found.items()}


@final
class _Elsewhere:
    """A teacher that is no PyTorch module, asked for a batch; little is known of what it costs."""

    def __init__(self, known: Knowing) -> None:
        self.known = known
        self.runtime = known.model.name if isinstance(known, Foreign) else type(known).__name__
        self.threads = None
        self.facts: Mapping[str, Any] = {}

    def prepared(self, inputs: Any) -> Any:
        return inputs

    def run(self, prepared: Any) -> Any:
        return self.known.knowledge(prepared, ("logits",))

    def size(self) -> Size:
        return self.known.size() if isinstance(self.known, Foreign) else Size()


def _similarity(run: Run, learners: Sequence[Learner], teacher: Knowing) -> dict[str, Any]:
    """Compare layers of the teacher with those of the first student and the first control.

    A teacher that is no PyTorch module shows no layers.
    """
    if not isinstance(teacher, Teacher):
        return {}
    batch = _samples(run, _ALIKE_SAMPLES)
    larger = (teacher.module, teacher.prepared(batch))
    inputs = _first(run)(run.task.inputs(batch))
    found: dict[str, Any] = {}
    for learner in learners[1:]:
        if learner.role not in found:
            found[learner.role] = layer_similarity(larger, (_model(run, learner.best), inputs))
    return found


def _seen_inside(
    run: Run, learners: Sequence[Learner], teacher: Knowing, examples: dict[str, Any] | None
) -> dict[str, Any]:
    """Show on what the answers of teacher and first student rest, and return their maps."""
    best = next(learner.best for learner in learners if learner.role == "student")
    larger = Seeing.teacher(run, teacher)
    smaller = Seeing.student(run, _model(run, best), _first(run))
    show_what_counts(run, {"teacher": larger, "student": smaller}, examples)
    return {"maps": maps(run, larger, smaller)}


def _samples(run: Run, count: int) -> Batch:
    """Return some validation samples."""
    batches = feed(some(run.data.validation, count), count, run.here.device).epoch(0)
    found: Batch = put(run.task.named(next(batches)), run.here.device)
    return found
