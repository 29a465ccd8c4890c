"""From a recipe's words to the objects of the other rooms."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck import losses, methods, tasks
from limbeck.data import Augmentation, Data, Loader, Normalize, as_samples, operation, sources
from limbeck.data.samples import seeded
from limbeck.distill import optim
from limbeck.errors import InputError, unknown
from limbeck.files import file_digest
from limbeck.imports import attribute, call_theirs, code_digest, is_path
from limbeck.knowledge import codec
from limbeck.losses import schedules
from limbeck.recipe import (
    DataPart,
    ModelPart,
    Normalization,
    Recipe,
    Steps,
    StudentPart,
    TeacherPart,
    TrainPart,
)
from limbeck.students import Blueprint, Lora, Reuse, zoo

__all__ = [
    "augmentation",
    "blueprint",
    "codecs",
    "data",
    "method",
    "model_origin",
    "preprocess",
    "task",
    "task_origin",
    "training",
]


def data(recipe: Recipe) -> Data:
    """Return the data that a recipe names.

    A source that has a parameter ``models`` gets how they are built, by role: what they read (the
    tokenizer in a model's folder, say) may depend on it.
    """
    found, keep = _all_data(recipe), recipe.data.labelled
    return found if keep is None else found.hiding(keep)


def _all_data(recipe: Recipe) -> Data:
    part = recipe.data
    if part.build is not None:
        own = part.args if part.path is None else {"path": part.path, **part.args}
        found = _as_data(call_theirs(part.build, attribute(part.build), own), part)
        return found if part.limit is None else found.limited(part.limit)
    assert part.source is not None
    source = sources.get(part.source)
    stated = _stated(part)
    _check_place(source, stated, part)
    if "models" in inspect.signature(source).parameters:
        models: dict[str, ModelPart] = {"teacher": recipe.teacher, "student": recipe.student}
        told = {"build", "args", "inputs"}
        stated["models"] = {role: model.model_dump(include=told) for role, model in models.items()}
    return source(**_accepted(source, stated, f"data source {part.source!r}"))


def task(recipe: Recipe, found: Data) -> tasks.Task:
    """Return the task, which learns from the data the classes' names and what targets may be."""
    options = dict(recipe.task)
    name = str(options.pop("name", "classification"))
    make = attribute(name) if is_path(name) else tasks.get(name)
    known: dict[str, Any] = {"classes": len(found.labels), "labels": found.labels}
    known |= found.facts.get("targets", {})
    taken = inspect.signature(make).parameters
    options = {name: fact for name, fact in known.items() if name in taken} | options
    made: tasks.Task = call_theirs(name, make, _accepted(make, options, "task"))
    return made


def task_origin(recipe: Recipe) -> dict[str, Any]:
    """Return what a task's fingerprint is made of: its arguments, and a user's code."""
    name = str(recipe.task.get("name", ""))
    return {**recipe.task, **({"code": code_digest(name)} if is_path(name) else {})}


def augmentation(steps: Steps, seed: int) -> Augmentation | None:
    """Return what happens to training images, or ``None``."""
    operations = []
    for step in steps:
        pairs = [(step, ())] if isinstance(step, str) else [(k, (v,)) for k, v in step.items()]
        operations += [operation(name, *options) for name, options in pairs]
    return Augmentation(tuple(operations), seed=seed) if operations else None


def preprocess(recipe: Recipe, part: ModelPart) -> Normalize | None:
    """Return what a model does to images first, or ``None``."""
    chosen: Normalization | None = part.normalize or recipe.data.normalize
    return Normalize(chosen.mean, chosen.std, chosen.size) if chosen else None


def blueprint(recipe: Recipe, part: ModelPart, found: Data) -> Blueprint:
    """Return how a model is built; models of the zoo get what the data knows of their inputs."""
    plan = _own_plan(recipe, part, found)
    if isinstance(part, StudentPart) and part.lora is not None:
        return replace(plan, lora=Lora(**part.lora.model_dump()))
    if not isinstance(part, StudentPart) or part.reuse_classifier is False:
        return plan
    wanted = part.reuse_classifier
    options = {} if wanted is True else wanted.model_dump()
    with seeded(0):  # models that are only looked at must not change what is drawn later
        models = plan.model(), _own_plan(recipe, recipe.teacher, found).model()
        sample = next(iter(Loader(found.train, 1)))["inputs"]
        return replace(plan, reuse=Reuse.between(*models, sample, **options))


def _own_plan(recipe: Recipe, part: ModelPart, found: Data) -> Blueprint:
    """Return how a model is built that ends in a classifier of its own."""
    if isinstance(part, StudentPart) and part.shrink is not None:
        base = _own_plan(recipe, recipe.teacher, found)
        return Blueprint(base.build, base.args, part.shrink.depth, part.shrink.width)
    if part.build is None:
        raise InputError(
            "the student is to be made from a teacher that no function builds",
            expected="teacher.build, a torch.nn.Module",
            remedy="Give the student a build of its own.",
        )
    if is_path(part.build):
        return Blueprint(part.build, part.args)
    field = part.inputs if isinstance(part, TeacherPart) else "inputs"
    known = {"classes": len(found.labels)} | _shape_facts(found, field)
    first = preprocess(recipe, part)
    if first is not None and first.size is not None and len(known.get("image", ())) == 3:
        known["image"] = [known["image"][0], first.size, first.size]
    taken = zoo.arguments(part.build)
    return Blueprint(part.build, {k: v for k, v in known.items() if k in taken} | part.args)


def _shape_facts(found: Data, field: str) -> dict[str, Any]:
    """Return what models are to know of the field that they read."""
    sample = next(iter(Loader(found.train, 1)))
    if field not in sample:
        raise unknown("field of the samples:", field, sample)
    facts = dict(found.facts.get(field, {}))
    if not isinstance(sample[field], Tensor):
        return facts
    shape = list(sample[field].shape[1:])
    features = torch.Size(shape).numel()
    channels = shape[0] if shape else 1
    return {"image": shape, "features": features, "channels_in": channels} | facts


def model_origin(plan: Blueprint, weights: Path | None) -> dict[str, Any]:
    """Return what a model's fingerprint is made of: its plan, the code and the weights' content."""
    if weights is not None and not weights.is_file():
        raise InputError(
            f"there is no file {weights}", expected="weights", remedy="Set teacher.weights."
        )
    return {
        "build": plan.build,
        "args": dict(plan.args),
        "size": [plan.depth, plan.width],
        "code": code_digest(plan.build) if is_path(plan.build) else None,
        "weights": file_digest(weights)[:16] if weights else None,
        **_files(plan),
        **({} if plan.reuse is None else {"reuse": plan.reuse.facts()}),
        **({} if plan.lora is None else {"lora": plan.lora.facts()}),
    }


def _files(plan: Blueprint) -> dict[str, Any]:
    """Return the contents of the files that a model of the zoo is made from, if any."""
    if is_path(plan.build):
        return {}
    found = {file.name: file_digest(file)[:16] for file in zoo.files(plan.build, plan.args)}
    return {"files": found} if found else {}


def method(recipe: Recipe) -> methods.Method:
    """Return the sum of a recipe's methods and matches."""
    parts = [_match(entry) if "match" in entry else _named(entry) for entry in recipe.method]
    whole = parts[0] if parts else methods.none()
    for part in parts[1:]:
        whole = whole + part
    if recipe.label_weight is not None:
        whole = whole.with_label_weight(recipe.label_weight)
    return whole


def codecs(recipe: Recipe, method: methods.Method) -> dict[str, str]:
    """Return the codec of each of the teacher's taps; parts of answers get their temperature."""
    stated = recipe.knowledge.codec
    chosen: dict[str, str] = {}
    for match in method.matches:
        for tap in match.teachers:
            name = stated if isinstance(stated, str) else stated.get(tap, "half")
            kept = codec.at(name, _temperature(match))
            if chosen.setdefault(tap, kept) != kept:
                raise InputError(
                    f"the codec {name!r} for {tap!r}, which the method compares at two "
                    f"temperatures ({chosen[tap]} and {kept})",
                    expected="one: how much mass is left out is known at that temperature alone",
                    remedy="Set knowledge.codec to half.",
                )
    unused = [] if isinstance(stated, str) else sorted(stated.keys() - chosen)
    if unused:
        raise unknown("tap of the teacher that knowledge.codec names:", unused[0], chosen)
    return chosen


def training(part: TrainPart) -> dict[str, Any]:
    """Return the arguments of :func:`limbeck.fit` that a recipe states."""
    options = part.model_dump()
    made, rates = dict(options.pop("optimizer")), dict(options.pop("schedule"))
    options["compiled"] = options.pop("compile")
    return options | {
        "optimizer": optim.optimizer(**made),
        "schedule": optim.schedule(**rates),
    }


def _named(entry: Mapping[str, Any]) -> methods.Method:
    """Return ``{name: kd, temperature: 4}``."""
    options = dict(entry)
    name = str(options.pop("name", ""))
    if not name:
        raise InputError(f"the method {entry} has no name", expected="name: kd, for example")
    if "lambda" in options:
        options["lam"] = options.pop("lambda")
    make = attribute(name) if is_path(name) else methods.get(name)
    return methods.as_method(make(**_accepted(make, options, f"method {name!r}")))


def _match(entry: Mapping[str, Any]) -> methods.Method:
    """Return ``{match: [layer2, layer2], loss: attention_transfer, weight: 1000}``.

    For a loss of several tensors, each side of ``match`` is a list.
    """
    options = dict(entry)
    taps, loss = options.pop("match"), str(options.pop("loss", ""))
    if not isinstance(taps, list) or len(taps) != 2:
        raise InputError(f"match is {taps!r}", expected="[student tap, teacher tap]")
    function = attribute(loss) if is_path(loss) else losses.get(loss)
    weight = _weight(options.pop("weight", 1.0))
    student, teacher = ([str(t) for t in s] if isinstance(s, list) else str(s) for s in taps)
    match = methods.Match(student, teacher, function, weight=weight, **options)
    return methods.as_method(match)


def _temperature(match: methods.Match) -> float:
    """Return the temperature at which a match compares; 1 if its loss has none."""
    option = inspect.signature(match.loss).parameters.get("temperature")
    usual = option.default if option is not None else 1.0
    found = match.options.get("temperature", usual)
    return float(found) if isinstance(found, (int, float)) else 1.0


def _weight(found: Any) -> float | Callable[[float], float]:
    """Return a number, or the schedule that ``{linear: [1.0, 0.0]}`` names."""
    if not isinstance(found, Mapping):
        return float(found)
    makers: dict[str, Callable[..., Callable[[float], float]]] = {
        "constant": schedules.constant,
        "cosine": schedules.cosine,
        "linear": schedules.linear,
        "warmup": schedules.warmup,
    }
    ((name, args),) = found.items()
    if name not in makers:
        raise unknown("schedule", name, makers)
    return makers[name](*(args if isinstance(args, list) else [args]))


def _stated(part: DataPart) -> dict[str, Any]:
    """Return the arguments of a source that a data part states."""
    names = ("path", "validation", "test", "seed", "limit")
    keys = {name: getattr(part, name) for name in names}
    return {name: value for name, value in keys.items() if value is not None} | part.args


def _accepted(make: Callable[..., Any], options: dict[str, Any], what: str) -> dict[str, Any]:
    """Refuse options that ``make`` does not take, and say first which ones it misses."""
    parameters = inspect.signature(make).parameters
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and name not in options
    ]
    strange = [name for name in options if name not in parameters]
    if missing:
        place = "data" if what.startswith("data") else what.split()[0]
        more = f", and has no option {', '.join(strange)}" if strange else ""
        raise InputError(
            f"the {what} needs {', '.join(missing)}{more}",
            remedy=f"Add it to the recipe, or on the command line: --set {place}.{missing[0]}=...",
        )
    for name in strange:
        raise unknown(f"option of the {what}:", name, parameters)
    return options


