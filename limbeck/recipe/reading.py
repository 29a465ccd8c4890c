"""From YAML, and changes on the command line, to a recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from limbeck.errors import InputError, near, unknown
from limbeck.recipe.parts import Recipe

__all__ = ["bundled", "differences", "find", "holds_run", "load", "parse", "template"]

# What pydantic puts into a place for a branch of a union, or for a key.
_BRANCH = re.compile(r"(tuple|literal)\[.*|bool$|constrained-int$|\[key\]$")


def bundled() -> dict[str, str]:
    """Return the names of the recipes that come with Limbeck, with a line about each."""
    found = {}
    for file in sorted(files("limbeck.recipes").iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".yaml"):
            raw = _read(file.read_text(encoding="utf-8"), file.name)
            found[file.name.removesuffix(".yaml")] = str(raw.get("about", ""))
    return found


def holds_run(path: Path) -> bool:
    """Return whether a folder is a run's, finished or not."""
    return (path / "recipe.yaml").is_file()


def find(name: str) -> tuple[str, str]:
    """Return the text and the origin of a recipe: a bundled name, a file, or a run's folder."""
    path = Path(name)
    if holds_run(path):
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
    told = dict[str, str]()
    all_found = error.errors()
    places = [found["loc"] for found in all_found]
    for found in all_found:
        # The teacher inherits the student's training, and with it the student's mistakes.
        if found["loc"][:2] == ("teacher", "train") and found["loc"][1:] in places:
            continue
        place = ".".join(str(step) for step in found["loc"] if not _BRANCH.match(str(step)))
        if found["type"] == "extra_forbidden":
            known = _keys(found["loc"][:-1])
            guesses = near(str(found["loc"][-1]), known)
            hint = f"; did you mean {guesses[0]!r}?" if guesses else "."
            told[f"{place} is not a key{hint}"] = f"Known here: {', '.join(sorted(known))}"
        elif found["type"] == "missing":
            told[place] = "is missing"
        elif found["type"] == "value_error" and isinstance(found["input"], Mapping):
            told.setdefault(f"{place}:" if place else "", _plain(found["msg"]))
        else:
            said, message = f"{place} is {found['input']!r}:", _plain(found["msg"])
            if said in told:  # by another branch of what it may be
                message = f"{told[said]} or {message.removeprefix('input should be ')}"
            told[said] = message
    return InputError(f"{origin}: " + "; ".join(f"{a} {b}".strip() for a, b in told.items()))


def _plain(message: str) -> str:
    """Return what pydantic says in a recipe's words.

    >>> _plain("Input should be a valid tuple")
    'input should be a list'
    """
    text = message.removeprefix("Value error, ")
    text = re.sub(r"a valid dictionary( or instance of \w+)?", "a mapping", text)
    text = text.replace("valid tuple", "list")
    return f"{text[0].lower()}{text[1:]}"


def _keys(path: tuple[int | str, ...]) -> list[str]:
    """Return the keys of the part of a recipe that a path leads to."""
    part: type[BaseModel] = Recipe
    for step in path:
        kind = part.model_fields[str(step)].annotation if str(step) in part.model_fields else None
        for inner in (kind, *get_args(kind)):  # those of X | None and of dict[str, X] too
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                part = inner
    return list(part.model_fields)
