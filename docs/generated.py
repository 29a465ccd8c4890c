"""Parts of the reference that are made from the code, so that they cannot differ from it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from docstrings import as_markdown
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from limbeck import data, losses, methods, recipe, students
from limbeck.cli import app
from limbeck.distill import optim

__all__ = [
    "commands",
    "losses_table",
    "methods_table",
    "recipe_keys",
    "schedules_table",
    "sources_table",
    "template",
    "zoo_table",
]

_TOLD = ("summary", "needs", "cost", "source")
_PARTS: dict[str, tuple[str, type[BaseModel]]] = {
    "Recipe": ("The recipe", recipe.Recipe),
    "DataPart": ("data", recipe.DataPart),
    "TeacherPart": ("teacher", recipe.TeacherPart),
    "KnowledgePart": ("knowledge", recipe.KnowledgePart),
    "StudentPart": ("student", recipe.StudentPart),
    "TrainPart": ("train", recipe.TrainPart),
    "CompressPart": ("compress", recipe.CompressPart),
    "PrunePart": ("prune", recipe.PrunePart),
    "QuantizePart": ("quantize", recipe.QuantizePart),
    "ExportPart": ("export", recipe.ExportPart),
    "EvaluatePart": ("evaluate", recipe.EvaluatePart),
    "Normalization": ("normalize", recipe.Normalization),
    "Shrink": ("shrink", recipe.Shrink),
    "LoraPart": ("lora", recipe.LoraPart),
    "OnPolicyPart": ("on_policy", recipe.OnPolicyPart),
}


def recipe_keys() -> str:
    """Return a section for each part of a recipe: its keys, their types and defaults."""
    return "\n\n".join(_part(title, part) for title, part in _PARTS.values())


def template() -> str:
    """Return the commented recipe that ``limbeck init`` writes."""
    return f'```yaml title="my.yaml"\n{recipe.template("my")}```'


def methods_table() -> str:
    """Return every method with its arguments, family by family."""
    families: dict[str, list[tuple[str, ...]]] = {}
    for name, entry in methods.catalogue().items():
        link = f"[`{name}`][limbeck.methods.{name}]"
        row = (link, _arguments(methods.get(name)), *(str(entry[k]) for k in _TOLD))
        families.setdefault(str(entry["family"]), []).append(row)
    head = ("name", "arguments and defaults", "what it does", "needs", "cost", "source")
    tables = [f"**{family}**\n\n{_table(head, rows)}" for family, rows in families.items()]
    return "\n\n".join(tables)


def losses_table() -> str:
    """Return every loss with its options, family by family."""
    families: dict[str, list[tuple[str, ...]]] = {}
    for name in losses.names():
        loss, spec = losses.get(name), losses.spec_of(losses.get(name))
        told = (inspect.getdoc(loss) or "").partition("\n")[0]
        options = _arguments(loss, without=("student", "teacher", "mask", "reduction"))
        row = (f"[`{name}`][limbeck.losses.{name}]", options, told, spec.source)
        families.setdefault(spec.family, []).append(row)
    head = ("name", "options and defaults", "what it compares", "source")
    tables = [f"**{family}**\n\n{_table(head, rows)}" for family, rows in families.items()]
    return "\n\n".join(tables)


def sources_table() -> str:
    """Return every source of data with its arguments."""
    return _functions(
        {name: data.sources.get(name) for name in data.sources.names()}, "data.sources"
    )


def schedules_table() -> str:
    """Return every schedule of the learning rate with its arguments."""
    known = {name: getattr(optim, name) for name in ("constant", "cosine", "one_cycle", "steps")}
    return _functions(known, "distill.optim")


def zoo_table() -> str:
    """Return every model of the zoo with its size for CIFAR-10, 8,000 tokens, or 8,000 Hz."""
    rows = []
    for name in students.zoo.names():
        given = {"resnet": {"depth": 20}, "wide_resnet": {"depth": 16, "width": 2}}.get(name, {})
        given |= {"features": 3072} if name in ("mlp", "soft_tree") else {}
        given |= {"convs": (1, 1, 1, 1, 1)} if name == "vgg" else {}
        usual = {"vocab": 8000, "rate": 8000, "start": 1, "end": 2}
        known = students.zoo.arguments(name)
        given |= {k: usual[k] for k in usual if k in known}
        if name == "huggingface":
            takes = "`path` or `config`, `positions`, `classes`, entries of the configuration"
            rows.append((f"`{name}`", takes, "as its folder says"))
            continue
        if name == "frames":
            takes = "`model`, `args`, `image`, `channels_in`, `classes`"
            rows.append((f"`{name}`", takes, "those of its `model`"))
            continue
        if name in ("timm", "torchvision"):
            takes = "`name`, `classes`, settings of the library"
            rows.append((f"`{name}`", takes, "as the library has it"))
            continue
        ended = {"classes": 10} if "classes" in known else {}
        model = students.zoo.build(name, **ended, **given)
        size = sum(p.numel() for p in model.parameters())
        shown = ", ".join(f"`{key}={value}`" for key, value in given.items())
        takes = ", ".join(f"`{key}`" for key in known)
        rows.append((f"`{name}`", takes, f"{size:,}" + f" ({shown})" * bool(shown)))
    return _table(("name", "arguments", "parameters, 10 classes"), rows)


def commands() -> str:
    """Return a section for each command."""
    return "\n\n".join(_command(*found) for found in _commands().items())


def _commands() -> Mapping[str, Any]:
    """Return the commands by name, those of a group as GROUP NAME."""
    found: dict[str, Any] = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        group = isinstance(command, typer.core.TyperGroup)
        inner = {f"{name} {n}": c for n, c in command.commands.items()} if group else {}
        found |= inner or {name: command}
    return found


def _command(name: str, command: Any) -> str:
    told, rows, words = [str(command.help)], [], [f"limbeck {name}"]
    for given in command.params:
        flag, word = given.opts[0], given.name.upper()
        if not flag.startswith("-"):
            words.append(word if given.required else f"[{word}]")
            rows.append((f"`{word}`", given.help))
            continue
        value = "" if given.is_flag else f" {given.metavar or word}"
        more = " Can be given several times." if given.multiple else ""
        rows.append((f"`{flag}{value}`", f"{given.help}{more}"))
    if any(row[0].startswith("`--") for row in rows):
        words.append("[OPTIONS]")
    parts = [f"## {name}", *told, f"```text\n{' '.join(words)}\n```"]
    return "\n\n".join([*parts, _table(("argument or option", ""), rows)] if rows else parts)


def _part(title: str, part: type[BaseModel]) -> str:
    """Return the section of one part."""
    about, told = _docstring(part)
    rows = [
        (f"`{name}`", _type(field.annotation, field.metadata), _default(field), told.get(name, ""))
        for name, field in part.model_fields.items()
    ]
    heading = f"## {title}" if part is recipe.Recipe else f"## `{title}` {{ #{title} }}"
    return f"{heading}\n\n{about}\n\n{_table(('key', 'type', 'default', 'meaning'), rows)}"


def _docstring(part: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """Return what a part's docstring says of it, and of each key; parents' keys included."""
    told: dict[str, str] = {}
    for kind in reversed(part.__mro__):
        text = inspect.cleandoc(kind.__doc__ or "") if issubclass(kind, BaseModel) else ""
        _, _, keys = text.partition("Attributes:\n")
        for entry in re.split(r"\n(?=    \w)", f"\n{keys}")[1:]:
            name, _, meaning = entry.strip().partition(": ")
            told[name] = as_markdown(" ".join(meaning.split()))
    about = inspect.cleandoc(part.__doc__ or "").partition("Attributes:")[0].strip()
    return as_markdown(about), told


def _type(kind: Any, limits: Any = ()) -> str:
    """Say a type in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _type(inner[0], inner[1:])
    if origin in (Union, UnionType):
        parts = [_type(one, limits) for one in inner if one is not NoneType]
        return " or ".join(dict.fromkeys(parts))
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin is tuple:
        least = "".join(", not empty" for limit in limits if hasattr(limit, "min_length"))
        return "list of " + re.sub(r"(mapping|number|text)\b", r"\1s", _type(inner[0])) + least
    name = getattr(kind, "__name__", "")
    if name in _PARTS:
        return f"[{_PARTS[name][0]}](#{_PARTS[name][0]})"
    plain = {
        bool: "`true` or `false`", dict: "mapping", float: "number", int: "whole number",
        str: "text",
    }  # fmt: skip
    return plain.get(origin or kind, "path" if name == "Path" else name) + _limits(limits)