def _check_place(source: Callable[..., Data], stated: Mapping[str, Any], part: DataPart) -> None:
    """Say that there is nothing to read before saying how it cannot be read."""
    taken = inspect.signature(source).parameters
    if part.path is None or "path" not in taken or stated.keys() <= taken.keys():
        return  # the source knows best what should be there
    if not Path(part.path).exists():
        raise InputError(
            f"there is no file or folder {part.path}",
            expected=f"what the data source {part.source!r} reads",
            remedy="Set data.path.",
        )


def _as_data(found: Any, part: DataPart) -> Data:
    """Return what users' own functions return as data."""
    if isinstance(found, Data):
        return found
    if isinstance(found, tuple) and len(found) in (2, 3):
        names = ("train", "test") if len(found) == 2 else ("train", "validation", "test")
        found = dict(zip(names, found, strict=True))
    if not isinstance(found, Mapping) or "train" not in found:
        raise InputError(
            f"{part.build} returned a {type(found).__name__}",
            expected="limbeck.data.Data, (train, test), (train, validation, test), or a mapping "
            "with train",
        )
    labels = tuple(found.get("labels", ()))
    splits = {name: as_samples(value) for name, value in found.items() if name != "labels"}
    name = str(part.build).partition(":")[2]
    return sources.complete(
        splits,
        labels,
        name,
        validation=part.validation or 0.1,
        test=part.test or 0.2,
        seed=part.seed,
    )
