"""A recipe: the validated, immutable description of a run.

Recipes are YAML. User code enters as ``package.module:attribute``; nothing in a recipe is executed
otherwise. Unknown keys are errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from limbeck.errors import InputError, near, unknown

__all__ = [
    "DataPart",
    "EvaluatePart",
    "KnowledgePart",
    "ModelPart",
    "Normalization",
    "Recipe",
    "Shrink",
    "StudentPart",
    "TeacherPart",
    "TrainPart",
    "bundled",
    "differences",
    "find",
    "load",
    "parse",
    "template",
]

Auto = Literal["auto"]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Natural = Annotated[int, Field(ge=1)]
Steps = tuple[str | dict[str, int | float], ...]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Normalization(_Part):
    """(x − mean) / std per channel, for images from 0 to 1.

    Attributes:
        mean: a number for each channel.
        std: a number above 0 for each channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


class DataPart(_Part):
    """Where samples come from.

    Attributes:
        source: a source of Limbeck: ``digits``, ``parquet``, ``image_folder``, ``numpy``,
            ``huggingface``.
        build: or a function of your own, ``package.module:function``, that returns the data.
        path: the folder or file that the source reads.
        args: further arguments of the source or the function.
        validation: the fraction cut off for validation, if the source brings none.
        test: the fraction cut off for testing, if the source brings none.
        seed: of these cuts and of the augmentation.
        augment: operations on training images, in order: ``flip``, ``crop: 4``, ``cutout: 8``.
        normalize: what the student does to images first, and the teacher unless it has its own.
        limit: use at most so many training samples, and half as many for validation and for
            testing, to try things out.
    """

    source: str | None = None
    build: str | None = None
    path: Path | None = None
    args: dict[str, Any] = {}
    validation: Fraction | None = None
    test: Fraction | None = None
    seed: int = 0
    augment: Steps = ()
    normalize: Normalization | None = None
    limit: Natural | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> DataPart:
        if (self.source is None) == (self.build is None):
            raise ValueError("give either source or build")
        return self


class TrainPart(_Part):
    """How a model is trained: the arguments of :func:`limbeck.fit`.

    Attributes:
        epochs: passes over the training data.
        batch_size: samples per optimizer step, over all processes and accumulated parts.
        optimizer: ``name`` (one of ``torch.optim``) and its arguments.
        schedule: of the learning rate: ``name`` (``one_cycle``, ``cosine``, ``steps``,
            ``constant``) and its arguments.
        accumulate: parts in which a batch goes through the models.
        clip: the largest norm of the gradient.
        ema: the decay of a moving average of the weights.
        patience: stop after so many epochs without a better one.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        channels_last: ``auto``, or whether.
        compile: ``auto``, or whether.
        threads: ``auto``, or how many a processor uses.
        deterministic: only deterministic algorithms.
        trackers: ``tensorboard`` and others that Accelerate knows.
        checkpoint_seconds: how often the state is saved.
    """

    epochs: Natural = 30
    batch_size: Natural = 128
    optimizer: dict[str, Any] = {"name": "adamw", "lr": 1e-3}
    schedule: dict[str, Any] = {"name": "one_cycle"}
    accumulate: Natural = 1
    clip: Annotated[float, Field(gt=0)] | None = None
    ema: Fraction | None = None
    patience: Natural | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool | Auto = "auto"
    compile: bool | Auto = "auto"
    threads: Natural | Auto = "auto"
    deterministic: bool = False
    trackers: tuple[str, ...] = ()
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 30.0


class ModelPart(_Part):
    """A model.

    Attributes:
        build: a zoo model's name, or ``package.module:function`` that returns a module.
        args: its arguments; the zoo's also get the data's classes and image size.
        weights: a file to load: safetensors, or a checkpoint that holds nothing but tensors.
        normalize: what it does to images first, if not as the data part says.
    """

    build: str | None = None
    args: dict[str, Any] = {}
    weights: Path | None = None
    normalize: Normalization | None = None


class TeacherPart(ModelPart):
    """The teacher: given by its weights, or trained first.

    Attributes:
        train: how it is trained if it has no weights: what differs from the student's training.
        augment: what happens to images while it is trained, if not as the data part says.
    """

    build: str
    augment: Steps | None = None
    train: TrainPart = TrainPart()


