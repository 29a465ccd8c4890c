"""The stage that measures: all models of a run, on the test samples, once.

Letters: B samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from limbeck.data.samples import Batch
from limbeck.distill.feed import feed, put
from limbeck.evaluate import Measured, costs, evaluate, layer_similarity
from limbeck.files import write_json
from limbeck.knowledge.model import call, logits_of
from limbeck.pipeline import build
from limbeck.pipeline.folder import Finished
from limbeck.pipeline.run import Learner, Run
from limbeck.progress import Listener
from limbeck.recipe import ModelPart

__all__ = ["measure"]

_ALIKE_SAMPLES = 256


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
        learners = [run.learner(stage) for stage in trained]
        results = _results(run, learners)
        if run.here.rank == 0:
            results["cost"] = _costs(run)
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
    batches = feed(run.data.test, 512, run.here.device, rank=run.here.rank, world=run.here.world)
    found = evaluate(
        {label: answers[key] for label, key in labels.items()},
        (put(batch, run.here.device) for batch in _checked(run, batches.epoch(0))),
        run.task,
        reference=answers[learners[0].role, learners[0].seed, "best"],
    )
    models: dict[str, dict[str, list[Any]]] = {}
    for label, (role, seed, which) in labels.items():
        lists = models.setdefault(role, {})
        _add(lists, found[label], "" if which == "best" else "last_")
        if which == "best":
            lists.setdefault("seeds", []).append(seed)
    return {"samples": len(run.data.test), "models": models}


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
    model, first = _model(run, learner.role, weights), _first(run, learner.role)

    def answer(batch: Batch) -> Tensor:
        return logits_of(call(model, first(run.task.inputs(batch))))

    return answer


def _model(run: Run, role: str, weights: dict[str, Tensor] | None = None) -> nn.Module:
    model = run.plans["teacher" if role == "teacher" else "student"].model()
    if weights is not None:
        model.load_state_dict(weights)
    return model.eval().to(run.here.device)


def _first(run: Run, role: str) -> nn.Module:
    recipe = run.recipe
    part: ModelPart = recipe.teacher if role == "teacher" else recipe.student
    return (build.preprocess(recipe, part) or nn.Identity()).to(run.here.device)


def _costs(run: Run) -> dict[str, Any]:
    """Measure teacher and student; the control is the student's network."""
    models = {role: _model(run, role) for role in ("teacher", "student")}
    inputs = _first(run, "student")(_samples(run, run.recipe.evaluate.batch_size))
    found = costs(models, inputs, seconds=run.recipe.evaluate.seconds)
    return {role: cost.as_json() for role, cost in found.items()}


def _similarity(run: Run, learners: Sequence[Learner]) -> dict[str, Any]:
    """Compare layers of the teacher with those of the first student and the first control."""
    inputs = _samples(run, _ALIKE_SAMPLES)
    teacher = (
        _model(run, "teacher", learners[0].best),
        _first(run, "teacher")(inputs),
    )
    found: dict[str, Any] = {}
    for learner in learners[1:]:
        if learner.role not in found:
            other = (_model(run, learner.role, learner.best), _first(run, learner.role)(inputs))
            found[learner.role] = layer_similarity(teacher, other)
    return found


def _samples(run: Run, count: int) -> Any:
    """Return the inputs of the first validation samples."""
    batches = feed(run.data.validation, count, run.here.device).epoch(0)
    return run.task.inputs(put(run.task.named(next(batches)), run.here.device))
