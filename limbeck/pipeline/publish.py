"""The last stage: the student that ships, ``report.json`` and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from limbeck.files import atomically, folder_atomically, read_json, write_json
from limbeck.pipeline.folder import Finished
from limbeck.pipeline.layout import lay_out
from limbeck.pipeline.learner import Learner
from limbeck.pipeline.product import Product
from limbeck.pipeline.run import Run
from limbeck.pipeline.ship import best, student_facts
from limbeck.report import environment, render, summarise
from limbeck.students import save
from limbeck.tasks import Producing, Task

__all__ = ["publish", "rebuild_page"]


def publish(
    run: Run, trained: Sequence[Finished], measured: Finished, products: Sequence[Product] = ()
) -> None:
    """Write ``student/``, ``report.json`` and ``report.html``, and what the page shows beside it.

    The student that ships is the best of all seeds by the validation samples. What was measured of
    the files made of it goes into the card beside them.
    """
    learners = [Learner.of(stage) for stage in trained]
    results = read_json(measured.path / "results.json")
    chosen = best(run, learners)
    if run.here.rank == 0:
        _ship(run, chosen)
        cost = results["cost"]["student"]
        report = summarise(
            results,
            task=run.task.name,
            seeds=run.recipe.seeds,
            **_compared_by(run.task),
            stages=[
                {"name": stage.name, "seconds": stage.seconds, "skipped": stage.skipped}
                for stage in run.folder.finished
            ],
            machine=environment(cost["threads"], cost["device"], chosen.record["plan"]),
        )
        write_json(run.folder.path / "report.json", report)
        write_json(run.folder.path / "details.json", _details(run, learners, results, chosen))
        rebuild_page(run.folder.path)
        lay_out(run, products, report)
    run.folder.barrier()


def rebuild_page(folder: Path) -> Path:
    """Write ``report.html`` anew from what the run's folder holds, and return its path."""
    page = render(
        read_json(folder / "report.json"),
        read_json(folder / "details.json"),
        (folder / "recipe.yaml").read_text(encoding="utf-8"),
    )
    with atomically(folder / "report.html") as draft:
        draft.write_text(page, encoding="utf-8")
    return folder / "report.html"


def _compared_by(task: Any) -> dict[str, Any]:
    """Return by which metric finished models are compared, and what chose their epochs."""
    if isinstance(task, Producing) and task.headline != cast(Task, task).selection:
        chosen = {"selection": task.headline, "higher_is_better": True}
        return chosen | {"epochs_by": cast(Task, task).selection}
    return {"selection": task.selection, "higher_is_better": task.higher_is_better}


def _ship(run: Run, chosen: Learner) -> None:
    """Write the student's folder, whole or not at all."""
    plan = run.plans["student"]
    model = plan.shipped(chosen.best)
    facts = student_facts(run, chosen.seed, chosen.scores)
    with folder_atomically(run.folder.path / "student") as draft:
        save(draft, model, replace(plan, lora=None), facts, run.data.reader)


def _details(
    run: Run, learners: Sequence[Learner], results: Mapping[str, Any], chosen: Learner
) -> dict[str, Any]:
    """Return what the page shows and the report need not hold."""
    return {
        "name": run.recipe.name,
        "about": run.recipe.about,
        "data": {
            "name": run.data.name,
            "train": len(run.data.train),
            "labelled": len(run.data.labelled),
            "validation": len(run.data.validation),
            "test": len(run.data.test),
        },
        "labels": list(run.data.labels),
        "method": run.method.name,
        "matches": [repr(match) for match in run.method.matches],
        "adapters": chosen.record["adapters"],
        "shipped_seed": chosen.seed,
        "plans": {"teacher": run.origin.shown()}
        | {name: {"build": p.build, "args": dict(p.args)} for name, p in run.plans.items()},
        "training": [
            {
                "role": learner.role,
                "seed": learner.seed,
                "best_epoch": learner.record.get("best_epoch"),
                "seconds": learner.record.get("seconds"),
                "history": [epoch for epoch in learner.record["history"] if epoch["steps"]],
            }
            for learner in learners
            if learner.role != "teacher" or not run.other_tokens  # its loss is that of its tokens
        ],
        "measured": {role: found["details"] for role, found in results["models"].items()},
        "similarity": results["similarity"],
        **{name: results.get(name) for name in ("examples", "differences", "maps", "rounding")},
    }