class Shrink(_Part):
    """Fractions of the teacher's layers and channels (see :func:`limbeck.students.shrink`).

    Attributes:
        depth: of the layers.
        width: of the channels.
    """

    depth: Annotated[float, Field(gt=0, le=1)] = 1.0
    width: Annotated[float, Field(gt=0, le=1)] = 1.0


class StudentPart(ModelPart):
    """The student: a model of its own, or the teacher's family made smaller.

    Attributes:
        shrink: derive it from the teacher instead of ``build``.
    """

    shrink: Shrink | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> StudentPart:
        if (self.build is None) == (self.shrink is None):
            raise ValueError("give either build or shrink")
        return self


class KnowledgePart(_Part):
    """How the student gets at what the teacher knows.

    Attributes:
        store: compute it once and replay it, or run the teacher beside the student. ``auto``
            stores logits, up to 2 GiB, and runs the teacher for features.
        views: how many augmented views of each sample a store holds; epochs cycle through them.
            ``auto`` is one for each epoch, or one if there is no augmentation.
        codec: ``half`` or ``full`` precision.
        batch_size: samples that the teacher sees at once.
        rows_per_shard: samples in a file of the store.
    """

    store: bool | Auto = "auto"
    views: Natural | Auto = "auto"
    codec: str = "half"
    batch_size: Natural = 256
    rows_per_shard: Natural = 16384


class EvaluatePart(_Part):
    """What is measured at the end.

    Attributes:
        batch_size: of the throughput measurement.
        seconds: how long each model is timed.
    """

    batch_size: Natural = 128
    seconds: Annotated[float, Field(gt=0)] = 2.0


class Recipe(_Part):
    """A run from data to report.

    Attributes:
        name: of the run; its folder by default.
        about: one line for lists.
        task: ``name`` and arguments of what a batch means.
        data: where samples come from.
        teacher: who knows.
        knowledge: how the student gets at it.
        student: who learns.
        method: one method (``name`` and arguments), or several that add up; a ``match`` is one too.
        label_weight: the label's weight, if not as the method says.
        train: how the student is trained, with a teacher and without.
        control: whether the same student is also trained without a teacher.
        seeds: one student (and one control) for each.
        evaluate: what is measured.
    """

    name: str
    about: str = ""
    task: dict[str, Any] = {"name": "classification"}
    data: DataPart
    teacher: TeacherPart
    knowledge: KnowledgePart = KnowledgePart()
    student: StudentPart
    method: tuple[dict[str, Any], ...] = ({"name": "kd"},)
    label_weight: Annotated[float, Field(ge=0)] | None = None
    train: TrainPart = TrainPart()
    control: bool = True
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    evaluate: EvaluatePart = EvaluatePart()

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, raw: Any) -> Any:
        """Let one method stand without a list, and the teacher's training inherit the student's."""
        if not isinstance(raw, Mapping):
            return raw
        filled = dict(raw)
        if isinstance(filled.get("method"), Mapping):
            filled["method"] = [filled["method"]]
        teacher, train = filled.get("teacher"), filled.get("train") or {}
        if isinstance(teacher, Mapping) and isinstance(train, Mapping):
            own = teacher.get("train") or {}
            filled["teacher"] = dict(teacher) | {"train": {**train, **own}}
        return filled

    def as_yaml(self) -> str:
        """Return the recipe with everything that was left to defaults."""
        text: str = yaml.safe_dump(
            self.model_dump(mode="json"), sort_keys=False, allow_unicode=True
        )
        return text


def bundled() -> dict[str, str]:
    """Return the names of the recipes that come with Limbeck, with a line about each."""
    found = {}
    for file in sorted(files("limbeck.recipes").iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".yaml"):
            raw = _read(file.read_text(encoding="utf-8"), file.name)
            found[file.name.removesuffix(".yaml")] = str(raw.get("about", ""))
    return found


def find(name: str) -> tuple[str, str]:
    """Return the text and the origin of a recipe: a bundled name, a file, or a run's folder."""
    path = Path(name)
    if path.is_dir() and (path / "recipe.yaml").is_file():
        path = path / "recipe.yaml"
    if path.suffix in (".yaml", ".yml"):
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the recipe {path} could not be read: {error}") from error
    resource = files("limbeck.recipes") / f"{name}.yaml"
    if not resource.is_file():
        raise unknown(
            "recipe",
            name,
            bundled(),
            remedy="Or give a file that ends in .yaml, or a run's folder.",
        )
    return resource.read_text(encoding="utf-8"), name