def _limits(found: Any) -> str:
    """Say the limits of a number."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    told = [
        f"{word} {getattr(limit, key):g}"
        for whole in found
        for limit in getattr(whole, "metadata", None) or [whole]
        for key, word in words.items()
        if hasattr(limit, key) and getattr(limit, key) is not None
    ]
    return "".join(f", {text}" for text in dict.fromkeys(told))


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is PydanticUndefined or value in (None, ""):
        return "—"
    return "its defaults" if isinstance(value, BaseModel) else f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    """Write a value as one would in a recipe."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_yaml(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_yaml, value))}]"
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else f"{value}"


def _functions(known: Mapping[str, Callable[..., Any]], where: str) -> str:
    rows = [
        (
            f"[`{name}`][limbeck.{where}.{name}]",
            _arguments(function),
            (inspect.getdoc(function) or "").partition("\n")[0],
        )
        for name, function in known.items()
    ]
    return _table(("name", "arguments and defaults", "what it does"), rows)


def _arguments(function: Callable[..., Any], without: tuple[str, ...] = ()) -> str:
    """Return a function's parameters as a recipe would give them; λ is ``lambda`` there."""

    def each() -> Iterator[str]:
        for name, parameter in inspect.signature(function).parameters.items():
            if name not in without:
                shown = "lambda" if name == "lam" else name
                default = "" if parameter.default is parameter.empty else _yaml(parameter.default)
                yield f"`{shown}: {default}`" if default else f"`{shown}`"

    return ", ".join(each()) or "none"


def _table(heads: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