def template(name: str) -> str:
    """Return a commented recipe to start from."""
    text = (files("limbeck.recipes") / "template.txt").read_text(encoding="utf-8")
    return text.replace("NAME", name)


def load(name: str, changes: Sequence[str] = ()) -> Recipe:
    """Return a recipe with changes.

    Args:
        name: a bundled recipe, a YAML file, or the folder of a run.
        changes: ``path.to.key=value`` each, the value in YAML.

    Raises:
        InputError: no such recipe, not YAML, an unknown key, or a value of the wrong type.

    >>> load("digits", ["method.temperature=2", "seeds=[0]"]).method[0]["temperature"]
    2
    """
    text, origin = find(name)
    raw = _read(text, origin)
    for change in changes:
        _change(raw, change)
    return parse(raw, origin)


def parse(raw: Mapping[str, Any], origin: str = "the recipe") -> Recipe:
    """Return the recipe that a mapping describes."""
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise _explained(error, origin) from None


def differences(first: Recipe, second: Recipe) -> list[str]:
    """Return where two recipes differ, as ``path: first → second``."""
    one, two = (_flat(recipe.model_dump(mode="json")) for recipe in (first, second))
    return [
        f"{path}: {one.get(path)} → {two.get(path)}"
        for path in dict.fromkeys([*one, *two])
        if one.get(path) != two.get(path)
    ]


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        parts = ((f"{path}.{key}" if path else key, inner) for key, inner in value.items())
    elif isinstance(value, list) and value:
        parts = ((f"{path}.{number}", inner) for number, inner in enumerate(value))
    else:
        return {path: value}
    return {key: leaf for name, inner in parts for key, leaf in _flat(inner, name).items()}


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number and a key may not stand twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        twice = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {twice!r} stands twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+"),
    list("-+0123456789."),
)


def _read(text: str, origin: str) -> dict[str, Any]:
    try:
        raw = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise InputError(f"{origin} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise InputError(f"{origin} holds a {type(raw).__name__}", expected="a mapping")
    return raw


def _change(raw: dict[str, Any], change: str) -> None:
    """Apply one ``path=value``."""
    path, equals, value = change.partition("=")
    if not equals or not path:
        raise InputError(f"--set {change}", expected="path.to.key=value")
    *parents, last = path.split(".")
    place: Any = raw
    for step in parents:
        if isinstance(place, list):
            place = place[_index(step, place, path)]
            continue
        if not isinstance(place.get(step), (dict, list)):
            place[step] = {}
        place = place[step]
    try:
        parsed = yaml.load(value, _Loader)
    except yaml.YAMLError as error:
        raise InputError(f"--set {change}: {value!r} is not valid YAML") from error
    if isinstance(place, list):
        place[_index(last, place, path)] = parsed
    else:
        place[last] = parsed


def _index(step: str, place: list[Any], path: str) -> int:
    if not step.isdigit() or int(step) >= len(place):
        raise InputError(f"--set {path}: {step!r}", expected=f"a number below {len(place)}")
    return int(step)


def _explained(error: ValidationError, origin: str) -> InputError:
    """Turn pydantic's findings into one message."""
    told = []
    all_found = error.errors()
    places = [found["loc"] for found in all_found]
    for found in all_found:
        # The teacher inherits the student's training, and with it the student's mistakes.
        if found["loc"][:2] == ("teacher", "train") and found["loc"][1:] in places:
            continue
        place = ".".join(str(step) for step in found["loc"])
        if found["type"] == "extra_forbidden":
            known = _keys(found["loc"][:-1])
            guesses = near(str(found["loc"][-1]), known)
            hint = f"; did you mean {guesses[0]!r}?" if guesses else ""
            told.append(f"{place} is not a key{hint} Known here: {', '.join(sorted(known))}")
        elif found["type"] == "missing":
            told.append(f"{place} is missing")
        else:
            message = str(found["msg"]).removeprefix("Value error, ")
            told.append(f"{place} is {found['input']!r}: {message[0].lower()}{message[1:]}")
    return InputError(f"{origin}: " + "; ".join(told))


def _keys(path: tuple[int | str, ...]) -> list[str]:
    """Return the keys of the part of a recipe that a path leads to."""
    part: type[BaseModel] = Recipe
    for step in path:
        inner = part.model_fields[str(step)].annotation if str(step) in part.model_fields else None
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            part = inner
    return list(part.model_fields)
